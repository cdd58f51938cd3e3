//! Desired state and records, in an embedded database.
