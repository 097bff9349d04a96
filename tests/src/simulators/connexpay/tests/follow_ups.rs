//! Capture, void, return and timeout reversal.

use std::time::Duration;

use serde_json::{Value, json};

use super::{authorized, guid, with};
use crate::simulators::connexpay::{DEVICE_EUR, DEVICE_USD};
use crate::simulators::tests::{ready, sale};

#[tokio::test]
async fn a_timeout_reversal_voids_the_open_sale_of_that_pair_once() {
    let (simulators, mut caller) = ready().await;
    let pair = |sequence: &str| json!({"DeviceGuid": DEVICE_USD, "SequenceNumber": sequence});
    caller.post("sales", &sale("10", "A1")).await;
    let other_device = json!({"DeviceGuid": DEVICE_EUR, "SequenceNumber": "A1"});
    assert_eq!(
        caller.post("timeoutreversal", &other_device).await.status,
        422
    );
    let heard = caller.post("TimeoutReversal", &pair("A1")).await;
    assert_eq!(
        heard.json(),
        json!("Device Guid and Sequence Number combination found and voided.")
    );
    assert_eq!(simulators.connexpay().books().position("A1").net, 0);
    let again = caller.post("timeoutreversal", &pair("A1")).await;
    assert_eq!(
        (again.status, again.message().contains("D0009")),
        (422, true),
        "{}",
        again.body
    );

    caller.post("sales", &sale("10", "A2")).await;
    simulators.connexpay().settle().expect("settled");
    let late = caller.post("timeoutreversal", &pair("A2")).await;
    assert_eq!(
        (late.status, late.message().as_str()),
        (422, "Transaction already settled")
    );

    authorized(&mut caller, "10", "A3").await;
    assert_eq!(
        caller.post("timeoutreversal", &pair("A3")).await.message(),
        "No Sale could be found for the given Id"
    );
    simulators
        .connexpay()
        .change_rules(|rules| rules.reversal_reaches_authorizations = true);
    assert_eq!(
        caller.post("timeoutreversal", &pair("A3")).await.status,
        200
    );
}

#[tokio::test]
async fn an_authorization_is_captured_once_and_within_its_amount() {
    let (simulators, mut caller) = ready().await;
    let auth = authorized(&mut caller, "50", "A1").await;
    let capture = |amount: Value| json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth, "NewAmount": amount});
    assert_eq!(
        caller
            .post("Captures", &capture(json!(50.01)))
            .await
            .message(),
        "Original Amount exceeded"
    );
    let foreign = with(capture(json!(5)), "/DeviceGuid", DEVICE_EUR.into());
    assert!(
        caller
            .post("Captures", &foreign)
            .await
            .message()
            .contains("not from the same MerchantAccount")
    );
    let heard = caller.post("Captures", &capture(Value::Null)).await;
    let json = heard.json();
    assert_eq!(
        (heard.status, &json["newAmount"], &json["authOnlyGuid"]),
        (200, &json!(50), &json!(auth))
    );
    assert_eq!(json["relatedSale"]["effectiveAmount"], 50);
    let again = caller.post("Captures", &capture(json!(10))).await;
    assert_eq!(
        again.message(),
        "There is an approved Capture for this AuthOnly already"
    );
    let void = caller
        .post(
            "void",
            &json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth}),
        )
        .await;
    assert_eq!(
        void.message(),
        "The AuthOnly cannot be voided because it has been captured already"
    );

    let sale = json["relatedSale"]["guid"].as_str().expect("an id");
    let void = caller
        .post("void", &json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sale}))
        .await;
    assert_eq!(
        (void.status, &void.json()["sale"]["effectiveAmount"]),
        (201, &json!(0)),
        "{}",
        void.body
    );
    let read = caller.get(&format!("AuthOnlys/{auth}")).await;
    assert_eq!(
        read.json()["effectiveAmount"],
        0,
        "voiding what was captured voids the authorization"
    );
    assert_eq!(simulators.connexpay().books().net(), 0);
    let nobody = json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": uuid::Uuid::nil()});
    let heard = caller.post("Captures", &nobody).await;
    assert_eq!(
        heard.message(),
        "The Capture AuthOnlyGuid value does not have matching results."
    );
}

#[tokio::test]
async fn an_authorization_needs_its_time_where_the_lag_is_switched_on() {
    let (simulators, mut caller) = ready().await;
    simulators
        .connexpay()
        .change_rules(|rules| rules.authorization_ready_after_ms = 6000);
    let auth = authorized(&mut caller, "50", "A1").await;
    let void = json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth});
    let early = caller.post("void", &void).await;
    assert_eq!(
        early.message(),
        "AuthOnly cannot be voided because it was not processed"
    );
    simulators.connexpay().advance(Duration::from_secs(7));
    assert_eq!(caller.post("void", &void).await.status, 201);
    assert_eq!(simulators.connexpay().books().position("A1").held, 0);
}

#[tokio::test]
async fn voids_name_one_open_transaction() {
    let (simulators, mut caller) = ready().await;
    let sold = guid(&caller.post("sales", &sale("10", "A1")).await);
    let void = |fields: Value| {
        let mut body = json!({"DeviceGuid": DEVICE_USD});
        body.as_object_mut()
            .expect("an object")
            .extend(fields.as_object().expect("an object").clone());
        body
    };
    assert!(
        caller
            .post("void", &void(json!({})))
            .await
            .message()
            .starts_with("One of SaleGuid")
    );
    let both = void(json!({"SaleGuid": sold, "SaleReferenceNumber": 16_286_858}));
    assert!(
        caller
            .post("void", &both)
            .await
            .message()
            .starts_with("Only one of SaleGuid")
    );
    let odd = void(json!({"SaleGuid": sold, "VoidReason": "BECAUSE"}));
    assert_eq!(caller.post("void", &odd).await.status, 400);
    let unknown = void(json!({"SaleGuid": uuid::Uuid::nil()}));
    assert_eq!(
        caller.post("void", &unknown).await.message(),
        "Invalid Sale GUID"
    );
    let by_number =
        void(json!({"SaleReferenceNumber": 16_286_858, "VoidReason": "DEVICE_TIMEOUT"}));
    let heard = caller.post("void", &by_number).await;
    assert_eq!(
        (heard.status, &heard.json()["voidReason"]),
        (201, &json!("DEVICE_TIMEOUT"))
    );
    assert_eq!(
        heard.json()["sale"]["status"],
        "Transaction - Approved",
        "a voided sale keeps its status"
    );
    assert!(
        caller
            .post("void", &void(json!({"SaleGuid": sold})))
            .await
            .message()
            .contains("D0009")
    );

    let settled = guid(&caller.post("sales", &sale("11", "A2")).await);
    let held = authorized(&mut caller, "12", "A3").await;
    simulators.connexpay().settle().expect("settled");
    let late = caller
        .post("void", &void(json!({"SaleGuid": settled})))
        .await;
    assert_eq!(late.message(), "Transaction already settled");
    let hold = caller
        .post("void", &void(json!({"AuthOnlyGuid": held})))
        .await;
    assert_eq!(hold.status, 201, "a hold outlives its batch");
}

#[tokio::test]
async fn returns_need_a_settled_young_sale_and_are_capped_only_where_switched_on() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let sold = guid(&caller.post("sales", &sale("10", "A1")).await);
    let refund =
        |amount: Value| json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sold, "Amount": amount});
    assert_eq!(
        caller.post("returns", &refund(json!(5))).await.message(),
        "Sale has not been settled"
    );
    upstream.settle().expect("settled");
    assert_eq!(
        caller
            .post("returns", &refund(json!(10.01)))
            .await
            .message(),
        "Original Amount exceeded"
    );
    assert_eq!(
        caller.post("returns", &refund(json!(0))).await.message(),
        "The Return amount must be greater than zero"
    );
    let neither = json!({"DeviceGuid": DEVICE_USD, "Amount": 5});
    let heard = caller.post("returns", &neither).await;
    assert_eq!(
        heard.message(),
        "Either the SaleGuid or SaleReferenceNumber are required"
    );
    let heard = caller.post("returns", &refund(json!(6))).await;
    assert_eq!(
        (heard.status, &heard.json()["sale"]["effectiveAmount"]),
        (200, &json!(4))
    );
    assert_eq!(
        caller.post("returns", &refund(json!(6))).await.status,
        200,
        "nobody here adds returns up"
    );
    assert_eq!(upstream.books().position("A1").net, -200);
    upstream.change_rules(|rules| rules.returns_capped_in_sum = true);
    assert_eq!(
        caller.post("returns", &refund(json!(1))).await.message(),
        "Original Amount exceeded"
    );
    upstream.change_rules(|rules| {
        rules.returns_capped_in_sum = false;
        rules.token_lifetime_s = 10_000_000_000;
    });
    caller.log_in().await;
    upstream.advance(Duration::from_hours(4344));
    let old = caller.post("returns", &refund(json!(1))).await;
    assert_eq!(
        old.message(),
        "You can't return a sale run more than 180 days ago"
    );
}
