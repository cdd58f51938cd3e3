//! A start, from the specification to a shim that has reported; and how a function comes to an instance that waits for one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_function::{InstanceId, Revision};
use hearth_protocol::report::Mount;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::blobs::{Blob, measure};
use super::instance::{Instance, Order, Reported};
use super::request::{self, repeated};
use super::waited::Waited;
use super::why::{Lack, Obstacle};
use super::{Shared, plain, pod, started};
use crate::backend::{CodeMount, Error, Hindered, Hindrance, InstanceSpec, Owner, Process, Started};

/// How long what may pass by itself (no node has room) is waited for before anybody is told. Then an installation fails, and an instance goes on
/// waiting: an autoscaler of nodes looks at Pods that stay.
const PASSES_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait for a Pod to report, once a node has taken it: large images take their time.
const REPORTS_WITHIN: Duration = Duration::from_secs(600);

/// A node that has the image has made a container ready by then. Nobody needs to hear of it.
const AS_A_RULE: Duration = Duration::from_secs(1);

/// How long an instance that waits may take to fetch code.
const FETCHES_WITHIN: Duration = Duration::from_secs(60);

impl Shared {
    /// See [`super::Backend::start`].
    pub(super) async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        let namespace = pod::namespace(spec, &self.config.namespace).to_owned();
        let instance = Arc::new(Instance::new(spec.clone(), &namespace));
        {
            let mut books = self.books();
            if books.contains_key(&spec.id) {
                return Err(Error::name_is_taken(&spec.id));
            }
            books.insert(spec.id.clone(), Arc::clone(&instance));
        }
        match self.launch(spec, &instance).await {
            Ok((reported, create)) => {
                let create = instance.took(create);
                instance.start_is_over();
                // It may have ended by now.
                self.tell(&instance).await;
                Ok(started(reported, create))
            }
            Err(error) => {
                // The start's error is what is told.
                if let Err(left) = self.stop(&spec.id, Duration::ZERO).await {
                    tracing::warn!(instance = %spec.id, error = %left, "the Pod of a failed start is left");
                }
                Err(error)
            }
        }
    }

    /// Starts it; how long that took, without the time in which no node would have it.
    async fn launch(
        &self,
        spec: &InstanceSpec,
        instance: &Arc<Instance>,
    ) -> Result<(Reported, Duration), Error> {
        let begin = Instant::now();
        let contents: Vec<PathBuf> =
            pod::contents(spec).into_iter().map(|(path, _)| path.to_owned()).collect();
        let build = spec.build_dir.clone();
        let packed = self.pack(&spec.id, contents, build.as_deref());
        let (packed, owner) = tokio::join!(packed, self.owner(&spec.id, spec.owner.as_ref()));
        instance.may_fetch(packed?);
        let pod = pod::of(spec, &self.config, &self.keys, owner?)?;
        let created = self.make(instance, pod).await;
        created.map_err(|error| refused(&spec.id, &instance.namespace, &error))?;
        instance.was_made();
        let patient = !matches!(spec.process, Process::Job { .. });
        let waited = Waited::default();
        let reported = self.report(instance, patient, &waited).await;
        if waited.end() {
            // Its node may have had it, and the shim have reported, before the obstacle was seen to be gone.
            self.tell_hindered(instance, Hindrance::Over).await;
        }
        Ok((reported?, begin.elapsed().saturating_sub(waited.total())))
    }

    /// Makes its Pod. What is asked for may be stored after nobody waits for it any more; so it is asked to its end, and a stop waits for that.
    async fn make(&self, instance: &Instance, pod: Pod) -> kube::Result<Pod> {
        let (pods, turn) = (self.pods(&instance.namespace), Arc::clone(&instance.making).lock_owned().await);
        let made = self.tasks.spawn(async move {
            let made = request::within(request::CREATE, pods.create(&PostParams::default(), &pod)).await;
            drop(turn);
            made
        });
        made.await.unwrap_or_else(|error| Err(kube::Error::Service(error.into())))
    }

    /// Waits until the shim has reported, or something keeps it from doing so; `patient`: as long as it takes for a node to have it, which is
    /// counted in `waited`.
    async fn report(&self, instance: &Instance, patient: bool, waited: &Waited) -> Result<Reported, Error> {
        const STEP: &str = "start the Pod";
        let id = &instance.id;
        let other =
            |what: String| Error::Step { step: STEP, instance: id.clone(), source: io::Error::other(what) };
        let (mut reported, mut end, mut obstacle) =
            (instance.reported.subscribe(), instance.end.subscribe(), instance.obstacle.subscribe());
        let stuck = async {
            let late = |last: Option<Obstacle>| {
                let within = humantime::format_duration(REPORTS_WITHIN);
                let to = &self.config.report_advertise;
                let last = last.map(|last| format!(": {}", last.what)).unwrap_or_default();
                let what = format!("its shim has not reported to {to} within {within}{last}");
                Obstacle { what, lack: Lack::Other }
            };
            let begin = Instant::now();
            loop {
                // The senders are the instance's, which is here.
                let deadline = begin + REPORTS_WITHIN + waited.total();
                let met = timeout_at(deadline, obstacle.wait_for(Option::is_some)).await;
                let Some(found) = met.map(|met| met.ok().and_then(|found| found.clone())).unwrap_or_default()
                else {
                    return late(None);
                };
                if found.lack == Lack::Time {
                    let made = self.make_ready(instance, &found, &mut obstacle, waited);
                    if timeout_at(deadline, made).await.is_err() {
                        return late(Some(found));
                    }
                    continue;
                }
                if !found.passes() {
                    return found;
                }
                waited.begin();
                let Some(still) = stays(&mut obstacle).await else {
                    let _nobody_was_told = waited.end();
                    continue;
                };
                if !still.passes() || !patient {
                    return still;
                }
                waited.tell();
                if let Err(another) = self.hinder(instance, still, &mut obstacle).await {
                    return another;
                }
                let _told_of_its_end = waited.end();
            }
        };
        tokio::select! {
            biased;
            found = reported.wait_for(Option::is_some) => {
                let found = found.ok().and_then(|found| *found);
                found.ok_or_else(|| other("its books are closed".to_owned()))
            }
            Obstacle { what, lack } = stuck => Err(match lack {
                Lack::Image => Error::Image(what),
                Lack::Settings => Error::Lacking(what),
                Lack::Node | Lack::Time | Lack::Other => other(what),
            }),
            exit = end.wait_for(Option::is_some) => {
                let exit = exit.ok().and_then(|exit| *exit).unwrap_or_default();
                let turned_away = instance.turned_away.get().map(|why| format!("; {why}")).unwrap_or_default();
                Err(other(format!("it ended before it reported: {exit}{turned_away}")))
            }
        }
    }

    /// Tells what a start waits for until that has passed.
    ///
    /// # Errors
    /// With what keeps it from starting after that.
    async fn hinder(
        &self,
        instance: &Instance,
        first: Obstacle,
        obstacle: &mut watch::Receiver<Option<Obstacle>>,
    ) -> Result<(), Obstacle> {
        let mut still = Some(first);
        while let Some(told) = still {
            if !told.passes() {
                return Err(told);
            }
            self.tell_hindered(instance, Hindrance::Outside(told.what.clone())).await;
            // The sender is the instance's, which is here.
            let _closed = obstacle.wait_for(|now| now.as_ref() != Some(&told)).await.is_err();
            // The scheduler says the same in other words whenever nodes come and go.
            still = stays(obstacle).await;
        }
        self.tell_hindered(instance, Hindrance::Over).await;
        Ok(())
    }

    /// Waits while its node makes it ready, which is no part of the time that a start may take. It is one of what it took: on a node without the image
    /// the next takes as long, and it is no wait in `waited`.
    async fn make_ready(
        &self,
        instance: &Instance,
        found: &Obstacle,
        obstacle: &mut watch::Receiver<Option<Obstacle>>,
        waited: &Waited,
    ) {
        let is_over = |now: &Option<Obstacle>| now.as_ref() != Some(found);
        // The sender is the instance's, which is here.
        if timeout(AS_A_RULE, obstacle.wait_for(is_over)).await.is_ok() {
            return;
        }
        waited.tell();
        self.tell_hindered(instance, Hindrance::Time).await;
        let _closed = obstacle.wait_for(is_over).await.is_err();
        let _told_of_its_end = waited.end();
        self.tell_hindered(instance, Hindrance::Over).await;
    }

    async fn tell_hindered(&self, instance: &Instance, by: Hindrance) {
        // Without a subscriber nobody wants to know.
        self.hinder.send(Hindered { instance: instance.id.clone(), by }).await.ok();
    }

    /// See [`super::Backend::inject`].
    pub(super) async fn inject(&self, id: &InstanceId, code: &CodeMount) -> Result<(), Error> {
        let instance = self.running(id)?;
        instance.code_place.take(id)?;
        let order = self.prepare(&instance, code).await.inspect_err(|_| instance.code_place.give_back());
        let (orders, mounts) = order?;
        // From here on some of it may be there, or on its way, whatever comes of it.
        bring(&instance, &orders, mounts).await
    }

    /// See [`super::Backend::record`].
    pub(super) async fn record(&self, id: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        let instance = self.running(id)?;
        let mut spec = instance.spec();
        (spec.owner, spec.code) = (Some(owner.clone()), Some(code.clone()));
        self.note_owner(&instance, owner, &spec).await?;
        *instance.spec.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = spec;
        Ok(())
    }

    /// What the shim is to fetch, and who tells it.
    async fn prepare(
        &self,
        instance: &Instance,
        code: &CodeMount,
    ) -> Result<(mpsc::Sender<Order>, Vec<Mount>), Error> {
        let places: Vec<(PathBuf, &str)> = pod::contents_of(&code.path, code.dependencies.as_deref())
            .map(|(path, at)| (path.to_owned(), at))
            .collect();
        let paths = places.iter().map(|(path, _)| path.clone()).collect();
        let packed = self.pack(&instance.id, paths, None).await?;
        let orders = instance.orders().ok_or_else(|| not_brought(instance, "its shim is not connected"))?;
        let mounts = packed.iter().zip(&places).map(|(blob, (_, at))| blob.mount(at)).collect();
        instance.may_fetch(packed);
        Ok((orders, mounts))
    }

    /// Writes down for whom the instance runs from now on.
    async fn note_owner(&self, instance: &Instance, owner: &Owner, spec: &InstanceSpec) -> Result<(), Error> {
        let reference = self.owner(&instance.id, Some(owner)).await?;
        let mut labels: serde_json::Map<_, _> =
            pod::owned(owner).into_iter().map(|(name, value)| (name, json!(value))).collect();
        labels.insert(pod::POOL.to_owned(), json!(null));
        let patch = json!({ "metadata": {
            "labels": labels,
            "annotations": pod::annotations(spec, &instance.namespace, &self.keys)?,
            "ownerReferences": reference.into_iter().collect::<Vec<_>>(),
        } });
        let (pods, how, patch) =
            (self.pods(&instance.namespace), PatchParams::default(), Patch::Merge(&patch));
        let patched = repeated(|| pods.patch_metadata(instance.id.as_str(), &how, &patch)).await;
        patched
            .map(drop)
            .map_err(|error| Self::step("write down the function of the Pod", &instance.id, &error))
    }

    /// The blobs of these directories; `build` is what it is now, all others lie under their digests.
    async fn pack(
        &self,
        id: &InstanceId,
        paths: Vec<PathBuf>,
        build: Option<&Path>,
    ) -> Result<Vec<Arc<Blob>>, Error> {
        let (blobs, build) = (Arc::clone(&self.blobs), build.map(Path::to_owned));
        let work = move || {
            let one = |path: &PathBuf| {
                let blob =
                    if Some(path) == build.as_ref() { measure(path).map(Arc::new) } else { blobs.of(path) };
                blob.map_err(|error| match error.kind() {
                    // A Revision goes on by its instances while its parts are brought to a new controller.
                    io::ErrorKind::NotFound => {
                        io::Error::other(format!("{} is not here yet", path.display()))
                    }
                    _ => error,
                })
            };
            paths.iter().map(one).collect::<io::Result<Vec<_>>>()
        };
        let packed =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        packed.map_err(|source| Error::Step { step: "pack the code", instance: id.clone(), source })
    }

    /// The Revision's object as the owner of a Pod.
    async fn owner(&self, id: &InstanceId, owner: Option<&Owner>) -> Result<Option<OwnerReference>, Error> {
        let Some(Owner { revision, uid, .. }) = owner else { return Ok(None) };
        let uid = match uid {
            Some(uid) => uid.clone(),
            // Told by a controller that did not say it.
            None => {
                let api: Api<Revision> = Api::namespaced(self.config.client.clone(), revision.namespace());
                let found = repeated(|| api.get_metadata(revision.name())).await;
                let found = found.map_err(|error| Self::step("look up the revision", id, &error))?;
                found.metadata.uid.unwrap_or_default()
            }
        };
        Ok(Some(OwnerReference {
            api_version: "hearth.dev/v1".to_owned(),
            kind: "Revision".to_owned(),
            name: revision.name().to_owned(),
            uid,
            controller: Some(true),
            block_owner_deletion: None,
        }))
    }
}

/// What there is of an obstacle after the time in which it may pass by itself; at once, when it does or is another that does not.
async fn stays(obstacle: &mut watch::Receiver<Option<Obstacle>>) -> Option<Obstacle> {
    let over = obstacle.wait_for(|now| now.as_ref().is_none_or(|now| !now.passes()));
    let _still = timeout(PASSES_WITHIN, over).await.is_err();
    // What takes its time has a node.
    obstacle.borrow_and_update().clone().filter(|now| now.lack != Lack::Time)
}

/// Has the shim fetch code.
async fn bring(instance: &Instance, orders: &mpsc::Sender<Order>, mounts: Vec<Mount>) -> Result<(), Error> {
    let (reply, answer) = oneshot::channel();
    let order = async {
        orders.send(Order::Mount { mounts, reply }).await.map_err(|_| "its shim has gone".to_owned())?;
        answer.await.map_err(|_| "its shim has gone".to_owned())?
    };
    let fetched = tokio::time::timeout(FETCHES_WITHIN, order).await;
    fetched.unwrap_or_else(|late| Err(late.to_string())).map_err(|why| not_brought(instance, why))
}

fn not_brought(instance: &Instance, why: impl Into<String>) -> Error {
    let source = io::Error::other(why.into());
    Error::Step { step: "bring the code in", instance: instance.id.clone(), source }
}

/// Why a Pod is not taken, with what to do.
fn refused(id: &InstanceId, namespace: &str, error: &kube::Error) -> Error {
    let what = plain(error);
    let code = match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    };
    let source = match code {
        409 => return Error::name_is_taken(id),
        400 | 422 => {
            return Error::Invalid {
                what: format!("the API server refuses the Pod: {what}"),
                remedy: "change what it names".to_owned(),
            };
        }
        403 if what.contains("exceeded quota") => {
            format!(
                "the namespace {namespace} has no room for it ({what}): raise the quota, or lower scale.max or resources"
            )
        }
        // Of one that limits cpu; memory each container has.
        403 if what.contains("failed quota") => {
            format!(
                "a quota of the namespace {namespace} asks for more than the Function says ({what}): set spec.resources.cpu, or give the namespace a LimitRange with a default"
            )
        }
        403 if what.contains("error looking up service account") => {
            format!(
                "{namespace} lacks its service account ({what}): make it, or change spec.kubernetes.serviceAccount"
            )
        }
        403 => format!(
            "the API server forbids it ({what}): see the rights of Hearth's service account, and the Pod security of {namespace}"
        ),
        _ => what,
    };
    Error::Step { step: "create the Pod", instance: id.clone(), source: io::Error::other(source) }
}

#[cfg(test)]
mod tests;
