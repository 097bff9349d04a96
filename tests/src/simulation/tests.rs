//! The simulation itself: the same seed is the same history, and a share of seeds in which everything holds.

use super::{History, timeline};

/// Whatever the machine, a seed is one history, to the byte.
#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 1..=40 {
        let (one, other) = (History::of(seed), History::of(seed));
        let (one, other) = (
            timeline::write(&one.evidence),
            timeline::write(&other.evidence),
        );
        if one != other {
            let first = one.lines().zip(other.lines()).find(|(a, b)| a != b);
            panic!("seed {seed}: {first:#?}");
        }
    }
}

/// A share of the histories that `tests/simulate` plays.
#[test]
fn every_promise_holds_in_a_few_hundred_histories() {
    for seed in 1..=300 {
        let history = History::of(seed);
        let violations: Vec<String> = history.violations.iter().map(ToString::to_string).collect();
        assert!(
            violations.is_empty(),
            "seed {seed}:\n{}\n{}",
            violations.join("\n"),
            timeline::write(&history.evidence)
        );
    }
}
