//! Hearth: runs functions in containers.
//!
//! The modules, in the order of their dependencies: each uses only those below it.

pub mod cli;
pub mod serve;

pub mod api;
pub mod gateway;

pub mod deploy;

pub mod autoscale;

pub mod pool;

pub mod backend;
pub mod build;
pub mod store;

pub mod telemetry;
