//! Takes out of a text what an upstream may have echoed of a request, before the text is stored or shown.

use gateway_core::card::CardSource;
use gateway_core::connector::Payer;
use gateway_core::pan_scan::redact;
use zeroize::Zeroizing;

/// What is left in place of an echoed value.
const REDACTED: &str = "[redacted]";
/// Long enough for any text of the reference.
const LENGTH_MAX: usize = 200;
/// A GUID has 36 characters, and the longest English word that an error text needs has fewer.
const OPAQUE_MIN: usize = 40;

/// The request whose values must not outlive it.
#[derive(Clone, Copy, Default)]
pub(super) struct Scrub<'a> {
    /// Nothing when it carried no card.
    pub(super) payer: Option<&'a Payer>,
    /// The access token it was sent with.
    pub(super) token: Option<&'a str>,
}

impl Scrub<'_> {
    /// The text without card numbers, without values of the request, without anything as long as an access token,
    /// without control characters, at most 200 characters.
    pub(super) fn clean(self, text: &str) -> String {
        let mut text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if let Some(token) = self.token.filter(|token| !token.is_empty()) {
            text = without(&text, &token.to_ascii_lowercase());
        }
        if let Some(payer) = self.payer {
            text = Echoes::of(payer).taken_out_of(text);
        }
        let text = without_long_runs(&text);
        redact(&text).trim().chars().take(LENGTH_MAX).collect()
    }
}

/// What could come back. Gathered only when there is a text to clean: most answers have none.
#[derive(Default)]
struct Echoes {
    /// In lower case.
    values: Vec<Zeroizing<String>>,
    cvv: Option<Zeroizing<String>>,
}

impl Echoes {
    fn of(payer: &Payer) -> Self {
        let mut echoes = Self::default();
        let cvv = match &payer.card {
            CardSource::Pan {
                number,
                cvv,
                holder,
                ..
            } => {
                echoes.add(number.expose());
                if let Some(holder) = holder {
                    echoes.add(holder.expose());
                }
                cvv
            }
            CardSource::Token { token, cvv, .. } => {
                echoes.add(token.as_str());
                cvv
            }
        };
        echoes.cvv = cvv
            .as_ref()
            .map(|cvv| Zeroizing::new(cvv.expose().to_owned()));
        if let Some(customer) = &payer.customer {
            let fields = [
                &customer.first_name,
                &customer.last_name,
                &customer.email,
                &customer.phone,
                &customer.line1,
                &customer.line2,
                &customer.city,
                &customer.postal_code,
            ];
            fields
                .into_iter()
                .flatten()
                .for_each(|field| echoes.add(field.expose()));
        }
        payer.risk.values().for_each(|value| echoes.add_json(value));
        // So that no value is cut by a shorter one inside it.
        echoes
            .values
            .sort_by_key(|value| std::cmp::Reverse(value.len()));
        echoes
    }

    fn add(&mut self, value: &str) {
        let value = value.trim();
        // A shorter value says nothing about anybody, and taking every "M" out of a text would leave none.
        if value.chars().count() >= 3 {
            self.values.push(Zeroizing::new(value.to_ascii_lowercase()));
        }
    }

    fn add_json(&mut self, value: &serde_json::Value) {
        match value {
            serde_json::Value::String(text) => self.add(text),
            serde_json::Value::Array(items) => items.iter().for_each(|item| self.add_json(item)),
            serde_json::Value::Object(fields) => {
                fields.values().for_each(|field| self.add_json(field));
            }
            _ => {}
        }
    }

    fn taken_out_of(&self, text: String) -> String {
        let text = self
            .values
            .iter()
            .fold(text, |text, value| without(&text, value));
        match &self.cvv {
            Some(cvv) => without_number(&text, cvv),
            None => text,
        }
    }
}

/// Replaces the value, in either case.
fn without(text: &str, value: &str) -> String {
    let lower = text.to_ascii_lowercase(); // Keeps byte offsets.
    let mut cleaned = String::with_capacity(text.len());
    let mut kept_until = 0;
    for (at, _) in lower.match_indices(value) {
        cleaned.push_str(&text[kept_until..at]);
        cleaned.push_str(REDACTED);
        kept_until = at + value.len();
    }
    cleaned.push_str(&text[kept_until..]);
    cleaned
}

/// Replaces what is too long for a word and for a GUID: a token of an earlier or another login.
fn without_long_runs(text: &str) -> String {
    let opaque = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(opaque) {
        let run = &rest[start..];
        let end = run.find(|c| !opaque(c)).unwrap_or(run.len());
        cleaned.push_str(&rest[..start]);
        cleaned.push_str(if end >= OPAQUE_MIN {
            REDACTED
        } else {
            &run[..end]
        });
        rest = &run[end..];
    }
    cleaned.push_str(rest);
    cleaned
}

/// Replaces the digits where they stand alone: inside a longer number they are no CVV.
fn without_number(text: &str, digits: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let run = &rest[start..];
        let end = run.find(|c: char| !c.is_ascii_digit()).unwrap_or(run.len());
        cleaned.push_str(&rest[..start]);
        cleaned.push_str(if &run[..end] == digits {
            REDACTED
        } else {
            &run[..end]
        });
        rest = &run[end..];
    }
    cleaned.push_str(rest);
    cleaned
}

#[cfg(test)]
mod tests {
    use gateway_core::card::{Cvv, Expiry, Pan, Sensitive};
    use gateway_core::connector::Customer;

    use super::*;

    #[test]
    fn nothing_of_the_request_is_left() {
        let payer = Payer {
            card: CardSource::Pan {
                number: Pan::parse("4012000098765439").unwrap(),
                cvv: Some(Cvv::parse("999").unwrap()),
                expiry: Expiry::new(2030, 12).unwrap(),
                holder: Some(Sensitive::new("Jane Doe")),
            },
            customer: Some(Customer {
                email: Some(Sensitive::new("jane@example.com")),
                ..Customer::default()
            }),
            risk: serde_json::from_str(
                r#"{"flight_passengers": [{"id": "P-778"}], "gender": "F"}"#,
            )
            .unwrap(),
            upstream: serde_json::Map::new(),
        };
        let scrub = Scrub {
            payer: Some(&payer),
            token: Some("t0ken-of-17-chars"),
        };
        let echoed = "Card 4012-0000-9876-5439 of JANE DOE (jane@Example.com), passport p-778,\r\nCVV 999, amount 1999: no, T0ken-of-17-chars";
        assert_eq!(
            scrub.clean(echoed),
            "Card [redacted] of [redacted] ([redacted]), passport [redacted],  CVV [redacted], amount 1999: no, [redacted]"
        );
    }

    #[test]
    fn what_may_be_a_token_goes_and_a_guid_stays() {
        let token = "1A089D6ziUybPZFQ3mpPyjt9OEx9yrCs7eQIC6V3A0lmXR2N6-seGNK16Gsnl3td6Ilfbr2Xf_Eyu";
        let text = format!("Bearer {token}: no sale 59344814-87c2-4a62-9859-9b0f5ecadf1e");
        let expected = "Bearer [redacted]: no sale 59344814-87c2-4a62-9859-9b0f5ecadf1e";
        assert_eq!(Scrub::default().clean(&text), expected);
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(
            Scrub::default().clean(&"é".repeat(500)).chars().count(),
            LENGTH_MAX
        );
    }
}
