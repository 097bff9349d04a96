//! The `card` object: a number that passes through, or a token from an earlier answer.

use gateway_core::card::{CardError, CardSource, CardToken, Cvv, Expiry, Pan, Sensitive};
use gateway_core::idempotency::CanonicalForm;

use crate::fields::{Field, Fields};

/// The card, and its expiry even where something else of it is at fault.
pub(super) fn read(field: &Field<'_, '_, '_>) -> (Option<CardSource>, Option<Expiry>) {
    let Some(mut card) = field.object() else {
        return (None, None);
    };
    let read = match (card.has("number"), card.has("token")) {
        (true, false) => read_number(&mut card),
        (false, true) => read_token(&mut card),
        (false, false) => {
            field.refuse("required", "needs either `number` or `token`");
            leave_unread(&mut card);
            (None, None)
        }
        (true, true) => {
            field.refuse("conflict", "takes either `number` or `token`, not both");
            leave_unread(&mut card);
            (None, None)
        }
    };
    card.finish();
    read
}

fn read_number(card: &mut Fields<'_, '_, '_>) -> (Option<CardSource>, Option<Expiry>) {
    let number = parsed(&card.required("number"), Pan::parse);
    let expiry = read_expiry(card);
    let cvv = parsed(&card.optional("cvv"), Cvv::parse);
    let holder = card.optional("holder").text(1..=100).map(Sensitive::new);
    let source = number.zip(expiry).map(|(number, expiry)| CardSource::Pan {
        number,
        cvv,
        expiry,
        holder,
    });
    (source, expiry)
}

fn read_token(card: &mut Fields<'_, '_, '_>) -> (Option<CardSource>, Option<Expiry>) {
    let token = parsed(&card.required("token"), CardToken::parse);
    let with_expiry = card.has("expiry_month") || card.has("expiry_year");
    let expiry = with_expiry.then(|| read_expiry(card)).flatten();
    let cvv = parsed(&card.optional("cvv"), Cvv::parse);
    let source = token.map(|token| CardSource::Token { token, expiry, cvv });
    (source, expiry)
}

fn read_expiry(card: &mut Fields<'_, '_, '_>) -> Option<Expiry> {
    let month = card.required("expiry_month").integer(1..=12);
    let year = card.required("expiry_year").integer(2000..=2099);
    let (year, month) = (u16::try_from(year?).ok()?, u8::try_from(month?).ok()?);
    Some(Expiry::new(year, month).expect("both are within their bounds"))
}

/// The fault is the choice, not these fields: they are not reported as unknown on top of it.
fn leave_unread(card: &mut Fields<'_, '_, '_>) {
    for name in [
        "number",
        "token",
        "expiry_month",
        "expiry_year",
        "cvv",
        "holder",
    ] {
        card.ignore(name);
    }
}

fn parsed<T>(
    field: &Field<'_, '_, '_>,
    parse: impl FnOnce(&str) -> Result<T, CardError>,
) -> Option<T> {
    match parse(field.any_text()?) {
        Ok(value) => Some(value),
        Err(error) => {
            let code = match error {
                CardError::NumberLength => "length",
                CardError::NumberCharacter
                | CardError::Cvv
                | CardError::Token
                | CardError::ExpiryForm => "form",
                CardError::NumberCheckDigit => "check-digit",
                CardError::TokenIsPan => "card-number",
                CardError::ExpiryMonth | CardError::ExpiryYear => "out-of-range",
            };
            field.refuse(code, error.to_string());
            None
        }
    }
}

/// The CVV is left out: a cardholder asked for it again makes no other request.
pub(super) fn put(form: &mut CanonicalForm, card: &CardSource) {
    let expiry = match card {
        CardSource::Pan {
            number,
            expiry,
            holder,
            cvv: _,
        } => {
            form.pan("/card/number", number);
            if let Some(holder) = holder {
                form.sensitive("/card/holder", holder);
            }
            Some(*expiry)
        }
        CardSource::Token {
            token,
            expiry,
            cvv: _,
        } => {
            form.text("/card/token", token.as_str());
            *expiry
        }
    };
    if let Some(expiry) = expiry {
        form.integer("/card/expiry_month", i64::from(expiry.month()));
        form.integer("/card/expiry_year", i64::from(expiry.year()));
    }
}
