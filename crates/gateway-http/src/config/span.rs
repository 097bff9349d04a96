//! Spans of time as they are written in the configuration: `300ms`, `5s`, `10m`, `1h`, `400d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// # Errors
/// What the right form is.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "a span of time is digits and a unit: 300ms, 5s, 10m, 1h, 400d";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| FORM)?;
    let seconds_per_unit: u64 = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(FORM),
    };
    let seconds = number
        .checked_mul(seconds_per_unit)
        .filter(|seconds| *seconds <= 100 * 366 * 86_400);
    seconds
        .map(Duration::from_secs)
        .ok_or("a span of time is at most 100 years")
}

/// In the largest unit that leaves no rest.
pub fn show(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    let unit = units
        .into_iter()
        .find(|(_, size)| millis > 0 && millis.is_multiple_of(*size));
    unit.map_or_else(
        || format!("{millis}ms"),
        |(name, size)| format!("{}{name}", millis / size),
    )
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

pub(super) mod list {
    use super::{Deserialize, Deserializer, Duration, de, parse};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let texts: Vec<String> = Vec::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| parse(text).map_err(de::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_digits_and_a_unit() {
        assert_eq!(parse("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        assert_eq!(parse("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(parse("400d"), Ok(Duration::from_hours(9_600)));
        for refused in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5s",
            "5sec",
            "5S",
            "99999999999999999999s",
            "99999999999d",
        ] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn spans_are_shown_as_they_are_written() {
        for text in ["300ms", "5s", "90s", "10m", "1h", "400d", "0ms"] {
            assert_eq!(show(parse(text).expect("a span")), text);
        }
    }
}
