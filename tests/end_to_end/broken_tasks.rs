//! Payments whose own task breaks, or whose ledger does not acknowledge: the record is there, and something ends it.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::operation::StateName;
use gateway_core::store::EventKind;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{Fault, Kind};
use sandbox::stack::{self, TcpProxy, eventually};
use sandbox::world::{Around, Caller, Hook, Records, Running, World, amount, sale};

/// Deadline, horizon, and a slow machine.
const ENOUGH: Duration = Duration::from_mins(1);

/// Panics for the amounts given.
fn panics_for(amounts: &'static [i64]) -> Hook {
    Arc::new(move |subject| {
        Box::pin(async move {
            assert!(
                !amounts.contains(&subject.amount.minor()),
                "a bug that this payment wakes"
            );
        })
    })
}

/// A payment whose task panics, before its send or with the answer in hand, is resolved after its deadline though its owner
/// lives; the caller hears "not known yet" until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_task_panics_is_resolved_after_its_deadline() {
    let mut world = World::new().await;
    world.config.set_spans("3s", "4s", "8s");
    let around = Around {
        before: panics_for(&[10_00]),
        after: panics_for(&[20_00, 30_00]),
    };
    let gateway = world.gateway_with(around.seams()).await;
    let shop = world.caller(&gateway.url);
    shop.pay_surely("control", &sale(1_00)).await;
    let permits = gateway.engine.under_way();
    let hold = {
        let mut body = sale(30_00);
        body["capture"] = "manual".into();
        body
    };
    let payments = [
        ("before", sale(10_00)),
        ("after", sale(20_00)),
        ("hold", hold),
    ];
    for (key, body) in &payments {
        let reply = shop.post_waiting("/v1/payments", key, body, "2").await;
        assert_eq!(reply.status, 504, "{key}: {}", reply.body);
        assert_eq!(reply.body["money_moved"], "unknown");
    }
    assert_eq!(
        gateway.engine.under_way(),
        permits,
        "permits are given back"
    );

    let records = world.records().await;
    let ends = [
        ("before", StateName::Failed, 402),
        ("after", StateName::Reversed, 402),
        ("hold", StateName::Approved, 201),
    ];
    for ((key, state, status), (_, body)) in ends.into_iter().zip(&payments) {
        let adopted = records.until_event(key, EventKind::Adopted, ENOUGH).await;
        let operation = records.operation(key).await;
        assert!(adopted.at >= operation.deadline, "{key}");
        assert_eq!(operation.owner, gateway.engine.replica(), "the owner lives");
        let ended = records.until(key, ENOUGH, "its end", |now| now.state.is_final());
        assert_eq!(ended.await.state.name(), state, "{key}");
        shop.pay(key, body).await.expect(status);
    }
    world.settle_and_audit(ENOUGH).await;
    let books = world.simulators.connexpay().books();
    assert_eq!(books.net(), 1_00);
    assert_eq!(books.of(EntryKind::Sale).len(), 2);
}

/// A gateway whose ledger is reached through a proxy.
struct Proxied {
    world: World,
    gateway: Running,
    proxy: TcpProxy,
    records: Records,
}

impl Proxied {
    async fn start() -> Self {
        Self::of(World::new().await).await
    }

    async fn of(mut world: World) -> Self {
        world.config.set_spans("5s", "8s", "15s");
        let database = world.database.as_ref().expect("on Postgres");
        let server = database.server_address().expect("an address");
        let proxy = TcpProxy::start(server).await.expect("a proxy");
        let direct = database.url().to_owned();
        world.config.ledger_url = database.url_through(proxy.port());
        let gateway = world.gateway().await;
        world.config.ledger_url = direct;
        let records = world.records().await;
        let shop = world.caller(&gateway.url);
        shop.pay_surely("warm", &sale(1_00)).await;
        Self {
            world,
            gateway,
            proxy,
            records,
        }
    }
}

/// Commit 1 is written and its acknowledgement lost: nothing is sent in its name, the key is given back, and its repeat is
/// the same operation.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_of_the_record_makes_no_second_row_and_no_second_effect() {
    let test = Proxied::start().await;
    let shop = test.world.caller(&test.gateway.url);
    let moment = stack::Moment::after_commit();
    let cut = test.proxy.cut_at(moment, b"lost-record");
    let first = shop.pay("lost-record", &sale(10_00)).await;
    assert!(cut.has_sprung());
    assert_eq!(first.status, 503, "{}", first.body);
    let recorded = test.records.operation("lost-record").await;

    let reply = shop
        .until_final("/v1/payments", "lost-record", &sale(10_00))
        .await
        .expect(201);
    let operation = test.records.operation("lost-record").await;
    assert_eq!(operation.id, recorded.id, "the row is the same");
    assert_eq!(operation.reference, recorded.reference);
    assert_eq!(reply.operation(), operation.id.to_string());
    test.world.settle_and_audit(ENOUGH).await;
    let connexpay = test.world.simulators.connexpay();
    assert_eq!(
        connexpay.request_count_of(verb::SALE),
        2,
        "one of them warmed up"
    );
    assert_eq!(connexpay.books().net(), 11_00);
}

/// The same for a follow-up, whose record is a transaction of several statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_of_a_refunds_record_refunds_once() {
    let mut world = World::new().await;
    world.config.scan_every = "1m".to_owned(); // Nobody but the refund commits anything.
    let test = Proxied::of(world).await;
    let shop = test.world.caller(&test.gateway.url);
    let mut body = sale(10_00);
    body["order_reference"] = "ORDER-77".into();
    let sold = shop.pay_surely("sold", &body).await.payment();
    let connexpay = test.world.simulators.connexpay();
    connexpay.settle().expect("a closed batch");
    // The key is read before it is written; the order is only written.
    let claim = stack::Moment::BeforeRequest;
    let claim = test.proxy.hold_at(claim, b"ORDER-77");
    let path = format!("/v1/payments/{sold}/refunds");
    let refunding = {
        let (shop, sold) = (shop.clone(), sold.clone());
        tokio::spawn(async move { shop.refund("lost-refund", &sold, 4_00).await })
    };
    claim.sprung().await;
    let moment = stack::Moment::after_commit();
    let cut = test.proxy.cut_at(moment, b"COMMIT");
    claim.release();
    let first = refunding.await.expect("a reply");
    assert!(cut.has_sprung());
    assert_eq!(first.status, 503, "{}", first.body);
    shop.until_final(&path, "lost-refund", &amount(4_00))
        .await
        .expect(201);
    test.world.settle_and_audit(ENOUGH).await;
    let connexpay = test.world.simulators.connexpay();
    assert_eq!(connexpay.books().of(EntryKind::Return).len(), 1);
    assert_eq!(connexpay.books().net(), 7_00);
}

/// Commit 2 is written and its acknowledgement lost: the caller still gets the one answer, entered once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_of_the_settlement_enters_it_once() {
    let test = Proxied::start().await;
    let shop = test.world.caller(&test.gateway.url);
    let moment = stack::Moment::after_commit();
    let cut = test.proxy.cut_at(moment, br#"{"state":"approved""#);
    let first = shop.pay("k", &sale(10_00)).await.expect(201);
    assert!(cut.has_sprung());
    let again = shop.pay("k", &sale(10_00)).await.expect(201);
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(first.body["captured"], 10_00, "counted once");
    let transitions = test.records.events("k", EventKind::Transition).await;
    assert_eq!(transitions.len(), 2, "{transitions:?}");
    let late = test.records.events("k", EventKind::LateAnswer).await;
    assert!(late.is_empty(), "{late:?}");
    test.world.settle_and_audit(ENOUGH).await;
    let connexpay = test.world.simulators.connexpay();
    assert_eq!(
        connexpay.request_count_of(verb::SALE),
        2,
        "one of them warmed up"
    );
}

/// A reversal is written down and counted, and the acknowledgement is lost: it is sent all the same, and counted once. A
/// return that counted as sent and never was would wait for a person.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_of_a_reversal_counts_and_sends_it_once() {
    for (is_settled, form) in [(false, verb::VOID), (true, verb::RETURN)] {
        let mut world = World::new().await;
        // Only a cancellation wakes the resolver, so that nobody but the reversal commits anything.
        world.config.scan_every = "1m".to_owned();
        let test = Proxied::of(world).await;
        let shop = test.world.caller(&test.gateway.url);
        shop.pay_surely("k", &sale(10_00)).await;
        let connexpay = test.world.simulators.connexpay();
        if is_settled {
            connexpay.settle().expect("a closed batch");
        }
        // With this begins the key of a reversal, and of nothing else.
        let claim = stack::Moment::BeforeRequest;
        let claim = test.proxy.hold_at(claim, "\u{21a9}".as_bytes());
        shop.cancel("k").await.expect(201);
        claim.sprung().await;
        let moment = stack::Moment::after_commit();
        let cut = test.proxy.cut_at(moment, b"COMMIT");
        claim.release();
        cut.sprung().await;

        until_undone(&shop, "k").await;
        let counted = "select sum(sends) from operation where verb = 'reversal'";
        assert_eq!(test.world.count_sql(counted).await, 1, "{form}");
        assert_eq!(connexpay.request_count_of(form), 1, "{form}");
        test.world.settle_and_audit(ENOUGH).await;
        assert_eq!(connexpay.books().net(), 1_00, "what warmed up");
    }
}

/// A return provably did not leave, and the ledger goes away before that is written: it is told again, and the return is
/// sent later.
#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_never_left_is_sent_though_the_ledger_missed_it() {
    let mut world = World::new().await;
    world.config.trust_429 = true;
    let test = Proxied::of(world).await;
    let shop = test.world.caller(&test.gateway.url);
    shop.pay_surely("k", &sale(10_00)).await;
    let connexpay = test.world.simulators.connexpay();
    let faults = vec![
        Fault::on(Kind::Http500, verb::VOID),
        Fault::on(Kind::Http429, verb::RETURN).first(1),
    ];
    connexpay.set_faults(faults, 7).await.expect("in force");
    let lost = stack::Moment::BeforeRequest;
    let lost = test.proxy.cut_at(lost, b"did not leave");
    shop.cancel("k").await.expect(201);
    let voided = connexpay.wait_for_requests(1, |record| record.verb == verb::VOID);
    voided.await.expect("a void without effect");
    connexpay.settle().expect("a closed batch");

    until_undone(&shop, "k").await;
    assert!(lost.has_sprung());
    assert_eq!(connexpay.request_count_of(verb::RETURN), 2);
    test.world.settle_and_audit(ENOUGH).await;
    assert_eq!(connexpay.books().net(), 1_00, "what warmed up");
}

async fn until_undone(shop: &Caller, key: &str) {
    let done = eventually(ENOUGH, "the cancellation to be done", async || {
        let reply = shop.cancel(key).await;
        (reply.body["state"] == "done").then_some(())
    });
    done.await.unwrap_or_else(|error| panic!("{error:?}"));
}

/// Commit 1 is written, its acknowledgement is lost, and the process never asks again, because it is killed: another one
/// resolves the record after its owner's silence, and nothing was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_heard_of_ends_without_effect() {
    let mut world = World::new().await;
    world.config.set_spans("3s", "4s", "8s");
    let database = world.database.as_ref().expect("on Postgres");
    let server = database.server_address().expect("an address");
    let proxy = TcpProxy::start(server).await.expect("a proxy");
    let direct = database.url().to_owned();
    world.config.ledger_url = database.url_through(proxy.port());
    let mut killed = world.process("killed").await;
    world.config.ledger_url = direct;
    let heir = world.gateway().await;
    let (shop, there) = (world.caller(killed.base_url()), world.caller(&heir.url));
    there.pay_surely("control", &sale(1_00)).await;

    let moment = stack::Moment::after_commit();
    let held = proxy.hold_at(moment, b"unheard");
    let calling = tokio::spawn(async move {
        let headers = [("idempotency-key", "unheard")];
        let body = sale(10_00).to_string();
        shop.try_post_with("/v1/payments", body, &headers).await
    });
    held.sprung().await;
    killed.kill9().expect("killed");
    assert!(calling.await.expect("a call").is_err());
    there
        .until_final("/v1/payments", "unheard", &sale(10_00))
        .await
        .expect(402);
    world.settle_and_audit(ENOUGH).await;
    let records = world.records().await;
    assert_eq!(records.state("unheard").await, StateName::Failed);
    assert_eq!(world.simulators.connexpay().books().net(), 1_00);
}
