//! End-to-end tests: one binary, one file per route.

#![expect(
    clippy::inconsistent_digit_grouping,
    reason = "amounts in minor units are written as they are read: 150_00 is 150.00"
)]

mod auth;
mod bad_input;
mod both_ledgers;
mod broken_tasks;
mod canary;
mod cancellations;
mod commands;
mod connexpay_connector;
mod declines;
mod documents;
mod drains;
mod duplicates;
mod events;
mod fail_over;
mod faults;
mod hang_ups;
mod harness;
mod heartbeat;
mod horizon;
mod idempotency;
mod limits;
mod lost_owners;
mod one_key;
mod operations;
mod outages;
mod payments;
mod pool;
mod rates;
mod restarts;
mod secrets;
mod settlement;
mod simulator_kill;
mod tokens;
mod traces;
mod waits;
