//! The end of a listener. With it the kernel would reset the connections that it has made and nobody has taken yet, though their clients
//! may have sent whole requests: they are taken first, and served as others end.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream};

use super::{Accepted, BACKLOG, admit, place};
use crate::gateway::lane::Lane;

/// Closes the listener, then serves what waited: first who was accepted already, as places become free, and until the gateway is cut.
pub(super) async fn close(lane: &Rc<Lane>, listener: TcpListener, accepted: Option<Accepted>) {
    let shared = &lane.shared;
    let mut waiting = VecDeque::from_iter(accepted);
    // Away from the event loop: that knows of newcomers only once it has looked again.
    match listener.into_std() {
        Ok(listener) => take(&listener, &mut waiting),
        Err(error) => tracing::warn!(%error, "connections that wait to be accepted are lost"),
    }
    shared.unplaced.fetch_add(waiting.len(), Ordering::Relaxed);
    while let Some(accepted) = waiting.pop_front() {
        let place = tokio::select! {
            () = shared.cut.cancelled() => return,
            place = place(shared) => place,
        };
        let Some(place) = place else { return };
        shared.unplaced.fetch_sub(1, Ordering::Relaxed);
        admit(lane, accepted, place);
    }
}

/// Takes all that waits, without waiting for more: no more than the kernel holds, which is one above the backlog.
fn take(listener: &std::net::TcpListener, waiting: &mut VecDeque<Accepted>) {
    for _ in 0..=BACKLOG {
        let stream = listener.accept().and_then(|(stream, peer)| {
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, peer))
        });
        match stream {
            Ok(accepted) => waiting.push_back(accepted),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return,
                // A client that has left already.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                _ => {
                    tracing::warn!(%error, "connections that wait to be accepted are lost");
                    return;
                }
            },
        }
    }
}
