//! Tracing, metrics, logs per invocation.
