//! What tracing costs: payments a second with 5 % of requests traced to a collector, over those without.

use super::super::gateway::Changes;
use super::super::report::{Figure, Limit, Section};
use super::{Stage, cell, cells};
use crate::stack::{Collector, StackError};

const RATIO_GOAL: f64 = 0.9;

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let collector = Collector::start().await?;
    let sections = format!(
        "[telemetry.traces]\nendpoint = \"{}\"\nsampled = 0.05\nqueue_max = 16384\n",
        collector.endpoint()
    );
    let on = Changes {
        sections: &sections,
        ..Changes::default()
    };
    let on = rig.gateway(on).await?;
    let off = rig.gateway(Changes::default()).await?;
    let mut table = vec![cells(&["traced/s", "not traced/s", "ratio"])];
    let mut ratios = Vec::new();
    for turn in 0..stage.turns {
        let mut rates = [0.0; 2];
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let gateway = [&on, &off][side];
            stage.warm_up(gateway).await?;
            rates[side] = stage.pay(gateway).await?.per_second();
        }
        let ratio = rates[0] / rates[1];
        table.push(vec![cell(rates[0], 0), cell(rates[1], 0), cell(ratio, 2)]);
        ratios.push(ratio);
    }
    let collected = collector.bytes().len();
    if collected == 0 {
        return Err(StackError::new("no span was collected"));
    }
    Ok(Section {
        title: "With 5 % of requests traced, and without",
        table,
        figures: vec![
            Figure::new("traced_over_untraced", 2, ratios).goal(Limit::AtLeast(RATIO_GOAL)),
        ],
    })
}
