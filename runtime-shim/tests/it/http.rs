//! The `exec` runtime.
