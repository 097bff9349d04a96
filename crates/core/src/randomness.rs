//! Where the rules get chance from: ids, claims, and the jitter of pauses.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use rand::Rng as _;

/// Handed in, so that a whole world can run under a seed.
pub trait Randomness: Send + Sync + fmt::Debug {
    fn fill(&self, bytes: &mut [u8]);
}

/// The machine's own: a generator per thread, seeded by the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

impl dyn Randomness + '_ {
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A part from `range`, evenly; its start if it is empty.
    pub fn part(&self, range: Range<f64>) -> f64 {
        let bits = u32::from_be_bytes(self.bytes());
        let unit = f64::from(bits) / (f64::from(u32::MAX) + 1.0);
        range.start + unit * (range.end - range.start).max(0.0)
    }

    /// A pause between two whole milliseconds, both included.
    pub fn pause(&self, millis: RangeInclusive<u32>) -> Duration {
        let (least, most) = (f64::from(*millis.start()), f64::from(*millis.end()));
        Duration::from_secs_f64(self.part(least..most) / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills with one byte.
    #[derive(Debug)]
    struct Constant(u8);

    impl Randomness for Constant {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn a_part_lies_within_its_range_whatever_is_drawn() {
        let (least, most): (&dyn Randomness, &dyn Randomness) = (&Constant(0), &Constant(0xff));
        assert_eq!(least.part(0.8..0.9).to_bits(), 0.8_f64.to_bits());
        assert!((0.899..0.9).contains(&most.part(0.8..0.9)));
        assert_eq!(most.part(1.0..1.0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(least.pause(10..=50), Duration::from_millis(10));
        assert!(most.pause(10..=50) <= Duration::from_millis(50));
    }

    #[test]
    fn the_machine_never_draws_the_same_bytes_twice() {
        let random: &dyn Randomness = &SystemRandomness;
        assert_ne!(random.bytes::<16>(), random.bytes::<16>());
    }
}
