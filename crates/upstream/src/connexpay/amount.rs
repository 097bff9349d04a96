//! Amounts on the wire: exact decimals in major units, never through a float.

use gateway_core::money::{Currency, Money};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An amount as a JSON number with the currency's decimals: `15.50`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Major(pub(super) Money);

impl Serialize for Major {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = RawValue::from_string(self.0.to_major_string());
        number
            .expect("digits with at most one point between them are JSON")
            .serialize(serializer)
    }
}

/// A number as the processor wrote it, digit by digit: `1500`, `15.5`, `19.740`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal(String);

impl Decimal {
    /// The exact amount; nothing for a sign, an exponent, or a fraction of a minor unit.
    pub(super) fn money(&self, currency: Currency) -> Option<Money> {
        Money::parse_major(&self.0, currency).ok()
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        // Their samples write numbers; a quoted number is as exact.
        let quoted = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        Ok(Self(quoted.unwrap_or(text).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd() -> Currency {
        Currency::parse("USD").unwrap()
    }

    fn read(json: &str) -> Option<i64> {
        serde_json::from_str::<Decimal>(json)
            .unwrap()
            .money(usd())
            .map(Money::minor)
    }

    #[test]
    fn amounts_are_written_with_two_decimals() {
        let write =
            |minor| serde_json::to_string(&Major(Money::new(minor, usd()).unwrap())).unwrap();
        assert_eq!(write(150_000), "1500.00");
        assert_eq!(write(1_550), "15.50");
        assert_eq!(write(1), "0.01");
        assert_eq!(write(99_999_999), "999999.99");
        // 2^53 + 1 cents: no double holds it.
        assert_eq!(write(9_007_199_254_740_993), "90071992547409.93");
    }

    #[test]
    fn amounts_are_read_exactly() {
        assert_eq!(read("1500"), Some(150_000));
        assert_eq!(read("15.5"), Some(1_550));
        assert_eq!(read("19.740"), Some(1_974));
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("\"15.50\""), Some(1_550));
        assert_eq!(read("90071992547409.93"), Some(9_007_199_254_740_993));
        assert_eq!(read("15.505"), None);
        assert_eq!(read("-15.50"), None);
        assert_eq!(read("1.5e3"), None);
        assert_eq!(read("{}"), None);
    }
}
