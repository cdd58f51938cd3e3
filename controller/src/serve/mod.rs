//! Wiring: configuration to running parts, in start-up and shutdown order.

pub mod config;
