//! The processor's codes and error texts, and what each means to us.
//!
//! `codes.csv` lists the 524 "Declined Response Codes" and `errors.csv` the 168 named errors of the ConnexPay API
//! reference (Sales API v1, 2018); the last column of each, the class, is our reading. Two codes that the reference
//! lists among the declines although their text says success (D3200, D3207) are classed as system errors, so that the
//! outcome is looked up.

use std::collections::HashMap;
use std::sync::LazyLock;

use gateway_core::connector::DeclineClass;

/// What a code or a text of this processor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    InvalidRequest,
    /// Their fault; the outcome is possibly unknown.
    SystemError,
    Configuration,
    Authentication,
    Hard,
    Soft,
    Fraud,
    Limit,
    Duplicate,
    NotFound,
}

impl Class {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "invalid_request" => Self::InvalidRequest,
            "system_error" => Self::SystemError,
            "configuration" => Self::Configuration,
            "auth" => Self::Authentication,
            "decline_hard" => Self::Hard,
            "decline_soft" => Self::Soft,
            "fraud" => Self::Fraud,
            "limit" => Self::Limit,
            "duplicate" => Self::Duplicate,
            "not_found" => Self::NotFound,
            _ => return None,
        })
    }

    /// What callers are told; nothing for a system error, which proves nothing.
    pub(super) fn decline(self) -> Option<DeclineClass> {
        Some(match self {
            Self::SystemError => return None,
            Self::InvalidRequest => DeclineClass::InvalidRequest,
            Self::Configuration => DeclineClass::Configuration,
            Self::Authentication => DeclineClass::Authentication,
            Self::Hard => DeclineClass::Hard,
            Self::Soft => DeclineClass::Soft,
            Self::Fraud => DeclineClass::Fraud,
            Self::Limit => DeclineClass::Limit,
            Self::Duplicate => DeclineClass::Duplicate,
            Self::NotFound => DeclineClass::NotFound,
        })
    }

    /// Whether the answer is about the payment (a decline), and not about the request or the set-up (a refusal).
    pub(super) fn is_decline(self) -> bool {
        matches!(
            self,
            Self::Hard | Self::Soft | Self::Fraud | Self::Limit | Self::Duplicate
        )
    }
}

/// A listed code or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) class: Class,
    /// Their own words from the table, so that no echoed text need be stored.
    pub(super) message: &'static str,
}

/// A code such as `D2020`, in either case.
pub(super) fn by_code(code: &str) -> Option<Listed> {
    CODES
        .get(code.trim().to_ascii_uppercase().as_str())
        .copied()
}

/// An error text, compared without case, outer and repeated spaces, final full stop and trailing tag (`B.TA.C02`).
pub(super) fn by_text(text: &str) -> Option<Listed> {
    // No listed text is longer than 200 characters; with the placeholders' own text, a thousand is plenty.
    if text.len() > 1_000 {
        return None;
    }
    let text = normalized(text);
    if text.is_empty() {
        return None;
    }
    // The order decides nothing: a test shows that no two patterns of different classes match the same text.
    let (_, listed) = TEXTS.iter().find(|(pattern, _)| matches(pattern, &text))?;
    Some(*listed)
}

/// The code that a refusal names after the words "Error code": `D2020` in `Error code D2020. CVV2 …`, `05.1A` in
/// `Error code (05.1A)`. Whether it is listed is another question.
pub(super) fn embedded_code(text: &str) -> Option<&str> {
    const WORDS: &str = "error code";
    // ASCII lower-casing keeps byte offsets.
    let at = text.to_ascii_lowercase().find(WORDS)?;
    let rest = text[at + WORDS.len()..].trim_start_matches([' ', ':', '(', '#', '[', '\'', '"']);
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let end = rest.find(|c: char| !allowed(c)).unwrap_or(rest.len());
    let code = rest[..end].trim_end_matches('.');
    let plausible = code.len() <= 8 && code.bytes().any(|b| b.is_ascii_digit());
    plausible.then_some(code)
}

/// `A0000`, `A0014`, …: the processor's yes. `ARP00`, a risk check without an authorisation, is none.
pub(super) fn is_success(code: &str) -> bool {
    let code = code.trim().as_bytes();
    code.len() == 5
        && code[0].eq_ignore_ascii_case(&b'A')
        && code[1..].iter().all(u8::is_ascii_digit)
}

/// The code for an approval of less than was asked.
pub(super) fn is_partial(code: &str) -> bool {
    code.trim().eq_ignore_ascii_case("A0002")
}

static CODES: LazyLock<HashMap<&'static str, Listed>> = LazyLock::new(|| {
    let rows = rows::<4>(include_str!("codes.csv"));
    rows.map(|[code, message, _, class]| (code, listed(message, class)))
        .collect()
});

static TEXTS: LazyLock<Vec<(Vec<Piece>, Listed)>> = LazyLock::new(|| {
    let rows = rows::<4>(include_str!("errors.csv"));
    let named = rows.map(|[text, _, _, class]| (pattern(text), listed(text, class)));
    // Recorded by users of the API for a body that its model validation refuses; not in the reference.
    let recorded = [("The request is invalid.", Class::InvalidRequest)]
        .map(|(message, class)| (pattern(message), Listed { class, message }));
    named.chain(recorded).collect()
});

fn listed(message: &'static str, class: &str) -> Listed {
    Listed {
        class: Class::parse(class)
            .expect("the tables are part of the program, and a test reads each class"),
        message,
    }
}

/// The rows below the heading. The tables are ours: fields in double quotes, without line breaks.
fn rows<const COLUMNS: usize>(table: &str) -> impl Iterator<Item = [&str; COLUMNS]> {
    table
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = [""; COLUMNS];
            let mut rest = line;
            for field in &mut fields {
                (*field, rest) = match rest.strip_prefix('"') {
                    Some(quoted) => {
                        let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
                        (text, after.strip_prefix(',').unwrap_or(after))
                    }
                    None => rest.split_once(',').unwrap_or((rest, "")),
                };
            }
            fields
        })
}

/// A part of a listed text.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `(entity)`, `(transaction)`: up to four words.
    Name,
    /// `(error code)`, `(error message)`: anything.
    Anything,
}

fn pattern(listed: &str) -> Vec<Piece> {
    const PLACEHOLDERS: [&str; 4] = [
        "(entity)",
        "(transaction)",
        "(error code)",
        "(error message)",
    ];
    let listed = normalized(listed);
    let mut pieces = Vec::new();
    let mut rest = listed.as_str();
    loop {
        let found = PLACEHOLDERS
            .iter()
            .filter_map(|placeholder| rest.find(placeholder).map(|at| (at, *placeholder)));
        let Some((at, text)) = found.min_by_key(|(at, _)| *at) else {
            break;
        };
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].to_owned()));
        }
        let is_name = text == "(entity)" || text == "(transaction)";
        pieces.push(if is_name {
            Piece::Name
        } else {
            Piece::Anything
        });
        rest = &rest[at + text.len()..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    pieces
}

fn matches(pattern: &[Piece], text: &str) -> bool {
    match pattern {
        [] => text.is_empty(),
        [Piece::Text(exact), rest @ ..] => text
            .strip_prefix(exact.as_str())
            .is_some_and(|text| matches(rest, text)),
        [placeholder, rest @ ..] => {
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            ends.into_iter()
                .any(|end| fits(placeholder, &text[..end]) && matches(rest, &text[end..]))
        }
    }
}

fn fits(placeholder: &Piece, text: &str) -> bool {
    match placeholder {
        Piece::Text(exact) => exact == text,
        Piece::Anything => true,
        Piece::Name => {
            let named = text.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b' ' | b'-' | b'_' | b'(' | b')')
            });
            named && text.len() <= 40 && !text.starts_with(' ') && text.split(' ').count() <= 4
        }
    }
}

/// Lower case, single spaces, no final full stop, no trailing tag such as `B.TA.C02`.
fn normalized(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut words: Vec<&str> = lower.split_whitespace().collect();
    if words.len() > 1 && words.last().is_some_and(|word| is_tag(word)) {
        words.pop();
    }
    words.join(" ").trim_end_matches('.').to_owned()
}

/// `b.ta.c02`, `b.db.04`: where in their program the text comes from.
fn is_tag(word: &str) -> bool {
    let mut parts = word.split('.');
    let place = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
    parts.next() == Some("b")
        && parts
            .next()
            .is_some_and(|part| !part.is_empty() && place(part))
        && parts
            .next()
            .is_some_and(|part| part.bytes().any(|b| b.is_ascii_digit()))
        && parts.next().is_none()
}

/// For the sandbox, which feeds them hostile input: the tables' reader, and what is made of a text.
#[cfg(feature = "contract")]
pub mod contract {
    /// The rows below the heading.
    pub fn table<const COLUMNS: usize>(text: &str) -> Vec<[&str; COLUMNS]> {
        super::rows(text).collect()
    }

    /// The code that a text names, and what its words mean: a class and the listed text.
    pub fn read(text: &str) -> (Option<&str>, Option<(String, &'static str)>) {
        let listed = super::by_text(text);
        let listed = listed.map(|listed| (format!("{:?}", listed.class), listed.message));
        (super::embedded_code(text), listed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counted(classes: impl Iterator<Item = Class>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for class in classes {
            *counts.entry(format!("{class:?}")).or_default() += 1;
        }
        counts
    }

    fn counts(expected: &[(Class, usize)]) -> BTreeMap<String, usize> {
        expected
            .iter()
            .map(|(class, count)| (format!("{class:?}"), *count))
            .collect()
    }

    #[test]
    fn every_code_is_listed_once_with_its_class() {
        assert_eq!(CODES.len(), 524);
        assert_eq!(include_str!("codes.csv").lines().count(), 525);
        let expected = [
            (Class::InvalidRequest, 206),
            (Class::SystemError, 101),
            (Class::Configuration, 47),
            (Class::Authentication, 40),
            (Class::Hard, 31),
            (Class::Duplicate, 25),
            (Class::Limit, 25),
            (Class::Soft, 23),
            (Class::NotFound, 22),
            (Class::Fraud, 4),
        ];
        assert_eq!(
            counted(CODES.values().map(|listed| listed.class)),
            counts(&expected)
        );
        for (code, listed) in CODES.iter() {
            assert!(
                code.len() == 5 && code.starts_with(['D', 'E', 'F']),
                "{code}"
            );
            assert!(!listed.message.is_empty(), "{code}");
            assert!(!is_success(code), "{code}");
        }
    }

    #[test]
    fn every_named_error_is_listed_with_its_class() {
        let named = &TEXTS[..TEXTS.len() - 1];
        assert_eq!(named.len(), 168);
        let expected = [
            (Class::InvalidRequest, 92),
            (Class::SystemError, 23),
            (Class::Configuration, 20),
            (Class::NotFound, 17),
            (Class::Authentication, 9),
            (Class::Duplicate, 5),
            (Class::Limit, 2),
        ];
        assert_eq!(
            counted(named.iter().map(|(_, listed)| listed.class)),
            counts(&expected)
        );
    }

    #[test]
    fn no_text_has_two_meanings() {
        for (_, listed) in TEXTS.iter() {
            let filled = listed
                .message
                .replace("(entity)", "Sale")
                .replace("(transaction)", "Sale")
                .replace("(error code)", "D2026")
                .replace("(error message)", "Do not honor");
            let text = normalized(&filled);
            let classes: Vec<Class> = TEXTS
                .iter()
                .filter(|(pattern, _)| matches(pattern, &text))
                .map(|(_, listed)| listed.class)
                .collect();
            assert!(!classes.is_empty(), "{filled}");
            assert!(
                classes.iter().all(|class| *class == listed.class),
                "{filled}: {classes:?}"
            );
        }
    }

    #[test]
    fn texts_are_compared_tolerantly() {
        let class = |text| by_text(text).map(|listed| listed.class);
        assert_eq!(
            class("Sale has not been settled"),
            Some(Class::InvalidRequest)
        );
        assert_eq!(
            class("  sale has NOT  been settled. "),
            Some(Class::InvalidRequest)
        );
        assert_eq!(
            class("There is an approved Capture for this AuthOnly already"),
            Some(Class::Duplicate)
        );
        assert_eq!(
            class("No Sale could be found for the given Id"),
            Some(Class::NotFound)
        );
        assert_eq!(
            class("No Auth Only could be found for the given Id"),
            Some(Class::NotFound)
        );
        assert_eq!(class("Invalid AuthOnly GUID"), Some(Class::NotFound));
        assert_eq!(class("Sale not found B.TA.C03"), Some(Class::NotFound));
        assert_eq!(class("Sale not found"), Some(Class::NotFound));
        assert_eq!(class("NoResultFound204"), Some(Class::NotFound));
        let wrapped = "The Sale could not be processed correctly. Error code (D2026). Error message: (Do not honor)";
        assert_eq!(class(wrapped), Some(Class::SystemError));
        assert_eq!(embedded_code(wrapped), Some("D2026"));
    }

    #[test]
    fn unlisted_texts_stay_unlisted() {
        for text in [
            "",
            " ",
            ".",
            "B.TA.C03",
            "Sale",
            "The request",
            "No  could be found for the given Id",
            "Gateway Timeout",
        ] {
            assert_eq!(by_text(text), None, "{text:?}");
        }
        assert_eq!(by_code("D9999"), None);
        assert_eq!(by_code("05"), None);
    }

    #[test]
    fn codes_are_found_behind_the_words() {
        assert_eq!(
            embedded_code("Error code D2020. CVV2 verification failed."),
            Some("D2020")
        );
        assert_eq!(embedded_code("ERROR CODE: d2020 and more"), Some("d2020"));
        assert_eq!(
            embedded_code("Error code 05.1A. Strong authentication required"),
            Some("05.1A")
        );
        assert_eq!(embedded_code("Error code. D2020"), None);
        assert_eq!(embedded_code("Error code unknown"), None);
        assert_eq!(embedded_code("Error code 4012000098765439"), None);
        assert_eq!(embedded_code("D2020"), None);
        assert_eq!(
            by_code("d2020").map(|listed| listed.class),
            Some(Class::Soft)
        );
    }

    #[test]
    fn only_a_codes_are_success() {
        assert!(is_success("A0000") && is_success("A0014") && is_success("a0002 "));
        assert!(
            !is_success("ARP00") && !is_success("D2026") && !is_success("0") && !is_success("")
        );
        assert!(is_partial("A0002") && !is_partial("A0000"));
    }
}
