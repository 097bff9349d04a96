//! Amounts that know their currency and cannot be added wrongly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text or a number is not an amount, or two amounts do not combine. No variant means that money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("not an ISO 4217 currency code")]
    UnknownCurrency,
    /// Funds codes, metals and test codes (ISO 4217: XAU, XTS, XXX, CHE, …): no cardholder is billed in them.
    #[error("this ISO 4217 code is not a currency that a card can be charged in")]
    NotChargeable,
    #[error("an amount is never negative")]
    Negative,
    #[error("the two amounts are in different currencies")]
    CurrencyMismatch,
    #[error("the amount does not fit 64 bits of minor units")]
    Overflow,
    #[error("the difference would be below zero")]
    BelowZero,
    #[error("an amount is digits with at most one decimal point")]
    Malformed,
    #[error("more decimals than the currency has")]
    ExcessDecimals,
}

/// A currency of ISO 4217 that has minor units, by its three-letter code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// Reads the upper-case three-letter code.
    ///
    /// A code that was superseded (BGN, HRK) is still read: payments made in it are refunded for months afterwards.
    ///
    /// # Errors
    /// `UnknownCurrency`, or `NotChargeable` for funds and special codes.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        let currency =
            iso_currency::Currency::from_code(code).ok_or(MoneyError::UnknownCurrency)?;
        if currency.is_fund() || currency.is_special() || currency.exponent().is_none() {
            return Err(MoneyError::NotChargeable);
        }
        Ok(Self(currency))
    }

    /// The three-letter code, upper case.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// How many decimals the major unit has: 2 for USD, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u8 {
        let exponent = self.0.exponent().and_then(|e| u8::try_from(e).ok());
        exponent.expect("parse refuses codes without an exponent, and none exceeds 4")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Self::parse(code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::parse(&code).map_err(de::Error::custom)
    }
}

/// An amount in minor units: 1050 is 10.50 USD, and also 1050 JPY (exponents: ISO 4217).
/// Never negative: the side of a ledger entry tells the direction, not a sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "MoneyForm", into = "MoneyForm")]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// How an amount is written in JSON, for callers and in the ledger alike.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyForm {
    value: i64,
    currency: Currency,
}

impl TryFrom<MoneyForm> for Money {
    type Error = MoneyError;
    fn try_from(form: MoneyForm) -> Result<Self, MoneyError> {
        Self::new(form.value, form.currency)
    }
}

impl From<Money> for MoneyForm {
    fn from(money: Money) -> Self {
        Self {
            value: money.minor,
            currency: money.currency,
        }
    }
}

impl Money {
    /// # Errors
    /// `Negative`. Zero is an amount; whoever charges refuses it with `is_zero`.
    pub fn new(minor: i64, currency: Currency) -> Result<Self, MoneyError> {
        if minor < 0 {
            return Err(MoneyError::Negative);
        }
        Ok(Self { minor, currency })
    }

    pub fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// The count of minor units, never negative.
    pub fn minor(self) -> i64 {
        self.minor
    }

    pub fn currency(self) -> Currency {
        self.currency
    }

    pub fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// # Errors
    /// `CurrencyMismatch`, or `Overflow` past `i64::MAX` minor units (the column is a `bigint`).
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor);
        minor
            .map(|minor| Self { minor, ..self })
            .ok_or(MoneyError::Overflow)
    }

    /// # Errors
    /// `CurrencyMismatch`, or `BelowZero`.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        if other.minor > self.minor {
            return Err(MoneyError::BelowZero);
        }
        Ok(Self {
            minor: self.minor - other.minor,
            ..self
        })
    }

    /// The exact decimal in major units: `10.50` for 1050 USD, `1050` for 1050 JPY. No float is involved.
    pub fn to_major_string(self) -> String {
        let digits = usize::from(self.currency.exponent());
        if digits == 0 {
            return self.minor.to_string();
        }
        let scale = scale(self.currency);
        format!("{}.{:0digits$}", self.minor / scale, self.minor % scale)
    }

    /// Reads an exact decimal in major units, as an upstream writes it: `10.5`, `10.50` and `10.500` are 1050 USD.
    ///
    /// # Errors
    /// `Malformed` for signs, exponents, separators, or a point without digits on both sides; `ExcessDecimals` when
    /// a digit other than zero lies beyond the minor unit; `Overflow`.
    pub fn parse_major(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(MoneyError::Malformed),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(MoneyError::Malformed);
        }
        let kept = usize::from(currency.exponent());
        let (fraction, excess) = fraction.split_at(fraction.len().min(kept));
        if excess.bytes().any(|b| b != b'0') {
            return Err(MoneyError::ExcessDecimals);
        }
        let padding = std::iter::repeat_n(b'0', kept - fraction.len());
        let mut minor: i64 = 0;
        for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
            minor = minor
                .checked_mul(10)
                .and_then(|m| m.checked_add(i64::from(digit - b'0')))
                .ok_or(MoneyError::Overflow)?;
        }
        Self::new(minor, currency)
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            Ok(())
        } else {
            Err(MoneyError::CurrencyMismatch)
        }
    }
}

fn scale(currency: Currency) -> i64 {
    10_i64.pow(u32::from(currency.exponent()))
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_major_string(), self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Money({self})")
    }
}

#[cfg(test)]
mod tests;
