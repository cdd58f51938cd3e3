//! The `hearth` binary.

use std::process::ExitCode;

use hearth::backend::embedded::launcher;

fn main() -> ExitCode {
    // First of all: the launcher must have one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == launcher::ARGUMENT) {
        return launcher::main();
    }
    ExitCode::SUCCESS
}
