//! `hearth convert`: prints foreign manifests as Functions.

use hearth_function::Function;

use super::args::{Convert, Format};
use super::error::Error;
use super::manifest::{self, Manifest};
use super::out;

/// Runs the command; warnings go to standard error as the manifests are read. What is in order is printed whatever is wrong with others.
pub(super) fn run(arguments: &Convert) -> Result<(), Error> {
    let (manifests, wrong) = manifest::read_each(&arguments.filename, manifest::Sources::Unseen);
    let convert = |manifest: &Manifest| match &arguments.namespace {
        Some(namespace) => manifest.in_namespace(namespace),
        None => manifest.function.clone(),
    };
    let functions: Vec<Function> = manifests.iter().map(convert).collect();
    match (arguments.output, functions.as_slice()) {
        (_, []) => {}
        (Format::Json, [function]) => out::object(function, Format::Json)?,
        (Format::Json, functions) => out::object(
            &serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": functions }),
            Format::Json,
        )?,
        (Format::Yaml, functions) => {
            for (index, function) in functions.iter().enumerate() {
                if index > 0 {
                    out::line("---")?;
                }
                out::object(function, Format::Yaml)?;
            }
        }
    }
    wrong.map_or(Ok(()), Err)
}
