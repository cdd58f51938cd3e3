//! Events on Functions, for `kubectl describe`: what `told` finds worth it, a few for each Function. What has passed is dropped rather than waited
//! for; the state that a Function is in is told in the end.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_function::{Function, FunctionId, Revision, RevisionId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};

use crate::autoscale::{RevisionView, Snapshot};
use crate::deploy::{Isolation, Remark};
use crate::store::{self, Store, Watch};
use told::{Happening, Kind, Told, Voice};

/// Events that wait to be sent; more are dropped.
const WAITING: usize = 256;

/// How often is looked whether what waits may be told.
const LOOK: Duration = Duration::from_secs(1);

/// One request.
const REQUEST: Duration = Duration::from_secs(5);

/// What the API server takes of a message (1024 bytes), with room for the sign that it was cut.
const MESSAGE: usize = 1020;

/// Tells of what happens to Functions.
#[derive(Debug)]
pub(super) struct Events {
    store: Store,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    remarks: mpsc::Receiver<Remark>,
    isolation: Isolation,
    functions: BTreeMap<FunctionId, Known>,
    /// Those of which something is to be told later.
    pending: BTreeSet<FunctionId>,
    views: BTreeMap<RevisionId, (Arc<RevisionView>, Told)>,
    began: Timestamp,
    out: mpsc::Sender<Event>,
    reporter: String,
}

#[derive(Debug)]
struct Known {
    function: Arc<Function>,
    voice: Voice,
}

/// Sends them.
#[derive(Debug)]
pub(super) struct Sender {
    waiting: mpsc::Receiver<Event>,
}

impl Events {
    /// From now on; what was before another controller has told. `isolation` is where `network: none` has an effect, `reporter` this process.
    pub(super) fn new(
        store: Store,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        remarks: mpsc::Receiver<Remark>,
        isolation: Isolation,
        reporter: String,
    ) -> (Self, Sender) {
        let (out, waiting) = mpsc::channel(WAITING);
        let events = Self {
            store,
            snapshots,
            remarks,
            isolation,
            functions: BTreeMap::new(),
            pending: BTreeSet::new(),
            views: BTreeMap::new(),
            began: Timestamp::now(),
            out,
            reporter,
        };
        (events, Sender { waiting })
    }

    /// Until the store is closed.
    pub(super) async fn run(mut self) {
        let Ok((mut functions, mut revisions)) = self.look() else { return };
        let mut snapshots = self.snapshots.clone();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                event = functions.next() => event.map(|event| self.function(&event)),
                event = revisions.next() => event.map(|event| self.revision(&event)),
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.snapshot(&snapshot);
                    Ok(())
                }
                Some(Remark { function, reason, message }) = self.remarks.recv() => {
                    self.tell(&function, told::warning(reason, message));
                    Ok(())
                }
                _ = looks.tick(), if !self.pending.is_empty() => {
                    self.tell_pending(Timestamp::now());
                    Ok(())
                }
            };
            match heard {
                Ok(()) => {}
                Err(store::Error::Expired { .. }) => match self.look() {
                    Ok(again) => (functions, revisions) = again,
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    }

    /// Everything as it is. Of what was known before is told what it has become.
    fn look(&mut self) -> Result<(Watch<Function>, Watch<Revision>), store::Error> {
        let listed = self.store.list::<Function>(None);
        // Those that went while nobody looked have told nothing of it.
        let ids: BTreeSet<FunctionId> =
            listed.items.iter().filter_map(|function| function.id().ok()).collect();
        self.functions.retain(|id, _| ids.contains(id));
        for function in listed.items {
            self.follow(&function);
        }
        let watches =
            (self.store.watch(listed.resource_version)?, self.store.watch(listed.resource_version)?);
        Ok(watches)
    }

    /// Takes a Function as it is now, and tells what has become of it since it was known.
    fn follow(&mut self, function: &Arc<Function>) {
        let Ok(id) = function.id() else { return };
        let Some(known) = self.functions.get_mut(&id) else {
            let voice = Voice::new(Timestamp::now());
            self.functions.insert(id, Known { function: Arc::clone(function), voice });
            return;
        };
        let before = std::mem::replace(&mut known.function, Arc::clone(function));
        // One that was made anew begins with nothing: what is kept is of the one before.
        if before.metadata.uid != function.metadata.uid {
            known.voice = Voice::new(Timestamp::now());
            return;
        }
        known.voice.forget(|state| told::is_undecided(function, state));
        for happening in told::of_function(&before, function) {
            self.tell(&id, happening);
        }
    }

    fn function(&mut self, event: &store::Event<Function>) {
        let function = event.object();
        match (event, function.id()) {
            (store::Event::Deleted(_), Ok(id)) => drop(self.functions.remove(&id)),
            (store::Event::Added(_) | store::Event::Modified(_), _) => self.follow(function),
            (store::Event::Deleted(_), Err(_)) => {}
        }
    }

    fn revision(&mut self, event: &store::Event<Revision>) {
        if let store::Event::Added(revision) = event
            && let Ok(id) = revision.function_id()
        {
            for happening in told::of_revision(revision, id.namespace(), &self.isolation) {
                self.tell(&id, happening);
            }
        }
    }

    /// What was told of a Revision is known for as long as snapshots have it, which is longer than the store does.
    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.views.retain(|revision, _| snapshot.revisions.contains_key(revision));
        for (revision, view) in &snapshot.revisions {
            let fresh = Told { decisions: self.began, starts: self.began };
            let (known, told) = self.views.entry(revision.clone()).or_insert_with(|| (Arc::default(), fresh));
            if Arc::ptr_eq(known, view) {
                continue;
            }
            *known = Arc::clone(view);
            let happened = told::of_view(revision.name(), view, told);
            let function = revision.as_str().rsplit_once('-').and_then(|(id, _)| FunctionId::parse(id).ok());
            let Some(function) = function else { continue };
            for happening in happened {
                self.tell(&function, happening);
            }
        }
    }

    fn tell(&mut self, function: &FunctionId, happening: Happening) {
        let now = Timestamp::now();
        let Some(known) = self.functions.get_mut(function) else { return };
        if let Some(happening) = known.voice.hear(happening, now) {
            say(known, happening, &self.out, &self.reporter, now);
        }
        if known.voice.is_waiting() {
            self.pending.insert(function.clone());
        }
    }

    /// Tells what has waited, of the Functions of which something may be told again.
    fn tell_pending(&mut self, now: Timestamp) {
        let Self { pending, functions, out, reporter, .. } = self;
        pending.retain(|function| {
            let Some(known) = functions.get_mut(function) else { return false };
            if let Some(happening) = known.voice.next(now) {
                say(known, happening, out, reporter, now);
            }
            known.voice.is_waiting()
        });
    }
}

/// Hands one over to be sent, or keeps it if too many wait.
fn say(known: &mut Known, happening: Happening, out: &mpsc::Sender<Event>, reporter: &str, now: Timestamp) {
    match out.try_reserve() {
        Ok(place) => place.send(event(&known.function.metadata, happening, reporter, now)),
        Err(_) => {
            let (function, reason) = (known.function.metadata.name.as_deref(), &happening.reason);
            tracing::debug!(
                function,
                reason,
                "too many events wait: this is told later, or not if it passes"
            );
            known.voice.keep(happening);
        }
    }
}

impl Sender {
    /// Sends until nobody tells any more. One that is refused is dropped: they are told for people, and conditions say the same.
    pub(super) async fn run(mut self, client: Client) {
        let mut complained = false;
        while let Some(event) = self.waiting.recv().await {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
            match timeout(REQUEST, events.create(&PostParams::default(), &event)).await {
                Ok(Ok(_)) => complained = false,
                Ok(Err(error)) if !complained => {
                    complained = true;
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(namespace, error, "an event was not taken");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

/// A warning on the Function of this metadata, from `reporter`.
pub(super) fn warning(of: &ObjectMeta, reason: &'static str, message: String, reporter: &str) -> Event {
    event(of, told::warning(reason, message), reporter, Timestamp::now())
}

fn event(of: &ObjectMeta, happening: Happening, reporter: &str, now: Timestamp) -> Event {
    let name = of.name.clone().unwrap_or_default();
    let time = Timestamp::from_second(now.as_second()).map(Time).ok();
    Event {
        metadata: ObjectMeta {
            // As kubectl and others name them: the object, and the moment.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: of.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(Function::api_version(&()).into_owned()),
            kind: Some(Function::kind(&()).into_owned()),
            namespace: of.namespace.clone(),
            uid: of.uid.clone(),
            name: Some(name),
            ..ObjectReference::default()
        },
        type_: Some(match happening.kind {
            Kind::Normal => "Normal".to_owned(),
            Kind::Warning => "Warning".to_owned(),
        }),
        reason: Some(happening.reason),
        message: Some(short(happening.message)),
        count: Some(1),
        first_timestamp: time.clone(),
        last_timestamp: time,
        source: Some(EventSource { component: Some("hearth".to_owned()), host: None }),
        reporting_component: Some("hearth".to_owned()),
        reporting_instance: Some(reporter.to_owned()),
        ..Event::default()
    }
}

fn short(mut message: String) -> String {
    if message.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::autoscale::{About, Decided};

    struct Scene {
        events: Events,
        store: Store,
        sender: Sender,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(store::Config::new(directory.path().join("hearth.redb"))).await.unwrap();
            let (snapshots, remarks) = (watch::Sender::default().subscribe(), mpsc::channel(1).1);
            let isolation = Isolation::listed(&[]);
            let (events, sender) =
                Events::new(store.clone(), snapshots, remarks, isolation, "test".to_owned());
            Self { events, store, sender, _directory: directory }
        }

        async fn create(&self, name: &str) -> FunctionId {
            let function: Function = serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "n" },
                "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
            }))
            .unwrap();
            let function = self.store.create(function, Timestamp::UNIX_EPOCH).await.unwrap();
            function.id().unwrap()
        }

        /// The Function `a` says this of its `Ready`.
        fn becomes(&mut self, status: &str, reason: &str, message: &str) {
            let mut function = Function::clone(&self.store.get::<Function>("n", "a").unwrap());
            let condition = json!({
                "type": "Ready", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            function.status = Some(serde_json::from_value(json!({ "conditions": [condition] })).unwrap());
            self.events.function(&store::Event::Modified(Arc::new(function)));
        }

        /// What was told since.
        fn told(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.sender.waiting.try_recv().ok()?.message).collect()
        }
    }

    #[tokio::test]
    async fn a_new_look_forgets_what_went_meanwhile_and_keeps_what_is_known_of_the_rest() {
        let mut scene = Scene::new().await;
        let (gone, stays) = (scene.create("gone").await, scene.create("stays").await);
        scene.events.look().unwrap();
        assert!(scene.events.functions.contains_key(&gone));
        scene.events.tell(&stays, told::warning("Reason", "once".to_owned()));
        let voice = scene.events.functions[&stays].voice.clone();
        let at_once = store::Preconditions::default();
        scene.store.delete::<Function>("n", "gone", at_once, Timestamp::UNIX_EPOCH).await.unwrap();
        scene.events.look().unwrap();
        assert_eq!(scene.events.functions.keys().collect::<Vec<_>>(), [&stays]);
        assert_eq!(scene.events.functions[&stays].voice, voice);
    }

    #[tokio::test]
    async fn a_function_that_is_ready_after_many_failures_is_told_to_be_so_in_the_end() {
        let mut scene = Scene::new().await;
        let id = scene.create("a").await;
        scene.events.look().unwrap();
        for attempt in 0..20 {
            scene.events.tell(&id, told::warning("StartFailed", attempt.to_string()));
        }
        assert_eq!(scene.told().len(), 12);
        scene.becomes("True", "Ready", "a-00001 serves");
        scene.events.tell_pending(Timestamp::now());
        assert_eq!(scene.told(), [""; 0]);
        let later = Timestamp::now() + Duration::from_secs(30);
        scene.events.tell_pending(later);
        scene.events.tell_pending(later + Duration::from_secs(30));
        assert_eq!(scene.told(), ["a-00001 serves"]);
        assert!(scene.events.pending.is_empty());
    }

    #[tokio::test]
    async fn a_state_that_a_function_has_left_is_not_told_nor_that_of_one_that_was_before_it() {
        let mut scene = Scene::new().await;
        let id = scene.create("a").await;
        scene.events.look().unwrap();
        let later = Timestamp::now() + Duration::from_secs(3600);
        while scene.events.functions.get_mut(&id).unwrap().voice.hear(told::warning("x", ""), later).is_some()
        {
        }
        scene.becomes("False", "StartFailed", "exit code 1");
        assert!(scene.events.functions[&id].voice.is_waiting());
        // A mended manifest is applied.
        scene.becomes("Unknown", "Building", "is built");
        assert!(!scene.events.functions[&id].voice.is_waiting());
        scene.becomes("False", "StartFailed", "exit code 2");
        assert!(scene.events.functions[&id].voice.is_waiting());
        // It is deleted and made again while nobody looks.
        let at_once = store::Preconditions::default();
        scene.store.delete::<Function>("n", "a", at_once, Timestamp::UNIX_EPOCH).await.unwrap();
        scene.create("a").await;
        scene.events.look().unwrap();
        scene.events.tell_pending(later + Duration::from_secs(3600));
        assert_eq!(scene.told(), [""; 0]);
        assert!(scene.events.pending.is_empty());
    }

    #[tokio::test]
    async fn a_state_for_which_there_is_no_room_is_told_later_and_one_that_is_gone_is_not() {
        let mut scene = Scene::new().await;
        let (a, b) = (scene.create("a").await, scene.create("b").await);
        scene.events.look().unwrap();
        while scene.events.out.try_reserve().is_ok_and(|place| {
            place.send(Event::default());
            true
        }) {}
        let mut happening = told::warning("RouteTaken", "taken".to_owned());
        happening.state = Some(hearth_function::ConditionType::RoutesReady);
        scene.events.tell(&a, happening.clone());
        scene.events.tell(&b, happening);
        let now = Timestamp::now();
        scene.events.tell_pending(now);
        while scene.sender.waiting.try_recv().is_ok() {}
        scene.events.functions.remove(&b);
        scene.events.tell_pending(now);
        assert_eq!(scene.told(), ["taken"]);
        assert!(scene.events.pending.is_empty());
    }

    #[tokio::test]
    async fn a_decision_is_told_once_though_its_revision_is_deleted_before_the_autoscaler_forgets_it() {
        let mut scene = Scene::new().await;
        scene.create("a").await;
        scene.events.look().unwrap();
        let id = RevisionId::parse("n/a-00001").unwrap();
        let snapshot = |waiting| {
            let mut view = RevisionView { waiting, ..RevisionView::default() };
            view.decisions.push_back(Decided {
                time: Timestamp::MAX,
                about: About::Scaled,
                text: "to 1".to_owned(),
            });
            Snapshot { revisions: [(id.clone(), Arc::new(view))].into(), ..Snapshot::default() }
        };
        scene.events.snapshot(&snapshot(1));
        assert_eq!(scene.told(), ["a-00001: to 1"]);
        let mut revision = crate::pool::template::tests::revision("a-00001", json!({}));
        revision.metadata.namespace = Some("n".to_owned());
        scene.events.revision(&store::Event::Deleted(Arc::new(revision)));
        scene.events.snapshot(&snapshot(0));
        assert_eq!(scene.told(), [""; 0]);
        scene.events.snapshot(&Snapshot::default());
        assert!(scene.events.views.is_empty());
    }

    #[tokio::test]
    async fn a_revision_whose_network_is_open_warns_when_it_is_made_and_not_again() {
        let mut scene = Scene::new().await;
        scene.create("a").await;
        scene.events.look().unwrap();
        let mut revision = crate::pool::template::tests::revision("a-00001", json!({ "network": "none" }));
        revision.metadata.namespace = Some("n".to_owned());
        let revision = Arc::new(revision);
        scene.events.revision(&store::Event::Added(Arc::clone(&revision)));
        let told = scene.told();
        assert!(told.len() == 2 && told[1].starts_with("`network: none` has no effect"), "{told:?}");
        scene.events.revision(&store::Event::Modified(revision));
        scene.events.look().unwrap();
        assert_eq!(scene.told(), [""; 0]);
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_letters() {
        let cut = short("é".repeat(2000));
        assert!(cut.len() <= 1024 && cut.ends_with("é…"), "{}", cut.len());
        assert_eq!(short("short".to_owned()), "short");
    }
}
