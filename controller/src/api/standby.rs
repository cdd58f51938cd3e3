//! What the management port of a controller answers that does not lead: that it is well, and that another works.

use std::net::SocketAddr;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::net::TcpListener;

use super::probes::answer_probes;

/// Answers probes until it is dropped, which gives the address free.
///
/// # Errors
/// When the address is taken.
pub async fn standby(listen: SocketAddr) -> Result<impl Future<Output = ()> + Send, super::Error> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| super::Error::Listen { address: listen, source })?;
    Ok(answer_probes(listener, answer))
}

fn answer(path: &str) -> Response {
    match path {
        "/healthz" | "/readyz" | "/livez" => "ok: standing by\n".into_response(),
        "/metrics" => "".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "another controller leads\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_standby_is_well_and_sends_nobody_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_probes(listener, answer));
        for (path, expected) in [("/healthz", "HTTP/1.1 200"), ("/bundles/x", "HTTP/1.1 503")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
