//! An instance that no backend writes anything for: a Pod. Its shim asks the controller what to run.
//!
//! ```text
//!  listen ── report, running: false ── start ── unpack ── run ─────────────────────────────────────── result ── ended
//!               │ nobody, or not the leader: again      │                                   │
//!               └─ until the controller is absent       └─ report, running: true: again ────┘  mounts that come later
//! ```
//!
//! Both ports listen before the first word is said, so that whoever is told of the instance can connect. How a start's mounts went is told
//! under the number [`START`]. From there on the report connection is a controller's presence, as a control connection is; without either
//! the instance ends by its absence rule.
//!
//! [`link`] is the connection, [`keep`] its life after the start, [`fetch`] gets what is to be unpacked and [`unpack`] does that, [`result`]
//! brings a job's directory back.

mod fetch;
mod keep;
mod link;
mod result;
mod unpack;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::config::CONTROLLER_ABSENCE_MS;
use hearth_protocol::report::{
    self, ADDRESS_VARIABLE, CONTROL_PORT, CONTROL_PORT_VARIABLE, FromShim, Hello, INSTANCE_VARIABLE,
    INVOKE_PORT, INVOKE_PORT_VARIABLE, Mount, Purpose, START, TOKEN_VARIABLE, ToShim,
};
use hearth_protocol::{Exit, ShimConfig};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::socket::Listener;
use crate::supervisor::{self, Backing, Entrances, Shim};
pub(crate) use keep::Reporting;
use link::{Link, Pauses};

/// How long the first orders are waited for, in all: nobody has said otherwise yet.
const FIRST_ORDERS: Duration = Duration::from_millis(CONTROLLER_ABSENCE_MS);

/// Whom the shim reports to, and as whom.
pub(crate) struct Caller {
    /// `host:port`.
    controller: String,
    instance: String,
    token: String,
    /// Ports to listen on; 0 is any.
    ports: (u16, u16),
}

impl fmt::Debug for Caller {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("controller", &self.controller)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// What the container was started with; `None` when it is not to report.
    ///
    /// # Errors
    /// When it is to, and does not know enough for that.
    pub(crate) fn from_environment() -> io::Result<Option<Self>> {
        let Ok(controller) = std::env::var(ADDRESS_VARIABLE) else { return Ok(None) };
        let needed = |name| std::env::var(name).map_err(|_| wrong(format!("{name} is not set")));
        let port = |name, default| match std::env::var(name) {
            Ok(port) => port.parse().map_err(|_| wrong(format!("{name}: {port} is no port"))),
            Err(_) => Ok(default),
        };
        Ok(Some(Self {
            controller,
            instance: needed(INSTANCE_VARIABLE)?,
            token: needed(TOKEN_VARIABLE)?,
            ports: (port(INVOKE_PORT_VARIABLE, INVOKE_PORT)?, port(CONTROL_PORT_VARIABLE, CONTROL_PORT)?),
        }))
    }

    fn hello(&self, purpose: Purpose) -> FromShim {
        FromShim::Hello(Hello {
            version: report::VERSION,
            instance: self.instance.clone(),
            token: self.token.clone(),
            purpose,
        })
    }

    /// Where the controller is now. Blocks while a name is looked up; an address needs no look.
    fn resolve(&self) -> io::Result<SocketAddr> {
        if let Ok(address) = self.controller.parse() {
            return Ok(address);
        }
        let none = || wrong(format!("{} has no address", self.controller));
        self.controller.to_socket_addrs()?.next().ok_or_else(none)
    }
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Why something that was asked of the controller did not come about.
#[derive(Debug)]
enum Trouble {
    /// It may the next time.
    Again(String),
    /// It will not.
    Final(String),
}

impl From<io::Error> for Trouble {
    /// A connection that cannot be made or that breaks says nothing of the next.
    fn from(error: io::Error) -> Self {
        Self::Again(error.to_string())
    }
}

impl Trouble {
    /// From an answer that is not the one asked for.
    fn of(answer: Option<ToShim>) -> Self {
        match answer {
            None => Self::Again("the controller has closed the connection".to_owned()),
            Some(ToShim::Elsewhere) => {
                Self::Again("the controller that answers is not the leader".to_owned())
            }
            Some(ToShim::Refused { reason }) => Self::Final(reason),
            Some(_) => Self::Again("the controller answers something else than it was asked".to_owned()),
        }
    }
}

/// Runs the instance from its first report to its end.
pub(crate) fn run(caller: Caller) -> io::Result<Exit> {
    one_arena();
    let entrances =
        Entrances { invoke: Listener::on_port(caller.ports.0)?, control: Listener::on_port(caller.ports.1)? };
    let runtime = supervisor::runtime()?;
    let exit = runtime.block_on(LocalSet::new().run_until(Box::pin(live(Arc::new(caller), entrances))));
    // Whatever is still fetched is for nobody.
    runtime.shutdown_background();
    exit
}

async fn live(caller: Arc<Caller>, entrances: Entrances) -> io::Result<Exit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let ports = (entrances.invoke.port()?, entrances.control.port()?);
    let (shim, reporting) = tokio::select! {
        begun = begin(&caller, ports) => begun?,
        _ = terminate.recv() => return Ok(Exit { signal: Some(Signal::TERM.as_raw()), ..Exit::default() }),
    };
    supervisor::live(shim, Backing::Report(reporting), entrances, terminate).await
}

/// Gets the first orders and makes ready what they ask for.
async fn begin(caller: &Arc<Caller>, ports: (u16, u16)) -> io::Result<(Rc<Shim>, Reporting)> {
    let mut last = String::new();
    let orders = timeout(FIRST_ORDERS, first_orders(caller, ports, &mut last)).await;
    let (mut link, config, mounts) = match orders {
        Ok(Ok(orders)) => orders,
        Ok(Err(why)) => {
            return Err(io::Error::other(format!("the controller does not want this instance: {why}")));
        }
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no orders: {last}"))),
    };
    let build = mounts.iter().find(|mount| is_build(mount)).map(|mount| mount.at.clone().into());
    let placed = fetch::place(caller, mounts).await;
    let error = placed.as_ref().err().cloned();
    // A connection that broke meanwhile is made again later; that the instance runs says the same as this.
    link.send(&FromShim::Mounted { number: START, error }).await.ok();
    if let Err(why) = placed {
        let exit = Exit { code: Some(1), ..Exit::default() };
        link.send(&FromShim::Ended { exit }).await.ok();
        link.close().await;
        return Err(io::Error::other(why));
    }
    Ok((Shim::locked_in(config)?, Reporting::new(Arc::clone(caller), link, ports, build)))
}

async fn first_orders(
    caller: &Arc<Caller>,
    ports: (u16, u16),
    last: &mut String,
) -> Result<(Link, ShimConfig, Vec<Mount>), String> {
    let mut pauses = Pauses::default();
    loop {
        match Link::report(caller, ports, false).await {
            Ok((link, ToShim::Start { config, mounts })) => return Ok((link, *config, mounts)),
            Ok((_, other)) => match Trouble::of(Some(other)) {
                Trouble::Final(why) => return Err(why),
                Trouble::Again(why) => *last = why,
            },
            Err(Trouble::Final(why)) => return Err(why),
            Err(Trouble::Again(why)) => *last = why,
        }
        pauses.wait().await;
    }
}

/// Whether a job leaves its result there.
fn is_build(mount: &Mount) -> bool {
    Path::new(&mount.at).file_name() == Path::new(report::BUILD_DIRECTORY).file_name()
}

/// Lets the threads that unpack share the memory of the one that supervises: what they free is free for it, and can be given back.
fn one_arena() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "a call into the C library")]
        // SAFETY: it takes two numbers and changes a setting; no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Gives back what unpacking has used: the instance's memory is the function's.
fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "a call into the C library")]
        // SAFETY: it takes a number, and only memory that is free already changes hands.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
