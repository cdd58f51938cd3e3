//! Planning as facts, and installing against a backend whose instances only say that they are npm. The real ones run in
//! `controller/tests/dependencies.rs`.

mod installing;
mod planning;
