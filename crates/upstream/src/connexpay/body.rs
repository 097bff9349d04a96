//! Request bodies: they hold card numbers, so every byte is wiped when the last copy is dropped.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

/// Most requests fit; a larger one grows without leaving its beginning behind.
const CAPACITY: usize = 4 * 1_024;

/// The request as JSON.
pub(super) fn json(request: &impl Serialize) -> Bytes {
    let mut body = Wiped(Zeroizing::new(Vec::with_capacity(CAPACITY)));
    serde_json::to_writer(&mut body, request)
        .expect("these types have string keys, and memory takes every byte");
    Bytes::from_owner(body.0)
}

/// Names and values as `application/x-www-form-urlencoded`.
pub(super) fn form(fields: &[(&str, &str)]) -> Bytes {
    let mut body = Wiped(Zeroizing::new(Vec::with_capacity(CAPACITY)));
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            body.push(b"&");
        }
        body.push(name.as_bytes());
        body.push(b"=");
        for byte in value.bytes() {
            match byte {
                b' ' => body.push(b"+"),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                    body.push(&[byte]);
                }
                _ => {
                    const HEX: &[u8; 16] = b"0123456789ABCDEF";
                    body.push(&[
                        b'%',
                        HEX[usize::from(byte >> 4)],
                        HEX[usize::from(byte & 15)],
                    ]);
                }
            }
        }
    }
    Bytes::from_owner(body.0)
}

struct Wiped(Zeroizing<Vec<u8>>);

impl Wiped {
    fn push(&mut self, bytes: &[u8]) {
        let wanted = self.0.len() + bytes.len();
        if wanted > self.0.capacity() {
            // Not reserve(): it would free the old bytes without wiping them.
            let mut larger = Zeroizing::new(Vec::with_capacity(wanted.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }
}

impl io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_every_character() {
        let body = form(&[
            ("grant_type", "password"),
            ("username", "a b"),
            ("password", "p&=+%é~"),
        ]);
        assert_eq!(
            body,
            "grant_type=password&username=a+b&password=p%26%3D%2B%25%C3%A9%7E"
        );
    }

    #[test]
    fn a_large_body_is_whole() {
        let text = "x".repeat(3 * CAPACITY);
        assert_eq!(json(&text).len(), text.len() + 2);
    }
}
