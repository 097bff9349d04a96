//! The rules of money: operations, payments, the ledger, and how every unknown outcome ends.

#[macro_use]
pub mod sabotage;

pub mod by_hand;
pub mod card;
pub mod clock;
pub mod connector;
pub mod draft;
pub mod echo;
pub mod engine;
pub mod idempotency;
pub mod journal;
pub mod key;
pub mod ledger;
pub mod liveness;
pub mod lock;
pub mod metrics;
pub mod money;
pub mod operation;
pub mod operator_key;
pub mod pan_scan;
pub mod payment;
pub mod randomness;
pub mod resolver;
pub mod secret;
pub mod store;
pub mod task;
pub mod token;
