//! A strict reading of JSON: nothing is coerced, nothing is dropped, and texts borrow from the body.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
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
    /// A number written with a fraction or an exponent, or an integer beyond 64 bits.
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

impl<'a> Json<'a> {
    /// # Errors
    /// Where the text stops being JSON, or nests deeper than [`DEPTH_MAX`].
    pub fn parse(text: &'a [u8]) -> Result<Self, NotJson> {
        let place = |error: &serde_json::Error| NotJson {
            line: error.line(),
            column: error.column(),
        };
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = Seed { depth: 0 }
            .deserialize(&mut reader)
            .map_err(|error| place(&error))?;
        reader.end().map_err(|error| place(&error))?;
        Ok(value)
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

struct Seed {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Json<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed {
    fn inner<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Unsigned(value), Json::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.inner()?)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = access.next_key_seed(self.inner()?)? {
            let Json::Text(name) = name else {
                return Err(A::Error::custom("a member without a name"));
            };
            members.push((name, access.next_value_seed(self.inner()?)?));
        }
        Ok(Json::Object(members))
    }
}

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
    }

    #[test]
    fn debug_shows_no_content() {
        let json = Json::parse(br#"["4012000098765439"]"#).expect("JSON");
        assert_eq!(format!("{json:?}"), "an array");
    }
}
