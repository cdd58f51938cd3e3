//! Changes of manifests and sources on disk: gathered until they settle.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::apply::is_ignored;
use super::super::error::Error;
use super::super::manifest::Manifest;
use super::screen::Screen;

/// A save is several events, and a `git checkout` hundreds: no reload before it is quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// However busy it is, a reload comes after this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Follows files.
pub(super) struct Files {
    watcher: Option<RecommendedWatcher>,
    /// One waiting mark is enough: it says only that something changed.
    marks: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    watched: BTreeSet<(PathBuf, bool)>,
    enabled: bool,
    settling: Option<Settling>,
}

impl Files {
    pub(super) fn new() -> Self {
        let (sender, marks) = mpsc::channel(1);
        Self { watcher: None, marks, sender, watched: BTreeSet::new(), enabled: true, settling: None }
    }

    /// Follows nothing.
    pub(super) fn none() -> Self {
        Self { enabled: false, ..Self::new() }
    }

    /// Follows the manifests, the directories they were found in, and their sources.
    pub(super) fn follow(
        &mut self,
        paths: &[PathBuf],
        manifests: &[Manifest],
        screen: &mut Screen,
    ) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let wanted = wanted(paths, manifests);
        if wanted == self.watched {
            return Ok(());
        }
        match watch(&wanted, self.sender.clone()) {
            // The new watcher is there before the old one goes: no change falls between.
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => screen.remark(&format!(
                "Changes of files are not noticed: {error}. If it is the limit of watches: sysctl fs.inotify.max_user_watches=524288"
            ))?,
        }
        self.watched = wanted;
        Ok(())
    }

    /// Returns when something changed and has settled.
    ///
    /// # Cancel safety
    /// What was noticed stays noticed: how far it has settled is kept here and not in the future.
    pub(super) async fn changed(&mut self) {
        loop {
            let mark = match self.settling {
                None => self.marks.recv().await,
                Some(settling) => match tokio::time::timeout_at(settling.end(), self.marks.recv()).await {
                    Ok(mark) => mark,
                    Err(_) => {
                        self.settling = None;
                        return;
                    }
                },
            };
            if mark.is_none() {
                // `sender` is ours, so the channel is never closed.
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            self.settling =
                Some(Settling { first: self.settling.map_or(now, |settling| settling.first), last: now });
        }
    }
}

/// Changes that are still coming in.
#[derive(Debug, Clone, Copy)]
struct Settling {
    first: Instant,
    last: Instant,
}

impl Settling {
    fn end(self) -> Instant {
        (self.last + QUIET).min(self.first + PATIENCE)
    }
}

/// Directories to watch, and whether with all below.
fn wanted(paths: &[PathBuf], manifests: &[Manifest]) -> BTreeSet<(PathBuf, bool)> {
    let parent = |path: &Path| {
        path.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."))
            .to_owned()
    };
    let given = paths
        .iter()
        .filter(|path| path.as_os_str() != "-")
        .map(|path| if path.is_dir() { path.clone() } else { parent(path) });
    let found = manifests.iter().filter_map(|manifest| manifest.file.as_deref()).map(parent);
    let sources = manifests.iter().filter_map(Manifest::source_directory).map(|directory| (directory, true));
    let flat = given.chain(found).map(|directory| (directory, false));
    let canonical = |(path, deep): (PathBuf, bool)| Some((path.canonicalize().ok()?, deep));
    flat.chain(sources).filter_map(canonical).collect()
}

fn watch(wanted: &BTreeSet<(PathBuf, bool)>, marks: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let roots: Vec<PathBuf> = wanted.iter().map(|(path, _)| path.clone()).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let of_interest = match &event {
            // Reading is no change.
            Ok(event) => {
                !matches!(event.kind, EventKind::Access(_))
                    && !event.paths.iter().all(|path| is_ignored(below(path, &roots)))
            }
            // Events were lost: look.
            Err(_) => true,
        };
        if of_interest {
            // Full: a mark is waiting already.
            let _mark_waits = marks.try_send(()).is_err();
        }
    })?;
    for (path, deep) in wanted {
        let covered = wanted.iter().any(|(other, other_deep)| {
            *other_deep && (other, *other_deep) != (path, *deep) && path.starts_with(other)
        });
        if !covered {
            watcher
                .watch(path, if *deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive })?;
        }
    }
    Ok(watcher)
}

/// The part of a path below the nearest of the watched directories: what those themselves are called is nobody's business.
fn below<'a>(path: &'a Path, roots: &[PathBuf]) -> &'a Path {
    let parts = roots.iter().filter_map(|root| path.strip_prefix(root).ok());
    parts.min_by_key(|part| part.components().count()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_watched_directories_decides_whether_a_change_is_of_interest() {
        let roots = [PathBuf::from("/home/ada/backup~"), PathBuf::from("/home/ada/backup~/.git/hello")];
        let ignored = |path: &str| is_ignored(below(Path::new(path), &roots));
        assert!(!ignored("/home/ada/backup~/index.js") && !ignored("/home/ada/backup~/.git/hello/index.js"));
        assert!(ignored("/home/ada/backup~/.git/HEAD") && ignored("/home/ada/backup~/index.js~"));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_told_once_when_they_have_settled() {
        let mut files = Files::new();
        let begin = Instant::now();
        files.sender.send(()).await.unwrap();
        files.changed().await;
        assert_eq!(begin.elapsed(), QUIET);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), files.changed()).await.is_err(),
            "nothing more changed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_not_lost_while_others_are_served_first() {
        let mut files = Files::new();
        files.sender.send(()).await.unwrap();
        // As in the loop of `up`: the future is dropped whenever something else happens.
        let step = QUIET / 4;
        let mut dropped = 0;
        while tokio::time::timeout(step, files.changed()).await.is_err() {
            dropped += 1;
        }
        assert_eq!(dropped, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_changes_does_not_hold_a_reload_up_for_ever() {
        let mut files = Files::new();
        let sender = files.sender.clone();
        let begin = Instant::now();
        let busy = async {
            loop {
                sender.send(()).await.unwrap();
                tokio::time::sleep(QUIET / 2).await;
            }
        };
        tokio::select! {
            () = files.changed() => assert_eq!(begin.elapsed(), PATIENCE),
            () = busy => unreachable!("it never ends"),
        }
    }
}
