//! End-to-end tests: one binary, one file per route.

#![expect(
    clippy::inconsistent_digit_grouping,
    reason = "amounts in minor units are written as they are read: 150_00 is 150.00"
)]

mod connexpay_connector;
mod faults;
mod harness;
mod payments;
mod simulator_kill;
