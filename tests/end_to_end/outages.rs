//! Redis and Postgres that go away under load, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{self, Selector};
use sandbox::stack::{Databases, Moment, PostgresServer, Stalls, TcpProxy, eventually, unix_ms};
use sandbox::world::{Caller, Reply, World, migrate, sale};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ENOUGH: Duration = Duration::from_mins(1);

/// Pays and follows up until told to end: whatever is not a success is in `failures`.
#[derive(Clone, Default)]
struct Load {
    over: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
}

impl Load {
    /// One authorization, and its capture and a second one at once, which queue for the payment; then a void of another.
    async fn rounds(self, lane: usize, caller: Caller) -> Vec<String> {
        let mut failures = Vec::new();
        let mut check = |what: &str, reply: &Reply, allowed: &[u16]| {
            if !allowed.contains(&reply.status) {
                failures.push(format!("{what}: {} {}", reply.status, reply.body));
            }
        };
        let mut round = 0;
        while !self.over.load(Ordering::SeqCst) {
            let key = |what: &str| format!("{what}-{lane}-{round}");
            let sold = caller.pay(&key("sale"), &sale(10_00)).await;
            check("sale", &sold, &[201]);
            let held = caller.authorize(&key("hold"), 20_00).await;
            check("authorization", &held, &[201]);
            if held.status == 201 && sold.status == 201 {
                let (held, sold) = (held.payment(), sold.payment());
                let (one, two, void) = (key("capture"), key("other-capture"), key("void"));
                let (one, two, void) = tokio::join!(
                    caller.capture(&one, &held, 20_00),
                    caller.capture(&two, &held, 20_00),
                    caller.void(&void, &sold),
                );
                check("void", &void, &[201]);
                let mut captures = [one, two];
                captures.sort_by_key(|reply| reply.status);
                check("capture", &captures[0], &[201]);
                check("second capture", &captures[1], &[422]);
            }
            self.rounds.fetch_add(1, Ordering::SeqCst);
            round += 1;
        }
        failures
    }

    async fn until_rounds(&self, more: usize) {
        let until = self.rounds.load(Ordering::SeqCst) + more;
        let reached = eventually(ENOUGH, "the load to go on", async || {
            (self.rounds.load(Ordering::SeqCst) >= until).then_some(())
        });
        reached.await.expect("a load that goes on");
    }
}

/// Redis only saves work: flushed, and then stopped, under payments and follow-ups, it fails none of them.
#[tokio::test(flavor = "multi_thread")]
async fn no_payment_fails_when_redis_forgets_and_when_it_stops() {
    let mut world = World::new().await.with_own_redis().await;
    world.config.set_spans("10s", "15s", "30s");
    let (first, second) = (world.gateway().await, world.gateway().await);
    let load = Load::default();
    let mut lanes = JoinSet::new();
    for lane in 0..6 {
        let url = if lane % 2 == 0 {
            &first.url
        } else {
            &second.url
        };
        lanes.spawn(load.clone().rounds(lane, world.caller(url)));
    }
    load.until_rounds(12).await;
    let shop = world.caller(&first.url);
    let ready = shop.get("/readyz").await.expect(200);
    assert_eq!(ready.body["lock"], true, "{}", ready.body);
    let redis = world.redis.as_mut().expect("a Redis of its own");
    redis.flush().await.expect("flushed");
    load.until_rounds(12).await;
    redis.stop().expect("stopped");
    load.until_rounds(18).await;
    let ready = shop.get("/readyz").await.expect(200);
    assert_eq!(ready.body["lock"], false, "{}", ready.body);
    load.over.store(true, Ordering::SeqCst);
    let failures: Vec<String> = lanes.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    world.settle_and_audit(ENOUGH).await;
}

/// How long the ledger is away.
const OUTAGE: Duration = Duration::from_secs(20);
/// Sales that the processor has and has not answered when the ledger goes away.
const HELD: usize = 20;

/// With Postgres away new payments get `503`, running ones `504`; once it is back every operation ends, ledger and books agree,
/// and no sale whose answer a live replica held meanwhile is reversed.
#[tokio::test(flavor = "multi_thread")]
async fn payments_survive_a_ledger_that_is_away_for_twenty_seconds() {
    let mut postgres = PostgresServer::start_new().await.expect("a Postgres");
    let databases = Databases::at(&postgres.admin_url(), migrate).await;
    let database = databases.expect("a template").create().await;
    let mut world = World::new().await;
    world.database = Some(database.expect("a database"));
    world.config.ledger_url = world.database.as_ref().expect("just made").url().to_owned();
    world.config.set_spans("4s", "5s", "10s");
    let (first, second) = (world.gateway().await, world.gateway().await);
    let callers = [world.caller(&first.url), world.caller(&second.url)];
    for (number, caller) in callers.iter().enumerate() {
        let key = format!("control-{number}");
        caller.pay_surely(&key, &sale(1_00)).await;
    }

    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(
        simulators::Moment::AfterCommit,
        Selector::verb(verb::SALE).amount(20_00),
    );
    let mut held = JoinSet::new();
    for number in 0..HELD {
        let caller = callers[number % 2].clone();
        held.spawn(async move { caller.pay(&format!("held-{number}"), &sale(20_00)).await });
    }
    // Payments come all the time: the ledger goes away in the middle of some.
    let over = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for lane in 0..4 {
        let (caller, over) = (callers[lane % 2].clone(), Arc::clone(&over));
        load.spawn(async move {
            let mut seen = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let key = format!("load-{lane}-{}", seen.len());
                let began = Instant::now();
                let status = caller.pay(&key, &sale(10_00)).await.status;
                seen.push((key, began, status));
                if status == 503 {
                    // As Retry-After says, in small.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            seen
        });
    }
    gate.reached(HELD).await.expect("all of them sent");

    postgres.stop_immediate().await.expect("stopped");
    let stopped = Instant::now();
    gate.release(); // The answers arrive, and there is nowhere to write them.
    for reply in held.join_all().await {
        assert_eq!(reply.status, 504, "a running one: {}", reply.body);
        assert_eq!(reply.body["money_moved"], "unknown");
    }
    tokio::time::sleep_until(stopped + OUTAGE).await;
    let down_until = Instant::now();
    postgres.start().await.expect("back");
    over.store(true, Ordering::SeqCst);

    let mut keys: Vec<_> = (0..HELD)
        .map(|number| (format!("held-{number}"), 504))
        .collect();
    let mut refused = 0;
    for (key, began, status) in load.join_all().await.into_iter().flatten() {
        if began > stopped && began + Duration::from_secs(1) < down_until {
            assert_eq!(status, 503, "a new one: {key}");
            refused += 1;
        }
        assert!([201, 503, 504].contains(&status), "{key}: {status}");
        keys.push((key, status));
    }
    assert!(refused > 0, "payments came while the ledger was away");

    let repeats = keys.into_iter().enumerate().map(|(number, (key, first))| {
        let caller = &callers[number % 2];
        let minor = if key.starts_with("held") {
            20_00
        } else {
            10_00
        };
        async move {
            let reply = caller.until_final("/v1/payments", &key, &sale(minor)).await;
            (key, first, reply)
        }
    });
    let repeated = join_all(repeats).await;
    let (records, books) = (world.records().await, world.simulators.connexpay().books());
    for (key, first, reply) in repeated {
        if key.starts_with("held") {
            assert_eq!(reply.status, 201, "its answer was held: {}", reply.body);
        }
        assert!(matches!(reply.status, 201 | 402), "{key}: {}", reply.body);
        if (first, reply.status) == (503, 402) {
            let reference = records.operation(&key).await.reference;
            let position = books.position(reference.as_str());
            assert_eq!(position.sales, 0, "{key} sent nothing: {position:?}");
        }
    }
    world.settle_and_audit(ENOUGH).await;
    let books = world.simulators.connexpay().books();
    for entry in books.of(EntryKind::Sale) {
        if entry.amount == 20_00 {
            assert_eq!(entry.effective, 20_00, "reversed: {entry:?}");
        }
    }
}

/// A ledger that says nothing any more, as behind a broken network, keeps no caller past its wait; what it was told late and
/// what it was not told is sorted out once it speaks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_ledger_keeps_no_caller_past_its_wait() {
    let mut world = World::new().await;
    world.config.set_spans("4s", "5s", "10s");
    let database = world.database.as_ref().expect("on Postgres");
    let server = database.server_address().expect("an address");
    let proxy = TcpProxy::start(server).await.expect("a proxy");
    let direct = database.url().to_owned();
    world.config.ledger_url = database.url_through(proxy.port());
    let gateway = world.gateway().await;
    world.config.ledger_url = direct;
    let shop = world.caller(&gateway.url);
    let sold = shop.pay_surely("sold", &sale(1_00)).await.payment();

    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(
        simulators::Moment::AfterCommit,
        Selector::verb(verb::SALE).amount(20_00),
    );
    let mut held = JoinSet::new();
    for number in 0..HELD {
        let shop = shop.clone();
        held.spawn(async move { shop.pay(&format!("held-{number}"), &sale(20_00)).await });
    }
    gate.reached(HELD).await.expect("all of them sent");
    proxy.pause();
    gate.release();

    // Two seconds, one for a last look at the record, and a slow machine.
    let patience = Duration::from_millis(4500);
    let path = "/v1/payments";
    let stalls = Stalls::watch();
    let (began, from) = (Instant::now(), unix_ms());
    let spent = || {
        began
            .elapsed()
            .saturating_sub(stalls.longest(from, unix_ms()))
    };
    let new_body = sale(10_00);
    let (new, known, follow_up) = tokio::join!(
        shop.post_waiting(path, "new", &new_body, "2"),
        shop.post_waiting(path, "sold", &new_body, "2"),
        shop.void("void", &sold),
    );
    for reply in [&new, &known] {
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert_eq!(reply.body["money_moved"], "unknown");
    }
    assert_eq!(follow_up.status, 503, "{}", follow_up.body);
    assert!(spent() < patience * 2, "{:?}", spent());
    for reply in held.join_all().await {
        assert_eq!(reply.status, 504, "{}", reply.body);
    }
    assert!(
        spent() < Duration::from_secs(5) + patience,
        "running ones waited {:?}",
        spent()
    );
    proxy.resume();

    for number in 0..HELD {
        let key = format!("held-{number}");
        let reply = shop.until_final(path, &key, &sale(20_00)).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    shop.until_final(path, "new", &new_body).await.expect(201);
    world.settle_and_audit(ENOUGH).await;
}

/// The same for who only asks, or cancels: the answer claims nothing, and comes when the caller's wait ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_ledger_keeps_no_reader_and_no_cancellation_past_its_wait() {
    let mut world = World::new().await;
    let database = world.database.as_ref().expect("on Postgres");
    let server = database.server_address().expect("an address");
    let proxy = TcpProxy::start(server).await.expect("a proxy");
    let direct = database.url().to_owned();
    world.config.ledger_url = database.url_through(proxy.port());
    let gateway = world.gateway().await;
    world.config.ledger_url = direct;
    let shop = world.caller(&gateway.url);
    let sold = shop.pay_surely("sold", &sale(1_00)).await;
    let (payment, operation) = (sold.payment(), sold.operation());

    // A slow machine on top of the second that each of them waits, and of the five of who does not say.
    let patience = Duration::from_secs(4);
    let assert_unknown = |reply: &Reply| {
        assert_eq!(reply.problem(), "ledger-unavailable", "{}", reply.body);
        assert_eq!(reply.body["money_moved"], "unknown");
        assert_eq!(reply.body["retry"], "same-key");
    };
    let paths = [
        format!("/v1/payments/{payment}"),
        "/v1/payments".to_owned(),
        "/v1/operations?idempotency_key=sold".to_owned(),
        format!("/v1/operations/{operation}"),
        "/v1/events".to_owned(),
    ];
    let cancel = async |key: &str| {
        let body = json!({"idempotency_key": key}).to_string();
        let headers = [("request-timeout", "1")];
        shop.post_with("/v1/cancellations", body, &headers).await
    };
    proxy.pause();
    let stalls = Stalls::watch();
    let spent = |(began, from): (Instant, u64)| {
        began
            .elapsed()
            .saturating_sub(stalls.longest(from, unix_ms()))
    };
    let began = (Instant::now(), unix_ms());
    let (reads, cancelled) = tokio::join!(
        join_all(paths.iter().map(|path| shop.get_waiting(path, "1"))),
        cancel("sold"),
    );
    reads.iter().chain([&cancelled]).for_each(assert_unknown);
    assert!(
        spent(began) < Duration::from_secs(1) + patience,
        "{:?}",
        spent(began)
    );
    let began = (Instant::now(), unix_ms());
    let metadata = format!("/v1/payments/{payment}/metadata");
    let (read, cancelled, erased) = tokio::join!(
        shop.get(&paths[0]),
        shop.cancel("sold"),
        shop.delete(&metadata),
    );
    [&read, &cancelled, &erased]
        .into_iter()
        .for_each(assert_unknown);
    assert!(
        spent(began) < Duration::from_secs(5) + patience,
        "{:?}",
        spent(began)
    );
    proxy.resume();
    let found = eventually(ENOUGH, "the ledger to speak", async || {
        let found = shop.operation("sold").await;
        (found.status == 200).then_some(found)
    });
    let found = found.await.expect("it was only silent");
    assert_eq!(
        found.body["cancel_requested_at"],
        Value::Null,
        "never asked"
    );

    // Silent in the middle of the write: the wish goes on without its caller.
    let silent = Moment::AfterAnswer { ending: Vec::new() };
    let silent = proxy.hold_at(silent, b"cancelled before it was seen");
    let began = (Instant::now(), unix_ms());
    assert_unknown(&cancel("unheard").await);
    assert!(
        silent.has_sprung() && spent(began) < Duration::from_secs(1) + patience,
        "{:?}",
        spent(began)
    );
    silent.release();
    let wished = eventually(ENOUGH, "the wish", async || {
        let found = shop.operation("unheard").await;
        (found.status == 200).then_some(())
    });
    wished.await.expect("on record");
    shop.pay("unheard", &sale(10_00)).await.expect(410);
    assert_eq!(cancel("unheard").await.expect(201).body["state"], "done");
    world.settle_and_audit(ENOUGH).await;
}
