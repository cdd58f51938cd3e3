//! `hearth explain`: what the fields of a manifest mean, out of the types themselves.

use super::args::Explain;
use super::error::Error;
use super::out;

/// Runs the command.
pub(super) fn run(arguments: &Explain) -> Result<(), Error> {
    match hearth_function::explain(&arguments.path) {
        Some(text) => out::text(&text),
        None => Err(unknown(&arguments.path)),
    }
}

/// Names the nearest field above that there is.
fn unknown(path: &str) -> Error {
    if matches!(path.split('.').next(), Some("instance" | "instances")) {
        return Error::fixable(
            "instances are not declared: Hearth starts and stops them",
            "hearth get instances  lists them; hearth explain function.spec.scale  says how many there are",
        );
    }
    if let Some(meant) = hearth_function::explain_nearest(path) {
        return Error::fixable(format!("there is no field {path}"), format!("hearth explain {meant}"));
    }
    let mut known = path;
    while let Some((above, _)) = known.rsplit_once('.') {
        if hearth_function::explain(above).is_some() {
            return Error::fixable(
                format!("there is no field {path}"),
                format!("hearth explain {above}  lists what there is"),
            );
        }
        known = above;
    }
    Error::fixable(format!("there is no field {path}"), "hearth explain function  lists what there is")
}
