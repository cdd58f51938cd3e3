//! What the engine tells by itself: containers that die, and ones that ran out of memory. And what is found when it was not listening: after
//! every connection, and now and then, the list is compared with the books, so that no end is missed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, EventMessage};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions};
use futures_util::StreamExt as _;
use hearth_function::InstanceId;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Shared;
use super::container::{self, DATA, INSTANCE};
use super::engine::{is_away, plain, status};
use super::instance::Instance;
use crate::backend::local::watch;
use crate::backend::{Address, Exit};

/// Between two attempts to reach an engine that is away: the first, and the longest.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How often the list is compared with the books although nothing was told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// So much is asked for again of what was told before: the engine's clock and ours may differ.
const OVERLAP: Duration = Duration::from_secs(5);

/// Word of memory that ran out may come after that of the end, by so much.
const LATE: Duration = Duration::from_millis(300);

/// Listens until the backend is gone.
pub(super) async fn listen(shared: Weak<Shared>, api: Docker) {
    let mut pause = RETRY;
    while let Some(here) = shared.upgrade() {
        match connected(here, &shared, &api).await {
            Some(true) => pause = RETRY,
            Some(false) => {}
            None => return,
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// One connection. Whether it was of any use; `None` when the backend is gone.
async fn connected(shared: Arc<Shared>, weak: &Weak<Shared>, api: &Docker) -> Option<bool> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(OVERLAP);
    // Another engine may have taken the place of the one before, with another version of the API.
    if let Err(error) = api.clone().negotiate_version().await {
        shared.engine_is_away(&error).await;
        return Some(false);
    }
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![format!("{DATA}={}", shared.place.tag)]),
    ]);
    let options =
        EventsOptions { since: Some(since.as_secs().to_string()), until: None, filters: Some(filters) };
    let mut events = Box::pin(api.events(Some(options)));
    shared.engine_is_back().await;
    let closing = shared.closing.clone();
    let look = Arc::clone(&shared.look);
    drop(shared);
    let mut again = interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => {
                let shared = weak.upgrade()?;
                match event {
                    Some(Ok(event)) => told(&shared, event),
                    Some(Err(error)) if is_away(&error) => {
                        shared.engine_is_away(&error).await;
                        return Some(true);
                    }
                    // One that cannot be read is as good as lost: the list tells.
                    Some(Err(error)) => {
                        tracing::warn!(error = plain(&error), "an event of the engine cannot be read");
                        sleep(RETRY).await;
                        return Some(true);
                    }
                    None => {
                        if let Err(error) = api.ping().await {
                            shared.engine_is_away(&error).await;
                        }
                        return Some(true);
                    }
                }
            }
            // The first is at once.
            _ = again.tick() => compare(&weak.upgrade()?).await,
            () = look.notified() => compare(&weak.upgrade()?).await,
            () = closing.cancelled() => return None,
        }
    }
}

/// Takes up one event.
fn told(shared: &Arc<Shared>, event: EventMessage) {
    let Some(attributes) = event.actor.and_then(|actor| actor.attributes) else { return };
    let Some(instance) = attributes.get(INSTANCE).and_then(|name| shared.any(name)) else { return };
    if attributes.get(DATA) != Some(&shared.place.tag) {
        return;
    }
    match event.action.as_deref() {
        Some("oom") => drop(instance.starved.send_replace(true)),
        // Podman's own word is the second.
        Some("die" | "died") => {
            let code = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"));
            let code = code.and_then(|code| code.parse().ok());
            conclude(shared, instance, code);
        }
        _ => {}
    }
}

/// Finds out how an instance ended, and tells.
fn conclude(shared: &Arc<Shared>, instance: Arc<Instance>, code: Option<i64>) {
    if instance.has_ended() {
        return;
    }
    let ending = Arc::clone(shared);
    // In a task of its own: to find out may take a moment, and others end meanwhile.
    shared.tasks.spawn(async move {
        let exit = exit(&ending, &instance, code).await;
        ending.end(&instance, exit).await;
    });
}

/// How an instance ended whose container has.
async fn exit(shared: &Shared, instance: &Instance, code: Option<i64>) -> Exit {
    let record = instance.directory.read_exit::<Exit>();
    // Its groups may be there a moment longer.
    let starved =
        *instance.starved.borrow() || instance.process.get().is_some_and(|held| held.group.out_of_memory());
    let exit = container::conclusion(record, code, starved);
    if code.is_some() && (starved || exit.signal != Some(9)) {
        return exit;
    }
    let found = inspect(shared, instance).await;
    let code = code.or_else(|| found.as_ref().and_then(|found| found.0));
    let mut starved = starved || found.is_some_and(|found| found.1);
    if !starved && container::conclusion(record, code, false).signal == Some(9) && !instance.is_stopping() {
        let mut told = instance.starved.subscribe();
        starved = tokio::time::timeout(LATE, told.wait_for(|starved| *starved)).await.is_ok();
    }
    container::conclusion(record, code, starved)
}

/// Exit code, and whether memory ran out.
async fn inspect(shared: &Shared, instance: &Instance) -> Option<(Option<i64>, bool)> {
    let container = container::name(&shared.place.tag, instance.id.as_str());
    let found =
        shared.engine.api.inspect_container(&container, None::<InspectContainerOptions>).await.ok()?;
    let state = found.state?;
    Some((state.exit_code, state.oom_killed.unwrap_or(false)))
}

/// Everything of this data directory that the engine has.
pub(super) async fn containers(
    api: &Docker,
    tag: &str,
) -> Result<Vec<ContainerSummary>, bollard::errors::Error> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{DATA}={tag}")])]);
    let options =
        ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
    api.list_containers(Some(options)).await
}

/// The instance that a container is.
pub(super) fn instance_of(container: &ContainerSummary) -> Option<&str> {
    container.labels.as_ref()?.get(INSTANCE).map(String::as_str)
}

/// Whether its first process is there.
pub(super) fn lives(container: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum as State;
    matches!(container.state, Some(State::RUNNING | State::PAUSED | State::RESTARTING | State::STOPPING))
}

/// Compares the list with the books: instances that have ended are told, and what a start left while the engine was away is taken away.
async fn compare(shared: &Arc<Shared>) {
    // The books first: what is started after is not missed in a list of before.
    let running = shared.running_instances();
    let Ok(containers) = containers(&shared.engine.api, &shared.place.tag).await else { return };
    for instance in running {
        let found = containers.iter().find(|one| instance_of(one) == Some(instance.id.as_str()));
        if !found.is_some_and(lives) {
            conclude(shared, instance, None);
        }
    }
    for container in containers {
        let Some(id) = instance_of(&container).and_then(|name| InstanceId::parse(name).ok()) else {
            continue;
        };
        // One that is to be adopted has a directory.
        if shared.any(id.as_str()).is_none() && !shared.place.directory.join(id.as_str()).exists() {
            tracing::info!(instance = %id, "taking away a container that is nobody's");
            if let Err(error) = shared.remove(&id).await {
                tracing::warn!(instance = %id, error = plain(&error), "it stays");
            }
        }
    }
}

impl Shared {
    /// The engine does not answer. Instances may run on without it, or have ended with it.
    async fn engine_is_away(self: &Arc<Self>, error: &bollard::errors::Error) {
        let reason = plain(error);
        if self.engine.away().is_none() {
            let socket = self.engine.socket.display();
            tracing::error!(%socket, reason, "the container engine does not answer; instances cannot be started or stopped until it does");
        }
        self.engine.set_away(Some(reason));
        for instance in self.running_instances() {
            if ended_by_what_is_seen(&instance).await {
                conclude(self, instance, None);
            }
        }
    }

    async fn engine_is_back(self: &Arc<Self>) {
        if self.engine.away().is_none() {
            return;
        }
        tracing::warn!(socket = %self.engine.socket.display(), "the container engine answers again");
        self.images.forget();
        if self.bridge.is_ok()
            && let Err(error) = super::network::ensure(&self.engine.api, &self.place.tag).await
        {
            tracing::error!(error, "the engine's network cannot be made again");
        }
        self.engine.set_away(None);
    }
}

/// Whether an instance has ended, by what can be seen of it without the engine: its first process, or the instance's own socket. A port is
/// the engine's and goes with it, be the instance there or not: it shows nothing.
async fn ended_by_what_is_seen(instance: &Instance) -> bool {
    if let Some(held) = instance.process.get() {
        return watch::has_ended(&held.process);
    }
    match instance.record.get().map(|record| &record.started.control) {
        // A shim with a full backlog, or paused, is there.
        Some(Address::Unix(path)) => tokio::net::UnixStream::connect(path).await.is_err_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
        }),
        Some(Address::Tcp(_)) | None => false,
    }
}

/// Whether an error says that there is no such container.
pub(super) fn is_gone(error: &bollard::errors::Error) -> bool {
    status(error) == Some(404)
}
