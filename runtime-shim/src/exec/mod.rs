//! The `exec` runtime: a process for each call.
//!
//! The body of the call is its standard input, what it prints on standard output is the answer's body (status 200), lines on standard error
//! are log lines of the call. Method, path and headers are in its environment, as CGI has them ([`environment`]).
//!
//! An exit code other than 0, or a signal, is an error of the call, with the last lines of standard error. To be able to say so instead of
//! an answer, output is held back until the process has ended, has printed more than [`call::HELD_BYTES`], or has gone on for
//! [`call::HELD_TIME`] after its first output; what fails later breaks the answer off.
//!
//! A cancelled call's process group is killed, and so is what a process leaves running in its group when it ends.

mod call;
mod environment;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::bodies::error_type;
use hearth_protocol::sequence::{Connection, Step};
use hearth_protocol::{CallError, Exit, Frame, Load, Loaded, RequestHead, Role, Signature, Welcome};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::socket::{Accepting, Listener, Stream};
use crate::supervisor::Shim;
use crate::wire::{self, Error, Greeted, Incoming, Outbox};
use call::{Body, Call};

/// How long an accept that failed is not tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections share.
struct Exec {
    shim: Rc<Shim>,
    command: Vec<String>,
    load: RefCell<Option<Rc<Load>>>,
    running: Cell<u32>,
    ended: Notify,
}

/// Serves `invoke.sock` until the instance is to end and the last call has ended.
pub(crate) async fn run(shim: &Rc<Shim>, command: &[String], invoke: Listener) -> io::Result<Exit> {
    let listener = invoke.accepting()?;
    let exec = Rc::new(Exec {
        shim: Rc::clone(shim),
        command: command.to_vec(),
        load: RefCell::default(),
        running: Cell::new(0),
        ended: Notify::new(),
    });
    let mut accepting = JoinSet::new();
    accepting.spawn_local(accept(Rc::clone(&exec), listener));
    shim.stopped().await;
    loop {
        let ended = exec.ended.notified();
        if exec.running.get() == 0 {
            return Ok(Exit { code: Some(0), ..Exit::default() });
        }
        ended.await;
    }
}

async fn accept(exec: Rc<Exec>, listener: Accepting) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    connections.spawn_local(serve(Rc::clone(&exec), stream));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(exec: Rc<Exec>, stream: Stream) {
    let Some(greeted) = wire::greet(stream, &exec.shim.config.secret, &[Role::Invoke]).await else { return };
    let Greeted { version, mut incoming, mut writer, connection, .. } = greeted;
    let signature = exec.load.borrow().is_some().then_some(Signature::Exec);
    let welcome = Frame::Welcome(Welcome {
        version,
        instance: exec.shim.config.instance.clone(),
        served: exec.shim.served.get(),
        signature,
    });
    let link = Rc::new(Link { connection: RefCell::new(connection), outbox: Outbox::default() });
    // Calls end with the connection: nobody could be answered.
    let mut calls = JoinSet::new();
    let result: Result<(), Error> = async {
        link.send(&welcome)?;
        tokio::select! {
            read = read(&exec, &link, &mut incoming, &mut calls) => read,
            written = link.outbox.drain(&mut writer) => written.map_err(Error::from),
        }
    }
    .await;
    if let Err(Error::Protocol(why)) = result {
        link.outbox.flush(&mut writer).await.ok();
        wire::refuse(&mut writer, error_type::PROTOCOL, &why).await;
    }
    drop(writer);
    drop(incoming);
    link.outbox.close();
    // Each was told by its handle's end to kill its process.
    while calls.join_next().await.is_some() {}
}

/// The connection's rules and its way out, for all its calls.
struct Link {
    connection: RefCell<Connection>,
    outbox: Outbox,
}

impl Link {
    fn send(&self, frame: &Frame) -> Result<Step, Error> {
        let step = self.connection.borrow_mut().from_instance(frame.outline())?;
        self.outbox.push(frame);
        Ok(step)
    }

    /// Answer bytes that this call may send now.
    fn window(&self, stream: u32) -> usize {
        self.connection.borrow().call(stream).map_or(0, |call| call.answer_window() as usize)
    }
}

/// What the connection keeps of a call that runs. Dropping it cancels the call.
struct Handle {
    body: Body,
    credit: Rc<Notify>,
    cancelled: Rc<Cancel>,
}

#[derive(Default)]
struct Cancel {
    flag: Cell<bool>,
    notify: Notify,
}

impl Cancel {
    fn cancel(&self) {
        self.flag.set(true);
        self.notify.notify_waiters();
    }

    async fn cancelled(&self) {
        let notified = self.notify.notified();
        if !self.flag.get() {
            notified.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

async fn read(
    exec: &Rc<Exec>,
    link: &Rc<Link>,
    incoming: &mut Incoming,
    calls: &mut JoinSet<u32>,
) -> Result<(), Error> {
    let mut handles: HashMap<u32, Handle> = HashMap::new();
    let mut told = false;
    loop {
        let frame = tokio::select! {
            frame = incoming.next() => frame?,
            Some(ended) = calls.join_next() => {
                if let Ok(stream) = ended {
                    handles.remove(&stream);
                }
                continue;
            }
            // Another may be needed while it runs its last calls.
            () = exec.shim.stopped(), if !told => {
                told = true;
                link.send(&Frame::Drain)?;
                continue;
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        let step = link.connection.borrow_mut().from_caller(frame.outline())?;
        if step == Step::Stale {
            continue;
        }
        match frame {
            Frame::Ping(bytes) => {
                link.send(&Frame::Pong(bytes))?;
            }
            Frame::Load(load) => {
                let loaded = exec.load(load);
                link.send(&Frame::Loaded(loaded))?;
            }
            Frame::Drain => exec.shim.ask_to_stop(),
            Frame::Data { stream, bytes, end } => {
                if let Some(handle) = handles.get(&stream) {
                    handle.body.push(bytes, end);
                }
            }
            Frame::Credit { stream, .. } => {
                if let Some(handle) = handles.get(&stream) {
                    handle.credit.notify_one();
                }
            }
            Frame::Cancel { stream } => {
                if let Some(handle) = handles.get(&stream) {
                    handle.cancelled.cancel();
                }
            }
            Frame::Invoke { stream, invoke } => {
                let Some(load) = exec.load.borrow().clone() else {
                    let error = CallError::new(error_type::NOT_LOADED, "nothing is loaded yet");
                    link.send(&Frame::Error { stream, error })?;
                    continue;
                };
                if exec.shim.is_ending() || exec.running.get() >= load.concurrency.max(1) {
                    link.send(&Frame::Busy { stream })?;
                    continue;
                }
                let head: RequestHead = match serde_json::from_slice(&invoke.head) {
                    Ok(head) => head,
                    Err(error) => return Err(Error::Protocol(format!("the head of call {stream}: {error}"))),
                };
                if invoke.accept {
                    link.send(&Frame::Accept { stream })?;
                }
                let body = Body::default();
                body.push(invoke.body, invoke.end);
                let handle = Handle { body, credit: Rc::default(), cancelled: Rc::default() };
                let call = Call {
                    stream,
                    request_id: invoke.request_id,
                    head,
                    deadline_ms: invoke.deadline_ms,
                    body: handle.body.clone(),
                    credit: Rc::clone(&handle.credit),
                    cancelled: Rc::clone(&handle.cancelled),
                    link: Rc::clone(link),
                    load,
                };
                handles.insert(stream, handle);
                let slot = Slot::take(exec);
                calls.spawn_local(async move {
                    call.run(&slot.0).await;
                    stream
                });
            }
            // The rules let nothing else through.
            _ => {}
        }
    }
}

/// One running call.
struct Slot(Rc<Exec>);

impl Slot {
    fn take(exec: &Rc<Exec>) -> Self {
        exec.running.set(exec.running.get() + 1);
        Self(Rc::clone(exec))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.shim.served.set(self.0.shim.served.get() + 1);
        self.0.ended.notify_waiters();
    }
}

impl Exec {
    fn load(&self, load: Load) -> Loaded {
        if self.load.borrow().is_some() {
            return Loaded::Error(CallError::new(error_type::ALREADY_LOADED, "the command is known already"));
        }
        *self.load.borrow_mut() = Some(Rc::new(load));
        Loaded::Ok { signature: Signature::Exec }
    }
}
