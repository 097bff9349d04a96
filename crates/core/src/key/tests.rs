//! Names and identifiers: one value has one spelling, and no card number gets in.

use proptest::prelude::*;

use super::*;

const PAN: &str = "4012000098765439";

#[test]
fn a_key_is_the_same_bare_and_quoted() {
    for (bare, quoted) in [
        ("order-1", "\"order-1\""),
        ("a b", "\"a b\""),
        (r"back\slash", r#""back\\slash""#),
        (
            "550e8400-e29b-41d4-a716-446655440000",
            "\"550e8400-e29b-41d4-a716-446655440000\"",
        ),
        ("  order-1\t", "\"order-1\""),
    ] {
        assert_eq!(
            IdempotencyKey::parse(bare),
            IdempotencyKey::parse(quoted),
            "{bare}"
        );
        assert!(IdempotencyKey::parse(bare).is_ok(), "{bare}");
    }
    assert_ne!(
        IdempotencyKey::parse("\" order-1\""),
        IdempotencyKey::parse("order-1")
    );
    assert_ne!(
        IdempotencyKey::parse("Order-1"),
        IdempotencyKey::parse("order-1")
    );
}

#[test]
fn malformed_keys_are_refused_by_name() {
    let long = "x".repeat(256);
    let long_quoted = format!("\"{long}\"");
    for (text, error) in [
        ("", KeyError::Empty),
        ("   ", KeyError::Empty),
        ("\"\"", KeyError::Empty),
        ("\"", KeyError::LoneQuote),
        ("\"abc", KeyError::LoneQuote),
        ("abc\"", KeyError::LoneQuote),
        ("a\"b", KeyError::LoneQuote),
        ("\"abc\"\"", KeyError::LoneQuote),
        ("\"abc\";a=1", KeyError::LoneQuote),
        ("\"abc\", \"def\"", KeyError::LoneQuote),
        (r#""abc\""#, KeyError::LoneQuote),
        (r#""a\bc""#, KeyError::Escape),
        (r#""abc\"#, KeyError::Escape),
        ("é", KeyError::Character),
        ("a\u{7f}", KeyError::Character),
        ("a\nb", KeyError::Character),
        (&long, KeyError::TooLong { max: 255 }),
        (&long_quoted, KeyError::TooLong { max: 255 }),
        (PAN, KeyError::ContainsPan),
        ("\"order 4012 0000 9876 5439\"", KeyError::ContainsPan),
    ] {
        assert_eq!(IdempotencyKey::parse(text), Err(error), "{text}");
    }
    assert!(IdempotencyKey::parse(&long[1..]).is_ok());
    // The bound is on the key, not on how it is written: 255 quotes take 512 characters.
    let quotes = format!("\"{}\"", "\\\"".repeat(255));
    assert_eq!(
        IdempotencyKey::parse(&quotes)
            .expect("a key")
            .as_str()
            .len(),
        512
    );
}

#[test]
fn names_in_configuration_are_simple() {
    assert_eq!(
        Client::parse("acme.web_1-b").expect("a name").as_str(),
        "acme.web_1-b"
    );
    assert!(AccountName::parse(&"a".repeat(64)).is_ok());
    for (text, error) in [
        ("", KeyError::Empty),
        ("-acme", KeyError::FirstCharacter),
        (".acme", KeyError::FirstCharacter),
        ("Acme", KeyError::Character),
        ("acme us", KeyError::Character),
        ("acmé", KeyError::Character),
        (&"a".repeat(65), KeyError::TooLong { max: 64 }),
    ] {
        assert_eq!(Client::parse(text), Err(error), "{text}");
        assert_eq!(AccountName::parse(text), Err(error), "{text}");
    }
}

#[test]
fn order_references_that_look_alike_do_not_differ() {
    for accepted in ["857B2", "Ordre n° 12/7", "注文 12", &"é".repeat(50)] {
        assert_eq!(
            OrderReference::parse(accepted).expect(accepted).as_str(),
            accepted
        );
    }
    for (text, error) in [
        ("", KeyError::Empty),
        ("857B2 ", KeyError::OuterSpace),
        ("\u{a0}857B2", KeyError::OuterSpace),
        ("857\u{200b}B2", KeyError::Character),
        ("857\u{202e}B2", KeyError::Character),
        ("857\nB2", KeyError::Character),
        (PAN, KeyError::ContainsPan),
        (&"é".repeat(51), KeyError::TooLong { max: 50 }),
    ] {
        assert_eq!(OrderReference::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn statement_descriptors_are_plain() {
    assert!(StatementDescriptor::parse("Agent Booking 123").is_ok());
    for (text, error) in [
        ("", KeyError::Empty),
        (" x", KeyError::OuterSpace),
        ("Café", KeyError::Character),
        (PAN, KeyError::ContainsPan),
        ("12345678901234567890123456", KeyError::TooLong { max: 25 }),
    ] {
        assert_eq!(StatementDescriptor::parse(text), Err(error), "{text}");
    }
}

#[test]
fn upstream_references_are_seventeen_letters_and_digits() {
    assert!(UpstreamReference::parse("7QABCDEFGHIJ01234").is_ok());
    for refused in [
        "",
        "7QABCDEFGHIJ0123",
        "7QABCDEFGHIJ012345",
        "7qABCDEFGHIJ01234",
        "7Q-BCDEFGHIJ01234",
    ] {
        assert_eq!(
            UpstreamReference::parse(refused),
            Err(KeyError::Form),
            "{refused}"
        );
    }
}

#[test]
fn identifiers_sort_by_time_and_have_one_spelling() {
    let instant = Timestamp::from_millis(1_795_183_740_123);
    let early = OperationId::generate(instant, [0xff; 10]);
    let late = OperationId::generate(instant + std::time::Duration::from_millis(1), [0; 10]);
    assert!(early < late && early.to_string() < late.to_string());
    assert_eq!(early.uuid().get_version_num(), 7);
    assert_eq!(early.to_string(), "op_01a1f94a04db7fffbfffffffffffffff");
    assert_eq!(
        PaymentId::from_uuid(early.uuid()).to_string(),
        "pay_01a1f94a04db7fffbfffffffffffffff"
    );
    assert_eq!(
        ReplicaId::from_uuid(early.uuid()).to_string(),
        "01a1f94a04db7fffbfffffffffffffff"
    );
    for refused in [
        "",
        "op_",
        "01a1f94a04db7fffbfffffffffffffff",
        "pay_01a1f94a04db7fffbfffffffffffffff",
        "op_01A1F94A04DB7FFFBFFFFFFFFFFFFFFF",
        "op_01a1f94a-04db-7fff-bfff-ffffffffffff",
        "op_01a1f94a04db7fffbffffffffffffffff",
    ] {
        assert_eq!(
            refused.parse::<OperationId>(),
            Err(KeyError::Form),
            "{refused}"
        );
    }
}

#[test]
fn what_is_recorded_stays_readable_when_rules_become_stricter() {
    assert_eq!(IdempotencyKey::from_stored(PAN).as_str(), PAN);
    assert_eq!(
        Client::from_stored("Legacy Client").as_str(),
        "Legacy Client"
    );
}

proptest! {
    #[test]
    fn a_key_reads_back_as_itself(content in "[ -~]{1,255}") {
        let quoted = format!("\"{}\"", content.replace('\\', "\\\\").replace('"', "\\\""));
        let parsed = IdempotencyKey::parse(&quoted);
        prop_assume!(parsed != Err(KeyError::ContainsPan));
        let key = parsed.expect("a well-formed string of RFC 8941");
        prop_assert_eq!(&IdempotencyKey::parse(key.as_str()).expect("its own notation"), &key);
        let json = serde_json::to_string(&key).expect("serialises");
        prop_assert_eq!(&serde_json::from_str::<IdempotencyKey>(&json).expect("reads"), &key);
    }

    #[test]
    fn different_keys_stay_different(one in "[ \"\\\\a]{1,6}", other in "[ \"\\\\a]{1,6}") {
        let quoted = |content: &str| format!("\"{}\"", content.replace('\\', "\\\\").replace('"', "\\\""));
        let same = IdempotencyKey::parse(&quoted(&one)) == IdempotencyKey::parse(&quoted(&other));
        prop_assert_eq!(same, one == other);
    }

    #[test]
    fn no_text_makes_parsing_panic(text in any::<String>()) {
        let _ = (IdempotencyKey::parse(&text), OrderReference::parse(&text), Client::parse(&text));
        let _ = (StatementDescriptor::parse(&text), UpstreamReference::parse(&text), text.parse::<OperationId>());
    }

    #[test]
    fn identifiers_are_read_back(bytes in any::<[u8; 16]>()) {
        let id = PaymentId::from_uuid(Uuid::from_bytes(bytes));
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<PaymentId>(&json).expect("reads"), id);
    }
}
