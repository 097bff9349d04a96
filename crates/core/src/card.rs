//! Card data: what passes through and is wiped, and the little that may be kept.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::clock::Timestamp;
use crate::pan_scan::{contains_pan, passes_luhn};

/// Why a text is not card data. The text itself is in no variant: it may be a card number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    #[error("a card number has 12 to 19 digits")]
    NumberLength,
    #[error("a card number consists of digits only")]
    NumberCharacter,
    #[error("the card number fails its check digit")]
    NumberCheckDigit,
    #[error("a CVV has three or four digits")]
    Cvv,
    #[error("a token has 1 to 64 printable ASCII characters")]
    Token,
    #[error("a token must not be a card number")]
    TokenIsPan,
    #[error("an expiry month is 1 to 12")]
    ExpiryMonth,
    #[error("an expiry year is 2000 to 2099")]
    ExpiryYear,
    #[error("an expiry is written as in 2030-12")]
    ExpiryForm,
}

/// A primary account number, wiped on drop. No `Display`, no `Serialize`, no `Clone`.
#[derive(ZeroizeOnDrop)]
pub struct Pan(Box<str>); // A Box<str> cannot grow, so wiping it wipes every byte it held.

impl Pan {
    /// Reads 12 to 19 digits without separators (ISO/IEC 7812-1) whose last one checks. Wiping `text` is up to its owner.
    ///
    /// # Errors
    /// `NumberLength`, `NumberCharacter`, `NumberCheckDigit`.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CardError::NumberCharacter);
        }
        if !(12..=19).contains(&text.len()) {
            return Err(CardError::NumberLength);
        }
        let mut digits = [0_u8; 19];
        for (digit, byte) in digits.iter_mut().zip(text.bytes()) {
            *digit = byte - b'0';
        }
        let checks = passes_luhn(&digits[..text.len()]);
        digits.zeroize();
        if !checks {
            return Err(CardError::NumberCheckDigit);
        }
        Ok(Self(text.into()))
    }

    /// The number in the clear, for the one request that carries it upstream.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn last_four(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }

    /// The scheme by its issuer range: visa, mastercard, amex, discover, jcb, diners or other.
    pub fn brand(&self) -> &'static str {
        let first_six = self.0.bytes().take(6);
        let prefix = first_six.fold(0_u32, |number, b| number * 10 + u32::from(b - b'0'));
        match prefix {
            400_000..=499_999 => "visa",
            222_100..=272_099 | 510_000..=559_999 => "mastercard",
            340_000..=349_999 | 370_000..=379_999 => "amex",
            // 622126-622925 are UnionPay cards that run on the Discover network.
            601_100..=601_199 | 622_126..=622_925 | 644_000..=659_999 => "discover",
            352_800..=358_999 => "jcb",
            300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
                "diners"
            }
            _ => "other",
        }
    }
}

impl fmt::Debug for Pan {
    // PCI DSS 4.0.1, 3.4.1 would allow BIN and last four; a log needs neither.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pan(****)")
    }
}

/// A card verification value, wiped on drop. PCI DSS 4.0.1, 3.3.1.2: never kept after authorization, not even hashed.
#[derive(ZeroizeOnDrop)]
pub struct Cvv(Box<str>);

impl Cvv {
    /// # Errors
    /// `Cvv`.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        if !matches!(text.len(), 3 | 4) || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CardError::Cvv);
        }
        Ok(Self(text.into()))
    }

    /// The digits in the clear, leading zeros included, for the one request that carries them upstream.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Cvv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cvv(***)")
    }
}

/// Text about a person that passes through unstored: a holder's name, an address. Wiped on drop.
#[derive(ZeroizeOnDrop)]
pub struct Sensitive(Box<str>);

impl Sensitive {
    /// Copies the text; wiping the original is up to its owner. A `String` is wiped by `From`.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Sensitive {
    fn from(mut text: String) -> Self {
        // Not into_boxed_str: shrinking may move the bytes and leave the old ones behind.
        let copied = Self::new(&text);
        text.zeroize();
        copied
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(****)")
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Sensitive;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sensitive, E> {
                Ok(Sensitive::new(text))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Sensitive, E> {
                Ok(text.into())
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Sensitive, E> {
                Err(E::custom("expected a string, found a number"))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Sensitive, E> {
                Err(E::custom("expected a string, found a number"))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Sensitive, E> {
                Err(E::custom("expected a string, found a number"))
            }
        }
        // Not deserialize_string: serde_json would then refuse a number by itself, and print it.
        deserializer.deserialize_any(Text)
    }
}

/// What an upstream gave us in place of a card number. Opaque; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CardToken(Arc<str>);

impl CardToken {
    /// # Errors
    /// `Token`; `TokenIsPan`, so that a number sent in the token's place is not stored as one.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if !(1..=64).contains(&text.len()) || !printable {
            return Err(CardError::Token);
        }
        if contains_pan(text) {
            return Err(CardError::TokenIsPan);
        }
        Ok(Self(text.into()))
    }

    /// Takes a token back from the ledger without asking the rules again: they may have become stricter since, and
    /// what is recorded must stay readable.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Only the last four characters, and of a short token none: whoever holds it can charge the card.
impl fmt::Debug for CardToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last_four = if self.0.len() < 8 {
            ""
        } else {
            &self.0[self.0.len() - 4..]
        };
        write!(f, "CardToken(****{last_four})")
    }
}

impl FromStr for CardToken {
    type Err = CardError;
    fn from_str(text: &str) -> Result<Self, CardError> {
        Self::parse(text)
    }
}

impl Serialize for CardToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CardToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// The month through which a card is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry {
    year: u16,
    month: u8,
}

impl Expiry {
    /// # Errors
    /// `ExpiryYear` outside 2000 to 2099 (cards and processors write two digits), `ExpiryMonth`.
    pub fn new(year: u16, month: u8) -> Result<Self, CardError> {
        if !(2000..=2099).contains(&year) {
            return Err(CardError::ExpiryYear);
        }
        if !(1..=12).contains(&month) {
            return Err(CardError::ExpiryMonth);
        }
        Ok(Self { year, month })
    }

    /// Reads `2030-12`.
    ///
    /// # Errors
    /// `ExpiryForm`, `ExpiryYear`, `ExpiryMonth`.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let (year, month) = text.split_once('-').ok_or(CardError::ExpiryForm)?;
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if year.len() != 4 || month.len() != 2 || !all_digits(year) || !all_digits(month) {
            return Err(CardError::ExpiryForm);
        }
        let year = year.parse().map_err(|_| CardError::ExpiryForm)?;
        let month = month.parse().map_err(|_| CardError::ExpiryForm)?;
        Self::new(year, month)
    }

    pub fn year(self) -> u16 {
        self.year
    }

    pub fn month(self) -> u8 {
        self.month
    }

    /// Two digits of the year, two of the month: `3012` for December 2030.
    pub fn yymm(self) -> String {
        format!("{:02}{:02}", self.year % 100, self.month)
    }

    /// Whether the last day of the month is over everywhere. The zone furthest behind is UTC-12: an issuer there still
    /// honours the card, and refusing it is not ours to do.
    pub fn is_past(self, now: Timestamp) -> bool {
        let (year, month) = if self.month == 12 {
            (self.year + 1, 1)
        } else {
            (self.year, self.month + 1)
        };
        let first_after = Timestamp::parse(&format!("{year:04}-{month:02}-01T00:00:00-12:00"));
        now >= first_after.expect("years 2000 to 2100 and months 1 to 12 make an instant")
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Expiry {
    type Err = CardError;
    fn from_str(text: &str) -> Result<Self, CardError> {
        Self::parse(text)
    }
}

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// What a create is charged to, as the caller sent it. Lives as long as the request that carries it.
#[derive(Debug)]
pub enum CardSource {
    Pan {
        number: Pan,
        cvv: Option<Cvv>,
        expiry: Expiry,
        holder: Option<Sensitive>,
    },
    Token {
        token: CardToken,
        expiry: Option<Expiry>,
        cvv: Option<Cvv>,
    },
}

/// What may be kept of a card, as the upstream returned it and as callers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredCard {
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "recorded_token"
    )]
    pub token: Option<CardToken>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_four: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
}

fn recorded_token<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<CardToken>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| CardToken::from_stored(&text)))
}

impl StoredCard {
    /// Takes from an upstream's answer only what has the right form: a field in which it repeats the card number is
    /// left out, whatever the field is called. The brand is put in lower case.
    pub fn from_answer(
        token: Option<&str>,
        brand: Option<&str>,
        last_four: Option<&str>,
        expiry: Option<Expiry>,
    ) -> Self {
        let is_brand = |text: &&str| {
            let letters = |b: u8| b.is_ascii_alphabetic() || matches!(b, b' ' | b'-' | b'_');
            (1..=32).contains(&text.len()) && text.bytes().all(letters)
        };
        let is_last_four =
            |text: &&str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
        Self {
            token: token.and_then(|text| CardToken::parse(text).ok()),
            brand: brand.filter(is_brand).map(str::to_ascii_lowercase),
            last_four: last_four.filter(is_last_four).map(str::to_owned),
            expiry,
        }
    }
}

#[cfg(test)]
mod tests;
