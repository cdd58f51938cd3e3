//! Gets what is to be unpacked, each tar by a connection of its own, on a thread of its own.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use hearth_protocol::report::{HEADER_BYTES, MAX_MESSAGE, Mount, Purpose, ToShim, decode, encode};
use tokio::time::{Instant, timeout_at};

use super::link::{CONNECT, Pauses};
use super::unpack::{self, Access};
use super::{Caller, Trouble, give_back, is_build};

/// How long a tar that breaks off is asked for again. A transfer that goes on is never cut.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may stand still.
const STANDSTILL: Duration = Duration::from_secs(20);

/// Fetches and unpacks all of them, one after the other.
pub(super) async fn place(caller: &Arc<Caller>, mounts: Vec<Mount>) -> Result<(), String> {
    let mut placed = Ok(());
    for mount in mounts {
        placed = one(caller, Arc::new(mount)).await;
        if placed.is_err() {
            break;
        }
    }
    give_back();
    placed
}

async fn one(caller: &Arc<Caller>, mount: Arc<Mount>) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let mut pauses = Pauses::default();
    loop {
        let (asking, asked) = (Arc::clone(caller), Arc::clone(&mount));
        // Not aborted with the future that waits for it: it ends by itself, at a standstill at the latest.
        let attempt = tokio::task::spawn_blocking(move || attempt(&asking, &asked)).await;
        let why = match attempt {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Trouble::Final(why))) => return Err(format!("{}: {why}", mount.at)),
            Ok(Err(Trouble::Again(why))) => why,
            Err(error) => error.to_string(),
        };
        if timeout_at(deadline, pauses.wait()).await.is_err() {
            return Err(format!("{}: {} could not be fetched: {why}", mount.at, mount.digest));
        }
    }
}

fn attempt(caller: &Caller, mount: &Mount) -> Result<(), Trouble> {
    let mut stream = connect(caller, Purpose::Fetch { digest: mount.digest.clone() })?;
    match hear(&mut stream)? {
        Some(ToShim::Blob { bytes }) if bytes == mount.bytes => {}
        Some(ToShim::Blob { bytes }) => {
            let why = format!("{} has {bytes} bytes and should have {}", mount.digest, mount.bytes);
            return Err(Trouble::Final(why));
        }
        other => return Err(Trouble::of(other)),
    }
    let at = Path::new(&mount.at);
    let access = if is_build(mount) { Access::ReadWrite } else { Access::ReadOnly };
    unpack::verified(stream, mount, access).map_err(|error| match error {
        unpack::Error::Cut(error) => match unpack::clear(at) {
            Ok(()) => Trouble::from(error),
            Err(error) => Trouble::Final(error.to_string()),
        },
        error => Trouble::Final(error.to_string()),
    })
}

/// A connection for one purpose, its hello sent.
pub(super) fn connect(caller: &Caller, purpose: Purpose) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&caller.resolve()?, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STANDSTILL))?;
    stream.set_write_timeout(Some(STANDSTILL))?;
    let mut bytes = BytesMut::new();
    encode(&caller.hello(purpose), &mut bytes).map_err(io::Error::other)?;
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// The next message, and not a byte more; `None` at the end.
pub(super) fn hear(stream: &mut impl Read) -> io::Result<Option<ToShim>> {
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    // A length that is too long is the decoder's to refuse.
    let length = u32::from_be_bytes(header) as usize;
    let mut message = BytesMut::from(&header[..]);
    if length <= MAX_MESSAGE {
        message.put_bytes(0, length);
        stream.read_exact(&mut message[HEADER_BYTES..])?;
    }
    decode(&mut message).map_err(io::Error::other)
}
