//! What all instances of a Revision are made from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hearth_function::spec;
use hearth_function::{FunctionId, IdError, InstanceId, Revision, RevisionId, RuntimeName};
use hearth_protocol as protocol;

use super::class::Class;
use crate::backend::{
    CodeMount, Fixity, InCluster, InstanceSpec, Limits, Network, Owner, Process, Root, User,
};

/// Processes and threads of one instance. Node has 11 threads; a thread pool for each of a hundred calls fits, a fork bomb does not.
pub(super) const PIDS: u32 = 512;

/// Where the servers of `http` functions listen, in the network namespace of their instance: what most of them do without being told.
const HTTP_PORT: u16 = 8080;

/// What an instance finds programs by; the interpreter's own directory comes first.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs of installed dependencies lie, npm's and pip's, and where Python looks for modules. Bootstraps find theirs themselves.
const DEPENDENCY_PROGRAMS: &str = "/deps/node_modules/.bin:/deps/python/bin";
const DEPENDENCY_MODULES: &str = "/deps/python";

/// What a Revision does not say by itself: where its parts are on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The unpacked bundle; `None` where an image holds the code.
    pub code: Option<PathBuf>,
    /// The installed dependencies, when it has any.
    pub dependencies: Option<PathBuf>,
    /// The interpreter, for `nodejs`, `python` and programs that need one.
    pub interpreter: Option<PathBuf>,
    /// The root that the Revision's image is here, and whom it runs as.
    pub image: Option<(Root, Option<User>)>,
    /// The image that has it, where instances do not have this machine's own programs; of programs without one, too.
    pub runtime_image: Option<String>,
    /// What can be changed of instances while they run.
    pub fixity: Fixity,
    /// The gateway's address as instances with `network: outbound` reach it: `http://10.0.0.1:8080`.
    pub gateway: Option<String>,
}

/// What all instances of a Revision are made from.
#[derive(Debug, Clone)]
pub struct Template {
    pub(super) owner: Owner,
    pub(super) load: protocol::Load,
    pub(super) start_timeout: Duration,
    pub(super) single_use: bool,
    process: Process,
    pub(super) code: Option<CodeMount>,
    class: Option<Class>,
    root: Root,
    /// By name.
    env: Box<[(String, String)]>,
    in_cluster: InCluster,
    user: Option<User>,
    working_directory: Option<String>,
    pub(super) limits: Limits,
    network: Network,
    slots: u32,
}

impl Template {
    /// Reads it off `revision`.
    ///
    /// # Errors
    /// When the Revision's metadata holds no valid names.
    pub fn new(revision: &Revision, places: Places) -> Result<Self, IdError> {
        let uid = revision.metadata.uid.clone();
        let owner = Owner { function: revision.function_id()?, revision: revision.id()?, since: None, uid };
        let template = &revision.spec.template;
        let network = match template.network {
            spec::Network::None => Network::None,
            spec::Network::Outbound => Network::Outbound,
        };
        let slots = template.concurrency_limit();
        // An instance that waits for its function has the host for a root.
        let class = match &template.image {
            None => Class::of(template, &places, network, owner.function.namespace()),
            Some(_) => None,
        };
        let memory_bytes = template.resources.memory.bytes();
        let env = environment(&owner, revision, &places, network).into_iter().collect();
        let load = protocol::Load {
            code: "/code".to_owned(),
            handler: template.handler.as_ref().map(hearth_function::Handler::dotted),
            signature: match template.signature {
                spec::Signature::Auto => protocol::Signature::Auto,
                spec::Signature::Event => protocol::Signature::Event,
                spec::Signature::Http => protocol::Signature::Http,
                spec::Signature::Fetch => protocol::Signature::Fetch,
                spec::Signature::Asgi => protocol::Signature::Asgi,
                spec::Signature::Wsgi => protocol::Signature::Wsgi,
            },
            // Its instances are started with all of it; one that was pooled would learn it here.
            env: BTreeMap::new(),
            function: owner.function.name().to_owned(),
            namespace: owner.function.namespace().to_owned(),
            revision: owner.revision.name().to_owned(),
            concurrency: slots,
            memory_bytes,
            execute_timeout_ms: u32::try_from(template.timeouts.execute.get().as_millis())
                .unwrap_or(u32::MAX),
        };
        Ok(Self {
            load,
            start_timeout: template.timeouts.start.get(),
            single_use: template.process_model == spec::ProcessModel::Ephemeral,
            process: match template.runtime {
                RuntimeName::Nodejs(_) => Process::Nodejs,
                RuntimeName::Python(_) => Process::Python,
                RuntimeName::Exec => Process::Exec { command: template.program().to_vec() },
                // `provided` is refused before there is a Revision of it.
                RuntimeName::Http | RuntimeName::Provided => {
                    Process::Http { command: template.program().to_vec() }
                }
            },
            code: places.code.map(|path| CodeMount { path, dependencies: places.dependencies }),
            class,
            user: places.image.as_ref().and_then(|(_, user)| *user),
            root: match places.image {
                Some((root, _)) => root,
                None => Root::with_interpreter(places.interpreter, places.runtime_image),
            },
            env,
            in_cluster: in_cluster(template),
            // A bootstrap starts where it looks for the code, in an image too.
            working_directory: template
                .image
                .as_ref()
                .filter(|_| !template.runtime.has_handler())
                .map(|image| image.working_directory.clone()),
            limits: Limits {
                memory_bytes,
                cpu_millis: template.resources.cpu.map(hearth_function::CpuMillis::millis),
                tmp_bytes: template.resources.tmp().bytes(),
                pids: PIDS,
                patient: false,
            },
            network,
            slots,
            owner,
        })
    }

    /// The Function.
    #[must_use]
    pub fn function(&self) -> &FunctionId {
        &self.owner.function
    }

    /// The Revision.
    #[must_use]
    pub fn revision(&self) -> &RevisionId {
        &self.owner.revision
    }

    /// The pool that its instances can be taken from; `None`: each is made for it.
    #[must_use]
    pub fn class(&self) -> Option<&Class> {
        self.class.as_ref()
    }

    /// What a pooled instance is told, which was started without any of it.
    pub(super) fn load_for_pooled(&self) -> protocol::Load {
        protocol::Load { env: self.env.iter().cloned().collect(), ..self.load.clone() }
    }

    /// Whether an instance serves one call and is destroyed.
    #[must_use]
    pub fn is_single_use(&self) -> bool {
        self.single_use
    }

    /// Calls that one instance runs at once.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How long a call may run.
    #[must_use]
    pub fn execute_timeout(&self) -> Duration {
        Duration::from_millis(self.load.execute_timeout_ms.into())
    }

    /// Whether an instance of this owner is of this Revision, and not of an earlier one of the same name.
    pub(crate) fn is_of(&self, owner: &Owner) -> bool {
        let same = |told: &String| self.owner.uid.as_ref().is_none_or(|uid| uid == told);
        owner.revision == self.owner.revision
            && owner.function == self.owner.function
            && owner.uid.as_ref().is_none_or(same)
    }

    /// Whose an instance is from this moment on.
    pub(super) fn owner_since(&self, since: jiff::Timestamp) -> Owner {
        Owner { since: Some(since), ..self.owner.clone() }
    }

    /// The specification of one instance. It starts without a cpu quota: that takes effect when it is Ready.
    pub(super) fn spec(&self, id: InstanceId, secret: String) -> InstanceSpec {
        let mut env: BTreeMap<_, _> = self.env.iter().cloned().collect();
        env.insert("HEARTH_INSTANCE".to_owned(), id.to_string());
        InstanceSpec {
            id,
            owner: Some(self.owner_since(jiff::Timestamp::now())),
            process: self.process.clone(),
            code: self.code.clone(),
            build_dir: None,
            root: self.root.clone(),
            env,
            user: self.user,
            working_directory: self.working_directory.clone(),
            limits: Limits { cpu_millis: None, ..self.limits },
            network: self.network,
            namespace: None,
            in_cluster: self.in_cluster.clone(),
            concurrency: self.slots,
            secret,
        }
    }
}

/// What every instance has, below the user's variables.
pub(super) fn base_environment(interpreter: Option<&std::path::Path>) -> BTreeMap<String, String> {
    let path = match interpreter.and_then(|interpreter| interpreter.parent()) {
        Some(own) if !PATH.split(':').any(|known| own == std::path::Path::new(known)) => {
            format!("{}:{PATH}", own.display())
        }
        _ => PATH.to_owned(),
    };
    [("PATH", path.as_str()), ("HOME", "/tmp"), ("LANG", "C.UTF-8")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What a cluster gives to its instances.
fn in_cluster(template: &hearth_function::Template) -> InCluster {
    let kept = |variable: &spec::EnvVar| Some((variable.name.clone(), variable.value_from.clone()?));
    InCluster {
        env: template.env.iter().filter_map(kept).collect(),
        pod: template.kubernetes.clone().unwrap_or_default(),
    }
}

/// The user's variables, and Hearth's own above them.
fn environment(
    owner: &Owner,
    revision: &Revision,
    places: &Places,
    network: Network,
) -> BTreeMap<String, String> {
    let template = &revision.spec.template;
    let mut env = base_environment(places.interpreter.as_deref());
    // A program is on its own, where a handler has a bootstrap.
    let installed = places.dependencies.is_some() && !template.runtime.has_handler();
    if installed && let Some(path) = env.get_mut("PATH") {
        *path = format!("{DEPENDENCY_PROGRAMS}:{path}");
    }
    if let Some(image) = &template.image {
        env.extend(image.env.clone());
    }
    for variable in &template.env {
        // What the cluster keeps stands above what it would have had without it, as every variable of the user's.
        match &variable.value_from {
            Some(_) => env.remove(&variable.name),
            None => env.insert(variable.name.clone(), variable.value.clone().unwrap_or_default()),
        };
    }
    if installed {
        let modules = env.entry("PYTHONPATH".to_owned()).or_default();
        *modules = if modules.is_empty() {
            DEPENDENCY_MODULES.to_owned()
        } else {
            format!("{modules}:{DEPENDENCY_MODULES}")
        };
    }
    let mut own = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    own("HEARTH_FUNCTION", owner.function.name());
    own("HEARTH_NAMESPACE", owner.function.namespace());
    own("HEARTH_REVISION", owner.revision.name());
    if let (Network::Outbound, Some(gateway)) = (network, &places.gateway) {
        own("HEARTH_GATEWAY", gateway);
    }
    if template.runtime == RuntimeName::Http {
        let port = template.image.as_ref().and_then(|image| image.port);
        own("PORT", &port.unwrap_or(HTTP_PORT).to_string());
    }
    env
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The Revision of a manifest's template.
    pub(crate) fn revision(name: &str, template: serde_json::Value) -> Revision {
        let mut whole = serde_json::json!({
            "runtime": "nodejs",
            "bundle": hearth_function::Digest::of(b"code"),
            "handler": "index.handler",
        });
        let fields = template.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(fields);
        let template: hearth_function::Template = serde_json::from_value(whole).unwrap();
        let (function, _) = name.rsplit_once('-').unwrap();
        let spec = hearth_function::RevisionSpec {
            function: function.to_owned(),
            generation: 1,
            template_digest: template.digest(),
            template,
        };
        let mut revision = Revision::new(name, spec);
        revision.metadata.namespace = Some("default".to_owned());
        revision
    }

    #[test]
    fn an_instance_of_an_earlier_revision_of_the_same_name_is_anothers() {
        let mut revision = revision("hello-00001", serde_json::json!({}));
        revision.metadata.uid = Some("uid-2".to_owned());
        let template = Template::new(&revision, Places::default()).unwrap();
        let of = |uid: Option<&str>| Owner { uid: uid.map(str::to_owned), ..template.owner.clone() };
        assert!(template.is_of(&of(Some("uid-2"))) && template.is_of(&of(None)));
        assert!(!template.is_of(&of(Some("uid-1"))));
        let other = Owner { revision: RevisionId::parse("default/hello-00002").unwrap(), ..of(None) };
        assert!(!template.is_of(&other));
    }

    #[test]
    fn an_instance_sees_the_users_variables_and_hearths_own() {
        let places = Places {
            interpreter: Some("/opt/node/bin/node".into()),
            gateway: Some("http://10.0.0.1:8080".to_owned()),
            ..Places::default()
        };
        let user = serde_json::json!({ "env": [{ "name": "LANG", "value": "de_DE" }, { "name": "A", "value": "1" }] });
        let template = Template::new(&revision("hello-00001", user), places).unwrap();
        let spec = template.spec(InstanceId::parse("hello-x").unwrap(), "secret".to_owned());
        let expected = [
            ("A", "1"),
            ("HEARTH_FUNCTION", "hello"),
            ("HEARTH_GATEWAY", "http://10.0.0.1:8080"),
            ("HEARTH_INSTANCE", "hello-x"),
            ("HEARTH_NAMESPACE", "default"),
            ("HEARTH_REVISION", "hello-00001"),
            ("HOME", "/tmp"),
            ("LANG", "de_DE"),
            ("PATH", "/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ];
        let found: Vec<(&str, &str)> =
            spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_the_cluster_keeps_is_in_no_environment_of_ours() {
        let from = serde_json::json!({ "secretKeyRef": { "name": "s", "key": "k" } });
        let env = serde_json::json!([
            { "name": "A", "value": "1" }, { "name": "LANG", "valueFrom": from }, { "name": "TOKEN", "valueFrom": from },
        ]);
        let fields = serde_json::json!({ "env": env, "kubernetes": { "serviceAccount": "robot" } });
        let template = Template::new(&revision("hello-00001", fields), Places::default()).unwrap();
        let spec = template.spec(InstanceId::parse("hello-x").unwrap(), "secret".to_owned());
        assert_eq!(spec.env.get("A").map(String::as_str), Some("1"));
        assert_eq!((spec.env.get("LANG"), spec.env.get("TOKEN")), (None, None));
        assert_eq!(spec.in_cluster.env.keys().collect::<Vec<_>>(), ["LANG", "TOKEN"]);
        assert_eq!(spec.in_cluster.pod.service_account.as_deref(), Some("robot"));
        assert_eq!(template.load_for_pooled().env.get("TOKEN"), None);
    }

    #[test]
    fn without_a_network_there_is_no_gateway_and_a_quota_waits_for_ready() {
        let places = Places { gateway: Some("http://10.0.0.1:8080".to_owned()), ..Places::default() };
        let fields = serde_json::json!({ "network": "none", "resources": { "cpu": "250m" } });
        let template = Template::new(&revision("hello-00001", fields), places).unwrap();
        let spec = template.spec(InstanceId::parse("hello-x").unwrap(), "secret".to_owned());
        assert_eq!(spec.env.get("HEARTH_GATEWAY"), None);
        assert_eq!((spec.limits.cpu_millis, template.limits.cpu_millis), (None, Some(250)));
    }

    #[test]
    fn a_program_finds_what_was_installed_for_it() {
        let places = || Places { dependencies: Some("/data/deps/1".into()), ..Places::default() };
        let env = |fields| {
            let template = Template::new(&revision("hello-00001", fields), places()).unwrap();
            template.spec(InstanceId::parse("hello-x").unwrap(), "secret".to_owned()).env
        };
        let plain = env(serde_json::json!({ "runtime": "http", "handler": null, "command": ["gunicorn"] }));
        assert_eq!(plain.get("PYTHONPATH").map(String::as_str), Some("/deps/python"));
        assert!(plain["PATH"].starts_with("/deps/node_modules/.bin:/deps/python/bin:/usr"), "{plain:?}");
        let user = serde_json::json!([{ "name": "PYTHONPATH", "value": "/code/src" }]);
        let own =
            serde_json::json!({ "runtime": "exec", "handler": null, "command": ["python3"], "env": user });
        assert_eq!(env(own).get("PYTHONPATH").map(String::as_str), Some("/code/src:/deps/python"));
        assert_eq!(env(serde_json::json!({})).get("PYTHONPATH"), None, "a bootstrap finds them itself");
    }

    #[test]
    fn an_ephemeral_instance_has_one_slot() {
        let fields = serde_json::json!({ "processModel": "ephemeral" });
        let template = Template::new(&revision("hello-00001", fields), Places::default()).unwrap();
        assert_eq!((template.slots(), template.single_use), (1, true));
    }
}
