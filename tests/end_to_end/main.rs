//! End-to-end tests: one binary, one file per route.

mod connexpay_connector;
mod harness;
mod payments;
mod simulator_kill;
