//! Finds card numbers in text that is about to be stored.
//!
//! Two rules for two dangers. [`contains_pan`] refuses a caller's text, so it must hardly ever be wrong about an
//! order number; [`redact`] cleans texts that an upstream wrote, where a digit too many costs nothing.
//!
//! Text is cut into *chains*: digit groups with single separators (space, dash, dot, underscore) between them. A text
//! contains a card number if one of these has the length and first digits of a card scheme and passes the Luhn test:
//! 1. a group on its own: digits that touch no other digit;
//! 2. a whole chain, however it is cut (`4 0 1 2 …`);
//! 3. neighbouring groups cut as cards are printed: 4-4-4-…, 4-6-5 or 4-6-4.
//!
//! UUIDs and hexadecimal digests are skipped: about one random UUID in 1,800 would look like a card by chance, and UUIDs are
//! what idempotency keys are made of. Dates begin with 19 or 20 and Unix times, until 2033, with 1: no scheme issues
//! these. A plain number of 16 digits that begins with 2 to 6 is refused about once in thirteen.

use std::borrow::Cow;

use serde_json::Value;

/// What [`redact`] leaves in place of digits.
const REDACTED: &str = "[redacted]";
/// The shortest number that [`contains_pan`] looks for; those of 12 digits (Maestro) went out of issue.
const PAN_DIGITS_MIN: usize = 13;
/// The shortest number that [`redact`] takes out.
const REDACTED_DIGITS_MIN: usize = 12;
/// Separators between two digits of a number that [`redact`] takes out: as many as in ` - `.
const LOOSE_GAP_MAX: usize = 3;

/// Whether the text holds a card number by the rule above.
pub fn contains_pan(text: &str) -> bool {
    // Nearly every text ends here, UUIDs included: letters cut their digits short.
    if digits_in_longest_chain(text) < PAN_DIGITS_MIN {
        return false;
    }
    let shown: Vec<char> = text.chars().collect();
    let hidden = identifiers(&shown);
    chains(&shown, &hidden).iter().any(Chain::holds_pan)
}

/// Whether any name, text or number in the document holds a card number.
pub fn json_contains_pan(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => false,
        Value::Number(number) => contains_pan(&number.to_string()),
        Value::String(text) => contains_pan(text),
        Value::Array(items) => items.iter().any(json_contains_pan),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| contains_pan(name) || json_contains_pan(value)),
    }
}

/// Replaces every sequence of 12 or more digits, with up to three separators between any two, by `[redacted]`.
///
/// Neither prefix, length nor check digit is asked: an upstream that cuts or pads the number it repeats back must not
/// get it past us.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut cleaned = String::new();
    let mut kept_until = 0;
    for number in spaced_numbers(text.char_indices()) {
        if !number.may_be_pan() {
            continue;
        }
        cleaned.push_str(&text[kept_until..number.start()]);
        cleaned.push_str(REDACTED);
        // Digits may have more than one byte.
        let last = text[number.end()..].chars().next();
        kept_until = number.end() + last.map_or(0, char::len_utf8);
    }
    if kept_until == 0 {
        return Cow::Borrowed(text);
    }
    cleaned.push_str(&text[kept_until..]);
    Cow::Owned(cleaned)
}

/// Digits that a reader takes for one number: at most three separators between any two (` - `).
#[derive(Debug, Default)]
pub struct SpacedNumber {
    /// Each digit's place and value; never empty.
    digits: Vec<(usize, u8)>,
}

impl SpacedNumber {
    /// The place of its first digit.
    pub fn start(&self) -> usize {
        self.digits.first().map_or(0, |(place, _)| *place)
    }

    /// The place of its last digit.
    pub fn end(&self) -> usize {
        self.digits.last().map_or(0, |(place, _)| *place)
    }

    /// The places and values of its digits.
    pub fn digits(&self) -> &[(usize, u8)] {
        &self.digits
    }

    /// Whether it is as long as a card number, by the rule of [`redact`].
    pub fn may_be_pan(&self) -> bool {
        self.digits.len() >= REDACTED_DIGITS_MIN
    }
}

/// The numbers in a text whose characters come with their places, in order.
pub fn spaced_numbers(text: impl IntoIterator<Item = (usize, char)>) -> Vec<SpacedNumber> {
    let mut found = Vec::new();
    let mut open = SpacedNumber::default();
    let mut gap = 0;
    for (place, c) in text {
        if let Some(digit) = digit_of(c) {
            open.digits.push((place, digit));
            gap = 0;
        } else if gap < LOOSE_GAP_MAX && is_loose_separator(c) {
            gap += 1;
        } else if !open.digits.is_empty() {
            found.push(std::mem::take(&mut open));
        }
    }
    if !open.digits.is_empty() {
        found.push(open);
    }
    found
}

/// The Luhn test (ISO/IEC 7812-1, annex B) over decimal digits. An empty slice does not pass.
pub(crate) fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| match (place % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

/// Digit groups with single separators between them.
#[derive(Default)]
struct Chain {
    digits: Vec<u8>,
    /// Where each group starts in `digits`.
    starts: Vec<usize>,
}

impl Chain {
    fn group_end(&self, group: usize) -> usize {
        let next = self.starts.get(group + 1);
        next.copied().unwrap_or(self.digits.len())
    }

    fn group_len(&self, group: usize) -> usize {
        self.group_end(group) - self.starts[group]
    }

    fn holds_pan(&self) -> bool {
        if self.digits.len() < PAN_DIGITS_MIN {
            return false;
        }
        if is_card_number(&self.digits) {
            return true;
        }
        (0..self.starts.len()).any(|first| {
            let alone = &self.digits[self.starts[first]..self.group_end(first)];
            is_card_number(alone) || self.printed_card_starts_at(first)
        })
    }

    /// 4-4-4 with one to seven digits after them in one or two groups; 4-6-5 (American Express) and 4-6-4 (Diners Club).
    fn printed_card_starts_at(&self, first: usize) -> bool {
        let last = self.starts.len() - 1;
        let lengths: Vec<usize> = (first..=last.min(first + 4))
            .map(|group| self.group_len(group))
            .collect();
        let group_counts: &[usize] = match lengths[..] {
            [4, 4, 4, _, ..] => &[4, 5],
            [4, 6, 4 | 5, ..] => &[3],
            _ => &[],
        };
        group_counts
            .iter()
            .filter(|&&count| count <= lengths.len())
            .any(|&count| {
                let end = self.group_end(first + count - 1);
                is_card_number(&self.digits[self.starts[first]..end])
            })
    }
}

/// An upper bound that allocates nothing: no identifier is skipped.
fn digits_in_longest_chain(text: &str) -> usize {
    let (mut longest, mut count, mut gap) = (0, 0, 0);
    for c in text.chars() {
        if digit_of(c).is_some() {
            count += 1;
            gap = 0;
            longest = longest.max(count);
        } else if gap == 0 && is_separator(c) {
            gap = 1;
        } else {
            count = 0;
        }
    }
    longest
}

/// Cuts the text into chains; `hidden` characters count as letters.
fn chains(shown: &[char], hidden: &[bool]) -> Vec<Chain> {
    let mut found = Vec::new();
    let mut chain = Chain::default();
    // None: at the start or after a letter. Some(n): n separators since the last digit.
    let mut gap: Option<usize> = None;
    for (c, hidden) in shown.iter().zip(hidden) {
        match (digit_of(*c).filter(|_| !hidden), gap) {
            (Some(digit), Some(separators)) if separators <= 1 => {
                if separators == 1 {
                    chain.starts.push(chain.digits.len());
                }
                chain.digits.push(digit);
                gap = Some(0);
            }
            (Some(digit), _) => {
                found.push(std::mem::take(&mut chain));
                chain.starts.push(0);
                chain.digits.push(digit);
                gap = Some(0);
            }
            (None, Some(separators)) if !hidden && is_separator(*c) => gap = Some(separators + 1),
            (None, _) => gap = None,
        }
    }
    found.push(chain);
    found
}

/// Marks the characters of UUIDs and of hexadecimal identifiers (32, 40 or 64 digits, not all decimal).
fn identifiers(shown: &[char]) -> Vec<bool> {
    let mut hidden = vec![false; shown.len()];
    let mut at = 0;
    while at < shown.len() {
        let inside_word = at > 0 && shown[at - 1].is_ascii_alphanumeric();
        match identifier_len(&shown[at..]).filter(|_| !inside_word) {
            Some(len) => {
                hidden[at..at + len].fill(true);
                at += len;
            }
            None => at += 1,
        }
    }
    hidden
}

fn identifier_len(rest: &[char]) -> Option<usize> {
    let is_uuid = rest.len() >= 36
        && rest[..36].iter().enumerate().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => *c == '-',
            14 => matches!(c, '1'..='8'),
            19 => matches!(c.to_ascii_lowercase(), '8' | '9' | 'a' | 'b'),
            _ => c.is_ascii_hexdigit(),
        });
    let len = if is_uuid {
        36
    } else {
        rest.iter().take_while(|c| c.is_ascii_hexdigit()).count()
    };
    let ends_word = rest.get(len).is_none_or(|c| !c.is_ascii_alphanumeric());
    let is_digest =
        matches!(len, 32 | 40 | 64) && rest[..len].iter().any(char::is_ascii_alphabetic);
    (ends_word && (is_uuid || is_digest)).then_some(len)
}

/// Whether these digits have a scheme's first digits and length, and pass the Luhn test.
fn is_card_number(digits: &[u8]) -> bool {
    if !(13..=19).contains(&digits.len()) {
        return false;
    }
    let first_four = digits[..4]
        .iter()
        .fold(0_u16, |number, digit| number * 10 + u16::from(*digit));
    let lengths: &[usize] = match first_four {
        // Visa.
        4000..=4999 => &[13, 16, 19],
        // Mastercard, Troy.
        2221..=2720 | 5100..=5599 | 9792 => &[16],
        // American Express.
        3400..=3499 | 3700..=3799 => &[15],
        // Diners Club.
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => &[14, 15, 16, 17, 18, 19],
        // Mir and Borica, JCB, UnionPay and RuPay outside 6.
        2200..=2205 | 3528..=3589 | 8100..=8199 => &[16, 17, 18, 19],
        // Maestro, Discover, UnionPay, RuPay, Elo, Verve.
        5000..=5099 | 5600..=6999 => &[13, 14, 15, 16, 17, 18, 19],
        _ => &[],
    };
    lengths.contains(&digits.len()) && passes_luhn(digits)
}

/// ASCII, full-width, Arabic-Indic and extended Arabic-Indic digits: a form typed on such a keyboard stores these.
fn digit_of(c: char) -> Option<u8> {
    let zero = match c {
        '0'..='9' => '0',
        '\u{0660}'..='\u{0669}' => '\u{0660}',
        '\u{06F0}'..='\u{06F9}' => '\u{06F0}',
        '\u{FF10}'..='\u{FF19}' => '\u{FF10}',
        _ => return None,
    };
    u8::try_from(u32::from(c) - u32::from(zero)).ok()
}

fn is_separator(c: char) -> bool {
    matches!(
        c,
        ' ' | '-' | '.' | '_' | '\u{00A0}' | '\u{2009}'..='\u{2015}' | '\u{202F}' | '\u{2212}'
    )
}

fn is_loose_separator(c: char) -> bool {
    is_separator(c) || matches!(c, ',' | '/' | '*' | '+' | '\'' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests;
