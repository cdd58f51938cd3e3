//! Hearth: runs functions in containers.
//!
//! The modules, in the order of their dependencies: each uses only those below it.

// What people and programs speak to.
pub mod cli;
pub mod serve;

// A gateway in a process of its own.
pub mod edge;

pub mod api;

// From what is declared to what serves.
pub mod deploy;

// The request path, and as many instances as it needs.
pub mod gateway;

pub mod hub;

pub mod autoscale;

pub mod pool;

// What they stand on.
pub mod build;

pub mod backend;

pub mod store;

pub mod lease;

mod door;

pub mod telemetry;
