//! The edge: HTTP, authentication, configuration.
