//! One start, from the specification to a running shim.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions, StartContainerOptions,
};
use hearth_function::InstanceId;
use hearth_protocol::ShimConfig;

use super::container::{self, Place};
use super::engine::{is_away, plain, status};
use super::instance::{Instance, Record};
use super::way::Way;
use super::{Shared, image, network};
use crate::backend::local::directory::Directory;
use crate::backend::local::{blocking, open_files, shim, watch};
use crate::backend::{Address, Error, InstanceSpec, Limits, Network, Process, Root, Started};

/// The kernel's own default.
const PID_MAX: u64 = 32_768;

/// Processes that this process's own user may have, and no more than the kernel has numbers for: so many has Podman itself.
fn processes() -> u64 {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum;
    let numbers = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let numbers = numbers.trim().parse().unwrap_or(PID_MAX);
    own.map_or(numbers, |own| own.min(numbers))
}

/// There is no such image.
pub(super) fn missing(what: &str) -> Error {
    Error::Invalid {
        what: what.to_owned(),
        remedy: "correct the image's name, see that the engine reaches its registry (docker pull), or load it into the engine \
                 (docker load)"
            .to_owned(),
    }
}

/// Why a start has come to nothing.
enum Unmade {
    /// There is a container of that name, which somebody else has made.
    Taken(Error),
    /// Whatever else: what is there of the container is this start's.
    Otherwise(Error),
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self::Otherwise(error)
    }
}

impl Shared {
    /// An instance that is to be started.
    pub(super) fn new_instance(&self, spec: &InstanceSpec) -> Instance {
        let directory = Directory::of(&self.place.directory, &spec.id);
        let instance = Instance::new(spec.id.clone(), directory, spec.code.is_some());
        instance.set_limits(Limits { cpu_millis: None, ..spec.limits });
        instance
    }

    /// Starts an instance that has been entered as starting.
    pub(super) async fn start(
        self: Arc<Self>,
        spec: InstanceSpec,
        instance: Arc<Instance>,
    ) -> Result<Started, Error> {
        match self.launch(&spec, &instance).await {
            Ok(started) => {
                self.enter(Arc::clone(&instance));
                if spec.code.is_none() || self.engine.about.is_podman() {
                    // Whoever brings code in needs its process, and is in a hurry then.
                    self.tasks.spawn(Arc::clone(&self).attend(instance));
                }
                Ok(started)
            }
            Err(failed) => {
                // A container that is another's stays.
                if let Unmade::Otherwise(_) = failed {
                    self.remove_container(&instance).await;
                }
                self.remove_directory(&instance).await;
                self.books().remove(&spec.id);
                let (Unmade::Taken(error) | Unmade::Otherwise(error)) = failed;
                Err(error)
            }
        }
    }

    /// Holds the first process, and looks at its end whether memory ran out: Podman does not tell, and its groups are gone when it tells of
    /// the end.
    pub(super) async fn attend(self: Arc<Self>, instance: Arc<Instance>) {
        let Ok(held) = self.hold(&instance).await else { return };
        if !self.engine.about.is_podman() {
            return;
        }
        let shared = Arc::downgrade(&self);
        drop(self);
        let ended = watch::end(&held.process).await;
        if shared.strong_count() > 0 && ended.is_ok() && held.group.out_of_memory() {
            instance.starved.send_replace(true);
        }
    }

    async fn launch(&self, spec: &InstanceSpec, instance: &Arc<Instance>) -> Result<Started, Unmade> {
        if let (Network::Outbound, Err(reason)) = (spec.network, &self.bridge) {
            return Err(Unmade::Otherwise(Error::Unsupported {
                what: format!("give instances a network ({reason})"),
                remedy: "set `network: none`, or see `hearth doctor` for what is missing".to_owned(),
            }));
        }
        let begin = Instant::now();
        let way = self.way.next();
        let record = self.make(spec, instance, way, begin).await?;
        let record = if way == Way::Sockets && self.found_way(instance).await == Way::Ports {
            tracing::warn!(
                "the sockets of containers cannot be connected to from here: instances are reached by TCP"
            );
            self.remove_container(instance).await;
            self.remove_directory(instance).await;
            self.make(spec, instance, Way::Ports, begin).await?
        } else {
            record
        };
        let started = record.started.clone();
        let (directory, written) = (instance.directory.clone(), record.clone());
        blocking(move || directory.record(&written)).await.map_err(|source| Error::Step {
            step: "write down what was started",
            instance: spec.id.clone(),
            source,
        })?;
        // It is set here and nowhere else.
        instance.record.set(record).ok();
        Ok(started)
    }

    /// Makes and starts the container.
    async fn make(
        &self,
        spec: &InstanceSpec,
        instance: &Instance,
        way: Way,
        begin: Instant,
    ) -> Result<Record, Unmade> {
        if way == Way::Ports && spec.network == Network::None {
            return Err(Unmade::Otherwise(Error::Unsupported {
                what: "reach an instance without a network, for its sockets cannot be connected to"
                    .to_owned(),
                remedy: "set `network: outbound`, or use an engine that is not in a virtual machine"
                    .to_owned(),
            }));
        }
        let (image, binds, interpreter) = self.root(spec).await?;
        let mut shim = shim::config(spec, interpreter)?;
        shim.relay = (way == Way::Ports).then_some(container::RELAY);
        self.prepare(spec, instance, shim).await?;
        let prepared = begin.elapsed();

        let place = Place {
            tag: self.place.tag.clone(),
            image,
            binds,
            sockets: instance.directory.sockets(),
            network: network::name(&self.place.tag),
            open_files: open_files(),
            relayed: way == Way::Ports,
            // Podman's own default is more than it may set where it lacks the right to raise limits.
            processes: self.engine.about.is_podman().then(processes),
        };
        let options = CreateContainerOptions {
            name: Some(self.container(&spec.id)),
            ..CreateContainerOptions::default()
        };
        let created = self.engine.api.create_container(Some(options), container::create(spec, &place)).await;
        let container = match created {
            Ok(created) => created.id,
            Err(error) if status(&error) == Some(409) => {
                return Err(Unmade::Taken(Error::name_is_taken(&spec.id)));
            }
            Err(error) => {
                // The image may have gone, and would be had again.
                self.images.forget();
                return Err(Unmade::Otherwise(self.step("create the container", &spec.id, &error)));
            }
        };
        let made = begin.elapsed();
        self.engine
            .api
            .start_container(&container, None::<StartContainerOptions>)
            .await
            .map_err(|error| self.step("start the container", &spec.id, &error))?;
        let create = begin.elapsed();
        tracing::debug!(instance = %spec.id, ?prepared, create = ?(made - prepared), start = ?(create - made), "container started");
        let (invoke, control) = match way {
            Way::Sockets => (instance.directory.invoke(), instance.directory.control()),
            Way::Ports => self.ports(&spec.id, &container).await?,
        };
        Ok(Record { container, started: Started { invoke, control, create } })
    }

    async fn prepare(&self, spec: &InstanceSpec, instance: &Instance, shim: ShimConfig) -> Result<(), Error> {
        let (directory, spec) = (instance.directory.clone(), spec.clone());
        let (id, remapped) = (spec.id.clone(), self.engine.about.remapped);
        let prepared = blocking(move || {
            // Some engines make what is not there.
            for path in
                spec.code.iter().flat_map(|code| std::iter::once(&code.path).chain(&code.dependencies))
            {
                std::fs::metadata(path)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            }
            directory.create(&spec, &shim)?;
            if let Some((user, group)) = remapped {
                directory.give_sockets_to(user, group)?;
            }
            let (user, group) = remapped.unwrap_or((0, 0));
            let own = |root: u32| Some(root.saturating_add(hearth_protocol::config::USER));
            spec.build_dir.iter().try_for_each(|build| std::os::unix::fs::chown(build, own(user), own(group)))
        });
        prepared.await.map_err(|source| Error::Step {
            step: "make the instance's directory",
            instance: id,
            source,
        })
    }

    /// Where the engine has published the ports.
    async fn ports(&self, id: &InstanceId, container: &str) -> Result<(Address, Address), Error> {
        const STEP: &str = "find the container's ports";
        let inspected = self.engine.api.inspect_container(container, None::<InspectContainerOptions>).await;
        let inspected = inspected.map_err(|error| self.step(STEP, id, &error))?;
        let [invoke, control] = container::published(&inspected).ok_or_else(|| Error::Step {
            step: STEP,
            instance: id.clone(),
            source: io::Error::other("the engine has published none"),
        })?;
        Ok((Address::Tcp(invoke), Address::Tcp(control)))
    }

    /// Image, mounts, and where the interpreter is in there.
    async fn root(
        &self,
        spec: &InstanceSpec,
    ) -> Result<(String, Vec<(PathBuf, PathBuf)>, Option<String>), Error> {
        const STEP: &str = "make the image";
        let io = |source| Error::Step { step: STEP, instance: spec.id.clone(), source };
        let made = |error: Arc<image::Error>| self.no_image(STEP, &spec.id, &error);
        // Names of hosts and resolvers are the same in every root.
        let host = match &spec.root {
            root @ Root::Host { .. } => root.clone(),
            _ => Root::Host { interpreter: None },
        };
        let template = self.roots.template(&host).map_err(io)?;
        let absolute = |path: &Path| Path::new("/").join(path);
        let files = ["etc/hosts", "etc/resolv.conf"]
            .map(|file| (template.path.join(file), absolute(Path::new(file))));
        match &spec.root {
            Root::Host { interpreter } => {
                let image = self.images.skeleton(&template).await.map_err(made)?;
                let binds = template.binds.iter().map(|(source, at)| (source.clone(), absolute(at)));
                let interpreter = interpreter.as_ref().map(|path| path.to_string_lossy().into_owned());
                Ok((image, binds.chain(files).collect(), interpreter))
            }
            Root::Image(reference) | Root::Runtime { image: reference, .. } => {
                let image = self.images.named(reference).await.map_err(made)?;
                let program = match spec.process {
                    Process::Nodejs => Some("node"),
                    Process::Python => Some("python3"),
                    _ => None,
                };
                let interpreter = match program {
                    Some(program) => self.images.program(&image, program).await.map_err(made)?,
                    None => None,
                };
                let mut binds = BTreeMap::from(files.map(|(source, at)| (at, source)));
                binds.insert("/hearth".into(), self.roots.shim().to_owned());
                if let Some(modules) = spec.code.iter().filter_map(|code| code.dependencies.as_ref()).next() {
                    binds.insert("/node_modules".into(), modules.join("node_modules"));
                }
                // Nothing at `/code`: what the image has there is its function.
                binds.retain(|_, source| source.exists());
                Ok((image, binds.into_iter().map(|(at, source)| (source, at)).collect(), interpreter))
            }
            Root::Directory(path) => Err(Error::Invalid {
                what: format!("an engine makes no container of the directory {}", path.display()),
                remedy: "name an image".to_owned(),
            }),
        }
    }

    /// Has the image of a root pulled if it must be: before the turn to start, for a slow registry is nobody else's business.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn fetch(&self, spec: &InstanceSpec) -> Result<(), Error> {
        let Root::Image(reference) = &spec.root else { return Ok(()) };
        let had = self.images.named(reference).await;
        had.map(drop).map_err(|error| self.no_image("fetch the image", &spec.id, &error))
    }

    fn no_image(&self, step: &'static str, id: &InstanceId, error: &image::Error) -> Error {
        let source = match error {
            image::Error::Engine(error) => return self.step(step, id, error),
            image::Error::Missing(what) => return missing(what),
            image::Error::Io(error) => io::Error::new(error.kind(), error.to_string()),
            slow @ image::Error::Slow { .. } => io::Error::new(io::ErrorKind::TimedOut, slow.to_string()),
            image::Error::NotNow(_) | image::Error::CutOff | image::Error::Panicked => {
                io::Error::other(error.to_string())
            }
        };
        Error::Step { step, instance: id.clone(), source }
    }

    /// Takes away the container of a start that did not come to its end.
    async fn remove_container(&self, instance: &Instance) {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = self.engine.api.remove_container(&self.container(&instance.id), Some(options)).await;
        if let Err(error) = removed
            && !super::is_done_already(&error)
            // When the engine is back, what is nobody's is taken away.
            && !is_away(&error)
        {
            tracing::warn!(instance = %instance.id, error = plain(&error), "a start that failed left its container behind");
        }
    }

    async fn remove_directory(&self, instance: &Instance) {
        let directory = instance.directory.clone();
        if let Err(error) = blocking(move || directory.remove()).await {
            tracing::warn!(instance = %instance.id, %error, "a start that failed left its directory behind");
        }
    }
}
