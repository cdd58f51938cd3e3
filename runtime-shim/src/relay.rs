//! The way in by TCP, where the host cannot connect to the instance's sockets: what comes in is passed on to them, byte by byte. Who connects
//! must know the secret, as everywhere.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_protocol::config::{CONTROL_SOCKET, INVOKE_SOCKET, Relay};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections that are passed on at once; more wait. One for each call that has a connection of its own, and some.
const CONNECTIONS: usize = 1024;

/// Listens at both ports for as long as `background` lives.
///
/// # Errors
/// When a port is taken.
pub(crate) async fn start(relay: Relay, directory: &Path, background: &mut JoinSet<()>) -> io::Result<()> {
    for (port, socket) in [(relay.invoke, INVOKE_SOCKET), (relay.control, CONTROL_SOCKET)] {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        background.spawn_local(accept(listener, directory.join(socket)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, socket: PathBuf) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut passing = JoinSet::new();
    loop {
        // Those that are over make room in the set too.
        while passing.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let socket = socket.clone();
        passing.spawn_local(async move {
            // Whoever is at either end sees it break; nobody else need know.
            pass(stream, &socket).await.ok();
            drop(permit);
        });
    }
}

async fn pass(mut outside: TcpStream, socket: &Path) -> io::Result<()> {
    outside.set_nodelay(true)?;
    let mut inside = UnixStream::connect(socket).await?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn what_comes_in_is_passed_on_and_each_side_ends_by_itself() {
        let test = async {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("invoke.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = port.local_addr().unwrap();
            let mut background = JoinSet::new();
            background.spawn_local(accept(port, socket));
            let mut outside = TcpStream::connect(address).await.unwrap();
            outside.write_all(b"hello").await.unwrap();
            outside.shutdown().await.unwrap();
            let (mut inside, _) = listener.accept().await.unwrap();
            let mut said = String::new();
            inside.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "hello", "and then the end");
            inside.write_all(b"answer").await.unwrap();
            drop(inside);
            let mut answer = String::new();
            outside.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
        };
        LocalSet::new().run_until(test).await;
    }
}
