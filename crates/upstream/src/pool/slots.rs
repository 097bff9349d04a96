//! When each connection ends: arithmetic that never lets too many end together, and keeps some always fresh.
//!
//! Time is cut into fixed slots, slightly wider than the window of `age_max / 300` in which at most
//! `max(2, N / 100)` connections may end. All ends of a slot fall on its one instant, so a window, wherever it lies,
//! sees at most one slot. A new connection takes the slot that is farthest from every other end: connections opened
//! together spread over the whole age (halves, quarters, eighths), and in the steady state, where each leaves its place
//! to a successor, the newcomer finds its place exactly one life later.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_core::clock::Tick;

/// Parts of the age that the rule on simultaneous ends looks at.
const WINDOWS_PER_AGE: u32 = 300;

/// Ends that one window may hold, for a pool of `connections_max`.
pub(super) fn ends_per_window(connections_max: usize) -> usize {
    (connections_max / 100).max(2)
}

/// The width of the window: a three-hundredth of the age.
pub(super) fn window(age_max: Duration) -> Duration {
    age_max / WINDOWS_PER_AGE
}

/// The planned ends of all open connections.
#[derive(Debug)]
pub(super) struct Slots {
    /// Distance between two slots, in nanoseconds; more than the window.
    spacing: u64,
    ends_per_slot: u32,
    /// From birth to the latest end.
    life: Duration,
    /// How many connections end at slot i, which lies at `i * spacing` on the clock.
    taken: BTreeMap<u64, u32>,
}

impl Slots {
    /// Room for `connections_max` connections and those that replace them, if `age_margin <= age_max / 3`.
    pub(super) fn new(age_max: Duration, age_margin: Duration, connections_max: usize) -> Self {
        let window = nanos(window(age_max));
        Self {
            spacing: window + window / 1_000 + 1,
            ends_per_slot: u32::try_from(ends_per_window(connections_max)).unwrap_or(u32::MAX),
            life: age_max.saturating_sub(age_margin),
            taken: BTreeMap::new(),
        }
    }

    /// Draws the end of a connection born now: after `birth`, and at the latest `age_max - age_margin` later. Nothing
    /// if every slot until then is full. What was drawn is given back with [`Slots::free`].
    pub(super) fn draw(&mut self, birth: Tick) -> Option<Tick> {
        let first = nanos(birth.since_origin()) / self.spacing + 1;
        let last = nanos((birth + self.life).since_origin()) / self.spacing;
        let slot = self
            .farthest(first, last)
            .or_else(|| self.latest_with_room(first, last))?;
        *self.taken.entry(slot).or_insert(0) += 1;
        Some(Tick::from_origin(Duration::from_nanos(slot * self.spacing)))
    }

    /// The connection that would have ended at `end` is gone.
    pub(super) fn free(&mut self, end: Tick) {
        let slot = nanos(end.since_origin()) / self.spacing;
        if let Some(count) = self.taken.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(&slot);
            }
        }
    }

    /// The empty slot farthest from its neighbours: the middle of the widest gap, or the last slot of all. Of equals
    /// the latest, for a longer life.
    fn farthest(&self, first: u64, last: u64) -> Option<u64> {
        if first > last {
            return None;
        }
        let mut best = None;
        let mut best_distance = 0;
        // Birth bounds the first gap: an end right after it would waste the handshake.
        let mut before = first - 1;
        for (&slot, _) in self.taken.range(first..=last) {
            let distance = (slot - before) / 2;
            if distance >= 1 && distance >= best_distance {
                (best, best_distance) = (Some(slot - distance), distance);
            }
            before = slot;
        }
        let distance = last - before;
        if distance >= 1 && distance >= best_distance {
            best = Some(last);
        }
        best
    }

    fn latest_with_room(&self, first: u64, last: u64) -> Option<u64> {
        let room = |slot: &u64| {
            self.taken
                .get(slot)
                .is_none_or(|count| *count < self.ends_per_slot)
        };
        (first..=last).rev().find(room)
    }
}

/// Enough for 584 years since boot.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Tick {
        Tick::from_origin(Duration::from_secs_f64(seconds))
    }

    /// The most ends in any closed window that holds `end`: the fullest begins at an end.
    fn fullest_window_around(ends: &[Tick], end: Tick, window: Duration) -> usize {
        let near: Vec<Tick> = ends
            .iter()
            .copied()
            .filter(|other| *other <= end + window && end <= *other + window)
            .collect();
        let held = |from: &Tick| {
            near.iter()
                .filter(|end| *end >= from && **end <= *from + window)
                .count()
        };
        near.iter()
            .filter(|from| **from <= end)
            .map(held)
            .max()
            .unwrap_or(0)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        /// The connection at this place dies before its time.
        Die(prop::sample::Index),
        Wait(Duration),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Open),
            1 => any::<prop::sample::Index>().prop_map(Step::Die),
            2 => (0_u64..5_000).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        ];
        prop::collection::vec(step, 1..800)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn windows_hold_and_no_end_is_late_whatever_opens_and_dies(
            connections_max in 1_usize..700,
            age_seconds in 1_u64..900,
            margin_share in 0_u32..=33,
            start in 0_u64..10_000_000,
            steps in steps(),
        ) {
            let age_max = Duration::from_secs(age_seconds);
            let margin = age_max * margin_share / 100;
            let bound = ends_per_window(connections_max);
            let open_max = connections_max + 5 * bound;
            let mut slots = Slots::new(age_max, margin, connections_max);
            let mut now = Tick::from_origin(Duration::from_millis(start));
            let mut ends: Vec<Tick> = Vec::new();
            for step in steps {
                match step {
                    Step::Open if ends.len() < open_max => {
                        let end = slots.draw(now);
                        prop_assert!(end.is_some(), "no slot for connection {} of {open_max}", ends.len() + 1);
                        let end = end.expect("just asserted");
                        prop_assert!(end > now, "an end before the birth");
                        prop_assert!(end <= now + age_max.saturating_sub(margin), "an end too late");
                        ends.push(end);
                        prop_assert!(fullest_window_around(&ends, end, window(age_max)) <= bound);
                    }
                    Step::Die(index) if !ends.is_empty() => {
                        slots.free(ends.swap_remove(index.index(ends.len())));
                    }
                    Step::Open | Step::Die(_) => {}
                    Step::Wait(span) => {
                        now = now + span;
                        for end in ends.extract_if(.., |end| *end <= now) {
                            slots.free(end);
                        }
                    }
                }
            }
            for end in ends {
                slots.free(end);
            }
            prop_assert!(slots.taken.is_empty(), "a slot was not given back");
        }

        #[test]
        fn connections_opened_together_and_replaced_one_by_one_leave_some_always_fresh(
            count in 4_usize..100,
            start in 0_u64..10_000_000,
        ) {
            let age_max = Duration::from_mins(5);
            let life = Duration::from_mins(4);
            let mut slots = Slots::new(age_max, Duration::from_mins(1), 100);
            let mut now = Tick::from_origin(Duration::from_millis(start));
            let mut open: Vec<(Tick, Tick)> = Vec::new();
            for _ in 0..count {
                open.push((now, slots.draw(now).expect("100 fit")));
            }
            let mut gap_max = Duration::ZERO;
            let mut youngest_birth = now;
            for _ in 0..4 * count {
                let (place, &(_, end)) = open.iter().enumerate().min_by_key(|(_, pair)| pair.1).expect("not empty");
                now = end;
                slots.free(end);
                gap_max = gap_max.max(now.since(youngest_birth));
                youngest_birth = now;
                open[place] = (now, slots.draw(now).expect("100 fit"));
            }
            // Ideal is life / count; halving gaps at most doubles it, and slots are whole seconds.
            let allowed = life * 2 / u32::try_from(count).expect("at most 100") + window(age_max) * 3;
            prop_assert!(gap_max <= allowed, "nothing fresh for {gap_max:?}, allowed {allowed:?}");
        }
    }

    #[test]
    fn connections_opened_together_end_at_even_distances() {
        let mut slots = Slots::new(Duration::from_mins(5), Duration::from_mins(1), 32);
        let birth = at(1_000.0);
        let mut lives: Vec<Duration> = (0..32)
            .map(|_| slots.draw(birth).expect("32 fit").since(birth))
            .collect();
        lives.sort();
        for (index, life) in (1_u32..).zip(&lives) {
            let ideal = Duration::from_mins(4) * index / 32;
            assert!(
                life.abs_diff(ideal) <= Duration::from_secs(3),
                "end {index} after {life:?}, ideal {ideal:?}"
            );
        }
    }

    #[test]
    fn a_full_row_of_slots_refuses_instead_of_crowding_a_window() {
        let mut slots = Slots::new(Duration::from_mins(5), Duration::from_secs(290), 2);
        let drawn = (0..100).map_while(|_| slots.draw(at(0.0))).count();
        assert_eq!(drawn, 2 * 9, "two in each of the nine slots of ten seconds");
    }
}
