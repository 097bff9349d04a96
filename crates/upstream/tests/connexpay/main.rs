//! The ConnexPay connector over real sockets, against a processor that answers by script.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: the line that failed says it all"
)]

mod look_ups;
mod refunds;
mod second_sends;
mod sends;
mod undo;
mod world;
