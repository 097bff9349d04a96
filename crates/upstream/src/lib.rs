//! Connectors to payment processors, on connections that this crate owns.
