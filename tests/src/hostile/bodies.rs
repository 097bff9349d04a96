//! The bodies of requests: whatever is accepted means to us what it means to any other reader, and comes back the same.

use std::sync::LazyLock;

use gateway_core::clock::Timestamp;
use gateway_core::connector::{AlwaysOpen, Connector, Payer};
use gateway_core::draft::Draft;
use gateway_core::idempotency::{CanonicalForm, Comparison, FingerprintKeys};
use gateway_core::key::PaymentId;
use gateway_core::money::Money;
use gateway_core::operation::Verb;
use gateway_core::pan_scan::{contains_pan, json_contains_pan};
use gateway_http::problem::{ERROR_COUNT_MAX, Problem};
use gateway_http::requests::{AmountOnly, Cancellation, CreatePayment, Faulty, Verification, Void};
use gateway_http::schema::{
    CancellationBody, CreatePaymentBody, FollowUpBody, VerificationBody, VoidBody,
};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::processor::{NOW, Scripted, on_stage, subject};

static KEYS: LazyLock<FingerprintKeys> = LazyLock::new(|| {
    let secret = SecretString::from("5a".repeat(32));
    FingerprintKeys::parse(&secret, &[]).expect("32 bytes in hexadecimal")
});

/// The same bytes as the body of every route that takes one.
pub(super) fn request_bodies(data: &[u8]) {
    match CreatePayment::parse(data) {
        Ok(payment) => check_create(data, &payment),
        Err(faulty) => check_faulty(&faulty),
    }
    match Verification::parse(data) {
        Ok(verification) => check_verification(data, &verification),
        Err(faulty) => check_faulty(&faulty),
    }
    match AmountOnly::parse(data) {
        Ok(asked) => check_amount(data, asked),
        Err(problem) => check_problem(&problem),
    }
    match Void::parse(data) {
        Ok(_) => {
            let body = read_by_others::<VoidBody>(data);
            assert_eq!(body, serde_json::json!({}));
        }
        Err(problem) => check_problem(&problem),
    }
    match Cancellation::parse(data) {
        Ok(cancellation) => {
            let body = read_by_others::<CancellationBody>(data);
            assert!(body["idempotency_key"].is_string());
            assert!(!contains_pan(cancellation.key.as_str()));
            check_void_of_any(&body);
        }
        Err(problem) => check_problem(&problem),
    }
}

fn check_create(data: &[u8], payment: &CreatePayment) {
    let body = read_by_others::<CreatePaymentBody>(data);
    assert_eq!(body["account"], payment.account.as_str());
    check_money(&body, payment.amount);
    let is_manual = body["capture"] == "manual";
    let verb = if is_manual {
        Verb::Authorize
    } else {
        Verb::Sale
    };
    assert_eq!(payment.verb, verb);
    let order = payment.order_reference.as_ref();
    assert_eq!(body["order_reference"].as_str(), order.map(AsRef::as_ref));
    assert_eq!(
        payment.once_per_order,
        body["once_per_order"] == true && order.is_some()
    );
    let descriptor = payment.statement_descriptor.as_ref();
    for kept in [order.map(AsRef::as_ref), descriptor.map(AsRef::as_ref)] {
        assert!(!kept.is_some_and(contains_pan), "a card number is kept");
    }
    if let Some(metadata) = &payment.metadata {
        let kept = Value::Object(metadata.clone());
        assert_eq!(kept, body["metadata"]);
        assert!(!json_contains_pan(&kept), "a card number is kept");
        assert!(!kept.to_string().contains("\\u0000"), "no ledger keeps it");
    }
    payment.faults_at(now());
    same_when_written_again(&body, &payment.canonical_form(), |text| {
        let again = CreatePayment::parse(text).expect("accepted before");
        again.canonical_form()
    });
    check_sending(payment.verb, payment.amount, &payment.payer);
}

fn check_verification(data: &[u8], verification: &Verification) {
    let body = read_by_others::<VerificationBody>(data);
    assert_eq!(body["account"], verification.account.as_str());
    let order = verification.order_reference.as_ref();
    assert_eq!(body["order_reference"].as_str(), order.map(AsRef::as_ref));
    verification.faults_at(now());
    same_when_written_again(&body, &verification.canonical_form(), |text| {
        let again = Verification::parse(text).expect("accepted before");
        again.canonical_form()
    });
}

fn check_amount(data: &[u8], asked: AmountOnly) {
    let body = read_by_others::<FollowUpBody>(data);
    check_money(&body, asked.amount);
    let payment = PaymentId::generate(now(), [7; 10]);
    let form = |asked: AmountOnly| asked.canonical_form(Verb::Refund, payment);
    same_when_written_again(&body, &form(asked), |text| {
        form(AmountOnly::parse(text).expect("accepted before"))
    });
}

fn check_void_of_any(body: &Value) {
    let text = body.to_string();
    assert!(Void::parse(text.as_bytes()).is_err(), "a void with fields");
}

fn check_money(body: &Value, ours: Money) {
    assert_eq!(body["amount"]["value"].as_i64(), Some(ours.minor()));
    assert_eq!(body["amount"]["currency"], ours.currency().code());
    assert!(ours.minor() > 0);
}

/// A common reader takes it too, and so does the form that OpenAPI describes.
fn read_by_others<T: DeserializeOwned>(data: &[u8]) -> Value {
    let described: Result<T, _> = serde_json::from_slice(data);
    if let Err(error) = described {
        panic!("accepted, and not as described: {error}");
    }
    let body: Value = serde_json::from_slice(data).expect("accepted, and no JSON to others");
    // A field more, and it is refused.
    assert!(body.is_object());
    body
}

/// A retry whose client has written the same again is the same request.
fn same_when_written_again(
    body: &Value,
    form: &CanonicalForm,
    read: impl FnOnce(&[u8]) -> CanonicalForm,
) {
    if holds_fraction(body) {
        return; // Common readers round: it may be another number by now.
    }
    let again = read(body.to_string().as_bytes());
    let first = form.fingerprint(&KEYS);
    assert_eq!(first.compare(&again, &KEYS), Comparison::Same);
    let stored = gateway_core::idempotency::Fingerprint::from_bytes(&first.to_bytes());
    assert_eq!(stored.ok(), Some(first));
}

fn holds_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(holds_fraction),
        Value::Object(members) => members.values().any(holds_fraction),
        _ => false,
    }
}

/// What the connector takes it sends: one request of that amount, for that card.
fn check_sending(verb: Verb, amount: Money, payer: &Payer) {
    on_stage(|stage| {
        let draft = Draft::of_payer(verb, Some(amount), payer);
        if !stage.connector.check(&draft).is_empty() {
            return;
        }
        stage.wire.play(&[Scripted::Closed]);
        let mut subject = subject(verb, &[]);
        subject.amount = amount;
        stage.block_on(stage.connector.execute(&subject, Some(payer), &AlwaysOpen));
        let [sent] = stage.wire.exchanged().try_into().expect("one request");
        let text = std::str::from_utf8(&sent.body).expect("UTF-8");
        let body: Value = serde_json::from_str(text).expect("JSON");
        let amount = format!("\"Amount\":{}", amount.to_major_string());
        assert!(text.contains(&amount), "another amount is sent");
        let card = match &payer.card {
            gateway_core::card::CardSource::Pan { number, .. } => number.expose(),
            gateway_core::card::CardSource::Token { token, .. } => token.as_str(),
        };
        assert_eq!(body["Card"]["CardNumber"], card);
        assert!(text.is_ascii(), "this processor reads ASCII");
    });
}

fn check_faulty(faulty: &Faulty) {
    check_problem(&faulty.problem);
    if let Some(legible) = &faulty.legible {
        legible.faults_at(now());
        let found = on_stage(|stage| stage.connector.check(&legible.draft()));
        let faults = found.into_iter().map(gateway_http::problem::Fault::from);
        check_problem(&Problem::invalid(faults.collect()));
    }
}

/// A refusal repeats no value, names every fault by a pointer, and stays small.
fn check_problem(problem: &Problem) {
    let bytes = problem.to_bytes();
    let document: Value = serde_json::from_slice(&bytes).expect("a JSON document");
    assert!(!json_contains_pan(&document), "repeats a card number");
    assert!(matches!(problem.status().as_u16(), 400 | 422));
    assert!(problem.errors().len() <= ERROR_COUNT_MAX);
    for fault in problem.errors() {
        let pointer = fault.pointer.as_str();
        let is_header = pointer.starts_with("header:");
        assert!(pointer.is_empty() || pointer.starts_with('/') || is_header);
        assert!(fault.detail.len() <= 300, "{}", fault.detail);
    }
    assert!(bytes.len() <= 64 * 1024);
}

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW)
}
