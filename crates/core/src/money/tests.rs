//! Amounts: exactness, refusals, and the exponents that make 1050 mean different things.

use proptest::prelude::*;

use super::*;

fn currency(code: &str) -> Currency {
    Currency::parse(code).expect("a code of this test")
}

fn money(minor: i64, code: &str) -> Money {
    Money::new(minor, currency(code)).expect("not negative")
}

#[test]
fn exponents_follow_iso_4217() {
    for (code, exponent) in [
        ("USD", 2),
        ("EUR", 2),
        ("JPY", 0),
        ("KRW", 0),
        ("KWD", 3),
        ("BHD", 3),
        ("ISK", 0),
    ] {
        assert_eq!(currency(code).exponent(), exponent, "{code}");
        assert_eq!(currency(code).code(), code);
    }
}

#[test]
fn codes_that_no_card_is_charged_in_are_refused() {
    for code in ["XXX", "XTS", "XAU", "XDR", "XAD", "CHE", "BOV", "UYI"] {
        assert_eq!(
            Currency::parse(code),
            Err(MoneyError::NotChargeable),
            "{code}"
        );
    }
    for code in ["", "usd", "US", "USDX", "ZZZ", " USD"] {
        assert_eq!(
            Currency::parse(code),
            Err(MoneyError::UnknownCurrency),
            "{code:?}"
        );
    }
}

#[test]
fn major_units_are_written_exactly() {
    for (minor, code, written) in [
        (1050, "USD", "10.50"),
        (1050, "JPY", "1050"),
        (1050, "KWD", "1.050"),
        (5, "USD", "0.05"),
        (0, "USD", "0.00"),
        (i64::MAX, "USD", "92233720368547758.07"),
    ] {
        assert_eq!(money(minor, code).to_major_string(), written);
        assert_eq!(money(minor, code).to_string(), format!("{written} {code}"));
    }
}

#[test]
fn major_units_are_read_exactly_or_not_at_all() {
    for (text, code, minor) in [
        ("10.5", "USD", 1050),
        ("10.500", "USD", 1050),
        ("1500", "USD", 150_000),
        ("1050.00", "JPY", 1050),
        ("0.07", "USD", 7),
        ("92233720368547758.07", "USD", i64::MAX),
    ] {
        assert_eq!(
            Money::parse_major(text, currency(code)),
            Ok(money(minor, code)),
            "{text}"
        );
    }
    for (text, code, error) in [
        ("10.505", "USD", MoneyError::ExcessDecimals),
        ("1050.5", "JPY", MoneyError::ExcessDecimals),
        ("92233720368547758.08", "USD", MoneyError::Overflow),
        ("99999999999999999999999", "USD", MoneyError::Overflow),
        ("-1", "USD", MoneyError::Malformed),
        ("+1", "USD", MoneyError::Malformed),
        ("1e3", "USD", MoneyError::Malformed),
        ("1,000.00", "USD", MoneyError::Malformed),
        (".5", "USD", MoneyError::Malformed),
        ("5.", "USD", MoneyError::Malformed),
        ("1.2.3", "USD", MoneyError::Malformed),
        ("", "USD", MoneyError::Malformed),
        (" 1", "USD", MoneyError::Malformed),
        ("١", "USD", MoneyError::Malformed),
    ] {
        assert_eq!(
            Money::parse_major(text, currency(code)),
            Err(error),
            "{text}"
        );
    }
}

#[test]
fn arithmetic_refuses_what_makes_no_sense() {
    let ten = money(10, "USD");
    assert_eq!(Money::new(-1, currency("USD")), Err(MoneyError::Negative));
    assert_eq!(ten.checked_add(money(5, "USD")), Ok(money(15, "USD")));
    assert_eq!(ten.checked_sub(ten), Ok(Money::zero(currency("USD"))));
    assert_eq!(
        ten.checked_add(money(1, "EUR")),
        Err(MoneyError::CurrencyMismatch)
    );
    assert_eq!(
        ten.checked_sub(money(1, "EUR")),
        Err(MoneyError::CurrencyMismatch)
    );
    assert_eq!(
        ten.checked_sub(money(11, "USD")),
        Err(MoneyError::BelowZero)
    );
    assert_eq!(
        ten.checked_add(money(i64::MAX, "USD")),
        Err(MoneyError::Overflow)
    );
}

#[test]
fn json_is_value_and_currency() {
    let written = serde_json::to_string(&money(150_000, "USD")).expect("serialises");
    assert_eq!(written, r#"{"value":150000,"currency":"USD"}"#);
    for refused in [
        r#"{"value":-1,"currency":"USD"}"#,
        r#"{"value":1.5,"currency":"USD"}"#,
        r#"{"value":1,"currency":"XXX"}"#,
        r#"{"value":1,"currency":"USD","minor":1}"#,
    ] {
        assert!(serde_json::from_str::<Money>(refused).is_err(), "{refused}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(minor in 0..=i64::MAX, code in prop::sample::select(vec!["USD", "JPY", "KWD", "CLP", "EUR"])) {
        let amount = money(minor, code);
        prop_assert_eq!(Money::parse_major(&amount.to_major_string(), currency(code)), Ok(amount));
        let json = serde_json::to_string(&amount).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<Money>(&json).expect("reads"), amount);
    }

    #[test]
    fn adding_and_taking_away_is_nothing(a in 0..=i64::MAX / 2, b in 0..=i64::MAX / 2) {
        let sum = money(a, "USD").checked_add(money(b, "USD")).expect("within 64 bits");
        prop_assert_eq!(sum.checked_sub(money(b, "USD")), Ok(money(a, "USD")));
    }
}
