//! From changed files to changed functions: reads, packs, applies what differs, deletes what is named no more.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use tokio::task::JoinSet;

use hearth_function::Function;

use super::super::apply::{self, Outcome, UP_LABEL};
use super::super::client::Server;
use super::super::error::Error;
use super::super::manifest::{self, Manifest};
use super::feed::Key;
use super::screen::Screen;

/// What became of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    applied: Vec<(String, Outcome)>,
    failed: Vec<(String, Error)>,
    deleted: Vec<String>,
}

/// Brings the server to what the files say, one round at a time.
pub(super) struct Reloader {
    server: Server,
    paths: Vec<PathBuf>,
    /// What the last round applied.
    ours: BTreeMap<Key, ()>,
    /// What the next round is to apply; a later reading takes the place of an earlier.
    next: Option<Vec<Manifest>>,
    round: JoinSet<Round>,
    first: bool,
    /// The files had errors when they were read last.
    broken: bool,
}

impl Reloader {
    pub(super) fn new(server: Server, paths: Vec<PathBuf>) -> Self {
        Self {
            server,
            paths,
            ours: BTreeMap::new(),
            next: None,
            round: JoinSet::new(),
            first: true,
            broken: false,
        }
    }

    /// Takes away what an earlier `up` left and these manifests do not name.
    pub(super) async fn sweep(&mut self, manifests: &[Manifest], screen: &mut Screen) -> Result<(), Error> {
        let left = ListParams::default().labels(UP_LABEL);
        let functions =
            self.server.functions(None).list(&left).await.map_err(|error| self.server.explain(&error))?;
        for function in functions {
            let key = (function.namespace().unwrap_or_default(), function.name_any());
            if !manifests.iter().any(|manifest| self.key(manifest) == key) {
                screen.remark(&format!("{}: removed, an earlier `up` had it", key.1))?;
                delete(&self.server, &key).await?;
            }
        }
        Ok(())
    }

    /// Reads the manifests again; `None` when they have errors, which are shown. Standard input was read once and stays as it was.
    pub(super) fn read(&mut self, screen: &mut Screen) -> Result<Option<Vec<Manifest>>, Error> {
        let files: Vec<PathBuf> = self.paths.iter().filter(|path| path.as_os_str() != "-").cloned().collect();
        match manifest::read_all(&files, manifest::Sources::Needed) {
            Ok(manifests) => {
                if std::mem::take(&mut self.broken) {
                    screen.remark("The manifests are in order again.")?;
                }
                Ok(Some(manifests))
            }
            Err(error) => {
                self.broken = true;
                screen.error(&error)?;
                screen.remark("Nothing is changed until this is mended.")?;
                Ok(None)
            }
        }
    }

    /// Applies these manifests as soon as the round that runs has ended.
    pub(super) fn begin(&mut self, manifests: Vec<Manifest>, screen: &mut Screen) {
        self.next = Some(manifests);
        self.run_next(screen);
    }

    fn run_next(&mut self, screen: &mut Screen) {
        if !self.round.is_empty() {
            return;
        }
        let Some(manifests) = self.next.take() else { return };
        let before = std::mem::take(&mut self.ours);
        self.ours = manifests.iter().map(|manifest| (self.key(manifest), ())).collect();
        let gone = before.into_keys().filter(|key| !self.ours.contains_key(key)).collect();
        screen.changing(true);
        self.round.spawn(round(self.server.clone(), manifests, gone));
    }

    fn key(&self, manifest: &Manifest) -> Key {
        (
            manifest.function.namespace().unwrap_or_else(|| self.server.namespace().to_owned()),
            manifest.function.name_any(),
        )
    }

    /// The round that runs, when it has ended. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Result<Round, Error> {
        match self.round.join_next().await {
            Some(Ok(round)) => Ok(round),
            Some(Err(error)) => Err(Error::failed(format!("applying failed: {error}"))),
            None => std::future::pending().await,
        }
    }

    /// Shows what became of a round and how that left `functions`, and begins the next if one is wanted.
    pub(super) fn settle(
        &mut self,
        round: Result<Round, Error>,
        functions: &BTreeMap<Key, Function>,
        screen: &mut Screen,
    ) -> Result<(), Error> {
        let Round { applied, failed, deleted } = round?;
        for (name, outcome) in applied {
            match outcome {
                Outcome::Configured if !self.first => {
                    screen.remark(&format!("{name}: changed, making a new revision"))?
                }
                Outcome::Created if !self.first => screen.remark(&format!("{name}: added"))?,
                Outcome::Adjusted if !self.first => {
                    screen.remark(&format!("{name}: changed, its revision stays"))?
                }
                Outcome::Created
                | Outcome::Configured
                | Outcome::Adjusted
                | Outcome::Retried
                | Outcome::Unchanged => {}
            }
        }
        for name in deleted {
            screen.remark(&format!("{name}: removed"))?;
        }
        for (name, error) in failed {
            screen.remark(&format!("{name}:"))?;
            screen.error(&error)?;
        }
        self.first = false;
        screen.changing(false);
        screen.functions(functions)?;
        self.run_next(screen);
        Ok(())
    }
}

async fn round(server: Server, manifests: Vec<Manifest>, gone: Vec<Key>) -> Round {
    let mut round = Round::default();
    for mut manifest in manifests {
        manifest.function.labels_mut().insert(UP_LABEL.to_owned(), "true".to_owned());
        let name = manifest.function.name_any();
        match apply::one(&server, &manifest, server.namespace()).await {
            Ok((_, outcome)) => round.applied.push((name, outcome)),
            Err(error) => round.failed.push((name, error)),
        }
    }
    for key in gone {
        match delete(&server, &key).await {
            Ok(()) => round.deleted.push(key.1),
            Err(error) => round.failed.push((key.1, error)),
        }
    }
    round
}

async fn delete(server: &Server, (namespace, name): &Key) -> Result<(), Error> {
    match server.functions(Some(namespace)).delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(server.explain(&error)),
    }
}
