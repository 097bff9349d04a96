//! Chance under a seed: the same seed throws the same dice on every machine.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gateway_core::randomness::Randomness;

/// Splitmix64: small, fast, and forked without the forks running into each other.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not throw neighbouring dice.
        let mut dice = Self { state: seed };
        Self {
            state: dice.throw() ^ seed.rotate_left(32),
        }
    }

    /// Dice of its own for somebody whose throws must not move everybody else's.
    pub(super) fn fork(&mut self) -> Self {
        Self::new(self.throw())
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("a usize fits 64 bits");
        usize::try_from(self.below(bound)).expect("less than a usize")
    }

    /// `parts` times in a thousand.
    pub(super) fn chance(&mut self, parts: u64) -> bool {
        self.below(1_000) < parts
    }

    /// Whole milliseconds from `least` to `most`, both included.
    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most.max(least) - least + 1))
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Each as often as its weight says.
    pub(super) fn weighted<T: Copy>(&mut self, from: &[(T, u64)]) -> T {
        let whole = from.iter().map(|(_, weight)| weight).sum();
        let mut left = self.below(whole);
        for (one, weight) in from {
            if left < *weight {
                return *one;
            }
            left -= weight;
        }
        unreachable!("less than the sum of all weights")
    }
}

/// Dice as the product takes chance from them.
#[derive(Debug)]
pub(super) struct SharedDice(Mutex<Dice>);

impl SharedDice {
    pub(super) fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }

    pub(super) fn with<T>(&self, use_them: impl FnOnce(&mut Dice) -> T) -> T {
        use_them(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Randomness for SharedDice {
    fn fill(&self, bytes: &mut [u8]) {
        self.with(|dice| {
            for chunk in bytes.chunks_mut(8) {
                let thrown = dice.throw().to_be_bytes();
                chunk.copy_from_slice(&thrown[..chunk.len()]);
            }
        });
    }
}
