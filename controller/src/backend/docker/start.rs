//! One start, from the specification to a running shim.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions, StartContainerOptions};
use hearth_function::InstanceId;

use super::container::{self, Place};
use super::engine::{plain, status};
use super::instance::{Instance, Record};
use super::{Shared, network};
use crate::backend::local::directory::Directory;
use crate::backend::local::{blocking, open_files, shim, watch};
use crate::backend::{Error, InstanceSpec, Limits, Network, Process, Root, Started};

/// The kernel's own default.
const PID_MAX: u64 = 32_768;

/// Processes that this process's own user may have, and no more than the kernel has numbers for: so many has Podman itself.
fn processes() -> u64 {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum;
    let numbers = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let numbers = numbers.trim().parse().unwrap_or(PID_MAX);
    own.map_or(numbers, |own| own.min(numbers))
}

/// An instance has one name, for ever.
pub(super) fn name_is_taken(id: &InstanceId) -> Error {
    Error::Invalid {
        what: format!("there is an instance {id} already"),
        remedy: "give every instance a name of its own".to_owned(),
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
            Err(error) => {
                self.undo(&instance, &error).await;
                self.books().remove(&spec.id);
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

    async fn launch(&self, spec: &InstanceSpec, instance: &Arc<Instance>) -> Result<Started, Error> {
        let step = |step: &'static str| {
            move |source: io::Error| Error::Step { step, instance: spec.id.clone(), source }
        };
        let begin = Instant::now();
        if let (Network::Outbound, Err(reason)) = (spec.network, &self.bridge) {
            return Err(Error::Unsupported {
                what: format!("give instances a network ({reason})"),
                remedy: "set `network: none`, or see `hearth doctor` for what is missing".to_owned(),
            });
        }
        let (image, binds, interpreter) = self.root(spec).await?;
        let shim = shim::config(spec, interpreter)?;
        let (directory, written) = (instance.directory.clone(), spec.clone());
        let prepare = move || {
            // Some engines make what is not there.
            for path in
                written.code.iter().flat_map(|code| [Some(&code.path), code.dependencies.as_ref()]).flatten()
            {
                std::fs::metadata(path)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            }
            directory.create(&written, &shim)?;
            if let Some(build) = &written.build_dir {
                let user = Some(hearth_protocol::config::USER);
                std::os::unix::fs::chown(build, user, user)?;
            }
            Ok(())
        };
        blocking(prepare).await.map_err(step("make the instance's directory"))?;
        let prepared = begin.elapsed();

        let place = Place {
            tag: self.place.tag.clone(),
            image,
            binds,
            sockets: instance.directory.sockets(),
            network: network::name(&self.place.tag),
            open_files: open_files(),
            // Podman's own default is more than it may set where it lacks the right to raise limits.
            processes: self.engine.about.is_podman().then(processes),
        };
        let name = self.container(&spec.id);
        let options =
            CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        let created = self.engine.api.create_container(Some(options), container::create(spec, &place)).await;
        let container = match created {
            Ok(created) => created.id,
            Err(error) if status(&error) == Some(409) => return Err(name_is_taken(&spec.id)),
            Err(error) => {
                // The image may have gone, and would be had again.
                self.images.forget().await;
                return Err(self.step("create the container", &spec.id, &error));
            }
        };
        let made = begin.elapsed();
        self.engine
            .api
            .start_container(&container, None::<StartContainerOptions>)
            .await
            .map_err(|error| self.step("start the container", &spec.id, &error))?;
        let create = begin.elapsed();
        let (invoke, control) = (instance.directory.invoke(), instance.directory.control());
        let started = Started { invoke, control, create };
        let record = Record { container, started: started.clone() };
        let (directory, written) = (instance.directory.clone(), record.clone());
        blocking(move || directory.record(&written)).await.map_err(step("write down what was started"))?;
        // It is set here and nowhere else.
        instance.record.set(record).ok();
        tracing::debug!(instance = %spec.id, ?prepared, create = ?(made - prepared), start = ?(create - made), "container started");
        Ok(started)
    }

    /// Image, mounts, and where the interpreter is in there.
    async fn root(
        &self,
        spec: &InstanceSpec,
    ) -> Result<(String, Vec<(PathBuf, PathBuf)>, Option<String>), Error> {
        const STEP: &str = "make the image";
        let io = |source| Error::Step { step: STEP, instance: spec.id.clone(), source };
        let made = |error| match error {
            super::image::Error::Engine(error) => self.step(STEP, &spec.id, &error),
            super::image::Error::Io(source) => io(source),
            super::image::Error::Missing(what) => Error::Invalid {
                what,
                remedy: "correct the image's name, or load it into the engine (docker load)".to_owned(),
            },
        };
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
            Root::Image(reference) => {
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
                // The places of what is brought in later.
                if spec.code.is_none() {
                    for place in ["code", "deps"] {
                        binds.insert(absolute(Path::new(place)), template.path.join(place));
                    }
                }
                if let Some(modules) = spec.code.iter().filter_map(|code| code.dependencies.as_ref()).next() {
                    binds.insert("/node_modules".into(), modules.join("node_modules"));
                }
                binds.retain(|_, source| source.exists());
                Ok((image, binds.into_iter().map(|(at, source)| (source, at)).collect(), interpreter))
            }
            Root::Directory(path) => Err(Error::Invalid {
                what: format!("an engine makes no container of the directory {}", path.display()),
                remedy: "name an image".to_owned(),
            }),
        }
    }

    /// Takes away what a start has made that did not come to its end.
    async fn undo(&self, instance: &Instance, error: &Error) {
        if matches!(error, Error::Invalid { what, .. } if what.ends_with("already")) {
            // What is there is another's.
            return;
        }
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = self.engine.api.remove_container(&self.container(&instance.id), Some(options)).await;
        if let Err(error) = removed
            && !super::is_done_already(&error)
        {
            tracing::warn!(instance = %instance.id, error = plain(&error), "a start that failed left its container behind");
        }
        let directory = instance.directory.clone();
        if let Err(error) = blocking(move || directory.remove()).await {
            tracing::warn!(instance = %instance.id, %error, "a start that failed left its directory behind");
        }
    }
}
