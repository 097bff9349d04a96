//! Ten thousand payments admitted at an upstream that does not answer: what the gateway holds, and for how long.

use std::time::{Duration, Instant};

use super::super::gateway::Changes;
use super::super::report::{Figure, Limit, Section, mebibytes};
use super::super::stub::Pace;
use super::{Stage, cell, cells};
use crate::stack::{Doing, StackError, eventually};

const PAYMENTS: usize = 10_000;
/// Between two of them: what counts is how many there are, not how fast they come.
const GAP: Duration = Duration::from_millis(1);
const MIB_GOAL: f64 = 300.0;
/// From the last payment that is admitted until memory is read for the last time.
const HELD: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// At most that many are sent; the others wait for their turn.
const SENT_MAX: usize = 64;

pub(super) fn changes() -> Changes<'static> {
    Changes {
        sections: "[payments]\npermits_per_client_max = 10000\n",
        account: "waiters_max = 10000\nwait_max = \"1m\"",
    }
}

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let rig = stage.rig;
    let gateway = rig.gateway(changes()).await?;
    stage.warm_up(&gateway).await?;
    let mut ledger = rig.ledger().await?;
    rig.outside.set_pace(Pace::Held);
    let watch = async {
        let all = i64::try_from(PAYMENTS).unwrap_or(i64::MAX);
        eventually(PATIENCE, "ten thousand payments on record", async || {
            let recorded = "select count(*) from operation where state = 'recorded'";
            let recorded: i64 = sqlx::query_scalar(recorded)
                .fetch_one(&mut ledger)
                .await
                .ok()?;
            (recorded >= all).then_some(())
        })
        .await
        .doing(|| "admitting payments".to_owned())?;
        let (held, mut seen) = (Instant::now(), Vec::new());
        while held.elapsed() < HELD {
            seen.extend(gateway.process.resident_bytes().map(mebibytes));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        rig.outside.set_pace(Pace::AtOnce);
        Ok::<_, StackError>(seen)
    };
    let (paid, seen) = tokio::join!(rig.pay_once(&gateway, PAYMENTS, GAP), watch);
    let (paid, seen) = (paid?, seen?);
    let after = gateway.process.resident_bytes().map(mebibytes);
    let ends = |at: Option<&f64>| at.map_or_else(|| "?".to_owned(), |mib| cell(*mib, 1));
    let table = vec![
        cells(&[
            "admitted",
            "sent at most",
            "MiB at first",
            "after 20 s",
            "once answered",
        ]),
        vec![
            paid.answers.to_string(),
            SENT_MAX.to_string(),
            ends(seen.first()),
            ends(seen.last()),
            ends(after.as_ref()),
        ],
    ];
    let most = seen.iter().copied().reduce(f64::max);
    Ok(Section {
        title: "Ten thousand payments admitted, none answered",
        table,
        figures: vec![Figure::new("admitted_10000_mib", 1, most).goal(Limit::AtMost(MIB_GOAL))],
    })
}
