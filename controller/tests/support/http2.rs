//! An HTTP/2 client that reads as much as a test lets it: its connection moves only while somebody waits for something.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::PATIENCE;

/// An answer whose head is there.
#[derive(Debug)]
pub(crate) struct Answer {
    runtime: Runtime,
    /// The connection's.
    _tasks: JoinSet<()>,
    response: hyper::Response<Incoming>,
}

impl Answer {
    /// Sends a GET over a connection of its own and reads the head of the answer.
    pub(crate) fn of(address: SocketAddr, target: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime is made");
        let uri = format!("http://{address}{target}");
        let request = hyper::Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
        let mut tasks = JoinSet::new();
        let response = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("the gateway listens");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .expect("it speaks HTTP/2");
            // How it ends is seen by who reads.
            tasks.spawn(async move { drop(connection.await) });
            let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
            answer.await.expect("it takes too long").expect("an answer")
        });
        Self { runtime, _tasks: tasks, response }
    }

    /// Its status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Reads the body without keeping it; returns how long it was.
    pub(crate) fn length(mut self) -> u64 {
        self.runtime.block_on(async {
            let mut length = 0;
            loop {
                let part = tokio::time::timeout(PATIENCE, self.response.body_mut().frame());
                let Some(frame) = part.await.expect("it takes too long") else { return length };
                length += frame.expect("a whole answer").data_ref().map_or(0, Bytes::len) as u64;
            }
        })
    }
}
