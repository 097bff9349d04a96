//! Payments a second, over what pgbench does with the product's own two statements on the same ledger.

use std::time::Duration;

use super::super::gateway::Changes;
use super::super::load::Tally;
use super::super::pgbench::Run;
use super::super::report::{Figure, Limit, Section, mebibytes, millis};
use super::super::rig::Cost;
use super::{Stage, cell, cells};
use crate::stack::StackError;

/// Of the payments per second that the ledger could do by itself, the service does at least this part.
const RATIO_PROMISE: f64 = 0.6;
const RATIO_GOAL: f64 = 1.25;

/// Both sides once.
#[derive(Debug)]
struct Turn {
    paid: Tally,
    cost: Option<Cost>,
    /// By number of clients, with what each transaction cost.
    ledger: Vec<(Run, Option<Cost>)>,
}

impl Turn {
    fn best(&self) -> Option<&(Run, Option<Cost>)> {
        let faster = |one: &&(Run, Option<Cost>), other: &&(Run, Option<Cost>)| {
            one.0.per_second.total_cmp(&other.0.per_second)
        };
        self.ledger.iter().max_by(faster)
    }

    fn pgbench(&self) -> f64 {
        self.best().map_or(f64::NAN, |(run, _)| run.per_second)
    }

    fn ratio(&self) -> f64 {
        self.paid.per_second() / self.pgbench()
    }
}

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let gateway = rig.gateway(Changes::default()).await?;
    let mut turns = Vec::new();
    for _ in 0..stage.turns {
        stage.warm_up(&gateway).await?;
        let before = rig.used(&[&gateway]);
        let paid = stage.pay(&gateway).await?;
        let cost = rig.cost_since(before, &[&gateway], paid.answers);
        let mut ledger = Vec::new();
        for &clients in stage.clients {
            let before = rig.used(&[&gateway]);
            let run = stage.pgbench(clients).await?;
            ledger.push((run, rig.cost_since(before, &[&gateway], run.transactions)));
        }
        let turn = Turn { paid, cost, ledger };
        eprintln!(
            "{:.0} payments/s, pgbench {:.0}: {:.2}",
            turn.paid.per_second(),
            turn.pgbench(),
            turn.ratio()
        );
        turns.push(turn);
    }
    let loaded = gateway.process.resident_bytes().map(mebibytes);
    Ok(Section {
        title: "Payments a second",
        table: table(stage, &turns),
        figures: figures(&turns, loaded),
    })
}

fn table(stage: &Stage<'_>, turns: &[Turn]) -> Vec<Vec<String>> {
    let mut names = cells(&[
        "payments/s",
        "p50 ms",
        "p99 ms",
        "µs CPU each: gateway",
        "Postgres",
        "callers and upstream",
    ]);
    let clients = stage.clients.iter();
    names.extend(clients.map(|clients| format!("pgbench/s, {clients} clients")));
    names.push("ratio".to_owned());
    let mut table = vec![names];
    for turn in turns {
        let cost = |of: fn(&Cost) -> Duration| {
            let each = turn.cost.as_ref().map(of);
            each.map_or_else(|| "?".to_owned(), |each| each.as_micros().to_string())
        };
        let mut row = vec![
            cell(turn.paid.per_second(), 0),
            cell(millis(turn.paid.quantile(0.5)), 2),
            cell(millis(turn.paid.quantile(0.99)), 2),
            cost(|cost| cost.gateway),
            cost(|cost| cost.postgres),
            cost(|cost| cost.outside),
        ];
        let runs = turn.ledger.iter();
        row.extend(runs.map(|(run, _)| cell(run.per_second, 0)));
        row.push(cell(turn.ratio(), 2));
        table.push(row);
    }
    table
}

fn figures(turns: &[Turn], loaded: Option<f64>) -> Vec<Figure> {
    let each = |of: fn(&Turn) -> f64| turns.iter().map(of).collect::<Vec<_>>();
    let micros = |of: fn(&Turn) -> Option<Duration>| {
        let each = turns.iter().filter_map(of);
        each.map(|each| millis(each) * 1_000.0).collect::<Vec<_>>()
    };
    vec![
        Figure::new("payments_over_pgbench", 2, each(Turn::ratio))
            .goal(Limit::AtLeast(RATIO_GOAL))
            .promise(Limit::AtLeast(RATIO_PROMISE)),
        Figure::new(
            "payments_per_second",
            0,
            each(|turn| turn.paid.per_second()),
        ),
        Figure::new("pgbench_per_second", 0, each(Turn::pgbench)),
        Figure::new(
            "gateway_cpu_us_per_payment",
            0,
            micros(|turn| Some(turn.cost?.gateway)),
        ),
        Figure::new(
            "postgres_cpu_us_per_payment",
            0,
            micros(|turn| Some(turn.cost?.postgres)),
        ),
        Figure::new(
            "callers_cpu_us_per_payment",
            0,
            micros(|turn| Some(turn.cost?.outside)),
        ),
        Figure::new(
            "pgbench_postgres_cpu_us_per_payment",
            0,
            micros(|turn| Some(turn.best()?.1?.postgres)),
        ),
        Figure::new(
            "pgbench_cpu_us_per_payment",
            0,
            micros(|turn| Some(turn.best()?.1?.outside)),
        ),
        Figure::new("gateway_after_load_mib", 1, loaded),
    ]
}
