//! What the instances of [`super::Staged`] are: servers of their two sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::bodies::error_type;
use hearth_protocol::{
    Answer, CallError, Frame, HeaderLines, Loaded, LogRecord, LogStream, Signature, Welcome, decode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::Act;

/// Calls of one instance.
#[derive(Debug, Default)]
pub(super) struct Calls {
    running: AtomicUsize,
    pub(super) most: AtomicUsize,
    pub(super) begun: AtomicUsize,
    /// It was told to end.
    pub(super) ending: watch::Sender<bool>,
}

/// A call that runs.
struct Call(Arc<Calls>);

impl Call {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.begun.fetch_add(1, Ordering::AcqRel);
        let running = calls.running.fetch_add(1, Ordering::AcqRel) + 1;
        calls.most.fetch_max(running, Ordering::AcqRel);
        Self(Arc::clone(calls))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn receive(stream: &mut UnixStream, buffer: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Some(frame) = decode(buffer).unwrap() {
            return Some(frame);
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn send(stream: &mut UnixStream, frame: Frame) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    let _gone = stream.write_all(&bytes).await.is_err();
}

fn welcome(signature: Option<Signature>) -> Frame {
    Frame::Welcome(Welcome { version: 1, instance: "staged".to_owned(), served: 7, signature })
}

/// What `invoke.sock` answers by.
pub(super) struct Serving {
    pub(super) act: Act,
    pub(super) printed: Arc<Notify>,
    pub(super) calls: Arc<Calls>,
    /// How long a call takes.
    pub(super) time: Duration,
}

/// What connections share.
#[derive(Default)]
struct Served {
    loaded: Option<Signature>,
    greeted: bool,
}

/// `invoke.sock`: each connection by itself.
pub(super) async fn serve(listener: UnixListener, serving: Arc<Serving>) {
    let served = Arc::<Mutex<Served>>::default();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&serving), Arc::clone(&served)));
    }
}

async fn connection(mut stream: UnixStream, serving: Arc<Serving>, served: Arc<Mutex<Served>>) {
    let Serving { act, printed, calls, time } = &*serving;
    let mut buffer = BytesMut::new();
    // Those of a connection that is closed end with it.
    let mut running = JoinSet::new();
    let (mut greeted, mut told) = (false, false);
    let mut ending = calls.ending.subscribe();
    loop {
        let frame = tokio::select! {
            frame = receive(&mut stream, &mut buffer) => frame,
            true = async { ending.wait_for(|ending| *ending).await.is_ok() }, if greeted && !told => {
                told = true;
                send(&mut stream, Frame::Drain).await;
                continue;
            }
            Some(ended) = running.join_next() => {
                let stream_number = ended.unwrap();
                let answer = Answer { status: 200, headers: HeaderLines::default(), body: Bytes::from("done"), end: true };
                send(&mut stream, Frame::Answer { stream: stream_number, answer }).await;
                continue;
            }
        };
        let Some(frame) = frame else { return };
        match frame {
            Frame::Hello(_) if matches!(act, Act::Hangs | Act::EndsInBoot) => {}
            Frame::Hello(_) if *act == Act::HangsLater && served.lock().unwrap().greeted => {}
            Frame::Hello(_) => {
                let loaded = {
                    let mut served = served.lock().unwrap();
                    served.greeted = true;
                    served.loaded
                };
                send(&mut stream, welcome(loaded)).await;
                greeted = true;
            }
            Frame::Load(_) if *act == Act::CannotLoad => {
                printed.notified().await;
                let mut error = CallError::new(error_type::LOAD_FAILED, "SyntaxError: no");
                error.stack = Some("/code/index.js:3\nno\n\nSyntaxError: no".to_owned());
                send(&mut stream, Frame::Loaded(Loaded::Error(error))).await;
            }
            Frame::Ping(bytes) => send(&mut stream, Frame::Pong(bytes)).await,
            Frame::Load(_) => {
                served.lock().unwrap().loaded = Some(Signature::Event);
                send(&mut stream, Frame::Loaded(Loaded::Ok { signature: Signature::Event })).await;
            }
            Frame::Invoke { stream: call, .. } if *act == Act::Refuses || *calls.ending.borrow() => {
                send(&mut stream, Frame::Busy { stream: call }).await;
            }
            Frame::Invoke { stream, .. } => {
                let (call, time) = (Call::begin(calls), *time);
                running.spawn(async move {
                    tokio::time::sleep(time).await;
                    drop(call);
                    stream
                });
            }
            _ => {}
        }
    }
}

/// `control.sock`: one line, and then silence.
pub(super) async fn serve_control(listener: UnixListener, act: Act, printed: Arc<Notify>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = BytesMut::new();
        let Some(Frame::Hello(hello)) = receive(&mut stream, &mut buffer).await else { continue };
        send(&mut stream, welcome(None)).await;
        for sequence in 1..=2 {
            if sequence > hello.logs_after {
                let record = LogRecord {
                    sequence,
                    unix_micros: 1_000_000 + sequence,
                    stream: LogStream::Stdout,
                    shared: false,
                    truncated: false,
                    dropped: 0,
                    request_id: None,
                    line: Bytes::from(format!("line {sequence}")),
                };
                send(&mut stream, Frame::Log(record)).await;
            }
        }
        printed.notify_one();
        if act != Act::EndsInBoot {
            let _closed = receive(&mut stream, &mut buffer).await;
        }
    }
}
