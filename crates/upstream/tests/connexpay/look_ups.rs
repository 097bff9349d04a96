//! Findings: what is ours, what is nobody's, and what nobody can tell.

use gateway_core::connector::{Connector, Control, Finding, Found, Standing, Subject, UpstreamIds};
use gateway_core::key::UpstreamReference;
use gateway_core::operation::Verb;
use serde_json::{Value, json};

use crate::refunds::sale_at;
use crate::world::{
    AUTH, CAPTURE, CONTROL, CREATE, DEVICE, OTHER, REFERENCE, Reply, SALE, Seen, World, error, ok,
    prepared,
};

/// A record as `GET` shows it, with some members replaced.
pub(crate) fn record(guid: &str, members: Value) -> Value {
    let mut record = json!({
        "guid": guid, "status": "Transaction - Approved", "batchStatus": "Batch - Open", "deviceGuid": DEVICE,
        "amount": 15.00, "effectiveAmount": 15.00, "processorStatusCode": "A0000", "wasProcessed": true,
    });
    let Value::Object(members) = members else {
        panic!("members")
    };
    record.as_object_mut().unwrap().extend(members);
    record
}

/// A row as the reference's samples show it: without any number of ours.
fn row(guid: &str, members: Value) -> Value {
    let mut row = record(guid, members);
    let fields = row.as_object_mut().unwrap();
    fields.remove("wasProcessed");
    fields.remove("processorStatusCode");
    row
}

pub(crate) fn rows(rows: &[Value]) -> Reply {
    ok(&json!({"count": rows.len(), "ret": rows}))
}

pub(crate) fn searched(seen: &Seen) -> (String, String) {
    let order = serde_json::from_str::<Value>(&seen.text).ok();
    let order = order.and_then(|body| body["OrderNumber"].as_str().map(str::to_owned));
    let call = seen
        .call
        .split("/false")
        .next()
        .unwrap_or_default()
        .to_owned();
    (call, order.unwrap_or_default())
}

fn control() -> Control {
    Control {
        reference: UpstreamReference::parse(CONTROL).unwrap(),
        ids: UpstreamIds::default().with("sale", OTHER),
    }
}

pub(crate) async fn find(world: &World, subject: &Subject, control: Option<&Control>) -> Finding {
    world.connector.look_up(subject, control).await.finding
}

pub(crate) fn standing(finding: &Finding) -> Option<(i64, bool)> {
    match finding {
        Finding::Found(Found::Approved {
            standing: Standing { remaining, settled },
            ..
        }) => Some((*remaining, *settled)),
        _ => None,
    }
}

pub(crate) fn could_not_ask(finding: &Finding) -> bool {
    matches!(finding, Finding::CouldNotAsk { .. })
}

pub(crate) fn contradiction(finding: &Finding) -> bool {
    matches!(finding, Finding::Contradiction { .. })
}

#[tokio::test]
async fn a_sale_is_ours_only_if_its_record_carries_our_reference() {
    let world = World::new(|seen| match searched(seen) {
        (call, order) if call == "POST /Search/Sales" && order == REFERENCE => {
            rows(&[row(SALE, json!({}))])
        }
        (call, _) if call == format!("GET /sales/{SALE}") => ok(&record(
            SALE,
            json!({"sequenceNumber": REFERENCE, "batchStatus": "Batch - Closed"}),
        )),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.subject(Verb::Sale, 1_500);
    let finding = find(&world, &subject, None).await;
    assert_eq!(standing(&finding), Some((1_500, true)));
    let Finding::Found(Found::Approved { approval, .. }) = finding else {
        panic!("found")
    };
    assert_eq!(approval.ids.get("sale"), Some(SALE));
    assert_eq!(approval.amount.minor(), 1_500);
    assert_eq!(
        world.calls(),
        [
            "POST /Search/Sales/false/1/100".to_owned(),
            format!("GET /sales/{SALE}")
        ]
    );

    let search = &world.seen()[1];
    assert_eq!(
        search.json(),
        json!({"MerchantGuid": crate::world::MERCHANT, "OrderNumber": REFERENCE})
    );
}

#[tokio::test]
async fn other_records_of_the_same_amount_are_not_ours() {
    // The filter was ignored: everything of the merchant comes back.
    let world = World::new(|seen| match searched(seen).0.as_str() {
        "POST /Search/Sales" => rows(&[row(SALE, json!({})), row(OTHER, json!({}))]),
        "POST /token" => Reply::Empty(404),
        _ => {
            let guid = seen.call.rsplit('/').next().unwrap();
            ok(&record(
                guid,
                json!({"sequenceNumber": "0SOMEBODYELSES000"}),
            ))
        }
    })
    .await;
    let finding = find(&world, &world.subject(Verb::Sale, 1_500), Some(&control())).await;
    assert!(could_not_ask(&finding), "{finding:?}");
}

#[tokio::test]
async fn not_found_is_conclusive_only_with_a_control() {
    let with_control = |answer: fn() -> Reply| {
        World::new(move |seen| match searched(seen) {
            (call, order) if call == "POST /Search/Sales" && order == CONTROL => answer(),
            (call, _) if call == "POST /Search/Sales" => Reply::Empty(204),
            _ => Reply::Empty(404),
        })
    };
    let cases: [(fn() -> Reply, bool); 6] = [
        (|| rows(&[row(OTHER, json!({}))]), true),
        (
            || ok(&json!({"totalResults": 1, "searchResultDTO": [row(OTHER, json!({}))]})),
            true,
        ),
        (|| Reply::Empty(204), false),
        // A refused attempt, and the one that was approved.
        (
            || rows(&[row(SALE, json!({})), row(OTHER, json!({}))]),
            true,
        ),
        (|| rows(&[row(SALE, json!({}))]), false),
        (|| Reply::Html(502), false),
    ];
    for (answer, conclusive) in cases {
        let world = with_control(answer).await;
        let finding = find(&world, &world.subject(Verb::Sale, 1_500), Some(&control())).await;
        assert_eq!(finding, Finding::NotFound { conclusive });
    }
    let nameless = Control {
        ids: UpstreamIds::default(),
        ..control()
    };
    for control in [None, Some(&nameless)] {
        let world = with_control(|| rows(&[row(OTHER, json!({}))])).await;
        let finding = find(&world, &world.subject(Verb::Sale, 1_500), control).await;
        assert_eq!(finding, Finding::NotFound { conclusive: false });
    }
}

#[tokio::test]
async fn nothing_is_concluded_from_a_search_that_does_not_answer() {
    let answers: [fn() -> Reply; 6] = [
        || Reply::Html(404),
        || Reply::Html(200),
        || error(422, "There was a database error"),
        || ok(&json!({"count": 1, "ret": []})),
        || ok(&json!({"count": 0})),
        || Reply::Close,
    ];
    for answer in answers {
        let world = World::new(move |seen| {
            if seen.call == "POST /token" {
                Reply::Empty(404)
            } else {
                answer()
            }
        })
        .await;
        let finding = find(&world, &world.subject(Verb::Sale, 1_500), Some(&control())).await;
        assert!(could_not_ask(&finding), "{finding:?}");
    }
    for none in [
        || ok(&json!({"count": 0, "ret": []})),
        || error(404, "NoResultFound204"),
    ] {
        let world = World::new(move |seen| {
            if seen.call == "POST /token" {
                Reply::Empty(404)
            } else {
                none()
            }
        })
        .await;
        let finding = find(&world, &world.subject(Verb::Sale, 1_500), None).await;
        assert_eq!(finding, Finding::NotFound { conclusive: false });
    }
}

#[tokio::test]
async fn where_records_cannot_be_read_a_row_with_our_order_number_is_believed() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        "POST /Search/Sales" => rows(&[row(
            SALE,
            json!({"orderNumber": REFERENCE, "effectiveAmount": 0}),
        )]),
        _ => Reply::Empty(404),
    })
    .await;
    let finding = find(&world, &world.subject(Verb::Sale, 1_500), None).await;
    assert_eq!(standing(&finding), Some((0, false)));
}

#[tokio::test]
async fn records_that_do_not_add_up_are_for_a_person() {
    let sale = |members: Value| {
        World::new(move |seen| match searched(seen).0.as_str() {
            "POST /Search/Sales" => rows(&[row(SALE, json!({})), row(OTHER, json!({}))]),
            "POST /token" => Reply::Empty(404),
            _ => {
                let guid = seen.call.rsplit('/').next().unwrap();
                let mut record = record(guid, json!({"sequenceNumber": REFERENCE}));
                record
                    .as_object_mut()
                    .unwrap()
                    .extend(members.as_object().unwrap().clone());
                ok(&record)
            }
        })
    };
    let world = sale(json!({})).await;
    let twice = find(&world, &world.subject(Verb::Sale, 1_500), None).await;
    assert!(contradiction(&twice), "{twice:?}");
    let world = sale(json!({"status": "Transaction - Declined", "wasProcessed": false, "processorStatusCode": "E0910"})).await;
    let declined = find(&world, &world.subject(Verb::Sale, 1_500), None).await;
    assert!(
        matches!(declined, Finding::Found(Found::Declined(_))),
        "{declined:?}"
    );
    let world = sale(json!({"status": "Transaction - Created - Local"})).await;
    let unfinished = find(&world, &world.subject(Verb::Sale, 1_500), None).await;
    assert!(could_not_ask(&unfinished), "{unfinished:?}");
}

#[tokio::test]
async fn what_stands_of_a_captured_authorization_is_its_sale() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        "POST /Search/AuthOnlys" => {
            rows(&[row(AUTH, json!({"orderNumber": REFERENCE, "relatedCapture": {"guid": CAPTURE}, "relatedVoid": null}))])
        }
        call if call.starts_with("GET /AuthOnlys") => ok(&record(AUTH, json!({}))),
        call if call.starts_with("GET /Captures") => {
            ok(&record(CAPTURE, json!({"authOnlyGuid": AUTH, "newAmount": 15, "relatedSale": {"guid": SALE}})))
        }
        call if call.starts_with("GET /sales") => ok(&record(SALE, json!({"effectiveAmount": 5}))),
        _ => Reply::Empty(404),
    })
    .await;
    let finding = find(&world, &world.subject(Verb::Authorize, 1_500), None).await;
    assert_eq!(standing(&finding), Some((500, false)));
    let Finding::Found(Found::Approved { approval, .. }) = finding else {
        panic!("found")
    };
    assert_eq!(
        (approval.ids.get("authorization"), approval.ids.get("sale")),
        (Some(AUTH), Some(SALE))
    );
}

#[tokio::test]
async fn a_create_whose_id_is_known_is_read_by_it_and_needs_no_search() {
    for sequence in [json!(REFERENCE), json!(null)] {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            call if call == format!("GET /sales/{SALE}") => ok(&record(
                SALE,
                json!({"sequenceNumber": sequence, "effectiveAmount": 10}),
            )),
            "POST /token" => Reply::Empty(404),
            _ => Reply::Html(502),
        })
        .await;
        let subject = world.follow_up(Verb::Sale, 1_500, &[("sale", SALE)]);
        let finding = find(&world, &subject, None).await;
        assert_eq!(standing(&finding), Some((1_000, false)));
        assert_eq!(world.calls(), [format!("GET /sales/{SALE}")]);
    }
    let foreign = World::new(|seen| match searched(seen).0.as_str() {
        call if call.starts_with("GET /sales") => ok(&record(
            SALE,
            json!({"sequenceNumber": "0SOMEBODYELSES000"}),
        )),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = foreign.follow_up(Verb::Sale, 1_500, &[("sale", SALE)]);
    let finding = find(&foreign, &subject, None).await;
    assert!(contradiction(&finding), "{finding:?}");
}

#[tokio::test]
async fn what_stands_of_a_known_authorization_is_read_by_id_too() {
    let ask = async |ids: &[(&str, &str)]| {
        let world = World::new(|seen| match searched(seen).0.as_str() {
            call if call.starts_with("GET /AuthOnlys") => ok(&record(AUTH, json!({}))),
            call if call.starts_with("GET /Captures") => ok(&record(
                CAPTURE,
                json!({"authOnlyGuid": AUTH, "relatedSale": {"guid": SALE}}),
            )),
            call if call.starts_with("GET /sales") => ok(&record(
                SALE,
                json!({"effectiveAmount": 5, "batchStatus": "Batch - Closed"}),
            )),
            "POST /token" => Reply::Empty(404),
            _ => Reply::Html(502),
        })
        .await;
        let finding = find(&world, &world.follow_up(Verb::Authorize, 1_500, ids), None).await;
        let Finding::Found(Found::Approved { approval, .. }) = &finding else {
            panic!("{finding:?}")
        };
        let sale = approval.ids.get("sale").map(str::to_owned);
        (standing(&finding), sale)
    };
    let held = ask(&[("authorization", AUTH)]).await;
    assert_eq!(held, (Some((1_500, false)), None));
    let captured = (Some((500, true)), Some(SALE.to_owned()));
    let known = [
        ("authorization", AUTH),
        ("capture", CAPTURE),
        ("sale", SALE),
    ];
    assert_eq!(ask(&known).await, captured);
    assert_eq!(ask(&known[..2]).await, captured);
}

#[tokio::test]
async fn where_the_id_of_a_create_cannot_be_read_its_reference_is_searched_for() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        "POST /Search/Sales" => rows(&[row(SALE, json!({"orderNumber": REFERENCE}))]),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.follow_up(Verb::Sale, 1_500, &[("sale", SALE)]);
    assert_eq!(
        standing(&find(&world, &subject, None).await),
        Some((1_500, false))
    );
}

#[tokio::test]
async fn a_capture_is_found_by_the_authorization_it_names() {
    let capture = |related: Value, sequence: &'static str, new_amount: f64| {
        World::new(move |seen| match searched(seen) {
            (call, order) if call == "POST /Search/AuthOnlys" && order == CREATE => rows(&[row(
                AUTH,
                json!({"orderNumber": CREATE, "relatedCapture": related}),
            )]),
            (call, _) if call.starts_with("GET /AuthOnlys") => ok(&record(AUTH, json!({}))),
            (call, _) if call.starts_with("GET /Captures") => ok(&record(
                CAPTURE,
                json!({"authOnlyGuid": AUTH, "newAmount": new_amount, "sequenceNumber": sequence,
                       "relatedSale": {"guid": SALE, "amount": 15, "effectiveAmount": 15}}),
            )),
            _ => Reply::Empty(404),
        })
    };
    let ask = async |world: World| {
        let subject = world.follow_up(Verb::Capture, 1_500, &[("authorization", AUTH)]);
        find(&world, &subject, None).await
    };
    let found = ask(capture(json!({"guid": CAPTURE}), REFERENCE, 15.0).await).await;
    let Finding::Found(Found::Approved { approval, .. }) = found else {
        panic!("{found:?}")
    };
    assert_eq!(
        (approval.ids.get("capture"), approval.ids.get("sale")),
        (Some(CAPTURE), Some(SALE))
    );
    let none = ask(capture(json!(null), REFERENCE, 15.0).await).await;
    assert_eq!(none, Finding::NotFound { conclusive: true });
    let another = ask(capture(json!({"guid": CAPTURE}), "0SOMEBODYELSES000", 15.0).await).await;
    assert!(contradiction(&another), "{another:?}");
    let less = ask(capture(json!(CAPTURE), REFERENCE, 10.0).await).await;
    assert!(contradiction(&less), "{less:?}");
}

#[tokio::test]
async fn a_row_without_a_capture_proves_nothing_until_the_authorization_itself_says_so() {
    let ask = async |authorization: fn() -> Reply| {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            "POST /Search/AuthOnlys" => rows(&[row(AUTH, json!({"relatedCapture": null}))]),
            call if call == format!("GET /AuthOnlys/{AUTH}") => authorization(),
            call if call.starts_with("GET /Captures") => ok(&record(
                CAPTURE,
                json!({"authOnlyGuid": AUTH, "newAmount": 15, "sequenceNumber": REFERENCE,
                       "relatedSale": {"guid": SALE, "amount": 15, "effectiveAmount": 15}}),
            )),
            _ => Reply::Empty(404),
        })
        .await;
        let subject = world.follow_up(Verb::Capture, 1_500, &[("authorization", AUTH)]);
        find(&world, &subject, None).await
    };
    let open = ask(|| ok(&record(AUTH, json!({})))).await;
    assert_eq!(open, Finding::NotFound { conclusive: true });
    let unproven: [fn() -> Reply; 4] = [
        || Reply::Empty(404),
        || Reply::Html(502),
        || {
            ok(&record(
                AUTH,
                json!({"status": "Transaction - Processor Error"}),
            ))
        },
        // A void of the sale that a capture made takes the authorization with it.
        || ok(&record(AUTH, json!({"effectiveAmount": 0}))),
    ];
    for authorization in unproven {
        assert_eq!(
            ask(authorization).await,
            Finding::NotFound { conclusive: false }
        );
    }
    let stale = ask(|| ok(&record(AUTH, json!({"relatedCapture": {"guid": CAPTURE}})))).await;
    assert_eq!(standing(&stale), Some((1_500, false)));
}

#[tokio::test]
async fn without_the_authorization_in_a_search_captures_are_read_one_by_one() {
    let world = World::new(|seen| match searched(seen).0.as_str() {
        "POST /Search/Captures" => rows(&[
            json!({"guid": OTHER, "status": "Transaction - Approved", "newAmount": 0, "authOnly": {"orderNumber": null}}),
            json!({"guid": SALE, "status": "Transaction - Approved", "newAmount": 0, "authOnly": {"orderNumber": "X"}}),
            json!({"guid": CAPTURE, "status": "Transaction - Approved", "newAmount": 0,
                   "authOnly": {"orderNumber": CREATE, "guid": "00000000-0000-0000-0000-000000000000"}}),
        ]),
        call if call.ends_with(OTHER) => ok(&record(OTHER, json!({"authOnlyGuid": OTHER}))),
        call if call.ends_with(CAPTURE) => ok(&record(
            CAPTURE,
            json!({"authOnlyGuid": AUTH, "newAmount": 15, "relatedSale": {"guid": SALE, "effectiveAmount": 15}}),
        )),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.follow_up(Verb::Capture, 1_500, &[("authorization", AUTH)]);
    assert_eq!(
        standing(&find(&world, &subject, None).await),
        Some((1_500, false))
    );
}

#[tokio::test]
async fn a_void_is_known_by_what_it_left() {
    for (effective, expected) in [(0.0, "found"), (15.0, "not found"), (7.5, "contradiction")] {
        let world = sale_at(effective, "Batch - Open").await;
        let subject = prepared(world.follow_up(Verb::Void, 1_500, &[("sale", SALE)]), 1_500);
        let finding = find(&world, &subject, None).await;
        let is_expected = match expected {
            "found" => standing(&finding) == Some((0, false)),
            "not found" => finding == Finding::NotFound { conclusive: true },
            _ => contradiction(&finding),
        };
        assert!(is_expected, "{effective}: {finding:?}");
    }
}

#[tokio::test]
async fn the_void_of_an_authorization_is_seen_in_the_list_if_nowhere_else() {
    for (void, found) in [(json!({"guid": OTHER}), true), (json!(null), false)] {
        let world = World::new(move |seen| match searched(seen).0.as_str() {
            call if call.starts_with("GET /AuthOnlys") => ok(&record(AUTH, json!({}))),
            "POST /Search/AuthOnlys" => rows(&[row(AUTH, json!({"relatedVoid": void}))]),
            _ => Reply::Empty(404),
        })
        .await;
        let subject = prepared(
            world.follow_up(Verb::Void, 1_500, &[("authorization", AUTH)]),
            1_500,
        );
        let finding = find(&world, &subject, None).await;
        if found {
            assert_eq!(standing(&finding), Some((0, false)));
        } else {
            assert_eq!(finding, Finding::NotFound { conclusive: true });
        }
    }
}
