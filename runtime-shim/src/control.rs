//! `control.sock`: the shim's own connections. Logs and the exit go out, `drain` and `ping` come in. Several may be open: a controller that
//! takes over connects before the old one is gone.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::bodies::error_type;
use hearth_protocol::{Exit, Frame, Role, Welcome};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::socket::{Listener, Stream};
use crate::supervisor::Shim;
use crate::wire::{self, Error, Greeted, Incoming};

/// Connections at once; one more is closed.
const MAX_CONNECTIONS: usize = 8;

/// Bytes of log records per write.
const BATCH_BYTES: usize = 64 * 1024;

/// How long an accept that failed (no descriptors left) is not tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The control side of the shim.
#[derive(Debug)]
pub(crate) struct Control {
    presence: Rc<Presence>,
    exit: watch::Sender<Option<Exit>>,
}

/// Who is there.
#[derive(Debug, Default)]
struct Presence {
    connections: Cell<usize>,
    /// The report connection is up. It takes no lines and no exit.
    reporting: Cell<bool>,
    ever: Cell<bool>,
    /// Somebody has taken the exit.
    told: Cell<bool>,
    changed: Notify,
}

/// One connection in [`Presence`].
struct Present(Rc<Presence>);

impl Present {
    fn new(presence: &Rc<Presence>) -> Self {
        presence.connections.set(presence.connections.get() + 1);
        presence.ever.set(true);
        presence.changed.notify_waiters();
        Self(Rc::clone(presence))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.changed.notify_waiters();
    }
}

impl Control {
    /// Starts to accept connections, in a task of `background`.
    pub(crate) fn start(
        shim: Rc<Shim>,
        listener: Listener,
        background: &mut JoinSet<()>,
    ) -> io::Result<Self> {
        let listener = listener.accepting()?;
        let presence = Rc::<Presence>::default();
        let exit = watch::Sender::new(None);
        let (known, ended) = (Rc::clone(&presence), exit.clone());
        background.spawn_local(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok(stream) if connections.len() < MAX_CONNECTIONS => {
                            let serve = serve(Rc::clone(&shim), stream, Rc::clone(&known), ended.subscribe());
                            connections.spawn_local(serve);
                        }
                        Ok(_) => {}
                        Err(_) => sleep(ACCEPT_PAUSE).await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { presence, exit })
    }

    /// What is told whether the report connection is up: that is a controller's presence too.
    pub(crate) fn reporting(&self) -> impl Fn(bool) + use<> {
        let presence = Rc::clone(&self.presence);
        move |up| {
            presence.reporting.set(up);
            presence.changed.notify_waiters();
        }
    }

    /// Whether a controller has ever been connected.
    pub(crate) fn was_reached(&self) -> bool {
        self.presence.ever.get()
    }

    /// Waits until no controller has been connected for `absence`; for ever if that is zero.
    pub(crate) fn abandoned(&self, absence: Duration) -> impl Future<Output = ()> + use<> {
        let presence = Rc::clone(&self.presence);
        async move {
            loop {
                let changed = presence.changed.notified();
                if presence.connections.get() > 0 || presence.reporting.get() {
                    changed.await;
                    continue;
                }
                tokio::select! {
                    () = crate::supervisor::after(absence) => return,
                    () = changed => {}
                }
            }
        }
    }

    /// Tells every controller the exit after the last log lines, and waits until all are gone and one has been told.
    pub(crate) async fn farewell(&self, exit: Exit) {
        self.exit.send_replace(Some(exit));
        loop {
            let changed = self.presence.changed.notified();
            if self.presence.told.get() && self.presence.connections.get() == 0 {
                return;
            }
            changed.await;
        }
    }
}

async fn serve(
    shim: Rc<Shim>,
    stream: Stream,
    presence: Rc<Presence>,
    mut exit: watch::Receiver<Option<Exit>>,
) {
    let Some(greeted) = wire::greet(stream, &shim.config.secret, &[Role::Control]).await else { return };
    let _present = Present::new(&presence);
    let Greeted { hello, version, mut incoming, mut writer, mut connection } = greeted;
    let welcome = Frame::Welcome(Welcome {
        version,
        instance: shim.config.instance.clone(),
        served: shim.served.get(),
        signature: None,
    });
    let result = async {
        connection.from_instance(welcome.outline())?;
        wire::send(&mut writer, &welcome).await?;
        let mut sent = hello.logs_after;
        loop {
            tokio::select! {
                () = shim.logs.after(sent) => {
                    let mut batch = BytesMut::new();
                    sent = shim.logs.fetch(sent, BATCH_BYTES, &mut batch);
                    writer.write_all(&batch).await?;
                }
                frame = incoming.next() => match frame? {
                    None => return Ok(()),
                    Some(frame) => {
                        connection.from_caller(frame.outline())?;
                        match frame {
                            Frame::Ping(bytes) => wire::send(&mut writer, &Frame::Pong(bytes)).await?,
                            Frame::Drain => shim.ask_to_stop(),
                            _ => {}
                        }
                    }
                },
                Ok(exit) = async { exit.wait_for(Option::is_some).await.map(|exit| *exit) } => {
                    loop {
                        let mut batch = BytesMut::new();
                        sent = shim.logs.fetch(sent, BATCH_BYTES, &mut batch);
                        if batch.is_empty() {
                            break;
                        }
                        writer.write_all(&batch).await?;
                    }
                    wire::send(&mut writer, &Frame::Exit(exit.unwrap_or_default())).await?;
                    presence.told.set(true);
                    return Ok(());
                }
            }
        }
    };
    let result: Result<(), Error> = result.await;
    if let Err(Error::Protocol(why)) = result {
        wire::refuse(&mut writer, error_type::PROTOCOL, &why).await;
    }
    drop::<Incoming>(incoming);
}
