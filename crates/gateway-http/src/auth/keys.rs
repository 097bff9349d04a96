//! Public keys that verify tokens, each bound to the one algorithm it may be used with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

/// How many keys one file or key set may hold; the rest is ignored with a warning.
pub const KEY_COUNT_MAX: usize = 64;

/// The signature algorithms we accept. There is no symmetric one, so a public key can never be taken for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// The algorithm a token's header names, if we accept it at all.
    pub fn from_header(algorithm: jsonwebtoken::Algorithm) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.to_library() == algorithm)
    }

    pub fn to_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// One public key.
#[derive(Clone, Debug)]
pub struct VerifyKey {
    /// `None` for a key from a file: it is tried for any token of its algorithm.
    pub key_id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
    /// Checks the signature and the algorithm only; the claims are ours to check, by our own clock.
    pub validation: Validation,
}

impl VerifyKey {
    fn new(key_id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Self {
        let mut validation = Validation::new(algorithm.to_library());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self {
            key_id,
            algorithm,
            key,
            validation,
        }
    }

    /// `None` for keys we do not use: symmetric ones, other curves, keys for encryption.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if jwk
            .common
            .public_key_use
            .as_ref()
            .is_some_and(|wanted| *wanted != PublicKeyUse::Signature)
        {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::Rs256,
            AlgorithmParameters::EllipticCurve(parameters)
                if parameters.curve == EllipticCurve::P256 =>
            {
                Algorithm::Es256
            }
            AlgorithmParameters::OctetKeyPair(parameters)
                if parameters.curve == EllipticCurve::Ed25519 =>
            {
                Algorithm::EdDsa
            }
            _ => return None,
        };
        let named = jwk.common.key_algorithm.map(|named| named.to_string());
        if named.is_some_and(|named| named != format!("{:?}", algorithm.to_library())) {
            return None; // For example an RSA key that its owner reserves for PS512.
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self::new(jwk.common.key_id.clone(), algorithm, key))
    }
}

/// Why a key file or key set gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    #[error("holds no public key in PEM form")]
    NoPem,
    #[error("key {position} is not a public Ed25519, P-256 or RSA key")]
    NotAKey { position: usize },
    #[error("is not a JSON Web Key Set")]
    NotAKeySet(#[source] serde_json::Error),
    #[error("holds no key that can be used")]
    NoUsableKey,
}

/// The keys of one source at one time.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<VerifyKey>);

impl KeySet {
    /// One or several public keys, one after the other.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for block in pem_blocks(text).take(KEY_COUNT_MAX) {
            let position = keys.len() + 1;
            if block.contains("PRIVATE KEY") {
                return Err(KeyError::NotAKey { position });
            }
            let bytes = block.as_bytes();
            let (algorithm, key) = DecodingKey::from_ed_pem(bytes)
                .map(|key| (Algorithm::EdDsa, key))
                .or_else(|_| DecodingKey::from_ec_pem(bytes).map(|key| (Algorithm::Es256, key)))
                .or_else(|_| DecodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::Rs256, key)))
                .map_err(|_| KeyError::NotAKey { position })?;
            keys.push(VerifyKey::new(None, algorithm, key));
        }
        if keys.is_empty() {
            Err(KeyError::NoPem)
        } else {
            Ok(Self(keys))
        }
    }

    /// A JSON Web Key Set (RFC 7517). A key we cannot use is skipped, not fatal: key sets are shared with others.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(text).map_err(KeyError::NotAKeySet)?;
        if document.keys.len() > KEY_COUNT_MAX {
            tracing::warn!(
                keys = document.keys.len(),
                bound = KEY_COUNT_MAX,
                "the key set is too large; the rest is ignored"
            );
        }
        let keys: Vec<_> = document
            .keys
            .into_iter()
            .take(KEY_COUNT_MAX)
            .filter_map(|value| serde_json::from_value::<Jwk>(value).ok())
            .filter_map(|jwk| VerifyKey::from_jwk(&jwk))
            .collect();
        if keys.is_empty() {
            Err(KeyError::NoUsableKey)
        } else {
            Ok(Self(keys))
        }
    }

    /// The keys that may have signed a token with this header.
    pub fn candidates<'a>(
        &'a self,
        key_id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a VerifyKey> + 'a {
        self.0.iter().filter(move |key| {
            let named = key_id.is_none() || key.key_id.is_none() || key.key_id.as_deref() == key_id;
            named && key.algorithm == algorithm
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A key file that may change.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    current: RwLock<(Arc<KeySet>, u64)>,
}

/// How often a key file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl KeyFile {
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let keys = Self::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            current: RwLock::new((Arc::new(keys), 0)),
        })
    }

    /// The keys with their generation, which every reload raises.
    pub fn current(&self) -> (Arc<KeySet>, u64) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&current.0), current.1)
    }

    /// Reads the file again. What cannot be used leaves the old keys in use.
    pub fn reload(&self) -> Result<(), KeyError> {
        let keys = Arc::new(Self::read(&self.path)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (keys, current.1 + 1);
        Ok(())
    }

    /// Looks at the file for ever, and reloads when it changed.
    pub async fn keep_fresh(&self) {
        let changed_at = || {
            std::fs::metadata(&self.path)
                .and_then(|metadata| metadata.modified())
                .ok()
        };
        let mut seen = changed_at();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = changed_at();
            if found == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    seen = found;
                    tracing::info!("the keys that verify tokens were replaced");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the keys that verify tokens stay as they are"
                    );
                }
            }
        }
    }

    fn read(path: &Path) -> Result<KeySet, KeyError> {
        KeySet::from_pem(&std::fs::read_to_string(path).map_err(KeyError::Read)?)
    }
}

fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let from_begin = &rest[rest.find("-----BEGIN ")?..];
        let end = from_begin.find("-----END ")?;
        let tail = from_begin[end + "-----END ".len()..].find("-----")?;
        let length = end + "-----END ".len() + tail + "-----".len();
        let (block, after) = from_begin.split_at(length);
        rest = after;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_files_may_hold_several_keys() {
        let first = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let second = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        let both = format!(
            "# comment\n{}\n{}",
            first.public_key_pem(),
            second.public_key_pem()
        );
        let keys = KeySet::from_pem(&both).expect("keys");
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.candidates(Some("any"), Algorithm::EdDsa).count(), 1);
        assert_eq!(keys.candidates(None, Algorithm::Es256).count(), 1);
        assert_eq!(keys.candidates(None, Algorithm::Rs256).count(), 0);
    }

    #[test]
    fn a_private_key_is_refused_where_a_public_one_belongs() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        assert!(matches!(
            KeySet::from_pem(&pair.serialize_pem()),
            Err(KeyError::NotAKey { position: 1 })
        ));
        assert!(matches!(KeySet::from_pem("nothing"), Err(KeyError::NoPem)));
    }

    #[test]
    fn a_key_file_is_replaced_as_a_whole_or_not_at_all() {
        let path = std::env::temp_dir().join(format!("quittance-keys-{}", std::process::id()));
        let pem = |count: usize| -> String {
            let make = || {
                rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
                    .expect("key")
                    .public_key_pem()
            };
            (0..count).map(|_| make()).collect()
        };
        std::fs::write(&path, pem(1)).expect("written");
        let file = KeyFile::load(&path).expect("keys");
        assert_eq!((file.current().0.len(), file.current().1), (1, 0));
        std::fs::write(&path, pem(2)).expect("written");
        file.reload().expect("keys");
        assert_eq!((file.current().0.len(), file.current().1), (2, 1));
        std::fs::write(&path, "half a file").expect("written");
        assert!(file.reload().is_err());
        assert_eq!((file.current().0.len(), file.current().1), (2, 1));
        std::fs::remove_file(&path).expect("removed");
        assert!(KeyFile::load(&path).is_err());
    }

    #[test]
    fn key_sets_skip_what_we_do_not_use() {
        let set = br#"{"keys":[
            {"kty":"oct","k":"c2VjcmV0","kid":"symmetric"},
            {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"good"},
            {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"enc","use":"enc"},
            {"kty":"future","kid":"later"}, 7]}"#;
        let keys = KeySet::from_jwks(set).expect("keys");
        assert_eq!(keys.len(), 1);
        assert_eq!(keys.candidates(Some("good"), Algorithm::EdDsa).count(), 1);
        assert_eq!(keys.candidates(Some("other"), Algorithm::EdDsa).count(), 0);
        assert!(KeySet::from_jwks(br#"{"keys":[]}"#).is_err());
        assert!(KeySet::from_jwks(b"[]").is_err());
    }
}
