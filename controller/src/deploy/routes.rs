//! The gateway's table, made from all Functions at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hearth_dispatch::routes::{Claim, Conflict, PathKind};
use hearth_function::spec::{HttpTrigger, PathType, Timeouts};
use hearth_function::{Function, FunctionId, RevisionId};
use tokio::sync::watch;

use crate::gateway::{self, Served, Unready};

/// What is told of the Functions that serve. The gateway is one; tests have another.
pub trait Gateway: Send + Sync + fmt::Debug + 'static {
    /// Replaces all Functions at once, and returns the routes that a Function did not get because somebody older has them.
    ///
    /// Who asks for one of `unready` is told why nothing of it serves yet.
    fn serve(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict>;
}

impl Gateway for gateway::Handle {
    fn serve(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict> {
        self.serve_all(functions, unready)
    }
}

/// The Functions that serve. Clones share one table.
///
/// It is filled before the gateway listens ([`Routes::open`]), so that nobody is told after a restart that a function is not there.
#[derive(Debug, Clone)]
pub struct Routes {
    gateway: Arc<OnceLock<Arc<dyn Gateway>>>,
    table: Arc<Mutex<Functions>>,
    conflicts: watch::Sender<Arc<Vec<Conflict>>>,
}

/// What the gateway is told.
#[derive(Debug, Default)]
struct Functions {
    served: BTreeMap<FunctionId, Served>,
    /// None of them is among those that are served.
    unready: BTreeMap<FunctionId, Unready>,
}

impl Default for Routes {
    /// An empty table, with no gateway yet.
    fn default() -> Self {
        Self { gateway: Arc::default(), table: Arc::default(), conflicts: watch::Sender::new(Arc::default()) }
    }
}

impl Routes {
    /// Gives the table to `gateway`, now and whenever it changes. A second gateway is not taken.
    pub fn open(&self, gateway: Arc<dyn Gateway>) {
        let _taken = self.gateway.set(gateway).is_err();
        self.change(|_| true);
    }

    /// Leads a Function's routes to a Revision.
    pub(super) fn serve(&self, served: Served) {
        self.change(|table| {
            table.unready.remove(&served.function);
            table.served.insert(served.function.clone(), served);
            true
        });
    }

    /// Takes a Function's routes away.
    pub(super) fn unserve(&self, function: &FunctionId) {
        self.change(|table| {
            let unready = table.unready.remove(function).is_some();
            table.served.remove(function).is_some() || unready
        });
    }

    /// Says why nothing of a Function serves yet. What serves already goes on.
    pub(super) fn unready(&self, unready: Unready) {
        self.change(|table| {
            let news = table.unready.get(&unready.function) != Some(&unready);
            let change = news && !table.served.contains_key(&unready.function);
            if change {
                table.unready.insert(unready.function.clone(), unready);
            }
            change
        });
    }

    /// Follows the routes that Functions did not get.
    pub(super) fn conflicts(&self) -> watch::Receiver<Arc<Vec<Conflict>>> {
        self.conflicts.subscribe()
    }

    /// Changes the table, and tells the gateway if `change` says that it did.
    fn change(&self, change: impl FnOnce(&mut Functions) -> bool) {
        // Held while the gateway takes the table, so that an older one never comes after a newer. Nothing waits in it.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut table) {
            return;
        }
        let Some(gateway) = self.gateway.get() else { return };
        let (served, unready) = (table.served.values().cloned(), table.unready.values().cloned());
        let conflicts = gateway.serve(served.collect(), unready.collect());
        self.conflicts.send_if_modified(|known| {
            let news = **known != conflicts;
            if news {
                *known = Arc::new(conflicts);
            }
            news
        });
    }
}

/// An instance has as long to start as a request waits for one, and begins a little later. When it fails by that, whoever waits is to hear
/// why, with what it printed, and not just that nothing came.
const VERDICT: Duration = Duration::from_secs(1);

/// A Function as the gateway serves it.
pub(super) fn served(
    function: &Function,
    id: &FunctionId,
    revision: RevisionId,
    timeouts: &Timeouts,
) -> Served {
    Served {
        function: id.clone(),
        created: crate::store::creation_order(&function.metadata),
        revision,
        timeouts: gateway::Timeouts {
            queue: timeouts.queue.get(),
            start: timeouts.start.get() + VERDICT,
            execute: timeouts.execute.get(),
            idle_stream: timeouts.idle_stream.get(),
        },
        claims: claims(function),
    }
}

/// A Function of which nothing serves yet.
pub(super) fn unready(
    function: &Function,
    id: &FunctionId,
    reason: String,
    retry_after: Option<Duration>,
) -> Unready {
    Unready {
        function: id.clone(),
        created: crate::store::creation_order(&function.metadata),
        claims: claims(function),
        reason,
        retry_after,
    }
}

/// Not one more than there are: each Function's are kept.
fn claims(function: &Function) -> Vec<Claim> {
    let mut claims: Vec<Claim> = function.spec.http_triggers().map(claim).collect();
    claims.shrink_to_fit();
    claims
}

fn claim(trigger: &HttpTrigger) -> Claim {
    Claim {
        host: trigger.host.clone(),
        path: trigger.path.clone(),
        kind: match trigger.path_type {
            PathType::Exact => PathKind::Exact,
            PathType::Prefix => PathKind::Prefix,
        },
        methods: trigger.methods.iter().map(ToString::to_string).collect(),
    }
}

/// Where a Function answers: the first of its routes that nobody older has, or the path that every Function has. A wildcard is no address:
/// nobody can call it as it stands.
pub(super) fn url(base: &str, function: &Function, id: &FunctionId, conflicts: &[Conflict]) -> String {
    let is_own = |trigger: &&HttpTrigger| {
        let asked = claim(trigger);
        let same =
            |lost: &Claim| (&lost.host, &lost.path, lost.kind) == (&asked.host, &asked.path, asked.kind);
        // One that got a part of its methods is reached by those.
        let whole = |lost: &Claim| lost.methods.is_empty() || lost.methods.len() >= asked.methods.len();
        !conflicts.iter().any(|conflict| same(&conflict.claim) && whole(&conflict.claim))
    };
    let is_address = |trigger: &&HttpTrigger| !trigger.host.starts_with('*');
    match function.spec.http_triggers().filter(is_address).find(is_own) {
        Some(trigger) if trigger.host.is_empty() => format!("{base}{}", trigger.path),
        Some(trigger) => {
            let port = base
                .rsplit_once(':')
                .map(|(_, port)| port)
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && *port != "80");
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("http://{}{port}{}", trigger.host, trigger.path)
        }
        None => format!("{base}/function/{id}"),
    }
}

#[cfg(test)]
mod tests {
    use hearth_dispatch::routes::Holder;

    use super::*;

    #[test]
    fn the_url_is_one_that_reaches_this_function() {
        let function: Function = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "hello", "namespace": "b" },
            "spec": {
                "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"],
                "triggers": [{ "http": { "path": "/a" } }, { "http": { "path": "/c", "methods": ["GET", "POST"] } }],
            },
        }))
        .unwrap();
        let id = FunctionId::parse("b/hello").unwrap();
        let lost = |path: &str, methods: &[&str]| Conflict {
            function: id.clone(),
            claim: Claim {
                host: String::new(),
                path: path.to_owned(),
                kind: PathKind::Prefix,
                methods: methods.iter().map(ToString::to_string).collect(),
            },
            holder: Holder::Function(FunctionId::parse("a/hello").unwrap()),
        };
        for (conflicts, expected) in [
            (vec![], "http://h/a"),
            (vec![lost("/a", &[])], "http://h/c"),
            (vec![lost("/a", &[]), lost("/c", &["GET"])], "http://h/c"),
            (vec![lost("/a", &[]), lost("/c", &["GET", "POST"])], "http://h/function/b/hello"),
        ] {
            assert_eq!(url("http://h", &function, &id, &conflicts), expected);
        }
        let mut hosted = function;
        hosted.spec.triggers =
            serde_json::from_value(serde_json::json!([{ "http": { "path": "/", "host": "x.org" } }]))
                .unwrap();
        for (base, expected) in [
            ("http://h:8080", "http://x.org:8080/"),
            ("http://h:80", "http://x.org/"),
            ("http://gateway.system", "http://x.org/"),
        ] {
            assert_eq!(url(base, &hosted, &id, &[]), expected);
        }
        let own = claim(hosted.spec.http_triggers().next().unwrap());
        let holder = Holder::Namespace { namespace: "a".to_owned(), host: own.host.clone() };
        let of_another = [Conflict { function: id.clone(), claim: own, holder }];
        assert_eq!(url("http://h", &hosted, &id, &of_another), "http://h/function/b/hello");
    }

    #[test]
    fn a_wildcard_is_nobodys_url() {
        let id = FunctionId::parse("b/hello").unwrap();
        for (triggers, expected) in [
            (
                serde_json::json!([{ "http": { "path": "/a", "host": "*.x.org" } }]),
                "http://h/function/b/hello",
            ),
            (
                serde_json::json!([
                    { "http": { "path": "/a", "host": "*.x.org" } },
                    { "http": { "path": "/a", "host": "www.x.org" } },
                ]),
                "http://www.x.org/a",
            ),
        ] {
            let function: Function = serde_json::from_value(serde_json::json!({
                "metadata": { "name": "hello", "namespace": "b" },
                "spec": {
                    "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"],
                    "triggers": triggers,
                },
            }))
            .unwrap();
            assert_eq!(url("http://h", &function, &id, &[]), expected);
        }
    }

    #[test]
    fn a_function_is_told_of_as_not_ready_until_it_serves() {
        #[derive(Debug)]
        struct Told(Mutex<(usize, usize)>);
        impl Gateway for Told {
            fn serve(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict> {
                *self.0.lock().unwrap() = (functions.len(), unready.len());
                Vec::new()
            }
        }
        let (routes, told) = (Routes::default(), Arc::new(Told(Mutex::default())));
        routes.open(Arc::clone(&told) as Arc<dyn Gateway>);
        let id = FunctionId::parse("default/hello").unwrap();
        let unready = Unready {
            function: id.clone(),
            created: 1,
            claims: Vec::new(),
            reason: "installing".to_owned(),
            retry_after: None,
        };
        routes.unready(unready.clone());
        assert_eq!(*told.0.lock().unwrap(), (0, 1));
        routes.serve(Served {
            function: id.clone(),
            created: 1,
            revision: RevisionId::parse("default/hello-00001").unwrap(),
            timeouts: gateway::Timeouts::default(),
            claims: Vec::new(),
        });
        assert_eq!(*told.0.lock().unwrap(), (1, 0));
        routes.unready(unready);
        assert_eq!(*told.0.lock().unwrap(), (1, 0), "what serves goes on");
        routes.unserve(&id);
        assert_eq!(*told.0.lock().unwrap(), (0, 0));
    }
}
