//! Which of the names that a caller made up an answer may repeat: those that can be nothing but names.

/// What stands in place of a name that is not repeated. No name that is repeated looks like it.
pub const HIDDEN: &str = "*";

/// Longer than any field of any processor that we know.
const LENGTH_MAX: usize = 40;
/// A CVV has three digits, and separators do not hide one: all digits of the name count. `line2` has one.
const DIGITS_MAX: usize = 2;

/// The name if it is a short plain identifier with hardly a digit in it, else [`HIDDEN`]: callers mix up names and values,
/// and then the name of a field is a card number, a security code, a token or a person.
pub fn shown_name(name: &str) -> &str {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    if begins && is_plain && name.len() <= LENGTH_MAX && digits <= DIGITS_MAX {
        name
    } else {
        HIDDEN
    }
}

/// Appends a member's name to a JSON pointer (RFC 6901), as far as it may be shown.
pub fn pointer_to(parent: &str, name: &str) -> String {
    // Nothing to escape: a name that is shown holds neither `~` nor `/`.
    format!("{parent}/{}", shown_name(name))
}

/// Whether a pointer leads through a name that is not shown.
pub fn hides_name(pointer: &str) -> bool {
    pointer.split(['/', ':']).any(|name| name == HIDDEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_are_shown() {
        for name in [
            "account",
            "line2",
            "billing_address1",
            "expiryMonth",
            "_id",
            "x-note",
            "cvv2",
            "card_holder_phone_number",
            &"x".repeat(LENGTH_MAX),
        ] {
            assert_eq!(shown_name(name), name);
        }
        assert_eq!(pointer_to("/risk", "flight_data"), "/risk/flight_data");
    }

    #[test]
    fn what_may_be_card_data_is_not() {
        for name in [
            "4012000098765439",
            "card4012000098765439",
            "4012 0000-98765439",
            "４０１２００００９８７６５４３９",
            "735",
            "0735",
            "cvv0735",
            "c7v3v5",
            "cvv-0_7-3-5",
            "0 7 3 5",
            "٧٣٥",
            "cvv٧٣٥",
            "Jane Doe",
            "Kv8TqYw2SentCanaryToken5Lm",
            "MDczNQ==",
            "nr959X7eCIXI0473",
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2ln",
            "a/b",
            "a~b",
            "a.b",
            "a\u{0}b",
            "",
            "*",
            &"x".repeat(LENGTH_MAX + 1),
        ] {
            assert_eq!(shown_name(name), HIDDEN, "{name:?}");
            let pointer = pointer_to("/risk", name);
            assert_eq!(pointer, "/risk/*");
            assert!(hides_name(&pointer) && hides_name(&format!("{pointer}/b")));
        }
        assert!(!hides_name("/risk/flight_passengers/1/id") && !hides_name("query:limit"));
    }
}
