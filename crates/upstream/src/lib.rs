//! Connectors to payment processors, on connections that this crate owns.

pub mod pool;

pub mod connexpay;
