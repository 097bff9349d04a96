//! What is not the product: simulators of the processors, the ledger in memory, the local stack, end-to-end tests,
//! targets for hostile input.

pub mod bench;
pub mod drill;
pub mod hostile;
pub mod local;
pub mod memory_store;
mod quantile;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod simulators;
pub mod slow_clients;
pub mod stack;
pub mod world;
