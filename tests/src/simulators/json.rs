//! JSON in and out without floating point: amounts are read from, and written as, decimal text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The body does not have the shape that the endpoint reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// One JSON object whose names are compared without regard to case.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

/// Takes the fields of an object as they come.
struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Mismatch> {
        serde_json::from_slice(body).map_err(|_| Mismatch)
    }

    /// A string; a number counts as its text, as lenient binders have it (`Cvv2` comes both ways).
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Mismatch> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(Some).map_err(|_| Mismatch),
            Some(b'-' | b'0'..=b'9') => Ok(Some(raw.to_owned())),
            _ => Err(Mismatch),
        }
    }

    /// A decimal number of major units, as minor units of two decimals.
    pub(crate) fn amount(&self, name: &str) -> Result<Option<i64>, Mismatch> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        minor(&text).map(Some).ok_or(Mismatch)
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Mismatch> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| Mismatch)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Mismatch> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw).map(Some).map_err(|_| Mismatch)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, Mismatch> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        Self::parse(raw.as_bytes()).map(Some)
    }

    /// Of a name that comes twice the last counts.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.0.iter().rev();
        let (_, value) = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        let value = value.get();
        (value != "null").then_some(value)
    }
}

/// `15.5` is 1550. More than two decimals count only if they are zeros.
pub(crate) fn minor(text: &str) -> Option<i64> {
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !numeric(whole) || !numeric(fraction) {
        return None;
    }
    let (cents, rest) = fraction.split_at(fraction.len().min(2));
    if rest.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let cents: i64 = format!("{cents:0<2}").parse().ok()?;
    let value = whole
        .parse::<i64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(cents)?;
    Some(if negative { -value } else { value })
}

/// 1550 is `15.5`, as the processor writes it: without trailing zeros.
pub(crate) fn major(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let (whole, cents) = (minor.unsigned_abs() / 100, minor.unsigned_abs() % 100);
    match cents {
        0 => format!("{sign}{whole}"),
        cents if cents % 10 == 0 => format!("{sign}{whole}.{}", cents / 10),
        cents => format!("{sign}{whole}.{cents:02}"),
    }
}

pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    push_quoted(&mut quoted, text);
    quoted
}

fn push_quoted(out: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

/// Writes one JSON object, field by field in the order given.
#[derive(Debug, Default)]
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A value that is JSON already.
    pub(crate) fn raw(mut self, name: &str, json: &str) -> Self {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        push_quoted(&mut self.0, name);
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.raw(name, &quote(text))
    }

    /// Left out when absent.
    pub(crate) fn optional(self, name: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    pub(crate) fn nullable(self, name: &str, text: Option<&str>) -> Self {
        self.raw(name, &text.map_or_else(|| "null".to_owned(), quote))
    }

    pub(crate) fn amount(self, name: &str, minor: i64) -> Self {
        self.raw(name, &major(minor))
    }

    pub(crate) fn number(self, name: &str, number: impl Into<i64>) -> Self {
        self.raw(name, &number.into().to_string())
    }

    pub(crate) fn flag(self, name: &str, flag: bool) -> Self {
        self.raw(name, if flag { "true" } else { "false" })
    }

    pub(crate) fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, value) in [
            ("1500", 150_000),
            ("15.5", 1550),
            ("15.50", 1550),
            ("0.07", 7),
            ("999999.99", 99_999_999),
            ("1.100", 110),
        ] {
            assert_eq!(minor(text), Some(value), "{text}");
        }
        for text in ["", ".5", "1.", "1.005", "1e3", "+1", " 1", "--1"] {
            assert_eq!(minor(text), None, "{text}");
        }
        for (value, text) in [
            (150_000, "1500"),
            (1550, "15.5"),
            (7, "0.07"),
            (-1234, "-12.34"),
            (0, "0"),
        ] {
            assert_eq!(major(value), text);
            assert_eq!(minor(text), Some(value));
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_null_is_absent() {
        let fields =
            Fields::parse(br#"{"DEVICEguid":"a","amount":1.05,"Card":{"Cvv2":999},"x":null}"#)
                .expect("an object");
        assert_eq!(fields.text("DeviceGuid"), Ok(Some("a".to_owned())));
        assert_eq!(fields.amount("Amount"), Ok(Some(105)));
        let card = fields.object("card").expect("an object").expect("present");
        assert_eq!(card.text("cvv2"), Ok(Some("999".to_owned())));
        assert_eq!(fields.text("X"), Ok(None));
        assert_eq!(fields.flag("amount"), Err(Mismatch));
    }
}
