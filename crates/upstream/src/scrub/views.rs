//! A text as it reads when an encoding is undone, each character with the place it came from.
//!
//! What an upstream encoded is not guessed form by form: whatever can be read as an encoding is decoded, and the search
//! looks into every reading. A reading that is none (a word taken for base64) is noise, in which nothing is found.

/// Encodings within encodings (`%255C`) are undone so often.
const LAYERS_MAX: usize = 3;
/// Between two runs that were decoded on their own: neither digit, letter nor separator.
const BREAK: char = '\u{0}';

/// Characters, and which part of the original each one stands for.
pub(super) struct View {
    chars: Vec<char>,
    /// From the first to behind the last character of the original.
    places: Vec<(usize, usize)>,
}

impl View {
    /// The text itself.
    pub(super) fn plain(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let places = (0..chars.len()).map(|at| (at, at + 1)).collect();
        Self { chars, places }
    }

    fn with_capacity(length: usize) -> Self {
        Self {
            chars: Vec::with_capacity(length),
            places: Vec::with_capacity(length),
        }
    }

    pub(super) fn chars(&self) -> &[char] {
        &self.chars
    }

    /// What the characters from `first` to `last`, both included, stand for.
    pub(super) fn origin(&self, first: usize, last: usize) -> (usize, usize) {
        (self.places[first].0, self.places[last].1)
    }

    /// The readings of base64 and of hexadecimal digits.
    pub(super) fn decoded(&self) -> impl Iterator<Item = Self> {
        let base64 = (0..4).map(|phase| self.base64(phase));
        let hexadecimal = (0..2).map(|phase| self.hexadecimal(phase));
        base64.chain(hexadecimal)
    }

    /// The text with its escapes undone; nothing if it has none.
    pub(super) fn unescaped(&self) -> Option<Self> {
        let mut view = self.unescaped_once()?;
        for _ in 1..LAYERS_MAX {
            match view.unescaped_once() {
                Some(deeper) => view = deeper,
                None => break,
            }
        }
        Some(view)
    }

    fn unescaped_once(&self) -> Option<Self> {
        if !self.chars.iter().any(|c| matches!(c, '%' | '\\' | '&')) {
            return None;
        }
        let mut view = Self::with_capacity(self.chars.len());
        let mut at = 0;
        let mut escapes = 0;
        while at < self.chars.len() {
            let (c, length) = escape(&self.chars[at..]).unwrap_or((self.chars[at], 1));
            escapes += usize::from(length > 1);
            view.push(c, self.origin(at, at + length - 1));
            at += length;
        }
        (escapes > 0).then_some(view)
    }

    fn push(&mut self, c: char, place: (usize, usize)) {
        self.chars.push(c);
        self.places.push(place);
    }

    fn push_byte(&mut self, byte: u8, place: (usize, usize)) {
        // What holds two bytes for each character (UTF-16) has a zero in every other one.
        if byte != 0 {
            self.push(char::from(byte), place);
        }
    }

    /// Each run of base64 digits, of either alphabet, without its first `phase` digits: the text that was encoded may
    /// begin in the middle of a run.
    fn base64(&self, phase: usize) -> Self {
        let mut view = Self::with_capacity(self.chars.len());
        let mut reader = Bits::after(phase);
        for (at, c) in self.chars.iter().enumerate() {
            match base64_digit(*c) {
                Some(digit) => {
                    if let Some(byte) = reader.take(digit, 6) {
                        // Its first bits are in the digit before.
                        view.push_byte(byte, self.origin(at - 1, at));
                    }
                }
                None => reader.restart(&mut view, self.places[at]),
            }
        }
        view
    }

    /// Each run of hexadecimal digits, with single separators between them perhaps, without its first `phase` digits.
    fn hexadecimal(&self, phase: usize) -> Self {
        let mut view = Self::with_capacity(self.chars.len() / 2);
        let mut reader = Bits::after(phase);
        let (mut before, mut gap) = (0, 0);
        for (at, c) in self.chars.iter().enumerate() {
            if let Some(digit) = c.to_digit(16) {
                if let Some(byte) = reader.take(digit, 4) {
                    view.push_byte(byte, self.origin(before, at));
                }
                (before, gap) = (at, 0);
            } else if gap == 0 && matches!(c, '-' | ':' | ' ') {
                gap = 1;
            } else {
                reader.restart(&mut view, self.places[at]);
            }
        }
        view
    }
}

/// Makes bytes of digits that hold fewer bits.
struct Bits {
    phase: usize,
    /// Digits of this run that are still left out.
    skip: usize,
    held: u32,
    count: u32,
}

impl Bits {
    fn after(phase: usize) -> Self {
        Self {
            phase,
            skip: phase,
            held: 0,
            count: 0,
        }
    }

    fn take(&mut self, digit: u32, bits: u32) -> Option<u8> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.held = (self.held << bits | digit) & 0xffff;
        self.count += bits;
        self.count.checked_sub(8).map(|left| {
            self.count = left;
            (self.held >> left & 0xff) as u8
        })
    }

    fn restart(&mut self, view: &mut View, place: (usize, usize)) {
        *self = Self::after(self.phase);
        if view.chars.last().is_some_and(|last| *last != BREAK) {
            view.push(BREAK, place);
        }
    }
}

fn base64_digit(c: char) -> Option<u32> {
    let from = |first: char| u32::from(c) - u32::from(first);
    Some(match c {
        'A'..='Z' => from('A'),
        'a'..='z' => from('a') + 26,
        '0'..='9' => from('0') + 52,
        '+' | '-' => 62,
        '/' | '_' => 63,
        _ => return None,
    })
}

/// The character that an escape at the beginning stands for, and the escape's length: `%34`, `\u0034` behind any number
/// of backslashes, `\x34`, `&#52;`, `&#x34;`.
fn escape(rest: &[char]) -> Option<(char, usize)> {
    let number = |from: usize, length: usize, radix: u32| {
        let digits = rest.get(from..from + length)?;
        let fold = |number: u32, c: &char| Some(number * radix + c.to_digit(radix)?);
        char::from_u32(digits.iter().try_fold(0, fold)?)
    };
    match rest.first()? {
        '%' => Some((number(1, 2, 16)?, 3)),
        '\\' => {
            let slashes = rest.iter().take_while(|c| **c == '\\').count();
            let length = match rest.get(slashes)? {
                'u' => 4,
                'x' => 2,
                _ => return None,
            };
            Some((number(slashes + 1, length, 16)?, slashes + 1 + length))
        }
        '&' if rest.get(1) == Some(&'#') => {
            let is_hexadecimal = matches!(rest.get(2), Some('x' | 'X'));
            let (from, radix) = if is_hexadecimal { (3, 16) } else { (2, 10) };
            let length = rest[from..].iter().take(7).position(|c| *c == ';')?;
            (length > 0).then_some((number(from, length, radix)?, from + length + 1))
        }
        _ => None,
    }
}
