//! Probes by plain HTTP, and nothing else: what answers the management port of a process that has no management API, or none yet.
//!
//! Everybody reaches it, functions' code among them. A connection has its time, and a newcomer takes the place of the one that stays longest: a
//! kubelet, which is quick, always finds one.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::door::Passing;

/// For a request and its whole answer. Probes are quick, and so is who reads metrics.
pub(super) const WHOLE: Duration = Duration::from_secs(10);

/// Connections at once; probes need two.
const MOST: usize = 64;

/// Those of one address.
const MOST_OF_ONE: usize = 8;

/// After a failed `accept`.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers requests by their path, one for each connection, for ever.
pub async fn answer_probes<A>(listener: TcpListener, answer: A)
where
    A: Fn(&str) -> Response + Clone + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    let mut passing = Passing::new(MOST, MOST_OF_ONE);
    loop {
        // Both are cancel-safe.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let answer = answer.clone();
                    let serving = connections.spawn(answer_one(stream, move |request: &Request<Incoming>| answer(request.uri().path())));
                    if let Some(longest) = passing.welcome(peer.ip().to_canonical(), serving) {
                        longest.abort();
                    }
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the one request of a connection, within its time.
pub(super) async fn answer_one<A>(stream: TcpStream, answer: A)
where
    A: Fn(&Request<Incoming>) -> Response,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(WHOLE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "plain HTTP: connection"),
        Err(_) => tracing::debug!("plain HTTP: a connection took too long"),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A port that answers so many bytes, and who serves it.
    async fn serving(bytes: usize) -> (std::net::SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_probes(listener, move |_| vec![b'x'; bytes].into_response()));
        (address, tasks)
    }

    async fn ask(address: std::net::SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        stream
    }

    #[tokio::test]
    async fn who_says_nothing_or_does_not_read_keeps_nobody_from_an_answer() {
        // More than the system keeps for one who does not read.
        let (address, _tasks) = serving(64 << 20).await;
        let mut idle = Vec::new();
        for number in 0..MOST_OF_ONE * 2 {
            idle.push(if number % 2 == 0 {
                ask(address).await
            } else {
                TcpStream::connect(address).await.unwrap()
            });
        }
        let mut answer = Vec::new();
        ask(address).await.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() > 64 << 20, "{}", answer.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_has_an_end() {
        let (address, _tasks) = serving(64 << 20).await;
        let mut stream = ask(address).await;
        // Nothing of it is read before its time is over.
        tokio::time::sleep(WHOLE * 2).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await.is_err();
        assert!(answer.len() < 64 << 20, "it was not cut");
    }
}
