//! Commands of a few lines: `kubeconfig`, `crd`, `version`.

use serde_json::{Value, json};

use super::args::{self, Format, Version};
use super::client::{Server, in_data_dir};
use super::error::Error;
use super::out;

/// `hearth kubeconfig`: the file as it is, so that it can be redirected.
pub(super) fn kubeconfig(arguments: &args::LocalServer) -> Result<(), Error> {
    let path = in_data_dir(arguments.data_dir.as_deref())?;
    // The same messages as for any other command.
    super::client::read(&path)?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::failed(format!("{} cannot be read: {error}", path.display())))?;
    out::text(&text)
}

/// `hearth crd`: the definitions as documents of one file, or as one list.
pub(super) fn crd(arguments: &args::Crd) -> Result<(), Error> {
    let crds = if arguments.cel { hearth_function::crds_with_rules() } else { hearth_function::crds() };
    match arguments.output {
        Format::Json => {
            out::object(&json!({ "apiVersion": "v1", "kind": "List", "items": crds }), Format::Json)
        }
        Format::Yaml => {
            let documents = crds.iter().map(out::yaml).collect::<Result<Vec<_>, _>>()?;
            out::text(&documents.join("---\n"))
        }
    }
}

/// `hearth version`. That no server answers is no failure here.
pub(super) async fn version(arguments: Version) -> Result<(), Error> {
    let ours = env!("CARGO_PKG_VERSION");
    let server = if arguments.client_only { None } else { ask(&arguments).await };
    match (arguments.output.form, server) {
        (Some(format), server) => out::object(&json!({ "client": ours, "server": server }), format),
        (None, Some(server)) => out::text(&format!("hearth {ours}\nserver {server}\n")),
        (None, None) => out::line(&format!("hearth {ours}")),
    }
}

async fn ask(arguments: &Version) -> Option<String> {
    let server = Server::find(&arguments.client).await.ok()?;
    let version: Value = server.get("/version").await.ok()?;
    version["hearth"].as_str().or_else(|| version["gitVersion"].as_str()).map(str::to_owned)
}
