//! The rules of money: operations, payments, the ledger, and how every unknown outcome ends.

pub mod card;
pub mod clock;
pub mod idempotency;
pub mod key;
pub mod lock;
pub mod money;
pub mod pan_scan;
