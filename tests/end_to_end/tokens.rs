//! Access tokens of the processor: how many are asked for, and what payments meet when one is refused or none is to be had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::clock::ManualClock;
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind, Moment, RequestRecord, Selector};
use sandbox::stack::eventually;
use sandbox::world::{Caller, Reply, Running, World, card, claims, sale};
use serde_json::{Value, json};

const BURST: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// What the simulator grants, unless told otherwise.
const LIFE: Duration = Duration::from_secs(86_399);

/// Room for a burst in which every payment has a connection of its own, however slow the machine is.
fn make_room(world: &mut World) {
    world.config.upstream_timeout = "20s".into();
    world.config.connect_timeout = "10s".into();
    world.config.wait_max = "30s".into();
    world.config.horizon = "60s".into();
    world.config.connections_per_host = Some(272);
    world.config.more_account = "concurrency_max = 256\nwait_max = \"10s\"".into();
}

async fn pay_all(shop: &Caller, prefix: &str, count: usize) -> Vec<Reply> {
    let payments = (0..count).map(|number| {
        let shop = shop.clone();
        let key = format!("{prefix}-{number}");
        async move { shop.pay(&key, &sale(10_00)).await }
    });
    join_all(payments).await
}

fn token_requests(world: &World) -> u64 {
    world.simulators.connexpay().request_count_of(verb::TOKEN)
}

/// Requests of a verb by the reference they carry, in the order in which they came.
fn by_reference(world: &World, verb: &str) -> BTreeMap<String, Vec<RequestRecord>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for request in world.simulators.connexpay().requests_of(verb) {
        let reference = request.sequence_number.clone().expect("always sent");
        found.entry(reference).or_default().push(request);
    }
    found
}

/// The token a request came with, as the journal tells tokens apart.
fn token_of(request: &RequestRecord) -> &str {
    &request.headers["authorization"]
}

/// A caller whose token is good at a gateway whose clock is ahead.
fn caller_ahead(world: &World, gateway: &Running, ahead: Duration) -> Caller {
    let mut claims = claims("shop-1");
    for name in ["iat", "nbf", "exp"] {
        let now = claims[name].as_u64().expect("seconds");
        claims[name] = json!(now + ahead.as_secs());
    }
    world.caller_with(&gateway.url, &claims)
}

/// After its clock was moved a gateway trusts itself again with its next heartbeat.
async fn until_beating(gateway: &Running) {
    let beating = eventually(PATIENCE, "a heartbeat", async || {
        gateway.engine.is_beating().then_some(())
    });
    beating.await.expect("the ledger answers");
}

/// Promise: 200 payments that find an expired token cost one token request.
#[tokio::test(flavor = "multi_thread")]
async fn payments_that_find_an_expired_token_share_one_request() {
    let mut world = World::new().await;
    make_room(&mut world);
    let connexpay = world.simulators.connexpay();
    let clock = Arc::new(ManualClock::running());
    let seams = Seams {
        clock: Arc::clone(&clock) as _,
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let shop = world.caller(&gateway.url);
    shop.pay("first", &sale(10_00)).await.expect(201);
    assert_eq!(token_requests(&world), 1);

    let ahead = LIFE + Duration::from_secs(1);
    let gate = connexpay.hold(Moment::Received, Selector::verb(verb::TOKEN));
    clock.advance(ahead);
    connexpay.advance(ahead);
    until_beating(&gateway).await;
    let shop = caller_ahead(&world, &gateway, ahead);
    let paying = tokio::spawn(async move { pay_all(&shop, "burst", BURST).await });
    gate.reached(1).await.expect("a token request");
    let waiting = eventually(PATIENCE, "200 payments under way", async || {
        (gateway.engine.under_way() == BURST).then_some(())
    });
    waiting.await.expect("none of them can end");
    assert_eq!(connexpay.request_count_of(verb::SALE), 1);
    gate.release();

    for reply in paying.await.expect("no panic") {
        reply.expect(201);
    }
    assert_eq!(token_requests(&world), 2);
    assert_eq!(connexpay.request_count_of(verb::SALE), 1 + BURST as u64);
    world.audit().await;
}

/// Promise: a token that dies while 200 payments carry it costs one token request, and one repeat of each.
#[tokio::test(flavor = "multi_thread")]
async fn payments_whose_token_is_refused_share_one_refresh_and_are_repeated_once() {
    let mut world = World::new().await;
    make_room(&mut world);
    let connexpay = world.simulators.connexpay();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let gate = connexpay.hold(Moment::Received, Selector::verb(verb::SALE));
    let paying = tokio::spawn(async move { pay_all(&shop, "burst", BURST).await });
    gate.reached(BURST).await.expect("200 sales on the wire");
    assert_eq!(token_requests(&world), 1);
    connexpay.revoke_tokens().expect("books");
    gate.release();

    for reply in paying.await.expect("no panic") {
        reply.expect(201);
    }
    assert_eq!(token_requests(&world), 2);
    let sales = by_reference(&world, verb::SALE);
    assert_eq!(sales.len(), BURST);
    for (reference, sent) in &sales {
        let [refused, repeat] = &sent[..] else {
            panic!("{reference} was sent {} times", sent.len())
        };
        assert_eq!((refused.status, repeat.status), (Some(401), Some(200)));
        assert_ne!(token_of(refused), token_of(repeat));
    }
    world.audit().await;
}

/// Promise: a `401` in the middle of a token's life costs one refresh and one repeat, whatever the verb.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_costs_one_refresh_and_one_repeat_for_every_verb() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let amount = json!({"amount": {"value": 1_000, "currency": "USD"}});
    // Of each pair both may refresh: a third refresh within a minute would be a storm.
    for verbs in [
        [verb::SALE, verb::AUTH_ONLY],
        [verb::CAPTURE, verb::VOID],
        [verb::RETURN, verb::VERIFY],
    ] {
        let gateway = world.gateway().await;
        let shop = world.caller(&gateway.url);
        for verb in verbs {
            let key = |part: &str| format!("{verb}-{part}");
            let (path, body): (String, Value) = match verb {
                verb::SALE => ("/v1/payments".to_owned(), sale(10_00)),
                verb::AUTH_ONLY => {
                    let mut body = sale(10_00);
                    body["capture"] = json!("manual");
                    ("/v1/payments".to_owned(), body)
                }
                verb::CAPTURE => {
                    let held = shop.authorize(&key("before"), 1_000).await.expect(201);
                    let path = format!("/v1/payments/{}/captures", held.payment());
                    (path, amount.clone())
                }
                verb::VOID => {
                    let paid = shop.pay(&key("before"), &sale(10_00)).await.expect(201);
                    (format!("/v1/payments/{}/voids", paid.payment()), json!({}))
                }
                verb::RETURN => {
                    let paid = shop.pay(&key("before"), &sale(10_00)).await.expect(201);
                    connexpay.settle().expect("books");
                    let path = format!("/v1/payments/{}/refunds", paid.payment());
                    (path, amount.clone())
                }
                _ => {
                    let body = json!({"account": "acme-us", "card": card()});
                    ("/v1/verifications".to_owned(), body)
                }
            };
            // The first of all payments fetches a token: that one is not what is counted.
            shop.pay(&key("warm"), &sale(10_00)).await.expect(201);
            let before = (token_requests(&world), connexpay.request_count_of(verb));
            let refused = Fault::on(Kind::TokenExpired, verb).first(1);
            connexpay.set_fault(refused).await.expect("a fault");
            shop.post(&path, &key("struck"), &body).await.expect(201);
            connexpay.lift_faults().await.expect("lifted");
            let after = (token_requests(&world), connexpay.request_count_of(verb));
            assert_eq!(
                after,
                (before.0 + 1, before.1 + 2),
                "{verb}: token requests and requests"
            );
        }
    }
    world.audit().await;
}

/// Promise: with the token endpoint down payments go on to the token's real end; after it nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn payments_go_on_without_the_token_endpoint_until_the_token_really_ends() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let clock = Arc::new(ManualClock::running());
    let seams = Seams {
        clock: Arc::clone(&clock) as _,
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let shop = world.caller(&gateway.url);
    shop.pay("first", &sale(10_00)).await.expect(201);
    let down = Fault::on(Kind::Http500, verb::TOKEN);
    connexpay.set_fault(down).await.expect("a fault");

    // Past the moment at which it is refreshed, short of its end.
    let late = LIFE.mul_f64(0.95);
    clock.advance(late);
    until_beating(&gateway).await;
    let shop = caller_ahead(&world, &gateway, late);
    shop.pay("late", &sale(10_00)).await.expect(201);
    let failed = |request: &RequestRecord| {
        request.verb == verb::TOKEN && request.fault.is_some() && request.answered
    };
    let tried = connexpay.wait_for_requests(1, failed).await;
    tried.expect("a refresh is tried in the background");
    shop.pay("later", &sale(10_00)).await.expect(201);

    let rest = LIFE.mul_f64(0.05);
    clock.advance(rest);
    until_beating(&gateway).await;
    let shop = caller_ahead(&world, &gateway, late + rest);
    let refused = shop.pay("too-late", &sale(10_00)).await.expect(503);
    assert_eq!(refused.body["money_moved"], "no", "{}", refused.body);
    assert_eq!(refused.body["retry"], "same-key", "{}", refused.body);
    assert_eq!(connexpay.request_count_of(verb::SALE), 3);

    connexpay.lift_faults().await.expect("lifted");
    let body = sale(10_00);
    let paid = shop.until_final("/v1/payments", "too-late", &body).await;
    paid.expect(201);
    assert_eq!(connexpay.request_count_of(verb::SALE), 4);
    world.audit().await;
}

/// Promise: with no token to be had the answer is `503` and nothing was sent; the same key is charged once when there is.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_sent() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    for kind in [
        Kind::Http500,
        Kind::HangBeforeCommit,
        Kind::CommitThenGarbage,
        Kind::ResetBeforeRead,
        Kind::Http429,
    ] {
        let asked_before = token_requests(&world);
        let down = Fault::on(kind, verb::TOKEN);
        connexpay.set_fault(down).await.expect("a fault");
        // Right after a failure it is not asked again at once, so this takes as many tries as it needs.
        let asked = eventually(PATIENCE, "the token endpoint to be asked", async || {
            let refused = shop.pay("k-1", &sale(10_00)).await.expect(503);
            assert_eq!(refused.body["money_moved"], "no", "{kind:?}");
            assert_eq!(refused.body["retry"], "same-key", "{kind:?}");
            (token_requests(&world) > asked_before).then_some(())
        });
        asked.await.expect("asked again after a pause");
    }
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);
    connexpay.lift_faults().await.expect("lifted");
    let body = sale(10_00);
    let paid = shop.until_final("/v1/payments", "k-1", &body).await;
    paid.expect(201);
    assert_eq!(connexpay.request_count_of(verb::SALE), 1);
    world.audit().await;
}

/// Promise: when every new token is refused as well, no more than two are fetched; payments are refused unsent.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_all_refused_are_not_fetched_for_ever() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let refused = Fault::on(Kind::TokenExpired, verb::SALE);
    connexpay.set_fault(refused).await.expect("a fault");
    for number in 0..12 {
        let key = format!("k-{number}");
        let refused = shop.pay(&key, &sale(10_00)).await.expect(503);
        assert_eq!(refused.body["money_moved"], "no", "{}", refused.body);
    }
    // The first, and two because of a refusal.
    assert_eq!(token_requests(&world), 3);
    assert!(connexpay.request_count_of(verb::SALE) <= 3);
    assert_eq!(connexpay.books().net(), 0);
    world.audit().await;
}

/// Promise: operators see how long each token lives, and that new ones keep being refused, without the gateway being taken
/// for broken.
#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_a_token_is_told_and_a_storm_is_named() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let clock = Arc::new(ManualClock::running());
    let seams = Seams {
        clock: Arc::clone(&clock) as _,
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let shop = world.caller(&gateway.url);
    assert_eq!(told(&shop).await, (json!([]), 0.0, 0.0, 0.0));
    shop.pay("first", &sale(10_00)).await.expect(201);
    let (storming, left, storm, storms) = told(&shop).await;
    assert_eq!((storming, storm, storms), (json!([]), 0.0, 0.0));
    let life = LIFE.as_secs_f64();
    assert!((life - 600.0..=life).contains(&left), "{left}");
    assert!((shop.metric("upstream_token_fetches_total").await - 1.0).abs() < 0.5);

    let refused = Fault::on(Kind::TokenExpired, verb::SALE);
    connexpay.set_fault(refused).await.expect("a fault");
    let storm = eventually(PATIENCE, "a storm", async || {
        shop.pay("refused", &sale(10_00)).await.expect(503);
        let told = told(&shop).await;
        (told.0 == json!(["acme-us"])).then_some(told)
    });
    let (_, left, storm, storms) = storm.await.expect("every new token is refused");
    assert_eq!((left, storm, storms), (0.0, 1.0, 1.0));

    connexpay.lift_faults().await.expect("lifted");
    clock.advance(Duration::from_mins(1));
    until_beating(&gateway).await;
    let body = sale(10_00);
    shop.until_final("/v1/payments", "refused", &body)
        .await
        .expect(201);
    let (storming, left, storm, storms) = told(&shop).await;
    assert_eq!((storming, storm, storms), (json!([]), 0.0, 1.0));
    assert!(left > 0.0);
    world.audit().await;
}

/// What `/readyz` says of storms, seconds left, and the two metrics of storms. The gateway is ready throughout.
async fn told(shop: &Caller) -> (Value, f64, f64, f64) {
    let ready = shop.get("/readyz").await.expect(200);
    (
        ready.body["token_storms"].clone(),
        shop.metric("upstream_token_left_seconds").await,
        shop.metric("upstream_token_storm").await,
        shop.metric("upstream_token_storms_total").await,
    )
}

/// Charges on both gateways at once, with a token that dies when all of it is on the wire.
async fn charge_with_a_dying_token(world: &World, shops: &[Caller; 2], prefix: &str) -> Vec<Reply> {
    const EACH: usize = 30;
    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(Moment::Received, Selector::verb(verb::SALE));
    let paying = shops.iter().enumerate().map(|(number, shop)| {
        let (shop, prefix) = (shop.clone(), format!("{prefix}-{number}"));
        tokio::spawn(async move { pay_all(&shop, &prefix, EACH).await })
    });
    let paying: Vec<_> = paying.collect();
    let all = gate.reached(shops.len() * EACH).await;
    all.expect("all on the wire");
    connexpay.revoke_tokens().expect("books");
    gate.release();
    let mut replies = Vec::new();
    for paid in paying {
        replies.extend(paid.await.expect("no panic"));
    }
    replies
}

/// Promise: where a new token kills the old one, two gateways use one token, and each death costs one request.
#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_token_though_a_new_one_kills_the_old() {
    let mut world = World::new().await;
    make_room(&mut world);
    let connexpay = world.simulators.connexpay();
    connexpay.change_rules(|rules| rules.single_token = true);
    let (first, second) = (world.gateway().await, world.gateway().await);
    let shops = [world.caller(&first.url), world.caller(&second.url)];
    for (number, shop) in shops.iter().enumerate() {
        let key = format!("first-{number}");
        shop.pay(&key, &sale(10_00)).await.expect(201);
    }
    assert_eq!(token_requests(&world), 1);
    for death in 1..=2 {
        let prefix = format!("dying-{death}");
        for reply in charge_with_a_dying_token(&world, &shops, &prefix).await {
            reply.expect(201);
        }
        assert_eq!(token_requests(&world), 1 + death);
        for (number, shop) in shops.iter().enumerate() {
            for reply in pay_all(shop, &format!("quiet-{death}-{number}"), 10).await {
                reply.expect(201);
            }
        }
        assert_eq!(token_requests(&world), 1 + death, "a refresh war");
    }
    world.audit().await;
}

/// Promise: the same without the lock, which only saves work: the ledger ends the war.
#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_do_not_fight_over_a_token_without_the_lock_either() {
    let mut world = World::new().await.with_own_redis().await;
    make_room(&mut world);
    let connexpay = world.simulators.connexpay();
    connexpay.change_rules(|rules| rules.single_token = true);
    let (first, second) = (world.gateway().await, world.gateway().await);
    let shops = [world.caller(&first.url), world.caller(&second.url)];
    for (number, shop) in shops.iter().enumerate() {
        let key = format!("first-{number}");
        shop.pay(&key, &sale(10_00)).await.expect(201);
    }
    let redis = world.redis.as_mut().expect("asked for");
    redis.stop().expect("stopped");
    // Both may ask at once; then one of the two tokens is dead, and its gateway finds the other in the ledger.
    for reply in charge_with_a_dying_token(&world, &shops, "dying").await {
        assert!([201, 503].contains(&reply.status), "{}", reply.body);
    }
    let mut asked = token_requests(&world);
    assert!((2..=3).contains(&asked), "{asked} token requests");
    for round in 0..3 {
        for (number, shop) in shops.iter().enumerate() {
            for reply in pay_all(shop, &format!("quiet-{round}-{number}"), 10).await {
                // Only the round that finds a token dead may be refused, unsent.
                assert!(
                    reply.status == 201 || (round == 0 && reply.status == 503),
                    "{}",
                    reply.body
                );
            }
        }
        if round == 0 {
            asked = token_requests(&world);
        }
    }
    assert!(asked <= 3, "{asked} token requests");
    assert_eq!(token_requests(&world), asked, "a refresh war");
    world.settle_and_audit(PATIENCE).await;
}

/// Promise: a gateway that dies in the middle of a token request keeps the others from a token for a while at most;
/// meanwhile payments are refused unsent, and in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_while_it_asks_for_a_token_leaves_no_payment_in_doubt() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let mut first = world.process("first").await;
    let shop = world.caller(first.base_url());
    let gate = connexpay.hold(Moment::Received, Selector::verb(verb::TOKEN));
    let asking = tokio::spawn({
        let (shop, body) = (shop.clone(), sale(10_00).to_string());
        async move {
            let headers = [("idempotency-key", "lost")];
            shop.try_post_with("/v1/payments", body, &headers).await
        }
    });
    gate.reached(1).await.expect("a token request");
    first.kill9().expect("killed");
    gate.release();
    assert!(asking.await.expect("no panic").is_err(), "nobody answers");

    // The lock outlives its holder by its lease.
    let second = world.gateway().await;
    let shop = world.caller(&second.url);
    let refused = shop.pay("k-1", &sale(10_00)).await.expect(503);
    assert_eq!(refused.body["money_moved"], "no", "{}", refused.body);
    let body = sale(10_00);
    let paid = shop.until_final("/v1/payments", "k-1", &body).await;
    paid.expect(201);
    world.settle_and_audit(PATIENCE).await;
    assert_eq!(connexpay.request_count_of(verb::SALE), 1);
    assert_eq!(connexpay.books().net(), 1_000);
}
