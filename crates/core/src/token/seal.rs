//! How a token lies in the ledger: AES-256-GCM, bound to its name and generation.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::operator_key::{self, OperatorKeyError};

/// The first byte of a sealed token, so that the layout can change: version, nonce, ciphertext with tag.
const VERSION: u8 = 1;

/// The key under which tokens are sealed. Clones share it.
#[derive(Clone)]
pub struct TokenKey {
    key: Arc<RandomizedNonceKey>,
}

impl TokenKey {
    /// Reads the secret as [`operator_key::read`] does, so that it is one key however it is written, and derives the key
    /// (HKDF-SHA256) from it: it may serve other purposes too.
    ///
    /// # Errors
    /// [`OperatorKeyError`].
    pub fn parse(secret: &SecretString) -> Result<Self, OperatorKeyError> {
        Ok(Self::derive(&operator_key::read(secret)?))
    }

    fn derive(secret: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, b"quittance")
            .extract(secret)
            .expand(&[b"upstream token, aes-256-gcm"], KeyLength)
            .and_then(|okm| okm.fill(&mut *key))
            .expect("32 bytes are below HKDF's limit of 255 hashes");
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key).expect("AES-256 takes any 32 bytes");
        Self { key: Arc::new(key) }
    }

    pub(super) fn seal(&self, name: &str, generation: i64, token: &SecretString) -> Vec<u8> {
        let mut buffer = token.expose_secret().as_bytes().to_vec();
        // Room for the tag first: growing later would leave the token's bytes behind in freed memory.
        buffer.reserve_exact(AES_256_GCM.tag_len());
        let nonce = self
            .key
            .seal_in_place_append_tag(bound_to(name, generation), &mut buffer)
            .expect("AES-GCM takes up to 64 GiB, and tokens are capped answers");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + buffer.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&buffer);
        sealed
    }

    /// `None` if it was sealed under another key, name or generation, or is damaged.
    pub(super) fn open(&self, name: &str, generation: i64, sealed: &[u8]) -> Option<SecretString> {
        let (&version, rest) = sealed.split_first()?;
        if version != VERSION {
            return None;
        }
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let aad = bound_to(name, generation);
        let opened = self.key.open_in_place(Nonce::from(nonce), aad, &mut buffer);
        let token = str::from_utf8(opened.ok()?).ok()?;
        Some(SecretString::from(token))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(****)")
    }
}

/// A row copied to another name, or an older row put back under a newer generation, does not open.
fn bound_to(name: &str, generation: i64) -> Aad<Vec<u8>> {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    Aad::from(bytes)
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_token_opens_only_under_its_own_key_name_and_generation() {
        let key = TokenKey::derive(&[7; 32]);
        let token = SecretString::from("canary-token");
        let sealed = key.seal("acme-us", 3, &token);
        let opened = key.open("acme-us", 3, &sealed).expect("it is ours");
        assert_eq!(opened.expose_secret(), "canary-token");

        assert!(key.open("acme-eu", 3, &sealed).is_none());
        assert!(key.open("acme-us", 4, &sealed).is_none());
        let other = TokenKey::derive(&[8; 32]);
        assert!(other.open("acme-us", 3, &sealed).is_none());
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert!(key.open("acme-us", 3, &damaged).is_none(), "byte {place}");
            assert!(
                key.open("acme-us", 3, &sealed[..place]).is_none(),
                "cut at {place}"
            );
        }
    }

    #[test]
    fn the_same_token_never_seals_to_the_same_bytes_and_is_not_in_them() {
        let key = TokenKey::derive(&[7; 40]);
        let token = SecretString::from("canary-token");
        let (one, other) = (key.seal("n", 1, &token), key.seal("n", 1, &token));
        assert_ne!(one, other);
        assert!(!one.windows(6).any(|window| window == b"canary"));
        assert!(format!("{key:?}").contains("****"));
    }

    /// What counts is what it is made from, not how long that is when it is written down.
    #[test]
    fn the_secret_is_measured_and_used_as_bytes() {
        let of = |text: &str| TokenKey::parse(&text.into());
        let found = |text: &str| of(text).err();
        let short = OperatorKeyError::TooShort { min: 32, found: 16 };
        assert_eq!(found(&"5a".repeat(16)), Some(short));
        assert_eq!(
            found("a passphrase of more than 32 characters"),
            Some(OperatorKeyError::Encoding)
        );
        let sealed = of(&"5a".repeat(32)).expect("32 bytes").seal(
            "acme-us",
            3,
            &SecretString::from("canary-token"),
        );
        let otherwise = "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo=\n";
        for same in ["5A".repeat(32).as_str(), otherwise] {
            let key = of(same).expect("the same bytes");
            assert!(key.open("acme-us", 3, &sealed).is_some(), "{same}");
        }
    }
}
