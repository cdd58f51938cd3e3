//! How instances are reached: by their sockets, or by ports where those cannot be connected to from here.

use std::io::{self, ErrorKind};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::instance::{self, Instance};
use crate::backend::Address;

/// How long the shim of a container is waited for before its start is let go on undecided; and how often it is tried.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(1);

/// How an instance is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By its sockets in a directory that it shares with the host.
    Sockets,
    /// By ports that the engine publishes on this host's loopback.
    Ports,
}

/// What a connect to a socket shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Somebody listens there, even if too busy to accept.
    Listens,
    /// Nothing is there (yet), or this process could not look, as when it has no descriptor left.
    Nothing,
    /// It is there and cannot be connected to.
    Refused,
}

impl Seen {
    fn of(connected: &io::Result<UnixStream>) -> Self {
        match connected.as_ref().map_err(io::Error::kind) {
            Ok(_) | Err(ErrorKind::WouldBlock) => Self::Listens,
            Err(ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied) => Self::Refused,
            // What says nothing of the socket decides nothing.
            Err(_) => Self::Nothing,
        }
    }
}

/// What follows from a look at the sockets of an instance. The shim makes the control socket last, when the other is listening: once it is
/// there, one that refuses is no shim that has not come so far. `None`: nothing yet.
fn judge(control: Seen, invoke: impl FnOnce() -> Seen) -> Option<Way> {
    match control {
        Seen::Listens => Some(Way::Sockets),
        Seen::Nothing => None,
        Seen::Refused => match invoke() {
            Seen::Refused => Some(Way::Ports),
            // Between the making of the socket and the listening at it.
            Seen::Listens | Seen::Nothing => None,
        },
    }
}

/// The way of all instances, once one has shown it. What does not show it, as a start that takes long, decides nothing: the next one is
/// looked at again.
#[derive(Debug, Default)]
pub(super) struct Ways(OnceLock<Way>);

impl Ways {
    /// By ports, whatever the sockets do.
    pub(super) fn ports() -> Self {
        Self(OnceLock::from(Way::Ports))
    }

    /// The way to start the next instance by.
    pub(super) fn next(&self) -> Way {
        self.0.get().copied().unwrap_or(Way::Sockets)
    }

    fn is_decided(&self) -> bool {
        self.0.get().is_some()
    }

    /// The first decision stays.
    fn decide(&self, way: Way) -> Way {
        *self.0.get_or_init(|| way)
    }
}

impl Shared {
    /// The way to a fresh instance that was started to be reached by its sockets.
    pub(super) async fn found_way(&self, instance: &Instance) -> Way {
        let (Address::Unix(control), Address::Unix(invoke)) =
            (instance.directory.control(), instance.directory.invoke())
        else {
            return Way::Sockets;
        };
        if self.way.is_decided() {
            return self.way.next();
        }
        let deadline = Instant::now() + LISTENS_WITHIN;
        // One that ends meanwhile shows nothing.
        while !instance.has_ended() && Instant::now() < deadline {
            let seen = Seen::of(&UnixStream::connect(&control).await);
            let invoke = if seen == Seen::Refused {
                Seen::of(&UnixStream::connect(&invoke).await)
            } else {
                Seen::Nothing
            };
            match judge(seen, || invoke) {
                Some(Way::Sockets) => return self.way.decide(Way::Sockets),
                // A shim that has ended since refuses too.
                Some(Way::Ports) if self.first_process(instance).await.is_some() => {
                    return self.way.decide(Way::Ports);
                }
                _ => sleep(RETRY).await,
            }
        }
        if !instance.has_ended() && self.first_process(instance).await == Some(Whereabouts::Elsewhere) {
            // As with an engine in a virtual machine whose directories do not show sockets.
            return self.way.decide(Way::Ports);
        }
        Way::Sockets
    }

    /// Where the first process of an instance is; `None` if it is gone or the engine does not say.
    async fn first_process(&self, instance: &Instance) -> Option<Whereabouts> {
        let inspected = self.engine.api.inspect_container(&self.container(&instance.id), None).await.ok()?;
        let state = inspected.state?;
        let (true, Some(pid)) = (state.running?, state.pid) else { return None };
        let here = instance::hold(pid, inspected.id.as_deref().unwrap_or("?")).is_ok();
        Some(if here { Whereabouts::Here } else { Whereabouts::Elsewhere })
    }
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// On this machine.
    Here,
    /// The engine has it, and this machine has not.
    Elsewhere,
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_refusal_of_a_shim_that_is_up_leads_to_ports() {
        use Seen::{Listens, Nothing, Refused};
        let table = [
            (Listens, Nothing, Some(Way::Sockets)),
            (Nothing, Nothing, None),
            (Nothing, Refused, None),
            (Refused, Refused, Some(Way::Ports)),
            (Refused, Listens, None),
            (Refused, Nothing, None),
        ];
        for (control, invoke, way) in table {
            assert_eq!(judge(control, || invoke), way, "{control:?}, {invoke:?}");
        }
    }

    #[tokio::test]
    async fn what_a_connect_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        assert_eq!(Seen::of(&UnixStream::connect(&path).await), Seen::Nothing);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(Seen::of(&UnixStream::connect(&path).await), Seen::Listens);
        drop(listener);
        assert_eq!(Seen::of(&UnixStream::connect(&path).await), Seen::Refused);
        assert_eq!(Seen::of(&Err(ErrorKind::WouldBlock.into())), Seen::Listens, "its backlog is full");
        assert_eq!(Seen::of(&Err(ErrorKind::PermissionDenied.into())), Seen::Refused);
        for unable in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOMEM] {
            assert_eq!(Seen::of(&Err(unable.into())), Seen::Nothing, "{unable}");
        }
    }

    #[test]
    fn the_first_decision_stays() {
        let ways = Ways::default();
        assert_eq!((ways.next(), ways.is_decided()), (Way::Sockets, false));
        assert_eq!(ways.decide(Way::Ports), Way::Ports);
        assert_eq!(ways.decide(Way::Sockets), Way::Ports);
        assert_eq!(ways.next(), Way::Ports);
    }
}
