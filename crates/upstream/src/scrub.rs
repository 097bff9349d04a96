//! Takes out of a text what an upstream may have echoed of a request, before the text is stored or shown.
//!
//! The secrets of the request are known, so they are looked for by value, in the text as it stands and in every reading
//! of it that undoes an encoding (`views`). Beside them goes whatever is as long as a card number or an access token.

mod views;

use gateway_core::card::{CardSource, Cvv};
use gateway_core::connector::Payer;
use gateway_core::pan_scan::{SpacedNumber, spaced_numbers};
use secrecy::{ExposeSecret, SecretString};

use self::views::View;

/// What is left in place of an echoed value.
const REDACTED: &str = "[redacted]";
/// Long enough for any text of the processors' references.
const LENGTH_MAX: usize = 200;
/// What is looked at of a text: far more than is kept, and little enough that every reading of it takes no time that a
/// payment would notice.
const READ_MAX: usize = 2_000;
/// A GUID has 36 characters, and the longest English word that an error text needs has fewer.
const OPAQUE_MIN: usize = 40;

/// Between two fields that are looked at together: part of no number, word or encoding.
const BREAK: &str = "\u{1}";

/// The request whose values must not outlive it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Scrub<'a> {
    /// Nothing when it carried no card.
    pub(crate) payer: Option<&'a Payer>,
    /// The access token it was sent with.
    pub(crate) token: Option<&'a str>,
    /// The account's, of lately.
    pub(crate) passwords: &'a [SecretString],
}

impl Scrub<'_> {
    /// The text without card numbers, without values of the request, without anything as long as an access token,
    /// without control characters, at most 200 characters.
    pub(crate) fn clean(self, text: &str) -> String {
        let mut secrets = Secrets::of(self);
        if let Some(payer) = self.payer {
            secrets.add_person(payer);
        }
        let is_cut = text.chars().nth(READ_MAX).is_some();
        let text: String = text
            .chars()
            .take(READ_MAX)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let plain = View::plain(&text);
        let mut found = Found(vec![false; plain.chars().len()]);
        let unescaped = plain.unescaped();
        for view in [Some(&plain), unescaped.as_ref()].into_iter().flatten() {
            secrets.find(view, Edge::NoDigit, &mut found);
            find_long(view, &mut found);
            for decoded in view.decoded() {
                secrets.find(&decoded, Edge::NoDigit, &mut found);
                find_long_numbers(&decoded, &mut found);
            }
        }
        let cleaned = found.taken_out_of(&text);
        if is_cut && cleaned.chars().count() <= LENGTH_MAX {
            return REDACTED.to_owned(); // What was cut in two would be shown.
        }
        cleaned.trim().chars().take(LENGTH_MAX).collect()
    }

    /// Of short fields that are kept as they came (an authorization code, a card's token) those that hold neither the card
    /// number nor the security code nor the access token nor a password. A security code inside a word is none: three digits of a code
    /// may be anything.
    pub(crate) fn kept<const N: usize>(self, fields: [Option<&str>; N]) -> [Option<&str>; N] {
        let secrets = Secrets::of(self);
        let is_in = |text: &str| {
            let plain = View::plain(text);
            let mut found = Found(vec![false; plain.chars().len()]);
            let unescaped = plain.unescaped();
            for view in [Some(&plain), unescaped.as_ref()].into_iter().flatten() {
                secrets.find(view, Edge::NoWord, &mut found);
                for decoded in view.decoded() {
                    secrets.find(&decoded, Edge::NoWord, &mut found);
                }
            }
            found.0.contains(&true)
        };
        // One look at all of them, since there is nothing in nearly every answer.
        if is_in(&fields.map(Option::unwrap_or_default).join(BREAK)) {
            fields.map(|field| field.filter(|text| !is_in(text)))
        } else {
            fields
        }
    }
}

/// What may stand next to a security code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    NoDigit,
    /// Neither digit nor letter.
    NoWord,
}

/// What could come back. Gathered only when there is a text to clean: most answers have none.
#[derive(Default)]
struct Secrets<'a> {
    values: Vec<&'a str>,
    number: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'a> Secrets<'a> {
    /// The access token, the passwords and what is on the card.
    fn of(scrub: Scrub<'a>) -> Self {
        let mut secrets = Self::default();
        if let Some(token) = scrub.token {
            secrets.add(token);
        }
        for password in scrub.passwords {
            secrets.add(password.expose_secret());
        }
        let cvv = match scrub.payer.map(|payer| &payer.card) {
            Some(CardSource::Pan { number, cvv, .. }) => {
                secrets.number = Some(number.expose());
                cvv
            }
            Some(CardSource::Token { cvv, .. }) => cvv,
            None => &None,
        };
        secrets.code = cvv.as_ref().map(Cvv::expose);
        secrets
    }

    fn add_person(&mut self, payer: &'a Payer) {
        match &payer.card {
            CardSource::Pan { holder, .. } => {
                if let Some(holder) = holder {
                    self.add(holder.expose());
                }
            }
            CardSource::Token { token, .. } => self.add(token.as_str()),
        }
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
                .for_each(|field| self.add(field.expose()));
        }
        payer.risk.values().for_each(|value| self.add_json(value));
    }

    fn add(&mut self, value: &'a str) {
        let value = value.trim();
        // A shorter value says nothing about anybody, and taking every "M" out of a text would leave none.
        if value.chars().count() >= 3 {
            self.values.push(value);
        }
    }

    fn add_json(&mut self, value: &'a serde_json::Value) {
        match value {
            serde_json::Value::String(text) => self.add(text),
            serde_json::Value::Array(items) => items.iter().for_each(|item| self.add_json(item)),
            serde_json::Value::Object(fields) => {
                fields.values().for_each(|field| self.add_json(field));
            }
            _ => {}
        }
    }

    fn find(&self, view: &View, edge: Edge, found: &mut Found) {
        let chars = view.chars();
        for value in &self.values {
            let length = value.chars().count();
            let mut at = 0;
            while let Some(here) = chars.get(at..at + length) {
                let same = |(theirs, ours): (&char, char)| match ours {
                    ' ' => matches!(theirs, ' ' | '+'), // As forms write it.
                    ours => theirs.eq_ignore_ascii_case(&ours),
                };
                if here.iter().zip(value.chars()).all(same) {
                    found.mark(view, at, at + length - 1);
                    at += length;
                } else {
                    at += 1;
                }
            }
        }
        if self.number.is_none() && self.code.is_none() {
            return;
        }
        for number in numbers(view) {
            let digits = number.digits();
            let is_number = |number: &str| {
                let mut parts = digits.windows(number.len());
                parts.any(|part| is_spelled(part, number))
            };
            if self.number.is_some_and(is_number) {
                found.mark(view, number.start(), number.end());
            } else if let Some(code) = self.code {
                find_code(view, digits, code, edge, found);
            }
        }
    }
}

fn is_spelled(digits: &[(usize, u8)], value: &str) -> bool {
    let theirs = digits.iter().map(|(_, digit)| b'0' + digit);
    theirs.eq(value.bytes())
}

/// The code's digits where they stand alone, in one piece or each for itself: inside a longer number they are no code,
/// and 9.99 is an amount.
fn find_code(view: &View, digits: &[(usize, u8)], code: &str, edge: Edge, found: &mut Found) {
    let chars = view.chars();
    let free = |place: Option<usize>| {
        let c = place.and_then(|place| chars.get(place));
        edge == Edge::NoDigit || !c.is_some_and(char::is_ascii_alphanumeric)
    };
    for (from, part) in digits.windows(code.len()).enumerate() {
        if !is_spelled(part, code) {
            continue;
        }
        let touches = |index: usize| {
            let pair = digits.get(index..index + 2);
            pair.is_some_and(|pair| pair[0].0 + 1 == pair[1].0)
        };
        let alone = (from == 0 || !touches(from - 1)) && !touches(from + code.len() - 1);
        let joints = (from..from + code.len() - 1).filter(|index| touches(*index));
        let joints = joints.count();
        let whole = joints == 0 || joints == code.len() - 1;
        let (first, last) = (part[0].0, part[code.len() - 1].0);
        if alone && whole && free(first.checked_sub(1)) && free(last.checked_add(1)) {
            found.mark(view, first, last);
        }
    }
}

fn numbers(view: &View) -> Vec<SpacedNumber> {
    spaced_numbers(view.chars().iter().copied().enumerate())
}

fn find_long_numbers(view: &View, found: &mut Found) {
    let numbers = numbers(view);
    for number in numbers.iter().filter(|number| number.may_be_pan()) {
        found.mark(view, number.start(), number.end());
    }
}

/// Numbers as long as a card's; and what is too long for a word and for a GUID: a token of an earlier or another login.
fn find_long(view: &View, found: &mut Found) {
    find_long_numbers(view, found);
    let opaque = |c: &char| c.is_ascii_alphanumeric() || "-._~+/=".contains(*c);
    let mut at = 0;
    for run in view.chars().split(|c| !opaque(c)) {
        if run.len() >= OPAQUE_MIN {
            found.mark(view, at, at + run.len() - 1);
        }
        at += run.len() + 1;
    }
}

/// Which characters of the text must go.
struct Found(Vec<bool>);

impl Found {
    /// From the first to the last of these characters of a view.
    fn mark(&mut self, view: &View, first: usize, last: usize) {
        let (from, to) = view.origin(first, last);
        self.0[from..to].fill(true);
    }

    fn taken_out_of(&self, text: &str) -> String {
        let mut cleaned = String::with_capacity(text.len());
        let mut taking = false;
        for (c, found) in text.chars().zip(&self.0) {
            if *found && !taking {
                cleaned.push_str(REDACTED);
            } else if !found {
                cleaned.push(c);
            }
            taking = *found;
        }
        cleaned
    }
}

#[cfg(test)]
mod tests;
