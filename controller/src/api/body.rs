//! Request bodies: bounded in size and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::failure::Failure;

/// Largest object that is taken. As in Kubernetes' API server.
pub(super) const MAX_OBJECT_BYTES: u64 = 3 << 20;

/// Longest silence in the middle of a body.
const SILENCE: Duration = Duration::from_secs(30);

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// When the client is silent for too long or breaks off.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| Failure::too_slow())?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Failure::bad_request("the request body broke off")),
            Some(Ok(frame)) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The whole body of an object's request.
///
/// # Errors
/// When it is larger than [`MAX_OBJECT_BYTES`], or as [`next`].
pub(super) async fn object(mut body: Body) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(data) = next(&mut body).await? {
        if (whole.len() + data.len()) as u64 > MAX_OBJECT_BYTES {
            return Err(Failure::too_large(MAX_OBJECT_BYTES));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let fits = vec![b'x'; usize::try_from(MAX_OBJECT_BYTES).unwrap()];
        assert_eq!(object(Body::from(fits.clone())).await.map(|body| body.len()), Ok(fits.len()));
        let refused = object(Body::from([fits, vec![b'x']].concat())).await.unwrap_err();
        assert_eq!(refused.code().as_u16(), 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_is_cut_off() {
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(object(silent).await.unwrap_err().code().as_u16(), 408);
    }
}
