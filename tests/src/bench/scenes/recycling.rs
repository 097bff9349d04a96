//! What it costs that no connection to the upstream grows old: the same load with connections that live for seconds, and with
//! connections that outlive the measurement.

use std::time::Duration;

use super::super::gateway::Changes;
use super::super::report::{Figure, Limit, Section, millis};
use super::{Stage, cell, cells};
use crate::stack::StackError;

const RATIO_GOAL: f64 = 1.25;
/// The account's time-out must be a third of its connections' age at most.
const YOUNG: &str = "connect_timeout = \"1s\"\ntimeout = \"2s\"\nconnection_age_max = \"6s\"";
const OLD: &str = "connect_timeout = \"1s\"\ntimeout = \"2s\"\nconnection_age_max = \"300s\"";
/// Each connection of the young is replaced within it.
const SPAN_MIN: Duration = Duration::from_secs(6);

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let of = |account| Changes {
        account,
        ..Changes::default()
    };
    let on = rig.gateway(of(YOUNG)).await?;
    let off = rig.gateway(of(OLD)).await?;
    stage.warm_up(&on).await?;
    let rate = stage.half_of_peak(&off).await?;
    let span = stage.span.max(SPAN_MIN);
    let mut table = vec![cells(&[
        "recycled: p50 ms",
        "p99 ms",
        "new connections",
        "kept: p50 ms",
        "p99 ms",
        "new connections",
        "p99 ratio",
    ])];
    let (mut ratios, mut replaced) = (Vec::new(), Vec::new());
    for turn in 0..stage.turns {
        let mut row = Vec::new();
        let mut p99 = [0.0; 2];
        // Whoever goes first has the emptier ledger.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut sides = [Vec::new(), Vec::new()];
        for side in order {
            let before = rig.outside.connected();
            let gateway = [&on, &off][side];
            let paid = rig.pay_steadily(gateway, rate, span).await?;
            let opened = rig.outside.connected() - before;
            p99[side] = millis(paid.quantile(0.99));
            sides[side] = vec![
                cell(millis(paid.quantile(0.5)), 2),
                cell(p99[side], 2),
                opened.to_string(),
            ];
            if side == 0 {
                replaced.push(super::count(opened));
            }
        }
        for side in sides {
            row.extend(side);
        }
        row.push(cell(p99[0] / p99[1], 2));
        table.push(row);
        ratios.push(p99[0] / p99[1]);
    }
    Ok(Section {
        title: "Connections recycled every 6 s, and never; half of its peak, open loop",
        table,
        figures: vec![
            Figure::new("recycling_p99_ratio", 2, ratios).goal(Limit::AtMost(RATIO_GOAL)),
            Figure::new("recycled_connections_per_turn", 0, replaced),
        ],
    })
}
