//! The connector to ConnexPay (Sales API v1).
#![expect(
    dead_code,
    reason = "requests and answers come first; the connector that uses them follows"
)]

mod amount;
mod answers;
mod ascii;
mod codes;
mod risk;
mod scrub;
mod wire;

pub use answers::UnlistedCode;
