//! How many connections to keep open: as many as were used at once lately.

use std::time::Duration;

use gateway_core::clock::Tick;

/// The recent peak of concurrent use. It rises at once and fades by a factor of e in a tenth of the age, so that a
/// burst is remembered for a minute or two and a quiet processor is left alone.
#[derive(Debug)]
pub(super) struct Warmth {
    level: f64,
    measured_at: Tick,
    fades_in: Duration,
    /// Highest since the last measurement.
    peak: usize,
}

impl Warmth {
    pub(super) fn new(age_max: Duration, now: Tick) -> Self {
        Self {
            level: 0.0,
            measured_at: now,
            fades_in: age_max / 10,
            peak: 0,
        }
    }

    /// So many are in use at this moment.
    pub(super) fn note(&mut self, in_use: usize) {
        self.peak = self.peak.max(in_use);
    }

    /// How many connections the recent use asks for. `in_use` seeds the next measurement.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of connections, far below 2^52 and never negative"
    )]
    pub(super) fn measure(&mut self, now: Tick, in_use: usize) -> usize {
        let elapsed = now.since(self.measured_at).as_secs_f64() / self.fades_in.as_secs_f64();
        self.level = (self.level * (-elapsed).exp()).max(self.peak as f64);
        self.measured_at = now;
        self.peak = in_use;
        // A twentieth of a connection is none: without it the last one would be kept for an hour.
        (self.level - 0.05).ceil().max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_mins(5);

    fn at(seconds: u64) -> Tick {
        Tick::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_peak_is_kept_warm_at_once_and_fades_when_it_does_not_come_back() {
        let mut warmth = Warmth::new(AGE, at(0));
        warmth.note(32);
        warmth.note(3);
        assert_eq!(warmth.measure(at(1), 0), 32);
        assert!(
            (10..=14).contains(&warmth.measure(at(31), 0)),
            "a third is left after a tenth of the age"
        );
        assert_eq!(warmth.measure(at(300), 0), 0);
    }

    #[test]
    fn steady_light_use_keeps_one_connection_and_not_more() {
        let mut warmth = Warmth::new(AGE, at(0));
        warmth.note(32);
        let mut wanted = 0;
        for second in 1..400 {
            warmth.note(1);
            wanted = warmth.measure(at(second), 0);
        }
        assert_eq!(wanted, 1);
    }
}
