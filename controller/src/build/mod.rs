//! Source to bundle, dependencies included.
