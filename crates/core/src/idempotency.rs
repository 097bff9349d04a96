//! Tells whether a key came back with the same request, without keeping the request.
//!
//! A request is brought into a [`CanonicalForm`] and only an HMAC of that is stored. What changes its bytes makes every
//! retry that is under way look like another request, so the form is versioned: a release that must encode differently
//! adds a version and keeps the older ones. A field that is new needs no version, since absent fields are in no form.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::hmac;
use secrecy::SecretString;
use serde_json::Value as Json;
use zeroize::ZeroizeOnDrop;

use crate::card::{Pan, Sensitive};
use crate::key::{Client, IdempotencyKey, OperationId, UpstreamReference};
use crate::money::Money;
use crate::operator_key::{self, OperatorKeyError};

/// The encoding that new fingerprints use.
const FORM_VERSION: u8 = 1;

// Every use of a key names itself first: an HMAC made for one purpose must mean nothing for another.
const LABEL_REQUEST_1: &[u8] = b"quittance request 1";
const LABEL_PAN_1: &[u8] = b"quittance pan 1";
const LABEL_KEY_ID: &[u8] = b"quittance key id";
const LABEL_REFERENCE: &[u8] = b"quittance upstream reference 1";
const LABEL_INTERNAL_REFERENCE: &[u8] = b"quittance internal reference 1";

/// Why a configured key cannot be used. The key itself is in no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintKeyError {
    #[error(transparent)]
    Unreadable(#[from] OperatorKeyError),
    #[error("the same fingerprint key is given twice")]
    Repeated,
}

/// The managed keys: one that new fingerprints are made with, and older ones that stored fingerprints still need.
///
/// A key is told by an id that is derived from it. A configured id could be left in place while the key behind it
/// changes, and then every retry would be refused as another request.
#[derive(Clone)]
pub struct FingerprintKeys {
    /// The current one first. Built once: setting up an HMAC key costs more than one HMAC of a request.
    keys: Vec<FingerprintKey>,
}

#[derive(Clone)]
struct FingerprintKey {
    id: u32,
    key: hmac::Key,
}

impl FingerprintKeys {
    /// Reads them as [`operator_key::read`] does.
    ///
    /// # Errors
    /// `Unreadable`, `Repeated`.
    pub fn parse(
        current: &SecretString,
        older: &[SecretString],
    ) -> Result<Self, FingerprintKeyError> {
        let mut keys: Vec<FingerprintKey> = Vec::with_capacity(1 + older.len());
        for secret in std::iter::once(current).chain(older) {
            let key = FingerprintKey::parse(secret)?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(FingerprintKeyError::Repeated);
            }
            keys.push(key);
        }
        Ok(Self { keys })
    }

    /// The id of the key that new fingerprints are made with.
    pub fn current_id(&self) -> u32 {
        self.current().id
    }

    fn current(&self) -> &FingerprintKey {
        self.keys.first().expect("parse puts the current key first")
    }

    fn by_id(&self, id: u32) -> Option<&FingerprintKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for FingerprintKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| format!("{:08x}", key.id));
        f.debug_list().entries(ids).finish()
    }
}

impl FingerprintKey {
    fn parse(secret: &SecretString) -> Result<Self, FingerprintKeyError> {
        let bytes = operator_key::read(secret)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let check = hmac::sign(&key, LABEL_KEY_ID);
        let id = u32::from_be_bytes(first_bytes(&check));
        Ok(Self { id, key })
    }

    /// An HMAC under a label, over parts that cannot run into each other.
    fn mac(&self, label: &[u8], parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        update_with(&mut context, label);
        for part in parts {
            update_with(&mut context, part);
        }
        context.sign()
    }
}

/// Length first, so that ("ab", "c") and ("a", "bc") differ.
fn update_with(context: &mut hmac::Context, part: &[u8]) {
    let length =
        u64::try_from(part.len()).expect("a usize fits 64 bits on every supported platform");
    context.update(&length.to_be_bytes());
    context.update(part);
}

fn first_bytes<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let bytes = tag.as_ref().first_chunk::<N>();
    *bytes.expect("an HMAC-SHA256 tag has 32 bytes, and no caller asks for more")
}

/// One request as its fields, in whatever order they were read. Wiped on drop.
///
/// Paths are JSON pointers (RFC 6901) into the request. What is absent or has its default value is not put in, and
/// neither is the CVV: a retry that spells out a default, or asks for the CVV anew, is the same request.
#[derive(Default)]
pub struct CanonicalForm {
    fields: Vec<(Cow<'static, str>, Field)>,
}

/// A value as the bytes that go into the HMAC. An integer is big-endian, a boolean one byte, the rest text.
#[derive(ZeroizeOnDrop, PartialEq, Eq, PartialOrd, Ord)]
struct Field {
    kind: u8,
    bytes: Box<[u8]>,
}

const KIND_TEXT: u8 = b't';
const KIND_INTEGER: u8 = b'i';
const KIND_BOOLEAN: u8 = b'b';
/// A JSON number that is not a 64-bit integer, as it is written.
const KIND_NUMBER: u8 = b'n';
/// Hashed on its own first: card numbers are few enough to be tried, so what is stored must not be one step away.
const KIND_PAN: u8 = b'p';

impl CanonicalForm {
    /// The verb is part of every form: one key is one intent.
    pub fn new(verb: &str) -> Self {
        let mut form = Self::default();
        form.text("", verb);
        form
    }

    pub fn text(&mut self, path: impl Into<Cow<'static, str>>, value: &str) -> &mut Self {
        self.push(path, KIND_TEXT, value.as_bytes())
    }

    /// Absent is absent.
    pub fn optional_text(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        value: Option<&str>,
    ) -> &mut Self {
        match value {
            Some(value) => self.text(path, value),
            None => self,
        }
    }

    /// Left out when it is what the absence of the field would mean.
    pub fn text_unless(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        value: &str,
        default: &str,
    ) -> &mut Self {
        if value == default {
            return self;
        }
        self.text(path, value)
    }

    pub fn sensitive(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        value: &Sensitive,
    ) -> &mut Self {
        self.text(path, value.expose())
    }

    pub fn integer(&mut self, path: impl Into<Cow<'static, str>>, value: i64) -> &mut Self {
        self.push(path, KIND_INTEGER, &value.to_be_bytes())
    }

    /// Left out when it is what the absence of the field would mean.
    pub fn boolean_unless(
        &mut self,
        path: impl Into<Cow<'static, str>>,
        value: bool,
        default: bool,
    ) -> &mut Self {
        if value == default {
            return self;
        }
        self.push(path, KIND_BOOLEAN, &[u8::from(value)])
    }

    /// The amount at `/amount/value` and `/amount/currency`.
    pub fn amount(&mut self, amount: Money) -> &mut Self {
        self.integer("/amount/value", amount.minor());
        self.text("/amount/currency", amount.currency().code())
    }

    pub fn pan(&mut self, path: impl Into<Cow<'static, str>>, value: &Pan) -> &mut Self {
        self.push(path, KIND_PAN, value.expose().as_bytes())
    }

    /// A free-form part of the request, field by field: the order of its names does not matter, and a `null`, an empty
    /// object and an empty list are absent.
    pub fn json(&mut self, path: impl Into<Cow<'static, str>>, value: &Json) -> &mut Self {
        let path = path.into();
        match value {
            Json::Null => self,
            Json::Bool(value) => self.push(path, KIND_BOOLEAN, &[u8::from(*value)]),
            Json::Number(number) => match whole(number) {
                Some(integer) => self.integer(path, integer),
                None => self.push(path, KIND_NUMBER, number.to_string().as_bytes()),
            },
            Json::String(text) => self.text(path, text),
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.json(format!("{path}/{index}"), item);
                }
                self
            }
            Json::Object(fields) => {
                for (name, value) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    self.json(format!("{path}/{name}"), value);
                }
                self
            }
        }
    }

    /// The fingerprint to store with a new operation, under the current key.
    pub fn fingerprint(&self, keys: &FingerprintKeys) -> Fingerprint {
        let key = keys.current();
        let digest = self.digest(FORM_VERSION, key);
        Fingerprint {
            version: FORM_VERSION,
            key_id: key.id,
            digest: digest.expect("this release encodes the version it stores"),
        }
    }

    fn push(&mut self, path: impl Into<Cow<'static, str>>, kind: u8, value: &[u8]) -> &mut Self {
        let bytes = value.into();
        self.fields.push((path.into(), Field { kind, bytes }));
        self
    }

    /// None: a version of a newer release.
    fn digest(&self, version: u8, key: &FingerprintKey) -> Option<[u8; 32]> {
        match version {
            1 => Some(self.digest_1(key)),
            _ => None,
        }
    }

    /// Version 1: each field as path, kind and value, by path, all with their lengths.
    fn digest_1(&self, key: &FingerprintKey) -> [u8; 32] {
        let mut fields: Vec<_> = self.fields.iter().collect();
        fields.sort();
        let mut context = hmac::Context::with_key(&key.key);
        update_with(&mut context, LABEL_REQUEST_1);
        for (path, field) in fields {
            update_with(&mut context, path.as_bytes());
            update_with(&mut context, &[field.kind]);
            if field.kind == KIND_PAN {
                let nested = key.mac(LABEL_PAN_1, &[&field.bytes]);
                update_with(&mut context, nested.as_ref());
            } else {
                update_with(&mut context, &field.bytes);
            }
        }
        first_bytes(&context.sign())
    }
}

/// The integer that a number is, however it is written: a client that writes 1 as 1.0 the second time means the same.
fn whole(number: &serde_json::Number) -> Option<i64> {
    /// Up to here a double counts every integer.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let double = number.as_f64()?;
        let exact = double.fract() == 0.0 && double.abs() <= EXACT_MAX;
        exact.then(|| format!("{double:.0}").parse().ok())?
    })
}

/// How many fields, and nothing of what they hold.
impl fmt::Debug for CanonicalForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanonicalForm({} fields)", self.fields.len())
    }
}

/// What is stored of a request to know it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub version: u8,
    pub key_id: u32,
    pub digest: [u8; 32],
}

/// A fingerprint that came back from the ledger, perhaps made by another release or under another key.
pub type StoredFingerprint = Fingerprint;

/// The stored bytes are not a fingerprint: a damaged row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored fingerprint has {expected} bytes, this one has {found}", expected = Fingerprint::BYTES)]
pub struct FingerprintFormError {
    pub found: usize,
}

/// Whether a request is the one behind a stored fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Same,
    Different,
    /// Nobody can tell any more: the key is gone, or a newer release made the fingerprint. What the ledger itself knows
    /// of the request has to decide.
    KeyLost,
}

impl Fingerprint {
    /// Version, key id, digest.
    pub const BYTES: usize = 1 + 4 + 32;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.version;
        bytes[1..5].copy_from_slice(&self.key_id.to_be_bytes());
        bytes[5..].copy_from_slice(&self.digest);
        bytes
    }

    /// # Errors
    /// `FingerprintFormError`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FingerprintFormError> {
        let found = bytes.len();
        let bytes: &[u8; Self::BYTES] = bytes
            .try_into()
            .map_err(|_| FingerprintFormError { found })?;
        let [version, a, b, c, d, digest @ ..] = *bytes;
        Ok(Self {
            version,
            key_id: u32::from_be_bytes([a, b, c, d]),
            digest,
        })
    }

    /// Whether `request` is the one that this fingerprint was made of, by whichever release and under whichever key.
    pub fn compare(&self, request: &CanonicalForm, keys: &FingerprintKeys) -> Comparison {
        let key = keys.by_id(self.key_id);
        match key.and_then(|key| request.digest(self.version, key)) {
            Some(digest) if digest == self.digest => Comparison::Same,
            Some(_) => Comparison::Different,
            None => Comparison::KeyLost,
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(v{} key {:08x})", self.version, self.key_id)
    }
}

impl UpstreamReference {
    /// Our name for the operation under (client, key): 17 letters and digits, the first a letter, the same whenever it
    /// is derived under the same current key.
    pub fn derive(keys: &FingerprintKeys, client: &Client, key: &IdempotencyKey) -> Self {
        Self::of_request(keys.current(), client, key)
    }

    /// The references under every key we still hold, the current one first: a ledger that was lost is searched for
    /// upstream under each.
    pub fn derive_all(keys: &FingerprintKeys, client: &Client, key: &IdempotencyKey) -> Vec<Self> {
        let each = keys.keys.iter();
        each.map(|managed| Self::of_request(managed, client, key))
            .collect()
    }

    /// Our name for what we start ourselves on behalf of an operation; `purpose` is `reversal`, for one.
    pub fn derive_internal(keys: &FingerprintKeys, operation: OperationId, purpose: &str) -> Self {
        let operation = operation.uuid();
        let parts: [&[u8]; 2] = [operation.as_bytes(), purpose.as_bytes()];
        Self::from_tag(&keys.current().mac(LABEL_INTERNAL_REFERENCE, &parts))
    }

    fn of_request(managed: &FingerprintKey, client: &Client, key: &IdempotencyKey) -> Self {
        let parts = [client.as_str().as_bytes(), key.as_str().as_bytes()];
        Self::from_tag(&managed.mac(LABEL_REFERENCE, &parts))
    }

    /// 128 bits of the tag in base 36. They hold 26 · 36^16 (about 2^87) values 2^40 times over, so none is preferred.
    fn from_tag(tag: &hmac::Tag) -> Self {
        const SIGNS: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let mut rest = u128::from_be_bytes(first_bytes(tag));
        let mut text = String::with_capacity(Self::LENGTH);
        // A letter first: spreadsheets and fixed-width processor files drop leading zeros.
        for place in 0..Self::LENGTH {
            let base = if place == 0 { 26 } else { 36 };
            let sign = usize::try_from(rest % base).expect("a remainder below 36");
            rest /= base;
            text.push(char::from(SIGNS[sign]));
        }
        Self::from_stored(&text)
    }
}

#[cfg(test)]
mod tests;
