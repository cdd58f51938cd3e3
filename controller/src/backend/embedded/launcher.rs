//! The launcher: this binary, re-executed with one thread, in which libcontainer may fork.

use std::process::ExitCode;

/// The first argument that makes the `hearth` binary a launcher. Not for people.
pub const ARGUMENT: &str = "__launcher";

/// Runs the launcher until the controller goes away. `main` calls it when the first argument is [`ARGUMENT`], before any thread or
/// runtime exists.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
