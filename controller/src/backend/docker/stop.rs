//! The end of an instance: thawing, stopping, taking away.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions};
use hearth_function::InstanceId;

use super::container;
use super::engine::is_away;
use super::events::is_gone;
use super::instance::Instance;
use super::{Life, Shared, is_done_already};
use crate::backend::local::blocking;
use crate::backend::local::directory::Directory;
use crate::backend::{Error, Exit};

/// After its container is gone, how long the engine may take to tell of the end.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// While somebody else takes a container away: how often it is looked, and how long at most.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const GONE_WITHIN: Duration = Duration::from_secs(10);

impl Shared {
    /// Waits for a start that runs to be over.
    pub(super) async fn settled(&self, id: &InstanceId) {
        loop {
            let starting = match self.books().get(id) {
                Some(Life::Starting(over, _)) => over.clone(),
                _ => return,
            };
            let mut over = starting;
            // Closed by the end of the start, however it ends.
            while over.changed().await.is_ok() {}
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn thaw(&self, instance: &Instance) -> Result<(), EngineError> {
        if !instance.paused.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.engine.api.unpause_container(&self.container(&instance.id)).await {
            Err(error) if !is_not_paused(&error) => return Err(error),
            _ => instance.paused.store(false, Ordering::Release),
        }
        Ok(())
    }

    /// Ends an instance that is not starting, and takes away what is left of it.
    pub(super) async fn stop(self: &Arc<Self>, id: &InstanceId, grace: Duration) -> Result<(), Error> {
        let step = |error: EngineError| match self.step("stop the container", id, &error) {
            Error::NotFound(_) => unreachable_step(id),
            error => error,
        };
        let Some(instance) = self.find(id) else {
            self.remove(id).await.map_err(step)?;
            return self.clear(id, Directory::of(&self.place.directory, id)).await;
        };
        instance.stopping.store(true, Ordering::Release);
        if !instance.has_ended() {
            match self.thaw(&instance).await {
                Err(error) if is_away(&error) => return Err(step(error)),
                // It has ended meanwhile, or is being taken away; to be killed is next.
                _ => {}
            }
            if !grace.is_zero() {
                match self.kill(id).await {
                    Err(error) if is_away(&error) => return Err(step(error)),
                    Err(_) => {}
                    Ok(()) => drop(tokio::time::timeout(grace, instance.ended()).await),
                }
            }
        }
        self.remove(id).await.map_err(step)?;
        // The record of its end is in its directory, and is read when the engine tells.
        if tokio::time::timeout(TOLD_WITHIN, instance.ended()).await.is_err() {
            let exit = container::conclusion(instance.directory.read_exit::<Exit>(), None, false);
            self.end(&instance, exit).await;
        }
        self.clear(id, instance.directory.clone()).await?;
        self.books().remove(id);
        Ok(())
    }

    async fn kill(&self, id: &InstanceId) -> Result<(), EngineError> {
        let options = KillContainerOptions { signal: "SIGTERM".to_owned() };
        self.engine.api.kill_container(&self.container(id), Some(options)).await
    }

    /// Kills and takes the container away; one that is gone is no error.
    pub(super) async fn remove(&self, id: &InstanceId) -> Result<(), EngineError> {
        let container = self.container(id);
        let deadline = tokio::time::Instant::now() + GONE_WITHIN;
        loop {
            let options =
                RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
            match self.engine.api.remove_container(&container, Some(options)).await {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                // Somebody else takes it away at this moment.
                Err(error) if is_done_already(&error) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn clear(&self, id: &InstanceId, directory: Directory) -> Result<(), Error> {
        blocking(move || directory.remove()).await.map_err(|source| Error::Step {
            step: "take away what is left",
            instance: id.clone(),
            source,
        })
    }
}

/// Whether an engine says that a container was not paused: each in its own way.
fn is_not_paused(error: &EngineError) -> bool {
    let said = super::plain(error);
    said.contains("is not paused") || said.contains("can't be unpaused")
}

fn unreachable_step(id: &InstanceId) -> Error {
    let source = io::Error::from(io::ErrorKind::NotFound);
    Error::Step { step: "stop the container", instance: id.clone(), source }
}
