//! Creation: its form, limits and refusals, tokens, duplicates.

use std::time::Duration;

use serde_json::json;

use super::{guid, with, without};
use crate::simulators::connexpay::{DEVICE_USD, DeclineForm, SequenceRule, verb};
use crate::simulators::tests::{Caller, another, ready, sale};
use crate::simulators::{Fault, Kind};

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
