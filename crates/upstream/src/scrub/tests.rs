//! Whatever form an echo has, nothing of the request is left; and what is no echo stays.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use gateway_core::card::{Cvv, Expiry, Pan, Sensitive};
use gateway_core::connector::Customer;
use proptest::prelude::*;

use super::*;

const PAN: &str = "4012000098765439";
const CVV: &str = "999";
const TOKEN: &str = "t0ken-of_17-chars";
const PASSWORD: &str = "p&ss w0rd";

fn payer() -> Payer {
    Payer {
        card: CardSource::Pan {
            number: Pan::parse(PAN).unwrap(),
            cvv: Some(Cvv::parse(CVV).unwrap()),
            expiry: Expiry::new(2030, 12).unwrap(),
            holder: Some(Sensitive::new("Jane Doe")),
        },
        customer: Some(Customer {
            email: Some(Sensitive::new("jane@example.com")),
            ..Customer::default()
        }),
        risk: serde_json::from_str(r#"{"flight_passengers": [{"id": "P-778"}], "gender": "F"}"#)
            .unwrap(),
        upstream: serde_json::Map::new(),
    }
}

fn with_scrub<T>(read: impl FnOnce(Scrub<'_>) -> T) -> T {
    let payer = payer();
    let passwords = [SecretString::from(PASSWORD)];
    read(Scrub {
        payer: Some(&payer),
        token: Some(TOKEN),
        passwords: &passwords,
    })
}

fn clean(text: &str) -> String {
    with_scrub(|scrub| scrub.clean(text))
}

/// Whether a field is left out, beside others that are not.
fn is_in(text: &str) -> bool {
    let [before, field, after] =
        with_scrub(|scrub| scrub.kept([Some("TAS356"), Some(text), Some("Visa")]));
    assert_eq!((before, after), (Some("TAS356"), Some("Visa")));
    field.is_none()
}

fn each(value: &str, form: impl Fn(u8) -> String) -> String {
    value.bytes().map(form).collect()
}

/// The value in every encoding, each with its name.
fn encodings(value: &str) -> Vec<(String, String)> {
    let hex = each(value, |b| format!("{b:02x}"));
    let mut all = vec![
        ("plain", value.to_owned()),
        ("hexadecimal", hex.clone()),
        ("HEXADECIMAL", hex.to_uppercase()),
        ("hexadecimal inside", format!("a{hex}0d")),
        (
            "hexadecimal, as .NET writes it",
            each(value, |b| format!("{b:02X}-")),
        ),
        ("percent", each(value, |b| format!("%{b:02x}"))),
        ("PERCENT", each(value, |b| format!("%{b:02X}"))),
        ("percent twice", each(value, |b| format!("%25{b:02X}"))),
        ("JSON", each(value, |b| format!("\\u{b:04x}"))),
        ("JSON twice", each(value, |b| format!("\\\\u{b:04X}"))),
        ("\\x", each(value, |b| format!("\\x{b:02x}"))),
        ("HTML", each(value, |b| format!("&#{b};"))),
        ("HTML, hexadecimal", each(value, |b| format!("&#x{b:X};"))),
        ("form", value.replace(' ', "+").replace('&', "%26")),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text))
    .collect::<Vec<_>>();
    let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    for (number, engine) in engines.iter().enumerate() {
        all.push((format!("base64 {number}"), engine.encode(value)));
        for before in ["?", "??", "???"] {
            let inside = engine.encode(format!("{before}{value}\"}}"));
            all.push((format!("base64 {number} behind {before}"), inside));
        }
        for glued in ["a-", "ab/", "abc_"] {
            let text = format!("{glued}{}", engine.encode(value));
            all.push((format!("base64 {number} behind {glued}"), text));
        }
        let wide: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
        all.push((format!("base64 {number} of UTF-16"), engine.encode(&wide)));
        let escaped = engine.encode(value).replace('=', "%3D").replace('+', "%2B");
        all.push((format!("base64 {number}, escaped"), escaped));
    }
    all
}

#[test]
fn nothing_of_the_request_is_left() {
    let echoed = "Card 4012-0000-9876-5439 of JANE DOE (jane@Example.com), passport p-778,\r\nCVV 999, amount 1999: no, T0ken-of_17-chars by p&ss w0rd";
    assert_eq!(
        clean(echoed),
        "Card [redacted] of [redacted] ([redacted]), passport [redacted],  CVV [redacted], amount 1999: no, [redacted] by [redacted]"
    );
}

#[test]
fn every_encoding_of_every_secret_is_taken_out_whole() {
    for value in [PAN, CVV, TOKEN, PASSWORD, "Jane Doe"] {
        for (name, text) in encodings(value) {
            let cleaned = clean(&format!("Rejected ({text}), sorry"));
            let rest = cleaned.strip_prefix("Rejected (").unwrap_or_default();
            let rest = rest.strip_suffix("), sorry").unwrap_or(rest);
            // At most the first and last digits of what was around it.
            let kept = rest.replace(REDACTED, "");
            assert!(
                rest.contains(REDACTED) && kept.len() <= 9,
                "{value}, {name}: {text} → {cleaned}"
            );
            assert!(!cleaned.contains(&text), "{value}, {name}: {cleaned}");
        }
    }
}

#[test]
fn digits_are_found_however_they_are_spaced() {
    for between in [
        " ", "-", ".", " - ", "- ", "..", "%20", "+", "\\u0020", "&#32;",
    ] {
        for value in [PAN, CVV] {
            let digits: Vec<String> = value.chars().map(String::from).collect();
            let text = format!("code {} was refused", digits.join(between));
            assert_eq!(clean(&text), "code [redacted] was refused", "{text}");
        }
        for size in [2, 3, 4, 6] {
            let digits: Vec<char> = PAN.chars().collect();
            let groups: Vec<String> = digits.chunks(size).map(String::from_iter).collect();
            let text = format!("card {} was refused", groups.join(between));
            assert_eq!(clean(&text), "card [redacted] was refused", "{text}");
        }
    }
}

#[test]
fn a_code_is_one_only_where_it_stands_alone() {
    for text in [
        "amount 9.99 is too much",
        "1999, 9991 and 19991",
        "at 09:59:59.9",
        "99 9",
        "Error code D2020. CVV2 verification failed.",
        "Transaction already settled on 2026-11-20 at 14:09",
    ] {
        assert_eq!(clean(text), text);
    }
    assert_eq!(clean("cvv999: no"), "cvv[redacted]: no");
}

#[test]
fn what_may_be_a_token_goes_and_a_guid_stays() {
    let token = "1A089D6ziUybPZFQ3mpPyjt9OEx9yrCs7eQIC6V3A0lmXR2N6-seGNK16Gsnl3td6Ilfbr2Xf_Eyu";
    let text = format!("Bearer {token}: no sale 59344814-87c2-4a62-9859-9b0f5ecadf1e");
    let expected = "Bearer [redacted]: no sale 59344814-87c2-4a62-9859-9b0f5ecadf1e";
    assert_eq!(Scrub::default().clean(&text), expected);
    let percent = each(token, |b| format!("%{b:02x}"));
    assert_eq!(Scrub::default().clean(&percent), REDACTED);
}

#[test]
fn a_card_number_that_is_not_known_goes_in_every_encoding_too() {
    for (name, text) in encodings("5499740000000057") {
        let cleaned = Scrub::default().clean(&format!("({text})"));
        assert!(cleaned.contains(REDACTED), "{name}: {cleaned}");
        assert!(!cleaned.contains(&text), "{name}: {cleaned}");
    }
}

#[test]
fn fields_that_are_kept_hold_no_secret_and_lose_nothing_else() {
    for value in [PAN, CVV, TOKEN] {
        for (name, text) in encodings(value) {
            assert!(is_in(&text), "{value}, {name}: {text}");
        }
    }
    // Letters beside three digits: an authorization code. 16 other digits: a card's token at some processors.
    for text in [
        "TAS999",
        "999999",
        "TAS356",
        "nr959X7eCIXI5439",
        "9876543210125439",
        "Visa",
    ] {
        assert!(!is_in(text), "{text}");
    }
}

#[test]
fn long_texts_are_cut() {
    assert_eq!(
        Scrub::default().clean(&"é".repeat(500)).chars().count(),
        LENGTH_MAX
    );
}

#[test]
fn a_password_is_kept_in_no_field() {
    assert!(is_in(PASSWORD));
}

#[test]
fn what_a_long_text_hides_behind_what_is_taken_out_is_not_shown() {
    for hidden in [PAN, TOKEN] {
        for length in 1..hidden.len() {
            let long = "A".repeat(READ_MAX - 1 - length);
            assert_eq!(clean(&format!("{long} {hidden}")), REDACTED);
        }
    }
    let harmless = clean(&"declined ".repeat(10_000));
    assert_eq!(harmless.chars().count(), LENGTH_MAX);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_nothing_is_found_twice(text in any::<String>()) {
        let cleaned = clean(&text);
        prop_assert_eq!(clean(&cleaned), cleaned);
    }

    #[test]
    fn no_mixture_of_escapes_makes_it_panic(text in "[%\\\\ux&#;0-9a-fA-F =+/-]{0,60}") {
        let cleaned = clean(&text);
        prop_assert!(!cleaned.contains(PAN));
    }

    #[test]
    fn a_guid_or_a_code_of_theirs_is_never_taken_for_a_secret(
        bytes in any::<[u8; 16]>(), code in "[A-Z0-9]{6}", token in "[A-Za-z0-9]{12}[0-9]{4}"
    ) {
        let guid = gateway_guid(bytes);
        for field in [guid, code, token] {
            prop_assert!(!is_in(&field), "{}", field);
        }
    }
}

fn gateway_guid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from, to| &hex[from..to];
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}
