//! The resolver: adopts what a lost owner left, and asks about every unknown operation until it is final or parked.
//!
//! It holds no card data, so it repeats card-less verbs only. Every decision that moves money (a repeat, a reversal) is
//! written and raises a count or an epoch before its first byte leaves; every conclusion is written on condition that
//! nobody took the operation meanwhile. "Not found" is believed only past the late-arrival horizon, and only over a
//! route that was shown to work in the same check.

mod cancelled;
mod check;
mod conclude;
mod create;
mod follow_up;
mod scan;
mod schedule;
#[cfg(test)]
mod tests;
mod undo;

pub(crate) use scan::Resolver;
pub use schedule::ResolverOptions;
