//! What the gateway is told: its own limits ([`Config`]), and for each Function where it answers and how long its calls may take
//! ([`Served`]). What can be changed while it runs is in the Function's manifest; what cannot is in the controller's configuration.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use hearth_dispatch::routes::Claim;
use hearth_function::{FunctionId, RevisionId};

/// The gateway's own settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen on, with port; port 0 takes a free one, the same for all threads.
    pub listen: Vec<SocketAddr>,
    /// The address at which instances reach the gateway: on a bridge that may not be there yet when the gateway starts.
    pub bridge: Option<SocketAddr>,
    /// Threads that serve requests, each with a listener and a runtime of its own. Default: half the cores and at least one; the
    /// functions need the others.
    pub threads: NonZeroUsize,
    /// What a client may send and how fast.
    pub limits: Limits,
    /// How calls are carried to instances.
    pub forwarding: ForwardingLimits,
    /// Who calls. Default: whoever runs Hearth.
    pub callers: Callers,
}

/// Who calls functions, and so what they are told of an instance that does not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Those who wrote them, as on a machine of one's own: what went wrong, in full.
    Owners,
    /// Anybody, as in a cluster: the code and its reason. What names Secrets, service accounts or images, and what code has printed, is in the
    /// Function's condition, its events and its log.
    Anybody,
}

/// Limits on clients. Each protects all the others from one.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request head, in bytes (431 beyond). Default 32 KiB: twice Node's own limit. It may have 100 lines (431 beyond), which is
    /// hyper's own limit: with one that is set, hyper allocates room for them anew for every request.
    pub head_bytes: usize,
    /// Largest request body, in bytes (413 beyond). Default 64 MiB, well above the 6 MiB of AWS Lambda.
    pub body_bytes: u64,
    /// Time a client has to send a request head, and an idle connection to begin the next, HTTP/2 too; then it is closed. Default 20 s.
    pub head_time: Duration,
    /// Longest silence of a client in the middle of its body (408), and longest time that it does not read its answer (cut). Default 30 s.
    pub body_silence: Duration,
    /// Bytes per second that a client sends of its body at least, over the time that it is waited for and after the first
    /// [`Self::body_silence`] of it (408); 0 asks for none. Default 240, as Kestrel has it: no connection that works is slower, and a
    /// byte now and then keeps no place for hours.
    pub body_rate: u32,
    /// Open client connections over all threads; more wait in the kernel to be accepted. Default 8192: fits 16384 descriptors.
    pub connections: usize,
    /// Requests that may wait for one Revision (429 beyond). Default 2000.
    pub queue_length: usize,
    /// Requests of one HTTP/2 connection that run at once. Default 128.
    pub http2_streams: u32,
}

/// How calls are carried to instances.
#[derive(Debug, Clone)]
pub struct ForwardingLimits {
    /// How often one call is sent in all, when instances fail under it and it may be repeated. Default 3. Instances that refuse it or cannot be
    /// connected to are not counted ([`hearth_dispatch::retry`]).
    pub attempts: u32,
    /// Time to connect to an instance that is Ready. Default 5 s: a busy event loop accepts late.
    pub connect: Duration,
    /// An instance whose call has outlived its time must answer a ping within this, or it is killed. Default 5 s.
    pub ping: Duration,
    /// A call that was cancelled but has not ended after this counts as stuck; an instance with no other slots left is killed. Default 30 s.
    pub stuck: Duration,
    /// Dedicated connections to an instance that stay open without a call, for each thread. Default 32.
    pub idle_connections: usize,
    /// On a connection to a user's own server that was idle for so long goes no call which could not be repeated: it may be closed at that very
    /// moment, and nobody can tell then whether the call was begun. Default 1 s: servers close connections that were idle for 2 s (gunicorn), 5 s
    /// (Node, uvicorn, Apache) or more.
    pub recent: Duration,
    /// How long an upgraded connection (WebSocket) may go on when its instance is revoked or the gateway stops. Default 30 s.
    pub upgrade_drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            bridge: None,
            threads: NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
            forwarding: ForwardingLimits::default(),
            callers: Callers::Owners,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            body_bytes: 64 * 1024 * 1024,
            head_time: Duration::from_secs(20),
            body_silence: Duration::from_secs(30),
            body_rate: 240,
            connections: 8192,
            queue_length: 2000,
            http2_streams: 128,
        }
    }
}

impl Default for ForwardingLimits {
    fn default() -> Self {
        Self {
            attempts: 3,
            connect: Duration::from_secs(5),
            ping: Duration::from_secs(5),
            stuck: Duration::from_secs(30),
            idle_connections: 32,
            recent: Duration::from_secs(1),
            upgrade_drain: Duration::from_secs(30),
        }
    }
}

/// A Function as the gateway serves it. [`super::Handle::serve`] takes all of them at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Which Function.
    pub function: FunctionId,
    /// Its age, as a number that grows with the time of creation: of two that claim one route, the smaller keeps it.
    pub created: u64,
    /// The Revision that takes its requests.
    pub revision: RevisionId,
    /// The manifest's limits on its calls.
    pub timeouts: Timeouts,
    /// Where it answers, beside `/function/<namespace>/<name>/…`.
    pub claims: Vec<Claim>,
}

/// A Function of which nothing serves yet: it has its routes, and its requests are told why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// Which Function.
    pub function: FunctionId,
    /// As in [`Served`].
    pub created: u64,
    /// As in [`Served`].
    pub claims: Vec<Claim>,
    /// Why: a word, as in `build_failed`. Anybody may ask: what a build or the function printed is not for them.
    pub reason: String,
    /// When it may be ready; `None` when it will not be by waiting.
    pub retry_after: Option<Duration>,
}

/// Limits on the phases of a call (`spec.timeouts`). The defaults are the manifest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest wait for a slot while instances run (503 `queue_timeout`).
    pub queue: Duration,
    /// Longest wait while no instance is there (504 `start_timeout`).
    pub start: Duration,
    /// From the moment the call is sent to the head of its answer (504 `execute_timeout`).
    pub execute: Duration,
    /// Longest silence, both ways, after the head of the answer (the answer is cut).
    pub idle_stream: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            queue: Duration::from_secs(30),
            start: Duration::from_secs(60),
            execute: Duration::from_secs(30),
            idle_stream: Duration::from_secs(60),
        }
    }
}
