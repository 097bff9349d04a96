//! Forged tokens: what is signed with something else than the key, or says something else than it may.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use sandbox::stack::{Algorithm, JwksServer, TestKey, token_signed_with_secret, unsigned_token};
use sandbox::world::{World, claims, sale};
use serde_json::{Value, json};

use super::doors::Doors;
use super::with;

/// A forged, foreign, expired or too long-lived token, or one that does not say who it is, is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused() {
    refuse_forgeries(World::new().await).await;
}

/// The same with keys that a server publishes: an RSA key must not be taken for a secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused_beside_published_rsa_keys() {
    refuse_published(Algorithm::Rs256).await;
}

/// Nor the point of an elliptic curve.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused_beside_published_points() {
    refuse_published(Algorithm::Es256).await;
}

/// Many servers do not say what their keys are for: then only the kind of key tells which algorithm it is good for.
async fn refuse_published(algorithm: Algorithm) {
    let mut world = World::new().await;
    world.key = TestKey::generate(algorithm, "world");
    let server = JwksServer::start([&world.key]).await.expect("a key server");
    let mut bare = world.key.jwk();
    bare.as_object_mut().expect("a key").remove("alg");
    server.answer_with(http::StatusCode::OK, json!({"keys": [bare]}));
    world.config.jwks_url = Some(server.url());
    refuse_forgeries(world).await;
    assert!(server.request_count() > 0);
}

/// What could be taken for a secret though everybody may know it: the key as it lies in files and in key sets.
fn known_to_all(key: &TestKey) -> Vec<Vec<u8>> {
    let (pem, jwk) = (key.public_pem(), key.jwk());
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut known = vec![
        Vec::new(),
        pem.as_bytes().to_vec(),
        pem.trim().as_bytes().to_vec(),
        BASE64_STANDARD.decode(&der).expect("base64"),
        der.into_bytes(),
        jwk.to_string().into_bytes(),
        json!({"keys": [jwk]}).to_string().into_bytes(),
        key.id().as_bytes().to_vec(),
    ];
    for number in ["x", "y", "n", "e"] {
        if let Some(text) = jwk[number].as_str() {
            known.push(text.as_bytes().to_vec());
            known.push(BASE64_URL_SAFE_NO_PAD.decode(text).expect("base64"));
        }
    }
    known
}

async fn refuse_forgeries(world: World) {
    let gateway = world.gateway().await;
    let good = claims("shop-1");
    let now = good["iat"].as_u64().expect("seconds");
    let key = &world.key;
    let stranger = TestKey::generate(key.algorithm(), "world");
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": "world"});
    let genuine = key.mint(&good);
    let tampered = {
        let parts: Vec<_> = genuine.split('.').collect();
        let other = key.mint(&with(&good, "sub", json!("other-1")));
        format!(
            "{}.{}.{}",
            parts[0],
            other.split('.').nth(1).expect("claims"),
            parts[2]
        )
    };
    let changed = |name: &str, value: Value| key.mint(&with(&good, name, value));
    let mut tokens = vec![
        ("no algorithm", unsigned_token(&header("none"), &good)),
        (
            "no algorithm, in capitals",
            unsigned_token(&header("NONE"), &good),
        ),
        (
            "a signature under `none`",
            key.mint_with_header(&header("none"), &good),
        ),
        ("another key", stranger.mint(&good)),
        ("other claims under the signature", tampered),
        ("half a token", genuine[..genuine.len() / 2].to_owned()),
        ("no token", "x".to_owned()),
        (
            "a critical extension",
            key.mint_with_header(
                &json!({"alg": key.algorithm().name(), "crit": ["b64"], "b64": false}),
                &good,
            ),
        ),
        (
            "another issuer",
            changed("iss", json!("https://issuer.example")),
        ),
        ("no issuer", changed("iss", Value::Null)),
        ("another audience", changed("aud", json!("elsewhere"))),
        (
            "other audiences",
            changed("aud", json!(["elsewhere", "quittance-test"])),
        ),
        ("no audience", changed("aud", Value::Null)),
        ("expired", changed("exp", json!(now - 60))),
        ("no expiry", changed("exp", Value::Null)),
        ("an expiry in words", changed("exp", json!("tomorrow"))),
        ("not yet valid", changed("nbf", json!(now + 300))),
        ("no start", changed("nbf", Value::Null)),
        (
            "longer-lived than an hour",
            changed("exp", json!(now + 3_700)),
        ),
        (
            "longer-lived, from its issue on",
            key.mint(&with(
                &with(&good, "iat", json!(now - 3_400)),
                "exp",
                json!(now + 500),
            )),
        ),
        ("no subject", changed("sub", Value::Null)),
        ("an empty subject", changed("sub", json!(""))),
        (
            "accounts in another form",
            changed("accounts", json!("acme-us")),
        ),
        ("a limit in another form", changed("max_amount", json!(100))),
        (
            "a limit that is no number",
            changed("max_amount", json!({"USD": "100"})),
        ),
    ];
    for other in [
        "HS256", "EdDSA", "ES256", "ES384", "RS256", "RS512", "PS256",
    ] {
        if other != key.algorithm().name() {
            let token = key.mint_with_header(&header(other), &good);
            tokens.push(("another algorithm's name", token));
        }
    }
    // With the name of the key it is taken from, and without.
    for header in [header("HS256"), json!({"alg": "HS256", "typ": "JWT"})] {
        tokens.extend(known_to_all(key).iter().map(|secret| {
            let token = token_signed_with_secret(secret, &header, &good);
            ("HS256 with what everybody knows", token)
        }));
    }
    // The forger's key comes with the token.
    let mut own = header(stranger.algorithm().name());
    own["jwk"] = stranger.jwk();
    tokens.push(("a key of its own", stranger.mint_with_header(&own, &good)));
    let doors = Doors::new(&world, &gateway.url).await;
    let honest = world.caller(&gateway.url);
    for (what, token) in tokens {
        for reply in doors.knock(&honest.bearing(token.clone())).await {
            assert_eq!(
                (reply.status, reply.problem()),
                (401, "unauthenticated"),
                "{what}: {}",
                reply.body
            );
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert_eq!(
                (&reply.body["retry"], &reply.body["money_moved"]),
                (&json!("same-key"), &json!("unknown"))
            );
            let text = String::from_utf8_lossy(&reply.bytes).into_owned();
            assert!(
                !text.contains(&token) || token.len() < 2,
                "{what}: the token is repeated"
            );
        }
    }
    // The header itself.
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let url = format!("{}/v1/payments", gateway.url);
    let bearer = format!("Bearer {genuine}");
    let headers: [&[&str]; 4] = [
        &[],
        &["Basic c2hvcDpzaG9w"],
        &[&genuine],
        &[bearer.as_str(), bearer.as_str()],
    ];
    for values in headers {
        let request = values.iter().fold(http.get(&url), |request, value| {
            request.header("authorization", *value)
        });
        assert_eq!(
            request.send().await.expect("an answer").status(),
            401,
            "{} headers",
            values.len()
        );
    }
    doors.nothing_happened().await;
    // All that was wrong with them was wrong with them.
    world
        .caller(&gateway.url)
        .pay("k-door", &sale(150_00))
        .await
        .expect(201);
    let generous = with(
        &with(&good, "aud", json!(["elsewhere", "quittance"])),
        "exp",
        json!(now + 3_500),
    );
    world
        .caller_with(&gateway.url, &generous)
        .get("/v1/payments")
        .await
        .expect(200);
    world.audit().await;
}
