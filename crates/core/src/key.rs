//! Names and identifiers, each parsed once at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::pan_scan::contains_pan;

/// Why a text is not the name or identifier it should be. The text itself is in no variant: it may be a card number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("must not be empty")]
    Empty,
    #[error("longer than {max} characters")]
    TooLong { max: usize },
    #[error("contains a character that is not allowed here")]
    Character,
    #[error("must begin with a letter or a digit")]
    FirstCharacter,
    #[error("must not begin or end with a space")]
    OuterSpace,
    /// A quote that opens and does not close, or the other way round: half of the key may be missing.
    #[error("contains a double quote that is not part of one well-formed quoted string")]
    LoneQuote,
    /// RFC 8941, 3.3.3: a backslash escapes a quote or a backslash, nothing else.
    #[error("contains an escape other than \\\" and \\\\")]
    Escape,
    #[error("contains a card number")]
    ContainsPan,
    #[error("not an identifier of this kind")]
    Form,
}

/// What every name shares: cheap clones, comparison, and JSON through `parse`.
macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a value back from the ledger without asking the rules again: they may have become stricter since
            /// it was admitted, and what is recorded must stay readable.
            pub fn from_stored(text: &str) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

text_value! {
    /// Whose keys these are: the configured name to which one or more JWT `sub`s map.
    Client
}

impl Client {
    /// 1 to 64 of `a-z 0-9 . _ -`, the first a letter or a digit.
    ///
    /// # Errors
    /// `Empty`, `TooLong`, `Character`, `FirstCharacter`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        configured_name(text).map(|name| Self(name.into()))
    }
}

text_value! {
    /// One configured merchant account at one upstream.
    AccountName
}

impl AccountName {
    /// 1 to 64 of `a-z 0-9 . _ -`, the first a letter or a digit.
    ///
    /// # Errors
    /// `Empty`, `TooLong`, `Character`, `FirstCharacter`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        configured_name(text).map(|name| Self(name.into()))
    }
}

fn configured_name(text: &str) -> Result<&str, KeyError> {
    let first = *text.as_bytes().first().ok_or(KeyError::Empty)?;
    if text.len() > 64 {
        return Err(KeyError::TooLong { max: 64 });
    }
    let simple = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !text
        .bytes()
        .all(|b| simple(b) || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err(KeyError::Character);
    }
    if !simple(first) {
        return Err(KeyError::FirstCharacter);
    }
    Ok(text)
}

text_value! {
    /// The caller's name for one intent, per client.
    ///
    /// Held in one notation however it was sent: bare, or as a quoted string where the bare form would read
    /// differently (a quote inside, a space at an end). So `parse(key.as_str())` is always `key`. At most 512 bytes.
    IdempotencyKey
}

impl IdempotencyKey {
    /// The bound on what is between the quotes, after escapes.
    pub const CHARACTERS_MAX: usize = 255;

    /// Reads the value of the header `Idempotency-Key`, and any other place where a caller names a key: 1 to 255
    /// printable ASCII characters, bare or as a string of RFC 8941, 3.3.3 (the same key either way).
    ///
    /// # Errors
    /// `Empty`, `TooLong`, `Character`; `LoneQuote` for a quote in a bare key and for anything after the closing one;
    /// `Escape`; `ContainsPan`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_matches([' ', '\t']);
        let content = match text.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None if text.contains('"') => return Err(KeyError::LoneQuote),
            None => text.to_owned(),
        };
        if content.is_empty() {
            return Err(KeyError::Empty);
        }
        if !content.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
            return Err(KeyError::Character);
        }
        if content.len() > Self::CHARACTERS_MAX {
            let max = Self::CHARACTERS_MAX;
            return Err(KeyError::TooLong { max });
        }
        if contains_pan(&content) {
            return Err(KeyError::ContainsPan);
        }
        Ok(Self(canonical_key(content).into()))
    }
}

/// Reads what follows an opening quote, up to the closing one, which must be the end.
fn unquote(rest: &str) -> Result<String, KeyError> {
    let mut content = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' if characters.as_str().is_empty() => return Ok(content),
            '"' => return Err(KeyError::LoneQuote),
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\')) => content.push(escaped),
                _ => return Err(KeyError::Escape),
            },
            _ => content.push(c),
        }
    }
    Err(KeyError::LoneQuote)
}

fn canonical_key(content: String) -> String {
    let reads_the_same_bare =
        !content.contains('"') && !content.starts_with(' ') && !content.ends_with(' ');
    if reads_the_same_bare {
        return content;
    }
    let escaped = content.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

text_value! {
    /// The caller's own name for what is paid: an order, a booking. Not unique.
    OrderReference
}

impl OrderReference {
    /// 1 to 50 printable characters without a space at either end.
    ///
    /// # Errors
    /// `Empty`, `TooLong`, `Character`, `OuterSpace`, `ContainsPan`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        const CHARACTERS_MAX: usize = 50;
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.chars().count() > CHARACTERS_MAX {
            let max = CHARACTERS_MAX;
            return Err(KeyError::TooLong { max });
        }
        if text.chars().any(is_invisible) {
            return Err(KeyError::Character);
        }
        // "857B2 " would be another order than "857B2", and once_per_order would let the second one through.
        if text.trim().len() != text.len() {
            return Err(KeyError::OuterSpace);
        }
        if contains_pan(text) {
            return Err(KeyError::ContainsPan);
        }
        Ok(Self(text.into()))
    }
}

/// Controls, and the characters of Unicode that take no room or turn the direction: two references that look alike
/// must not differ.
fn is_invisible(c: char) -> bool {
    let hides = matches!(c,
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E0FFF}');
    c.is_control() || hides
}

text_value! {
    /// What the cardholder reads on the statement.
    StatementDescriptor
}

impl StatementDescriptor {
    /// 1 to 25 printable ASCII characters without a space at either end.
    ///
    /// # Errors
    /// `Empty`, `TooLong`, `Character`, `OuterSpace`, `ContainsPan`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        const CHARACTERS_MAX: usize = 25;
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if !text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
            return Err(KeyError::Character);
        }
        if text.len() > CHARACTERS_MAX {
            let max = CHARACTERS_MAX;
            return Err(KeyError::TooLong { max });
        }
        if text.trim().len() != text.len() {
            return Err(KeyError::OuterSpace);
        }
        if contains_pan(text) {
            return Err(KeyError::ContainsPan);
        }
        Ok(Self(text.into()))
    }
}

text_value! {
    /// Our name for one operation at an upstream: 17 letters and digits, short enough for every processor.
    /// Derived in [`crate::idempotency`].
    UpstreamReference
}

impl UpstreamReference {
    pub const LENGTH: usize = 17;

    /// 17 of `0-9 A-Z`.
    ///
    /// # Errors
    /// `Form`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        if text.len() != Self::LENGTH || !text.bytes().all(allowed) {
            return Err(KeyError::Form);
        }
        Ok(Self(text.into()))
    }
}

/// What every identifier of ours shares: a UUID behind a prefix that tells its kind.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A UUID of version 7: ids made later sort later, by the millisecond.
            pub fn generate(now: Timestamp, random: [u8; 10]) -> Self {
                Self(time_ordered(now, random))
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                let digits = text.strip_prefix($prefix).ok_or(KeyError::Form)?;
                simple_uuid(digits).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

identifier! {
    /// One verb under one key: `op_` and 32 hexadecimal digits.
    OperationId, "op_"
}

identifier! {
    /// What operations add up to: `pay_` and 32 hexadecimal digits.
    PaymentId, "pay_"
}

identifier! {
    /// One start of one process: 32 hexadecimal digits.
    ReplicaId, ""
}

fn time_ordered(now: Timestamp, random: [u8; 10]) -> Uuid {
    // Before 1970 only a broken wall clock says so; the id is unique by its random part all the same.
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Exactly 32 lower-case hexadecimal digits: one identifier has one spelling.
fn simple_uuid(digits: &str) -> Result<Uuid, KeyError> {
    let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 32 || !digits.bytes().all(lower_hex) {
        return Err(KeyError::Form);
    }
    Uuid::try_parse(digits).map_err(|_| KeyError::Form)
}

#[cfg(test)]
mod tests;
