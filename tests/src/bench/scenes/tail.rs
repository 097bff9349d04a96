//! Half of what the gateway can do, in an open loop, of an upstream that takes 50 ms: what is added to the slowest answers.

use std::time::Duration;

use super::super::gateway::Changes;
use super::super::load;
use super::super::report::{Figure, Limit, Section, millis};
use super::super::stub::Pace;
use super::{Stage, cell, cells};
use crate::stack::StackError;

const UPSTREAM_TAKES: Duration = Duration::from_millis(50);
const ADDED_P99_MS_GOAL: f64 = 5.0;
/// So that nobody waits for a turn at the upstream: by default 64 are under way, which is 1,280 a second here.
const ACCOUNT: &str = "connections_per_host = 600\nconcurrency_max = 512";

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let changes = Changes {
        account: ACCOUNT,
        ..Changes::default()
    };
    let gateway = rig.gateway(changes).await?;
    let rate = stage.half_of_peak(&gateway).await?;
    rig.outside.set_pace(Pace::After(UPSTREAM_TAKES));
    // Opens the connections that this many payments at once need.
    rig.pay_steadily(&gateway, rate, stage.span).await?;
    let mut table = vec![cells(&[
        "direct p50 ms",
        "p99 ms",
        "paid p50 ms",
        "p99 ms",
        "added p99 ms",
    ])];
    let mut added = Vec::new();
    for _ in 0..stage.turns {
        let direct = load::open(rig.direct(), rate, stage.span);
        let direct = rig.outside.run(direct).await?;
        let paid = rig.pay_steadily(&gateway, rate, stage.span).await?;
        let p99 = millis(paid.quantile(0.99)) - millis(direct.quantile(0.99));
        let mut row: Vec<String> = [&direct, &paid]
            .into_iter()
            .flat_map(|side| [side.quantile(0.5), side.quantile(0.99)])
            .map(|span| cell(millis(span), 1))
            .collect();
        row.push(cell(p99, 1));
        table.push(row);
        added.push(p99);
    }
    rig.outside.set_pace(Pace::AtOnce);
    Ok(Section {
        title: "Half of its peak, an upstream that takes 50 ms, open loop",
        table,
        figures: vec![
            Figure::new("added_p99_ms", 1, added).goal(Limit::AtMost(ADDED_P99_MS_GOAL)),
            Figure::new("half_of_peak_per_second", 0, [rate]),
        ],
    })
}
