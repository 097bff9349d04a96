//! Bearer tokens: who may call, and what each token allows.

mod doors;
mod forgeries;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sandbox::stack::{Algorithm, JwksServer, TestKey, eventually};
use sandbox::world::{World, claims, sale};
use serde_json::{Value, json};

use self::doors::Doors;

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
