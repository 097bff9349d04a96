//! Breaks the product on purpose, one promise at a time, and plays histories until the judge notices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use gateway_core::sabotage::{Sabotage, switch};

use super::checker::Violation;
use super::{History, Simulation};

/// Each must be found within so many histories.
const SEEDS_MAX: u64 = 20_000;

/// Whether everything that was broken was found.
pub(super) fn run(wanted: &Simulation, name: &str) -> bool {
    let chosen = |sabotage: &&Sabotage| name == "all" || sabotage.name() == name;
    let chosen: Vec<&Sabotage> = Sabotage::ALL.iter().filter(chosen).collect();
    if chosen.is_empty() {
        println!("no sabotage is called {name:?}; these are:");
        for sabotage in Sabotage::ALL {
            println!("  {}", sabotage.name());
        }
        return false;
    }
    let mut all_found = true;
    println!("{:<44} {:>6}  found by", "sabotage", "seeds");
    for sabotage in chosen {
        switch(Some(*sabotage));
        let found = first_failure(wanted);
        switch(None);
        let Some((seed, violations)) = found else {
            println!("{:<44} {SEEDS_MAX:>6}  nothing", sabotage.name());
            all_found = false;
            continue;
        };
        let mut by: Vec<&str> = violations.iter().map(|v| v.invariant.name()).collect();
        by.dedup();
        let seeds = seed - wanted.from + 1;
        println!("{:<44} {seeds:>6}  {}", sabotage.name(), by.join("; "));
        if wanted.show {
            for violation in &violations {
                println!("{:>52}{violation}", "");
            }
        }
    }
    all_found
}

/// The first seed whose history does not hold, whoever of the threads plays it.
fn first_failure(wanted: &Simulation) -> Option<(u64, Vec<Violation>)> {
    let next = AtomicU64::new(wanted.from);
    let least = AtomicU64::new(wanted.from + SEEDS_MAX);
    let found: Mutex<Option<(u64, Vec<Violation>)>> = Mutex::default();
    let play = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= least.load(Ordering::Relaxed) {
            return;
        }
        let violations = History::of(seed).violations;
        if !violations.is_empty() {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                *found = Some((seed, violations));
                least.store(seed, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..wanted.jobs.max(1) {
            scope.spawn(play);
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}
