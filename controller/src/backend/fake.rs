//! A backend in memory, with faults on demand, for the tests of what stands on backends.
