//! `POST /v1/cancellations`: a create undone by its key, at every moment of its life.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::operation::StateName;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Moment, Selector};
use sandbox::stack::eventually;
use sandbox::world::{Around, Caller, Reply, Turnstile, World, sale};
use serde_json::{Value, json};

const ENOUGH: Duration = Duration::from_secs(30);

fn authorization(minor: i64) -> Value {
    let mut body = sale(minor);
    body["capture"] = json!("manual");
    body
}

fn pay(caller: &Caller, key: &str, body: &Value) -> tokio::task::JoinHandle<Reply> {
    let (caller, key, body) = (caller.clone(), key.to_owned(), body.clone());
    tokio::spawn(async move { caller.pay(&key, &body).await })
}

async fn until_done(caller: &Caller, key: &str) -> Reply {
    let done = eventually(ENOUGH, "the cancellation to be done", async || {
        let reply = caller.cancel(key).await.expect(201);
        (reply.body["state"] == "done").then_some(reply)
    });
    done.await
        .unwrap_or_else(|error| panic!("{key}: {error:?}"))
}

/// The processor may be held at a gate without running into its timeout.
fn patient(world: &mut World) {
    world.config.set_spans("10s", "12s", "25s");
}

/// Cancelled between its record and its first byte, a payment is never sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_cancelled_before_its_first_byte_is_never_sent() {
    let mut world = World::new().await;
    patient(&mut world);
    let turnstile = Turnstile::closed();
    let gateway = world
        .gateway_with(Around::before(turnstile.hook()).seams())
        .await;
    let shop = world.caller(&gateway.url);
    let paying = pay(&shop, "k", &sale(10_00));
    turnstile.reached(1).await;

    let cancelled = shop.cancel("k").await.expect(201);
    assert_eq!(cancelled.body["aim"], "not-charged");
    assert_eq!(cancelled.body["state"], "pending");
    let early = shop
        .post_waiting("/v1/payments", "k", &sale(10_00), "1")
        .await;
    assert_eq!(early.status, 410, "{}", early.body);
    turnstile.open();

    assert_eq!(paying.await.expect("a reply").status, 410);
    until_done(&shop, "k").await;
    let after = shop.pay("k", &sale(10_00)).await.expect(410);
    assert_eq!(after.body["money_moved"], "no", "{}", after.body);
    let connexpay = world.simulators.connexpay();
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);
    let records = world.records().await;
    assert_eq!(records.state("k").await, StateName::Cancelled);
    world.settle_and_audit(ENOUGH).await;
}

/// A replica that holds a payment and does not know that another one cancelled it may send it; then it is reversed.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_cancelled_through_another_replica_leaves_no_effect() {
    let mut world = World::new().await;
    patient(&mut world);
    let turnstile = Turnstile::closed();
    let holder = world
        .gateway_with(Around::before(turnstile.hook()).seams())
        .await;
    let other = world.gateway().await;
    let (here, there) = (world.caller(&holder.url), world.caller(&other.url));
    let bodies = [sale(10_00), authorization(11_00)];
    let keys = ["sale", "authorization"];
    let paying: Vec<_> = keys
        .iter()
        .zip(&bodies)
        .map(|(key, body)| pay(&here, key, body))
        .collect();
    turnstile.reached(2).await;
    for key in keys {
        there.cancel(key).await.expect(201);
    }
    turnstile.open();
    for call in paying {
        assert_eq!(call.await.expect("a reply").status, 410);
    }
    for (key, body) in keys.into_iter().zip(&bodies) {
        until_done(&there, key).await;
        for caller in [&here, &there] {
            caller.pay(key, body).await.expect(410);
        }
    }
    world.settle_and_audit(ENOUGH).await;
    assert_eq!(world.simulators.connexpay().books().net(), 0);
}

/// Cancelled while the processor works on it, a payment is undone, whatever the processor answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_cancelled_while_it_is_sent_is_reversed() {
    for moment in [Moment::BeforeCommit, Moment::AfterCommit] {
        let mut world = World::new().await;
        patient(&mut world);
        let gateway = world.gateway().await;
        let shop = world.caller(&gateway.url);
        let connexpay = world.simulators.connexpay();
        let gates =
            [verb::SALE, verb::AUTH_ONLY].map(|verb| connexpay.hold(moment, Selector::verb(verb)));
        let calls = [
            pay(&shop, "sale", &sale(10_00)),
            pay(&shop, "authorization", &authorization(11_00)),
        ];
        for gate in &gates {
            gate.reached(1).await.expect("sent");
        }
        for key in ["sale", "authorization"] {
            let cancelled = shop.cancel(key).await.expect(201);
            assert_eq!(cancelled.body["state"], "pending", "{moment:?} {key}");
        }
        gates
            .into_iter()
            .for_each(sandbox::simulators::Gate::release);
        for call in calls {
            assert_eq!(call.await.expect("a reply").status, 410, "{moment:?}");
        }
        for key in ["sale", "authorization"] {
            until_done(&shop, key).await;
        }
        shop.pay("sale", &sale(10_00)).await.expect(410);
        world.settle_and_audit(ENOUGH).await;
        let books = connexpay.books();
        let positions: Vec<_> = books.positions.values().collect();
        assert_eq!(positions.len(), 2, "both were executed, once each");
        for position in positions {
            assert_eq!((position.net, position.held), (0, 0), "{moment:?}");
            assert_eq!(position.sales + position.authorizations, 1);
        }
    }
}

/// Cancelled after its caller was told `201`, a payment is reversed: what was captured, and what was only authorized.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_payment_that_is_cancelled_is_reversed() {
    let mut world = World::new().await;
    patient(&mut world);
    let (first, second) = (world.gateway().await, world.gateway().await);
    let (shop, there) = (world.caller(&first.url), world.caller(&second.url));
    let sold = shop.pay("sale", &sale(10_00)).await.expect(201);
    let held = shop.authorize("authorization", 11_00).await.expect(201);
    let captured = shop.authorize("captured", 12_00).await.expect(201);
    shop.capture("capture", &captured.payment(), 12_00)
        .await
        .expect(201);
    shop.pay("sale", &sale(10_00)).await.expect(201);

    for key in ["sale", "authorization", "captured"] {
        there.cancel(key).await.expect(201);
        for caller in [&shop, &there] {
            let body = match key {
                "sale" => sale(10_00),
                "authorization" => authorization(11_00),
                _ => authorization(12_00),
            };
            caller.pay(key, &body).await.expect(410);
        }
    }
    for (key, payment) in [
        ("sale", sold.payment()),
        ("authorization", held.payment()),
        ("captured", captured.payment()),
    ] {
        until_done(&there, key).await;
        let payment = shop.get(&format!("/v1/payments/{payment}")).await;
        assert_eq!(
            payment.body["status"], "reversed",
            "{key}: {}",
            payment.body
        );
    }
    shop.cancel("capture").await.expect(422);
    world.settle_and_audit(ENOUGH).await;
    for position in world.simulators.connexpay().books().positions.values() {
        assert_eq!((position.net, position.held), (0, 0), "{position:?}");
    }
}

/// A key that is cancelled before it is seen is a tombstone: a create that arrives later gets `410` and is not sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_cancelled_before_it_is_seen_is_never_executed() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let cancelled = shop.cancel("k").await.expect(201);
    assert_eq!(cancelled.body["state"], "done");
    let told = shop.operation("k").await.expect(200);
    let events = told.body["timeline"].as_array().expect("a timeline");
    let proves = |event: &Value| event.get("evidence").is_some();
    assert!(!events.iter().any(proves), "nothing was sent: {events:?}");
    shop.pay("k", &sale(10_00)).await.expect(410);
    shop.pay("k", &authorization(99_00)).await.expect(410);
    let connexpay = world.simulators.connexpay();
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);
    assert_eq!(connexpay.request_count_of(verb::AUTH_ONLY), 0);
}

/// A cancelled key has one answer, also to a follow-up, of a payment that is there and of one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_under_a_cancelled_key_is_told_that_it_was_cancelled() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let there = shop.pay("other", &sale(10_00)).await.expect(201).payment();
    shop.pay("sold", &sale(10_00)).await.expect(201);
    for key in ["never-seen", "sold"] {
        shop.cancel(key).await.expect(201);
        until_done(&shop, key).await;
        for payment in [there.as_str(), "pay_00000000000000000000000000000000"] {
            shop.capture(key, payment, 10_00).await.expect(410);
            shop.refund(key, payment, 10_00).await.expect(410);
            shop.void(key, payment).await.expect(410);
        }
    }
    // Any other key that is known under another request is a mistake of the caller's.
    let reused = shop.void("other", "pay_00000000000000000000000000000000");
    assert_eq!(reused.await.problem(), "idempotency-key-reused");
    world.settle_and_audit(ENOUGH).await;
}

/// Whoever wins the race between a payment and its cancellation: after that was answered, nobody is told `201`.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_after_an_answered_cancellation_is_told_201() {
    let mut world = World::new().await;
    patient(&mut world);
    let (first, second) = (world.gateway().await, world.gateway().await);
    let (here, there) = (world.caller(&first.url), world.caller(&second.url));
    let race = async |number: i64| {
        let key = format!("race-{number}");
        let body = if number % 2 == 0 {
            sale(10_00 + number)
        } else {
            authorization(10_00 + number)
        };
        // The cancellation takes off at another moment of the payment each time: as the payment does, and after
        // one to four round trips.
        let paying = pay(&here, &key, &body);
        for _ in 0..number % 5 {
            there.get("/healthz").await.expect(200);
        }
        let canceller = if number % 3 == 0 { &here } else { &there };
        canceller.cancel(&key).await.expect(201);
        let (one, two) = tokio::join!(here.pay(&key, &body), there.pay(&key, &body));
        assert_eq!((one.status, two.status), (410, 410), "{key}");
        let first = paying.await.expect("a reply");
        assert!(matches!(first.status, 201 | 410), "{key}: {}", first.body);
        until_done(&there, &key).await;
    };
    join_all((0..40).map(race)).await;
    world.settle_and_audit(ENOUGH).await;
    for position in world.simulators.connexpay().books().positions.values() {
        assert_eq!((position.net, position.held), (0, 0), "{position:?}");
    }
}
