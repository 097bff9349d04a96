//! An outage that outlasts the horizon: nobody says "did not happen", a person is told, and asking goes on.

use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::{Fault, Kind};
use sandbox::stack::eventually;
use sandbox::world::World;

use super::cells::{Act, Cell, Effect, Expected, Final};
use super::stage::{Pace, Stage};

const WAIT: Duration = Duration::from_secs(20);

/// Sends everything, and takes the processor away before it has answered anything. Half of the cells are executed;
/// those that are `lasting` are not.
async fn interrupted(stage: &Stage) -> Vec<Cell> {
    let twice = Act::ALL
        .into_iter()
        .flat_map(|act| [(act, false), (act, true)]);
    let mut cells = stage.cells(&twice.collect::<Vec<_>>()).await;
    let fault = |cell: &Cell| {
        let kind = if cell.lasting {
            Kind::HangBeforeCommit
        } else {
            Kind::CommitThenHang
        };
        cell.fault(&Fault::new(kind))
    };
    stage.strike(cells.iter().map(fault).collect()).await;
    let count = cells.len();
    let away = async {
        let sent =
            stage
                .connexpay()
                .wait_for_requests(count, |record| match record.fault.as_deref() {
                    Some("commit_then_hang") => record.status.is_some(),
                    fault => fault.is_some(),
                });
        sent.await.expect("every cell to send");
        stage.outage().await;
    };
    tokio::join!(stage.ask(&mut cells), away);
    cells
}

/// Through an outage longer than the horizon nothing is called failed: it is parked with an alert, and asked on; the
/// processor's return ends it as it really was.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_past_the_horizon_parks_and_the_return_ends_it() {
    let stage = Stage::with_controls(World::new().await, Pace::STEADY).await;
    let shop = &stage.shop;
    let mut cells = interrupted(&stage).await;
    join_all(cells.iter().map(|cell| cell.until_parked(shop))).await;

    let parked = parked_amount(&stage).await;
    let at_risk: i64 = cells.iter().map(Cell::at_risk).sum();
    let told = eventually(WAIT, "the amount at risk to be shown", async || {
        (parked_amount(&stage).await == Some(at_risk)).then_some(())
    });
    told.await
        .unwrap_or_else(|_| panic!("parked {parked:?}, at risk {at_risk}"));

    let before = join_all(cells.iter().map(|cell| cell.checks(shop))).await;
    for (cell, before) in cells.iter().zip(before) {
        let asked = eventually(WAIT, "another check", async || {
            (cell.checks(shop).await > before).then_some(())
        });
        asked
            .await
            .unwrap_or_else(|_| panic!("{} is not asked on", cell.name()));
    }

    stage.lift().await;
    stage
        .end("outage past the horizon", &mut cells, |cell| Expected {
            first: &[504],
            last: match (cell.act(), cell.lasting) {
                (Act::Sale, false) => &[(Final::Reversed, Effect::Undone)],
                (Act::Authorize, false) => &[
                    (Final::Approved, Effect::Once),
                    (Final::Reversed, Effect::Undone),
                ],
                // Not executed, and repeated once the processor is back.
                (act, true) if !act.is_repeatable() => &[(Final::Failed, Effect::Nothing)],
                _ => &[(Final::Approved, Effect::Once)],
            },
        })
        .await;
    let cleared = eventually(WAIT, "nothing to be at risk", async || {
        parked_amount(&stage).await.is_none().then_some(())
    });
    cleared.await.expect("the alert ends with its cause");
}

/// Minor units of parked operations, as `/metrics` shows them to whoever is on call.
async fn parked_amount(stage: &Stage) -> Option<i64> {
    let metrics = stage.shop.get("/metrics").await.expect(200).bytes;
    let metrics = String::from_utf8(metrics).expect("text");
    let line = metrics.lines().find(|line| {
        line.starts_with("payment_money_at_risk{") && line.contains("state=\"parked\"")
    })?;
    line.rsplit(' ').next()?.parse().ok()
}
