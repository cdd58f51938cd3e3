//! What every backend must do, as named cases that run against any of them.
