//! Makes tokens from a private key: for a developer's machine and for tests, never for production callers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use gateway_core::clock::Timestamp;
use jsonwebtoken::{EncodingKey, Header};

use super::Scope;
use super::keys::{Algorithm, KeyError};

/// A private key and the algorithm it signs with.
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm)
    }
}

/// What a token shall say.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub issuer: String,
    pub audience: String,
    pub subject: String,
    pub scopes: Vec<Scope>,
    pub lifetime: Duration,
    /// `None`: not limited to accounts.
    pub accounts: Option<Vec<String>>,
    /// Empty: not limited in amount.
    pub max_amount: BTreeMap<String, i64>,
}

impl SigningKey {
    /// A private Ed25519, P-256 or RSA key (PKCS #8).
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let bytes = text.as_bytes();
        if !text.contains("PRIVATE KEY-----") {
            return Err(KeyError::NoPem);
        }
        let (algorithm, key) = EncodingKey::from_ed_pem(bytes)
            .map(|key| (Algorithm::EdDsa, key))
            .or_else(|_| EncodingKey::from_ec_pem(bytes).map(|key| (Algorithm::Es256, key)))
            .or_else(|_| EncodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::Rs256, key)))
            .map_err(|_| KeyError::NotAKey { position: 1 })?;
        // A key of the right kind on a wrong curve is found out by signing only.
        jsonwebtoken::encode(
            &Header::new(algorithm.to_library()),
            &serde_json::json!({}),
            &key,
        )
        .map_err(|_| KeyError::NotAKey { position: 1 })?;
        Ok(Self { algorithm, key })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token that is valid from `now` on.
    pub fn sign(&self, wanted: &Wanted, now: Timestamp) -> String {
        let issued = now.micros().div_euclid(1_000_000);
        let lifetime = i64::try_from(wanted.lifetime.as_secs()).unwrap_or(i64::MAX);
        let scopes: Vec<_> = wanted.scopes.iter().map(|scope| scope.as_str()).collect();
        let mut claims = serde_json::json!({
            "iss": wanted.issuer, "aud": wanted.audience, "sub": wanted.subject, "scope": scopes.join(" "),
            "iat": issued, "nbf": issued, "exp": issued.saturating_add(lifetime),
            "jti": uuid::Uuid::now_v7().to_string(),
        });
        if let Some(accounts) = &wanted.accounts {
            claims["accounts"] = accounts.clone().into();
        }
        if !wanted.max_amount.is_empty() {
            claims["max_amount"] = serde_json::json!(wanted.max_amount);
        }
        jsonwebtoken::encode(
            &Header::new(self.algorithm.to_library()),
            &claims,
            &self.key,
        )
        .expect("the key signed when it was read, and claims of text and numbers serialise")
    }
}
