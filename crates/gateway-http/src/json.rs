//! A strict reading of JSON: nothing is coerced, nothing is dropped, and texts borrow from the body.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// How deep a body may nest. The deepest field we know (passengers in an upstream's risk data) needs 4.
pub const DEPTH_MAX: usize = 12;

/// A JSON value. Unlike `serde_json::Value` it keeps duplicate members (so that they can be refused), tells an
/// integer from a fraction, and leaves a card number where it lies instead of copying it.
#[derive(Clone, PartialEq)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number written with a fraction or an exponent, or an integer beyond 64 bits; infinite beyond the range of `f64`.
    Float(f64),
    /// An integer beyond `i64::MAX`.
    Unsigned(u64),
    Text(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl fmt::Debug for Json<'_> {
    /// Only the shape: the content may be card data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

/// Why a body is not JSON that we read. It holds a place only, never a piece of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not well-formed JSON, or nested deeper than {DEPTH_MAX} levels, at line {line}, column {column}"
)]
pub struct NotJson {
    pub line: usize,
    pub column: usize,
}

impl NotJson {
    fn at(line: usize, column: usize) -> Self {
        Self { line, column }
    }

    /// Where `part`, a piece of `text`, begins.
    fn in_front_of(part: &str, text: &[u8]) -> Self {
        let before = &text[..part.as_ptr().addr() - text.as_ptr().addr()];
        let lines = before.split(|byte| *byte == b'\n');
        let column = lines.clone().next_back().map_or(0, <[u8]>::len) + 1;
        let line = lines.count();
        Self::at(line, column)
    }
}

impl<'a> Json<'a> {
    /// # Errors
    /// Where the text stops being JSON, or nests deeper than [`DEPTH_MAX`].
    pub fn parse(text: &'a [u8]) -> Result<Self, NotJson> {
        let whole: &RawValue = serde_json::from_slice(text)
            .map_err(|error| NotJson::at(error.line(), error.column()))?;
        // The grammar holds from here on; what may still be wrong is an escape, or the depth.
        read(whole.get(), DEPTH_MAX).map_err(|part| NotJson::in_front_of(part, text))
    }

    /// What a caller would call it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) | Self::Unsigned(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// A copy in the common form, for fields that only a connector understands. Of duplicate members the last
    /// stays; the reader has refused them by then.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Integer(value) => Value::from(*value),
            Self::Unsigned(value) => Value::from(*value),
            Self::Float(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
            Self::Text(text) => Value::String(text.as_ref().to_owned()),
            Self::Array(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(members) => Value::Object(to_map(members)),
        }
    }
}

/// See [`Json::to_value`].
pub fn to_map(members: &[(Cow<'_, str>, Json<'_>)]) -> Map<String, Value> {
    members
        .iter()
        .map(|(name, value)| (name.as_ref().to_owned(), value.to_value()))
        .collect()
}

/// Reads one value of well-formed JSON, which nests `depth_left` levels at most; else returns the part that is to blame.
///
/// Level by level, each value as text first: `serde_json` would refuse a number beyond its range as if it were no JSON, and
/// nobody could say which field holds it.
fn read(text: &str, depth_left: usize) -> Result<Json<'_>, &str> {
    let deeper = || depth_left.checked_sub(1).ok_or(text);
    match text.as_bytes()[0] {
        b'{' => {
            let depth_left = deeper()?;
            let Members(members) = serde_json::from_str(text).map_err(|_| text)?;
            let members = members.into_iter();
            let members = members.map(|(name, value)| Ok((name, read(value.get(), depth_left)?)));
            members.collect::<Result<_, _>>().map(Json::Object)
        }
        b'[' => {
            let depth_left = deeper()?;
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| text)?;
            let items = items.into_iter();
            let items = items.map(|item| read(item.get(), depth_left));
            items.collect::<Result<_, _>>().map(Json::Array)
        }
        b'"' => {
            let Text(text) = serde_json::from_str(text).map_err(|_| text)?;
            Ok(Json::Text(text))
        }
        b't' => Ok(Json::Bool(true)),
        b'f' => Ok(Json::Bool(false)),
        b'n' => Ok(Json::Null),
        _ => number(text).ok_or(text),
    }
}

/// A number of any size; one beyond the range of `f64` is infinite. Minus zero is a fraction, as everywhere.
fn number(text: &str) -> Option<Json<'_>> {
    if text != "-0" {
        if let Ok(value) = text.parse() {
            return Some(Json::Integer(value));
        }
        if let Ok(value) = text.parse() {
            return Some(Json::Unsigned(value));
        }
    }
    text.parse().ok().map(Json::Float)
}

/// The members of an object in their order, duplicates included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = access.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A text that is borrowed where it holds no escape: what may be a card number is not copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_kind() {
        let parse = |text: &'static str| Json::parse(text.as_bytes()).expect("JSON");
        assert_eq!(parse("-9223372036854775808"), Json::Integer(i64::MIN));
        assert_eq!(
            parse("9223372036854775808"),
            Json::Unsigned(9_223_372_036_854_775_808)
        );
        assert_eq!(parse("1e3"), Json::Float(1000.0));
        assert_eq!(parse("100.0"), Json::Float(100.0));
        assert_eq!(parse("0"), Json::Integer(0));
        assert!(matches!(parse("-0"), Json::Float(zero) if zero.is_sign_negative()));
        assert_eq!(parse("1e400"), Json::Float(f64::INFINITY));
        assert_eq!(parse("-1e400"), Json::Float(f64::NEG_INFINITY));
        assert_eq!(parse("1e-400"), Json::Float(0.0));
    }

    #[test]
    fn texts_borrow_from_the_body() {
        let body = br#"{"number":"4012000098765439"}"#;
        let Json::Object(members) = Json::parse(body).expect("JSON") else {
            panic!("an object")
        };
        assert!(matches!(
            &members[0],
            (Cow::Borrowed("number"), Json::Text(Cow::Borrowed(_)))
        ));
    }

    #[test]
    fn duplicates_are_kept_for_the_reader_to_refuse() {
        let Json::Object(members) = Json::parse(br#"{"a":1,"a":2}"#).expect("JSON") else {
            panic!("an object")
        };
        assert_eq!(members.len(), 2);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(Json::parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn broken_json_is_named_by_place_only() {
        for text in [
            "",
            "{",
            "{\"a\":}",
            "nul",
            "{} {}",
            "\"\u{1}\"",
            "01",
            "NaN",
        ] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let error = Json::parse(b"{\"card\": 4012000098765439x}").expect_err("broken");
        assert!(!error.to_string().contains("4012"), "{error}");
        assert!(Json::parse(b"\"\xff\"").is_err(), "not UTF-8");
        let place = |text: &str| Json::parse(text.as_bytes()).expect_err("broken");
        let escape = "{\"a\": 1,\n \"b\": [true, \"\\ud800\"]}";
        assert_eq!(place(escape), NotJson::at(2, 14));
        assert_eq!(place("{\"\\ud800\": 1}"), NotJson::at(1, 1));
        assert_eq!(
            place(&"[".repeat(DEPTH_MAX + 1).replace('[', "[\n")).line,
            DEPTH_MAX + 2
        );
    }

    #[test]
    fn debug_shows_no_content() {
        let json = Json::parse(br#"["4012000098765439"]"#).expect("JSON");
        assert_eq!(format!("{json:?}"), "an array");
    }
}
