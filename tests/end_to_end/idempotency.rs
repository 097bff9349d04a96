//! `Idempotency-Key`: one key is one intent, and a known key is answered from its record whatever else has changed.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::{Clock, ManualClock};
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind, Moment, Selector};
use sandbox::stack::eventually;
use sandbox::world::{Caller, Reply, World, card, claims, sale};
use serde_json::{Value, json};

use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(
    a_repeated_charge_gets_the_same_bytes,
    a_repeat_may_be_written_differently,
    a_key_belongs_to_one_request,
    a_key_is_one_header_of_up_to_255_characters,
    a_follow_up_is_repeated_like_a_charge,
    the_header_tells_the_status_of_today,
    a_known_key_is_answered_while_the_process_drains,
    a_known_key_is_answered_while_every_place_is_taken,
    a_known_key_is_answered_after_its_card_expired,
    a_known_key_is_answered_under_stricter_rules,
    a_known_key_is_answered_while_the_breaker_is_open,
    after_the_retention_a_key_tells_its_outcome_in_short,
);

/// A charge is made once; its repeats get the same bytes, marked as replays, at any replica.
async fn a_repeated_charge_gets_the_same_bytes(world: World) {
    let (here, there) = (world.gateway().await, world.gateway().await);
    let shop = world.caller(&here.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert_eq!(first.body["status"], "captured", "{}", first.body);
    assert_eq!(first.headers["payment-state"], "captured");
    assert!(!first.is_replay() && !first.headers.contains_key("idempotency-first-attempt"));
    for caller in [&shop, &shop.at(&there.url)] {
        let again = caller.pay("k-1", &sale(150_00)).await.expect(201);
        assert_is_replay_of(&first, &again);
        let attempted = again.headers["idempotency-first-attempt"].to_str();
        let attempted = gateway_core::clock::Timestamp::parse(attempted.expect("ASCII"));
        let since = gateway_core::clock::SystemClock
            .now()
            .since(attempted.expect("RFC 3339"));
        assert!(since < Duration::from_mins(1), "{since:?}");
    }
    assert_eq!(world.simulators.connexpay().books().net(), 150_00);
    assert_eq!(sales(&world), 1);
    world.audit().await;
}

/// The order of members, what is a default anyway, and the security code make no other request.
async fn a_repeat_may_be_written_differently(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let mut explicit = sale(150_00);
    explicit["capture"] = json!("automatic");
    explicit["once_per_order"] = json!(false);
    explicit["metadata"] = json!({});
    let mut other_code = sale(150_00);
    other_code["card"]["cvv"] = json!("123");
    let mut no_code = sale(150_00);
    no_code["card"]
        .as_object_mut()
        .expect("a card")
        .remove("cvv");
    let bodies = [
        backwards(&sale(150_00)),
        backwards(&explicit),
        format!(" \n{:#}\t", sale(150_00)),
        other_code.to_string(),
        no_code.to_string(),
    ];
    assert_ne!(
        bodies[0],
        sale(150_00).to_string(),
        "another order of members"
    );
    for body in bodies {
        for key in ["k-1", "\"k-1\""] {
            let headers = [("idempotency-key", key)];
            let again = shop.post_with("/v1/payments", body.clone(), &headers).await;
            assert_is_replay_of(&first, &again.expect(201));
        }
    }
    assert_eq!(sales(&world), 1);
    world.audit().await;
}

/// The same key with another request is refused, whatever the difference, and sends nothing.
async fn a_key_belongs_to_one_request(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let differences = [
        ("/amount/value", json!(150_01)),
        ("/amount/currency", json!("EUR")),
        ("/account", json!("acme-eu")),
        ("/capture", json!("manual")),
        ("/order_reference", json!("857B3")),
        ("/statement_descriptor", json!("Agent Booking 123")),
        ("/once_per_order", json!(true)),
        ("/card/number", json!("5499740000000057")),
        ("/card/expiry_year", json!(2031)),
        ("/card/holder", json!("John Doe")),
        ("/customer/address/line1", json!("108 7th Av.")),
        ("/risk/product_item", json!("784GTWJFK857")),
        ("/upstream/expected_payments", json!(1)),
        ("/metadata", json!({"cart": "c-91"})),
    ];
    for (pointer, value) in differences {
        let other = with(sale(150_00), pointer, value);
        let refused = shop.pay("k-1", &other).await.expect(422);
        assert_eq!(refused.problem(), "idempotency-key-reused", "{pointer}");
        assert_eq!(
            (&refused.body["retry"], &refused.body["money_moved"]),
            (&json!("never"), &json!("unknown"))
        );
    }
    let payment = first.payment();
    let elsewhere = [
        shop.refund("k-1", &payment, 150_00).await,
        shop.capture("k-1", &payment, 150_00).await,
        shop.void("k-1", &payment).await,
        shop.post("/v1/verifications", "k-1", &verification()).await,
    ];
    for refused in elsewhere {
        assert_eq!(refused.expect(422).problem(), "idempotency-key-reused");
    }
    // Another client's key of the same name is another key.
    let other = world.caller_with(&gateway.url, &claims("other-1"));
    let theirs = other.pay("k-1", &sale(150_00)).await.expect(201);
    assert!(!theirs.is_replay());
    assert_ne!(theirs.payment(), payment);
    // Another pod of the same client has the same keys.
    let pod = world.caller_with(&gateway.url, &claims("shop-2"));
    assert_is_replay_of(&first, &pod.pay("k-1", &sale(150_00)).await.expect(201));
    assert_eq!(sales(&world), 2);
    assert_eq!(
        world.simulators.connexpay().request_count_of(verb::VERIFY),
        0
    );
    world.audit().await;
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Without exactly one usable key nothing is executed; the longest usable one is used whole.
async fn a_key_is_one_header_of_up_to_255_characters(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let (longest, too_long) = ("x".repeat(255), "x".repeat(256));
    let key = "idempotency-key";
    let cases: [(Headers<'_>, u16, &str); 10] = [
        (&[], 400, "idempotency-key-missing"),
        (&[(key, "")], 400, "idempotency-key-invalid"),
        (&[(key, "\"\"")], 400, "idempotency-key-invalid"),
        (&[(key, &too_long)], 400, "idempotency-key-invalid"),
        (&[(key, "\"k-1")], 400, "idempotency-key-invalid"),
        (&[(key, "k-1\"")], 400, "idempotency-key-invalid"),
        (&[(key, "k\u{e9}y")], 400, "idempotency-key-invalid"),
        (
            &[(key, "k-1"), (key, "k-2")],
            400,
            "idempotency-key-invalid",
        ),
        (
            &[(key, "k-1"), (key, "k-1")],
            400,
            "idempotency-key-invalid",
        ),
        (&[(key, "order 4012000098765439")], 422, "invalid-request"),
    ];
    for (headers, status, problem) in cases {
        let refused = shop
            .post_with("/v1/payments", sale(150_00).to_string(), headers)
            .await
            .expect(status);
        assert_eq!(refused.problem(), problem, "{headers:?}");
        assert!(!String::from_utf8_lossy(&refused.bytes).contains("4012000098765439"));
    }
    assert_eq!(sales(&world), 0);
    assert_eq!(shop.operation("k-1").await.status, 404);

    let first = shop.pay(&longest, &sale(150_00)).await.expect(201);
    let quoted = shop
        .pay(&format!("\"{longest}\""), &sale(150_00))
        .await
        .expect(201);
    assert_is_replay_of(&first, &quoted);
    let shorter = shop.pay(&longest[1..], &sale(150_00)).await.expect(201);
    assert_ne!(
        shorter.payment(),
        first.payment(),
        "no part of a key is ignored"
    );
    world.audit().await;
}

/// A refund is repeated from its record even when nothing is left to refund, and so are captures and voids.
async fn a_follow_up_is_repeated_like_a_charge(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let held = shop.authorize("k-2", 80_00).await.expect(201).payment();
    let unwanted = shop.authorize("k-3", 60_00).await.expect(201).payment();
    world.simulators.connexpay().settle().expect("settled");
    let refunded = shop.refund("k-4", &paid, 100_00).await.expect(201);
    let captured = shop.capture("k-5", &held, 80_00).await.expect(201);
    let voided = shop.void("k-6", &unwanted).await.expect(201);
    assert_eq!(refunded.body["status"], "refunded");
    assert_eq!(captured.body["status"], "captured");
    assert_eq!(voided.body["status"], "voided");

    assert_is_replay_of(
        &refunded,
        &shop.refund("k-4", &paid, 100_00).await.expect(201),
    );
    assert_is_replay_of(
        &captured,
        &shop.capture("k-5", &held, 80_00).await.expect(201),
    );
    assert_is_replay_of(&voided, &shop.void("k-6", &unwanted).await.expect(201));
    let others = [
        shop.refund("k-4", &paid, 99_00).await,
        shop.refund("k-4", &held, 100_00).await,
        shop.capture("k-4", &paid, 100_00).await,
        shop.void("k-6", &held).await,
        shop.pay("k-5", &sale(80_00)).await,
    ];
    for refused in others {
        assert_eq!(refused.expect(422).problem(), "idempotency-key-reused");
    }
    // Even where the payment alone would tell that the request is wrong: its money did move.
    let euros = json!({"amount": {"value": 100_00, "currency": "EUR"}});
    let refused = shop
        .post(&format!("/v1/payments/{paid}/refunds"), "k-4", &euros)
        .await;
    assert_eq!(refused.expect(422).problem(), "idempotency-key-reused");
    let connexpay = world.simulators.connexpay();
    for (verb, count) in [
        (verb::RETURN, 1),
        (verb::CAPTURE, 1),
        (verb::VOID, 1),
        (verb::SALE, 1),
    ] {
        assert_eq!(connexpay.request_count_of(verb), count, "{verb}");
    }
    world.audit().await;
}

/// A replayed approval of a payment that was voided since does not mislead: a header gives its status of today.
async fn the_header_tells_the_status_of_today(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let voided = shop.void("k-2", &first.payment()).await.expect(201);
    assert_eq!(voided.headers["payment-state"], "voided");
    let again = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert_is_replay_of(&first, &again);
    assert_eq!(again.body["status"], "captured");
    assert_eq!(again.headers["payment-state"], "voided");
    world.audit().await;
}

/// A process that drains takes nothing new, but answers known keys, finishes what is under way and lets others wait for it.
async fn a_known_key_is_answered_while_the_process_drains(mut world: World) {
    world.config.set_spans("5s", "6s", "20s");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(
        Moment::AfterCommit,
        Selector::verb(verb::SALE).amount(200_00),
    );
    let running = spawn_pay(&shop, "k-2", 200_00);
    gate.reached(1).await.expect("sent");

    gateway.begin_stop();
    eventually(
        Duration::from_secs(5),
        "the process to say that it drains",
        async || Some(shop.get("/readyz").await).filter(|reply| reply.status == 503),
    )
    .await
    .expect("not ready any more");
    assert_is_replay_of(&first, &shop.pay("k-1", &sale(150_00)).await.expect(201));
    assert_eq!(
        shop.pay("k-1", &sale(150_01)).await.expect(422).problem(),
        "idempotency-key-reused"
    );
    assert_refused_for_now(&shop.pay("k-3", &sale(150_00)).await, "draining");
    assert_refused_for_now(
        &shop.refund("k-4", &first.payment(), 150_00).await,
        "draining",
    );
    let waiting = spawn_pay(&shop, "k-2", 200_00);
    both_wait(&shop).await;
    gate.release();
    let (running, waiting) = (
        running.await.expect("answered"),
        waiting.await.expect("answered"),
    );
    assert_is_replay_of(&running.expect(201), &waiting.expect(201));
    gateway.stopped().await;

    let next = world.gateway().await;
    let shop = shop.at(&next.url);
    assert_eq!(
        shop.operation("k-3").await.status,
        404,
        "refused, so not claimed"
    );
    shop.pay("k-3", &sale(150_00)).await.expect(201);
    world.audit().await;
}

/// At the bound of running payments, known keys are answered and new ones are turned away without a trace.
async fn a_known_key_is_answered_while_every_place_is_taken(mut world: World) {
    world.config.permits_max = 1;
    world.config.set_spans("5s", "6s", "20s");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let gate = world.simulators.connexpay().hold(
        Moment::AfterCommit,
        Selector::verb(verb::SALE).amount(200_00),
    );
    let running = spawn_pay(&shop, "k-2", 200_00);
    gate.reached(1).await.expect("sent");

    assert_is_replay_of(&first, &shop.pay("k-1", &sale(150_00)).await.expect(201));
    assert_eq!(
        shop.pay("k-1", &sale(150_01)).await.expect(422).problem(),
        "idempotency-key-reused"
    );
    assert_refused_for_now(&shop.pay("k-3", &sale(150_00)).await, "overloaded");
    assert_refused_for_now(
        &shop.refund("k-4", &first.payment(), 150_00).await,
        "overloaded",
    );
    // Whoever waits for another's answer needs no place.
    let waiting = spawn_pay(&shop, "k-2", 200_00);
    both_wait(&shop).await;
    gate.release();
    let (running, waiting) = (
        running.await.expect("answered"),
        waiting.await.expect("answered"),
    );
    assert_is_replay_of(&running.expect(201), &waiting.expect(201));
    assert_eq!(shop.operation("k-3").await.status, 404);
    shop.pay("k-3", &sale(150_00)).await.expect(201);
    world.audit().await;
}

/// A card that expired meanwhile changes nothing for the key that charged it; a new key is told.
async fn a_known_key_is_answered_after_its_card_expired(world: World) {
    let clock = Arc::new(ManualClock::running());
    let seams = Seams {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let today = clock.now().rfc3339();
    let (year, month): (u16, u8) = (
        today[..4].parse().expect("a year"),
        today[5..7].parse().expect("a month"),
    );
    let mut body = sale(150_00);
    body["card"]["expiry_year"] = json!(year);
    body["card"]["expiry_month"] = json!(month);
    let mut check = verification();
    check["card"] = body["card"].clone();
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &body).await.expect(201);
    let checked = shop
        .post("/v1/verifications", "k-2", &check)
        .await
        .expect(201);

    // Into the month after next at least, for the zone furthest behind as well.
    let span = Duration::from_hours(33 * 24);
    clock.advance_wall(span);
    let mut then = claims("shop-1");
    for name in ["iat", "nbf", "exp"] {
        then[name] = json!(then[name].as_u64().expect("seconds") + span.as_secs());
    }
    let shop = world.caller_with(&gateway.url, &then);
    assert_is_replay_of(&first, &shop.pay("k-1", &body).await.expect(201));
    assert_is_replay_of(
        &checked,
        &shop
            .post("/v1/verifications", "k-2", &check)
            .await
            .expect(201),
    );
    let charge = shop.pay("k-3", &body).await;
    let verify = shop.post("/v1/verifications", "k-4", &check).await;
    for refused in [charge, verify] {
        assert_eq!(refused.clone().expect(422).problem(), "invalid-request");
        assert_eq!(
            refused.body["errors"][0]["pointer"], "/card/expiry_month",
            "{}",
            refused.body
        );
        assert_eq!(
            refused.body["errors"][0]["code"], "expired",
            "{}",
            refused.body
        );
    }
    assert_eq!(sales(&world), 1);
    world.audit().await;
}

/// Rules that became stricter (an account without this currency, a quarantined ledger) do not take an answer back.
async fn a_known_key_is_answered_under_stricter_rules(mut world: World) {
    let gateway = world.gateway().await;
    let first = world
        .caller(&gateway.url)
        .pay("k-1", &sale(150_00))
        .await
        .expect(201);
    gateway.stopped().await;
    "quarantine = true".clone_into(&mut world.config.more_payments);
    let strict = world.gateway().await;
    let shop = world.caller(&strict.url);
    assert_is_replay_of(&first, &shop.pay("k-1", &sale(150_00)).await.expect(201));
    // A restored ledger may have lost a key: that it is not there proves nothing.
    let refused = [
        shop.pay("k-2", &sale(150_00)).await,
        shop.refund("k-3", &first.payment(), 150_00).await,
    ];
    for refused in refused {
        assert_eq!(refused.clone().expect(503).problem(), "quarantined");
        assert_eq!(refused.body["money_moved"], "unknown", "{}", refused.body);
    }
    assert_eq!(sales(&world), 1);
    world.audit().await;
}

/// The breaker that holds back new charges does not stand before a record.
async fn a_known_key_is_answered_while_the_breaker_is_open(mut world: World) {
    "[accounts.acme-us.breaker]\nfailures_max = 1\nopen_for = \"1h\""
        .clone_into(&mut world.config.more);
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let connexpay = world.simulators.connexpay();
    let garbage = Fault::on(Kind::CommitThenGarbage, verb::SALE);
    connexpay.set_fault(garbage).await.expect("a fault");
    shop.post_waiting("/v1/payments", "k-2", &sale(70_00), "0.5")
        .await;
    connexpay.lift_faults().await.expect("lifted");
    let sales_before = sales(&world);
    assert_refused_for_now(
        &shop.pay("k-3", &sale(150_00)).await,
        "upstream-unavailable",
    );
    assert_is_replay_of(&first, &shop.pay("k-1", &sale(150_00)).await.expect(201));
    assert_eq!(sales(&world), sales_before, "nothing was sent");
    // What undoes and what follows up goes on.
    shop.until_final("/v1/payments", "k-2", &sale(70_00))
        .await
        .expect(402);
    shop.void("k-4", &first.payment()).await.expect(201);
    world.settle_and_audit(Duration::from_secs(20)).await;
}

/// Past the retention a key still answers, with outcome and ids only, and never executes.
async fn after_the_retention_a_key_tells_its_outcome_in_short(mut world: World) {
    "retention = \"1d\"".clone_into(&mut world.config.more_payments);
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let declined = shop.pay("k-2", &sale(6600_01)).await.expect(402);
    age_every_outcome(&world, 2).await;
    let short = shop.pay("k-1", &sale(150_00)).await.expect(200);
    assert!(short.is_replay());
    let wanted = json!({
        "operation": first.operation(), "payment": first.payment(), "verb": "sale", "state": "approved",
    });
    assert_eq!(short.body, wanted);
    let looked_up = shop.operation("k-1").await.expect(200);
    assert_eq!(
        looked_up.body["answer"],
        json!({"status": 200, "money_moved": "yes", "final": true})
    );
    let short = shop.pay("k-2", &sale(6600_01)).await.expect(200);
    assert_eq!(short.body["operation"], declined.operation());
    assert_eq!(short.body["state"], "declined");
    assert_eq!(
        shop.pay("k-1", &sale(150_01)).await.expect(422).problem(),
        "idempotency-key-reused"
    );
    assert_eq!(sales(&world), 2);
    world.audit().await;
}

/// Moves the end of every operation into the past, as if days had gone by.
async fn age_every_outcome(world: &World, days: u32) {
    let url = &world.config.ledger_url;
    if url.starts_with("sqlite:") {
        let sql = format!("update operation set settled_at = settled_at - {days} * 86400000000");
        world.execute_sql(&sql).await;
    } else {
        let sql = format!("update operation set settled_at = settled_at - interval '{days} days'");
        world.execute_sql(&sql).await;
    }
}

#[track_caller]
fn assert_is_replay_of(first: &Reply, again: &Reply) {
    assert_eq!(
        String::from_utf8_lossy(&first.bytes),
        String::from_utf8_lossy(&again.bytes)
    );
    assert_eq!(first.status, again.status);
    assert!(again.is_replay(), "{again:?}");
}

/// A `503` that asked the ledger: nothing was recorded, nothing was sent, and the same key may come again.
#[track_caller]
fn assert_refused_for_now(reply: &Reply, problem: &str) {
    assert_eq!(
        (reply.status, reply.problem()),
        (503, problem),
        "{}",
        reply.body
    );
    assert_eq!(reply.body["retry"], "same-key");
    assert_eq!(reply.body["money_moved"], "no", "{}", reply.body);
    assert!(reply.headers.contains_key("retry-after"));
}

/// The first caller of a running payment and the one that repeats it.
async fn both_wait(shop: &Caller) {
    let wait = eventually(Duration::from_secs(5), "two that wait", async || {
        let waiting = shop.metric("payment_waiting_callers").await;
        (waiting >= 2.0).then_some(())
    });
    wait.await.expect("the repeat waits for the running one");
}

fn spawn_pay(shop: &Caller, key: &str, minor: i64) -> tokio::task::JoinHandle<Reply> {
    let (shop, key) = (shop.clone(), key.to_owned());
    tokio::spawn(async move { shop.pay(&key, &sale(minor)).await })
}

fn sales(world: &World) -> u64 {
    world.simulators.connexpay().request_count_of(verb::SALE)
}

fn verification() -> Value {
    json!({"account": "acme-us", "card": card()})
}

/// `body` with one place set.
fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.expect("an object").insert(name.to_owned(), value);
    body
}

/// The same JSON with the members of every object in the opposite order.
fn backwards(value: &Value) -> String {
    let Value::Object(members) = value else {
        return value.to_string();
    };
    let members: Vec<_> = members
        .iter()
        .rev()
        .map(|(name, value)| format!("{}: {}", json!(name), backwards(value)))
        .collect();
    format!("{{{}}}", members.join(" ,"))
}
