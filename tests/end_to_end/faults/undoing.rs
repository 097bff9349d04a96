//! Undoing a sale where the processor makes it hard: routes that are gone, batches that closed, reversals without answer.

use std::time::Duration;

use gateway_core::operation::{ParkedReason, State};
use gateway_core::store::Operation;
use sandbox::simulators::connexpay::{DEVICE_USD, PASSWORD, USERNAME, verb};
use sandbox::simulators::{Fault, Kind, Selector};
use sandbox::world::{Caller, World, sale};

use super::act::Act;
use super::cells::{Cell, Effect, Expected, Final, REPEATED};
use super::stage::{Pace, Stage};

/// What a sale must come to.
const REVERSED: Expected = Expected {
    first: &[402, 504],
    last: &[(Final::Reversed, Effect::Undone)],
    sends_max: 1,
};
const DID_NOT_HAPPEN: Expected = Expected {
    first: &[504],
    last: &[(Final::Failed, Effect::Nothing)],
    sends_max: 1,
};

fn gone(verb: &str) -> Fault {
    Fault::on(Kind::Route404, verb)
}

/// One sale, struck by `kind`, while `others` hold too.
async fn a_sale(stage: &Stage, kind: Kind, others: Vec<Fault>) -> Cell {
    let mut cell = Cell::prepare(stage, Act::Sale, false).await;
    let mut faults = vec![cell.struck_by(&Fault::new(kind))];
    faults.extend(others);
    stage.strike(faults).await;
    cell
}

async fn end(stage: &Stage, name: &str, mut cell: Cell, expected: Expected) -> Cell {
    stage
        .end(name, std::slice::from_mut(&mut cell), |_| expected)
        .await;
    cell
}

async fn quick() -> Stage {
    Stage::with_controls(World::new().await, Pace::QUICK).await
}

/// Where the reversal's route is gone, search and read show the sale, and it is voided by its id.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_reversal_route_the_sale_that_is_found_is_voided() {
    let stage = quick().await;
    let others = vec![gone(verb::TIMEOUT_REVERSAL)];
    let mut cell = a_sale(&stage, Kind::CommitThenHang, others).await;
    cell.ask(&stage).await;
    end(&stage, "no reversal route", cell, REVERSED).await;
    assert_eq!(stage.connexpay().request_count_of(verb::VOID), 1);
}

/// An account without that route never asks for it: the sale is found, and voided by its id.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_reversal_by_number_is_configured_the_sale_is_voided() {
    let mut world = World::new().await;
    world.config.more_strategy = "timeout_reversal = false".to_owned();
    let stage = Stage::with_controls(world, Pace::QUICK).await;
    for kind in [Kind::CommitThenHang, Kind::HangBeforeCommit] {
        let mut cell = Cell::prepare(&stage, Act::Sale, kind == Kind::HangBeforeCommit).await;
        stage.strike(vec![cell.struck_by(&Fault::new(kind))]).await;
        cell.ask(&stage).await;
        let expected = if cell.lasting {
            DID_NOT_HAPPEN
        } else {
            REVERSED
        };
        end(&stage, &kind.name(), cell, expected).await;
    }
    assert_eq!(stage.connexpay().request_count_of(verb::VOID), 1);
    assert_eq!(
        stage.connexpay().request_count_of(verb::TIMEOUT_REVERSAL),
        0
    );
}

/// A row without our reference is nobody's: where the record behind it cannot be read, the sale is parked until it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_our_reference_is_not_believed() {
    let stage = quick().await;
    let others = vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::READ)];
    let mut cell = a_sale(&stage, Kind::CommitThenReset, others).await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    assert_eq!(stage.connexpay().request_count_of(verb::VOID), 0);
    stage.lift().await;
    end(&stage, "no reversal, no read", cell, REVERSED).await;
}

/// A row that does not say how much was approved is not adopted either, though it is ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_an_amount_that_stands_is_not_believed() {
    let stage = quick().await;
    let mut cells = [Cell::prepare(&stage, Act::Authorize, false).await];
    let hang = cells[0].struck_by(&Fault::new(Kind::CommitThenHang));
    stage.strike(vec![hang, gone(verb::READ)]).await;
    stage.ask(&mut cells).await;
    cells[0].until_parked(&stage).await;
    cells[0].stays_parked(&stage).await;
    stage.lift().await;
    let adopted = Expected {
        first: &[504],
        last: &[(Final::Approved, Effect::Once)],
        sends_max: 1,
    };
    stage.end("no read", &mut cells, |_| adopted).await;
}

/// Where neither the reversal's route nor the search is there, nothing is concluded until they are back.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_route_to_ask_a_sale_is_parked_and_the_routes_return_ends_it() {
    let stage = quick().await;
    let others = vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::SEARCH)];
    let mut cell = a_sale(&stage, Kind::CommitThenHang, others).await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    stage.lift().await;
    end(
        &stage,
        "no reversal, no search",
        cell,
        Expected {
            first: &[504],
            ..REVERSED
        },
    )
    .await;
}

/// A reversal's route that answers 404 says nothing of the sale: "did not happen" waits for an answer of the API's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_reversal_route_never_proves_that_nothing_happened() {
    let stage = quick().await;
    let others = vec![gone(verb::TIMEOUT_REVERSAL)];
    let mut cell = a_sale(&stage, Kind::HangBeforeCommit, others).await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    stage.lift().await;
    end(&stage, "no reversal route, no sale", cell, DID_NOT_HAPPEN).await;
}

/// In an account's first hour nothing proves that a search would have found the sale: it is parked, until one does.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_not_found_is_no_answer() {
    let stage = Stage::bare(World::new().await, Pace::QUICK).await;
    let mut cell = a_sale(&stage, Kind::HangBeforeCommit, Vec::new()).await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    let sold = async |shop: &Caller, key: &str| shop.pay(key, &sale(150_00)).await;
    stage.approved("control", sold).await;
    stage.one_gateway().await;
    end(&stage, "no control", cell, DID_NOT_HAPPEN).await;
}

/// A sale that was settled before it could be voided is returned, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_settled_meanwhile_is_returned() {
    let stage = quick().await;
    // The reversal is kept away until the batch is closed.
    let mut cell = a_sale(
        &stage,
        Kind::CommitThenHang,
        vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::SEARCH)],
    )
    .await;
    cell.ask(&stage).await;
    stage.connexpay().settle().expect("the books to be written");
    stage.lift().await;
    let returned = Expected {
        first: &[504],
        last: &[(Final::Reversed, Effect::Returned)],
        sends_max: 1,
    };
    end(&stage, "settled before it was voided", cell, returned).await;
    assert_eq!(stage.connexpay().request_count_of(verb::RETURN), 1);
}

/// A reversal whose answer is lost is found to be done, and nothing is undone twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_reversal_without_an_answer_is_found_done() {
    let lost = |verb| Fault::on(Kind::CommitThenHang, verb).first(1);
    for (name, others, settles) in [
        ("reversal", vec![lost(verb::TIMEOUT_REVERSAL)], false),
        (
            "void",
            vec![gone(verb::TIMEOUT_REVERSAL), lost(verb::VOID)],
            false,
        ),
        ("return", vec![lost(verb::RETURN)], true),
    ] {
        let stage = quick().await;
        let mut cell;
        if settles {
            let away = vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::SEARCH)];
            cell = a_sale(&stage, Kind::CommitThenHang, away).await;
            cell.ask(&stage).await;
            stage.connexpay().settle().expect("the books to be written");
            stage.strike(others).await;
        } else {
            cell = a_sale(&stage, Kind::CommitThenHang, others).await;
            cell.ask(&stage).await;
        }
        let expected = Expected {
            first: &[402, 504],
            last: if settles {
                &[(Final::Reversed, Effect::Returned)]
            } else {
                &[(Final::Reversed, Effect::Undone)]
            },
            sends_max: 1,
        };
        end(&stage, &format!("the {name}'s answer lost"), cell, expected).await;
        let returns = stage.connexpay().request_count_of(verb::RETURN);
        assert_eq!(returns, u64::from(settles), "{name}");
    }
}

/// A return of unknown outcome is never sent again: a person decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_did_not_happen_is_not_sent_again() {
    let stage = quick().await;
    let away = vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::SEARCH)];
    let mut cell = a_sale(&stage, Kind::CommitThenHang, away).await;
    cell.ask(&stage).await;
    stage.connexpay().settle().expect("the books to be written");
    stage
        .strike(vec![Fault::on(Kind::HangBeforeCommit, verb::RETURN)])
        .await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    assert_eq!(stage.connexpay().request_count_of(verb::RETURN), 1);
    assert_eq!(stage.connexpay().request_count_of(verb::VOID), 0);
}

/// A return that was provably refused unprocessed is sent again, also after other attempts to undo the sale.
#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_never_left_is_sent_again() {
    let mut world = World::new().await;
    world.config.trust_429 = true;
    let stage = Stage::with_controls(world, Pace::QUICK).await;
    let mut cell = a_sale(
        &stage,
        Kind::CommitThenHang,
        vec![gone(verb::TIMEOUT_REVERSAL), gone(verb::SEARCH)],
    )
    .await;
    cell.ask(&stage).await;
    stage.connexpay().settle().expect("the books to be written");
    let refused = Fault::on(Kind::Http429, verb::RETURN).first(1);
    stage
        .strike(vec![gone(verb::TIMEOUT_REVERSAL), refused])
        .await;
    let returned = Expected {
        first: &[504],
        last: &[(Final::Reversed, Effect::Returned)],
        sends_max: 1,
    };
    end(&stage, "return refused unprocessed", cell, returned).await;
    assert_eq!(stage.connexpay().request_count_of(verb::RETURN), 2);
}

/// A sale that was declined, and whose answer was lost, is declined.
#[tokio::test(flavor = "multi_thread")]
async fn a_decline_that_was_lost_is_found() {
    let stage = quick().await;
    let fault = Fault::on(Kind::CommitThenHang, verb::SALE).first(1);
    stage.strike(vec![fault]).await;
    let mut body = sale(120_00);
    body["card"]["cvv"] = "123".into();
    let reply = stage
        .shop
        .until_final("/v1/payments", "lost-decline", &body)
        .await;
    assert_eq!(
        (reply.status, reply.problem()),
        (402, "declined"),
        "{reply:?}"
    );
    assert_eq!(reply.body["decline"]["code"], "D2020", "{reply:?}");
    stage.world.audit().await;
}

/// A processor that captures all where a part was asked: nobody calls it done or failed, a person decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_another_amount_is_parked() {
    let stage = quick().await;
    stage
        .connexpay()
        .change_rules(|rules| rules.partial_capture = false);
    let mut cell = Cell::prepare(&stage, Act::Capture, false).await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    cell.stays_parked(&stage).await;
    assert_eq!(stage.connexpay().request_count_of(verb::CAPTURE), 1);
    assert_eq!(
        stage.connexpay().books().position(&cell.reference).captures,
        1
    );
}

/// A partial approval that no search shows is not called failed: an answer said that money moved.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_approved_is_not_failed_because_it_is_hidden() {
    let stage = quick().await;
    let connexpay = stage.connexpay();
    // From now on searches show what is older than half an hour: the controls.
    connexpay.advance(Duration::from_hours(1));
    connexpay.change_rules(|rules| rules.search_lag_ms = 30 * 60 * 1_000);
    let mut cell = Cell::prepare(&stage, Act::Authorize, false).await;
    stage
        .strike(vec![cell.struck_by(&Fault::new(Kind::PartialApproval))])
        .await;
    cell.ask(&stage).await;
    cell.until_parked(&stage).await;
    // Asked on, and no more taken for a proof than before.
    cell.stays_parked(&stage).await;
    connexpay.change_rules(|rules| rules.search_lag_ms = 0);
    end(
        &stage,
        "hidden, and approved in part",
        cell,
        Expected {
            first: &[504],
            ..REVERSED
        },
    )
    .await;
}

/// What is parked for lack of answers learns why it cannot be decided, once somebody answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_contradiction_after_an_outage_is_remembered() {
    let stage = quick().await;
    let connexpay = stage.connexpay();
    connexpay.change_rules(|rules| rules.partial_capture = false);
    let mut cell = Cell::prepare(&stage, Act::Capture, false).await;
    let hang = cell.struck_by(&Fault::new(Kind::CommitThenHang));
    stage
        .strike(vec![hang, gone(verb::READ), gone(verb::SEARCH)])
        .await;
    cell.ask(&stage).await;
    let records = stage.world.records().await;
    let parked = async |wanted: fn(&ParkedReason) -> bool| {
        let is_wanted = |operation: &Operation| match &operation.state {
            State::Parked { parked } => wanted(parked),
            _ => false,
        };
        let within = Duration::from_secs(20);
        records
            .until(&cell.key, within, "to be parked", is_wanted)
            .await;
    };
    parked(|parked| *parked == ParkedReason::NoAnswer).await;
    stage.lift().await;
    parked(|parked| matches!(parked, ParkedReason::Contradiction { .. })).await;
    assert_eq!(connexpay.request_count_of(verb::CAPTURE), 1);
}

/// A return by another hand, while ours is unknown, makes the totals nobody's: a person decides, and nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn totals_that_others_changed_are_parked() {
    let stage = quick().await;
    let mut cells = stage.cells(&[(Act::Refund, false)]).await;
    let hang = cells[0].struck_by(&Fault::new(Kind::HangBeforeCommit));
    stage.strike(vec![hang]).await;
    let sale = cells[0].parent().to_owned();
    let by_hand = async {
        let sent = stage
            .connexpay()
            .wait_for_requests(1, |record| record.verb == verb::RETURN);
        sent.await.expect("our return to be sent");
        return_by_hand(&stage, &sale, 7.5, 1).await;
    };
    tokio::join!(stage.ask(&mut cells), by_hand);
    cells[0].until_parked(&stage).await;
    cells[0].stays_parked(&stage).await;
    let returns = stage.connexpay().request_count_of(verb::RETURN);
    assert_eq!(returns, 2, "ours, and the other hand's");
}

/// While records cannot be read, what a search shows unchanged is no proof: neither a refund nor a void is called failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_shows_no_change_ends_no_follow_up() {
    let stage = quick().await;
    let mut cells = stage
        .cells(&[(Act::Refund, false), (Act::VoidSale, true)])
        .await;
    let hang = Fault::new(Kind::HangBeforeCommit);
    let mut faults = Vec::new();
    for cell in &mut cells {
        faults.push(cell.struck_by(&hang));
        // The baseline is read; what became of it cannot be.
        let reads = Selector::verb(verb::READ).reference(cell.parent());
        faults.push(Fault::new(Kind::Route404).when(reads).after(1));
    }
    stage.strike(faults).await;
    stage.ask(&mut cells).await;
    for cell in &cells {
        cell.until_parked(&stage).await;
    }
    assert_eq!(stage.connexpay().request_count_of(verb::RETURN), 1);
    stage.lift().await;
    let expected = |cell: &Cell| Expected {
        sends_max: if cell.act.is_repeatable() {
            REPEATED
        } else {
            1
        },
        ..DID_NOT_HAPPEN
    };
    stage.end("no read", &mut cells, expected).await;
}

/// A merchant may have more returns in a few days than one search lists: a refund whose answer was lost is found among
/// those of its amount.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_found_among_many() {
    let stage = quick().await;
    let two = [(Act::Refund, false), (Act::RefundCaptured, false)];
    let mut cells = stage.cells(&two).await;
    return_by_hand(&stage, cells[1].parent(), 0.5, 101).await;
    let hang = cells[0].struck_by(&Fault::new(Kind::CommitThenHang));
    stage.strike(vec![hang]).await;
    cells[0].ask(&stage).await;
    let found = Expected {
        first: &[201, 504],
        last: &[(Final::Approved, Effect::Once)],
        sends_max: 1,
    };
    let (_, wrong) = cells[0].end(&stage, found).await;
    assert_eq!(wrong, [""; 0]);
}

/// Returns from the processor's own portal.
async fn return_by_hand(stage: &Stage, sale: &str, amount: f64, count: u32) {
    let http = reqwest::Client::new();
    let url = stage.world.simulators.connexpay_url();
    let login = format!("grant_type=password&username={USERNAME}&password={PASSWORD}");
    let token = http
        .post(format!("{url}/token"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(login);
    let token = token.send().await.expect("an answer").bytes().await;
    let token: serde_json::Value =
        serde_json::from_slice(&token.expect("a body")).expect("a token");
    let body = serde_json::json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sale, "Amount": amount});
    for _ in 0..count {
        let returned = http
            .post(format!("{url}/returns"))
            .bearer_auth(token["access_token"].as_str().expect("a token"))
            .header("content-type", "application/json")
            .body(body.to_string());
        let status = returned.send().await.expect("an answer").status();
        assert!(status.is_success(), "{status}");
    }
}
