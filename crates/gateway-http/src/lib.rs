//! The edge: HTTP, authentication, configuration.

pub mod problem;
