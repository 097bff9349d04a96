//! Signing keys, tokens and the key server.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use sandbox::stack::{
    Algorithm, JwksServer, StackError, TestKey, jwks, token_signed_with_secret, unsigned_token,
};
use serde_json::{Value, json};

const ALGORITHMS: [(Algorithm, jsonwebtoken::Algorithm); 3] = [
    (Algorithm::EdDsa, jsonwebtoken::Algorithm::EdDSA),
    (Algorithm::Es256, jsonwebtoken::Algorithm::ES256),
    (Algorithm::Rs256, jsonwebtoken::Algorithm::RS256),
];

fn accepts(key: &DecodingKey, algorithm: jsonwebtoken::Algorithm, token: &str) -> bool {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let decoded = jsonwebtoken::decode::<Value>(token, key, &validation);
    decoded.is_ok_and(|token| token.claims == json!({"sub": "tests"}))
}

#[test]
fn tokens_are_signed_as_their_header_says_and_forgeries_are_not() {
    let claims = json!({"sub": "tests"});
    for (algorithm, name) in ALGORITHMS {
        let (key, other) = (
            TestKey::generate(algorithm, "one"),
            TestKey::generate(algorithm, "one"),
        );
        let set: JwkSet = serde_json::from_value(jwks([&key])).expect("a JWKS");
        let from_jwk = DecodingKey::from_jwk(set.find("one").expect("its key")).expect("a key");
        let pem = key.public_pem();
        let from_pem = match algorithm {
            Algorithm::EdDsa => DecodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
        }
        .expect("a PEM file");
        let token = key.mint(&claims);
        let header = jsonwebtoken::decode_header(&token).expect("a header");
        assert_eq!((header.alg, header.kid.as_deref()), (name, Some("one")));
        for decoding in [&from_jwk, &from_pem] {
            assert!(accepts(decoding, name, &token), "{algorithm:?}");
            assert!(
                !accepts(decoding, name, &other.mint(&claims)),
                "{algorithm:?}"
            );
        }
        assert!(
            key.private_pem()
                .starts_with("-----BEGIN PRIVATE KEY-----\n")
        );

        // Forgeries are well formed: what refuses them is what they are.
        let forged = json!({"alg": "HS256", "typ": "JWT", "kid": "one"});
        let by_secret = token_signed_with_secret(pem.as_bytes(), &forged, &claims);
        let secret = DecodingKey::from_secret(pem.as_bytes());
        assert!(accepts(&secret, jsonwebtoken::Algorithm::HS256, &by_secret));
        assert!(!accepts(&from_jwk, name, &by_secret));
        let unsigned = unsigned_token(&json!({"alg": "none"}), &claims);
        assert!(unsigned.ends_with('.') && unsigned.split('.').count() == 3);
        assert!(!accepts(&from_jwk, name, &unsigned));
    }
}

#[tokio::test]
async fn the_key_server_serves_what_it_is_told_and_counts() -> Result<(), StackError> {
    async fn fetch(url: &str) -> (u16, Value) {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        let answer = client
            .get(url)
            .send()
            .await
            .expect("the key server answers");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }
    let (first, second) = (
        TestKey::generate(Algorithm::EdDsa, "1"),
        TestKey::generate(Algorithm::EdDsa, "2"),
    );
    let server = JwksServer::start([&first]).await?;
    assert_eq!(server.request_count(), 0);
    assert_eq!(fetch(&server.url()).await, (200, jwks([&first])));
    server.serve([&first, &second]);
    assert_eq!(fetch(&server.url()).await, (200, jwks([&first, &second])));
    server.answer_with(http::StatusCode::SERVICE_UNAVAILABLE, json!({}));
    assert_eq!(fetch(&server.url()).await, (503, json!({})));
    assert_eq!(server.request_count(), 3);
    Ok(())
}
