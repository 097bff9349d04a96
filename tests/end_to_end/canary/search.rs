//! Finds a card and a token in whatever was written, however they are spelled.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

/// Digits of a card number in a row that nobody may see: more than the beginning and the last four together.
const WINDOW: usize = 12;

/// Between the digits of a number that is written digit by digit.
const BETWEEN: [&str; 4] = [" ", "-", ".", " - "];

/// What must leave no trace. Each value is one that nothing else is by chance.
#[derive(Clone, Debug)]
pub(super) struct Canary {
    pub(super) number: String,
    /// Begins with a zero, as no count, port or amount does.
    pub(super) code: String,
    /// What the processor's access tokens begin with.
    pub(super) token: String,
    /// What they are fetched with.
    pub(super) password: String,
    pub(super) holder: String,
}

impl Canary {
    /// What is sent on every path.
    pub(super) fn sent() -> Self {
        Self {
            number: with_check_digit("471692035518674"),
            code: "0735".to_owned(),
            token: "Kv8TqYw2SentCanaryToken5Lm".to_owned(),
            password: "Vq>6~?SentCanary".to_owned(),
            holder: "Zephyrine Quillfeather".to_owned(),
        }
    }

    /// What is put into each place to prove the search. No valid card number, or nobody would take it.
    pub(super) fn planted() -> Self {
        Self {
            number: "4539178206443191".to_owned(),
            code: "0462".to_owned(),
            token: "Hn3RzXp7PlantedCanaryToken9Jd".to_owned(),
            password: "Wz>7~?PlantedCanary".to_owned(),
            holder: "Balthasar Plantagenista".to_owned(),
        }
    }

    fn values(&self) -> [(&'static str, &str); 5] {
        [
            ("number", &self.number),
            ("code", &self.code),
            ("token", &self.token),
            ("password", &self.password),
            ("holder", &self.holder),
        ]
    }

    /// Each value in each spelling: what it is, and the text.
    pub(super) fn spellings(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (name, value) in self.values() {
            let bytes = value.as_bytes();
            let mut add = |form: &str, text: String| all.push((format!("{name}, {form}"), text));
            add("plain", format!("a {value} b"));
            add("base64", format!("a {} b", STANDARD.encode(bytes)));
            add("hexadecimal", format!("a {} b", hex(bytes)));
            add("hexadecimal", format!("a {} b", hex(bytes).to_uppercase()));
            add("percent", format!("a {} b", percent(bytes)));
            add("percent", format!("a {} b", percent(bytes).to_uppercase()));
            add("JSON", format!("a {} b", json(bytes)));
            add("JSON", format!("a {} b", json(bytes).replace('\\', "\\\\")));
            for before in ["?", "??", "???"] {
                let document = format!("{before}{value}\"}}");
                add("base64", format!("a {} b", STANDARD.encode(&document)));
                add("base64", format!("a {} b", URL_SAFE.encode(&document)));
            }
            add("base64", format!("a {} b", URL_SAFE_NO_PAD.encode(bytes)));
            add("bytes", format!("a {bytes:?} b"));
        }
        let groups = |between: &str| {
            let digits: Vec<char> = self.number.chars().collect();
            let groups: Vec<String> = digits.chunks(4).map(String::from_iter).collect();
            groups.join(between)
        };
        for between in [" ", "-", "%20", "+", ", ", " - "] {
            all.push(("number, plain".to_owned(), groups(between)));
        }
        for between in BETWEEN {
            for (name, value) in [("number", &self.number), ("code", &self.code)] {
                let text = format!("a {} b", spaced(value, between));
                all.push((format!("{name}, plain"), text));
            }
        }
        // A part of it.
        all.push(("number, plain".to_owned(), self.number[..WINDOW].to_owned()));
        let holder = self.holder.replace(' ', "%20").to_uppercase();
        all.push(("holder, plain".to_owned(), holder));
        all
    }

    /// Where the text holds any of it: what, how it is spelled, and what stands around it.
    pub(super) fn found_in(&self, text: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(text).replace("%20", " ");
        // However often it was put into a string of a string.
        let text = single_backslashes(&text);
        let lower = text.to_ascii_lowercase();
        let mut found = Vec::new();
        let mut report = |what: &str, at: Option<(usize, usize)>| {
            if let Some((from, to)) = at {
                found.push(format!("{what}: {}", around(&text, from, to)));
            }
        };
        let at = |needle: &str| text.find(needle).map(|at| (at, at + needle.len()));
        let at_lower = |needle: &str| lower.find(needle).map(|at| (at, at + needle.len()));

        report("number, plain", digits_of(&text, &self.number));
        report("code, plain", alone(&text, &self.code));
        report("token, plain", at(&self.token));
        report("password, plain", at(&self.password));
        let holder = self.holder.to_ascii_lowercase();
        report(
            "holder, plain",
            at_lower(&holder).or_else(|| at_lower(&holder.replace(' ', "+"))),
        );
        for (name, value) in self.values() {
            let bytes = value.as_bytes();
            // Four digits of base64 occur by chance, so a code is looked for with what the simulator puts around it.
            let fragments: &[String] = if name == "code" {
                let documents = ["", "?", "??", "???"].map(|before| {
                    let after = if before.is_empty() { "" } else { "\"}" };
                    STANDARD.encode(format!("{before}{value}{after}"))
                });
                &documents.map(|text| text.trim_end_matches('=').to_owned())
            } else {
                &base64_fragments(bytes)
            };
            let encoded = fragments.iter().find_map(|fragment| {
                // The alphabet for URLs, too.
                let other = fragment.replace('+', "-").replace('/', "_");
                at(fragment).or_else(|| at(&other))
            });
            report(&format!("{name}, base64"), encoded);
            let hex = hex(bytes);
            // Eight digits of hexadecimal occur by chance, inside longer ones.
            let hexadecimal = if name == "code" {
                alone(&lower, &hex)
            } else {
                at_lower(&hex)
            };
            report(&format!("{name}, hexadecimal"), hexadecimal);
            report(
                &format!("{name}, percent"),
                at_lower(&percent(bytes).replace("%20", " ")),
            );
            report(&format!("{name}, JSON"), at_lower(&json(bytes)));
            let listed = format!("{bytes:?}");
            let compact = listed.replace(' ', "");
            let listed = [listed, compact];
            let inside = |list: &String| at(list.trim_matches(['[', ']']));
            report(&format!("{name}, bytes"), listed.iter().find_map(inside));
        }
        found
    }
}

/// Appends the digit that the Luhn test asks for.
fn with_check_digit(digits: &str) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0') * if place % 2 == 0 { 2 } else { 1 };
            digit / 10 + digit % 10
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02x}").expect("a string takes it");
        text
    })
}

fn json(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "\\u{byte:04x}").expect("a string takes it");
        text
    })
}

fn single_backslashes(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\\' || !single.ends_with('\\') {
            single.push(c);
        }
    }
    single
}

fn spaced(value: &str, between: &str) -> String {
    let all: Vec<String> = value.chars().map(String::from).collect();
    all.join(between)
}

/// What is left of the bytes in the base64 of any document that holds them: a place for each offset modulo three.
fn base64_fragments(bytes: &[u8]) -> [String; 3] {
    let fragment = |offset: usize| {
        let document = [&vec![0; offset], bytes].concat();
        let encoded = STANDARD.encode(&document);
        let (from, to) = ((offset * 8).div_ceil(6), document.len() * 8 / 6);
        encoded[from..to].to_owned()
    };
    [0, 1, 2].map(fragment)
}

/// Twelve digits of the number in a row, with at most three characters that are no letters between any two.
fn digits_of(text: &str, number: &str) -> Option<(usize, usize)> {
    let mut places: Vec<usize> = Vec::new();
    let mut digits = String::new();
    let mut gap = 0;
    let windows: Vec<&str> = (0..=number.len() - WINDOW)
        .map(|from| &number[from..from + WINDOW])
        .collect();
    let held = |digits: &str, places: &[usize]| {
        let at = windows.iter().find_map(|window| digits.find(window))?;
        Some((places[at], places[at + WINDOW - 1] + 1))
    };
    for (at, byte) in text.bytes().enumerate() {
        if byte.is_ascii_digit() {
            digits.push(char::from(byte));
            places.push(at);
            gap = 0;
        } else {
            gap += 1;
            if byte.is_ascii_alphabetic() || gap > 3 {
                if digits.len() >= WINDOW
                    && let Some(found) = held(&digits, &places)
                {
                    return Some(found);
                }
                digits.clear();
                places.clear();
            }
        }
    }
    held(&digits, &places)
}

/// The value between characters that are no letters and no digits, perhaps with single separators in it.
fn alone(text: &str, value: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let spellings = [""].iter().chain(&BETWEEN);
    let mut spellings = spellings.map(|between| spaced(value, between));
    spellings.find_map(|spelling| {
        text.match_indices(spelling.as_str())
            .map(|(at, _)| (at, at + spelling.len()))
            .find(|&(from, to)| !grows(bytes, from, -1) && !grows(bytes, to - 1, 1))
    })
}

/// Whether the word goes on beyond this place: by a letter or digit, or by one behind a dash or a point, as in UUIDs and
/// fractions.
fn grows(bytes: &[u8], from: usize, step: isize) -> bool {
    let at = |distance: isize| {
        let place = from.checked_add_signed(step * distance)?;
        bytes.get(place).copied()
    };
    match at(1) {
        Some(b'-' | b'.') => at(2).is_some_and(|byte| byte.is_ascii_alphanumeric()),
        next => next.is_some_and(|byte| byte.is_ascii_alphanumeric()),
    }
}

fn around(text: &str, from: usize, to: usize) -> String {
    let start = (0..=from.saturating_sub(60))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let end = (to + 60).min(text.len());
    let end = (end..=text.len()).find(|at| text.is_char_boundary(*at));
    text[start.unwrap_or(0)..end.unwrap_or(text.len())].to_owned()
}

#[test]
fn every_spelling_of_every_value_is_found_and_only_of_its_own() {
    let (sent, planted) = (Canary::sent(), Canary::planted());
    for (canary, other) in [(&sent, &planted), (&planted, &sent)] {
        for (what, text) in canary.spellings() {
            let found = canary.found_in(format!("17:03:22 0x1f {text} ok").as_bytes());
            let is_found = found
                .iter()
                .any(|found| found.starts_with(&format!("{what}: ")));
            assert!(is_found, "{what}, {text}: {found:?}");
            assert_eq!(other.found_in(text.as_bytes()), Vec::<String>::new());
        }
    }
    let innocent = "port 10735, 2026-11-20T14:09:00.0735Z, 01a1fa16-0735-7a3a, 07351, 471692xx8674";
    assert_eq!(sent.found_in(innocent.as_bytes()), Vec::<String>::new());
}
