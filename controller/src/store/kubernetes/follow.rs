//! The watches: one for each kind and namespace. What they tell goes into memory; one that is lost begins again with a list, after a pause.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use hearth_function::{Function, Revision};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Seldom;

use super::super::object::{Key, Kind, Object, Stored};
use super::reading::{Read, Unreadable};
use super::{From, Memory, Scope};

/// Keeps memory up to date.
pub struct Follower {
    client: Client,
    scopes: Vec<Scope>,
    memory: Arc<Memory>,
    listed: Option<oneshot::Sender<()>>,
    ended: CancellationToken,
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
        // Revisions first: when a Function is heard of, what it has is known as a rule.
        let scopes = of(Kind::Revision).chain(of(Kind::Function)).collect();
        (Self { client, scopes, memory, listed: Some(listed), ended }, heard)
    }

    /// Follows the API server until the store is closed. Never gives up: an API server that is away is asked again, ever more seldom.
    pub async fn run(mut self) {
        let mut lines: SelectAll<BoxStream<'static, Line>> = SelectAll::new();
        for (index, scope) in self.scopes.iter().enumerate() {
            let namespace = scope.namespace.as_deref();
            lines.push(match scope.kind {
                Kind::Function => follow::<Function>(index, self.client.clone(), namespace),
                Kind::Revision => follow::<Revision>(index, self.client.clone(), namespace),
            });
        }
        let mut unlisted: BTreeSet<usize> = (0..self.scopes.len()).collect();
        // A watch that fails goes on failing, as a rule.
        let said = Seldom::new();
        loop {
            let (index, told) = tokio::select! {
                () = self.ended.cancelled() => return,
                line = lines.next() => match line {
                    Some(line) => line,
                    // They have no end of their own.
                    None => return,
                },
            };
            let Some(scope) = self.scopes.get(index) else { continue };
            match told {
                Ok(told) => {
                    if matches!(told, Told::End) {
                        unlisted.remove(&index);
                    }
                    self.note(scope, told);
                }
                Err(error) => {
                    if said.is_news(()) {
                        let error = crate::telemetry::chain(&error);
                        let what = scope.kind.plural();
                        tracing::warn!(what, error, "a watch was lost: it begins again");
                    }
                }
            }
            if unlisted.is_empty()
                && let Some(listed) = self.listed.take()
            {
                let _nobody_waits = listed.send(()).is_err();
            }
        }
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
