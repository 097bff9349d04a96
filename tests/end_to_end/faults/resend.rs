//! The second send of a create, where the account takes the processor at its word that it de-duplicates by our number.

use std::time::Duration;

use sandbox::simulators::connexpay::{SequenceRule, verb};
use sandbox::simulators::{Fault, Kind};
use sandbox::world::World;

use super::act::Act;
use super::cells::{Cell, Effect, Expected, Final};
use super::stage::{Pace, Stage};

const BOTH: [(Act, bool); 2] = [(Act::Sale, false), (Act::Authorize, false)];
const AT_ONCE: Expected = Expected {
    first: &[201],
    last: &[(Final::Approved, Effect::Once)],
    sends_max: 2,
};

/// An account that repeats creates, at a processor that follows `rule`.
async fn stage(rule: SequenceRule) -> Stage {
    let mut world = World::new().await;
    world.config.resend_identical = true;
    let connexpay = world.simulators.connexpay();
    connexpay.change_rules(|rules| rules.sequence = rule);
    Stage::with_controls(world, Pace::RESENT).await
}

/// The fault at the first send of each of them.
async fn struck(stage: &Stage, fault: &Fault) -> Vec<Cell> {
    let mut cells = stage.cells(&BOTH).await;
    stage
        .strike(cells.iter_mut().map(|cell| cell.struck_by(fault)).collect())
        .await;
    cells
}

/// Each was sent so often, and every send was counted.
async fn assert_sends(stage: &Stage, cells: &[Cell], sends: u64) {
    for cell in cells {
        let detail = cell.detail(stage).await;
        assert_eq!(detail["sends"], sends, "{}", cell.name());
    }
    for verb in [verb::SALE, verb::AUTH_ONLY] {
        // One of them is the control.
        assert_eq!(
            stage.connexpay().request_count_of(verb),
            sends + 1,
            "{verb}"
        );
    }
}

/// What was never executed is executed by the second send: its caller hears of no trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_send_without_effect_is_made_good_by_the_second() {
    for kind in [Kind::HangBeforeCommit, Kind::ResetBeforeRead, Kind::Http500] {
        let stage = stage(SequenceRule::Replay).await;
        let mut cells = struck(&stage, &Fault::new(kind)).await;
        stage.ask(&mut cells).await;
        assert_sends(&stage, &cells, 2).await;
        stage.end(&kind.name(), &mut cells, |_| AT_ONCE).await;
    }
}

/// What was executed, and not answered, is answered with the first result: one effect, and nothing is reversed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_told_again() {
    for kind in [
        Kind::CommitThenHang,
        Kind::CommitThenReset,
        Kind::CommitThen500,
        Kind::CommitThenGarbage,
    ] {
        let stage = stage(SequenceRule::Replay).await;
        let mut cells = struck(&stage, &Fault::new(kind)).await;
        stage.ask(&mut cells).await;
        assert_sends(&stage, &cells, 2).await;
        stage.end(&kind.name(), &mut cells, |_| AT_ONCE).await;
        assert_eq!(
            stage.connexpay().request_count_of(verb::TIMEOUT_REVERSAL),
            0
        );
    }
}

/// A first send that arrives after the second changes nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_send_that_arrives_late_has_no_second_effect() {
    let stage = stage(SequenceRule::Replay).await;
    let mut cells = struck(&stage, &Fault::new(Kind::CommitLate)).await;
    stage.ask(&mut cells).await;
    assert_sends(&stage, &cells, 2).await;
    let connexpay = stage.connexpay();
    connexpay.release_late();
    let late = connexpay.wait_for_requests(2, |record| {
        record.fault.as_deref() == Some("commit_late") && record.status.is_some()
    });
    late.await.expect("both to arrive");
    stage.end("commit_late", &mut cells, |_| AT_ONCE).await;
}

/// Two sends without an answer are two and no more; then it is looked up.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_third_send() {
    let stage = stage(SequenceRule::Replay).await;
    let mut cells = [
        Cell::prepare(&stage, Act::Sale, true).await,
        Cell::prepare(&stage, Act::Authorize, true).await,
    ];
    let hang = Fault::new(Kind::HangBeforeCommit);
    stage
        .strike(cells.iter_mut().map(|cell| cell.struck_by(&hang)).collect())
        .await;
    stage.ask(&mut cells).await;
    let nothing = Expected {
        first: &[504],
        last: &[(Final::Failed, Effect::Nothing)],
        sends_max: 2,
    };
    stage.end("two silent sends", &mut cells, |_| nothing).await;
    assert_sends(&stage, &cells, 2).await;
}

/// Refused as a duplicate, it may be a duplicate of ours: unknown, and then found, however long that takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_send_that_is_refused_as_a_duplicate_is_no_decline() {
    let stage = stage(SequenceRule::Unique).await;
    let connexpay = stage.connexpay();
    // Searches show what is older than half an hour: the controls.
    connexpay.advance(Duration::from_hours(1));
    connexpay.change_rules(|rules| rules.search_lag_ms = 30 * 60 * 1_000);
    let mut cells = struck(&stage, &Fault::new(Kind::CommitThenHang)).await;
    stage.ask(&mut cells).await;
    cells[1].until_parked(&stage).await;
    connexpay.change_rules(|rules| rules.search_lag_ms = 0);
    let expected = |cell: &Cell| match cell.act {
        Act::Sale => Expected {
            first: &[402, 504],
            last: &[(Final::Reversed, Effect::Undone)],
            sends_max: 2,
        },
        // Found too late for its caller.
        _ => Expected {
            first: &[504],
            last: &[
                (Final::Approved, Effect::Once),
                (Final::Reversed, Effect::Undone),
            ],
            sends_max: 2,
        },
    };
    stage.end("duplicate of ours", &mut cells, expected).await;
    assert_sends(&stage, &cells, 2).await;
}

/// Why it is off by default: a processor that promises nothing about numbers, as the reference does not, charges twice.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_processor_that_does_not_de_duplicate_it_would_charge_twice() {
    let stage = stage(SequenceRule::Free).await;
    let mut cell = Cell::prepare(&stage, Act::Sale, false).await;
    let hang = cell.struck_by(&Fault::new(Kind::CommitThenHang));
    stage.strike(vec![hang]).await;
    cell.ask(&stage).await;
    let detail = cell.detail(&stage).await;
    let reference = detail["reference"].as_str().expect("a reference");
    let position = stage.connexpay().books().position(reference);
    assert_eq!(detail["state"], "approved");
    assert_eq!((position.sales, position.net), (2, 2 * cell.at_risk()));
}
