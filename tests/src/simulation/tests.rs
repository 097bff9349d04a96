//! The simulation itself: the same seed is the same history, and a share of seeds in which everything holds.

use super::{History, Simulation, run, timeline};

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

/// A share of the histories that `tests/simulate` plays, from seed 1 on: a fixed number, so that the next run plays the same.
#[test]
fn every_promise_holds_in_a_share_of_histories() {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = Simulation {
        seeds: 2_500,
        from: 1,
        jobs: jobs.try_into().expect("a few"),
        go_on: false,
        show: false,
        #[cfg(feature = "sabotage")]
        sabotage: None,
    };
    assert!(
        run(&share),
        "the report above says which seed, and what does not hold"
    );
}
