//! Reads the keys that the operator keeps: bytes written as hexadecimal or base64, as many as their strength needs.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// SHA-256 and AES-256 give no more strength than this (RFC 2104, 3). Of the bytes that are meant: written down they are
/// more, and no stronger for it.
pub const BYTES_MIN: usize = 32;

/// Why a configured key cannot be used. The key itself is in no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorKeyError {
    #[error("a key is hexadecimal or base64")]
    Encoding,
    #[error("a key has at least {min} bytes, this one has {found} when decoded")]
    TooShort { min: usize, found: usize },
}

/// The bytes of a key in hexadecimal or in base64 (either alphabet, padded or not). A text of hexadecimal digits only is
/// hexadecimal.
///
/// # Errors
/// `Encoding`, `TooShort`.
pub fn read(secret: &SecretString) -> Result<Zeroizing<Vec<u8>>, OperatorKeyError> {
    let bytes = decode(secret.expose_secret().trim())?;
    if bytes.len() < BYTES_MIN {
        return Err(OperatorKeyError::TooShort {
            min: BYTES_MIN,
            found: bytes.len(),
        });
    }
    Ok(bytes)
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, OperatorKeyError> {
    let all_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if all_hex {
        let nibble = |b: u8| {
            char::from(b)
                .to_digit(16)
                .and_then(|n| u8::try_from(n).ok())
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(OperatorKeyError::Encoding);
        };
        let decoded: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
            .collect();
        return decoded
            .map(Zeroizing::new)
            .ok_or(OperatorKeyError::Encoding);
    }
    let unpadded = text.trim_end_matches('=');
    let decoded = STANDARD_NO_PAD
        .decode(unpadded)
        .or_else(|_| URL_SAFE_NO_PAD.decode(unpadded));
    decoded
        .map(Zeroizing::new)
        .map_err(|_| OperatorKeyError::Encoding)
}
