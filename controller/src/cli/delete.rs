//! `hearth delete`.

use kube::ResourceExt;
use kube::api::DeleteParams;

use super::args::Delete;
use super::client::Server;
use super::error::Error;
use super::{manifest, out};

/// Runs the command.
pub(super) async fn run(arguments: Delete) -> Result<(), Error> {
    let (server, default) = Server::open(&arguments.place).await?;
    let targets: Vec<(String, String)> = if arguments.filename.is_empty() {
        super::names(&arguments.what, "delete", &arguments.place)?
            .iter()
            .map(|name| (default.clone(), name.clone()))
            .collect()
    } else {
        let named = |manifest: manifest::Manifest| {
            (manifest.function.namespace().unwrap_or_else(|| default.clone()), manifest.function.name_any())
        };
        manifest::read_all(&arguments.filename, manifest::Sources::Unseen)?.into_iter().map(named).collect()
    };
    let mut missing = Vec::new();
    for (namespace, name) in targets {
        match server.functions(Some(&namespace)).delete(&name, &DeleteParams::default()).await {
            Ok(_) => out::line(&format!("function {name} deleted"))?,
            Err(kube::Error::Api(status))
                if status.is_not_found()
                    && status.details.as_ref().is_some_and(|details| !details.name.is_empty()) =>
            {
                missing.push(format!("{namespace}/{name}"));
            }
            Err(error) => return Err(server.explain(&error)),
        }
    }
    if missing.is_empty() || arguments.ignore_not_found {
        return Ok(());
    }
    Err(Error::fixable(format!("no such function: {}", missing.join(", ")), "see `hearth get functions -A`"))
}
