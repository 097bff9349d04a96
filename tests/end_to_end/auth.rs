//! Bearer tokens: who may call, and what each token allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sandbox::simulators::connexpay::verb;
use sandbox::stack::{
    Algorithm, JwksServer, TestKey, eventually, token_signed_with_secret, unsigned_token,
};
use sandbox::world::{Caller, Reply, World, card, claims, sale};
use serde_json::{Value, json};

/// A forged, foreign, expired or too long-lived token, or one that does not say who it is, is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let good = claims("shop-1");
    let now = good["iat"].as_u64().expect("seconds");
    let key = &world.key;
    let stranger = TestKey::generate(Algorithm::EdDsa, "world");
    let pem = key.public_pem();
    let hs256 = json!({"alg": "HS256", "typ": "JWT", "kid": "world"});
    let point = key.jwk()["x"].as_str().expect("a point").to_owned();
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
    let tokens = [
        ("no algorithm", unsigned_token(&header("none"), &good)),
        (
            "no algorithm, in capitals",
            unsigned_token(&header("NONE"), &good),
        ),
        (
            "a signature under `none`",
            key.mint_with_header(&header("none"), &good),
        ),
        (
            "HS256 with the public key's file",
            token_signed_with_secret(pem.as_bytes(), &hs256, &good),
        ),
        (
            "HS256 with the public key's file, trimmed",
            token_signed_with_secret(pem.trim().as_bytes(), &hs256, &good),
        ),
        (
            "HS256 with the public point",
            token_signed_with_secret(point.as_bytes(), &hs256, &good),
        ),
        (
            "HS256 with nothing",
            token_signed_with_secret(b"", &hs256, &good),
        ),
        (
            "another algorithm's name",
            key.mint_with_header(&header("RS256"), &good),
        ),
        ("another key", stranger.mint(&good)),
        ("other claims under the signature", tampered),
        ("half a token", genuine[..genuine.len() / 2].to_owned()),
        ("no token", "x".to_owned()),
        (
            "a critical extension",
            key.mint_with_header(
                &json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}),
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

/// A token says what its bearer may do: as which client, in which scope, in which accounts, up to which amount.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_allow_it_is_forbidden() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let good = claims("shop-1");
    let scope = |scope: &str| with(&good, "scope", json!(scope));
    let none = Value::Null;
    let doors = Doors::new(&world, &gateway.url).await;
    // What each of the doors says, in their order: pay, authorize, check, capture, refund, void, cancel, then the reads.
    let nobody = with(&good, "sub", json!("stranger"));
    let cases = [
        ("an unmapped subject", nobody, "client", [true; 9]),
        ("no scope", with(&good, "scope", none), "scope", [true; 9]),
        (
            "an unknown scope",
            scope("payments payments:admin"),
            "scope",
            [true; 9],
        ),
        (
            "reading only",
            scope("payments:read"),
            "scope",
            [true, true, true, true, true, true, true, false, false],
        ),
        (
            "no refunds",
            scope("payments:write"),
            "scope",
            [false, false, false, false, true, false, false, false, false],
        ),
        (
            "refunds only",
            scope("refunds:write"),
            "scope",
            [true, true, true, true, false, true, true, true, true],
        ),
    ];
    for (what, claims, reason, forbidden) in cases {
        let caller = world.caller_with(&gateway.url, &claims);
        for (door, reply) in doors.knock_closed(&caller, &forbidden).await {
            assert_eq!(
                (reply.status, reply.problem()),
                (403, "forbidden"),
                "{what} at {door}: {}",
                reply.body
            );
            assert_eq!(reply.body["reason"], reason, "{what} at {door}");
            assert_eq!(
                (&reply.body["retry"], &reply.body["money_moved"]),
                (&json!("same-key"), &json!("unknown"))
            );
        }
    }
    doors.nothing_happened().await;

    // Accounts and amounts are limits on the same doors.
    let money = [
        (
            "another account",
            with(&good, "accounts", json!(["acme-eu"])),
            "account",
        ),
        ("no account", with(&good, "accounts", json!([])), "account"),
        (
            "an amount above the claim",
            with(&good, "max_amount", json!({"USD": 149_99, "EUR": 1_000_00})),
            "amount",
        ),
        (
            "a currency that is not listed",
            with(&good, "max_amount", json!({"EUR": 1_000_00})),
            "amount",
        ),
        (
            "no currency at all",
            with(&good, "max_amount", json!({})),
            "amount",
        ),
    ];
    for (what, claims, reason) in money {
        let caller = world.caller_with(&gateway.url, &claims);
        let replies = [
            caller.pay("k-door", &sale(150_00)).await,
            caller.authorize("k-door", 150_00).await,
            caller.capture("k-door", &doors.held, 150_00).await,
            caller.void("k-door", &doors.held).await,
            caller.refund("k-door", &doors.paid, 150_00).await,
        ];
        for (number, reply) in replies.into_iter().enumerate() {
            assert_eq!(
                (reply.status, reply.problem()),
                (403, "forbidden"),
                "{what} {number}: {}",
                reply.body
            );
            if number < 2 {
                assert_eq!(reply.body["reason"], reason, "{what}");
            }
        }
    }
    doors.nothing_happened().await;
    // At its limit, a token works.
    let limited = with(
        &with(&good, "accounts", json!(["acme-us"])),
        "max_amount",
        json!({"USD": 150_00}),
    );
    let caller = world.caller_with(&gateway.url, &limited);
    caller.pay("k-limit", &sale(150_01)).await.expect(403);
    caller.pay("k-limit", &sale(150_00)).await.expect(201);
    caller
        .capture("k-limit-2", &doors.held, 150_00)
        .await
        .expect(201);
    world.audit().await;
}

/// However many unknown key ids arrive, the key server is asked at most once per cool-down; a new key is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn forged_key_ids_do_not_flood_the_key_server() {
    const COOLDOWN: Duration = Duration::from_secs(2);
    let mut world = World::new().await;
    let server = JwksServer::start([&world.key]).await.expect("a key server");
    world.config.jwks_url = Some(server.url());
    "jwks_refresh = \"1h\"\njwks_cooldown = \"2s\"".clone_into(&mut world.config.more_auth);
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.get("/v1/payments").await.expect(200);

    let (started, before) = (Instant::now(), server.request_count());
    let forger = Arc::new(TestKey::generate(Algorithm::EdDsa, "forged"));
    for round in 0..10 {
        let forged = (0..100).map(|number| {
            let header =
                json!({"alg": "EdDSA", "typ": "JWT", "kid": format!("forged-{round}-{number}")});
            let caller = shop.bearing(forger.mint_with_header(&header, &claims("shop-1")));
            async move { caller.get("/v1/payments").await }
        });
        for reply in join_all(forged).await {
            assert_eq!(
                (reply.status, reply.problem()),
                (401, "unauthenticated"),
                "{}",
                reply.body
            );
        }
    }
    let fetched = server.request_count() - before;
    let cooldowns = started.elapsed().as_secs() / COOLDOWN.as_secs() + 1;
    assert!(
        fetched <= cooldowns,
        "{fetched} fetches in {:?}",
        started.elapsed()
    );
    shop.get("/v1/payments").await.expect(200);

    let new = TestKey::generate(Algorithm::Es256, "new");
    server.serve([&world.key, &new]);
    let rotated = shop.bearing(new.mint(&claims("shop-1")));
    eventually(
        Duration::from_secs(10),
        "the new key to be known",
        async || Some(rotated.get("/v1/payments").await).filter(|reply| reply.status == 200),
    )
    .await
    .expect("found after a cool-down");
    // What the server says wrongly leaves the keys as they are.
    server.answer_with(http::StatusCode::INTERNAL_SERVER_ERROR, json!({"keys": []}));
    rotated.get("/v1/payments").await.expect(200);
}

/// Everything a token can be shown at, in front of a payment to follow up.
struct Doors<'w> {
    world: &'w World,
    shop: Caller,
    held: String,
    paid: String,
    requests: u64,
}

const DOORS: [&str; 9] = [
    "pay",
    "authorize",
    "check",
    "capture",
    "refund",
    "void",
    "cancel",
    "list",
    "look up",
];

impl<'w> Doors<'w> {
    async fn new(world: &'w World, url: &str) -> Self {
        let shop = world.caller(url);
        let held = shop.authorize("k-held", 150_00).await.expect(201).payment();
        let paid = shop
            .pay("k-paid", &sale(150_00))
            .await
            .expect(201)
            .payment();
        Self {
            world,
            shop,
            held,
            paid,
            requests: world.simulators.connexpay().request_count(),
        }
    }

    async fn knock(&self, caller: &Caller) -> Vec<Reply> {
        let all = self.knock_closed(caller, &[true; DOORS.len()]).await;
        all.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Knocks where it is `closed`: elsewhere money would move.
    async fn knock_closed(
        &self,
        caller: &Caller,
        closed: &[bool; DOORS.len()],
    ) -> Vec<(&'static str, Reply)> {
        let mut replies = Vec::new();
        for (door, closed) in DOORS.into_iter().zip(closed) {
            if !closed {
                continue;
            }
            let reply = match door {
                "pay" => caller.pay("k-door", &sale(150_00)).await,
                "authorize" => caller.authorize("k-door", 150_00).await,
                "check" => {
                    let check = json!({"account": "acme-us", "card": card()});
                    caller.post("/v1/verifications", "k-door", &check).await
                }
                "capture" => caller.capture("k-door", &self.held, 150_00).await,
                "refund" => caller.refund("k-door", &self.paid, 150_00).await,
                "void" => caller.void("k-door", &self.held).await,
                "cancel" => caller.cancel("k-held").await,
                "list" => caller.get("/v1/payments").await,
                _ => caller.operation("k-held").await,
            };
            replies.push((door, reply));
        }
        replies
    }

    /// Nothing was sent and no key was claimed.
    async fn nothing_happened(&self) {
        assert_eq!(
            self.world.simulators.connexpay().request_count(),
            self.requests
        );
        assert_eq!(
            self.world
                .simulators
                .connexpay()
                .request_count_of(verb::CAPTURE),
            0
        );
        self.shop.operation("k-door").await.expect(404);
        let held = self.shop.operation("k-held").await.expect(200);
        assert!(held.body.get("cancel_requested_at").is_none());
    }
}

/// `claims` with one set, or without it where the value is null.
fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    let members = claims.as_object_mut().expect("claims");
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    claims
}
