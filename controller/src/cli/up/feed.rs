//! What comes from the server: the functions as they change, and what they print.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use kube::ResourceExt;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use hearth_function::Function;

use super::super::client::Server;
use super::super::error::Error;
use super::super::logs;
use crate::api::ports::LogLine;

/// Namespace and name.
pub(super) type Key = (String, String);

/// Before a log that ended is followed again.
const AGAIN: Duration = Duration::from_secs(1);

/// The watcher tries again by itself; after so many failures in a row there is no server any more.
const FAILURES: u32 = 10;

/// Something to show.
#[derive(Debug)]
pub(super) enum News {
    /// A function is new or has changed.
    Function(Box<Function>),
    /// A function is gone.
    Deleted(Key),
    /// A function printed a line.
    Line(String, LogLine),
    /// There is no server any more.
    Lost(Error),
}

/// Tells of every function until nobody listens.
pub(super) async fn functions(server: Server, news: Sender<News>) {
    let mut events = pin!(watcher(server.functions(None), watcher::Config::default()));
    let mut failures = 0;
    loop {
        let item = match events.try_next().await {
            Ok(Some(watcher::Event::Apply(function) | watcher::Event::InitApply(function))) => {
                News::Function(Box::new(function))
            }
            Ok(Some(watcher::Event::Delete(function))) => {
                News::Deleted((function.namespace().unwrap_or_default(), function.name_any()))
            }
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => continue,
            Ok(None) => return,
            Err(error) => {
                failures += 1;
                if failures < FAILURES {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                News::Lost(Error::failed(format!("lost the server: {}", crate::telemetry::chain(&error))))
            }
        };
        failures = 0;
        if news.send(item).await.is_err() {
            return;
        }
    }
}

/// Follows the logs of the functions that there are.
pub(super) struct Feed {
    server: Server,
    news: Sender<News>,
    quiet: bool,
    tasks: JoinSet<()>,
    followed: BTreeMap<Key, AbortHandle>,
}

impl Feed {
    pub(super) fn new(server: Server, news: Sender<News>, quiet: bool) -> Self {
        Self { server, news, quiet, tasks: JoinSet::new(), followed: BTreeMap::new() }
    }

    /// Shows what this function prints from now on.
    pub(super) fn follow(&mut self, key: &Key) {
        // Those that ended have nothing to say.
        while self.tasks.try_join_next().is_some() {}
        if self.quiet || self.followed.contains_key(key) {
            return;
        }
        let handle = self.tasks.spawn(lines(self.server.clone(), key.clone(), self.news.clone()));
        self.followed.insert(key.clone(), handle);
    }

    /// The function is gone.
    pub(super) fn leave(&mut self, key: &Key) {
        if let Some(handle) = self.followed.remove(key) {
            handle.abort();
        }
    }
}

async fn lines(server: Server, (namespace, name): Key, news: Sender<News>) {
    let path = format!("/apis/hearth.dev/v1/namespaces/{namespace}/functions/{name}/logs?follow=true&tail=0");
    while !news.is_closed() {
        // The channel may be full: lines are taken over one by one, and the server keeps the rest.
        let (lines, mut taken) = tokio::sync::mpsc::channel(1);
        let follow = logs::follow_into(&server, &path, lines);
        let hand_on = async {
            while let Some(line) = taken.recv().await {
                if news.send(News::Line(name.clone(), line)).await.is_err() {
                    return;
                }
            }
        };
        // A log that breaks off is followed again: the function may have been deleted and be back.
        let (_ended, ()) = tokio::join!(follow, hand_on);
        tokio::time::sleep(AGAIN).await;
    }
}
