//! From a Function to a Revision that can serve.
