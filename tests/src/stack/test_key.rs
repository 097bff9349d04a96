//! Signing keys, and tokens that say whatever a test wants, right or wrong.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{encoding::Pkcs8V1Der, hmac};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The algorithms that the gateway accepts (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A key pair that signs with the cryptographic library itself, so that no JWT library can refuse to write a bad token.
#[derive(Debug)]
pub struct TestKey {
    id: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
}

impl TestKey {
    /// `id` is its `kid`.
    pub fn generate(algorithm: Algorithm, id: &str) -> Self {
        const PROOF: &str = "generating a key fails only without memory or randomness";
        let pair = match algorithm {
            Algorithm::EdDsa => Pair::EdDsa(Ed25519KeyPair::generate().expect(PROOF)),
            Algorithm::Es256 => {
                Pair::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect(PROOF))
            }
            Algorithm::Rs256 => Pair::Rs256(Box::new(
                RsaKeyPair::generate(KeySize::Rsa2048).expect(PROOF),
            )),
        };
        Self {
            id: id.to_owned(),
            pair,
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::EdDsa(_) => Algorithm::EdDsa,
            Pair::Es256(_) => Algorithm::Es256,
            Pair::Rs256(_) => Algorithm::Rs256,
        }
    }

    /// `SubjectPublicKeyInfo`, as a key file holds it.
    pub fn public_pem(&self) -> String {
        const PROOF: &str = "encoding a key that was just generated";
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::EdDsa(pair) => pair.public_key().as_der().expect(PROOF),
            Pair::Es256(pair) => pair.public_key().as_der().expect(PROOF),
            Pair::Rs256(pair) => pair.public_key().as_der().expect(PROOF),
        };
        pem("PUBLIC KEY", der.as_ref())
    }

    /// PKCS #8, for programs that sign with this key.
    pub fn private_pem(&self) -> String {
        const PROOF: &str = "encoding a key that was just generated";
        match &self.pair {
            Pair::EdDsa(pair) => pem("PRIVATE KEY", pair.to_pkcs8v1().expect(PROOF).as_ref()),
            Pair::Es256(pair) => pem("PRIVATE KEY", pair.to_pkcs8v1().expect(PROOF).as_ref()),
            Pair::Rs256(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().expect(PROOF);
                pem("PRIVATE KEY", der.as_ref())
            }
        }
    }

    /// The public half as RFC 7517 writes it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::EdDsa(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": url_safe(pair.public_key())})
            }
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref(); // 4, then 32 bytes each of x and y (SEC 1, 2.3.3).
                json!({"kty": "EC", "crv": "P-256", "x": url_safe(&point[1..33]), "y": url_safe(&point[33..65])})
            }
            Pair::Rs256(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": url_safe(modulus), "e": url_safe(exponent)})
            }
        };
        jwk["kid"] = self.id.clone().into();
        jwk["alg"] = self.algorithm().name().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// A token with an honest header.
    pub fn mint(&self, claims: &Value) -> String {
        self.mint_with_header(
            &json!({"alg": self.algorithm().name(), "typ": "JWT", "kid": self.id}),
            claims,
        )
    }

    /// A token with this header, whatever it claims, signed by this key.
    pub fn mint_with_header(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", url_safe(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        const PROOF: &str = "signing with a valid key fails only without memory or randomness";
        match &self.pair {
            Pair::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Es256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .expect(PROOF)
                .as_ref()
                .to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message,
                    &mut signature,
                )
                .expect(PROOF);
                signature
            }
        }
    }
}

/// A key set as RFC 7517 writes it.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a TestKey>) -> Value {
    json!({"keys": keys.into_iter().map(TestKey::jwk).collect::<Vec<_>>()})
}

/// A token with an empty signature, as `alg: none` has it (RFC 7515, appendix A.5).
pub fn unsigned_token(header: &Value, claims: &Value) -> String {
    format!("{}.", message(header, claims))
}

/// A token signed with HMAC-SHA256. With a public key for its `secret` it is the classic forgery.
pub fn token_signed_with_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        message.as_bytes(),
    );
    format!("{message}.{}", url_safe(tag))
}

fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        url_safe(header.to_string()),
        url_safe(claims.to_string())
    )
}

fn url_safe(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut lines = vec![format!("-----BEGIN {label}-----")];
    // Base64 is ASCII, so that any split falls between characters (RFC 7468, 2: lines of 64).
    lines.extend(
        text.as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned()),
    );
    lines.push(format!("-----END {label}-----\n"));
    lines.join("\n")
}

/// Modulus and exponent out of an `RSAPublicKey` (RFC 8017, A.1.1): a sequence of two positive integers.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    /// The content of the first element, and what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, start) = match der[1] {
            short @ 0..0x80 => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 0x7f);
                let length = der[2..2 + count]
                    .iter()
                    .fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
                (length, 2 + count)
            }
        };
        (&der[start..start + length], &der[start + length..])
    }
    fn unsigned(integer: &[u8]) -> &[u8] {
        integer.strip_prefix(&[0]).unwrap_or(integer) // The zero that keeps it positive.
    }
    let (sequence, _) = element(der);
    let (modulus, rest) = element(sequence);
    let (exponent, _) = element(rest);
    (unsigned(modulus), unsigned(exponent))
}
