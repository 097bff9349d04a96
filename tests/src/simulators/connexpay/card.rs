//! Cards as ConnexPay's sandbox knows them: what is accepted, which brand it is, which token stands for it.

use serde::{Deserialize, Serialize};

use super::super::json::Fields;
use super::refusal::{NO_CARD_NUMBER, NO_EXPIRY, Problem};

/// The sandbox cards of the published test data, with the security code that they expect.
pub const SANDBOX_CARDS: [(&str, &str); 5] = [
    ("4012000098765439", "999"),
    ("5499740000000057", "998"),
    ("2223000048400011", "998"),
    ("371449635392376", "9997"),
    ("6011000993026909", "996"),
];

/// The e-mail address that the risk engine refuses.
pub const RISK_DECLINE_EMAIL: &str = "decline@connexpay.com";

/// What the books keep of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardOnFile {
    /// Twelve letters and digits, then the real last four digits.
    pub token: String,
    pub first_four: String,
    pub last_four: String,
    pub brand: String,
    /// `YYMM`.
    pub expiry: String,
}

/// A card as a request presents it. Lives as long as the request.
pub(super) struct Presented {
    pub(super) number: Number,
    /// `YYMM`.
    pub(super) expiry: Option<String>,
    pub(super) cvv: Option<String>,
    pub(super) holder: Option<String>,
    pub(super) email: Option<String>,
    pub(super) zip: Option<String>,
}

pub(super) enum Number {
    Pan(String),
    Token(String),
}

impl Presented {
    pub(super) fn read(body: &Fields) -> Result<Self, Problem> {
        let Some(card) = body.object("Card")? else {
            return Err(Problem::Model(vec![(
                "Card",
                "The Card field is required.".to_owned(),
            )]));
        };
        let number = card.text("CardNumber")?.filter(|number| !number.is_empty());
        let number = number.ok_or_else(|| Problem::text(NO_CARD_NUMBER))?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = match number.len() {
            13..=19 if digits => Number::Pan(number),
            16 if number.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Number::Token(number),
            _ => {
                return Err(invalid(
                    "CardNumber",
                    "The field CardNumber must be a card number or a token.",
                ));
            }
        };
        let expiry = card
            .text("ExpirationDate")?
            .filter(|expiry| !expiry.is_empty());
        if expiry.is_none() && matches!(number, Number::Pan(_)) {
            return Err(Problem::text(NO_EXPIRY));
        }
        if expiry
            .as_deref()
            .is_some_and(|expiry| !is_year_month(expiry))
        {
            return Err(invalid(
                "ExpirationDate",
                "The field ExpirationDate must have the format YYMM.",
            ));
        }
        let cvv = card.text("Cvv2")?.filter(|cvv| !cvv.is_empty());
        let numeric = |cvv: &String| {
            (3..=4).contains(&cvv.len()) && cvv.bytes().all(|byte| byte.is_ascii_digit())
        };
        if cvv.as_ref().is_some_and(|cvv| !numeric(cvv)) {
            return Err(invalid("Cvv2", "The field Cvv2 must have 3 or 4 digits."));
        }
        let customer = card.object("Customer")?.unwrap_or_default();
        for name in [
            "FirstName",
            "LastName",
            "City",
            "State",
            "Address1",
            "Address2",
            "Zip",
            "Email",
            "Phone",
        ] {
            // Integrators saw anything but ASCII refused.
            if customer.text(name)?.is_some_and(|text| !text.is_ascii()) {
                return Err(invalid(name, "The field contains invalid characters."));
            }
        }
        Ok(Self {
            number,
            expiry,
            cvv,
            holder: card.text("CardHolderName")?,
            email: customer.text("Email")?,
            zip: customer.text("Zip")?,
        })
    }
}

fn invalid(name: &'static str, objection: &str) -> Problem {
    Problem::Model(vec![(name, objection.to_owned())])
}

/// The code with which the issuer refuses this number, expiry and security code, if it does.
/// `today` is `YYMM`.
pub(super) fn issuer_objection(
    pan: Option<&str>,
    expiry: &str,
    cvv: Option<&str>,
    today: &str,
) -> Option<&'static str> {
    if pan.is_some_and(|pan| !passes_luhn(pan)) {
        return Some("D2024");
    }
    if expiry < today {
        return Some("D2011");
    }
    let expected = SANDBOX_CARDS
        .iter()
        .find(|(number, _)| Some(*number) == pan)
        .map(|(_, cvv)| *cvv);
    if expected.is_some() && cvv.is_some() && cvv != expected {
        return Some("D2020");
    }
    None
}

pub(super) fn brand(pan: &str) -> &'static str {
    let prefix = |length: usize| {
        pan.get(..length)
            .and_then(|digits| digits.parse::<u32>().ok())
            .unwrap_or(0)
    };
    match (prefix(1), prefix(2), prefix(4)) {
        (4, _, _) => "Visa",
        (_, 51..=55, _) | (_, _, 2221..=2720) => "Mastercard",
        (_, 34 | 37, _) => "American Express",
        (_, 65, _) | (_, _, 6011) => "Discover",
        _ => "Other",
    }
}

/// Letter and text of the address check, by the zip codes of the published test data.
pub(super) fn address_check(zip: &str) -> Option<(&'static str, &'static str)> {
    Some(match zip {
        "85284" => ("Z", "Zip matches, address does not"),
        "8320" => ("N", "Neither address nor zip match"),
        "99999" => ("U", "Address information is unavailable"),
        "99998" => ("G", "Issuer does not take part in address checks"),
        "999970001" => ("B", "Address matches, zip not verified"),
        "999970002" => ("C", "Neither address nor zip verified"),
        "999970003" => ("D", "Address and zip match"),
        _ => return None,
    })
}

fn is_year_month(expiry: &str) -> bool {
    expiry.len() == 4
        && expiry.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(expiry[2..].parse::<u8>(), Ok(1..=12))
}

fn passes_luhn(pan: &str) -> bool {
    let sum: u32 = pan
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte.saturating_sub(b'0'));
            match (place % 2, digit * 2) {
                (0, _) => digit,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}
