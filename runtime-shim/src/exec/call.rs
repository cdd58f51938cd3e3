//! One call of the `exec` runtime.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::bodies::error_type;
use hearth_protocol::{Answer, CallError, Exit, Frame, HeaderLines, Load, LogStream, RequestHead, RequestId};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Cancel, Exec, Link, environment};
use crate::logs::Owner;
use crate::process::{Group, Input, Program, Running};

/// Output up to this is held back until the process has ended, so that its exit code can still decide.
pub(super) const HELD_BYTES: usize = 16 * 1024;

/// And no longer than this after the first output, so that a slow stream flows.
pub(super) const HELD_TIME: Duration = Duration::from_millis(200);

/// Bytes per read of standard output; far below the longest payload.
const READ_BYTES: usize = 16 * 1024;

/// How long the pipes may stay open after the process and its group are gone (somebody left the group).
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The body of a call: what the connection puts in, and the process's standard input takes out. Bounded by the call's credit.
#[derive(Debug, Clone, Default)]
pub(super) struct Body(Rc<(RefCell<Chunks>, Notify)>);

#[derive(Debug, Default)]
struct Chunks {
    waiting: VecDeque<Bytes>,
    ended: bool,
}

impl Body {
    pub(super) fn push(&self, bytes: Bytes, end: bool) {
        let mut chunks = self.0.0.borrow_mut();
        if !bytes.is_empty() {
            chunks.waiting.push_back(bytes);
        }
        chunks.ended |= end;
        self.0.1.notify_one();
    }

    /// The next piece; `None` at the end.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut chunks = self.0.0.borrow_mut();
                if let Some(bytes) = chunks.waiting.pop_front() {
                    return Some(bytes);
                }
                if chunks.ended {
                    return None;
                }
            }
            self.0.1.notified().await;
        }
    }
}

/// What a call needs to run.
pub(super) struct Call {
    pub stream: u32,
    pub request_id: RequestId,
    pub head: RequestHead,
    pub deadline_ms: u32,
    pub body: Body,
    pub credit: Rc<Notify>,
    pub cancelled: Rc<Cancel>,
    pub link: Rc<Link>,
    pub load: Rc<Load>,
}

/// How the output ended.
enum Output {
    /// All of it is held back.
    Held(BytesMut),
    /// The answer has begun.
    Streaming,
    /// Nobody wants it any more.
    Unwanted,
}

impl Call {
    /// Runs the process and answers the call. The connection may be gone at any time; then nobody is answered.
    pub(super) async fn run(self, exec: &Exec) {
        let stream = self.stream;
        let frame = match self.answer(exec).await {
            _ if self.cancelled.flag.get() => Frame::End { stream },
            Ok(frame) => frame,
            Err(error) => Frame::Error { stream, error },
        };
        // A refusal by the rules means that the connection is gone.
        self.link.send(&frame).ok();
    }

    /// Runs the process to its end; gives the last frame of the call.
    async fn answer(&self, exec: &Exec) -> Result<Frame, CallError> {
        let name = exec.command.first().map_or("", String::as_str);
        let running = self.start(exec).map_err(|error| {
            CallError::new(error_type::PROCESS_ENDED, format!("cannot start {name}: {error}"))
        })?;
        let Running { group, stdin, stdout, stderr, ended, .. } = running;
        let over = watch::Sender::new(false);
        let end = async {
            let exit = self.end(group, ended).await;
            over.send_replace(true);
            exit
        };
        let logs = exec.shim.logs.clone();
        let owner = Owner::Call(self.request_id.clone());
        let errors = async {
            tokio::select! {
                () = logs.pump_lines(stderr, LogStream::Stderr, owner, None) => {}
                () = gone(over.subscribe()) => {}
            }
        };
        let work = async { tokio::join!(end, self.output(stdout, over.subscribe()), errors) };
        let feed = async {
            self.feed(stdin).await;
            // The body's end is not the call's.
            std::future::pending::<Infallible>().await
        };
        let (exit, output, ()) = tokio::select! {
            done = work => done,
            never = feed => match never {},
        };
        let stream = self.stream;
        match output {
            _ if exit.code != Some(0) => {
                let lines = exec.shim.logs.last_lines(Some(&self.request_id));
                let error = CallError::new(error_type::PROCESS_ENDED, format!("{name}: {exit}"));
                Err(CallError { lines, ..error })
            }
            Output::Held(held) => Ok(self.head(held.freeze(), true)),
            Output::Streaming => Ok(Frame::Data { stream, bytes: Bytes::new(), end: true }),
            Output::Unwanted => Ok(Frame::End { stream }),
        }
    }

    fn start(&self, exec: &Exec) -> io::Result<Running> {
        let config = &exec.shim.config;
        let mut env: BTreeMap<String, OsString> = BTreeMap::new();
        for (name, value) in config.env.iter().chain(&self.load.env) {
            env.insert(name.clone(), value.into());
        }
        env.extend(environment::of(&self.head, self.request_id.as_str(), self.deadline_ms));
        exec.shim.processes.start(Program {
            command: exec.command.iter().map(OsString::from).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            working_directory: config.working_directory.clone(),
            uid: config.uid,
            gid: config.gid,
            inherited: Vec::new(),
            input: Input::Piped,
        })
    }

    /// Waits for the process's end; a cancelled one is killed. What it leaves running in its group goes with it.
    async fn end(&self, group: Group, ended: oneshot::Receiver<Exit>) -> Exit {
        let mut ended = std::pin::pin!(ended);
        let exit = tokio::select! {
            exit = &mut ended => exit,
            () = self.cancelled.cancelled() => {
                group.signal(Signal::KILL);
                ended.await
            }
        };
        group.signal(Signal::KILL);
        exit.unwrap_or_default()
    }

    /// Writes the body to the process and gives credit for what it has taken. What a process does not want to read is thrown away.
    async fn feed(&self, stdin: Option<pipe::Sender>) {
        let mut stdin = stdin;
        while let Some(bytes) = self.body.next().await {
            if let Some(pipe) = &mut stdin
                && pipe.write_all(&bytes).await.is_err()
            {
                stdin = None;
            }
            // A piece is at most a frame.
            let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.link.send(&Frame::Credit { stream: self.stream, bytes }).ok();
        }
    }

    /// Reads standard output to its end and sends it, once it is too much or too old to be held back.
    async fn output(&self, stdout: pipe::Receiver, over: watch::Receiver<bool>) -> Output {
        let mut held = BytesMut::new();
        let mut held_until = None;
        let mut streaming = false;
        let mut gone = std::pin::pin!(gone(over));
        loop {
            let release = async {
                match held_until {
                    Some(instant) if !streaming => sleep_until(instant).await,
                    _ => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                read = read_some(&stdout, &mut held) => read,
                () = release => READ_BYTES,
                () = &mut gone => 0,
                () = self.cancelled.cancelled() => return Output::Unwanted,
            };
            if read == 0 {
                if streaming && !held.is_empty() && !self.send(&mut held, &mut streaming).await {
                    return Output::Unwanted;
                }
                return if streaming { Output::Streaming } else { Output::Held(held) };
            }
            let until = *held_until.get_or_insert_with(|| Instant::now() + HELD_TIME);
            let hold = !streaming && held.len() <= HELD_BYTES && Instant::now() < until;
            if !hold && !self.send(&mut held, &mut streaming).await {
                return Output::Unwanted;
            }
        }
    }

    /// Sends all of `held`, as credit allows; false when the call was cancelled meanwhile.
    async fn send(&self, held: &mut BytesMut, streaming: &mut bool) -> bool {
        while !held.is_empty() {
            let window = self.link.window(self.stream);
            if window == 0 {
                tokio::select! {
                    () = self.credit.notified() => continue,
                    () = self.cancelled.cancelled() => return false,
                }
            }
            let bytes = held.split_to(window.min(held.len())).freeze();
            let frame = if *streaming {
                Frame::Data { stream: self.stream, bytes, end: false }
            } else {
                self.head(bytes, false)
            };
            *streaming = true;
            if self.link.send(&frame).is_err() {
                return false;
            }
        }
        true
    }

    /// The answer's head with its first bytes. The process does not say what they are.
    fn head(&self, body: Bytes, end: bool) -> Frame {
        let text = match std::str::from_utf8(&body) {
            Ok(_) => true,
            // A character that the next piece completes.
            Err(error) => error.error_len().is_none() && !end,
        };
        let kind = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        let headers = HeaderLines::from_pairs([("content-type", kind)]).unwrap_or_default();
        Frame::Answer { stream: self.stream, answer: Answer { status: 200, headers, body, end } }
    }
}

/// Reads once into `held`; the number of bytes, 0 at the end.
async fn read_some(pipe: &pipe::Receiver, held: &mut BytesMut) -> usize {
    loop {
        if pipe.readable().await.is_err() {
            return 0;
        }
        held.reserve(READ_BYTES);
        match pipe.try_read_buf(held) {
            Ok(read) => return read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return 0,
        }
    }
}

/// Waits until the process is over, and then a little longer: for what is still in the pipes.
async fn gone(mut over: watch::Receiver<bool>) {
    // The sender lives as long as the call.
    over.wait_for(|over| *over).await.ok();
    sleep(LAST_WORDS).await;
}
