//! End-to-end tests: one binary, one file per route.

mod harness;
mod payments;
mod simulator_kill;
