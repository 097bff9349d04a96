//! Card data: what is refused, what is never shown, and the last instant of a card.

use super::*;

const VISA: &str = "4012000098765439";

#[test]
fn card_numbers_are_digits_that_check() {
    for number in [
        VISA,
        "5499740000000057",
        "2223000048400011",
        "371449635392376",
        "6011000993026909",
        "30569309025904",
        "3530111333300000",
        "6759649826438453",
    ] {
        assert!(Pan::parse(number).is_ok(), "{number}");
    }
    for (number, error) in [
        ("4012000098765438", CardError::NumberCheckDigit),
        ("4012 0000 9876 5439", CardError::NumberCharacter),
        ("nr959X7eCIXI0473", CardError::NumberCharacter),
        ("４０１２０００0", CardError::NumberCharacter),
        ("42424242424", CardError::NumberLength),
        ("40120000987654390000", CardError::NumberLength),
        ("", CardError::NumberLength),
    ] {
        assert_eq!(Pan::parse(number).expect_err(number), error);
    }
}

#[test]
fn brands_go_by_issuer_range() {
    for (number, brand) in [
        (VISA, "visa"),
        ("5499740000000057", "mastercard"),
        ("2223000048400011", "mastercard"),
        ("371449635392376", "amex"),
        ("6011000993026909", "discover"),
        ("30569309025904", "diners"),
        ("3530111333300000", "jcb"),
        ("6759649826438453", "other"),
    ] {
        assert_eq!(Pan::parse(number).expect(number).brand(), brand, "{number}");
    }
}

#[test]
fn nothing_secret_is_in_any_debug_output() {
    let source = CardSource::Pan {
        number: Pan::parse(VISA).expect("a test card"),
        cvv: Some(Cvv::parse("0999").expect("four digits")),
        expiry: Expiry::new(2030, 12).expect("a month"),
        holder: Some(Sensitive::from("Jane Doe".to_owned())),
    };
    let shown = format!("{source:?} {source:#?}");
    for secret in [VISA, "4012", "5439", "999", "Jane", "Doe"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let CardSource::Pan {
        number,
        cvv,
        holder,
        ..
    } = source
    else {
        unreachable!("built above")
    };
    assert_eq!((number.expose(), number.last_four()), (VISA, "5439"));
    assert_eq!(cvv.expect("given").expose(), "0999");
    assert_eq!(holder.expect("given").expose(), "Jane Doe");
}

#[test]
fn a_cvv_is_three_or_four_digits() {
    for refused in ["", "12", "12345", "12a", "１２３", "1 2"] {
        assert_eq!(Cvv::parse(refused).expect_err(refused), CardError::Cvv);
    }
}

#[test]
fn a_token_is_not_a_card_number_and_shows_its_end_only() {
    let token = CardToken::parse("nr959X7eCIXI0473").expect("a token");
    assert_eq!(format!("{token:?}"), "CardToken(****0473)");
    assert_eq!(
        format!("{:?}", CardToken::parse("0473").expect("a token")),
        "CardToken(****)"
    );
    assert_eq!(CardToken::parse(VISA), Err(CardError::TokenIsPan));
    for refused in ["", "with space", "tab\t", "é", &"x".repeat(65)] {
        assert_eq!(
            CardToken::parse(refused),
            Err(CardError::Token),
            "{refused:?}"
        );
    }
}

#[test]
fn an_error_about_sensitive_text_does_not_repeat_it() {
    for wrong in [
        "4012000098765439",
        "-4012000098765439",
        "4012000098765439.5",
    ] {
        let error = serde_json::from_str::<Sensitive>(wrong).expect_err("a number is not a text");
        assert!(!error.to_string().contains("4012"), "{error}");
    }
    let read: Sensitive = serde_json::from_str(r#""Jane \u0044oe""#).expect("a text");
    assert_eq!(read.expose(), "Jane Doe");
}

#[test]
fn a_card_is_valid_until_its_month_ends_at_the_last_place_on_earth() {
    let december = Expiry::new(2030, 12).expect("a month");
    for (now, past) in [
        ("2030-12-31T23:59:59Z", false),
        ("2031-01-01T11:59:59.999999Z", false),
        ("2031-01-01T12:00:00Z", true),
        ("2031-06-01T00:00:00Z", true),
        ("2026-01-01T00:00:00Z", false),
    ] {
        assert_eq!(
            december.is_past(Timestamp::parse(now).expect(now)),
            past,
            "{now}"
        );
    }
    let february = Expiry::new(2028, 2).expect("a month");
    assert!(!february.is_past(Timestamp::parse("2028-03-01T11:59:59Z").expect("an instant")));
    assert!(february.is_past(Timestamp::parse("2028-03-01T12:00:00Z").expect("an instant")));
    let last = Expiry::new(2099, 12).expect("a month");
    assert!(!last.is_past(Timestamp::parse("2099-12-31T00:00:00Z").expect("an instant")));
}

#[test]
fn expiries_are_written_in_two_ways_and_read_strictly() {
    let expiry = Expiry::parse("2030-02").expect("a month");
    assert_eq!(
        (expiry.to_string().as_str(), expiry.yymm().as_str()),
        ("2030-02", "3002")
    );
    for (text, error) in [
        ("2030-13", CardError::ExpiryMonth),
        ("2030-00", CardError::ExpiryMonth),
        ("1999-12", CardError::ExpiryYear),
        ("30-12", CardError::ExpiryForm),
        ("2030-1", CardError::ExpiryForm),
        ("2030/12", CardError::ExpiryForm),
        ("+203-12", CardError::ExpiryForm),
    ] {
        assert_eq!(Expiry::parse(text), Err(error), "{text}");
    }
}

#[test]
fn of_an_answer_only_what_has_the_right_form_is_kept() {
    let expiry = Expiry::new(2030, 12).ok();
    let kept =
        StoredCard::from_answer(Some("nr959X7eCIXI0473"), Some("Visa"), Some("5439"), expiry);
    let written = serde_json::to_string(&kept).expect("serialises");
    assert_eq!(
        written,
        r#"{"token":"nr959X7eCIXI0473","type":"visa","last_four":"5439","expiry":"2030-12"}"#
    );
    assert_eq!(
        serde_json::from_str::<StoredCard>(&written).expect("reads"),
        kept
    );

    let careless = StoredCard::from_answer(Some(VISA), Some(VISA), Some(VISA), None);
    assert_eq!(careless, StoredCard::default());
    assert_eq!(serde_json::to_string(&careless).expect("serialises"), "{}");
}

#[test]
fn a_recorded_token_stays_readable_when_rules_become_stricter() {
    let read: StoredCard = serde_json::from_str(r#"{"token":"with space"}"#).expect("a row");
    assert_eq!(read.token, Some(CardToken::from_stored("with space")));
    assert!(serde_json::from_str::<CardToken>(r#""with space""#).is_err());
}
