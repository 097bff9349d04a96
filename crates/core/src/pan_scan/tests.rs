//! Card numbers in text: every way people write them is found, and what is no card number is left alone.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn card_numbers_are_found_however_they_are_written() {
    for text in [
        "4012000098765439",
        "5499740000000057",
        "2223000048400011",
        "371449635392376",
        "6011000993026909",
        "30569309025904",
        "3530111333300000",
        "4222222222222",
        "4012 0000 9876 5439",
        "4012-0000-9876-5439",
        "4012.0000.9876.5439",
        "4012_0000_9876_5439",
        "4012\u{a0}0000\u{2011}9876 5439",
        "3714 496353 92376",
        "3056 930902 5904",
        "4 0 1 2 0 0 0 0 9 8 7 6 5 4 3 9",
        "40 12 00 00 98 76 54 39",
        "card4012000098765439x",
        "order 12 4012000098765439",
        "order 12 4012 0000 9876 5439, exp 12 30",
        "4012000098765439 12 30 999",
        "857-4012-0000-9876-5439-12",
        "４０１２００００９８７６５４３９",
        "٤٠١٢٠٠٠٠٩٨٧٦٥٤٣٩",
        "{\"pan\":\"4012000098765439\"}",
        "%B4012000098765439^DOE/JANE^3012101",
        ";4012000098765439=30121010000000000000?",
        "550e8400-e29b-41d4-a716-446655440000 4012000098765439",
    ] {
        assert!(contains_pan(text), "{text}");
        assert!(!contains_pan(&redact(text)), "{text}");
        assert!(redact(text).contains("[redacted]"), "{text}");
    }
}

#[test]
fn what_is_no_card_number_is_left_alone() {
    for text in [
        "",
        "857B2",
        "4012000098765438",          // The check digit is wrong.
        "1234567890123452",          // No scheme begins with 1.
        "401200009876543900000",     // 21 digits.
        "00004012000098765439",      // Digits before it: another number.
        "4012000098",                // Too short.
        "4012  0000  9876  5439 12", // Not written as a card.
        "nr959X7eCIXI0473",
        "7QABCDEFGHIJ01234",
        "1795183740123",
        "1795183740123456",
        "1795183740123456789",
        "2026-11-20T14:09:00.123456Z",
        "2026-11-20-14-09-00-1234",
        "20261120140900123",
        "550e8400-e29b-41d4-a716-446655440000",
        "40120000-9876-4543-9000-00000abcdef0", // A UUID, whatever its digits say.
        "key_018f3c4012000098765439abcdef01ff",
        "+1 (415) 234-5678 ext. 12345",
        "10.50 20.75 30.00 40.25",
    ] {
        assert!(!contains_pan(text), "{text}");
    }
}

#[test]
fn documents_are_searched_in_names_texts_and_numbers() {
    for document in [
        json!("4012000098765439"),
        json!(4_012_000_098_765_439_u64),
        json!({"cart": ["c-91", {"note": "4012 0000 9876 5439"}]}),
        json!({"4012000098765439": true}),
    ] {
        assert!(json_contains_pan(&document), "{document}");
    }
    assert!(!json_contains_pan(
        &json!({"cart": "c-91", "n": 12, "a": [4012, 0, 9876, 5439], "x": null})
    ));
}

#[test]
fn texts_of_an_upstream_lose_every_long_number() {
    for (text, cleaned) in [
        (
            "card 4012000098765439 is closed",
            "card [redacted] is closed",
        ),
        ("pan=0004012000098765439000", "pan=[redacted]"),
        ("4012/0000/9876/5439", "[redacted]"),
        ("401200 - 0098765439.", "[redacted]."),
        ("4012 - 0000 - 9876 - 5439", "[redacted]"),
        ("4012+0000+9876+5439", "[redacted]"),
        ("401200 -- 0098765439.", "401200 -- 0098765439."),
        ("card ４０１２００００９８７６５４３９!", "card [redacted]!"),
        ("40120000, 98765439!", "[redacted]!"),
        (
            "4012 0000 9876 5439 and 5499740000000057",
            "[redacted] and [redacted]",
        ),
        (
            "Error code D2020. CVV2 verification failed.",
            "Error code D2020. CVV2 verification failed.",
        ),
        ("at 2026-11-20T14:09:00.123", "at 2026-11-20T14:09:00.123"),
        ("", ""),
    ] {
        assert_eq!(redact(text), cleaned);
    }
    assert!(matches!(redact("nothing here"), Cow::Borrowed(_)));
}

/// The digits of a card number that passes the Luhn test, given all but the last one.
fn with_check_digit(mut digits: Vec<u8>) -> Vec<u8> {
    digits.push(0);
    let check = (0..10).find(|check| {
        *digits.last_mut().expect("just pushed") = *check;
        passes_luhn(&digits)
    });
    *digits.last_mut().expect("just pushed") = check.expect("one of ten digits passes");
    digits
}

fn text_of(digits: &[u8]) -> String {
    digits
        .iter()
        .map(|digit| char::from(b'0' + digit))
        .collect()
}

fn a_card() -> impl Strategy<Value = String> {
    let visa_or_mastercard = prop_oneof![Just(vec![4, 0]), Just(vec![5, 3]), Just(vec![2, 5])];
    (visa_or_mastercard, prop::collection::vec(0_u8..10, 13))
        .prop_map(|(prefix, rest)| text_of(&with_check_digit([prefix, rest].concat())))
}

/// By the definition and in no hurry: some 13 to 19 digits in a row pass the Luhn test.
fn has_luhn_valid_run(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|run| {
        let digits: Vec<u8> = run.bytes().map(|b| b - b'0').collect();
        (13..=19).any(|length| digits.windows(length).any(passes_luhn))
    })
}

proptest! {
    #[test]
    fn a_card_among_words_is_found(card in a_card(), before in "[a-zA-Z:,]{0,12}", after in "[a-zA-Z:,]{0,12}") {
        let text = format!("{before}{card}{after}");
        prop_assume!(!text.bytes().all(|b| b.is_ascii_hexdigit()));
        prop_assert!(contains_pan(&text), "{}", text);
    }

    #[test]
    fn a_card_is_found_with_any_one_separator(card in a_card(), separator in prop::sample::select(vec![" ", "-", ".", "_"])) {
        let groups: Vec<&str> = (0..4).map(|group| &card[group * 4..group * 4 + 4]).collect();
        prop_assert!(contains_pan(&groups.join(separator)));
        let single: Vec<&str> = (0..16).map(|at| &card[at..=at]).collect();
        prop_assert!(contains_pan(&single.join(separator)));
    }

    #[test]
    fn redaction_leaves_no_card(text in "[0-9a-f .,-]{0,80}") {
        let cleaned = redact(&text);
        prop_assert!(!has_luhn_valid_run(&cleaned), "{}", cleaned);
        prop_assert!(!contains_pan(&cleaned), "{}", cleaned);
        prop_assert_eq!(redact(&cleaned), cleaned.as_ref());
    }

    #[test]
    fn no_text_makes_a_scan_panic(text in any::<String>()) {
        prop_assert!(!contains_pan(&redact(&text)));
    }

    #[test]
    fn no_random_uuid_is_refused(bytes in any::<[u8; 16]>()) {
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
        for written in [uuid.to_string(), uuid.simple().to_string(), uuid.to_string().to_uppercase(), format!("order-{uuid}")] {
            prop_assert!(!contains_pan(&written), "{}", written);
        }
    }
}
