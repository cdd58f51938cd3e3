//! Opening, finding what is there already, and closing.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptions};
use hearth_function::InstanceId;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::{Engine, plain};
use super::events::{self, containers, instance_of, lives};
use super::instance::{Instance, Record};
use super::way::Ways;
use super::{Config, Docker, Here, Shared, container, image, network};
use crate::backend::ends::Ends;
use crate::backend::local::directory::Directory;
use crate::backend::local::network::{Bridge, LOOK_AGAIN, Separation, Setup};
use crate::backend::local::{blocking, records, root, tag};
use crate::backend::{Error, Exit, Found, OpenError};

impl Docker {
    /// Connects to the engine and makes the machine ready for instances: takes away what a killed controller of this data directory left
    /// half made (not its instances: `Backend::list` finds them), makes the bridge and the firewall's rules, listens to the engine.
    ///
    /// # Errors
    /// When not root, when no engine answers or it cannot be used, or when a step fails. A machine without networks opens: instances with
    /// `outbound` are refused then.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::Unsupported {
                what: "mount into containers as an ordinary user".to_owned(),
                remedy: "start hearth as root (sudo)".to_owned(),
            });
        }
        let engine = Engine::connect(config.host.as_deref()).await?;
        if engine.about.rootless {
            return Err(OpenError::Unsupported {
                what: format!("use the rootless engine at unix://{}", engine.socket.display()),
                remedy: "use one that runs as root: code and sockets are mounted, and the network's rules are the machine's".to_owned(),
            });
        }
        let parallel = config.parallel_starts.max(1);
        let (place, roots_dir) = blocking({
            let config = config.clone();
            move || here(&config)
        })
        .await?;
        sweep(&engine, &place).await?;
        let bridge = open_bridge(&config, &engine, &place.tag).await;
        if let Err(error) = &bridge {
            tracing::warn!(error, "no networks here: instances with network outbound will be refused");
        }
        let gateway = bridge.as_ref().ok().map(|bridge| bridge.gateway);
        let roots = root::Roots::new(&roots_dir, config.shim_dir, gateway);
        let (end, ends) = Ends::channel();
        let closing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let images = image::Images::new(engine.api.clone(), place.tag.clone(), config.pull_timeout, &tasks);
        let shared = Arc::new(Shared {
            engine,
            place,
            roots,
            images,
            way: if config.tcp { Ways::ports() } else { Ways::default() },
            bridge,
            instances: Mutex::default(),
            end,
            tasks,
            look: Arc::new(Notify::new()),
            closing: closing.clone(),
        });
        let listening = events::listen(Arc::downgrade(&shared), shared.engine.api.clone());
        let stop = closing.clone();
        shared.tasks.spawn(async move {
            tokio::select! {
                () = listening => {}
                () = stop.cancelled() => {}
            }
        });
        shared.follow_others();
        Ok(Arc::new(Self {
            shared,
            ends,
            starts: Arc::new(Semaphore::new(parallel)),
            _listening: closing.drop_guard(),
        }))
    }
}

/// The tag and the directories, made.
fn here(config: &Config) -> Result<(Here, std::path::PathBuf), OpenError> {
    let step = |step: String| move |source: io::Error| OpenError::Step { step, source };
    let data_dir =
        fs::canonicalize(&config.data_dir).map_err(step(format!("open {}", config.data_dir.display())))?;
    let tag = tag(&data_dir);
    let directory = config.run_dir.join(format!("{tag}-docker"));
    fs::create_dir_all(&directory).map_err(step(format!("make {}", directory.display())))?;
    fs::create_dir_all(data_dir.join("roots")).map_err(step("make the directory of roots".to_owned()))?;
    Ok((Here { tag, directory }, data_dir))
}

async fn open_bridge(config: &Config, engine: &Engine, tag: &str) -> Result<Bridge, String> {
    let gateway = network::ensure(&engine.api, tag)
        .await
        .map_err(|reason| format!("the engine's network: {reason}"))?;
    let mut ports = vec![config.gateway_port];
    ports.extend(&config.host_ports);
    let setup = Setup {
        name: network::bridge(tag),
        tag: tag.to_owned(),
        run_dir: config.run_dir.clone(),
        ports,
        interfaces: config.interfaces.clone(),
        separation: Separation::ByRule,
        gateway: Some(gateway),
    };
    match blocking(move || Bridge::open(setup)).await {
        Ok(bridge) => Ok(bridge),
        Err(error) => {
            if let Err(error) = network::remove(&engine.api, tag).await {
                tracing::warn!(error = plain(&error), "the engine's network stays");
            }
            Err(error.to_string())
        }
    }
}

/// Takes away starts that a killed controller did not complete.
async fn sweep(engine: &Engine, place: &Here) -> Result<(), OpenError> {
    let step = |error: bollard::errors::Error| OpenError::Step {
        step: format!("look for containers of an earlier run at unix://{}", engine.socket.display()),
        source: io::Error::other(plain(&error)),
    };
    let complete = |id: &InstanceId| {
        let directory = Directory::of(&place.directory, id);
        directory.read_record::<Record>().is_some() && directory.read_spec().is_some()
    };
    for container in containers(&engine.api, &place.tag).await.map_err(step)? {
        let known = instance_of(&container).and_then(|name| InstanceId::parse(name).ok());
        if known.is_some_and(|id| complete(&id)) {
            continue;
        }
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let name = container.id.unwrap_or_default();
        if let Err(error) = engine.api.remove_container(&name, Some(options)).await {
            tracing::warn!(container = name, error = plain(&error), "cannot take away an unfinished start");
        }
    }
    for (id, directory) in records(&place.directory) {
        if !complete(&id)
            && let Err(error) = directory.remove()
        {
            tracing::warn!(instance = %id, %error, "cannot take away an unfinished start");
        }
    }
    Ok(())
}

impl Shared {
    /// Looks now and then whether somebody else's firewall or the host's ways out have changed.
    fn follow_others(self: &Arc<Self>) {
        let (weak, closing) = (Arc::downgrade(self), self.closing.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = closing.cancelled() => return,
                }
                let Some(shared) = weak.upgrade() else { return };
                blocking(move || {
                    if let Ok(bridge) = &shared.bridge {
                        bridge.look_at_others();
                    }
                })
                .await;
            }
        });
    }

    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<Found>, Error> {
        let containers =
            containers(&self.engine.api, &self.place.tag).await.map_err(|error| Error::Unsupported {
                what: format!(
                    "list containers at unix://{} ({})",
                    self.engine.socket.display(),
                    plain(&error)
                ),
                remedy: "start the engine".to_owned(),
            })?;
        let directory = self.place.directory.clone();
        let mut list = Vec::new();
        let mut adopted = false;
        for (id, directory) in blocking(move || records(&directory).collect::<Vec<_>>()).await {
            if let Some(instance) = self.find(&id) {
                if let (Some(spec), Some(record)) = (directory.read_spec(), instance.record.get()) {
                    let ended = *instance.end.borrow();
                    let started = record.started.clone();
                    list.push(Found { spec, started, ended, leaving: false });
                }
                continue;
            }
            if self.any(id.as_str()).is_some() {
                // Its start runs.
                continue;
            }
            let container = containers.iter().find(|one| instance_of(one) == Some(id.as_str()));
            let found = self.adopt(id, directory, container).await;
            adopted |= found.as_ref().is_some_and(|found| found.ended.is_none());
            list.extend(found);
        }
        if adopted {
            // One that ended between the list and the books was told of to nobody.
            self.look.notify_one();
        }
        Ok(list)
    }

    /// Takes up an instance that this controller did not start.
    async fn adopt(
        self: &Arc<Self>,
        id: InstanceId,
        directory: Directory,
        container: Option<&ContainerSummary>,
    ) -> Option<Found> {
        let (spec, record) = (directory.read_spec()?, directory.read_record::<Record>()?);
        let started = record.started.clone();
        let Some(container) = container.filter(|container| lives(container)) else {
            let state = match container {
                Some(_) => {
                    let name = self.container(&id);
                    let found =
                        self.engine.api.inspect_container(&name, None::<InspectContainerOptions>).await;
                    found.ok().and_then(|found| found.state)
                }
                None => None,
            };
            let code = state.as_ref().and_then(|state| state.exit_code);
            let starved = state.and_then(|state| state.oom_killed).unwrap_or(false);
            let exit = container::conclusion(directory.read_exit::<Exit>(), code, starved);
            return Some(Found { spec, started, ended: Some(exit), leaving: false });
        };
        let instance = Instance::new(id, directory, spec.code.is_some());
        let paused = container.state == Some(ContainerSummaryStateEnum::PAUSED);
        instance.paused.store(paused, Ordering::Release);
        instance.record.set(record).ok();
        let instance = Arc::new(instance);
        self.enter(Arc::clone(&instance));
        if self.engine.about.is_podman() {
            self.tasks.spawn(Arc::clone(self).attend(instance));
        }
        Some(Found { spec, started, ended: None, leaving: false })
    }

    /// Takes away what was made of the machine.
    pub(super) fn close(&self) {
        if let Ok(bridge) = &self.bridge
            && let Err(error) = bridge.close()
        {
            tracing::warn!(%error, bridge = bridge.name, "cannot take the network away");
        }
        // Not empty while an instance is there; then it stays for whoever comes next.
        fs::remove_dir(&self.place.directory).ok();
        self.place.directory.parent().and_then(|run_dir: &Path| fs::remove_dir(run_dir).ok());
    }
}
