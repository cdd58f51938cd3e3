//! The life of instances: start, load, adopt, drain, reap.
