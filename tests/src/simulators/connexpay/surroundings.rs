//! What simulated ConnexPay takes from around it: the time of day, and chance for its ids.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::super::unix_ms;

/// Real, or a simulation's.
pub(crate) struct Surroundings {
    now_ms: Box<dyn Fn() -> i64 + Send + Sync>,
    chance: Chance,
}

/// The machine's, or a sequence that a seed decides.
#[derive(Debug, Default)]
pub(super) struct Chance(Option<AtomicU64>);

impl Surroundings {
    pub(crate) fn real() -> Self {
        Self {
            now_ms: Box::new(unix_ms),
            chance: Chance(None),
        }
    }

    /// A clock of the caller's own, in Unix milliseconds, and ids that follow from `seed`.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(now_ms: impl Fn() -> i64 + Send + Sync + 'static, seed: u64) -> Self {
        Self {
            now_ms: Box::new(now_ms),
            chance: Chance(Some(AtomicU64::new(seed))),
        }
    }

    pub(super) fn split(self) -> (Box<dyn Fn() -> i64 + Send + Sync>, Chance) {
        (self.now_ms, self.chance)
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("chance", &self.chance)
            .finish_non_exhaustive()
    }
}

impl Chance {
    pub(super) fn uuid(&self) -> Uuid {
        let Self(Some(state)) = self else {
            return Uuid::new_v4();
        };
        let (high, low) = (next(state), next(state));
        uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
            .into_uuid()
    }
}

/// Splitmix64.
fn next(state: &AtomicU64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
