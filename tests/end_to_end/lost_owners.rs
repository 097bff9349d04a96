//! Processes that are killed or stopped while they own payments: others adopt what is open, and nothing happens twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use gateway_core::clock::Timestamp;
use gateway_core::lock::{Acquired, Lock as _};
use gateway_core::operation::StateName;
use gateway_core::store::EventKind;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{Fault, Kind, Moment, Selector};
use sandbox::stack::{self, GatewayProcess, Stalls, TcpProxy, Trap, unix_ms};
use sandbox::world::{Caller, Records, Reply, World, sale};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

/// Silence, adoption, horizon, and a slow machine.
const ENOUGH: Duration = Duration::from_mins(1);

fn authorization(minor: i64) -> Value {
    let mut body = sale(minor);
    body["capture"] = json!("manual");
    body
}

/// What a hundred payments are doing when their process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// In the processor's books, not answered.
    Committed,
    /// Will be in the books, after the kill.
    CommitsAfterTheKill,
    /// Will be in the books, after a reversal may have found nothing.
    CommitsAfterAdoption,
    /// Never.
    NeverCommits,
    /// In the books, not answered, and may stand.
    Authorized,
}

const FATES: [Fate; 5] = [
    Fate::Committed,
    Fate::CommitsAfterTheKill,
    Fate::CommitsAfterAdoption,
    Fate::NeverCommits,
    Fate::Authorized,
];

impl Fate {
    /// Amounts tell the gates who is meant.
    fn body(self) -> Value {
        match self {
            Self::Committed => sale(10_00),
            Self::CommitsAfterTheKill => sale(20_00),
            Self::CommitsAfterAdoption => sale(30_00),
            Self::NeverCommits => sale(40_00),
            Self::Authorized => authorization(50_00),
        }
    }
}

/// What a killed process had sent is adopted within eight seconds, and each payment reaches the one end that fits the books.
#[tokio::test(flavor = "multi_thread")]
async fn payments_of_a_killed_process_are_adopted_and_end_as_the_books_say() {
    let mut world = World::new().await;
    world.config.set_spans("4s", "5s", "14s");
    world.config.connections_per_host = Some(144);
    world.config.more_account = "concurrency_max = 128".to_owned();
    let mut killed = world.process("killed").await;
    let heir = world.process("heir").await;
    let (shop, there) = (
        world.caller(killed.base_url()),
        world.caller(heir.base_url()),
    );
    // "Not found" counts only where the same search finds something that is known.
    there.pay_surely("control-sale", &sale(1_00)).await;
    there.pay_surely("control-hold", &authorization(1_00)).await;
    shop.pay_surely("warm", &sale(1_00)).await;

    let connexpay = world.simulators.connexpay();
    let never = Fault::on(Kind::HangBeforeCommit, verb::SALE)
        .when(Selector::verb(verb::SALE).amount(40_00));
    connexpay.set_fault(never).await.expect("a fault");
    let after = |moment, minor| connexpay.hold(moment, Selector::any().amount(minor));
    let committed = after(Moment::AfterCommit, 10_00);
    let after_kill = after(Moment::BeforeCommit, 20_00);
    let after_adoption = after(Moment::BeforeCommit, 30_00);
    let authorized = after(Moment::AfterCommit, 50_00);

    let mut calls = JoinSet::new();
    let keys: Vec<(String, Fate)> = (0..100)
        .map(|number| (format!("k-{number}"), FATES[number % FATES.len()]))
        .collect();
    for (key, fate) in keys.clone() {
        let shop = shop.clone();
        calls.spawn(async move {
            let headers = [("idempotency-key", key.as_str())];
            let body = fate.body().to_string();
            shop.try_post_with("/v1/payments", body, &headers).await
        });
    }
    connexpay
        .wait_for_requests(100, |request| {
            [verb::SALE, verb::AUTH_ONLY].contains(&request.verb.as_str())
                && request.amount != Some(1_00)
        })
        .await
        .expect("a hundred payments sent");
    let stalls = Stalls::watch();
    killed.kill9().expect("killed");
    let kill = Timestamp::from(SystemTime::now());
    let killed_at = unix_ms();
    after_kill.release();
    while let Some(call) = calls.join_next().await {
        assert!(call.expect("a call").is_err(), "the process is gone");
    }

    // The heir looked for each of them, and did not find those that are still to come.
    let records = world.records().await;
    for (key, fate) in &keys {
        if *fate == Fate::CommitsAfterAdoption {
            let checked = records.until_event(key, EventKind::Checked, ENOUGH);
            checked.await;
        }
    }
    after_adoption.release();
    committed.release();
    authorized.release();

    world.settle_and_audit(ENOUGH).await;
    for (key, fate) in &keys {
        let adopted = records.until_event(key, EventKind::Adopted, ENOUGH).await;
        let after = adopted.at.since(kill);
        let adopted_at = killed_at + u64::try_from(after.as_millis()).expect("short");
        let stood_still = stalls.longest(killed_at, adopted_at);
        assert!(
            after <= Duration::from_secs(8) + stood_still,
            "{key} after {after:?}, of which the machine stood still for {stood_still:?}"
        );
        let reply = there.pay(key, &fate.body()).await;
        let operation = records.operation(key).await;
        let position = connexpay.books().position(operation.reference.as_str());
        let (state, status) = (operation.state.name(), reply.status);
        match fate {
            Fate::Authorized => {
                assert_eq!((state, status), (StateName::Approved, 201), "{key}");
                assert_eq!((position.authorizations, position.held), (1, 50_00));
            }
            Fate::NeverCommits => {
                assert_eq!((state, status), (StateName::Failed, 402), "{key}");
                assert_eq!(position.sales, 0);
            }
            _ => {
                assert_eq!(
                    (state, status),
                    (StateName::Reversed, 402),
                    "{key} {fate:?}"
                );
                assert_eq!((position.sales, position.net), (1, 0), "{key}");
            }
        }
    }
}

/// Two processes; the first reaches the ledger through a proxy.
struct Pair {
    world: World,
    owner: GatewayProcess,
    heir: GatewayProcess,
    proxy: TcpProxy,
    records: Records,
}

impl Pair {
    async fn start() -> Self {
        Self::with_spans("4s", "8s").await
    }

    async fn with_spans(wait_max: &str, horizon: &str) -> Self {
        let mut world = World::new().await;
        world.config.set_spans("3s", wait_max, horizon);
        let database = world.database.as_ref().expect("on Postgres");
        let server = database.server_address().expect("an address");
        let proxy = TcpProxy::start(server).await.expect("a proxy");
        let direct = database.url().to_owned();
        world.config.ledger_url = database.url_through(proxy.port());
        let owner = world.process("owner").await;
        world.config.ledger_url = direct;
        let heir = world.process("heir").await;
        let records = world.records().await;
        let pair = Self {
            world,
            owner,
            heir,
            proxy,
            records,
        };
        let there = pair.heir();
        there.pay_surely("control-sale", &sale(1_00)).await;
        there.pay_surely("control-hold", &authorization(1_00)).await;
        pair.owner().pay_surely("warm", &sale(1_00)).await;
        pair
    }

    fn owner(&self) -> Caller {
        self.world.caller(self.owner.base_url())
    }

    fn heir(&self) -> Caller {
        self.world.caller(self.heir.base_url())
    }

    /// The owner stops once it has written the record of `key` and not heard of it.
    fn hold_record(&self, key: &str) -> Trap {
        let moment = stack::Moment::after_commit();
        self.proxy.hold_at(moment, key.as_bytes())
    }

    /// The owner has its answer, and the ledger has not heard of it.
    fn hold_settlement(&self) -> Trap {
        let pattern = br#"{"state":"approved""#;
        self.proxy.hold_at(stack::Moment::BeforeRequest, pattern)
    }

    /// Stops the owner, with what it waits for already on its way to it.
    async fn stop(&mut self, held: &Trap) {
        held.sprung().await;
        self.owner.sigstop().await.expect("stopped");
    }

    /// Requests of one verb under the reference of `key`.
    async fn sent(&self, key: &str, verb: &str) -> usize {
        let reference = self.records.operation(key).await.reference;
        let requests = self.world.simulators.connexpay().requests_of(verb);
        let carry = |number: &Option<String>| number.as_deref() == Some(reference.as_str());
        requests
            .iter()
            .filter(|request| carry(&request.sequence_number) || carry(&request.order_number))
            .count()
    }
}

fn pay(caller: &Caller, key: &str, body: &Value) -> JoinHandle<Reply> {
    let (caller, key, body) = (caller.clone(), key.to_owned(), body.clone());
    tokio::spawn(async move { caller.pay(&key, &body).await })
}

/// Repeats `key` at a gateway until told to end, and returns every status that was answered.
struct Onlooker {
    done: Arc<AtomicBool>,
    seen: JoinHandle<Vec<u16>>,
}

impl Onlooker {
    fn new(caller: &Caller, key: &str, body: &Value) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (over, caller) = (Arc::clone(&done), caller.clone());
        let (key, body) = (key.to_owned(), body.clone());
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let reply = caller.post_waiting("/v1/payments", &key, &body, "1").await;
                seen.push(reply.status);
            }
            seen
        });
        Self { done, seen }
    }

    async fn statuses(self) -> Vec<u16> {
        self.done.store(true, Ordering::SeqCst);
        self.seen.await.expect("an onlooker")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resumed {
    AfterAdoption,
    AfterTheHorizon,
}

/// Stopped after its record was committed and before the check that precedes the first byte, an owner that goes on sends
/// nothing, however much later that is.
async fn stopped_before_the_first_byte(resumed: Resumed) {
    // Resumed early, its caller still waits: nothing but its own heartbeat tells it that it may not send.
    let (mut pair, wait, reason) = match resumed {
        Resumed::AfterAdoption => (Pair::with_spans("30s", "40s").await, "30", "heartbeat_lost"),
        Resumed::AfterTheHorizon => (Pair::start().await, "4", "too_late"),
    };
    let (owner, heir) = (pair.owner(), pair.heir());
    let held = pair.hold_record("stopped");
    let first = {
        let (owner, body) = (owner.clone(), sale(10_00));
        let path = "/v1/payments";
        tokio::spawn(async move { owner.post_waiting(path, "stopped", &body, wait).await })
    };
    pair.stop(&held).await;
    held.release(); // The acknowledgement waits in the stopped process's socket.
    let onlooker = Onlooker::new(&heir, "stopped", &sale(10_00));
    let adopted = pair
        .records
        .until_event("stopped", EventKind::Adopted, ENOUGH);
    adopted.await;
    if resumed == Resumed::AfterTheHorizon {
        let is_final = |operation: &gateway_core::store::Operation| operation.state.is_final();
        let ended = pair
            .records
            .until("stopped", ENOUGH, "the horizon", is_final);
        assert_eq!(ended.await.state.name(), StateName::Failed);
    }
    pair.owner.sigcont().await.expect("running again");

    let late = pair
        .records
        .until_event("stopped", EventKind::LateAnswer, ENOUGH);
    let late = late.await;
    let answer = &late.evidence["answer"];
    assert_eq!(answer["state"], "not_sent", "{late:?}");
    assert_eq!(answer["not_sent"]["reason"], reason, "{late:?}");
    pair.world.settle_and_audit(ENOUGH).await;
    assert_eq!(pair.sent("stopped", verb::SALE).await, 0, "{resumed:?}");
    assert_eq!(pair.records.state("stopped").await, StateName::Failed);
    let statuses = onlooker.statuses().await;
    assert!(!statuses.contains(&201), "{statuses:?}");
    // Its gateway never heard of the record while the caller waited.
    let first = first.await.expect("a reply");
    assert!(matches!(first.status, 402 | 503 | 504), "{}", first.body);
    for caller in [&owner, &heir] {
        caller.pay("stopped", &sale(10_00)).await.expect(402);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_stopped_before_its_first_byte_and_resumed_after_adoption_sends_nothing() {
    stopped_before_the_first_byte(Resumed::AfterAdoption).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_stopped_before_its_first_byte_and_resumed_after_the_horizon_sends_nothing() {
    stopped_before_the_first_byte(Resumed::AfterTheHorizon).await;
}

/// Stopped after the processor's answer and before its settlement, an owner that goes on settles nothing: what was reversed
/// meanwhile stays reversed, and its answer is kept beside it.
async fn stopped_before_settlement(resumed: Resumed) {
    let mut pair = Pair::start().await;
    let (owner, heir) = (pair.owner(), pair.heir());
    let held = pair.hold_settlement();
    let first = pay(&owner, "stopped", &sale(10_00));
    pair.stop(&held).await;
    let onlooker = Onlooker::new(&heir, "stopped", &sale(10_00));
    pair.records
        .until_event("stopped", EventKind::Adopted, ENOUGH)
        .await;
    if resumed == Resumed::AfterTheHorizon {
        let past = |operation: &gateway_core::store::Operation| {
            operation.state.is_final() && operation.past_horizon()
        };
        pair.records
            .until("stopped", ENOUGH, "the horizon", past)
            .await;
    }
    pair.owner.sigcont().await.expect("running again");
    held.release(); // The settlement arrives now.

    let late = pair
        .records
        .until_event("stopped", EventKind::LateAnswer, ENOUGH);
    let late = late.await;
    assert_eq!(late.evidence["answer"]["state"], "approved", "{late:?}");
    pair.world.settle_and_audit(ENOUGH).await;
    let operation = pair.records.operation("stopped").await;
    assert_eq!(operation.state.name(), StateName::Reversed);
    let connexpay = pair.world.simulators.connexpay();
    let position = connexpay.books().position(operation.reference.as_str());
    assert_eq!((position.sales, position.net), (1, 0), "{position:?}");
    let statuses = onlooker.statuses().await;
    assert!(!statuses.contains(&201), "{statuses:?}");
    let first = first.await.expect("a reply");
    assert!(matches!(first.status, 402 | 504), "{}", first.body);
    for caller in [&owner, &heir] {
        let reply = caller.pay("stopped", &sale(10_00)).await.expect(402);
        assert_eq!(reply.problem(), "reversed", "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_stopped_before_its_settlement_and_resumed_after_adoption_changes_nothing() {
    stopped_before_settlement(Resumed::AfterAdoption).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_stopped_before_its_settlement_and_resumed_after_the_horizon_changes_nothing() {
    stopped_before_settlement(Resumed::AfterTheHorizon).await;
}

/// The same with an authorization, which is adopted as found: the late answer says what is written already.
#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_of_a_stopped_owner_is_adopted_as_found() {
    let mut pair = Pair::start().await;
    let (owner, heir) = (pair.owner(), pair.heir());
    let body = authorization(10_00);
    let held = pair.hold_settlement();
    let first = pay(&owner, "stopped", &body);
    pair.stop(&held).await;
    let found = heir.until_final("/v1/payments", "stopped", &body).await;
    let found = found.expect(201);
    pair.owner.sigcont().await.expect("running again");
    held.release();
    let first = first.await.expect("a reply");
    assert!(matches!(first.status, 201 | 504), "{}", first.body);
    pair.world.settle_and_audit(ENOUGH).await;
    let again = owner.pay("stopped", &body).await.expect(201);
    assert_eq!(again.bytes, found.bytes);
    assert_eq!(pair.sent("stopped", verb::AUTH_ONLY).await, 1);
}

/// A refund whose owner stopped with the answer in hand is found by its parent's totals and never sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_of_a_stopped_owner_is_found_and_not_repeated() {
    let mut pair = Pair::start().await;
    let (owner, heir) = (pair.owner(), pair.heir());
    let sold = heir.pay_surely("sold", &sale(10_00)).await.payment();
    let connexpay = pair.world.simulators.connexpay();
    connexpay.settle().expect("a closed batch");
    let held = pair.hold_settlement();
    let refunding = {
        let (owner, sold) = (owner.clone(), sold.clone());
        tokio::spawn(async move { owner.refund("refund", &sold, 4_00).await })
    };
    pair.stop(&held).await;
    let path = format!("/v1/payments/{sold}/refunds");
    let body = sandbox::world::amount(4_00);
    let found = heir.until_final(&path, "refund", &body).await.expect(201);
    pair.owner.sigcont().await.expect("running again");
    held.release();
    let first = refunding.await.expect("a reply");
    assert!(matches!(first.status, 201 | 504), "{}", first.body);
    pair.world.settle_and_audit(ENOUGH).await;
    let again = owner.refund("refund", &sold, 4_00).await.expect(201);
    assert_eq!(again.bytes, found.bytes);
    let connexpay = pair.world.simulators.connexpay();
    assert_eq!(connexpay.books().of(EntryKind::Return).len(), 1);
}

/// A killed process keeps its lease on a payment until that ends by itself; the ledger frees the payment within seconds, and
/// then nobody waits for the lease.
#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_killed_process_keeps_no_other_key_from_the_payment() {
    let mut world = World::new().await;
    world.config.set_spans("4s", "50s", "60s");
    let mut killed = world.process("killed").await;
    let heir = world.process("heir").await;
    let (shop, there) = (
        world.caller(killed.base_url()),
        world.caller(heir.base_url()),
    );
    let sold = there.pay_surely("sold", &sale(10_00)).await.payment();
    let connexpay = world.simulators.connexpay();
    connexpay.settle().expect("a closed batch");
    let path = format!("/v1/payments/{sold}/refunds");
    let gate = connexpay.hold(Moment::AfterCommit, Selector::verb(verb::RETURN));
    let refunding = {
        let (path, body) = (path.clone(), sandbox::world::amount(4_00).to_string());
        let headers = [("idempotency-key", "refund"), ("request-timeout", "50")];
        tokio::spawn(async move { shop.try_post_with(&path, body, &headers).await })
    };
    gate.reached(1).await.expect("a return sent");
    killed.kill9().expect("killed");
    gate.release();
    assert!(refunding.await.expect("a call").is_err(), "it is gone");
    let lock = world.lock();
    let name = format!("payment:{sold}");
    let taken = async || {
        let taken = lock.acquire(&name, Duration::from_secs(1), Duration::ZERO);
        matches!(taken.await, Acquired::Busy)
    };
    assert!(taken().await, "the lease goes on");

    let body = sandbox::world::amount(3_00);
    let other = there.post_waiting(&path, "other", &body, "30").await;
    other.expect(201);
    assert!(taken().await, "and still does");
    there
        .until_final(&path, "refund", &sandbox::world::amount(4_00))
        .await
        .expect(201);
    world.settle_and_audit(ENOUGH).await;
    let books = world.simulators.connexpay().books();
    assert_eq!((books.of(EntryKind::Return).len(), books.net()), (2, 3_00));
}
