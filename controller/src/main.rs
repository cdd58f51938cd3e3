//! The `hearth` binary: tells which of its two programs it is, and runs that.

use std::process::ExitCode;

use hearth::backend::embedded::launcher;

fn main() -> ExitCode {
    // Before any thread and any runtime: the launcher forks.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == launcher::ARGUMENT) {
        return launcher::main();
    }
    // An error means that there is one already, which no other code here installs.
    let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
    hearth::cli::main()
}
