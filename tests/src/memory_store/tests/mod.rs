//! The contract on the ledger in memory, and what it promises besides: simulated time, faults, determinism.

mod faults;
mod twins;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::{Clock, ManualClock, Tick, Timestamp};
use gateway_core::store::contract::{
    Ledger, approved, begin, charged, declined, end, read, replica, sale, settlement, unknown,
};
use gateway_core::store::{EventQuery, Intent, Operation, Store};

use super::MemoryStore;

/// Time that passes by being looked at, a microsecond each: what happens later is later, and no machine's clock decides.
#[derive(Debug)]
struct Looks(ManualClock);

impl Looks {
    fn begin() -> Arc<Self> {
        Arc::new(Self(ManualClock::new(Timestamp::from_seconds(
            1_795_000_000,
        ))))
    }
}

impl Clock for Looks {
    fn now(&self) -> Timestamp {
        self.0.advance(Duration::from_micros(1));
        self.0.now()
    }

    fn tick(&self) -> Tick {
        self.0.tick()
    }
}

/// An empty ledger and its clock.
struct Fresh {
    store: MemoryStore,
    clock: Arc<Looks>,
}

async fn fresh() -> Fresh {
    let clock = Looks::begin();
    let store = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
    store.migrate().await.expect("nothing to do");
    Fresh { store, clock }
}

impl Fresh {
    fn store(&self) -> Ledger {
        Arc::new(self.store.clone())
    }

    /// What holds after every test: all entries balance.
    #[expect(clippy::unused_async, reason = "the suite awaits the end of a ledger")]
    async fn end(self) {
        let mut sums = BTreeMap::new();
        for posting in self.store.postings() {
            let sum = sums
                .entry((posting.operation, posting.currency))
                .or_insert(0);
            *sum += posting.entry.side.sign() * posting.entry.minor;
        }
        assert!(
            sums.values().all(|sum| *sum == 0),
            "entries do not balance: {sums:?}"
        );
    }
}

gateway_core::store_contract!(fresh);

/// An unknown sale of `owner`.
async fn lost(store: &Ledger, name: &str, owner: gateway_core::key::ReplicaId) -> Operation {
    let intent = Intent {
        owner,
        ..sale(name, 1_000)
    };
    let recorded = begin(store, intent).await;
    end(store, &recorded, unknown()).await
}

#[tokio::test]
async fn what_belongs_to_a_replica_that_is_gone_is_adopted_in_time() {
    let ledger = fresh().await;
    let store = ledger.store();
    let (gone, alive, me) = (replica(), replica(), replica());
    store.beat(alive).await.expect("beats");
    let orphan = lost(&store, "k1", gone).await;
    let kept = lost(&store, "k2", alive).await;
    // Due two seconds after it was lost, and an orphan five seconds later.
    ledger.clock.0.advance(Duration::from_millis(6_900));
    assert!(store.adopt_overdue(me, 10).await.expect("none").is_empty());
    ledger.clock.0.advance(Duration::from_millis(200));
    let adopted = store.adopt_overdue(me, 10).await.expect("adopted");
    let adopted: Vec<_> = adopted.iter().map(|o| (o.id, o.owner, o.epoch)).collect();
    assert_eq!(adopted, [(orphan.id, me, orphan.epoch + 1)]);
    assert_eq!(read(&store, kept.id).await.owner, alive);
    ledger.end().await;
}

#[tokio::test]
async fn a_replica_is_forgotten_an_hour_after_its_last_beat() {
    let ledger = fresh().await;
    let store = ledger.store();
    let (gone, owner, me) = (replica(), replica(), replica());
    store.beat(gone).await.expect("beats");
    store.beat(owner).await.expect("beats");
    lost(&store, "k", owner).await;
    ledger.clock.0.advance(Duration::from_mins(59));
    store.leave(me).await.expect("answers");
    assert_eq!(store.beat(me).await.expect("beats").len(), 2);
    ledger.clock.0.advance(Duration::from_mins(2));
    store.leave(replica()).await.expect("answers");
    let others = store.beat(me).await.expect("beats");
    let others: Vec<_> = others.iter().map(|other| other.replica).collect();
    assert_eq!(others, [owner], "what it owns is still to be adopted");
}

#[tokio::test]
async fn a_transaction_that_panics_leaves_nothing_behind() {
    let ledger = fresh().await;
    let store = ledger.store();
    let good = begin(&store, sale("k1", 1_000)).await;
    let bad = begin(&store, sale("k2", 1_000)).await;
    let mut wrong = settlement(&bad, declined());
    wrong.effects.entries = settlement(&bad, approved(1_000)).effects.entries;
    wrong.effects.entries.truncate(1);
    let batch = [
        Arc::new(settlement(&good, approved(1_000))),
        Arc::new(wrong),
    ];
    let settling = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.settle(&batch).await.map(drop) }
    });
    assert!(settling.await.is_err_and(|error| error.is_panic()));
    let unwritten = read(&store, good.id).await;
    assert_eq!(unwritten.state, good.state);
    assert_eq!(store.timeline(good.id).await.expect("readable").len(), 1);
    assert!(ledger.store.postings().is_empty());
    end(&store, &good, approved(1_000)).await;
    ledger.end().await;
}

/// Everything in it is ordered and nothing is drawn: a world that replays its calls replays their answers.
#[tokio::test]
async fn the_same_calls_have_the_same_answers() {
    let intents: Vec<_> = (0..20)
        .map(|i| Arc::new(sale(&format!("k{i}"), 1_000)))
        .collect();
    let mut told = Vec::new();
    for _ in 0..2 {
        let ledger = fresh().await;
        let store = ledger.store();
        let recorded = store.record(&intents).await.expect("recorded");
        let owner = intents[0].owner;
        let me = gateway_core::key::ReplicaId::from_uuid(uuid::Uuid::from_u128(2));
        let silent = gateway_core::store::Heartbeat {
            replica: owner,
            beat: 0,
        };
        let adopted = store.adopt_silent(me, &[silent], 7).await.expect("adopted");
        let due = store.due(me, 5).await.expect("readable");
        let all = EventQuery {
            limit: 100,
            ..EventQuery::default()
        };
        let events = store.events(&all).await.expect("readable");
        told.push(format!("{recorded:?} {adopted:?} {due:?} {events:?}"));
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn a_ledger_is_one_whichever_way_leads_to_it() {
    let ledger = fresh().await;
    let there: Ledger = Arc::new(ledger.store.with_faults(Arc::new(super::NoFaults)));
    let sold = charged(&there, "k", 1_000).await;
    assert_eq!(read(&ledger.store(), sold.id).await.state, sold.state);
}
