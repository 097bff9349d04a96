//! The crash drill: real processes under open-loop load, killed, paused and cut off for as long as asked; then the audit.
//!
//! Callers know nothing of what goes on. They repeat under their key as the README says, at whichever gateway is next.
//! When the load has ended and nothing goes wrong any more, what they were told is held against the ledger and the
//! processor's books.

mod audit;
mod caller;
mod certainty;
mod hazards;
mod notes;
mod report;
mod rig;
mod scenes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};

use self::audit::Audit;
use self::caller::Callers;
use self::hazards::{Hazards, What};
use self::notes::Notes;
use self::report::Report;
use self::rig::{Rig, Spans};
use self::scenes::Scenes;
use crate::stack::StackError;

/// Options of `drill`.
#[derive(Clone, Debug, Args)]
pub struct Drill {
    /// How long the load lasts. Afterwards everything that is open may take until the horizon.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..100_000))]
    seconds: u64,
    /// Callers who come each second, whatever became of those before.
    #[arg(long, default_value_t = 170.0)]
    rate: f64,
    /// How many seconds pass between two kills of a gateway, on average.
    #[arg(long, default_value_t = 7.0)]
    kill_every: f64,
    /// The share of a storm that the processor's faults make: at 1, half of all sends meet one.
    #[arg(long, default_value_t = 0.1)]
    weather: f64,
    /// Instead of everything else: the ledger's primary dies in the middle, and its synchronous standby is promoted.
    #[arg(long)]
    fail_over: bool,
    /// The product's own timeout, wait and horizon (1, 2 and 30 minutes) instead of scaled ones.
    #[arg(long)]
    production: bool,
    /// Lets outcomes stay unknown for any time, on a machine that others share.
    #[arg(long)]
    any_time: bool,
    /// Decides who comes, and what goes wrong when; not how the processes run. Drawn unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the report goes.
    #[arg(long, default_value = "target/drill/report.md")]
    report: PathBuf,
}

/// How often it says on the way how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs the drill. An error says what was not as promised, or could not be run.
pub async fn run(drill: Drill) -> Result<(), StackError> {
    let seed = drill.seed.unwrap_or_else(rand::random);
    let spans = if drill.production {
        Spans::PRODUCTION
    } else {
        Spans::SCALED
    };
    eprintln!("drill: seed {seed}, {}", spans.in_words());
    let rig = Arc::new(Rig::new(spans, drill.weather, drill.fail_over).await?);
    let notes = Arc::new(Notes::default());
    let scenes = Arc::new(Scenes::new(Callers::new(&rig, &notes), &notes));
    scenes.controls(StdRng::seed_from_u64(seed)).await?;
    rig.weather(seed).await?;

    let span = Duration::from_secs(drill.seconds);
    let what = if drill.fail_over {
        What::FailOver
    } else {
        What::Everything {
            kill_every: Duration::from_secs_f64(drill.kill_every),
        }
    };
    let hazards = Hazards::new(&rig, &notes, seed);
    let began = Instant::now();
    let mut callers = JoinSet::new();
    let mut broken = Vec::new();
    let load = async {
        come(&scenes, &mut callers, &mut broken, &drill, seed).await;
        scenes.end();
        hazards.stop();
        Ok(())
    };
    let both = async { tokio::try_join!(load, hazards.strike(span, what)) };
    tokio::select! {
        ended = both => drop(ended?),
        () = tell_progress(&notes, &hazards) => {}
    }
    let loaded = began.elapsed();
    eprintln!("drill: the load has ended, nothing goes wrong any more; waiting for whoever waits");

    // Whoever asks again is told at the latest when the horizon has passed; a check a while after it is written down.
    let patience = spans.certain_within() + Duration::from_secs(30);
    let all = timeout(patience, async {
        while let Some(ended) = callers.join_next().await {
            note_end(ended, &mut broken);
        }
    });
    tokio::select! {
        _ = all => {} // Who still waits is in the notes.
        ended = rig.close_batches() => ended?,
    }
    callers.shutdown().await;
    rig.until_nothing_is_open(patience).await?;
    broken.extend(rig.complaints().await?);
    if timeout(patience, scenes.ask_again()).await.is_err() {
        broken.push("whoever asked again was not answered".to_owned());
    }
    let audit = Audit::of(&rig, &notes).await?;
    let report = Report {
        seed,
        spans,
        loaded,
        struck: hazards.struck(),
        fail_over: drill.fail_over,
        audit,
        broken,
    };
    print!("{report}");
    report.write(&drill.report)?;
    match report.shortfalls(drill.any_time) {
        short if short.is_empty() => Ok(()),
        short => Err(StackError::new(short.join("; "))),
    }
}

/// Lets callers come at their rate, one independent of the other, until the time is up.
async fn come(
    scenes: &Arc<Scenes>,
    callers: &mut JoinSet<()>,
    broken: &mut Vec<String>,
    drill: &Drill,
    seed: u64,
) {
    let mut dice = StdRng::seed_from_u64(seed);
    let begin = tokio::time::Instant::now();
    let end = begin + Duration::from_secs(drill.seconds);
    let mut next = begin;
    loop {
        // Exponential gaps: arrivals that know nothing of each other.
        let gap = -(1.0 - dice.random::<f64>()).ln() / drill.rate;
        next += Duration::from_secs_f64(gap);
        if next >= end {
            break;
        }
        sleep_until(next).await;
        let (scenes, dice) = (Arc::clone(scenes), StdRng::seed_from_u64(dice.random()));
        callers.spawn(async move { scenes.play(dice).await });
        while let Some(ended) = callers.try_join_next() {
            note_end(ended, broken);
        }
    }
    sleep_until(end).await;
}

/// Whoever was given an answer that the contract does not know ends with a panic.
fn note_end(ended: Result<(), JoinError>, broken: &mut Vec<String>) {
    if let Err(error) = ended {
        broken.push(format!("a caller ended badly: {error}"));
    }
}

/// Until it is dropped.
async fn tell_progress(notes: &Notes, hazards: &Hazards) {
    loop {
        sleep(PROGRESS_EVERY).await;
        eprintln!("drill: {}, {}", notes.in_words(), hazards.in_words());
    }
}
