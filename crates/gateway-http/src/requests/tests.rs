//! Every field of every request: what it takes, and by which pointer it is refused.

use gateway_core::card::{Cvv, Sensitive};
use gateway_core::idempotency::FingerprintKeys;
use secrecy::SecretString;
use serde_json::json;

use super::*;

fn full() -> Value {
    json!({
        "account": "acme-us", "amount": {"value": 150_000, "currency": "USD"}, "capture": "automatic",
        "order_reference": "857B2", "statement_descriptor": "Agent Booking 123", "once_per_order": true,
        "card": {"number": "4012000098765439", "expiry_month": 12, "expiry_year": 2030, "cvv": "999", "holder": "Jane Doe"},
        "customer": {"first_name": "Jane", "last_name": "Doe", "email": "jane@example.com", "phone": "+1 415 2345678",
                     "address": {"line1": "107 7th Av.", "line2": "4", "city": "New York", "state": "NY",
                                 "postal_code": "10007", "country": "US"}},
        "risk": {"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"},
        "upstream": {"expected_payments": 9}, "metadata": {"cart": "c-91"}
    })
}

/// `full` with one place set; a place set to null is removed.
fn with(pointer: &str, value: &Value) -> Value {
    let mut body = full();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .expect("an object");
    if value.is_null() {
        parent.remove(name);
    } else {
        parent.insert(name.to_owned(), value.clone());
    }
    body
}

fn parse(body: &Value) -> Result<CreatePayment, Vec<(String, String)>> {
    CreatePayment::parse(body.to_string().as_bytes()).map_err(|Faulty { problem, .. }| {
        let pair = |fault: &Fault| (fault.pointer.clone(), fault.code.to_string());
        problem.errors().iter().map(pair).collect()
    })
}

fn digest(request: &CreatePayment) -> [u8; 32] {
    let key =
        SecretString::from("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let keys = FingerprintKeys::parse(&key, &[]).expect("a key");
    request.canonical_form().fingerprint(&keys).digest
}

#[test]
fn the_documented_request_is_understood() {
    let request = parse(&full()).expect("valid");
    assert_eq!(request.verb, Verb::Sale);
    assert_eq!(request.account.as_str(), "acme-us");
    assert_eq!(
        (request.amount.minor(), request.amount.currency().code()),
        (150_000, "USD")
    );
    assert_eq!(
        request.order_reference.as_ref().map(OrderReference::as_str),
        Some("857B2")
    );
    assert!(request.once_per_order);
    let CardSource::Pan {
        number,
        cvv,
        expiry,
        holder,
    } = &request.payer.card
    else {
        panic!("a number")
    };
    assert_eq!(number.last_four(), "5439");
    assert_eq!(cvv.as_ref().map(Cvv::expose), Some("999"));
    assert_eq!(expiry.to_string(), "2030-12");
    assert_eq!(holder.as_ref().map(Sensitive::expose), Some("Jane Doe"));
    let customer = request.payer.customer.as_ref().expect("a customer");
    assert_eq!(
        customer.postal_code.as_ref().map(Sensitive::expose),
        Some("10007")
    );
    assert_eq!(request.payer.risk["product_type"], "Flight");
    assert_eq!(request.payer.upstream["expected_payments"], 9);
    assert_eq!(
        request.metadata.as_ref().map(|map| map["cart"].clone()),
        Some("c-91".into())
    );
    assert_eq!(
        parse(&with("/capture", &"manual".into()))
            .expect("valid")
            .verb,
        Verb::Authorize
    );
}

#[test]
fn the_least_request_is_enough() {
    let body = json!({"account": "acme-us", "amount": {"value": 1, "currency": "JPY"},
                      "card": {"token": "nr959X7eCIXI0473"}});
    let request = parse(&body).expect("valid");
    assert!(matches!(
        request.payer.card,
        CardSource::Token { expiry: None, .. }
    ));
    assert!(
        !request.once_per_order && request.metadata.is_none() && request.order_reference.is_none()
    );
}

#[test]
fn every_bad_value_is_named_by_its_pointer() {
    let long = "x".repeat(51);
    let cases = [
        ("/account", json!(null), "required"),
        ("/account", json!(""), "empty"),
        ("/account", json!("ACME"), "character"),
        ("/account", json!(7), "type"),
        ("/amount", json!(null), "required"),
        ("/amount", json!(100), "type"),
        ("/amount/value", json!(null), "required"),
        ("/amount/value", json!(0), "out-of-range"),
        ("/amount/value", json!(-1), "out-of-range"),
        ("/amount/value", json!(1.5), "not-an-integer"),
        ("/amount/value", json!("100"), "type"),
        ("/amount/value", json!(AMOUNT_MAX + 1), "out-of-range"),
        ("/amount/value", json!(u64::MAX), "out-of-range"),
        ("/amount/value", json!(1e300), "out-of-range"),
        ("/amount/currency", json!("XYZ"), "currency"),
        ("/amount/currency", json!("usd"), "currency"),
        ("/amount/currency", json!("XXX"), "currency"),
        ("/capture", json!("later"), "not-a-choice"),
        ("/order_reference", json!(long), "too-long"),
        ("/order_reference", json!("a\u{0}b"), "character"),
        ("/order_reference", json!(" 857B2"), "outer-space"),
        (
            "/order_reference",
            json!("4012 0000 9876 5439"),
            "card-number",
        ),
        ("/statement_descriptor", json!("x".repeat(26)), "too-long"),
        (
            "/statement_descriptor",
            json!("4012000098765439"),
            "card-number",
        ),
        ("/once_per_order", json!("yes"), "type"),
        ("/card", json!(null), "required"),
        ("/card/number", json!(4_012_000_098_765_439_i64), "type"),
        ("/card/number", json!("4012000098765438"), "check-digit"),
        ("/card/number", json!("4012-0000-9876-5439"), "form"),
        ("/card/number", json!("42"), "length"),
        ("/card/expiry_month", json!(13), "out-of-range"),
        ("/card/expiry_month", json!(null), "required"),
        ("/card/expiry_year", json!(30), "out-of-range"),
        ("/card/cvv", json!("12"), "form"),
        ("/card/cvv", json!(999), "type"),
        ("/card/holder", json!(""), "empty"),
        ("/customer/email", json!("jane"), "form"),
        ("/customer/middle_name", json!("X"), "unknown-field"),
        ("/customer/address/country", json!("usa"), "form"),
        (
            "/customer/address/line1",
            json!("a\nb"),
            "control-character",
        ),
        ("/risk", json!([]), "type"),
        ("/upstream", json!("x"), "type"),
        ("/metadata", json!([]), "type"),
        ("/metadata/cart", json!(7), "type"),
        (
            "/metadata/cart",
            json!("card 4012000098765439"),
            "card-number",
        ),
        ("/metadata/cart", json!("a\u{0}"), "control-character"),
        ("/idempotency_key", json!("k"), "unknown-field"),
    ];
    for (pointer, value, code) in cases {
        let found = parse(&with(pointer, &value)).expect_err(pointer);
        assert_eq!(
            found,
            [(pointer.to_owned(), code.to_owned())],
            "{pointer} = {value}"
        );
    }
}

#[test]
fn explicit_nulls_and_duplicates_are_refused() {
    let body = full().to_string();
    let null = body.replace(r#""capture":"automatic""#, r#""capture":null"#);
    let problem = CreatePayment::parse(null.as_bytes())
        .expect_err("null")
        .problem;
    assert_eq!(
        (
            problem.errors()[0].pointer.as_str(),
            problem.errors()[0].code.as_ref()
        ),
        ("/capture", "null")
    );
    let twice = body.replace(r#""value":150000"#, r#""value":150000,"value":1"#);
    let problem = CreatePayment::parse(twice.as_bytes())
        .expect_err("twice")
        .problem;
    assert_eq!(problem.errors()[0].pointer, "/amount/value");
    assert_eq!(problem.errors()[0].code, "duplicate-field");
}

#[test]
fn all_faults_come_at_once() {
    let body = json!({"amount": {"value": 0}, "card": {}, "surprise": 1, "once_per_order": true});
    let found = parse(&body).expect_err("faults");
    let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(
        pointers,
        [
            "/account",
            "/amount/value",
            "/amount/currency",
            "/order_reference",
            "/card",
            "/surprise"
        ]
    );
}

/// Whatever one fault does not touch can still be checked by account, processor and clock.
#[test]
fn what_has_no_fault_is_legible() {
    let legible = |pointer: &str, value: Value| {
        let body = with(pointer, &value).to_string();
        let refused = CreatePayment::parse(body.as_bytes()).expect_err(pointer);
        *refused.legible.expect("an object")
    };
    let late = Timestamp::parse("2031-01-02T00:00:00Z").expect("an instant");
    let whole = legible("/surprise", json!(1));
    let draft = whole.draft();
    assert_eq!(
        whole.account.as_ref().map(AccountName::as_str),
        Some("acme-us")
    );
    assert_eq!((draft.verb, draft.value), (Some(Verb::Sale), Some(150_000)));
    assert_eq!(draft.currency, Currency::parse("USD").ok());
    assert!(draft.customer.is_some() && whole.faults_at(late).len() == 1);
    assert_eq!(draft.risk.map(Map::len), Some(3));
    assert_eq!(draft.upstream.map(Map::len), Some(1));

    assert_eq!(legible("/capture", json!("later")).draft().verb, None);
    let draft = |legible: &Legible| (legible.draft().value, legible.draft().currency);
    let no_value = legible("/amount/value", json!(0));
    assert_eq!(draft(&no_value), (None, Currency::parse("USD").ok()));
    let no_currency = legible("/amount/currency", json!("XYZ"));
    assert_eq!(draft(&no_currency), (Some(150_000), None));
    let no_number = legible("/card/number", json!("1"));
    assert_eq!(no_number.faults_at(late).len(), 1);
    let no_month = legible("/card/expiry_month", json!(13));
    assert!(no_month.faults_at(late).is_empty());
    assert!(legible("/risk", json!([])).draft().risk.is_none());
    assert!(
        CreatePayment::parse(b"[]")
            .expect_err("a list")
            .legible
            .is_none()
    );
}

#[test]
fn a_card_is_a_number_or_a_token() {
    let card = |card: Value| parse(&with("/card", &card)).map(|_| ());
    let fault = |pointer: &str, code: &str| Err(vec![(pointer.to_owned(), code.to_owned())]);
    assert_eq!(
        card(json!({"number": "4012000098765439", "token": "t"})),
        fault("/card", "conflict")
    );
    assert_eq!(card(json!({"cvv": "999"})), fault("/card", "required"));
    assert_eq!(
        card(json!({"token": "t", "expiry_month": 1})),
        fault("/card/expiry_year", "required")
    );
    assert_eq!(
        card(json!({"token": "4012000098765439"})),
        fault("/card/token", "card-number")
    );
    assert_eq!(
        card(json!({"token": "t", "holder": "Jane"})),
        fault("/card/holder", "unknown-field")
    );
    assert_eq!(
        card(json!({"token": "t", "expiry_month": 1, "expiry_year": 2031, "cvv": "1234"})),
        Ok(())
    );
}

#[test]
fn metadata_is_small_and_free_of_card_numbers() {
    let metadata =
        |metadata: Value| parse(&with("/metadata", &metadata)).map(|request| request.metadata);
    assert!(metadata(json!({"k": "x".repeat(4095)})).is_ok());
    let refused = metadata(json!({"k": "x".repeat(4096)})).expect_err("too long");
    assert_eq!(refused, [("/metadata".to_owned(), "too-long".to_owned())]);
    let many: Map<_, _> = (0..65)
        .map(|n| (format!("k{n}"), Value::from("v")))
        .collect();
    assert!(metadata(many.into()).is_err());
    let named = metadata(json!({"4012000098765439": "x"})).expect_err("a card number as name");
    assert_eq!(
        named,
        [("/metadata/*".to_owned(), "card-number".to_owned())]
    );
    assert_eq!(metadata(json!({})), Ok(None), "empty is absent");
}

#[test]
fn no_fault_repeats_a_value() {
    let bodies = [
        with("/order_reference", &"4012000098765439".into()),
        with("/card/number", &"40120000987654399".into()),
        with("/amount/value", &"4012000098765439".into()),
        with("/4012000098765439", &"x".into()),
        with("/card/4012", &"x".into()),
        with("/metadata/4012", &4012.into()),
        with(
            "/metadata",
            &json!({"4012 0000 9876 5439": "4012000098765439"}),
        ),
        with("/capture", &"4012000098765439".into()),
    ];
    for body in bodies {
        let refused = CreatePayment::parse(body.to_string().as_bytes()).expect_err("refused");
        let text = String::from_utf8(refused.problem.to_bytes()).expect("UTF-8");
        assert!(!text.contains("4012"), "{text}");
    }
}

#[test]
fn a_reserialised_retry_has_the_same_fingerprint() {
    let first = digest(&parse(&full()).expect("valid"));
    let reordered = r#"{"metadata":{"cart":"c-91"},"upstream":{"expected_payments":9},
        "risk":{"product_item":"784GTWJFK856","gender":"F","product_type":"Flight"},
        "customer":{"address":{"country":"US","postal_code":"10007","state":"NY","city":"New\u0020York","line2":"4","line1":"107 7th Av."},
            "phone":"+1 415 2345678","email":"jane@example.com","last_name":"Doe","first_name":"Jane"},
        "card":{"cvv":"111","holder":"Jane Doe","number":"4012000098765439","expiry_year":2030,"expiry_month":12},
        "once_per_order":true,"statement_descriptor":"Agent Booking 123","order_reference":"857B2",
        "amount":{"currency":"USD","value":150000},"account":"acme-us"}"#;
    let retry = CreatePayment::parse(reordered.as_bytes()).expect("valid");
    assert_eq!(
        digest(&retry),
        first,
        "other order, other CVV, default left out, escapes"
    );

    let without_defaults = with("/once_per_order", &json!(null));
    let with_defaults = with("/once_per_order", &json!(false));
    let digest_of = |body: &Value| digest(&parse(body).expect("valid"));
    assert_eq!(digest_of(&without_defaults), digest_of(&with_defaults));

    for (pointer, value) in [
        ("/account", json!("acme-eu")),
        ("/amount/value", json!(150_001)),
        ("/amount/currency", json!("EUR")),
        ("/capture", json!("manual")),
        ("/order_reference", json!("857B3")),
        ("/statement_descriptor", json!("Other")),
        ("/once_per_order", json!(false)),
        ("/card/number", json!("5499740000000057")),
        ("/card/expiry_month", json!(11)),
        ("/card/holder", json!("John Doe")),
        ("/customer/address/line2", json!("5")),
        ("/customer", json!(null)),
        ("/risk/gender", json!("M")),
        ("/upstream/expected_payments", json!(8)),
        ("/metadata/cart", json!("c-92")),
    ] {
        assert_ne!(digest_of(&with(pointer, &value)), first, "{pointer}");
    }
}

#[test]
fn expiry_is_asked_apart_from_the_form() {
    let request = parse(&full()).expect("valid");
    let at = |text: &str| request.faults_at(Timestamp::parse(text).expect("an instant"));
    assert!(at("2030-12-31T00:00:00Z").is_empty());
    assert_eq!(at("2031-01-02T00:00:00Z")[0].pointer, "/card/expiry_month");
}

#[test]
fn follow_ups_take_an_amount_and_voids_nothing() {
    let amount = AmountOnly::parse(br#"{"amount":{"value":300,"currency":"USD"}}"#).expect("valid");
    assert_eq!(amount.amount.minor(), 300);
    assert!(AmountOnly::parse(b"{}").is_err());
    assert!(Void::parse(b"{}").is_ok());
    assert!(Void::parse(br#"{"amount":{"value":300,"currency":"USD"}}"#).is_err());
    assert!(Void::parse(b"").is_err());
}

#[test]
fn a_cancellation_names_a_key_as_the_header_does() {
    let bare = Cancellation::parse(br#"{"idempotency_key":"k-1"}"#).expect("valid");
    let quoted = Cancellation::parse(br#"{"idempotency_key":"\"k-1\""}"#).expect("valid");
    assert_eq!(bare, quoted);
    for body in [
        r"{}",
        r#"{"idempotency_key":""}"#,
        r#"{"idempotency_key":"4012000098765439"}"#,
        r#"{"key":"k"}"#,
    ] {
        assert!(Cancellation::parse(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn a_verification_takes_a_card_and_no_amount() {
    let body =
        json!({"account": "acme-us", "card": {"token": "t"}, "customer": {"first_name": "Jane"}});
    assert!(Verification::parse(body.to_string().as_bytes()).is_ok());
    let with_amount = json!({"account": "acme-us", "card": {"token": "t"}, "amount": {"value": 1, "currency": "USD"}});
    assert!(Verification::parse(with_amount.to_string().as_bytes()).is_err());
}
