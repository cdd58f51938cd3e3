//! What instances must have in common to stand in for one another before they know their function.
//!
//! A runtime class is the interpreter, the network, and for Node the memory limit: its heap is fitted to that when it starts. All else
//! (code, environment, limits, concurrency) is given to an instance together with its function. `http` and `exec` functions bring their own
//! program, which is the whole of their start: there is nothing to be pooled of them.

use std::fmt;
use std::path::PathBuf;

use hearth_function::{InstanceId, RuntimeName, Template};

use super::template::{PIDS, Places, base_environment};
use crate::backend::{Fixity, InCluster, InstanceSpec, Limits, Network, Process, Root};

/// Calls that a pooled instance is taken to run at once until it knows: more than one, so that what it prints is not taken for one call's.
const CONCURRENCY: u32 = 2;

/// Memory of a pooled instance whose class does not say: the default of a manifest.
const MEMORY_BYTES: u64 = 128 << 20;

/// Size of `/tmp` until the function is known: the default of a manifest.
const TMP_BYTES: u64 = 64 << 20;

/// Variables that are read when a process starts and never again. Functions that set one get instances that were started with it.
/// (Python is started isolated, and reads none of its own.)
const READ_AT_START: [&str; 9] =
    ["GLIBC_", "ICU_", "LC_", "LD_", "MALLOC_", "NODE_", "OPENSSL_", "SSL_", "UV_"];

/// Names with such a beginning that programs look at when they please.
const READ_LATER: [&str; 1] = ["NODE_ENV"];

/// A runtime class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    language: Language,
    interpreter: Option<PathBuf>,
    image: Option<String>,
    /// Where an instance cannot move to another.
    namespace: Option<String>,
    network: Network,
    memory_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Language {
    Nodejs,
    Python,
}

impl Class {
    /// The class of a Revision's instances, if they can be pooled.
    pub(super) fn of(
        template: &Template,
        places: &Places,
        network: Network,
        namespace: &str,
    ) -> Option<Self> {
        let memory = template.resources.memory.bytes();
        let fixed = places.fixity == Fixity::Fixed;
        if fixed && (template.resources.cpu.is_some() || template.resources.tmp().bytes() != TMP_BYTES) {
            return None;
        }
        // A Pod has its service account, its node and what its node looked up from the beginning.
        let of_its_own = template.kubernetes.is_some()
            || template.env.iter().any(|variable| variable.value_from.is_some());
        if fixed && of_its_own {
            return None;
        }
        let (language, memory_bytes) = match template.runtime {
            RuntimeName::Nodejs(_) => (Language::Nodejs, memory),
            RuntimeName::Python(_) => (Language::Python, if fixed { memory } else { MEMORY_BYTES }),
            RuntimeName::Http | RuntimeName::Exec | RuntimeName::Provided => return None,
        };
        let at_start = |name: &str| {
            name == "LANG"
                || READ_AT_START.iter().any(|prefix| name.starts_with(prefix)) && !READ_LATER.contains(&name)
        };
        if template.env.iter().any(|variable| at_start(&variable.name)) {
            return None;
        }
        let (interpreter, image) = (places.interpreter.clone(), places.runtime_image.clone());
        let namespace = fixed.then(|| namespace.to_owned());
        Some(Self { language, interpreter, image, namespace, network, memory_bytes })
    }

    /// The limits that its instances are started with.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes,
            cpu_millis: None,
            tmp_bytes: TMP_BYTES,
            pids: PIDS,
            patient: false,
        }
    }

    /// What is kept for one of its instances from the beginning, whatever it uses of that, in bytes: a node keeps a Pod's. `None`: it takes
    /// what it uses.
    pub(crate) fn kept_bytes(&self) -> Option<u64> {
        self.namespace.as_ref().map(|_| self.memory_bytes)
    }

    /// The beginning of its instances' names.
    pub(super) fn prefix(&self) -> &'static str {
        match self.language {
            Language::Nodejs => "nodejs",
            Language::Python => "python",
        }
    }

    /// The specification of one instance that knows no function.
    pub(super) fn spec(&self, id: InstanceId, secret: String) -> InstanceSpec {
        let mut env = base_environment(self.interpreter.as_deref());
        env.insert("HEARTH_INSTANCE".to_owned(), id.to_string());
        InstanceSpec {
            id,
            owner: None,
            process: match self.language {
                Language::Nodejs => Process::Nodejs,
                Language::Python => Process::Python,
            },
            code: None,
            build_dir: None,
            user: None,
            working_directory: None,
            root: Root::with_interpreter(self.interpreter.clone(), self.image.clone()),
            namespace: self.namespace.clone(),
            in_cluster: InCluster::default(),
            env,
            // Until it is pooled.
            limits: Limits { patient: true, ..self.limits() },
            network: self.network,
            concurrency: CONCURRENCY,
            secret,
        }
    }
}

impl fmt::Display for Class {
    /// For people: `nodejs, 128Mi, outbound`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = match self.network {
            Network::None => "no network",
            Network::Outbound => "outbound",
        };
        write!(f, "{}, {}Mi, {network}", self.prefix(), self.memory_bytes >> 20)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, ", in {namespace}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::template::tests::revision;
    use super::super::{Places, Template};
    use super::*;

    fn class(fields: serde_json::Value) -> Option<Class> {
        let places = Places { interpreter: Some("/opt/node/bin/node".into()), ..Places::default() };
        Template::new(&revision("hello-00001", fields), places).unwrap().class().cloned()
    }

    #[test]
    fn functions_share_a_class_when_their_instances_start_alike() {
        let hello = class(json!({})).unwrap();
        let variable = |name: &str| json!({ "env": [{ "name": name, "value": "1" }] });
        for same in [
            json!({ "handler": "other.main", "concurrency": { "limit": 1 }, "processModel": "ephemeral" }),
            json!({ "resources": { "memory": "128Mi", "cpu": "250m", "tmp": "16Mi" } }),
            variable("NODE_ENV"),
            variable("GREETING"),
        ] {
            assert_eq!(class(same.clone()).as_ref(), Some(&hello), "{same}");
        }
        for other in [
            json!({ "resources": { "memory": "256Mi" } }),
            json!({ "network": "none" }),
            json!({ "runtime": "python" }),
        ] {
            let found = class(other.clone());
            assert!(found.is_some() && found.as_ref() != Some(&hello), "{other}");
        }
        for none in [
            variable("NODE_OPTIONS"),
            variable("LD_PRELOAD"),
            variable("UV_THREADPOOL_SIZE"),
            variable("LANG"),
            json!({ "runtime": "http", "command": ["./server"] }),
            json!({ "runtime": "exec", "command": ["./program"] }),
        ] {
            assert_eq!(class(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn a_function_with_a_pod_of_its_own_shares_no_other() {
        let of = |fields: serde_json::Value, fixity: Fixity| {
            let places = Places { fixity, ..Places::default() };
            Template::new(&revision("hello-00001", fields), places).unwrap().class().cloned()
        };
        let from = json!({ "configMapKeyRef": { "name": "c", "key": "k" } });
        for own in [
            json!({ "kubernetes": { "nodeSelector": { "zone": "a" } } }),
            json!({ "env": [{ "name": "A", "valueFrom": from }] }),
        ] {
            assert_eq!(of(own.clone(), Fixity::Fixed), None, "{own}");
        }
        assert!(of(json!({}), Fixity::Fixed).is_some());
        // Elsewhere it has no effect, on the pool neither.
        let own = json!({ "kubernetes": { "nodeSelector": { "zone": "a" } } });
        assert!(of(own, Fixity::Free).is_some());
    }

    #[test]
    fn what_cannot_move_holds_its_limit_from_the_beginning() {
        let of = |fixity| {
            let fields = json!({ "resources": { "memory": "256Mi" } });
            let places = Places { fixity, ..Places::default() };
            let template = Template::new(&revision("hello-00001", fields), places).unwrap();
            template.class().and_then(Class::kept_bytes)
        };
        assert_eq!((of(Fixity::Fixed), of(Fixity::Free)), (Some(256 << 20), None));
    }

    #[test]
    fn python_fits_into_any_memory_and_node_into_its_own() {
        let python = |memory: &str| class(json!({ "runtime": "python", "resources": { "memory": memory } }));
        assert_eq!(python("64Mi"), python("1Gi"));
        let spec = class(json!({ "resources": { "memory": "256Mi" } }))
            .unwrap()
            .spec(InstanceId::parse("nodejs-x").unwrap(), "secret".to_owned());
        assert_eq!(
            (spec.owner.is_none(), spec.code.is_none(), spec.limits.memory_bytes),
            (true, true, 256 << 20)
        );
        assert_eq!(
            spec.env.keys().map(String::as_str).collect::<Vec<_>>(),
            ["HEARTH_INSTANCE", "HOME", "LANG", "PATH"]
        );
    }
}
