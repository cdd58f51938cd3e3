//! A scripted instance: speaks the invocation protocol on the two sockets of a fake one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::bodies::error_type;
use hearth_protocol::{
    Answer, CallError, Frame, HeaderLines, Hello, Invoke, Loaded, Signature, Welcome, decode,
};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::backend::InstanceSpec;

/// Which of an instance's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Socket {
    Invoke,
    Control,
}

/// What a call comes to.
#[derive(Debug, Clone)]
pub enum Response {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// Its body; at most 64 KiB, for the peer does not wait for credit.
        body: Bytes,
    },
    /// The same, later.
    After(Duration, Box<Self>),
    /// The handler failed.
    Error(CallError),
    /// Refused before anything ran.
    Busy,
    /// Nothing, until it is cancelled.
    Hang,
    /// The connection breaks.
    Break,
}

impl Response {
    /// Status 200 with this text.
    #[must_use]
    pub fn text(body: impl Into<String>) -> Self {
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        Self::Answer { status: 200, headers, body: Bytes::from(body.into()) }
    }
}

type Respond = dyn Fn(&InstanceSpec, &Invoke, &Bytes) -> Response + Send + Sync;

/// The script.
#[derive(Clone)]
pub struct Peer {
    loaded: Loaded,
    respond: Arc<Respond>,
    served: Arc<AtomicU64>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Peer {
    /// Answers what `respond` says, given the instance, the call's head and its whole body.
    #[must_use]
    pub fn new(respond: impl Fn(&InstanceSpec, &Invoke, &Bytes) -> Response + Send + Sync + 'static) -> Self {
        let loaded = Loaded::Ok { signature: Signature::Event };
        Self { loaded, respond: Arc::new(respond), served: Arc::default() }
    }

    /// Answers 200 with the instance's name, a blank and the call's head.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(|spec, invoke, _| {
            Response::text(format!("{} {}", spec.id, String::from_utf8_lossy(&invoke.head)))
        })
    }

    /// The same peer, answering `load` so.
    #[must_use]
    pub fn loading(mut self, loaded: Loaded) -> Self {
        self.loaded = loaded;
        self
    }

    /// Calls answered so far, by all instances of this peer.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Serves one socket of one instance, for as long as the future is polled.
    pub(super) async fn serve(
        self,
        listener: UnixListener,
        socket: Socket,
        spec: InstanceSpec,
        paused: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        let spec = Arc::new(spec);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { return };
                    let connection = Connection {
                        peer: self.clone(),
                        spec: Arc::clone(&spec),
                        socket,
                        paused: paused.clone(),
                        loaded: None,
                        open: HashMap::new(),
                        running: JoinSet::new(),
                    };
                    connections.spawn(connection.run(stream));
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }
}

/// One connection.
struct Connection {
    peer: Peer,
    spec: Arc<InstanceSpec>,
    socket: Socket,
    paused: watch::Receiver<bool>,
    loaded: Option<Signature>,
    open: HashMap<u32, Open>,
    running: JoinSet<(u32, Response)>,
}

/// A call on it.
struct Open {
    /// Until its body is complete.
    waiting: Option<(Invoke, BytesMut)>,
    /// From then on.
    running: Option<AbortHandle>,
}

/// Whether a connection goes on.
enum Next {
    Go,
    Close,
    /// It is plain HTTP from here on.
    Http,
}

impl Connection {
    async fn run(mut self, mut stream: UnixStream) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                // Cancel safe: what was read is in the buffer.
                read = stream.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    // A frozen instance reads nothing.
                    self.paused.wait_for(|paused| !paused).await.ok();
                    while let Some(frame) = decode(&mut buffer).map_err(io::Error::other)? {
                        match self.take(frame, &mut out)? {
                            Next::Go => {}
                            Next::Close => {
                                stream.write_all(&out).await?;
                                return Ok(());
                            }
                            Next::Http => {
                                stream.write_all(&out).await?;
                                return self.http(stream).await;
                            }
                        }
                    }
                }
                Some(Ok((call, response))) = self.running.join_next(), if !self.running.is_empty() => {
                    if matches!(response, Response::Break) {
                        return Ok(());
                    }
                    self.open.remove(&call);
                    self.answer(call, response, &mut out)?;
                }
            }
            stream.write_all(&out).await?;
        }
    }

    fn take(&mut self, frame: Frame, out: &mut BytesMut) -> io::Result<Next> {
        match frame {
            Frame::Hello(hello) => return self.greet(&hello, out, Next::Go),
            Frame::Attach(hello) => return self.greet(&hello, out, Next::Http),
            Frame::Load(_) => {
                if let Loaded::Ok { signature } = self.peer.loaded {
                    self.loaded = Some(signature);
                }
                put(&Frame::Loaded(self.peer.loaded.clone()), out)?;
            }
            Frame::Ping(bytes) => put(&Frame::Pong(bytes), out)?,
            Frame::Invoke { stream, invoke } => {
                if invoke.accept {
                    put(&Frame::Accept { stream }, out)?;
                }
                let (body, end) = (BytesMut::from(invoke.body.as_ref()), invoke.end);
                self.open.insert(stream, Open { waiting: Some((invoke, body)), running: None });
                if end {
                    self.call(stream);
                }
            }
            Frame::Data { stream, bytes, end } => {
                if let Some((_, body)) = self.open.get_mut(&stream).and_then(|open| open.waiting.as_mut()) {
                    body.extend_from_slice(&bytes);
                    put(
                        &Frame::Credit { stream, bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) },
                        out,
                    )?;
                }
                if end {
                    self.call(stream);
                }
            }
            Frame::Cancel { stream } => {
                if let Some(open) = self.open.remove(&stream) {
                    if let Some(running) = open.running {
                        running.abort();
                    }
                    put(&Frame::End { stream }, out)?;
                }
            }
            // A drained instance has nothing to finish here: its calls end as the script says.
            _ => {}
        }
        Ok(Next::Go)
    }

    fn greet(&self, hello: &Hello, out: &mut BytesMut, then: Next) -> io::Result<Next> {
        if hello.secret != self.spec.secret {
            put(
                &Frame::Error { stream: 0, error: CallError::new(error_type::SECRET, "another secret") },
                out,
            )?;
            return Ok(Next::Close);
        }
        if matches!(then, Next::Http) {
            put(&Frame::Accept { stream: 0 }, out)?;
            return Ok(then);
        }
        let served = if self.socket == Socket::Invoke { self.peer.served() } else { 0 };
        let version = hello.common_version().unwrap_or(hearth_protocol::VERSIONS.1);
        let instance = self.spec.id.as_str().to_owned();
        put(&Frame::Welcome(Welcome { version, instance, served, signature: self.loaded }), out)?;
        Ok(then)
    }

    /// Runs a call whose body is complete.
    fn call(&mut self, stream: u32) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        let Some((invoke, body)) = open.waiting.take() else { return };
        let mut response = (self.peer.respond)(&self.spec, &invoke, &body.freeze());
        open.running = Some(self.running.spawn(async move {
            while let Response::After(time, then) = response {
                tokio::time::sleep(time).await;
                response = *then;
            }
            if matches!(response, Response::Hang) {
                std::future::pending::<()>().await;
            }
            (stream, response)
        }));
    }

    fn answer(&self, stream: u32, response: Response, out: &mut BytesMut) -> io::Result<()> {
        self.peer.served.fetch_add(1, Ordering::Relaxed);
        match response {
            Response::Answer { status, headers, body } => {
                let headers = HeaderLines::from_pairs(headers).map_err(io::Error::other)?;
                put(&Frame::Answer { stream, answer: Answer { status, headers, body, end: true } }, out)
            }
            Response::Error(error) => put(&Frame::Error { stream, error }, out),
            Response::Busy => put(&Frame::Busy { stream }, out),
            Response::After(..) | Response::Hang | Response::Break => Ok(()),
        }
    }

    /// Answers plain HTTP with the instance's name, the method and the target.
    async fn http(self, stream: UnixStream) -> io::Result<()> {
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            self.peer.served.fetch_add(1, Ordering::Relaxed);
            let text = format!("{} {} {}", self.spec.id, request.method(), request.uri());
            async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(text)))) }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(io::Error::other)
    }
}

fn put(frame: &Frame, out: &mut BytesMut) -> io::Result<()> {
    frame.encode(out).map_err(io::Error::other)
}
