//! The edge: HTTP, authentication, configuration.

pub mod fields;
pub mod json;
pub mod problem;
