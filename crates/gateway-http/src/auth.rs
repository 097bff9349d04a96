//! Who calls, and what they may do: bearer tokens (RFC 9068 in spirit) and what their claims allow.

mod cache;
mod caller;
mod claims;
pub mod jwks;
pub mod keys;
pub mod mint;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway_core::clock::Clock;
use gateway_core::key::Client;
use http::{HeaderMap, header};

pub use caller::{Caller, Scope, Scopes};
use claims::Claims;
use jwks::Jwks;
use keys::{Algorithm, KeyFile, KeySet};

use crate::problem::{Kind, Problem};

/// Tokens remembered as verified, per generation of the cache. Beyond it the older ones are verified again.
const CACHED_TOKENS_MAX: usize = 4096;

/// Why a request has no caller. Nothing was executed, and the ledger was not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("there is no Authorization header with a bearer token")]
    Missing,
    #[error("there is more than one Authorization header")]
    Repeated,
    #[error("the token is not a JSON Web Token")]
    Malformed,
    #[error("the token is signed with an algorithm that is not accepted here")]
    Algorithm,
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    #[error("the token's signature does not match")]
    Signature,
    #[error("the token's claim `{0}` is missing or has the wrong form")]
    Claim(&'static str),
    #[error("the token was issued by somebody else")]
    Issuer,
    #[error("the token is meant for somebody else")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token lives longer than is accepted here")]
    TooLongLived,
    #[error("the keys that verify tokens could not be fetched yet")]
    KeysUnavailable,
    #[error("the token's subject is mapped to no client")]
    UnmappedSubject,
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let kind = match error {
            AuthError::UnmappedSubject => Kind::Forbidden,
            AuthError::KeysUnavailable => Kind::KeysUnavailable,
            AuthError::Missing
            | AuthError::Repeated
            | AuthError::Malformed
            | AuthError::Algorithm
            | AuthError::UnknownKey
            | AuthError::Signature
            | AuthError::Claim(_)
            | AuthError::Issuer
            | AuthError::Audience
            | AuthError::Expired
            | AuthError::NotYetValid
            | AuthError::TooLongLived => Kind::Unauthenticated,
        };
        let problem = Self::new(kind, error.to_string());
        match kind {
            Kind::Forbidden => problem.member("reason", "client"),
            Kind::KeysUnavailable => problem.retry_after(Duration::from_secs(2)),
            _ => problem,
        }
    }
}

/// What a token must say to be accepted.
#[derive(Clone, Debug)]
pub struct Rules {
    pub issuer: String,
    pub audience: String,
    pub algorithms: Vec<Algorithm>,
    /// The longest span from a token's issue to its end.
    pub lifetime_max: Duration,
    /// By how much another machine's clock may differ from ours.
    pub leeway: Duration,
}

/// Where the keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    Fixed(Arc<KeySet>),
    /// A file; somebody must run [`KeyFile::keep_fresh`].
    File(Arc<KeyFile>),
    /// A URL; somebody must run [`Jwks::keep_fresh`].
    Fetched(Arc<Jwks>),
}

/// Turns bearer tokens into callers.
#[derive(Debug)]
pub struct Authenticator {
    rules: Rules,
    keys: KeySource,
    /// JWT subject to client name.
    clients: HashMap<String, Client>,
    clock: Arc<dyn Clock>,
    verified: Mutex<Verified>,
}

#[derive(Debug)]
struct Verified {
    generation: u64,
    tokens: cache::TokenCache<[u8; 32], Arc<Caller>>,
}

impl Authenticator {
    /// `clients`: each subject with its client.
    pub fn new(
        rules: Rules,
        keys: KeySource,
        clients: impl IntoIterator<Item = (String, Client)>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let clients = clients.into_iter().collect();
        let tokens = cache::TokenCache::new(CACHED_TOKENS_MAX);
        Self {
            rules,
            keys,
            clients,
            clock,
            verified: Mutex::new(Verified {
                generation: 0,
                tokens,
            }),
        }
    }

    /// The caller behind a request's headers.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, AuthError> {
        self.verify(bearer_token(headers)?).await
    }

    /// True once tokens can be verified.
    pub fn is_ready(&self) -> bool {
        !self.keys().0.is_empty()
    }

    /// The caller behind a token.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let digest = digest_of(token);
        let (keys, generation) = self.keys();
        if let Some(caller) = self.verified_before(&digest, generation) {
            return Ok(caller);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        // RFC 7515, 4.1.11: extensions that the issuer calls critical must be understood. We know none.
        if header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        let algorithm = Algorithm::from_header(header.alg)
            .filter(|algorithm| self.rules.algorithms.contains(algorithm))
            .ok_or(AuthError::Algorithm)?;
        let key_id = header.kid.as_deref();
        let (keys, generation) = match (&self.keys, key_id) {
            (KeySource::Fetched(jwks), Some(id))
                if keys.candidates(key_id, algorithm).next().is_none() =>
            {
                jwks.fetched_for(id, algorithm).await
            }
            _ => (keys, generation),
        };
        if keys.is_empty() {
            return Err(AuthError::KeysUnavailable);
        }
        let claims = verified_claims(token, &keys, key_id, algorithm)?;
        let now = self.clock.now();
        let caller = Arc::new(claims.into_caller(&self.rules, now, |subject| {
            self.clients.get(subject).cloned()
        })?);
        self.remember(digest, generation, &caller);
        Ok(caller)
    }

    fn keys(&self) -> (Arc<KeySet>, u64) {
        match &self.keys {
            KeySource::Fixed(keys) => (Arc::clone(keys), 0),
            KeySource::File(file) => file.current(),
            KeySource::Fetched(jwks) => jwks.current(),
        }
    }

    fn verified_before(&self, digest: &[u8; 32], generation: u64) -> Option<Arc<Caller>> {
        let caller = {
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            if verified.generation != generation {
                verified.generation = generation;
                verified.tokens.clear();
            }
            verified.tokens.get(digest)?
        };
        (self.clock.now() < caller.valid_until).then_some(caller)
    }

    fn remember(&self, digest: [u8; 32], generation: u64, caller: &Arc<Caller>) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.generation == generation {
            verified.tokens.insert(digest, Arc::clone(caller));
        }
    }
}

fn verified_claims(
    token: &str,
    keys: &KeySet,
    key_id: Option<&str>,
    algorithm: Algorithm,
) -> Result<Claims, AuthError> {
    let mut error = AuthError::UnknownKey;
    for key in keys.candidates(key_id, algorithm) {
        match jsonwebtoken::decode::<serde_json::Map<String, serde_json::Value>>(
            token,
            &key.key,
            &key.validation,
        ) {
            Ok(data) => return Claims::read(&data.claims),
            Err(_) => error = AuthError::Signature,
        }
    }
    Err(error)
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Repeated);
    }
    let text = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Missing);
    }
    Ok(token.trim())
}

fn digest_of(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
