//! The request path: listener, route, admission, instance.
