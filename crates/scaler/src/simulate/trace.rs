//! What is simulated: which function is called when, and for how long each call runs.

use std::time::Duration;

/// A day, or a minute, of calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it is called in the tables.
    pub name: String,
    /// Names of the functions; a call names one by its place here.
    pub functions: Vec<String>,
    /// The calls, in the order of their time.
    pub calls: Vec<Call>,
    /// From the first moment to the last; what happens after it is not counted.
    pub length: Duration,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When it comes, from the beginning of the trace.
    pub at: Duration,
    /// Of which function.
    pub function: usize,
    /// How long it runs.
    pub service: Duration,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TraceError {
    /// From 1.
    pub line: usize,
    /// What is wrong there, and what is expected.
    pub what: String,
}

impl Trace {
    /// A trace of these calls, in order.
    #[must_use]
    pub fn new(name: &str, functions: Vec<String>, mut calls: Vec<Call>, length: Duration) -> Self {
        calls.sort_by_key(|call| (call.at, call.function));
        Self { name: name.to_owned(), functions, calls, length }
    }
}
