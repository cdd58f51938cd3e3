//! The management API: the Kubernetes resource API for Functions and Revisions, and what stands beside it.

pub mod ports;
