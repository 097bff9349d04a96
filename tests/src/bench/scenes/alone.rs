//! One payment at a time: what the gateway adds to the upstream's answer, beside what the ledger's two commits take alone.

use super::super::gateway::Changes;
use super::super::load;
use super::super::report::{Figure, Limit, Section, millis};
use super::{Stage, cell, cells};
use crate::stack::StackError;

const ADDED_MS_GOAL: f64 = 0.5;

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let gateway = rig.gateway(Changes::default()).await?;
    stage.warm_up(&gateway).await?;
    let mut table = vec![cells(&[
        "direct p50 ms",
        "paid p50 ms",
        "added ms",
        "two commits by pgbench, mean ms",
        "µs CPU each: gateway",
        "Postgres",
    ])];
    let (mut direct, mut added, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.turns {
        let asked = load::closed(vec![rig.direct()], 1, stage.span);
        let asked = millis(rig.outside.run(asked).await?.quantile(0.5));
        let before = rig.used(&[&gateway]);
        let paid = rig.pay(&[&gateway], 1, stage.span).await?;
        let cost = rig.cost_since(before, &[&gateway], paid.answers);
        let paid = millis(paid.quantile(0.5));
        let run = stage.pgbench(1).await?;
        let commit = 1_000.0 / run.per_second;
        let micros = |of: Option<std::time::Duration>| {
            of.map_or_else(|| "?".to_owned(), |each| each.as_micros().to_string())
        };
        table.push(vec![
            cell(asked, 3),
            cell(paid, 2),
            cell(paid - asked, 2),
            cell(commit, 2),
            micros(cost.map(|cost| cost.gateway)),
            micros(cost.map(|cost| cost.postgres)),
        ]);
        direct.push(asked);
        added.push(paid - asked);
        commits.push(commit);
    }
    Ok(Section {
        title: "One payment at a time",
        table,
        figures: vec![
            Figure::new("added_p50_ms", 2, added).goal(Limit::AtMost(ADDED_MS_GOAL)),
            Figure::new("direct_p50_ms", 3, direct),
            Figure::new("pgbench_two_commits_ms", 2, commits),
        ],
    })
}
