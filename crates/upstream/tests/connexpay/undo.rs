//! Reversals: the form that was recorded, and what each answer means.

use gateway_core::connector::{AlwaysOpen, Connector, NotSent, ReversalForm, Undone, UpstreamIds};
use gateway_core::operation::Verb;
use serde_json::json;

use crate::world::{AUTH, DEVICE, Gate, OTHER, REFERENCE, Reply, SALE, World, error, ok};

fn ids(name: &str, guid: &str) -> UpstreamIds {
    UpstreamIds::default().with(name, guid)
}

#[tokio::test]
async fn a_sale_is_reversed_by_device_and_sequence_number() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /timeoutreversal" => ok(&json!(
            "Device Guid and Sequence Number combination found and voided."
        )),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.subject(Verb::Sale, 1_500);
    let gate = Gate::open_for(1);
    let undo = world
        .connector
        .reverse(&subject, &ReversalForm::ByReference, &gate)
        .await;
    assert_eq!(
        undo.outcome,
        Undone::Done {
            upstream_reference: None
        }
    );
    assert_eq!(gate.asked(), 1);
    assert_eq!(
        world.seen()[1].json(),
        json!({"DeviceGuid": DEVICE, "SequenceNumber": REFERENCE})
    );
    let gated = world
        .connector
        .reverse(&subject, &ReversalForm::ByReference, &gate)
        .await;
    assert_eq!(gated.outcome, Undone::NotSent(NotSent::TooLate));
}

#[tokio::test]
async fn what_was_found_is_voided_or_returned_under_a_number_of_its_own() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /void" => Reply::Json(
            201,
            json!({"guid": OTHER, "status": "Transaction - Approved", "wasProcessed": true, "saleGuid": SALE}).to_string(),
        ),
        "POST /returns" => ok(&json!({"guid": OTHER, "status": "Transaction - Approved", "amount": 4, "saleGuid": SALE})),
        _ => Reply::Empty(404),
    })
    .await;
    let subject = world.subject(Verb::Sale, 1_500);
    let done = Undone::Done {
        upstream_reference: Some(OTHER.to_owned()),
    };
    let void = ReversalForm::Void {
        ids: ids("sale", SALE),
    };
    assert_eq!(
        world
            .connector
            .reverse(&subject, &void, &AlwaysOpen)
            .await
            .outcome,
        done
    );
    let refund = ReversalForm::Refund {
        ids: ids("sale", SALE),
        amount: 400,
    };
    assert_eq!(
        world
            .connector
            .reverse(&subject, &refund, &AlwaysOpen)
            .await
            .outcome,
        done
    );
    let other = ReversalForm::Void {
        ids: ids("authorization", AUTH),
    };
    let other = world
        .connector
        .reverse(&subject, &other, &AlwaysOpen)
        .await
        .outcome;
    assert!(
        matches!(other, Undone::Unknown(_)),
        "the answer names another parent: {other:?}"
    );
    let seen = world.seen();
    assert_eq!(
        seen[1].json(),
        json!({"DeviceGuid": DEVICE, "SaleGuid": SALE, "VoidReason": "DEVICE_TIMEOUT"})
    );
    assert_eq!(
        seen[2].json(),
        json!({"DeviceGuid": DEVICE, "SaleGuid": SALE, "Amount": 4.0, "SequenceNumber": format!("{REFERENCE}R")})
    );
    assert_eq!(
        seen[3].json(),
        json!({"DeviceGuid": DEVICE, "AuthOnlyGuid": AUTH, "VoidReason": "DEVICE_TIMEOUT"})
    );
}

#[tokio::test]
async fn a_refused_void_says_what_to_do_next() {
    type Case = (fn() -> Reply, fn(&Undone) -> bool);
    let cases: [Case; 5] = [
        (
            || error(422, "Transaction already settled"),
            |undone| *undone == Undone::Settled,
        ),
        (
            || {
                error(
                    422,
                    "Error code D0009. Duplicate Request (Reversed previously)",
                )
            },
            |undone| *undone == Undone::NothingFound { conclusive: false },
        ),
        (
            || {
                error(
                    422,
                    "The AuthOnly cannot be voided because it has been captured already",
                )
            },
            |undone| matches!(undone, Undone::Refused(_)),
        ),
        (
            || error(500, "There was a database error"),
            |undone| matches!(undone, Undone::Unknown(_)),
        ),
        (
            || Reply::Close,
            |undone| matches!(undone, Undone::Unknown(_)),
        ),
    ];
    for (answer, is_expected) in cases {
        let world = World::new(move |seen| {
            if seen.call == "POST /void" {
                answer()
            } else {
                Reply::Empty(404)
            }
        })
        .await;
        let void = ReversalForm::Void {
            ids: ids("sale", SALE),
        };
        let undone = world
            .connector
            .reverse(&world.subject(Verb::Sale, 1_500), &void, &AlwaysOpen)
            .await
            .outcome;
        assert!(is_expected(&undone), "{undone:?}");
    }
}

#[tokio::test]
async fn a_form_without_an_id_sends_nothing() {
    let world = World::new(|_| Reply::Empty(404)).await;
    let forms = [
        ReversalForm::Void {
            ids: UpstreamIds::default(),
        },
        ReversalForm::Refund {
            ids: ids("authorization", AUTH),
            amount: 400,
        },
    ];
    for form in forms {
        let undone = world
            .connector
            .reverse(&world.subject(Verb::Sale, 1_500), &form, &AlwaysOpen)
            .await
            .outcome;
        assert!(matches!(undone, Undone::Refused(_)), "{undone:?}");
    }
    assert!(world.seen().is_empty());
}
