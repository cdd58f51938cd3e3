//! What every backend must do, as named cases that run against any of them.
//!
//! A case talks to the backend by the trait alone and looks at an instance from within: it runs a job in it, a few lines of Python, whose
//! exit code says which check failed first. What only the machine's owner can see (processes, mounts, firewall rules left behind,
//! INV-16) is [`Fixture::left`]'s to tell.

mod inside;
mod life;
mod limits;
mod network;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hearth_function::InstanceId;
use tokio::sync::watch;

use super::{
    Ability, Backend, CodeMount, Error, Exit, InCluster, InstanceSpec, Limits, Network, Owner, Process, Root,
};

/// How long a case may take on this machine; one that takes longer has found a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a stopped instance may take to go by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Why a case did not pass.
pub type Failure = String;

/// What a backend's test brings along.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Fixture {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// A root that has Python.
    pub root: Root,
    /// Python, as an instance sees it.
    pub python: String,
    /// A directory of the host that a backend can mount from.
    pub directory: PathBuf,
    /// What an instance with a network must reach: somebody listens there.
    pub reachable: Vec<SocketAddr>,
    /// What it must not reach, though somebody listens there.
    pub unreachable: Vec<SocketAddr>,
    /// For whom an instance runs that gets its code later: where the backend looks for it, it is there.
    pub owner: Owner,
    /// How long a case may take.
    pub patience: Duration,
    /// The machine can do networks.
    pub networks: bool,
    /// Another handle for the same instances, as a controller has that was started again.
    pub reopen: Box<Reopen>,
    /// What is left on the machine of an instance that was stopped, seen from outside.
    pub left: Box<Left>,
}

type Run = for<'suite> fn(&'suite Suite) -> BoxFuture<'suite, Result<(), Failure>>;
type Reopen = dyn Fn() -> BoxFuture<'static, Arc<dyn Backend>> + Send + Sync;
type Left = dyn Fn(&InstanceId) -> Vec<String> + Send + Sync;

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, a statement of fact.
    pub name: &'static str,
    /// What the backend must be able to do for it.
    needs: &'static [Ability],
    run: Run,
}

macro_rules! cases {
    ($($module:ident::$case:ident $([$($ability:ident),*])?),* $(,)?) => {
        /// All cases.
        #[must_use]
        pub fn cases() -> Vec<Case> {
            vec![$(Case {
                name: stringify!($case),
                needs: &[$($(Ability::$ability),*)?],
                run: |suite| Box::pin($module::$case(suite)),
            }),*]
        }
    };
}

cases![
    life::an_instance_starts_is_found_and_stops,
    life::stopping_what_is_gone_is_no_error,
    life::a_stop_is_shortened_by_another_with_less_grace,
    life::a_name_serves_once,
    life::the_exit_code_is_told,
    life::the_signal_is_told,
    life::a_job_leaves_its_result_in_the_build_directory,
    life::a_start_that_fails_leaves_nothing,
    life::several_start_at_once,
    life::an_instance_outlives_its_handle,
    life::a_paused_instance_stands_still_until_it_is_resumed [Pause],
    life::a_paused_instance_can_be_stopped [Pause],
    life::code_comes_in_later_and_once,
    limits::memory_that_runs_out_is_told,
    limits::processes_are_limited [Pids],
    limits::processes_that_were_refused_are_counted [Pids, Measure],
    limits::the_temporary_directory_is_limited [Tmp],
    limits::a_quota_slows_down [Limit, Measure],
    limits::limits_can_be_changed [Limit],
    inside::the_root_cannot_be_written,
    inside::code_is_there_and_cannot_be_written,
    inside::the_function_has_no_rights,
    inside::nothing_of_the_host_is_seen,
    inside::only_its_own_environment_is_seen,
    network::without_a_network_there_is_only_loopback [Network],
    network::with_a_network_the_gateway_is_reached_and_nothing_else_of_the_host [Network],
    network::another_instance_is_out_of_reach [Network],
];

/// The cases of one backend, run one after the other.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Suite {
    fixture: Fixture,
    ends: watch::Receiver<HashMap<InstanceId, Exit>>,
    number: AtomicU32,
    _collector: tokio::task::JoinSet<()>,
}

impl Suite {
    /// Takes the backend's exits and is ready.
    #[must_use]
    pub fn new(fixture: Fixture) -> Self {
        let mut exits = fixture.backend.exits();
        let (ended, ends) = watch::channel(HashMap::new());
        let mut collector = tokio::task::JoinSet::new();
        collector.spawn(async move {
            while let Some(one) = exits.recv().await {
                ended.send_modify(|ends| {
                    ends.insert(one.instance, one.exit);
                });
            }
        });
        Self { fixture, ends, number: AtomicU32::new(0), _collector: collector }
    }

    /// Why the backend cannot pass a case: what it says that it lacks.
    #[must_use]
    pub fn lacking(&self, case: Case) -> Option<&'static str> {
        let mut lacks = self.backend().lacks().iter();
        lacks.find(|(ability, _)| case.needs.contains(ability)).map(|(_, why)| *why)
    }

    /// Whether the backend can do it, as a script says it.
    fn python(&self, ability: Ability) -> &'static str {
        if self.can(ability) { "True" } else { "False" }
    }

    fn can(&self, ability: Ability) -> bool {
        self.backend().lacks().iter().all(|(lacking, _)| *lacking != ability)
    }

    /// Runs one case, and stops whatever it has left running.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn run(&self, case: Case) -> Result<(), Failure> {
        let result = match tokio::time::timeout(self.fixture.patience, (case.run)(self)).await {
            Ok(result) => result,
            Err(_) => Err(format!("not over after {:?}", self.fixture.patience)),
        };
        for found in self.backend().list().await.map_err(text)? {
            self.backend().stop(&found.spec.id, Duration::ZERO).await.map_err(text)?;
        }
        result
    }

    /// The backend, to be closed after the last case.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.fixture.backend
    }

    /// A job that runs `script` with Python.
    fn spec(&self, script: &str) -> InstanceSpec {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let id = format!("c{}-{number}", std::process::id() % 100_000);
        let command = vec![
            self.fixture.python.clone(),
            "-I".to_owned(),
            "-S".to_owned(),
            "-c".to_owned(),
            PRELUDE.to_owned() + script,
        ];
        InstanceSpec {
            id: InstanceId::parse(&id).expect("short, of letters, digits and a dash"),
            owner: None,
            process: Process::Job { command },
            code: None,
            build_dir: None,
            namespace: None,
            in_cluster: InCluster::default(),
            user: None,
            working_directory: None,
            root: self.fixture.root.clone(),
            env: BTreeMap::from([
                ("GREETING".to_owned(), "hi".to_owned()),
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ]),
            limits: Limits {
                memory_bytes: 128 << 20,
                cpu_millis: None,
                tmp_bytes: 8 << 20,
                pids: 64,
                patient: false,
            },
            network: Network::None,
            concurrency: 1,
            secret: "0123456789abcdef".repeat(4),
        }
    }

    /// How an instance ended, when it has.
    async fn end(&self, id: &InstanceId) -> Exit {
        let mut ends = self.ends.clone();
        let found = ends.wait_for(|ends| ends.contains_key(id)).await;
        found.ok().and_then(|ends| ends.get(id).cloned()).expect("the collector lives as long as the suite")
    }

    /// Runs a job to its end and takes it away.
    async fn finish(&self, spec: &InstanceSpec) -> Result<Exit, Failure> {
        self.backend().start(spec).await.map_err(text)?;
        let exit = self.end(&spec.id).await;
        self.backend().stop(&spec.id, GRACE).await.map_err(text)?;
        self.nothing_left(&spec.id)?;
        Ok(exit)
    }

    /// Runs a script that must end with 0; another code is the number of the check that failed.
    async fn passes(&self, script: &str, change: impl FnOnce(&mut InstanceSpec)) -> Result<(), Failure> {
        let mut spec = self.spec(script);
        change(&mut spec);
        let exit = self.finish(&spec).await?;
        let passed = exit.code == Some(0);
        check(passed, || {
            format!("the script ended with {exit:?}: its code is the number of the check that failed")
        })
    }

    fn nothing_left(&self, id: &InstanceId) -> Result<(), Failure> {
        let left = (self.fixture.left)(id);
        check(left.is_empty(), || format!("left behind: {}", left.join(", ")))
    }

    /// A directory of the host with one file in it, readable for everybody.
    fn code(&self, name: &str) -> Result<CodeMount, Failure> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.fixture.directory.join(name);
        let make = || {
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
            std::fs::write(path.join("hello.txt"), "hello")
        };
        make().map_err(text)?;
        Ok(CodeMount { path, dependencies: None })
    }
}

/// What every script begins with: `check(number, holds)` ends the script with the number of the first check that does not hold.
const PRELUDE: &str = "
import os, sys, time, socket, errno
def check(number, holds):
    if not holds: os._exit(number)
def fails(work, *errors):
    try: work()
    except OSError as error: return not errors or error.errno in errors
    return False
def reaches(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError: return False
";

fn check(holds: bool, otherwise: impl FnOnce() -> Failure) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// An error with its causes.
fn text(error: impl std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Waits until `holds`, looking again every few milliseconds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        check(tokio::time::Instant::now() < deadline, || format!("waited in vain until {what}"))?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn is_not_found<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotFound(_)))
}
