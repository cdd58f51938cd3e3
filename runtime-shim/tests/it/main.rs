//! The shim and the bootstraps without a container: real processes, real sockets, the interpreters of this machine.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "an integration test is one test module"
)]

mod client;
mod controller;
mod ending;
mod exec;
mod hostile;
mod http;
mod node;
mod pooled;
mod python;
mod report;
mod supervisor;
