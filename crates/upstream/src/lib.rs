//! Connectors to payment processors, on connections that this crate owns.

pub mod connexpay;
pub mod pool;
mod scrub;
