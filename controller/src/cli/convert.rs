//! `hearth convert`: prints foreign manifests as Functions.

use super::args::{Convert, Format};
use super::error::Error;
use super::{manifest, out};

/// Runs the command; warnings go to standard error as the manifests are read.
pub(super) fn run(arguments: &Convert) -> Result<(), Error> {
    let functions: Vec<_> = manifest::read_all(&arguments.filename, manifest::Sources::Unseen)?
        .into_iter()
        .map(|manifest| manifest.function)
        .collect();
    match (arguments.output, functions.as_slice()) {
        (Format::Json, [function]) => out::object(function, Format::Json),
        (Format::Json, functions) => out::object(
            &serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": functions }),
            Format::Json,
        ),
        (Format::Yaml, functions) => {
            for (index, function) in functions.iter().enumerate() {
                if index > 0 {
                    out::line("---")?;
                }
                out::object(function, Format::Yaml)?;
            }
            Ok(())
        }
    }
}
