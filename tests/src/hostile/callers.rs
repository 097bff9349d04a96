//! Bearer tokens and the keys that verify them: who is taken for a caller has a token that one of these keys has signed.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use gateway_core::clock::{ManualClock, Timestamp};
use gateway_core::key::Client;
use gateway_http::auth::keys::{Algorithm as Accepted, KEY_COUNT_MAX, KeySet};
use gateway_http::auth::{AuthError, Authenticator, Caller, KeySource, Rules, Scope};
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use super::processor::NOW;
use crate::stack::{Algorithm, TestKey};
use crate::world::claims;

const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "quittance";
const SUBJECT: &str = "shop-1";
const LEEWAY: i64 = 5;
const LIFETIME_MAX: i64 = 3_600;

struct Door {
    keys: [TestKey; 3],
    /// One of each key.
    tokens: [String; 3],
    authenticator: Authenticator,
}

thread_local! {
    static DOOR: OnceCell<Door> = const { OnceCell::new() };
}

impl Door {
    fn new() -> Self {
        let keys = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256]
            .map(|algorithm| TestKey::generate(algorithm, "key-1"));
        let pem: String = keys.iter().map(TestKey::public_pem).collect();
        let set = KeySet::from_pem(&pem).expect("three public keys");
        let authenticator = Self::with(set);
        let tokens = keys.each_ref().map(|key| key.mint(&claims(SUBJECT)));
        Self {
            keys,
            tokens,
            authenticator,
        }
    }

    fn with(keys: KeySet) -> Authenticator {
        let rules = Rules {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            algorithms: Accepted::ALL.to_vec(),
            lifetime_max: Duration::from_secs(LIFETIME_MAX.unsigned_abs()),
            leeway: Duration::from_secs(LEEWAY.unsigned_abs()),
        };
        let client = Client::parse("shop").expect("a name");
        Authenticator::new(
            rules,
            KeySource::Fixed(Arc::new(keys)),
            [(SUBJECT.to_owned(), client)],
            Arc::new(ManualClock::new(Timestamp::from_seconds(NOW))),
        )
    }
}

fn verify(authenticator: &Authenticator, token: &str) -> Result<Arc<Caller>, AuthError> {
    let verified = authenticator.verify(token).now_or_never();
    verified.expect("with fixed keys nobody is asked")
}

/// A token as it came, which nobody here has signed; and one with this header and these claims, signed or not: two lines of
/// JSON, and a third with a signature that is not ours.
pub(super) fn bearer_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    DOOR.with(|door| {
        let door = door.get_or_init(Door::new);
        assert!(verify(&door.authenticator, text).is_err(), "never signed");
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(header::AUTHORIZATION, value);
        }
        let authenticated = door.authenticator.authenticate(&headers).now_or_never();
        assert!(authenticated.expect("fixed keys").is_err(), "never signed");
        let mut lines = text.splitn(3, '\n');
        let mut json = || serde_json::from_str::<Value>(lines.next()?).ok();
        if let (Some(header), Some(claims)) = (json(), json()) {
            written(door, &header, &claims, lines.next());
        }
    });
}

fn written(door: &Door, header: &Value, claims: &Value, signature: Option<&str>) {
    let named = header["alg"].as_str().unwrap_or_default();
    let key = door.keys.iter().find(|key| key.algorithm().name() == named);
    let signer = key.unwrap_or(&door.keys[0]);
    let signed = signer.mint_with_header(header, claims);
    if let Some(signature) = signature {
        let (message, _) = signed.rsplit_once('.').expect("three parts");
        let forged = format!("{message}.{signature}");
        if forged != signed {
            assert!(verify(&door.authenticator, &forged).is_err(), "forged");
        }
    }
    let verified = verify(&door.authenticator, &signed);
    assert_eq!(verify(&door.authenticator, &signed), verified, "the cache");
    let Ok(caller) = verified else { return };
    assert!(key.is_some(), "by an algorithm that no key has");
    assert!(header.get("crit").is_none_or(Value::is_null), "critical");
    assert_eq!(
        (&*caller.subject, caller.client.as_str()),
        (SUBJECT, "shop")
    );
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&ISSUER.into(), &SUBJECT.into())
    );
    let audiences = claims["aud"].as_array().map(|many| many.iter().collect());
    let audiences: Vec<&Value> = audiences.unwrap_or_else(|| vec![&claims["aud"]]);
    assert!(audiences.contains(&&AUDIENCE.into()));
    let seconds = |name: &str| {
        let span = Duration::try_from_secs_f64(claims[name].as_f64().expect("a number"));
        i64::try_from(span.expect("after 1970").as_secs()).expect("near now")
    };
    let (ends, begins) = (seconds("exp"), seconds("nbf"));
    assert!(ends + LEEWAY > NOW && begins <= NOW + LEEWAY, "out of date");
    assert!(ends - begins <= LIFETIME_MAX, "too long-lived");
    assert_eq!(
        caller.valid_until,
        Timestamp::from_seconds(ends + LEEWAY),
        "the end"
    );
    // What limits must never be dropped.
    assert_eq!(caller.accounts.is_some(), claims.get("accounts").is_some());
    assert_eq!(
        caller.max_amount.is_some(),
        claims.get("max_amount").is_some()
    );
    for scope in Scope::ALL {
        let told = claims["scope"].to_string();
        assert!(!caller.scopes.has(scope) || told.contains(scope.as_str()));
    }
}

/// A key file, and a key set as it is fetched.
pub(super) fn verification_keys(data: &[u8]) {
    let sets = [
        std::str::from_utf8(data)
            .ok()
            .and_then(|text| KeySet::from_pem(text).ok()),
        KeySet::from_jwks(data).ok(),
    ];
    for set in sets.into_iter().flatten() {
        assert!((1..=KEY_COUNT_MAX).contains(&set.len()));
        DOOR.with(|door| {
            let door = door.get_or_init(Door::new);
            let door_of_theirs = Door::with(set);
            for token in &door.tokens {
                assert!(verify(&door_of_theirs, token).is_err(), "another's key");
            }
        });
    }
}
