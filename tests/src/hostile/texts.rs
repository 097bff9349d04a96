//! Keys, ids, amounts, instants and the other small texts: what is read comes back the same from its own writing.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use gateway_core::card::{CardToken, Cvv, Expiry, Pan, StoredCard};
use gateway_core::clock::Timestamp;
use gateway_core::echo::{hides_name, pointer_to, shown_name};
use gateway_core::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    StatementDescriptor, UpstreamReference,
};
use gateway_core::money::{Currency, Money};
use gateway_core::pan_scan::{contains_pan, redact, spaced_numbers};
use gateway_http::config::span;

/// One text, as everything that is read from a single text.
pub(super) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    idempotency_key(text);
    same_again::<OrderReference>(text);
    same_again::<StatementDescriptor>(text);
    same_again::<AccountName>(text);
    same_again::<Client>(text);
    same_again::<UpstreamReference>(text);
    same_again::<OperationId>(text);
    same_again::<PaymentId>(text);
    same_again::<ReplicaId>(text);
    if let Ok(order) = OrderReference::parse(text) {
        assert_eq!(order.as_str(), text);
        assert!(!contains_pan(text));
    }
    instant(text);
    span_of_time(text);
    amounts(text);
    card(text);
    scanned(text);
}

fn same_again<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(read) = text.parse::<T>() {
        let again = read.to_string().parse::<T>();
        assert_eq!(again.expect("its own writing"), read);
    }
}

fn idempotency_key(text: &str) {
    let Ok(key) = IdempotencyKey::parse(text) else {
        return;
    };
    assert_eq!(IdempotencyKey::parse(key.as_str()), Ok(key.clone()));
    assert!(key.as_str().len() <= 2 * IdempotencyKey::CHARACTERS_MAX + 2);
    assert!(key.as_str().bytes().all(|b| matches!(b, 0x20..=0x7e)));
    assert!(!contains_pan(key.as_str()));
    if !key.as_str().starts_with('"') {
        // Bare and quoted are one key.
        let quoted = format!("\"{}\"", key.as_str().replace('\\', "\\\\"));
        assert_eq!(IdempotencyKey::parse(&quoted), Ok(key));
    }
}

fn instant(text: &str) {
    let Ok(read) = Timestamp::parse(text) else {
        return;
    };
    let stored = serde_json::to_value(read).expect("a text");
    assert_eq!(Timestamp::parse(stored.as_str().expect("a text")), Ok(read));
    let shown = Timestamp::parse(&read.rfc3339()).expect("its own writing");
    assert!(shown <= read && read.since(shown).as_micros() < 1_000);
    assert_eq!(Timestamp::from_micros(read.micros()), read);
}

fn span_of_time(text: &str) {
    if let Ok(read) = span::parse(text) {
        assert_eq!(span::parse(&span::show(read)), Ok(read));
        // Two of them are added, and times four is the most that is asked of one.
        assert!(read.checked_mul(8).is_some());
    }
}

fn amounts(text: &str) {
    if let Ok(currency) = Currency::parse(text) {
        assert_eq!(currency.code(), text);
        assert!(currency.exponent() <= 4);
    }
    for code in ["USD", "JPY", "BHD"] {
        let currency = Currency::parse(code).expect("a currency");
        let Ok(read) = Money::parse_major(text, currency) else {
            continue;
        };
        assert!(read.minor() >= 0);
        let written = read.to_major_string();
        let again = Money::parse_major(&written, currency);
        assert_eq!(again.expect("its own writing"), read);
    }
}

fn card(text: &str) {
    if let Ok(pan) = Pan::parse(text) {
        assert_eq!(pan.expose(), text);
        assert!(!format!("{pan:?} {}", pan.brand()).contains(pan.last_four()));
        assert!(!redact(text).contains(text));
        // Of a length and a beginning that no scheme has it may be a token.
        assert!(!contains_pan(text) || CardToken::parse(text).is_err());
    }
    if let Ok(code) = Cvv::parse(text) {
        assert!(!format!("{code:?}").contains(text));
    }
    if let Ok(token) = CardToken::parse(text) {
        assert_eq!(token.as_str(), text);
        assert!(!contains_pan(text));
    }
    if let Ok(expiry) = Expiry::parse(text) {
        let (year, month) = (expiry.year(), expiry.month());
        assert_eq!(Expiry::new(year, month), Ok(expiry));
        assert_eq!(expiry.yymm().len(), 4);
        expiry.is_past(Timestamp::MIN);
        assert!(expiry.is_past(Timestamp::MAX));
    }
    let stored = StoredCard::from_answer(Some(text), Some(text), Some(text), None);
    let stored = serde_json::to_value(stored).expect("stored");
    assert!(!gateway_core::pan_scan::json_contains_pan(&stored));
}

fn scanned(text: &str) {
    let cleaned = redact(text);
    assert!(!contains_pan(&cleaned), "left in {cleaned:?}");
    assert_eq!(redact(&cleaned), cleaned);
    for number in spaced_numbers(text.char_indices()) {
        assert!(number.start() <= number.end() && number.end() < text.len());
    }
    let shown = shown_name(text);
    assert!(shown == text || shown == "*");
    assert_eq!(hides_name(&pointer_to("/risk", text)), shown != text);
}
