//! Spells names and addresses in ASCII: this API refuses other characters in customer fields.

use std::ops::Deref;

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

/// Text about a person in ASCII, wiped on drop.
pub(super) struct Spelled(Zeroizing<String>);

impl Deref for Spelled {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Spelled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The text in printable ASCII: Latin letters without their marks, other scripts left out, single spaces.
/// Nothing if nothing is left. At most `length_max` characters.
pub(super) fn spelled(text: &str, length_max: usize) -> Option<Spelled> {
    // Never reallocated, which would leave an unwiped copy behind: no character becomes longer than it was in UTF-8.
    let mut ascii = Zeroizing::new(String::with_capacity(text.len()));
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            gap = true;
            continue;
        }
        let replaced = if c.is_ascii() {
            None
        } else {
            Some(replacement(c))
        };
        if replaced == Some("") {
            continue;
        }
        if gap && !ascii.is_empty() {
            ascii.push(' ');
        }
        gap = false;
        match replaced {
            None => ascii.push(c),
            Some(letters) => ascii.push_str(letters),
        }
    }
    ascii.truncate(length_max);
    let kept = ascii.trim_end().len();
    ascii.truncate(kept);
    (!ascii.is_empty()).then_some(Spelled(ascii))
}

/// Latin-1 and Latin Extended-A, the punctuation that keyboards and word processors make, and the letters with a comma
/// below of Romanian. Combining marks are left out.
fn replacement(c: char) -> &'static str {
    match c {
        'À'..='Å' | 'Ā' | 'Ă' | 'Ą' => "A",
        'à'..='å' | 'ā' | 'ă' | 'ą' | 'ª' => "a",
        'Æ' => "AE",
        'æ' => "ae",
        'Ç' | 'Ć' | 'Ĉ' | 'Ċ' | 'Č' => "C",
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
        'Ð' | 'Ď' | 'Đ' => "D",
        'ð' | 'ď' | 'đ' => "d",
        'È'..='Ë' | 'Ē' | 'Ĕ' | 'Ė' | 'Ę' | 'Ě' => "E",
        'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
        'Ĝ' | 'Ğ' | 'Ġ' | 'Ģ' => "G",
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => "g",
        'Ĥ' | 'Ħ' => "H",
        'ĥ' | 'ħ' => "h",
        'Ì'..='Ï' | 'Ĩ' | 'Ī' | 'Ĭ' | 'Į' | 'İ' => "I",
        'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => "i",
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'Ĵ' => "J",
        'ĵ' => "j",
        'Ķ' => "K",
        'ķ' | 'ĸ' => "k",
        'Ĺ' | 'Ļ' | 'Ľ' | 'Ŀ' | 'Ł' => "L",
        'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => "l",
        'Ñ' | 'Ń' | 'Ņ' | 'Ň' | 'Ŋ' => "N",
        'ñ' | 'ń' | 'ņ' | 'ň' | 'ŉ' | 'ŋ' => "n",
        'Ò'..='Ö' | 'Ø' | 'Ō' | 'Ŏ' | 'Ő' => "O",
        'ò'..='ö' | 'ø' | 'ō' | 'ŏ' | 'ő' | 'º' => "o",
        'Œ' => "OE",
        'œ' => "oe",
        'Ŕ' | 'Ŗ' | 'Ř' => "R",
        'ŕ' | 'ŗ' | 'ř' => "r",
        'Ś' | 'Ŝ' | 'Ş' | 'Š' | 'Ș' => "S",
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => "s",
        'ẞ' => "SS",
        'ß' => "ss",
        'Þ' => "Th",
        'þ' => "th",
        'Ţ' | 'Ť' | 'Ŧ' | 'Ț' => "T",
        'ţ' | 'ť' | 'ŧ' | 'ț' => "t",
        'Ù'..='Ü' | 'Ũ' | 'Ū' | 'Ŭ' | 'Ů' | 'Ű' | 'Ų' => "U",
        'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => "u",
        'Ŵ' => "W",
        'ŵ' => "w",
        'Ý' | 'Ÿ' | 'Ŷ' => "Y",
        'ý' | 'ÿ' | 'ŷ' => "y",
        'Ź' | 'Ż' | 'Ž' => "Z",
        'ź' | 'ż' | 'ž' => "z",
        '‘' | '’' | '‚' | 'ʼ' | '′' => "'",
        '“' | '”' | '„' | '«' | '»' => "\"",
        '‐'..='―' | '−' => "-",
        '…' => "...",
        '№' => "No",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascii(text: &str) -> Option<String> {
        spelled(text, 40).map(|text| text.to_string())
    }

    #[test]
    fn latin_letters_lose_their_marks() {
        assert_eq!(ascii("Jürgen Groß").as_deref(), Some("Jurgen Gross"));
        assert_eq!(ascii("  Łucja  Żółć ").as_deref(), Some("Lucja Zolc"));
        assert_eq!(
            ascii("Ḿ O’Neill – №\u{a0}7").as_deref(),
            Some("O'Neill - No 7")
        );
        assert_eq!(ascii("Jose\u{301}").as_deref(), Some("Jose"));
        assert_eq!(ascii("plain Text-1.").as_deref(), Some("plain Text-1."));
    }

    #[test]
    fn other_scripts_leave_nothing() {
        assert_eq!(ascii("王小明"), None);
        assert_eq!(ascii(" \n"), None);
        assert_eq!(ascii("王 Ming").as_deref(), Some("Ming"));
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(
            spelled("abc def", 4)
                .map(|text| text.to_string())
                .as_deref(),
            Some("abc")
        );
    }
}
