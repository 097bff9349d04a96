//! Totals under concurrency: captures never exceed the authorization, nor refunds the captures.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::stack::{eventually, reserve_port};
use sandbox::world::{Caller, Reply, World, amount, sale};
use sqlx::{Connection, PgConnection};

/// Fifty refunds of 3.00 at once, over two processes, of a settled capture of 100.00: as many as fit, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_refunds_stop_where_the_captured_amount_ends() {
    let world = patient_world().await;
    let (a, b) = (world.process("a").await, world.process("b").await);
    let (a, b) = (world.caller(a.base_url()), world.caller(b.base_url()));
    let payment = a.authorize("k-1", 100_00).await.expect(201).payment();
    a.capture("k-2", &payment, 100_00).await.expect(201);
    let connexpay = world.simulators.connexpay();
    connexpay.settle().expect("settled");

    let path = format!("/v1/payments/{payment}/refunds");
    let answers = in_parallel(50, [&a, &b], |caller, key| {
        let path = path.clone();
        async move { caller.post_waiting(&path, &key, &amount(3_00), "30").await }
    })
    .await;
    assert_eq!(count(&answers, 201, ""), 33, "{}", told(&answers));
    assert_eq!(count(&answers, 422, "over-limit"), 17, "{}", told(&answers));
    for refused in answers.iter().filter(|answer| answer.status == 422) {
        assert_eq!(
            refused.body["available"],
            serde_json::json!({"value": 1_00, "currency": "USD"})
        );
    }
    let books = connexpay.books();
    assert_eq!((books.of(EntryKind::Return).len(), books.net()), (33, 1_00));
    assert_eq!(
        connexpay.request_count_of(verb::RETURN),
        33,
        "what does not fit is not sent"
    );
    let shown = a.get(&format!("/v1/payments/{payment}")).await.expect(200);
    assert_eq!(shown.body["refunded"], 99_00);
    assert_eq!(shown.body["status"], "partially_refunded");
    world.audit().await;
}

/// Fifty captures of one authorization at once, over two processes: exactly one.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_captures_of_one_authorization_succeed_once() {
    let world = patient_world().await;
    let (a, b) = (world.process("a").await, world.process("b").await);
    let (a, b) = (world.caller(a.base_url()), world.caller(b.base_url()));
    let connexpay = world.simulators.connexpay();
    // Whole, and of a part: this processor captures an authorization once.
    for (round, minor) in [(1, 100_00), (2, 40_00)] {
        let authorized = a.authorize(&format!("k-{round}"), 100_00).await.expect(201);
        let path = format!("/v1/payments/{}/captures", authorized.payment());
        let answers = in_parallel(50, [&a, &b], |caller, key| {
            let (path, key) = (path.clone(), format!("{key}-{round}"));
            async move { caller.post_waiting(&path, &key, &amount(minor), "30").await }
        })
        .await;
        assert_eq!(count(&answers, 201, ""), 1, "{}", told(&answers));
        assert_eq!(count(&answers, 422, "over-limit"), 49, "{}", told(&answers));
        assert_eq!(connexpay.request_count_of(verb::CAPTURE), round);
    }
    assert_eq!(connexpay.books().net(), 140_00);
    world.audit().await;
}

/// Three refunds of 60.00 that wait together for the journal's one writer: a batch holds one operation of a payment, and
/// what was read before the first is not good for the others.
#[tokio::test(flavor = "multi_thread")]
async fn refunds_offered_to_the_journal_in_one_gather_are_applied_one_by_one() {
    let mut world = patient_world().await;
    // Without a lock to queue them, they reach the journal together.
    let nobody = reserve_port().expect("a port");
    world.config.lock_url = format!("redis://127.0.0.1:{nobody}");
    "writers = 1\nlock_timeout = \"30s\"\nstatement_timeout = \"40s\""
        .clone_into(&mut world.config.more_ledger);
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let plug = shop.pay("k-plug", &sale(10_00)).await.expect(201).payment();
    let payment = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let connexpay = world.simulators.connexpay();
    connexpay.settle().expect("settled");

    // The writer waits for a row that this test holds; whatever comes meanwhile is gathered.
    let mut other = PgConnection::connect(&world.config.ledger_url)
        .await
        .expect("Postgres");
    let mut holding = other.begin().await.expect("a transaction");
    let id = plug.trim_start_matches("pay_");
    let locked = sqlx::query("select from payment where id = $1::text::uuid for update").bind(id);
    assert_eq!(
        locked.fetch_all(&mut *holding).await.expect("locked").len(),
        1
    );
    let plugging = {
        let (shop, plug) = (shop.clone(), plug.clone());
        tokio::spawn(async move { shop.refund("k-2", &plug, 10_00).await })
    };
    let mut watching = PgConnection::connect(&world.config.ledger_url)
        .await
        .expect("Postgres");
    eventually(Duration::from_secs(10), "the writer to wait for the row", async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut watching).await.expect("Postgres");
        (count > 0).then_some(())
    })
    .await
    .expect("plugged");
    let refunds: Vec<_> = (0..3)
        .map(|number| {
            let (shop, payment) = (shop.clone(), payment.clone());
            tokio::spawn(
                async move { shop.refund(&format!("k-3-{number}"), &payment, 60_00).await },
            )
        })
        .collect();
    eventually(
        Duration::from_secs(10),
        "three refunds in one gather",
        async || (gateway.engine.queued().0 == 3).then_some(()),
    )
    .await
    .expect("gathered");
    holding.rollback().await.expect("released");

    plugging.await.expect("answered").expect(201);
    let mut answers = Vec::new();
    for refund in refunds {
        answers.push(refund.await.expect("answered"));
    }
    assert_eq!(count(&answers, 201, ""), 1, "{}", told(&answers));
    assert_eq!(count(&answers, 422, "over-limit"), 2, "{}", told(&answers));
    assert_eq!(
        connexpay.request_count_of(verb::RETURN),
        2,
        "the plug's and one"
    );
    assert_eq!(connexpay.books().net(), 40_00);
    world.audit().await;
}

/// Follow-ups of one payment are done one after another: their callers need time, and the processor may be slow here.
async fn patient_world() -> World {
    let mut world = World::new().await;
    world.config.set_spans("5s", "30s", "40s");
    world
}

async fn in_parallel<F: Future<Output = Reply>>(
    count: usize,
    callers: [&Caller; 2],
    call: impl Fn(Caller, String) -> F,
) -> Vec<Reply> {
    let calls =
        (0..count).map(|number| call(callers[number % 2].clone(), format!("k-{number}-parallel")));
    join_all(calls).await
}

fn count(answers: &[Reply], status: u16, problem: &str) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status && answer.problem() == problem)
        .count()
}

fn told(answers: &[Reply]) -> String {
    let texts: Vec<_> = answers
        .iter()
        .map(|answer| format!("{} {}", answer.status, answer.problem()))
        .collect();
    texts.join(", ")
}
