//! The gateway from the outside: real connections on one side, a scripted instance that speaks the protocol on the other.

mod clients;
mod dedicated;
mod frames;
mod leaving;
mod limits;
mod node;
mod refused;
mod revisions;
mod rig;
mod unreachable;
