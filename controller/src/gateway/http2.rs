//! A client's connection that speaks HTTP/2.
//!
//! One that answers pings is alive and yet of no use while it carries no request: it is closed like an idle HTTP/1.1 connection. hyper has no
//! limit for that, so requests are counted here, from their head to the end of their answer.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::answer::AnswerBody;
use super::lane::Lane;
use super::listener::Client;
use super::request;

/// Spawns the tasks of HTTP/2 connections on this thread.
#[derive(Clone)]
struct Local(Rc<Lane>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        self.0.tasks.spawn_local(future);
    }
}

/// Serves until the client or an idle time ends it, or the gateway.
pub(super) async fn serve(lane: &Rc<Lane>, stream: TcpStream, client: Rc<Client>) {
    let shared = &lane.shared;
    let limits = &shared.config.limits;
    let came_late = shared.leaving.is_cancelled();
    let usage = Rc::new(Use { running: Cell::new(0), since: Cell::new(Instant::now()) });
    let counted = Rc::clone(&usage);
    let service = service_fn(move |request: Request<Incoming>| {
        let running = Running::begin(&counted);
        let answer = request::serve(Rc::clone(&client), request);
        async move {
            let Ok(response) = answer.await;
            Ok::<_, Infallible>(response.map(|body| Counted { body, _running: running }))
        }
    });
    let connection = http2::Builder::new(Local(Rc::clone(lane)))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        // A client that has gone without a word does not answer.
        .keep_alive_interval(limits.head_time)
        .keep_alive_timeout(limits.head_time)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // First what the client has sent, as with HTTP/1.1.
        biased;
        _ = connection.as_mut() => return,
        () = shared.cut.cancelled() => return,
        () = shared.drain.cancelled() => {}
        // One that comes while the gateway is leaving already found no other: it is served until the end.
        () = shared.leaving.cancelled(), if !came_late => {}
        () = usage.idle(limits.head_time) => {}
    }
    // From here on it takes no requests but those on their way; and a client that does not go is left.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = shared.cut.cancelled() => {}
        () = usage.idle(limits.head_time) => {}
    }
}

/// How a connection is used.
struct Use {
    /// Requests that have begun and whose answers have not ended.
    running: Cell<u32>,
    /// When it was last used.
    since: Cell<Instant>,
}

impl Use {
    /// Ends when no request has run for so long, from now on. While some run, it looks only now and then.
    async fn idle(&self, limit: Duration) {
        let mut next = Instant::now() + limit;
        loop {
            tokio::time::sleep_until(next).await;
            let end = if self.running.get() > 0 { Instant::now() } else { self.since.get() } + limit;
            if end <= Instant::now() {
                return;
            }
            next = end;
        }
    }
}

/// A request that runs.
struct Running(Rc<Use>);

impl Running {
    fn begin(of: &Rc<Use>) -> Self {
        of.running.set(of.running.get() + 1);
        Self(Rc::clone(of))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

/// An answer's body, during which the request runs.
struct Counted {
    body: AnswerBody,
    _running: Running,
}

impl Body for Counted {
    type Data = <AnswerBody as Body>::Data;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
