//! A second, plain reading of the processor's answers, to hold the connector's against.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::processor::Scripted;

/// One JSON object of theirs: each member as it is written.
pub(super) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// The object that a whole answer is.
    pub(super) fn of(answer: &Scripted) -> Option<(u16, Self)> {
        let Scripted::Whole { status, body, .. } = answer else {
            return None;
        };
        let text = std::str::from_utf8(body).ok()?.trim();
        Some((status.as_u16(), Self(serde_json::from_str(text).ok()?)))
    }

    fn raw(&self, name: &str) -> Option<&str> {
        let raw = self.0.get(name)?.get();
        (raw != "null").then_some(raw)
    }

    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Some(Self(serde_json::from_str(self.raw(name)?).ok()?))
    }

    /// A text, or the digits of a number.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let raw = self.raw(name)?;
        let text = match raw.as_bytes()[0] {
            b'"' => serde_json::from_str(raw).ok()?,
            b'-' | b'0'..=b'9' => raw.to_owned(),
            _ => return None,
        };
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(super) fn is_false(&self, name: &str) -> bool {
        self.raw(name) == Some("false")
    }

    /// Whether the status says yes.
    pub(super) fn is_approved(&self) -> bool {
        let status = self.text("status").unwrap_or_default();
        let words: Vec<_> = status.split_whitespace().collect();
        let words = words.join(" ").to_ascii_lowercase();
        words == "transaction - approved" || words == "transaction - approved - warning"
    }

    /// An amount in cents; an error if it is there and is no such amount.
    pub(super) fn cents(&self, name: &str) -> Result<Option<i128>, ()> {
        self.raw(name).map(cents).transpose()
    }
}

/// Plain digits with an optional fraction, quoted or not, which is a whole number of cents.
fn cents(raw: &str) -> Result<i128, ()> {
    let bare = raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(raw);
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return Err(());
    }
    let (fraction, beyond) = fraction.split_at(fraction.len().min(2));
    if beyond.bytes().any(|digit| digit != b'0') {
        return Err(());
    }
    format!("{whole}{fraction:0<2}").parse().map_err(|_| ())
}

/// Whether any text in any of the answers is this one, in whatever case.
pub(super) fn tell(answers: impl IntoIterator<Item = Scripted>, wanted: &str) -> bool {
    answers.into_iter().any(|answer| {
        let Scripted::Whole { body, .. } = answer else {
            return false;
        };
        let text = std::str::from_utf8(&body).unwrap_or_default().trim();
        // Not a value: that keeps only the last of members with one name.
        let json: Option<&RawValue> = serde_json::from_str(text).ok();
        json.is_some_and(|json| holds(json.get(), wanted))
    })
}

fn holds(json: &str, wanted: &str) -> bool {
    let mut rest = json;
    // A JSON text's strings begin and end with the quotes that no backslash precedes.
    while let Some(from) = rest.find('"') {
        let mut ends = serde_json::Deserializer::from_str(&rest[from..]).into_iter::<String>();
        match ends.next() {
            Some(Ok(text)) if text.trim().eq_ignore_ascii_case(wanted) => return true,
            Some(Ok(_)) => rest = &rest[from + ends.byte_offset()..],
            _ => rest = &rest[from + 1..],
        }
    }
    false
}
