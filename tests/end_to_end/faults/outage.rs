//! An outage that outlasts the horizon: nobody says "did not happen", a person is told, and asking goes on.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::clock::Timestamp;
use gateway_core::operation::StateName;
use gateway_core::store::{EventKind, RESOLVE_SLACK};
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind};
use sandbox::stack::eventually;
use sandbox::world::{World, sale};

use super::act::Act;
use super::cells::{Cell, Effect, Expected, Final, REPEATED};
use super::stage::{Pace, Stage};

const WAIT: Duration = Duration::from_secs(20);

/// Sends everything, and takes the processor away before it has answered anything. Half of the cells are executed;
/// those that are `lasting` are not.
async fn interrupted(stage: &Stage) -> Vec<Cell> {
    let twice = Act::ALL
        .into_iter()
        .flat_map(|act| [(act, false), (act, true)]);
    let mut cells = stage.cells(&twice.collect::<Vec<_>>()).await;
    let fault = |cell: &mut Cell| {
        let kind = if cell.lasting {
            Kind::HangBeforeCommit
        } else {
            Kind::CommitThenHang
        };
        cell.struck_by(&Fault::new(kind))
    };
    stage.strike(cells.iter_mut().map(fault).collect()).await;
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
    let mut cells = interrupted(&stage).await;
    join_all(cells.iter().map(|cell| cell.until_parked(&stage))).await;
    for cell in &cells {
        parked_in_time(&stage, cell).await;
    }

    let parked = parked_amount(&stage).await;
    let at_risk: i64 = cells.iter().map(Cell::at_risk).sum();
    let told = eventually(WAIT, "the amount at risk to be shown", async || {
        (parked_amount(&stage).await == Some(at_risk)).then_some(())
    });
    told.await
        .unwrap_or_else(|_| panic!("parked {parked:?}, at risk {at_risk}"));

    join_all(cells.iter().map(|cell| cell.stays_parked(&stage))).await;

    stage.lift().await;
    stage
        .end("outage past the horizon", &mut cells, |cell| Expected {
            first: &[504],
            // What was not executed may be repeated once the processor is back.
            sends_max: if cell.lasting && cell.act.is_repeatable() {
                REPEATED
            } else {
                1
            },
            last: match (cell.act, cell.lasting) {
                (Act::Sale, false) => &[(Final::Reversed, Effect::Undone)],
                (Act::Authorize, false) => &[
                    (Final::Approved, Effect::Once),
                    (Final::Reversed, Effect::Undone),
                ],
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

/// Parked, and not before the horizon of its last send, nor after the time that its caller was told.
async fn parked_in_time(stage: &Stage, cell: &Cell) {
    let promised = cell.first().reply.body["resolves_by"].as_str();
    let promised = Timestamp::parse(promised.expect("a promise")).expect("an instant");
    let events = stage.records.events(&cell.key, EventKind::Transition).await;
    let mut parked = events
        .iter()
        .filter(|event| event.to == Some(StateName::Parked));
    let parked = parked.next().expect("it is parked").at;
    let name = cell.name();
    assert!(parked <= promised, "{name}: {parked}, promised {promised}");
    // The promise is the horizon and room for one more check.
    let horizon = promised - RESOLVE_SLACK;
    assert!(parked >= horizon, "{name}: {parked}, horizon {horizon}");
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

/// Whoever is on call finds in the log what is parked, with the amount at risk.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_told_in_the_log_with_its_amount() {
    let mut world = World::new().await;
    world.config.set_spans("1s", "2s", "4s");
    let gateway = world.process("gateway").await;
    let shop = world.caller(gateway.base_url());
    let connexpay = world.simulators.connexpay();
    // Nothing shows that a search would have found it.
    let hang = Fault::on(Kind::HangBeforeCommit, verb::SALE);
    connexpay.set_fault(hang).await.expect("a fault");
    let body = sale(123_45);
    let parked = eventually(WAIT, "a parked sale", async || {
        let reply = shop.pay("parked", &body).await;
        (reply.problem() == "needs-review").then_some(reply)
    });
    let operation = parked.await.expect("nobody can tell").operation();
    let alert = eventually(WAIT, "the alert", async || {
        let output = gateway.output().expect("its log");
        let mut lines = output.lines().filter(|line| line.contains(&operation));
        lines
            .find(|line| line.contains("parked for a person"))
            .map(str::to_owned)
    });
    let alert = alert.await.expect("an alert");
    let alert: serde_json::Value = serde_json::from_str(&alert).expect("a line of JSON");
    assert_eq!(alert["level"], "ERROR", "{alert}");
    assert!(alert.to_string().contains("123.45 USD"), "{alert}");
}
