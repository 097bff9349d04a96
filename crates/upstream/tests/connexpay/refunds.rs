//! Refunds: which return is ours, and which form a refund takes.

use gateway_core::connector::{Connector, Finding, Found, PrepareError};
use gateway_core::operation::Verb;
use gateway_upstream::connexpay::ConnexPayConfig;
use serde_json::{Value, json};

use crate::look_ups::{contradiction, could_not_ask, find, record, rows, searched, standing};
use crate::world::{
    AUTH, CAPTURE, CREATE, OTHER, REFERENCE, Reply, SALE, Seen, World, ok, prepared,
};

const RETURN: &str = "4f31b350-edd1-49fd-a1ad-4b065f78d7b9";

/// A world in which one sale stands at so much.
pub(crate) async fn sale_at(effective: f64, batch: &'static str) -> World {
    sale_with_returns(effective, batch, vec![]).await
}

/// The same, and these returns of it: id, amount and sequence number. An amount of zero is one whose record cannot be read.
async fn sale_with_returns(
    effective: f64,
    batch: &'static str,
    returns: Vec<(&'static str, f64, Value)>,
) -> World {
    World::new(move |seen| match searched(seen).0.as_str() {
        call if call.starts_with("GET /sales") => ok(&record(
            SALE,
            json!({"effectiveAmount": effective, "batchStatus": batch, "card": {"last4": "5439"}}),
        )),
        "POST /Search/Returns" => {
            let listed = returns.iter().map(|(guid, amount, _)| {
                let amount = (*amount > 0.0).then_some(*amount);
                json!({"guid": guid, "status": "Transaction - Approved", "amount": amount})
            });
            rows(&listed.collect::<Vec<_>>())
        }
        call if call.starts_with("GET /returns") => {
            let guid = call.rsplit('/').next().unwrap();
            let found = returns.iter().find(|(theirs, ..)| *theirs == guid);
            match found {
                Some((guid, amount, sequence)) if *amount > 0.0 => ok(&record(
                    guid,
                    json!({"saleGuid": SALE, "amount": amount, "sequenceNumber": sequence}),
                )),
                _ => Reply::Html(502),
            }
        }
        _ => Reply::Empty(404),
    })
    .await
}

#[tokio::test]
async fn a_refund_is_known_by_exactly_its_change() {
    for (effective, expected) in [
        (15.0, "not found"),
        (10.0, "found"),
        (5.0, "contradiction"),
        (0.0, "contradiction"),
    ] {
        let returns = vec![(RETURN, 5.0, json!(null))];
        let world = sale_with_returns(effective, "Batch - Closed", returns).await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        let finding = find(&world, &subject, None).await;
        let is_expected = match expected {
            "found" => standing(&finding) == Some((1_000, true)),
            "not found" => finding == Finding::NotFound { conclusive: true },
            _ => contradiction(&finding),
        };
        assert!(is_expected, "{effective}: {finding:?}");
    }
    let world = sale_at(10.0, "Batch - Closed").await;
    let no_baseline = world.follow_up(Verb::Refund, 500, &[("sale", SALE)]);
    assert!(could_not_ask(&find(&world, &no_baseline, None).await));
}

#[tokio::test]
async fn a_return_that_carries_our_reference_is_ours_whatever_else_changed() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        call if call.starts_with("GET /sales") => {
            ok(&record(SALE, json!({"effectiveAmount": 2.5})))
        }
        "POST /Search/Returns" => rows(&[
            json!({"guid": OTHER, "status": "Transaction - Approved", "amount": 5}),
            json!({"guid": RETURN, "status": "Transaction - Approved", "amount": 5}),
            json!({"guid": AUTH, "status": "Transaction - Approved", "amount": 7.5}),
        ]),
        call if call.starts_with("GET /returns") => {
            let sequence = if call.ends_with(RETURN) {
                REFERENCE
            } else {
                "0SOMEBODYELSES000"
            };
            let guid = call.rsplit('/').next().unwrap();
            ok(&record(
                guid,
                json!({"saleGuid": SALE, "amount": 5, "sequenceNumber": sequence}),
            ))
        }
        _ => Reply::Empty(404),
    })
    .await;
    let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
    let finding = find(&world, &subject, None).await;
    let Finding::Found(Found::Approved { approval, .. }) = finding else {
        panic!("{finding:?}")
    };
    assert_eq!(approval.upstream_reference, RETURN);
}

#[tokio::test]
async fn a_return_that_another_request_made_is_not_adopted() {
    let ask = async |returns: Vec<(&'static str, f64, Value)>| {
        let world = sale_with_returns(10.0, "Batch - Closed", returns).await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        find(&world, &subject, None).await
    };
    let theirs = || json!("0SOMEBODYELSES000");
    let foreign = ask(vec![(OTHER, 5.0, theirs())]).await;
    assert!(contradiction(&foreign), "{foreign:?}");
    let beside = ask(vec![(RETURN, 5.0, json!(null)), (OTHER, 5.0, theirs())]).await;
    assert!(contradiction(&beside), "{beside:?}");
    let ours = ask(vec![
        (OTHER, 5.0, theirs()),
        (RETURN, 5.0, json!(REFERENCE)),
    ])
    .await;
    assert_eq!(standing(&ours), Some((1_000, true)));
}

#[tokio::test]
async fn totals_adopt_a_refund_only_if_all_returns_of_the_sale_are_known_and_unnamed() {
    let ask = async |returns: Vec<(&'static str, f64, Value)>| {
        let world = sale_with_returns(10.0, "Batch - Closed", returns).await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        find(&world, &subject, None).await
    };
    let unnamed = || (RETURN, 5.0, json!(null));
    let adopted = ask(vec![unnamed(), (OTHER, 2.0, json!(null))]).await;
    assert_eq!(standing(&adopted), Some((1_000, true)));
    for (why, returns) in [
        ("none is listed yet", vec![]),
        (
            "none is of our amount",
            vec![(OTHER, 2.5, json!(null)), (AUTH, 2.5, json!(null))],
        ),
        (
            "one cannot be read",
            vec![unnamed(), (OTHER, 0.0, json!(null))],
        ),
        (
            "this processor names its returns",
            vec![unnamed(), (OTHER, 2.0, json!("0SOMEBODYELSES000"))],
        ),
    ] {
        let finding = ask(returns).await;
        assert!(could_not_ask(&finding), "{why}: {finding:?}");
    }
}

#[tokio::test]
async fn a_refund_is_not_told_from_totals_while_returns_cannot_be_listed() {
    for effective in [10.0, 5.0] {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            call if call.starts_with("GET /sales") => {
                ok(&record(SALE, json!({"effectiveAmount": effective})))
            }
            "POST /Search/Returns" => Reply::Html(502),
            _ => Reply::Empty(404),
        })
        .await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        let finding = find(&world, &subject, None).await;
        assert!(could_not_ask(&finding), "{effective}: {finding:?}");
    }
}

#[tokio::test]
async fn a_refund_takes_the_form_that_settlement_allows() {
    let prepare = async |effective, batch, verb, minor| {
        let world = sale_at(effective, batch).await;
        world
            .connector
            .prepare(&world.follow_up(verb, minor, &[("sale", SALE)]))
            .await
    };
    let (open, closed) = ("Batch - Open", "Batch - Closed");
    let whole = prepare(15.0, open, Verb::Refund, 1_500).await.unwrap();
    assert_eq!((whole.baseline, whole.as_void), (Some(1_500), true));
    let part = prepare(15.0, closed, Verb::Refund, 500).await.unwrap();
    assert_eq!((part.baseline, part.as_void), (Some(1_500), false));
    assert_eq!(
        prepare(15.0, open, Verb::Refund, 500).await,
        Err(PrepareError::NotSettled)
    );
    assert!(matches!(
        prepare(4.0, closed, Verb::Refund, 500).await,
        Err(PrepareError::NothingLeft { .. })
    ));
    assert_eq!(
        prepare(15.0, closed, Verb::Void, 1_500).await,
        Err(PrepareError::AlreadySettled)
    );
    assert!(matches!(
        prepare(0.0, open, Verb::Void, 1_500).await,
        Err(PrepareError::NothingLeft { .. })
    ));
    assert_eq!(
        prepare(15.0, open, Verb::Void, 1_500)
            .await
            .unwrap()
            .baseline,
        Some(1_500)
    );

    let silent = World::new(|seen| {
        if seen.call == "POST /token" {
            Reply::Empty(404)
        } else {
            Reply::Html(502)
        }
    })
    .await;
    let subject = silent.follow_up(Verb::Refund, 500, &[("sale", SALE)]);
    assert!(matches!(
        silent.connector.prepare(&subject).await,
        Err(PrepareError::CouldNotAsk(_))
    ));
}

#[tokio::test]
async fn the_sale_of_a_capture_is_fetched_where_its_answer_was_lost() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        call if call.starts_with("GET /Captures") => {
            ok(&record(CAPTURE, json!({"relatedSale": {"guid": SALE}})))
        }
        call if call.starts_with("GET /sales") => ok(&record(SALE, json!({}))),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.follow_up(
        Verb::Refund,
        1_500,
        &[("authorization", AUTH), ("capture", CAPTURE)],
    );
    let prepared = world.connector.prepare(&subject).await.unwrap();
    assert_eq!(prepared.ids.get("sale").map(String::as_str), Some(SALE));
}

/// A world in which records cannot be read, and the search shows the sale at so much.
/// A sale that the search lists, while the route that reads one answers with this status.
async fn sale_in_a_row(effective: f64, batch: &'static str, unread: u16) -> World {
    sale_in_a_row_of(effective, batch, unread, true).await
}

async fn sale_in_a_row_of(
    effective: f64,
    batch: &'static str,
    unread: u16,
    record_routes: bool,
) -> World {
    let change = |config: &mut ConnexPayConfig| config.record_routes = record_routes;
    let script = move |seen: &Seen| match searched(seen) {
        (call, order) if call == "POST /Search/Sales" && order == CREATE => rows(&[record(
            SALE,
            json!({"effectiveAmount": effective, "batchStatus": batch}),
        )]),
        (call, _) if call == "POST /Search/Returns" => rows(&[]),
        _ => Reply::Empty(unread),
    };
    World::with(change, script).await
}

#[tokio::test]
async fn a_row_alone_never_proves_that_a_follow_up_did_not_happen() {
    for (effective, left) in [(15.0, 1_500), (10.0, 1_000), (5.0, 500)] {
        let world = sale_in_a_row(effective, "Batch - Closed", 404).await;
        let refund = world.follow_up(Verb::Refund, 500, &[("sale", SALE)]);
        let finding = find(&world, &prepared(refund, 1_500), None).await;
        assert!(could_not_ask(&finding), "{left}: {finding:?}");
    }
    let void = async |effective| {
        let world = sale_in_a_row(effective, "Batch - Open", 404).await;
        let void = prepared(world.follow_up(Verb::Void, 1_500, &[("sale", SALE)]), 1_500);
        find(&world, &void, None).await
    };
    assert_eq!(void(15.0).await, Finding::NotFound { conclusive: false });
    assert!(could_not_ask(&void(7.5).await));
    // What a row says is gone is gone.
    assert_eq!(standing(&void(0.0).await), Some((0, false)));
}

#[tokio::test]
async fn what_stands_is_asked_again_rather_than_sent_without() {
    for unread in [404, 500] {
        for (verb, amount, batch) in [
            (Verb::Refund, 500, "Batch - Closed"),
            (Verb::Void, 1_500, "Batch - Open"),
        ] {
            let world = sale_in_a_row(15.0, batch, unread).await;
            let follow_up = world.follow_up(verb, amount, &[("sale", SALE)]);
            let form = world.connector.prepare(&follow_up).await;
            assert!(
                matches!(form, Err(PrepareError::CouldNotAsk(_))),
                "{form:?}"
            );
        }
    }
}

#[tokio::test]
async fn where_no_record_is_served_a_row_is_no_baseline() {
    let world = sale_in_a_row_of(15.0, "Batch - Closed", 404, false).await;
    let refund = world.follow_up(Verb::Refund, 500, &[("sale", SALE)]);
    let form = world.connector.prepare(&refund).await.unwrap();
    assert_eq!((form.baseline, form.as_void), (None, false));
}

#[tokio::test]
async fn without_totals_a_refund_is_found_by_its_reference() {
    for (baseline, readable) in [(None, true), (Some(1_500), false)] {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            call if call.starts_with("GET /sales") && readable => {
                ok(&record(SALE, json!({"effectiveAmount": 10})))
            }
            "POST /Search/Sales" => rows(&[record(SALE, json!({}))]),
            "POST /Search/Returns" => rows(&[
                json!({"guid": OTHER, "status": "Transaction - Approved", "amount": 5}),
                json!({"guid": RETURN, "status": "Transaction - Approved", "amount": 5}),
            ]),
            call if call.starts_with("GET /returns") => {
                let guid = call.rsplit('/').next().unwrap();
                let sequence = (guid == RETURN).then_some(REFERENCE);
                ok(&record(
                    guid,
                    json!({"saleGuid": SALE, "amount": 5, "sequenceNumber": sequence}),
                ))
            }
            _ => Reply::Empty(404),
        })
        .await;
        let mut refund = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 0);
        refund.prepared.as_mut().unwrap().baseline = baseline;
        let finding = find(&world, &refund, None).await;
        let Finding::Found(Found::Approved { approval, .. }) = finding else {
            panic!("{finding:?}")
        };
        assert_eq!(approval.upstream_reference, RETURN);
    }
}

#[tokio::test]
async fn a_return_under_our_reference_of_another_amount_is_for_a_person() {
    for (amount, adopted) in [(5.0, true), (2.5, false), (7.5, false)] {
        let returns = vec![(RETURN, amount, json!(REFERENCE))];
        let world = sale_with_returns(15.0 - amount, "Batch - Closed", returns).await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        let finding = find(&world, &subject, None).await;
        assert_eq!(contradiction(&finding), !adopted, "{amount}: {finding:?}");
        assert_eq!(standing(&finding).is_some(), adopted, "{amount}");
    }
}

#[tokio::test]
async fn a_return_that_was_done_in_part_is_for_a_person() {
    for (code, adopted) in [("A0000", true), ("A0002", false)] {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            call if call.starts_with("GET /sales") => ok(&record(
                SALE,
                json!({"effectiveAmount": 10.0, "batchStatus": "Batch - Closed", "card": {"last4": "5439"}}),
            )),
            "POST /Search/Returns" => rows(&[
                json!({"guid": RETURN, "status": "Transaction - Approved", "amount": 5.0}),
            ]),
            // The amount that was asked for, and a code that may say otherwise.
            call if call.starts_with("GET /returns") => ok(&record(
                RETURN,
                json!({"saleGuid": SALE, "amount": 5.0, "sequenceNumber": REFERENCE, "processorStatusCode": code}),
            )),
            _ => Reply::Empty(404),
        })
        .await;
        let subject = prepared(world.follow_up(Verb::Refund, 500, &[("sale", SALE)]), 1_500);
        let finding = find(&world, &subject, None).await;
        assert_eq!(contradiction(&finding), !adopted, "{code}: {finding:?}");
        assert_eq!(standing(&finding).is_some(), adopted, "{code}");
    }
}
