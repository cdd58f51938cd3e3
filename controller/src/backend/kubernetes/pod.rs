//! The Pod that an instance is: pure. It keeps to the restricted Pod Security Standard.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hearth_function::InstanceId;
use hearth_protocol::config::{DIRECTORY, PROGRAMS, ShimConfig, USER};
use hearth_protocol::report::{
    ADDRESS_VARIABLE, CONTROL_PORT, INSTANCE_VARIABLE, INVOKE_PORT, TOKEN_VARIABLE,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, Pod, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::keys::Keys;
use super::{Config, Sizes, asked};
use crate::backend::local::shim;
use crate::backend::{Error, InstanceSpec, Limits, Network, Owner, Process, Root};

/// How long a Pod that is deleted has to end.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Labels of an instance's Pod.
pub(super) const INSTANCE: &str = "hearth.dev/instance";
pub(super) const FUNCTION: &str = "hearth.dev/function";
pub(super) const REVISION: &str = "hearth.dev/revision";
pub(super) const POOL: &str = "hearth.dev/pool";
pub(super) const NETWORK: &str = "hearth.dev/network";
/// Which Hearth it belongs to: the namespace that this Hearth runs in.
pub(super) const INSTALLATION: &str = "hearth.dev/installation";

/// The annotation with the instance's specification.
pub(super) const SPECIFICATION: &str = "hearth.dev/specification";

/// The annotation that proves that a controller wrote it ([`Keys::seal`]).
pub(super) const SEAL: &str = "hearth.dev/seal";

/// The container of the function.
pub(super) const CONTAINER: &str = "function";

/// Memory that the shim and what it holds for the instance take, beside what the function may have. In bytes.
const SHIM_BYTES: u64 = 8 << 20;

/// The shim and what it runs functions by, in a Pod of somebody else's image. Several times what they have. In bytes.
const PROGRAMS_BYTES: u64 = 256 << 20;

/// The default of a node: what is printed elsewhere.
const TMP: &str = "tmp";

/// The namespace that an instance's Pod is in.
pub(super) fn namespace<'a>(spec: &'a InstanceSpec, own: &'a str) -> &'a str {
    let owners = spec.owner.as_ref().map(|owner| owner.function.namespace());
    owners.or(spec.namespace.as_deref()).unwrap_or(own)
}

/// The instance's Pod. `owner` is the Revision's object.
///
/// # Errors
/// When there is no image for it, or a Pod cannot be what is asked for.
pub(super) fn of(
    spec: &InstanceSpec,
    config: &Config,
    keys: &Keys,
    owner: Option<OwnerReference>,
) -> Result<Pod, Error> {
    let namespace = namespace(spec, &config.namespace);
    let (image, brings_shim) = image(spec, config)?;
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image),
        image_pull_policy: Some(config.pull_policy.clone()),
        command: Some(vec![format!("{PROGRAMS}/hearth-shim")]),
        env: Some(variables(spec, config, &keys.token(&spec.id))),
        ports: Some(vec![port("invoke", INVOKE_PORT), port("control", CONTROL_PORT)]),
        resources: Some(resources(&spec.limits)),
        security_context: Some(restricted()),
        volume_mounts: Some(mounts(spec, brings_shim)),
        working_dir: Some("/".to_owned()),
        ..Container::default()
    };
    let pod = PodSpec {
        containers: vec![container],
        init_containers: (!brings_shim)
            .then(|| config.shim_image.as_deref().map(|shim| vec![bring_shim(shim, config, &spec.limits)]))
            .flatten(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        // The shim hands SIGTERM on at once; how long is waited is said with the deletion.
        termination_grace_period_seconds: i64::try_from(GRACE.as_secs()).ok(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(i64::from(USER)),
            run_as_group: Some(i64::from(USER)),
            fs_group: Some(i64::from(USER)),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(volumes(spec, &config.sizes, brings_shim)),
        ..asked::pod(&spec.in_cluster.pod)
    };
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(spec.id.to_string()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels(spec, &config.namespace)),
            annotations: Some(annotations(spec, namespace, keys)?),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(pod),
        status: None,
    })
}

/// Labels that say what the instance is for.
pub(super) fn labels(spec: &InstanceSpec, installation: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), "hearth".to_owned()),
        (INSTALLATION.to_owned(), installation.to_owned()),
        (INSTANCE.to_owned(), spec.id.to_string()),
        (
            NETWORK.to_owned(),
            match spec.network {
                Network::None => "none",
                Network::Outbound => "outbound",
            }
            .to_owned(),
        ),
    ]);
    match &spec.owner {
        Some(owner) => labels.extend(owned(owner)),
        // A job has an end of its own.
        None if !matches!(spec.process, Process::Job { .. }) => {
            labels.insert(POOL.to_owned(), "true".to_owned());
        }
        None => {}
    }
    labels
}

/// Labels that say whose it is.
pub(super) fn owned(owner: &Owner) -> [(String, String); 2] {
    [
        (FUNCTION.to_owned(), owner.function.name().to_owned()),
        (REVISION.to_owned(), owner.revision.name().to_owned()),
    ]
}

/// Annotations by which a later controller knows what it is.
///
/// # Errors
/// When the specification has no JSON form.
pub(super) fn annotations(
    spec: &InstanceSpec,
    namespace: &str,
    keys: &Keys,
) -> Result<BTreeMap<String, String>, Error> {
    let text = written(spec)?;
    let seal = keys.seal(namespace, spec.id.as_str(), &text);
    Ok(BTreeMap::from([(SPECIFICATION.to_owned(), text), (SEAL.to_owned(), seal)]))
}

/// The specification as it is kept with the Pod: without secret and environment.
///
/// # Errors
/// When it has no JSON form.
pub(super) fn written(spec: &InstanceSpec) -> Result<String, Error> {
    // Its environment may be larger than an annotation, and nobody asks for it again.
    let kept = InstanceSpec { secret: String::new(), env: BTreeMap::new(), ..spec.clone() };
    serde_json::to_string(&kept).map_err(|error| Error::Invalid {
        what: format!("the specification cannot be written down ({error})"),
        remedy: "use paths and names that are text".to_owned(),
    })
}

/// The token that its shim has been given.
pub(super) fn token(pod: &Pod) -> Option<&str> {
    let function = pod.spec.as_ref()?.containers.iter().find(|container| container.name == CONTAINER)?;
    function.env.iter().flatten().find(|variable| variable.name == TOKEN_VARIABLE)?.value.as_deref()
}

/// The name of the instance whose Pod this would be.
pub(super) fn instance(pod: &Pod) -> Option<InstanceId> {
    InstanceId::parse(pod.metadata.name.as_deref()?).ok()
}

/// What the shim is told.
///
/// # Errors
/// When the root has no interpreter.
pub(super) fn config(spec: &InstanceSpec) -> Result<ShimConfig, Error> {
    let program = match (&spec.process, &spec.root) {
        (Process::Nodejs, Root::Image(_)) => Some("node".to_owned()),
        (Process::Python, Root::Image(_)) => Some("python3".to_owned()),
        _ => shim::interpreter(spec),
    };
    shim::config(spec, program)
}

/// The image, and whether the shim is in it.
fn image(spec: &InstanceSpec, config: &Config) -> Result<(String, bool), Error> {
    match &spec.root {
        Root::Runtime { image, .. } => Ok((image.clone(), true)),
        Root::Image(_) if config.shim_image.is_none() => Err(Error::Unsupported {
            what: "run an image that Hearth's shim is not in".to_owned(),
            remedy: "configure a runtime image: the shim is taken out of it".to_owned(),
        }),
        Root::Image(image) => Ok((image.clone(), false)),
        Root::Host { .. } | Root::Directory(_) => Err(Error::Unsupported {
            what: "run a program of the controller's own root in a Pod".to_owned(),
            remedy: "configure a runtime image for it (cluster.runtimes)".to_owned(),
        }),
    }
}

/// What the shim is told by its environment, and what it hands on.
fn variables(spec: &InstanceSpec, config: &Config, token: &str) -> Vec<EnvVar> {
    let mut all = vec![
        variable(ADDRESS_VARIABLE, &config.report_advertise),
        variable(INSTANCE_VARIABLE, spec.id.as_str()),
        variable(TOKEN_VARIABLE, token),
    ];
    all.extend(asked::variables(&spec.in_cluster.env));
    all
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        ..ContainerPort::default()
    }
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Memory is what it may have and what it is promised; cpu only where the manifest sets a limit.
fn resources(limits: &Limits) -> ResourceRequirements {
    let memory = Quantity((limits.memory_bytes + SHIM_BYTES).to_string());
    let cpu = limits.cpu_millis.map(|millis| Quantity(format!("{millis}m")));
    let with = |cpu: Option<Quantity>| {
        let mut all = BTreeMap::from([("memory".to_owned(), memory.clone())]);
        all.extend(cpu.map(|cpu| ("cpu".to_owned(), cpu)));
        Some(all)
    };
    // A small promise: an instance that is idle takes nothing, and many are.
    let requested = cpu.clone().or_else(|| Some(Quantity("10m".to_owned())));
    ResourceRequirements { requests: with(requested), limits: with(cpu), ..ResourceRequirements::default() }
}

/// No quota counts its size: the kubelet looks at what is in it.
fn empty(name: &str, memory: bool, bytes: u64) -> Volume {
    let directory = EmptyDirVolumeSource {
        medium: memory.then(|| "Memory".to_owned()),
        size_limit: Some(Quantity(bytes.to_string())),
        ..EmptyDirVolumeSource::default()
    };
    Volume { name: name.to_owned(), empty_dir: Some(directory), ..Volume::default() }
}

/// What the shim fills or the function writes: name, place, whether it is there.
fn places(spec: &InstanceSpec, brings_shim: bool) -> Vec<(&'static str, &'static str)> {
    let of_image = matches!(spec.root, Root::Image(_)) && spec.code.is_none();
    let mut places = vec![(TMP, "/tmp"), ("run", DIRECTORY)];
    if spec.build_dir.is_some() {
        places.push(("build", "/build"));
    } else if !of_image {
        // One that waits for its function gets them then.
        places.extend([("code", "/code"), ("deps", "/deps")]);
    }
    if !brings_shim {
        places.push(("hearth", PROGRAMS));
    }
    places
}

fn volumes(spec: &InstanceSpec, sizes: &Sizes, brings_shim: bool) -> Vec<Volume> {
    let volume = |(name, _): &(&str, &str)| match *name {
        TMP => empty(name, true, spec.limits.tmp_bytes),
        "run" => empty(name, true, 1 << 20),
        "code" => empty(name, false, sizes.code_bytes),
        "deps" => empty(name, false, sizes.dependencies_bytes),
        "build" => empty(name, false, sizes.build_bytes),
        name => empty(name, false, PROGRAMS_BYTES),
    };
    places(spec, brings_shim).iter().map(volume).collect()
}

fn mounts(spec: &InstanceSpec, brings_shim: bool) -> Vec<VolumeMount> {
    let mount = |(name, place): (&str, &str)| VolumeMount {
        name: name.to_owned(),
        mount_path: place.to_owned(),
        ..VolumeMount::default()
    };
    places(spec, brings_shim).into_iter().map(mount).collect()
}

/// Copies the shim into a Pod of somebody else's image. It has what the function's container has, which it runs before: a quota may ask for
/// limits of every container, and a Pod counts with the larger of both.
fn bring_shim(image: &str, config: &Config, limits: &Limits) -> Container {
    Container {
        name: "shim".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(config.pull_policy.clone()),
        command: Some(vec![format!("{PROGRAMS}/hearth-shim"), "copy".to_owned(), "/into".to_owned()]),
        resources: Some(resources(limits)),
        security_context: Some(restricted()),
        volume_mounts: Some(vec![VolumeMount {
            name: "hearth".to_owned(),
            mount_path: "/into".to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// Where the mounts of a specification are unpacked: what of this machine, and where.
pub(super) fn contents(spec: &InstanceSpec) -> Vec<(&Path, &'static str)> {
    let code = spec.code.iter().flat_map(|code| contents_of(&code.path, code.dependencies.as_deref()));
    code.chain(spec.build_dir.as_deref().map(|build| (build, "/build"))).collect()
}

/// The same of code that is brought in later.
pub(super) fn contents_of<'a>(
    code: &'a Path,
    dependencies: Option<&'a Path>,
) -> impl Iterator<Item = (&'a Path, &'static str)> {
    std::iter::once((code, "/code")).chain(dependencies.map(|deps| (deps, "/deps")))
}
