//! Waiting: for a payment that another operation holds, and for an answer that takes longer than the caller stays.

use std::time::Duration;

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Moment, Selector};
use sandbox::stack::{eventually, reserve_port};
use sandbox::world::{Caller, Reply, Running, World, amount, claims, sale};
use serde_json::json;
use tokio::task::JoinHandle;

/// A follow-up that finds its payment busy waits its turn, with or without Redis. Past its wait it is told so, nothing is
/// recorded, and the same key may come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_waits_for_the_one_before_it() {
    for with_redis in [true, false] {
        let mut world = slow_world().await;
        if !with_redis {
            let nobody = reserve_port().expect("a port");
            world.config.lock_url = format!("redis://127.0.0.1:{nobody}");
        }
        let gateway = world.gateway().await;
        let shop = world.caller(&gateway.url);
        let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
        let connexpay = world.simulators.connexpay();
        connexpay.settle().expect("settled");
        let path = format!("/v1/payments/{paid}/refunds");
        let gate = connexpay.hold(Moment::AfterCommit, Selector::verb(verb::RETURN));
        let first = spawn(&shop, &path, "k-2", 30_00);
        gate.reached(1).await.expect("sent");
        let second = spawn(&shop, &path, "k-3", 30_00);
        waiting(&gateway, 1).await;
        let third = shop.post_waiting(&path, "k-4", &amount(30_00), "1").await;
        let third = third.expect(409);
        assert_eq!(third.problem(), "payment-busy", "Redis: {with_redis}");
        assert_eq!(
            (&third.body["retry"], &third.body["money_moved"]),
            (&json!("same-key"), &json!("no"))
        );
        assert!(third.headers.contains_key("retry-after"));
        shop.operation("k-4").await.expect(404);
        assert_eq!(connexpay.request_count_of(verb::RETURN), 1, "one at a time");
        gate.release();
        first.await.expect("answered").expect(201);
        let second = second.await.expect("answered").expect(201);
        assert_eq!(second.body["refunded"], 60_00);
        let third = shop.refund("k-4", &paid, 30_00).await.expect(201);
        assert_eq!(
            (&third.body["refunded"], third.is_replay()),
            (&json!(90_00), false)
        );
        world.audit().await;
    }
}

/// Follow-ups that wait for their turn take no room from payments that could be worked on. Waiting has a bound of its own;
/// past it nothing is recorded, and the same key may come again.
#[tokio::test(flavor = "multi_thread")]
async fn follow_ups_that_wait_leave_room_for_payments() {
    let shown = async |shop: &Caller| {
        let metric = shop.metric("payment_waiting_follow_ups").await;
        metric.to_string()
    };
    let mut world = slow_world().await;
    world.config.permits_max = 2;
    "waiting_max = 3\nwaiting_per_client_max = 2".clone_into(&mut world.config.more_payments);
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let connexpay = world.simulators.connexpay();
    connexpay.settle().expect("settled");
    let path = format!("/v1/payments/{paid}/refunds");
    let gate = connexpay.hold(Moment::AfterCommit, Selector::verb(verb::RETURN));
    let first = spawn(&shop, &path, "k-2", 10_00);
    gate.reached(1).await.expect("sent");
    let others = ["k-3", "k-4"].map(|key| spawn(&shop, &path, key, 10_00));
    waiting(&gateway, 2).await;
    assert_eq!(shown(&shop).await, "2");
    assert_eq!(gateway.engine.under_way(), 1, "only what is sent");
    shop.pay("k-5", &sale(20_00)).await.expect(201);

    let refused = shop.refund("k-6", &paid, 10_00).await.expect(503);
    assert_eq!(refused.problem(), "overloaded");
    assert_eq!(
        (&refused.body["retry"], &refused.body["money_moved"]),
        (&json!("same-key"), &json!("no"))
    );
    assert!(refused.headers.contains_key("retry-after"));
    shop.operation("k-6").await.expect(404);
    // Another client has its share.
    let theirs = world.caller_with(&gateway.url, &claims("other-1"));
    let theirs = spawn(&theirs, &path, "k-7", 10_00);
    waiting(&gateway, 3).await;

    gate.release();
    for refund in [first, theirs].into_iter().chain(others) {
        refund.await.expect("answered").expect(201);
    }
    let last = shop.refund("k-6", &paid, 10_00).await.expect(201);
    assert_eq!(last.body["refunded"], 50_00);
    assert_eq!(shown(&shop).await, "0");
    assert_eq!(gateway.engine.under_way(), 0);
    world.audit().await;
}

/// Two requests under one key, the second before the first is recorded: both get the answer of the one operation, not
/// what the payment would say to a second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_comes_before_the_record_gets_the_same_answer() {
    for with_redis in [true, false] {
        let mut world = slow_world().await;
        if !with_redis {
            let nobody = reserve_port().expect("a port");
            world.config.lock_url = format!("redis://127.0.0.1:{nobody}");
        }
        let (here, there) = (world.gateway().await, world.gateway().await);
        let callers = [world.caller(&here.url), world.caller(&there.url)];
        let connexpay = world.simulators.connexpay();
        let paid = callers[0]
            .pay("k-1", &sale(100_00))
            .await
            .expect(201)
            .payment();
        let unwanted = callers[0]
            .authorize("k-2", 80_00)
            .await
            .expect(201)
            .payment();
        let refund = (format!("/v1/payments/{paid}/refunds"), amount(100_00));
        let void = (format!("/v1/payments/{unwanted}/voids"), json!({}));
        for (round, (path, body)) in [refund, void].into_iter().enumerate() {
            // What stands is read before anything is recorded: there the first of them is held.
            let gate = connexpay.hold(Moment::Received, Selector::verb(verb::READ));
            let key = format!("k-3-{round}");
            let twins: Vec<_> = (0..10)
                .map(|number| {
                    let (caller, path, key, body) = (
                        callers[number % 2].clone(),
                        path.clone(),
                        key.clone(),
                        body.clone(),
                    );
                    tokio::spawn(async move { caller.post(&path, &key, &body).await })
                })
                .collect();
            gate.reached(1).await.expect("read");
            waiting(&here, 5).await;
            waiting(&there, 5).await;
            assert_eq!(
                callers[0].operation(&key).await.status,
                404,
                "not recorded yet"
            );
            gate.release();
            let mut answers = Vec::new();
            for twin in twins {
                answers.push(twin.await.expect("answered").expect(201));
            }
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.bytes == answers[0].bytes)
            );
            assert_eq!(
                answers.iter().filter(|answer| !answer.is_replay()).count(),
                1,
                "Redis: {with_redis}"
            );
        }
        assert_eq!(connexpay.request_count_of(verb::VOID), 2);
        assert_eq!(connexpay.books().net(), 0);
        world.audit().await;
    }
}

/// A follow-up that comes while its payment is still being created waits for that, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_follow_up_waits_for_the_charge_itself() {
    let world = slow_world().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let gate = world
        .simulators
        .connexpay()
        .hold(Moment::AfterCommit, Selector::verb(verb::SALE));
    let charge = {
        let shop = shop.clone();
        tokio::spawn(async move { shop.pay("k-1", &sale(100_00)).await })
    };
    gate.reached(1).await.expect("sent");
    let recorded = shop.operation("k-1").await.expect(200);
    let payment = recorded.body["payment"]
        .as_str()
        .expect("a payment")
        .to_owned();
    let path = format!("/v1/payments/{payment}/voids");
    let impatient = shop
        .post_waiting(&path, "k-2", &json!({}), "1")
        .await
        .expect(409);
    assert_eq!(
        (impatient.problem(), &impatient.body["retry"]),
        ("payment-busy", &json!("same-key"))
    );
    shop.operation("k-2").await.expect(404);
    let void = {
        let (shop, payment) = (shop.clone(), payment.clone());
        tokio::spawn(async move { shop.void("k-2", &payment).await })
    };
    waiting(&gateway, 1).await;
    gate.release();
    charge.await.expect("answered").expect(201);
    let void = void.await.expect("answered").expect(201);
    assert_eq!(void.body["status"], "voided");
    world.audit().await;
}

/// `Request-Timeout` ends the wait, never the work: the same key learns the outcome later.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_wait_does_not_end_the_work() {
    let world = slow_world().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let gate = world
        .simulators
        .connexpay()
        .hold(Moment::AfterCommit, Selector::verb(verb::SALE));
    let patient = {
        let shop = shop.clone();
        tokio::spawn(async move { shop.pay("k-1", &sale(100_00)).await })
    };
    gate.reached(1).await.expect("sent");
    for _ in 0..2 {
        let left = shop
            .post_waiting("/v1/payments", "k-1", &sale(100_00), "0.2")
            .await
            .expect(504);
        assert_eq!(left.problem(), "outcome-unknown");
        assert_eq!(
            (&left.body["retry"], &left.body["money_moved"]),
            (&json!("same-key"), &json!("unknown"))
        );
        assert!(
            left.body["resolves_by"].is_string() && left.headers.contains_key("retry-after"),
            "{}",
            left.body
        );
        assert_eq!(left.operation(), shop.operation("k-1").await.body["id"]);
    }
    gate.release();
    let paid = patient.await.expect("answered").expect(201);
    let again = shop
        .post_waiting("/v1/payments", "k-1", &sale(100_00), "0.2")
        .await
        .expect(201);
    assert_eq!(again.bytes, paid.bytes);
    assert_eq!(world.simulators.connexpay().request_count_of(verb::SALE), 1);
    world.audit().await;
}

/// With time to wait, and a processor that may be held.
async fn slow_world() -> World {
    let mut world = World::new().await;
    world.config.set_spans("5s", "6s", "20s");
    world
}

fn spawn(shop: &Caller, path: &str, key: &str, minor: i64) -> JoinHandle<Reply> {
    let (shop, path, key) = (shop.clone(), path.to_owned(), key.to_owned());
    tokio::spawn(async move { shop.post(&path, &key, &amount(minor)).await })
}

async fn waiting(gateway: &Running, count: usize) {
    let arrived = eventually(
        Duration::from_secs(10),
        "follow-ups that wait",
        async || (gateway.engine.waiting() == count).then_some(()),
    );
    arrived.await.expect("they came");
}
