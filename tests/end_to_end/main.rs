//! End-to-end tests: one binary, one file per route.

mod connexpay_connector;
mod faults;
mod harness;
mod payments;
mod simulator_kill;
