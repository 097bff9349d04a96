//! The benchmark: payments through the built gateway, against what its own ledger does by itself, in turn.
//!
//! Everything shares one machine: callers, gateway, upstream, Postgres. So nothing here is a number for a brochure; what
//! holds is the ratio of two sides measured in turn in one run.

mod gateway;
mod load;
mod outside;
mod pgbench;
mod report;
mod rig;
mod scenes;
mod stub;
mod usage;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::gateway::Changes;
use self::pgbench::Twin;
use self::report::{Figure, Limit, Report, Section, mebibytes};
use self::rig::Rig;
use self::scenes::{Scene, Stage};
use crate::stack::StackError;

/// At rest the gateway takes less than this.
const REST_MIB_LIMIT: f64 = 40.0;
const WARM_UP: Duration = Duration::from_secs(1);

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// How often each side has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..100))]
    turns: u16,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..300))]
    seconds: u64,
    /// Callers at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Clients of pgbench; the best of these counts.
    #[arg(long, default_values_t = [8, 16, 32], value_delimiter = ',')]
    clients: Vec<usize>,
    /// What is measured.
    #[arg(long, value_enum, default_values_t = [Scene::Sales, Scene::Alone], value_delimiter = ',')]
    scenes: Vec<Scene>,
    /// Everything that can be measured, whatever `--scenes` says. It takes a good half hour, and 5 GB of disk.
    #[arg(long)]
    all: bool,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report.md")]
    report: PathBuf,
}

/// Measures, and prints what it found. An error means that something could not be measured, a refused payment included, or
/// that a figure falls short of what the product promises.
pub async fn run(bench: Bench) -> Result<(), StackError> {
    let rig = Rig::new().await?;
    // Runs until the end: it is the owner of whatever pgbench records, which another gateway would adopt if it were silent.
    let gateway = rig.gateway(Changes::default()).await?;
    let resting = gateway.process.resident_bytes().map(mebibytes);
    // The first payments fetch a token, open connections, and leave a row that pgbench's are made like.
    rig.pay(&[&gateway], bench.connections, WARM_UP).await?;
    let twin = Twin::of_last_payment(&mut rig.ledger().await?).await?;

    let stage = Stage {
        turns: bench.turns,
        span: Duration::from_secs(bench.seconds),
        connections: bench.connections,
        clients: &bench.clients,
        rig: &rig,
        twin: &twin,
        runs: 0.into(),
    };
    let wanted = |scene: &&Scene| bench.all || bench.scenes.contains(scene);
    let rest = Figure::new("gateway_rest_mib", 1, resting);
    let mut sections = vec![Section {
        title: "At rest",
        table: Vec::new(),
        // Where the system does not tell its memory, that is not judged.
        figures: vec![match resting {
            Some(_) => rest.promise(Limit::Below(REST_MIB_LIMIT)),
            None => rest,
        }],
    }];
    for scene in Scene::ALL.iter().filter(wanted) {
        eprintln!("measuring: {scene:?}");
        sections.push(stage.play(*scene).await?);
    }
    let report = Report {
        span: stage.span,
        turns: stage.turns,
        postgres: rig.postgres_version().await?,
        sections,
    };
    print!("{}", report.text());
    report.write(&bench.report)?;
    eprintln!("written to {}", bench.report.display());
    match report.shortfalls() {
        short if short.is_empty() => Ok(()),
        short => Err(StackError::new(short.join("; "))),
    }
}
