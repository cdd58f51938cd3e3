//! Commands and their output: a client of the management API, with no logic of its own.
