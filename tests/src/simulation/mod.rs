//! Whole worlds in one thread under a seed: the product's own engine and connector, with everything going wrong around them.
//!
//! ```text
//! plan      what a seed decides: figures, weather, wishes
//! world     plays it in simulated time: replicas (each the real engine, resolver, tokens, connector) on machines that stop
//!           and crash, one ledger in memory, one lock, one processor with its own rules behind a wire full of faults
//! caller    asks, retries, hangs up, races, cancels, follows up, and notes what it was told
//! checker   judges what was seen; knows nothing of how it came about
//! ```

mod ambush;
mod caller;
mod checker;
mod coverage;
mod dice;
mod faults;
mod ledger_way;
mod lock_way;
mod log;
mod plan;
mod replica;
#[cfg(feature = "sabotage")]
mod sabotages;
#[cfg(test)]
mod tests;
mod timeline;
mod told;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checker::{Evidence, Violation};
use coverage::Coverage;
use faults::Tally;
use plan::Plan;
use world::World;

use crate::simulators::locked;

/// A world is some ten thousand small allocations, made and freed by one thread: the system's allocator took a fifth of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Plays histories.
#[derive(Debug, clap::Args)]
pub struct Simulation {
    /// How many histories to play.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first one's seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many at once, each in a thread of its own.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Go on after a failure, and count failures by what does not hold.
    #[arg(long)]
    go_on: bool,
    /// Print the timeline, whether anything fails or not.
    #[arg(long)]
    show: bool,
    /// Break one promise of the product by its name, or each in turn (`all`), and play until that is found.
    #[cfg(feature = "sabotage")]
    #[arg(long)]
    sabotage: Option<String>,
}

/// One history, played and judged.
struct History {
    evidence: Evidence,
    violations: Vec<Violation>,
    tally: Tally,
}

impl History {
    /// Plays the history of one seed.
    fn of(seed: u64) -> Self {
        let (world, evidence) = World::play(Plan::of(seed));
        let violations = evidence.judge();
        let tally = Tally::default();
        tally.add(&world.tally);
        Self {
            evidence,
            violations,
            tally,
        }
    }
}

/// What all threads add to.
#[derive(Default)]
struct Sum {
    next: AtomicU64,
    played: AtomicU64,
    /// Simulated time of all of them.
    lived_ms: AtomicU64,
    failed: Mutex<Vec<(u64, Vec<Violation>)>>,
    tally: Tally,
    coverage: Mutex<Coverage>,
    stop: AtomicBool,
}

/// Plays them all, and prints what came of it. Whether everything held.
pub fn run(wanted: &Simulation) -> bool {
    #[cfg(feature = "sabotage")]
    if let Some(name) = &wanted.sabotage {
        return sabotages::run(wanted, name);
    }
    play_all(wanted)
}

fn play_all(wanted: &Simulation) -> bool {
    let began = Instant::now();
    let sum = Sum::default();
    std::thread::scope(|scope| {
        for _ in 0..wanted.jobs.max(1) {
            scope.spawn(|| play(wanted, &sum));
        }
    });
    report(wanted, &sum, began.elapsed())
}

fn play(wanted: &Simulation, sum: &Sum) {
    let mut coverage = Coverage::default();
    while !sum.stop.load(Ordering::Relaxed) {
        let number = sum.next.fetch_add(1, Ordering::Relaxed);
        if number >= wanted.seeds {
            break;
        }
        let seed = wanted.from + number;
        let history = History::of(seed);
        sum.played.fetch_add(1, Ordering::Relaxed);
        let lived = history
            .evidence
            .entries
            .last()
            .map_or(0, |last| plan::millis(last.at));
        sum.lived_ms.fetch_add(lived, Ordering::Relaxed);
        sum.tally.add(&history.tally);
        coverage.count(&history.evidence.events);
        if wanted.show {
            println!("{}", timeline::write(&history.evidence));
        }
        if !history.violations.is_empty() {
            if !wanted.go_on && !sum.stop.swap(true, Ordering::Relaxed) && !wanted.show {
                println!("{}", timeline::write(&history.evidence));
            }
            let mut failed = locked(&sum.failed);
            failed.push((seed, history.violations));
        }
    }
    locked(&sum.coverage).add(coverage);
}

fn report(wanted: &Simulation, sum: &Sum, took: Duration) -> bool {
    let played = sum.played.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = played as f64 / took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_job = rate / wanted.jobs.max(1) as f64;
    println!("faults injected:");
    for (kind, count) in sum.tally.all() {
        println!("  {:<28} {count:>10}", kind.name());
    }
    locked(&sum.coverage).print();
    let mut failed = locked(&sum.failed);
    failed.sort_by_key(|(seed, _)| *seed);
    let shown = if wanted.go_on { 40 } else { 1 };
    for (seed, violations) in failed.iter().take(shown) {
        println!("seed {seed} fails (replay: tests/simulate --from {seed} --seeds 1 --show)");
        for violation in violations {
            println!("  {violation}");
        }
    }
    println!(
        "{played} histories from seed {} in {:.1} s: {rate:.0} per second, {per_job:.0} per job, {} s each; {} failed",
        wanted.from,
        took.as_secs_f64(),
        sum.lived_ms.load(Ordering::Relaxed) / 1_000 / played.max(1),
        failed.len()
    );
    failed.is_empty()
}
