//! What the engine and this machine can and cannot do, for `hearth doctor`. Nothing is changed.

use std::fs;

use super::engine::{About, Engine};
use crate::backend::Capability;
use crate::backend::local::report::{lacks, node, python, root, works};
use crate::backend::local::{blocking, network};

/// What can be found out without opening a backend.
pub async fn probe(host: Option<&str>) -> Vec<Capability> {
    match Engine::connect(host).await {
        Ok(engine) => of(&engine, None).await,
        Err(error) => {
            let crate::backend::OpenError::Unsupported { what, remedy } = error else {
                return vec![lacks("engine", error.to_string(), "start a container engine")];
            };
            vec![lacks("engine", format!("cannot {what}"), remedy)]
        }
    }
}

/// What an engine that has answered can do; `no_networks` is why there are none, where that is known.
pub(super) async fn of(engine: &Engine, no_networks: Option<&str>) -> Vec<Capability> {
    let networks = match no_networks {
        Some(reason) => Err(reason.to_owned()),
        None => blocking(network::check).await.map_err(|error| error.to_string()),
    };
    let mut list = vec![root(), answers(engine)];
    list.extend(facts(&engine.about));
    list.push(match networks {
        Ok(detail) => works("networks", detail),
        Err(reason) => lacks(
            "networks",
            reason,
            "run as root on a kernel with nf_tables and its bridge family; without them only functions with `network: none` run",
        ),
    });
    list.push(pool());
    list.extend(blocking(|| [node(), python()]).await);
    list
}

fn answers(engine: &Engine) -> Capability {
    let About { name, version, .. } = &engine.about;
    let socket = engine.socket.display();
    match engine.away() {
        None => works("engine", format!("{name} {version} at unix://{socket}")),
        Some(reason) => lacks(
            "engine",
            format!("{name} at unix://{socket} does not answer: {reason}"),
            "start it (systemctl start docker); functions come back by themselves",
        ),
    }
}

fn facts(about: &About) -> Vec<Capability> {
    let rootless = if about.rootless {
        lacks("engine's rights", "rootless", "use an engine that runs as root")
    } else if let Some((user, group)) = about.remapped {
        works("engine's rights", format!("root; in containers, root is {user}:{group} of the host"))
    } else {
        works("engine's rights", "root")
    };
    let restart = if about.live_restore {
        "containers run on while it is restarted"
    } else {
        "a restart of the engine ends its containers (live-restore is off); functions start again with the next request"
    };
    vec![
        rootless,
        works("storage", about.storage.clone()),
        works("control groups", format!("v{}", about.cgroups)),
        works("engine restarts", restart),
    ]
}

/// A pooled instance gets its code by a mount into its container's namespace.
fn pool() -> Capability {
    let enters = rustix::process::geteuid().is_root() && fs::metadata("/proc/self/ns/mnt").is_ok();
    if enters {
        works("pool", "code is mounted into containers that run")
    } else {
        lacks("pool", "code cannot be mounted into containers that run", "start hearth as root (sudo)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_said_with_its_remedy() {
        let list = probe(Some("unix:///does/not/exist.sock")).await;
        assert!(!list[0].works && list[0].remedy.is_some(), "{list:?}");
        assert!(list[0].detail.contains("/does/not/exist.sock"));
    }
}
