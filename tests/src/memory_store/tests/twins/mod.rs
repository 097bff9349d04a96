//! The same calls to this ledger and to a database: the same answers, whatever the history.

mod history;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::clock::{Clock, SystemClock, Timestamp};
use gateway_core::key::{OperationId, PaymentId, ReplicaId};
use gateway_core::operation::{StateName, Verb};
use gateway_core::payment::Payment;
use gateway_core::store::contract::{Ledger, feed};
use gateway_core::store::{
    Event, EventCursor, EventQuery, Intent, Operation, PaymentQuery, PostgresOptions,
    PostgresStore, ReversalIntent, Settlement, SqliteStore, Store, StoreError,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::super::MemoryStore;
use crate::stack::{Databases, TempDir};

const SEEDS: std::ops::Range<u64> = 0..3;
const STEPS: u32 = 250;
/// What instants are rounded to before they are compared, and every span is a multiple of it: the two ledgers are asked
/// one after the other.
const GRAIN: Duration = Duration::from_hours(1);
/// So many ends of verbs are met, or it was no history worth comparing.
const ENDS: usize = 25;
const ALL: u32 = 10_000;

#[tokio::test]
async fn it_answers_as_sqlite_does() {
    play_all(async |seed| {
        let folder = TempDir::new("twins").expect("a folder");
        let sqlite = SqliteStore::open(&folder.path().join("ledger.sqlite")).await;
        let sqlite = sqlite.expect("opens");
        sqlite.migrate().await.expect("migrations apply");
        Twins::new(seed, Arc::new(sqlite)).play().await
    })
    .await;
}

#[tokio::test]
async fn it_answers_as_postgres_does() {
    let open = |url: &str| PostgresStore::new(&PostgresOptions::new(url.to_owned().into()));
    let databases = Databases::from_environment(async |url| open(url)?.migrate().await);
    let databases = databases.await.expect("a template");
    play_all(async |seed| {
        let database = databases.create().await.expect("a database");
        let postgres = open(database.url()).expect("a URL");
        Twins::new(seed, Arc::new(postgres)).play().await
    })
    .await;
}

type Ends = BTreeSet<(Verb, StateName)>;

/// At once: it is the disk that takes the time.
async fn play_all(play: impl AsyncFn(u64) -> Ends) {
    let ends: Ends = join_all(SEEDS.map(async |seed| play(seed).await))
        .await
        .into_iter()
        .flatten()
        .collect();
    assert!(ends.len() >= ENDS, "{ends:?}");
}

/// Two ledgers that are asked the same, and what is known of what they hold.
struct Twins {
    memory: Ledger,
    database: Ledger,
    seed: u64,
    dice: StdRng,
    began: Timestamp,
    replicas: Vec<ReplicaId>,
    names: Vec<String>,
    operations: Vec<OperationId>,
    payments: Vec<PaymentId>,
    /// What was asked before, to be asked again.
    records: Vec<Vec<Arc<Intent>>>,
    settlements: Vec<Vec<Arc<Settlement>>>,
    reversals: Vec<ReversalIntent>,
}

impl Twins {
    fn new(seed: u64, database: Ledger) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let replicas = (0..3).map(|_| ReplicaId::from_uuid(drawn(&mut dice)));
        Self {
            memory: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            database,
            seed,
            began: SystemClock.now(),
            replicas: replicas.collect(),
            dice,
            names: Vec::new(),
            operations: Vec::new(),
            payments: Vec::new(),
            records: Vec::new(),
            settlements: Vec::new(),
            reversals: Vec::new(),
        }
    }

    /// Returns which operations ended how.
    async fn play(mut self) -> Ends {
        for replica in self.replicas.clone() {
            self.beat(replica).await;
        }
        for step in 0..STEPS {
            self.step(step).await;
        }
        self.compare_all().await
    }

    /// Asks both, and shows what they said if it differs.
    async fn both<T: Debug>(
        &self,
        what: &str,
        ask: impl AsyncFn(&Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mine, theirs) = (ask(&self.memory).await, ask(&self.database).await);
        let (shown, expected) = (self.shown(&mine), self.shown(&theirs));
        let fields = shown.split(", ").zip(expected.split(", "));
        let differs = fields
            .enumerate()
            .find(|(_, (mine, theirs))| mine != theirs);
        let seed = self.seed;
        assert!(
            shown == expected,
            "{what}, seed {seed}: {differs:?} of {shown}, expected {theirs:?}"
        );
        mine
    }

    /// An answer without what two ledgers cannot have in common: the instants themselves, and the words of an error.
    fn shown<T: Debug>(&self, answer: &Result<T, StoreError>) -> String {
        match answer {
            Ok(answer) => rounded(&format!("{answer:?}"), self.began),
            Err(StoreError::Refused(_)) => "refused".to_owned(),
            Err(other) => format!("{other:?}"),
        }
    }

    async fn operation(&self, id: OperationId) -> Operation {
        let read = async |store: &Ledger| store.operation(id).await;
        let found = self.both("operation", read).await;
        found.expect("readable").expect("it was recorded")
    }

    async fn payment(&self, id: PaymentId) -> Payment {
        let read = async |store: &Ledger| store.payment(id).await;
        let found = self.both("payment", read).await;
        found.expect("readable").expect("it was opened")
    }

    async fn compare_all(&self) -> Ends {
        let payments = async |store: &Ledger| {
            let all = PaymentQuery {
                limit: ALL,
                ..PaymentQuery::default()
            };
            store.payments(&all).await
        };
        let payments = self.both("payments", payments).await.expect("readable");
        for payment in &payments {
            let id = payment.id;
            let operations = async |store: &Ledger| store.operations_of(id).await;
            drop(self.both("operations_of", operations).await);
        }
        let mut ends = BTreeSet::new();
        for id in &self.operations {
            let timeline = async |store: &Ledger| Ok(uncounted(store.timeline(*id).await?));
            drop(self.both("timeline", timeline).await);
            let operation = self.operation(*id).await;
            ends.insert((operation.verb, operation.state.name()));
        }
        let all_ended = async |store: &Ledger| Ok(sorted(store.ended(&self.operations).await?));
        drop(self.both("ended", all_ended).await);
        let risk = async |store: &Ledger| store.at_risk().await;
        drop(self.both("at_risk", risk).await);
        let query = EventQuery {
            limit: ALL,
            ..EventQuery::default()
        };
        let count = self.memory.events(&query).await.expect("readable").len();
        // In the order of each operation: a database may commit a batch in two transactions, or its rows in another order.
        let told = async |store: &Ledger| {
            let mut events = uncounted(feed(store, 100, None, count).await);
            events.sort_by_key(|event| event.operation);
            Ok(events)
        };
        drop(self.both("events", told).await);
        ends
    }
}

/// Who is first of those that are due at the same instant is nobody's promise.
fn sorted(mut operations: Vec<Operation>) -> Vec<Operation> {
    operations.sort_unstable_by_key(|operation| operation.id);
    operations.dedup_by_key(|operation| operation.id);
    operations
}

/// Every ledger counts its transactions in its own way.
fn uncounted(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        event.cursor = EventCursor {
            transaction: 0,
            id: 0,
        };
    }
    events
}

fn drawn(dice: &mut StdRng) -> Uuid {
    let mut bytes = [0; 16];
    dice.fill_bytes(&mut bytes);
    Uuid::from_bytes(bytes)
}

/// Every instant in `text` as grains since `began`.
fn rounded(text: &str, began: Timestamp) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(end) = rest.find('Z') {
        // As `2026-11-20T14:09:00.123Z`, or with microseconds.
        let instant = [24, 27].into_iter().find_map(|length| {
            let start = (end + 1).checked_sub(length)?;
            let instant = Timestamp::parse(rest.get(start..=end)?).ok()?;
            Some((start, instant))
        });
        match instant {
            Some((start, instant)) => {
                let grain = GRAIN.as_micros().try_into().unwrap_or(i64::MAX);
                let since = instant.micros() - began.micros() + grain / 2;
                let grains = since.div_euclid(grain).to_string();
                shown.extend([&rest[..start], "[", &grains, "]"]);
            }
            None => shown += &rest[..=end],
        }
        rest = &rest[end + 1..];
    }
    shown + rest
}
