//! What is accepted, what is refused, and what a thousand forged tokens cost.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rsa::KeySize;
use gateway_core::clock::{ManualClock, Timestamp};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

struct Signer {
    algorithm: Algorithm,
    encoding: EncodingKey,
    public_pem: String,
    private_pem: String,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        if algorithm == Algorithm::Rs256 {
            return Self::rsa();
        }
        let kind = if algorithm == Algorithm::EdDsa {
            &rcgen::PKCS_ED25519
        } else {
            &rcgen::PKCS_ECDSA_P256_SHA256
        };
        let pair = rcgen::KeyPair::generate_for(kind).expect("key");
        let pem = pair.serialize_pem();
        let encoding = if algorithm == Algorithm::EdDsa {
            EncodingKey::from_ed_pem(pem.as_bytes())
        } else {
            EncodingKey::from_ec_pem(pem.as_bytes())
        };
        Self {
            algorithm,
            encoding: encoding.expect("PEM"),
            public_pem: pair.public_key_pem(),
            private_pem: pem,
        }
    }

    fn rsa() -> Self {
        use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
        use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("key");
        let private: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let private_pem = pem("PRIVATE KEY", private.as_ref());
        let encoding = EncodingKey::from_rsa_pem(private_pem.as_bytes()).expect("PEM");
        Self {
            algorithm: Algorithm::Rs256,
            encoding,
            public_pem: pem("PUBLIC KEY", public.as_ref()),
            private_pem,
        }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(None, claims)
    }

    fn sign_as(&self, key_id: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm.to_library());
        header.kid = key_id.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.encoding).expect("signed")
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn claims() -> Value {
    json!({"iss": "https://idp.test", "aud": "quittance", "sub": "pod-7", "nbf": NOW - 10, "iat": NOW - 10,
           "exp": NOW + 600, "scope": "payments:write payments:read future:scope"})
}

fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn rules() -> Rules {
    Rules {
        issuer: "https://idp.test".into(),
        audience: "quittance".into(),
        algorithms: Algorithm::ALL.to_vec(),
        lifetime_max: Duration::from_hours(1),
        leeway: Duration::from_secs(5),
    }
}

fn authenticator_with(keys: KeySource, clock: Arc<ManualClock>) -> Authenticator {
    let client = |name: &str| Client::parse(name).expect("a name");
    let clients = [
        ("pod-7".to_owned(), client("shop")),
        ("pod-8".to_owned(), client("shop")),
    ];
    Authenticator::new(rules(), keys, clients, clock)
}

fn authenticator(signer: &Signer) -> (Authenticator, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
    let keys = KeySet::from_pem(&signer.public_pem).expect("keys");
    (
        authenticator_with(KeySource::Fixed(Arc::new(keys)), Arc::clone(&clock)),
        clock,
    )
}

#[tokio::test]
async fn each_accepted_algorithm_gives_the_caller() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let (auth, _) = authenticator(&signer);
        let wanted = with(&json!({"accounts": ["acme-us"], "max_amount": {"USD": 150_000}}));
        let caller = auth.verify(&signer.sign(&wanted)).await.expect("accepted");
        assert_eq!(caller.client.as_str(), "shop");
        assert_eq!(caller.subject, "pod-7");
        assert!(caller.scopes.has(Scope::PaymentsWrite) && caller.scopes.has(Scope::PaymentsRead));
        assert!(
            !caller.scopes.has(Scope::RefundsWrite) && !caller.scopes.has(Scope::OperationsResolve)
        );
        assert!(
            caller.require_account("acme-us").is_ok() && caller.require_account("acme-eu").is_err()
        );
        assert!(caller.require_amount("USD", 150_000).is_ok());
        assert!(caller.require_amount("USD", 150_001).is_err());
        assert!(
            caller.require_amount("EUR", 1).is_err(),
            "a currency not listed is refused"
        );
    }
}

#[tokio::test]
async fn every_bad_claim_is_refused_by_name() {
    let signer = Signer::new(Algorithm::EdDsa);
    let (auth, _) = authenticator(&signer);
    let cases = [
        (json!({"iss": "https://evil.test"}), AuthError::Issuer),
        (json!({"iss": null}), AuthError::Claim("iss")),
        (json!({"aud": "other"}), AuthError::Audience),
        (json!({"aud": ["other", "another"]}), AuthError::Audience),
        (json!({"aud": null}), AuthError::Claim("aud")),
        (json!({"exp": NOW - 6}), AuthError::Expired),
        (json!({"exp": null}), AuthError::Claim("exp")),
        (json!({"exp": "soon"}), AuthError::Claim("exp")),
        (json!({"exp": -1}), AuthError::Claim("exp")),
        (json!({"nbf": NOW + 6}), AuthError::NotYetValid),
        (json!({"nbf": null}), AuthError::Claim("nbf")),
        (json!({"exp": NOW + 3600}), AuthError::TooLongLived),
        // Born long ago by `iat`, though `nbf` is fresh.
        (
            json!({"iat": NOW - 3001, "exp": NOW + 600}),
            AuthError::TooLongLived,
        ),
        (json!({"sub": null}), AuthError::Claim("sub")),
        (json!({"sub": ""}), AuthError::Claim("sub")),
        (json!({"sub": "stranger"}), AuthError::UnmappedSubject),
        (json!({"accounts": "acme-us"}), AuthError::Claim("accounts")),
        (
            json!({"max_amount": {"USD": 1.5}}),
            AuthError::Claim("max_amount"),
        ),
        (json!({"max_amount": 100}), AuthError::Claim("max_amount")),
    ];
    for (change, wanted) in cases {
        assert_eq!(
            auth.verify(&signer.sign(&with(&change))).await,
            Err(wanted),
            "{change}"
        );
    }
    for (change, why) in [
        (
            json!({"aud": ["other", "quittance"]}),
            "one audience of several",
        ),
        (json!({"exp": NOW - 4}), "within the leeway"),
        (json!({"iat": null}), "iat is optional"),
        (
            json!({"sub": "pod-8"}),
            "another subject of the same client",
        ),
    ] {
        assert!(
            auth.verify(&signer.sign(&with(&change))).await.is_ok(),
            "{why}"
        );
    }
}

#[tokio::test]
async fn scopes_come_as_words_or_as_a_list() {
    let signer = Signer::new(Algorithm::EdDsa);
    let (auth, _) = authenticator(&signer);
    let listed = signer.sign(&with(
        &json!({"scope": ["refunds:write", "operations:resolve"]}),
    ));
    let caller = auth.verify(&listed).await.expect("accepted");
    assert!(
        caller.require(Scope::RefundsWrite).is_ok()
            && caller.require(Scope::OperationsResolve).is_ok()
    );
    assert!(caller.require(Scope::PaymentsWrite).is_err());
    let none = auth
        .verify(&signer.sign(&with(&json!({"scope": null}))))
        .await
        .expect("accepted");
    assert!(
        Scope::ALL
            .into_iter()
            .all(|scope| none.require(scope).is_err())
    );
}

#[tokio::test]
async fn unsigned_and_symmetric_tokens_are_refused() {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let signer = Signer::new(Algorithm::Rs256);
    let (auth, _) = authenticator(&signer);

    let body = encode(&claims().to_string());
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#] {
        let none = format!("{}.{body}.", encode(header));
        assert_eq!(auth.verify(&none).await, Err(AuthError::Malformed));
    }
    // The attacker knows the public key, and signs with it as if it were a shared secret.
    let secret = EncodingKey::from_secret(signer.public_pem.as_bytes());
    let forged = jsonwebtoken::encode(
        &Header::new(jsonwebtoken::Algorithm::HS256),
        &claims(),
        &secret,
    );
    assert_eq!(
        auth.verify(&forged.expect("signed")).await,
        Err(AuthError::Algorithm)
    );
    // The right key under an algorithm that is not accepted.
    let other = jsonwebtoken::encode(
        &Header::new(jsonwebtoken::Algorithm::RS512),
        &claims(),
        &signer.encoding,
    );
    assert_eq!(
        auth.verify(&other.expect("signed")).await,
        Err(AuthError::Algorithm)
    );
}

#[tokio::test]
async fn a_tampered_or_foreign_token_is_refused() {
    let signer = Signer::new(Algorithm::Es256);
    let (auth, _) = authenticator(&signer);
    let stranger = Signer::new(Algorithm::Es256);
    assert_eq!(
        auth.verify(&stranger.sign(&claims())).await,
        Err(AuthError::Signature)
    );
    assert_eq!(
        auth.verify(&Signer::new(Algorithm::EdDsa).sign(&claims()))
            .await,
        Err(AuthError::UnknownKey)
    );

    let good = signer.sign(&claims());
    let richer = signer.sign(&with(&json!({"scope": "refunds:write"})));
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (good, richer) = (parts(&good), parts(&richer));
    let spliced = format!("{}.{}.{}", good[0], richer[1], good[2]);
    assert_eq!(auth.verify(&spliced).await, Err(AuthError::Signature));
    for garbage in ["", ".", "..", "a.b.c", "a.b.c.d", "🙂.🙂.🙂"] {
        assert_eq!(
            auth.verify(garbage).await,
            Err(AuthError::Malformed),
            "{garbage:?}"
        );
    }
}

#[tokio::test]
async fn an_extension_called_critical_is_refused() {
    let signer = Signer::new(Algorithm::EdDsa);
    let (auth, _) = authenticator(&signer);
    let mut header = Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.crit = Some(vec!["b64".into()]);
    let token = jsonwebtoken::encode(&header, &claims(), &signer.encoding).expect("signed");
    assert_eq!(auth.verify(&token).await, Err(AuthError::Malformed));
}

#[tokio::test]
async fn a_remembered_token_still_expires() {
    let signer = Signer::new(Algorithm::EdDsa);
    let (auth, clock) = authenticator(&signer);
    let token = signer.sign(&claims());
    let first = auth.verify(&token).await.expect("accepted");
    let second = auth.verify(&token).await.expect("accepted");
    assert!(
        Arc::ptr_eq(&first, &second),
        "remembered, not verified again"
    );
    clock.advance(Duration::from_secs(604));
    assert!(auth.verify(&token).await.is_ok(), "within the leeway");
    clock.advance(Duration::from_secs(1));
    assert_eq!(auth.verify(&token).await, Err(AuthError::Expired));
}

#[tokio::test]
async fn the_header_must_be_one_bearer_token() {
    let signer = Signer::new(Algorithm::EdDsa);
    let (auth, _) = authenticator(&signer);
    let token = signer.sign(&claims());
    let headers = |values: &[String]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                header::AUTHORIZATION,
                value.parse().expect("a header value"),
            );
        }
        headers
    };
    let ask = async |values: &[String]| auth.authenticate(&headers(values)).await.map(|_| ());
    assert_eq!(ask(&[]).await, Err(AuthError::Missing));
    assert_eq!(
        ask(&["Basic Zm9vOmJhcg==".into()]).await,
        Err(AuthError::Missing)
    );
    assert_eq!(
        ask(std::slice::from_ref(&token)).await,
        Err(AuthError::Missing)
    );
    assert_eq!(ask(&[format!("bearer {token}")]).await, Ok(()));
    assert_eq!(
        ask(&[format!("Bearer {token}"), format!("Bearer {token}")]).await,
        Err(AuthError::Repeated)
    );
}

#[tokio::test]
async fn what_the_command_line_mints_is_accepted() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let (auth, _) = authenticator(&signer);
        let wanted = mint::Wanted {
            issuer: "https://idp.test".into(),
            audience: "quittance".into(),
            subject: "pod-7".into(),
            scopes: Scope::ALL.to_vec(),
            lifetime: Duration::from_mins(30),
            accounts: Some(vec!["acme-us".into()]),
            max_amount: [("USD".to_owned(), 5)].into(),
        };
        let key = mint::SigningKey::from_pem(&signer.private_pem).expect("a key");
        assert_eq!(key.algorithm(), algorithm);
        let token = key.sign(&wanted, Timestamp::from_seconds(NOW));
        let caller = auth.verify(&token).await.expect("accepted");
        assert!(Scope::ALL.into_iter().all(|scope| caller.scopes.has(scope)));
        assert_eq!(
            caller.accounts.as_deref(),
            Some(["acme-us".to_owned()].as_slice())
        );
        assert!(
            caller.require_amount("USD", 5).is_ok() && caller.require_amount("USD", 6).is_err()
        );
    }
    assert!(mint::SigningKey::from_pem(&Signer::new(Algorithm::EdDsa).public_pem).is_err());
}

/// Serves a key set, counting how often it is asked.
async fn key_server(body: Arc<Mutex<String>>) -> (reqwest::Url, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let route = axum::routing::get(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(body.lock().expect("not poisoned").clone())
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    tokio::spawn(
        async move { axum::serve(listener, axum::Router::new().route("/keys", route)).await },
    );
    (url.parse().expect("a URL"), asked)
}

fn key_set(keys: &[(&str, &Signer)]) -> String {
    let keys: Vec<_> = keys
        .iter()
        .map(|(id, signer)| {
            let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(
                &signer.encoding,
                signer.algorithm.to_library(),
            )
            .expect("a key");
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        })
        .collect();
    json!({ "keys": keys }).to_string()
}

#[tokio::test]
async fn a_thousand_forged_key_ids_cost_one_fetch_per_cooldown() {
    let signer = Arc::new(Signer::new(Algorithm::Es256));
    let (url, asked) = key_server(Arc::new(Mutex::new(key_set(&[("k1", &signer)])))).await;
    let cooldown = Duration::from_secs(30);
    let jwks = Arc::new(Jwks::new(url, Duration::from_hours(1), cooldown).expect("a client"));
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
    let auth = Arc::new(authenticator_with(KeySource::Fetched(jwks), clock));
    assert!(!auth.is_ready());

    let storm = async || {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..1000 {
            let (auth, signer) = (Arc::clone(&auth), Arc::clone(&signer));
            tasks.spawn(async move {
                auth.verify(&signer.sign_as(Some(&format!("forged-{n}")), &claims()))
                    .await
            });
        }
        while let Some(answer) = tasks.join_next().await {
            assert_eq!(answer.expect("no panic"), Err(AuthError::UnknownKey));
        }
    };
    storm().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(auth.is_ready());
    assert!(
        auth.verify(&signer.sign_as(Some("k1"), &claims()))
            .await
            .is_ok(),
        "known keys are not held up"
    );
    storm().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "still cooling down");
    tokio::time::pause();
    tokio::time::advance(cooldown).await;
    tokio::time::resume();
    storm().await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_a_dropped_key_ends() {
    let (old, new) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let body = Arc::new(Mutex::new(key_set(&[("old", &old)])));
    let (url, asked) = key_server(Arc::clone(&body)).await;
    let jwks = Arc::new(Jwks::new(url, Duration::from_hours(1), Duration::ZERO).expect("a client"));
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
    let auth = authenticator_with(KeySource::Fetched(jwks), clock);
    let by_old = old.sign_as(Some("old"), &claims());
    assert!(auth.verify(&by_old).await.is_ok());
    *body.lock().expect("not poisoned") = key_set(&[("new", &new)]);
    assert!(
        auth.verify(&by_old).await.is_ok(),
        "remembered until the keys are fetched again"
    );
    assert!(
        auth.verify(&new.sign_as(Some("new"), &claims()))
            .await
            .is_ok()
    );
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(
        auth.verify(&by_old).await,
        Err(AuthError::UnknownKey),
        "its key was withdrawn"
    );
}

#[tokio::test]
async fn without_any_key_the_answer_is_503_and_not_401() {
    // A port that was free a moment ago and that nobody serves.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    drop(listener);
    let jwks = Arc::new(
        Jwks::new(
            url.parse().expect("a URL"),
            Duration::from_hours(1),
            Duration::from_secs(30),
        )
        .expect("a client"),
    );
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
    let auth = authenticator_with(KeySource::Fetched(jwks), clock);
    let token = Signer::new(Algorithm::EdDsa).sign_as(Some("k1"), &claims());
    let error = auth.verify(&token).await.expect_err("no keys");
    assert_eq!(error, AuthError::KeysUnavailable);
    assert_eq!(
        Problem::from(error).status(),
        http::StatusCode::SERVICE_UNAVAILABLE
    );
}
