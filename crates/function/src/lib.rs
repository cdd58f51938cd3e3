//! What a user declares, and what follows from it without looking at the world: [`Function`], [`Revision`] and the values
//! they are made of, with their defaults, validation, schema and text forms.
//!
//! Pure: no I/O, no clock, no randomness.

mod ids;

pub use ids::{FunctionId, IdError, InstanceId, RevisionId};
