//! The watches: one for each kind and namespace. What they tell goes into memory; one that is lost begins again with a list, after a pause.
//!
//! A namespace's Functions are asked for when its Revisions were listed: a Function of which none is known would be deployed as if it were new.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use hearth_function::{Function, Revision};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Seldom;
use crate::telemetry::metrics::{Gauge, Registry};

use super::super::object::{Key, Kind, Object, Stored};
use super::lists::{self, Lists};
use super::reading::{Read, Unreadable};
use super::{From, Memory, Scope};

/// Keeps memory up to date.
pub struct Follower {
    client: Client,
    scopes: Vec<Scope>,
    memory: Arc<Memory>,
    listed: Option<oneshot::Sender<()>>,
    ended: CancellationToken,
    unlisted: Option<Gauge>,
    patience: Duration,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// What a watch tells.
enum Told {
    Begin,
    There(Box<Stored>),
    Unreadable(Box<Stored>, String),
    Gone(Key, Option<Box<Stored>>),
    End,
    /// Nothing that anybody has to know of.
    Nothing,
}

type Line = (usize, Result<Told, watcher::Error>);

impl Follower {
    pub(super) fn new(
        client: Client,
        namespaces: &[String],
        memory: Arc<Memory>,
        ended: CancellationToken,
    ) -> (Self, oneshot::Receiver<()>) {
        let (listed, heard) = oneshot::channel();
        let places: Vec<Option<String>> =
            if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
        let of = |kind| places.iter().cloned().map(move |namespace| Scope { kind, namespace });
        let scopes: Vec<Scope> = of(Kind::Revision).chain(of(Kind::Function)).collect();
        memory.unlisted.replace(Lists::new(&scopes, lists::PATIENCE).unlisted());
        let patience = lists::PATIENCE;
        (Self { client, scopes, memory, listed: Some(listed), ended, unlisted: None, patience }, heard)
    }

    /// Has the namespaces counted that cannot be listed.
    #[must_use]
    pub fn measured(mut self, metrics: &Registry) -> Self {
        let help = "Namespaces that are followed and could not be listed yet: what they hold is unknown.";
        self.unlisted = Some(metrics.gauge("hearth_store_unlisted_namespaces", help));
        self
    }

    /// Waits so long for a namespace that refuses to be listed, before it says that there is no more to wait for.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Follows of which namespaces it is not known what they hold ([`Store::unlisted`](crate::store::Store::unlisted)). What was in one that is known
    /// now is in the store before this changes.
    #[must_use]
    pub fn unlisted(&self) -> watch::Receiver<BTreeSet<String>> {
        self.memory.unlisted.follow()
    }

    /// Follows the API server until the store is closed. Never gives up: an API server that is away is asked again, ever more seldom.
    pub async fn run(mut self) {
        let mut lines: SelectAll<BoxStream<'static, Line>> = SelectAll::new();
        let mut after_revisions: BTreeMap<Option<String>, Arc<Notify>> = BTreeMap::new();
        for (index, scope) in self.scopes.iter().enumerate() {
            let turn = Arc::clone(after_revisions.entry(scope.namespace.clone()).or_default());
            let (client, namespace) = (self.client.clone(), scope.namespace.clone());
            lines.push(match scope.kind {
                Kind::Revision => follow::<Revision>(index, client, namespace.as_deref()),
                Kind::Function => {
                    let functions = async move {
                        turn.notified().await;
                        follow::<Function>(index, client, namespace.as_deref())
                    };
                    functions.flatten_stream().boxed()
                }
            });
        }
        let mut lists = Lists::new(&self.scopes, self.patience);
        // A watch that fails goes on failing, as a rule.
        let said = Seldom::new();
        loop {
            let now = Instant::now();
            let due = lists.due(now).filter(|_| self.listed.is_some());
            let (index, told) = tokio::select! {
                () = self.ended.cancelled() => return,
                line = lines.next() => match line {
                    Some(line) => line,
                    // They have no end of their own.
                    None => return,
                },
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                    self.tell_of(&lists);
                    continue;
                }
            };
            let Some(scope) = self.scopes.get(index) else { continue };
            match told {
                Ok(told) => {
                    let is_end = matches!(told, Told::End);
                    self.note(scope, told);
                    if !is_end {
                        continue;
                    }
                    lists.listed(scope);
                    if let Some(turn) = after_revisions.get(&scope.namespace) {
                        turn.notify_one();
                    }
                }
                Err(error) => {
                    lists.failed(scope, is_refusal(&error), Instant::now());
                    if said.is_news(()) {
                        let error = crate::telemetry::chain(&error);
                        let what = scope.kind.plural();
                        tracing::warn!(what, error, "a watch was lost: it begins again");
                    }
                }
            }
            self.tell_of(&lists);
        }
    }

    /// Says of which namespaces it is not known what they hold, and that there is no more to wait for when that is so.
    fn tell_of(&mut self, lists: &Lists) {
        let unlisted = lists.unlisted();
        if let Some(gauge) = &self.unlisted {
            gauge.set(i64::try_from(unlisted.len()).unwrap_or(i64::MAX));
        }
        let before = self.memory.unlisted.replace(unlisted.clone());
        if self.listed.is_none() && before != unlisted {
            tracing::info!(namespaces = ?before.difference(&unlisted), "namespaces that could not be listed are known now");
        }
        if !lists.are_enough(Instant::now()) {
            return;
        }
        let Some(listed) = self.listed.take() else { return };
        if !unlisted.is_empty() {
            tracing::warn!(
                namespaces = ?unlisted,
                "these namespaces cannot be listed, and are not waited for any longer: were they deleted? What they hold is not known, and nothing is \
                 cleaned up until it is: give the controller and the gateways their rights there, or no longer name them to be watched"
            );
        }
        let _nobody_waits = listed.send(()).is_err();
    }

    fn note(&self, scope: &Scope, told: Told) {
        match told {
            Told::Begin => self.memory.begin(scope),
            Told::There(object) => self.memory.arrive(*object),
            Told::Unreadable(placeholder, error) => {
                let key = placeholder.key();
                tracing::warn!(kind = %key.kind, name = key.qualified(), error, "an object cannot be read");
                self.memory.arrive_unreadable(*placeholder, &error);
            }
            Told::Gone(key, last) => self.memory.leave(&key, last.as_deref(), From::Watch),
            Told::End => self.memory.end(scope),
            Told::Nothing => {}
        }
    }
}

/// Whether the API server has said no: the right, the namespace or the definition is not there.
fn is_refusal(error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else { return false };
    matches!(status.code, 403 | 404)
}

/// One watch.
fn follow<O: Object>(index: usize, client: Client, namespace: Option<&str>) -> BoxStream<'static, Line> {
    let api: Api<Read<O>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let told = watcher(api, watcher::Config::default()).default_backoff();
    let lines = told.map(move |event| (index, event.map(|event| tell(event))));
    let lines: Pin<Box<dyn futures_util::Stream<Item = Line> + Send>> = Box::pin(lines);
    lines
}

fn tell<O: Object>(event: Event<Read<O>>) -> Told {
    match event {
        Event::Init => Told::Begin,
        Event::InitDone => Told::End,
        Event::Apply(Read(Ok(object))) | Event::InitApply(Read(Ok(object))) => {
            Told::There(Box::new(O::wrap(Arc::new(object))))
        }
        Event::Apply(Read(Err(invalid))) | Event::InitApply(Read(Err(invalid))) => {
            let Unreadable { why, metadata } = invalid;
            let placeholder = O::unreadable(metadata, &why);
            placeholder.map_or(Told::Nothing, |placeholder| {
                Told::Unreadable(Box::new(O::wrap(Arc::new(placeholder))), why)
            })
        }
        Event::Delete(Read(Ok(object))) => {
            let last = O::wrap(Arc::new(object));
            Told::Gone(last.key(), Some(Box::new(last)))
        }
        Event::Delete(Read(Err(invalid))) => {
            let Unreadable { why, metadata } = invalid;
            let last = O::unreadable(metadata, &why).map(|object| O::wrap(Arc::new(object)));
            last.map_or(Told::Nothing, |last| Told::Gone(last.key(), Some(Box::new(last))))
        }
    }
}
