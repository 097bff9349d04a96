//! The forms in which a careless upstream repeats a value.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// How a value is written in an echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As it is, and in an echo a card number in groups of four as well.
    #[default]
    Plain,
    /// Its characters with a space, a dash, a dot, or a dash between spaces between any two.
    Spaced,
    Dashed,
    Dotted,
    Wide,
    Base64,
    Base64Unpadded,
    Base64Url,
    Base64UrlUnpadded,
    /// The base64 of a document that holds it behind one, two or three other bytes.
    Base64Behind1,
    Base64Behind2,
    Base64Behind3,
    Hexadecimal,
    HexadecimalUpper,
    /// Every byte as `%34`.
    Percent,
    PercentUpper,
    /// Every character as `\u0034`, still in the text after its JSON was read.
    Json,
}

impl Form {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    pub(super) fn is_plain(&self) -> bool {
        *self == Self::Plain
    }

    pub const ALL: [Self; 17] = [
        Self::Plain,
        Self::Spaced,
        Self::Dashed,
        Self::Dotted,
        Self::Wide,
        Self::Base64,
        Self::Base64Unpadded,
        Self::Base64Url,
        Self::Base64UrlUnpadded,
        Self::Base64Behind1,
        Self::Base64Behind2,
        Self::Base64Behind3,
        Self::Hexadecimal,
        Self::HexadecimalUpper,
        Self::Percent,
        Self::PercentUpper,
        Self::Json,
    ];

    /// Words in this form; only digits are spaced.
    pub fn of_words(self, value: &str) -> String {
        match self {
            Self::Spaced | Self::Dashed | Self::Dotted | Self::Wide => value.to_owned(),
            form => form.of(value),
        }
    }

    /// The value in this form.
    pub fn of(self, value: &str) -> String {
        let spaced = |between: &str| {
            let all: Vec<String> = value.chars().map(String::from).collect();
            all.join(between)
        };
        let behind = |count: usize| STANDARD.encode(format!("{}{value}\"}}", "?".repeat(count)));
        match self {
            Self::Plain => value.to_owned(),
            Self::Spaced => spaced(" "),
            Self::Dashed => spaced("-"),
            Self::Dotted => spaced("."),
            Self::Wide => spaced(" - "),
            Self::Base64 => STANDARD.encode(value),
            Self::Base64Unpadded => STANDARD_NO_PAD.encode(value),
            Self::Base64Url => URL_SAFE.encode(value),
            Self::Base64UrlUnpadded => URL_SAFE_NO_PAD.encode(value),
            Self::Base64Behind1 => behind(1),
            Self::Base64Behind2 => behind(2),
            Self::Base64Behind3 => behind(3),
            Self::Hexadecimal => bytes(value, |text, byte| write!(text, "{byte:02x}")),
            Self::HexadecimalUpper => bytes(value, |text, byte| write!(text, "{byte:02X}")),
            Self::Percent => bytes(value, |text, byte| write!(text, "%{byte:02x}")),
            Self::PercentUpper => bytes(value, |text, byte| write!(text, "%{byte:02X}")),
            Self::Json => bytes(value, |text, byte| write!(text, "\\u{byte:04x}")),
        }
    }
}

fn bytes(value: &str, form: impl Fn(&mut String, u8) -> std::fmt::Result) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        form(&mut text, byte).expect("a string takes it");
        text
    })
}
