//! Routes, limits, refusals and traps.

use std::time::Duration;

use serde_json::{Value, json};

use crate::simulators::connexpay::{
    DEVICE_EUR, DEVICE_USD, DeclineForm, Envelope, MERCHANT_USD, SequenceRule, verb,
};
use crate::simulators::tests::{Caller, Heard, another, ready, sale};
use crate::simulators::{Fault, Kind};

fn without(mut body: Value, path: &str) -> Value {
    let (parent, name) = path.rsplit_once('/').expect("a path");
    let parent = if parent.is_empty() {
        Some(&mut body)
    } else {
        body.pointer_mut(parent)
    };
    parent
        .and_then(Value::as_object_mut)
        .expect("an object")
        .remove(name);
    body
}

fn with(mut body: Value, path: &str, value: Value) -> Value {
    *body.pointer_mut(path).expect("a field") = value;
    body
}

fn guid(heard: &Heard) -> String {
    heard.json()["guid"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", heard.body))
        .to_owned()
}

async fn authorized(caller: &mut Caller, amount: &str, sequence_number: &str) -> String {
    guid(
        &caller
            .post("AuthOnlys", &sale(amount, sequence_number))
            .await,
    )
}

#[tokio::test]
async fn a_sale_is_answered_in_the_form_of_the_samples() {
    let (_simulators, mut caller) = ready().await;
    let heard = caller.post("sales", &sale("1500.00", "gw7f3a0001")).await;
    let json = heard.json();
    assert_eq!(heard.status, 200);
    for (field, value) in [
        ("status", json!("Transaction - Approved")),
        ("batchStatus", json!("Batch - Open")),
        ("amount", json!(1500)),
        ("effectiveAmount", json!(1500)),
        ("processorStatusCode", json!("A0000")),
        ("processorResponseMessage", json!("Success")),
        ("wasProcessed", json!(true)),
        ("sequenceNumber", json!("gw7f3a0001")),
        ("invoiceNumber", json!("gw7f3a0001")),
        ("riskProcessingOnly", json!(false)),
    ] {
        assert_eq!(json[field], value, "{field}");
    }
    assert_eq!(json["card"]["cardType"], "Visa");
    assert_eq!(json["card"]["expirationDate"], "2039-12");
    assert_eq!(json["riskResponse"]["response"], "Approved");
    let token = json["card"]["cardNumber"].as_str().expect("a token");
    assert!(token.len() == 16 && token.ends_with("5439"), "{token}");

    let by_token = with(
        without(sale("2.50", "T2"), "/Card/ExpirationDate"),
        "/Card/CardNumber",
        token.into(),
    );
    let heard = caller.post("sales", &without(by_token, "/Card/Cvv2")).await;
    assert_eq!(
        (heard.status, &heard.json()["amount"]),
        (200, &json!(2.5)),
        "{}",
        heard.body
    );
    assert_eq!(heard.json()["card"]["last4"], "5439");

    let read = caller
        .get(&format!("SALES/{}", guid(&heard).to_uppercase()))
        .await;
    assert_eq!(
        (read.status, &read.json()["sequenceNumber"]),
        (200, &json!("T2")),
        "paths in any case"
    );
}

#[tokio::test]
async fn every_refusal_has_its_documented_text_and_leaves_the_books_alone() {
    let (simulators, mut caller) = ready().await;
    let good = || sale("10", "A1");
    let model = "The request is invalid.";
    for (body, status, message) in [
        (without(good(), "/DeviceGuid"), 400, model),
        (
            with(
                good(),
                "/DeviceGuid",
                "11111111-0000-0000-0000-000000000000".into(),
            ),
            422,
            "Invalid Device GUID",
        ),
        (without(good(), "/Amount"), 400, model),
        (
            with(good(), "/Amount", json!(0)),
            422,
            "The Sale amount must be greater than zero",
        ),
        (
            with(good(), "/Amount", json!(-1)),
            422,
            "The Sale amount must be greater than zero",
        ),
        (
            with(good(), "/Amount", json!(0.49)),
            422,
            "The field Amount must be between 0.5 and 999999.99.",
        ),
        (
            with(good(), "/Amount", json!(1_000_000)),
            422,
            "The field Amount must be between 0.5 and 999999.99.",
        ),
        (
            with(good(), "/Amount", json!(1.005)),
            400,
            "Unable to decode the Model",
        ),
        (without(good(), "/Card"), 400, model),
        (
            without(good(), "/Card/CardNumber"),
            422,
            "Card number, track1data or track2data missing",
        ),
        (
            without(good(), "/Card/ExpirationDate"),
            422,
            "Expiration date is required if the Card number is being sent. B.CB.GS01",
        ),
        (
            with(good(), "/Card/CardNumber", "abcdefghijkl5439".into()),
            422,
            "There is no card match for the given Token. B.VB.C01",
        ),
        (
            with(good(), "/Card/ExpirationDate", "1213".into()),
            400,
            model,
        ),
        (with(good(), "/Card/Cvv2", "12".into()), 400, model),
        (
            with(good(), "/Card/Customer/FirstName", "Jané".into()),
            400,
            model,
        ),
        (without(good(), "/RiskData/ProductItem"), 400, model),
        (
            without(good(), "/ConnexPayTransaction/ExpectedPayments"),
            400,
            model,
        ),
        (
            with(good(), "/SequenceNumber", "not-a-number".into()),
            400,
            model,
        ),
        (
            with(good(), "/OrderNumber", "x".repeat(51).into()),
            400,
            model,
        ),
        (json!([1]), 400, "Unable to decode the Model"),
    ] {
        let heard = caller.post("sales", &body).await;
        assert_eq!(
            (heard.status, heard.message().as_str()),
            (status, message),
            "{body}"
        );
        assert!(heard.json().get("errorId").is_some());
    }
    assert!(simulators.connexpay().books().entries.is_empty());
}

#[tokio::test]
async fn issuers_decline_with_a_code_in_either_form_and_it_is_recorded() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let declined = [
        (with(sale("10", "D1"), "/Card/Cvv2", "111".into()), "D2020"),
        (
            with(
                sale("10", "D2"),
                "/Card/CardNumber",
                "4012000098765438".into(),
            ),
            "D2024",
        ),
        (
            with(sale("10", "D3"), "/Card/ExpirationDate", "2001".into()),
            "D2011",
        ),
        (sale("6600.01", "D4"), "D2026"),
    ];
    for (body, code) in &declined {
        let heard = caller.post("sales", body).await;
        assert_eq!(heard.status, 422);
        assert!(
            heard.message().starts_with(&format!("Error code {code}. ")),
            "{}",
            heard.body
        );
    }
    upstream.change_rules(|rules| rules.decline_form = DeclineForm::Success);
    let heard = caller.post("sales", &declined[0].0).await;
    assert_eq!(
        (heard.status, &heard.json()["status"]),
        (200, &json!("Transaction - Declined"))
    );
    assert_eq!(
        (
            &heard.json()["processorStatusCode"],
            &heard.json()["effectiveAmount"]
        ),
        (&json!("D2020"), &json!(0))
    );
    let mut risky = sale("10", "R1");
    risky["Card"]["Customer"]["Email"] = "decline@connexpay.com".into();
    let heard = caller.post("sales", &risky).await;
    assert_eq!(
        (heard.status, &heard.json()["riskResponse"]["response"]),
        (200, &json!("Declined"))
    );
    let books = upstream.books();
    assert_eq!(
        (
            books.net(),
            books.position("D1").declines,
            books.position("R1").declines
        ),
        (0, 2, 1)
    );
}

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
    simulators.connexpay().settle().expect("settled");
    let late = caller
        .post("void", &void(json!({"SaleGuid": settled})))
        .await;
    assert_eq!(late.message(), "Transaction already settled");
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

#[tokio::test]
async fn tokens_expire_and_the_newest_may_kill_the_others() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let wrong = "grant_type=password&username=apiuser&password=no%20way";
    let heard = caller
        .call("POST", "/connexpay/api/v1/token", wrong)
        .await
        .expect("an answer");
    assert_eq!(heard.status, 400);
    upstream.advance(Duration::from_hours(24));
    let heard = caller.get("devices").await;
    assert_eq!(
        (heard.status, heard.message().as_str()),
        (401, "Authorization has been denied for this request.")
    );
    upstream.change_rules(|rules| {
        rules.single_token = true;
        rules.token_expires_in_s = Some(5);
    });
    caller.log_in().await;
    let mut other = another(&simulators, "").await;
    assert_eq!(caller.get("UserRoles/Users/myself").await.status, 401);
    assert_eq!(
        other.get("UserRoles/Users/myself").await.json()["userName"],
        "apiuser"
    );
    upstream.revoke_tokens().expect("revoked");
    assert_eq!(other.get("devices").await.status, 401);
    upstream
        .set_fault(Fault::on(Kind::Http500, verb::TOKEN))
        .await
        .expect("in force");
    let form = "grant_type=password&username=apiuser&password=sandbox";
    let down = caller
        .call("POST", "/connexpay/api/v1/token", form)
        .await
        .expect("an answer");
    assert_eq!(down.status, 500);
    assert_eq!(upstream.request_count_of(verb::TOKEN), 5);
}

#[tokio::test]
async fn duplicate_rules_are_played_as_switched() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream.change_rules(|rules| rules.duplicate_window_s = 60);
    assert_eq!(caller.post("sales", &sale("10", "A1")).await.status, 200);
    let heard = caller.post("sales", &sale("10", "A2")).await;
    assert!(heard.message().contains("D0008"), "{}", heard.body);
    upstream.advance(Duration::from_secs(61));
    assert_eq!(caller.post("sales", &sale("10", "A3")).await.status, 200);

    upstream.change_rules(|rules| {
        rules.duplicate_window_s = 0;
        rules.sequence = SequenceRule::Unique;
    });
    assert!(
        caller
            .post("sales", &sale("10", "A3"))
            .await
            .message()
            .contains("D0001")
    );
    upstream.change_rules(|rules| rules.sequence = SequenceRule::Replay);
    let first = guid(&caller.post("sales", &sale("10", "B1")).await);
    assert_eq!(
        guid(&caller.post("sales", &sale("10", "B1")).await),
        first,
        "the first result again"
    );
    assert!(
        caller
            .post("sales", &sale("11", "B1"))
            .await
            .message()
            .contains("D0001"),
        "other data"
    );
    assert_eq!(upstream.books().position("B1").sales, 1);
    upstream.settle().expect("settled");
    let refund =
        json!({"DeviceGuid": DEVICE_USD, "SaleGuid": first, "Amount": 2, "SequenceNumber": "R1"});
    assert_eq!(caller.post("returns", &refund).await.status, 200);
    let repeat = caller.post("returns", &refund).await;
    assert!(
        repeat.message().contains("D0001"),
        "not run again: {}",
        repeat.body
    );
    assert_eq!(upstream.books().position("B1").returns, 1);
    upstream.advance(Duration::from_mins(31));
    assert_ne!(guid(&caller.post("sales", &sale("10", "B1")).await), first);
}

#[tokio::test]
async fn searches_are_shallow_ignore_unknown_filters_and_find_by_order_number() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let search = |filter: &str, value: &str| json!({"merchantGuid": MERCHANT_USD, filter: value});
    assert_eq!(
        caller
            .post("Search/Sales/false", &search("OrderNumber", "A1"))
            .await
            .status,
        204
    );
    let first = guid(&caller.post("sales", &sale("10", "A1")).await);
    caller.post("sales", &sale("20", "A2")).await;
    let hit = caller
        .post("Search/Sales/false", &search("OrderNumber", "A1"))
        .await
        .json();
    assert_eq!(
        (&hit["count"], &hit["ret"][0]["guid"]),
        (&json!(1), &json!(first))
    );
    assert!(
        hit["ret"][0].get("sequenceNumber").is_none()
            && hit["ret"][0]["card"].get("cardNumber").is_none()
    );
    let trap = caller
        .post("search/sales/FALSE", &search("SequenceNumber", "A1"))
        .await
        .json();
    assert_eq!(trap["count"], 2, "an unknown filter is ignored");
    let page = caller
        .post("Search/Sales/false/2/1", &search("guid", "x"))
        .await
        .json();
    assert_eq!(
        (&page["count"], &page["ret"][0]["amount"]),
        (&json!(1), &json!(20))
    );
    let from = caller
        .post(
            "Search/Sales/false",
            &json!({"MerchantGuid": MERCHANT_USD, "AmountFrom": 15}),
        )
        .await;
    assert_eq!(from.json()["count"], 1);
    assert_eq!(
        caller.post("Search/Sales/false", &json!({})).await.status,
        400
    );
    let export = caller.post("Search/Sales/true", &search("x", "x")).await;
    assert!(
        export.body.starts_with("Status,Amount,TimeStamp\n"),
        "{}",
        export.body
    );

    caller
        .post(
            "void",
            &json!({"DeviceGuid": DEVICE_USD, "SaleGuid": first}),
        )
        .await;
    let voids = caller
        .post("Search/Voids/false", &search("x", "x"))
        .await
        .json();
    assert!(voids["ret"][0]["sale"].get("guid").is_none(), "{voids}");
    let auth = authorized(&mut caller, "30", "H1").await;
    caller
        .post(
            "Captures",
            &json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth}),
        )
        .await;
    let captures = caller
        .post("Search/Captures/false", &search("x", "x"))
        .await
        .json();
    assert_eq!(
        captures["ret"][0]["authOnly"]["guid"],
        uuid::Uuid::nil().to_string()
    );
    let auths = caller
        .post("Search/AuthOnlys/false", &search("OrderNumber", "H1"))
        .await
        .json();
    assert!(
        auths["ret"][0]["relatedCapture"]["guid"].is_string(),
        "{auths}"
    );

    upstream.change_rules(|rules| {
        rules.search_lag_ms = 60_000;
        rules.search_envelope = Envelope::Pages;
    });
    assert_eq!(
        caller
            .post("Search/Sales/false", &search("OrderNumber", "A2"))
            .await
            .status,
        204,
        "not indexed yet"
    );
    upstream.advance(Duration::from_secs(61));
    let pages = caller
        .post("Search/Sales/false", &search("OrderNumber", "A2"))
        .await
        .json();
    assert_eq!(
        (
            &pages["totalResults"],
            &pages["searchResultDTO"][0]["amount"]
        ),
        (&json!(1), &json!(20))
    );
}

#[tokio::test]
async fn batches_close_on_request_and_by_themselves() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let device = json!({"DeviceGuid": DEVICE_USD});
    assert_eq!(
        caller.post("Batches/close", &device).await.message(),
        "No open batch"
    );
    let sold = caller.post("sales", &sale("10", "A1")).await.json();
    let batch = sold["batchGuid"].as_str().expect("an id").to_owned();
    let closed = caller.post("Batches/close", &device).await.json();
    assert_eq!(
        (&closed["guid"], &closed["status"]),
        (&json!(batch), &json!("PASS"))
    );
    assert_eq!(
        closed["batchInfo"],
        json!({"siccode":"5999","saleCount":1,"saleAmount":10,"returnCount":0,"returnAmount":0})
    );
    let read = caller
        .get(&format!("sales/{}", sold["guid"].as_str().expect("an id")))
        .await
        .json();
    assert_eq!(read["batchStatus"], "Batch - Closed");
    let rows = caller
        .get(&format!("Batches/{batch}/Transactions/"))
        .await
        .json();
    assert_eq!(
        (&rows[0]["transactionGuid"], &rows[0]["lastFour"]),
        (&sold["guid"], &json!("5439"))
    );
    let wide = json!({"deviceGuid": DEVICE_USD, "startDate": "1/1/1900", "endDate": "2999-01-01"});
    let found = caller.post("Batches/search", &wide).await.json();
    assert_eq!(
        (&found["count"], &found["ret"][0]["batchTotalAmount"]),
        (&json!(1), &json!(10))
    );
    assert!(
        found["ret"][0]["transactions"][0]
            .get("transactionGuid")
            .is_none()
    );

    upstream.change_rules(|rules| rules.batch_close_after_s = Some(3600));
    let sold = guid(&caller.post("sales", &sale("11", "A2")).await);
    upstream.advance(Duration::from_secs(3601));
    let void = caller
        .post("void", &json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sold}))
        .await;
    assert_eq!(void.message(), "Transaction already settled");
}

#[tokio::test]
async fn verification_and_the_other_reads() {
    let (simulators, mut caller) = ready().await;
    let verify = without(sale("10", "V1"), "/Amount");
    let heard = caller.post("Verify", &verify).await;
    assert_eq!(
        (heard.status, &heard.json()["processorStatusCode"]),
        (201, &json!("A0000")),
        "{}",
        heard.body
    );
    assert!(heard.json().get("amount").is_none());
    assert_eq!(
        caller.get(&format!("Verify/{}", guid(&heard))).await.status,
        200
    );
    assert_eq!(simulators.connexpay().books().net(), 0);
    assert_eq!(
        caller.get("devices").await.json()["ret"][0]["guid"],
        DEVICE_USD
    );
    assert_eq!(caller.get("sales").await.status, 204);
    let missing = caller.get(&format!("sales/{}", uuid::Uuid::nil())).await;
    assert_eq!(
        (missing.status, missing.message().as_str()),
        (404, "No Sale could be found for the given Id")
    );
    let nowhere = caller.get("nowhere").await;
    assert!(nowhere.status == 404 && nowhere.message().starts_with("No HTTP resource"));
    let risk_only = with(sale("10", "R1"), "/RiskProcessingOnly", true.into());
    let heard = caller.post("sales", &risk_only).await;
    assert_eq!(heard.json()["processorStatusCode"], "ARP00");
    assert_eq!(
        simulators.connexpay().books().net(),
        0,
        "a risk check is no payment"
    );
}

#[tokio::test]
async fn rules_change_one_by_one_through_the_control_api() {
    let (simulators, _caller) = ready().await;
    let mut control = Caller::connect(simulators.control_address())
        .await
        .expect("a connection");
    let put = |body: &'static str| ("PUT", "/_sandbox/connexpay/rules", body);
    let (method, path, body) = put(r#"{"sequence":"unique","search_lag_ms":5}"#);
    assert_eq!(
        control
            .call(method, path, body)
            .await
            .expect("an answer")
            .status,
        200
    );
    let rules = simulators.connexpay().rules();
    assert_eq!(
        (rules.sequence, rules.search_lag_ms, rules.username.as_str()),
        (SequenceRule::Unique, 5, "apiuser")
    );
    let (method, path, body) = put(r#"{"sequense":"unique"}"#);
    assert_eq!(
        control
            .call(method, path, body)
            .await
            .expect("an answer")
            .status,
        400
    );
}
