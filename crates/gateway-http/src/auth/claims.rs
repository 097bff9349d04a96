//! The claims of a verified token, checked by our own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_core::clock::Timestamp;
use gateway_core::key::Client;
use serde_json::{Map, Value};

use super::{AuthError, Caller, Rules, Scopes};

/// What we read of a token whose signature matched.
#[derive(Debug)]
pub(super) struct Claims {
    issuer: String,
    audiences: Vec<String>,
    subject: String,
    expires: Timestamp,
    not_before: Timestamp,
    issued: Option<Timestamp>,
    scopes: Scopes,
    accounts: Option<Vec<String>>,
    max_amount: Option<BTreeMap<String, i64>>,
}

impl Claims {
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, AuthError> {
        let text = |name| {
            let value = claims
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty());
            value.map(str::to_owned).ok_or(AuthError::Claim(name))
        };
        let date = |name| {
            claims
                .get(name)
                .and_then(numeric_date)
                .ok_or(AuthError::Claim(name))
        };
        // A claim that limits must never be dropped because it has an unexpected form.
        let optional = |name: &'static str| claims.get(name);
        Ok(Self {
            issuer: text("iss")?,
            audiences: claims
                .get("aud")
                .and_then(one_or_many)
                .ok_or(AuthError::Claim("aud"))?,
            subject: text("sub")?,
            expires: date("exp")?,
            not_before: date("nbf")?,
            issued: optional("iat")
                .map(|value| numeric_date(value).ok_or(AuthError::Claim("iat")))
                .transpose()?,
            scopes: optional("scope").map_or(Ok(Scopes::default()), |value| {
                let words = one_or_many(value).ok_or(AuthError::Claim("scope"))?;
                Ok(words
                    .iter()
                    .flat_map(|words| words.split_ascii_whitespace())
                    .collect())
            })?,
            accounts: optional("accounts")
                .map(|value| texts(value).ok_or(AuthError::Claim("accounts")))
                .transpose()?,
            max_amount: optional("max_amount")
                .map(|value| amounts(value).ok_or(AuthError::Claim("max_amount")))
                .transpose()?,
        })
    }

    pub(super) fn into_caller(
        self,
        rules: &Rules,
        now: Timestamp,
        client_of: impl FnOnce(&str) -> Option<Client>,
    ) -> Result<Caller, AuthError> {
        if self.issuer != rules.issuer {
            return Err(AuthError::Issuer);
        }
        if !self.audiences.contains(&rules.audience) {
            return Err(AuthError::Audience);
        }
        let valid_until = self.expires + rules.leeway;
        if now >= valid_until {
            return Err(AuthError::Expired);
        }
        if now + rules.leeway < self.not_before {
            return Err(AuthError::NotYetValid);
        }
        // From the earlier of the two: an issuer that sets `nbf` late does not get a longer life for it.
        let born = self
            .issued
            .map_or(self.not_before, |issued| issued.min(self.not_before));
        if self.expires.since(born) > rules.lifetime_max {
            return Err(AuthError::TooLongLived);
        }
        let client = client_of(&self.subject).ok_or(AuthError::UnmappedSubject)?;
        Ok(Caller {
            client,
            subject: self.subject,
            scopes: self.scopes,
            accounts: self.accounts,
            max_amount: self.max_amount,
            valid_until,
        })
    }
}

/// Seconds since the epoch, perhaps with a fraction (RFC 7519, section 2), which is dropped.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    let seconds = Duration::try_from_secs_f64(value.as_f64()?).ok()?.as_secs();
    Some(Timestamp::from_seconds(i64::try_from(seconds).ok()?))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn one_or_many(value: &Value) -> Option<Vec<String>> {
    value
        .as_str()
        .map(|text| vec![text.to_owned()])
        .or_else(|| texts(value))
}

fn amounts(value: &Value) -> Option<BTreeMap<String, i64>> {
    value
        .as_object()?
        .iter()
        .map(|(currency, limit)| Some((currency.clone(), limit.as_i64()?)))
        .collect()
}
