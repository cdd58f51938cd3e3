//! A call by the management API: through the gateway's own door, so that it is a call as any other.

use axum::body::Body;
use hearth_function::FunctionId;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::ports;

/// Calls a Function at the path that every Function has.
pub(super) async fn invoke(
    gateway: &str,
    function: &FunctionId,
    mut request: http::Request<Body>,
) -> Result<http::Response<Body>, ports::Error> {
    let unavailable = |what: &'static str| {
        move |error: &dyn std::error::Error| ports::Error::Unavailable(format!("{what}: {error}"))
    };
    let tail = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let target = format!("/function/{function}{tail}");
    *request.uri_mut() =
        target.parse().map_err(|error| ports::Error::Invalid(format!("{target} is no path: {error}")))?;
    if let Ok(host) = http::HeaderValue::from_str(gateway) {
        request.headers_mut().entry(http::header::HOST).or_insert(host);
    }
    let stream = TcpStream::connect(gateway)
        .await
        .map_err(|error| unavailable("the gateway does not take connections")(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unavailable("the gateway did not answer")(&error))?;
    // The connection is driven by whoever reads the answer: it lives as long as the answer's body, and ends with it.
    let mut connection = Box::pin(connection);
    let answer = {
        let mut sending = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            answer = &mut sending => answer,
            ended = &mut connection => match ended {
                Ok(()) => sending.await,
                Err(error) => return Err(unavailable("the gateway closed the connection")(&error)),
            },
        }
    };
    let answer = answer.map_err(|error| unavailable("the gateway did not answer")(&error))?;
    let (head, body) = answer.into_parts();
    Ok(http::Response::from_parts(
        head,
        Body::new(Driven { body, connection: Some(connection), _sender: sender }),
    ))
}

type Connection = hyper::client::conn::http1::Connection<TokioIo<TcpStream>, Body>;

/// A body together with the connection that it comes over.
struct Driven {
    body: hyper::body::Incoming,
    connection: Option<std::pin::Pin<Box<Connection>>>,
    _sender: hyper::client::conn::http1::SendRequest<Body>,
}

impl http_body::Body for Driven {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Some(connection) = &mut this.connection
            && connection.as_mut().poll(context).is_ready()
        {
            // Ended, in good order or not: the body knows.
            this.connection = None;
        }
        std::pin::Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
