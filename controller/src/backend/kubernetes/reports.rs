//! The listener for shims: who they are, what they run, what they fetch, how they ended.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::report::{self, FromShim, Hello, Purpose, START, ToShim, VERSION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::door::{Door, Guest, Unknown};
use super::instance::{Instance, Order, Reported};
use super::whereabouts::Verdict;
use super::why::{Lack, Obstacle};
use super::{Shared, pod, results};

/// How long a shim may take to say who it is, and to take what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest first message, in bytes: names, a token, a digest. Nobody is known before it.
const HELLO_BYTES: usize = 4 << 10;

/// Serves until the backend is gone.
pub(super) async fn serve(shared: Weak<Shared>, listener: TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(here) = shared.upgrade() else { return };
                let shared = Weak::clone(&shared);
                door.welcome(peer.ip().to_canonical(), |place| {
                    let attended = async move {
                        if let Err(error) = attend(&shared, stream, peer, place).await {
                            tracing::debug!(%peer, %error, "a report connection ended");
                        }
                    };
                    here.tasks.spawn(attended).abort_handle()
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a shim cannot be let in");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection and what was read of it.
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) buffer: BytesMut,
}

impl Line {
    /// The next message; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn next(&mut self) -> io::Result<Option<FromShim>> {
        self.next_within(report::MAX_MESSAGE + report::HEADER_BYTES).await
    }

    /// The next message, for which at most about so many bytes are kept.
    async fn next_within(&mut self, most: usize) -> io::Result<Option<FromShim>> {
        loop {
            match report::decode(&mut self.buffer) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) if self.buffer.len() >= most => return Err(io::ErrorKind::FileTooLarge.into()),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    pub(super) async fn send(&mut self, message: &ToShim) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        report::encode(message, &mut bytes).map_err(io::Error::other)?;
        timeout(PATIENCE, self.stream.write_all(&bytes)).await.map_err(io::Error::other)?
    }

    async fn refuse(&mut self, reason: &str) -> io::Result<()> {
        self.send(&ToShim::Refused { reason: reason.to_owned() }).await
    }
}

async fn attend(
    shared: &Weak<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Unknown,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut line = Line { stream, buffer: BytesMut::new() };
    let first = timeout(PATIENCE, line.next_within(HELLO_BYTES)).await.map_err(io::Error::other)??;
    let Some(FromShim::Hello(hello)) = first else { return Ok(()) };
    let Some(here) = shared.upgrade() else { return line.send(&ToShim::Elsewhere).await };
    let Hello { version, instance, token, purpose } = hello;
    if version != VERSION {
        return line
            .refuse(&format!("version {version} is not spoken here: use a runtime image of this Hearth"))
            .await;
    }
    if !here.keys.is_token(&instance, &token) {
        return line.refuse("not the token of this instance").await;
    }
    let Some(instance) = here.named(&instance) else {
        // Whoever has not looked yet which instances there are knows of none.
        let answer = if here.has_looked() {
            ToShim::Refused { reason: "no such instance".to_owned() }
        } else {
            ToShim::Elsewhere
        };
        return line.send(&answer).await;
    };
    let from = peer.ip().to_canonical();
    if let Purpose::Report { .. } = &purpose {
        match here.judged(&instance, from).await {
            Verdict::Its => {}
            // Closed without a word, it comes again.
            Verdict::NotYet => return Ok(()),
            Verdict::Another => {
                let why = here.turn_away(&instance, from);
                return line.refuse(&why).await;
            }
        }
    } else if !here.is_from(&instance, from) {
        return line.refuse("this instance is elsewhere").await;
    }
    let guest = match &purpose {
        Purpose::Report { .. } => Guest::Report,
        Purpose::Fetch { .. } | Purpose::Result { .. } => Guest::Transfer(instance.id.clone()),
    };
    // Until it ends. Closed without a word, it comes again.
    let Some(_place) = place.becomes(&guest) else { return Ok(()) };
    match purpose {
        Purpose::Report { running, invoke, control } => {
            let reported = Reported::at(from, invoke, control);
            drop(here);
            reports(shared, line, &instance, running, reported).await
        }
        Purpose::Fetch { digest } => match instance.blob(&digest) {
            Some(blob) => {
                let transfers = here.transfers.clone();
                drop(here);
                transfers.send(line, blob).await
            }
            None => line.refuse("this instance has nothing of that digest").await,
        },
        Purpose::Result { digest, bytes } => match &instance.spec().build_dir {
            Some(build) => {
                let (most, unpack) = (here.config.sizes.build_bytes, Arc::clone(&here.config.unpack));
                drop(here);
                results::take(line, &instance.intake, build, (&digest, bytes), most, &unpack).await
            }
            None => line.refuse("this instance builds nothing").await,
        },
    }
}

/// The connection of an instance's whole life.
async fn reports(
    shared: &Weak<Shared>,
    mut line: Line,
    instance: &Arc<Instance>,
    running: bool,
    reported: Reported,
) -> io::Result<()> {
    let before = *instance.reported.borrow();
    let from = reported.invoke.ip();
    if let Some(before) = before
        && (!running || (before.invoke.ip() != from && !instance.whereabouts.borrow().has(from)))
    {
        // Whoever has read the token somewhere must not take an instance's place.
        return line.refuse("this instance has reported already, from elsewhere").await;
    }
    *instance.believed.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
    let mut orders = instance.connected();
    let mut gone = instance.gone.subscribe();
    if running {
        line.send(&ToShim::GoOn).await?;
    } else {
        let spec = instance.spec();
        let config = Box::new(pod::config(&spec).map_err(io::Error::other)?);
        let places: HashMap<_, _> = pod::contents(&spec).into_iter().collect();
        let blobs = instance.blobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mounts =
            blobs.iter().filter_map(|blob| Some(blob.mount(places.get(blob.path.as_path())?))).collect();
        line.send(&ToShim::Start { config, mounts }).await?;
    }
    instance.reported.send_replace(Some(reported));
    if let Some(shared) = shared.upgrade() {
        // Its node may have written its address down in the same moment.
        shared.compare(instance).await;
    }
    let mut number = START;
    let mut waiting: HashMap<u32, oneshot::Sender<Result<(), String>>> = HashMap::new();
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Mount { mounts, reply }) => {
                    number += 1;
                    waiting.insert(number, reply);
                    line.send(&ToShim::Mount { number, mounts }).await?;
                }
                Some(Order::End) => line.send(&ToShim::End).await?,
                // The shim has made another connection: this one is broken, whether or not that shows.
                None => return Ok(()),
            },
            // One whose node is lost never closes it.
            () = async { drop(gone.wait_for(|gone| *gone).await) } => return Ok(()),
            message = line.next() => match message? {
                Some(FromShim::Mounted { number: START, error: Some(what) }) => {
                    tracing::warn!(instance = %instance.id, why = what, "an instance did not get its code");
                    instance.obstacle.send_replace(Some(Obstacle { what, lack: Lack::Other }));
                }
                Some(FromShim::Mounted { number, error }) => {
                    if let Some(reply) = waiting.remove(&number) {
                        // Nobody waits for it any more: it was cut off.
                        reply.send(error.map_or(Ok(()), Err)).ok();
                    }
                }
                Some(FromShim::Ended { exit }) => {
                    if let Some(shared) = shared.upgrade() {
                        shared.end(instance, exit).await;
                    }
                }
                Some(FromShim::Hello(_)) | None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
