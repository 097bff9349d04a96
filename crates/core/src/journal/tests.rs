//! The journal on a real ledger: what is gathered while another batch commits, and what becomes of it when a row is refused.

use std::path::PathBuf;

use futures_util::future::join_all;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::*;
use crate::operation::StateName;
use crate::randomness::SystemRandomness;
use crate::store::contract::{Ledger, approved, begin, read, sale, settlement};
use crate::store::{Operation, SqliteStore};

/// A journal with one writer on an empty ledger, and another connection to the same file.
struct Scene {
    store: Ledger,
    journal: Journal,
    batches: Arc<Batches>,
    other: SqliteConnection,
    folder: PathBuf,
}

/// How many intents and settlements each batch had.
#[derive(Debug, Default)]
struct Batches(Mutex<Vec<(usize, usize)>>);

impl JournalObserver for Batches {
    fn committed(&self, records: usize, settlements: usize, _: Duration) {
        let mut batches = self.0.lock().expect("no panic");
        batches.push((records, settlements));
    }
}

async fn scene(queue_max: usize) -> Scene {
    let folder = std::env::temp_dir().join(format!("quittance-{}", Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).expect("may write to the temporary folder");
    let path = folder.join("ledger.sqlite");
    let store = SqliteStore::open(&path).await.expect("opens");
    store.migrate().await.expect("migrations apply");
    let store: Ledger = Arc::new(store);
    let batches = Arc::new(Batches::default());
    let options = JournalOptions {
        writers: 1,
        queue_max,
        ..JournalOptions::default()
    };
    let file = SqliteConnectOptions::new().filename(&path);
    let other = SqliteConnection::connect_with(&file);
    Scene {
        journal: Journal::start(
            Arc::clone(&store),
            options,
            Arc::new(SystemRandomness),
            Some(Arc::clone(&batches) as _),
        ),
        store,
        batches,
        other: other.await.expect("connects"),
        folder,
    }
}

impl Scene {
    /// Sales of 10.00, recorded.
    async fn recorded(&self, count: usize) -> Vec<Operation> {
        let mut operations = Vec::new();
        for number in 0..count {
            operations.push(begin(&self.store, sale(&format!("k-{number}"), 10_00)).await);
        }
        operations
    }

    /// Somebody else writes, so that the writer's next batch waits with whatever it has begun with.
    async fn hold(&mut self) {
        let begun = self.other.execute("begin immediate").await;
        begun.expect("nobody writes");
    }

    fn batches(&self) -> Vec<(usize, usize)> {
        self.batches.0.lock().expect("no panic").clone()
    }

    async fn end(self) {
        drop(self.journal);
        self.other.close().await.expect("closes");
        drop(self.store);
        std::fs::remove_dir_all(&self.folder).expect("removed");
    }
}

/// Runs other tasks of this thread until it is so: nothing but they can bring it about.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::task::yield_now().await;
    }
}

fn approval(operation: &Operation) -> Arc<Settlement> {
    Arc::new(settlement(operation, approved(10_00)))
}

/// It captures more than it authorizes, which the ledger refuses.
fn poison(operation: &Operation) -> Arc<Settlement> {
    let mut settlement = settlement(operation, approved(10_00));
    settlement.effects.captured += 1;
    Arc::new(settlement)
}

#[tokio::test]
async fn a_poisonous_settlement_fails_alone_and_each_answer_is_its_own() {
    const COUNT: usize = 8;
    for poisoned in [&[0][..], &[4], &[7], &[2, 3], &[0, 5, 7]] {
        let mut scene = scene(100).await;
        let operations = scene.recorded(COUNT + 1).await;
        let (plug, operations) = operations.split_last().expect("some");
        scene.hold().await;
        let plugged = scene.journal.settle(approval(plug));
        let settlements = operations.iter().enumerate().map(|(number, operation)| {
            if poisoned.contains(&number) {
                poison(operation)
            } else {
                approval(operation)
            }
        });
        let settlements: Vec<_> = settlements.collect();
        let journal = &scene.journal;
        let other = &mut scene.other;
        let gathered = async {
            until(|| journal.queued() == (0, 0)).await; // The writer has the plug.
            let settled = settlements
                .iter()
                .map(|one| journal.settle(Arc::clone(one)));
            let settled = join_all(settled);
            let released = async {
                until(|| journal.queued() == (0, COUNT)).await;
                other.execute("rollback").await.expect("released");
            };
            tokio::join!(settled, released).0
        };
        let (plugged, answers) = tokio::join!(biased; plugged, gathered);
        assert!(matches!(plugged, Ok(Settled::Applied(_))), "{plugged:?}");
        assert_eq!(scene.batches(), [(0, 1), (0, COUNT)], "one batch");
        for (number, (answer, operation)) in answers.into_iter().zip(operations).enumerate() {
            let now = read(&scene.store, operation.id).await.state.name();
            match answer {
                Err(JournalError::Refused(_)) if poisoned.contains(&number) => {
                    assert_eq!(now, StateName::Recorded, "{number} of {poisoned:?}");
                }
                Ok(Settled::Applied(settled)) if !poisoned.contains(&number) => {
                    assert_eq!(settled.id, operation.id, "{number} of {poisoned:?}");
                    assert_eq!(now, StateName::Approved);
                }
                other => panic!("{number} of {poisoned:?}: {other:?}"),
            }
        }
        scene.end().await;
    }
}

#[tokio::test]
async fn at_its_bound_the_queue_takes_settlements_and_no_intents() {
    let mut scene = scene(2).await;
    let operations = scene.recorded(1).await;
    scene.hold().await;
    let journal = &scene.journal;
    let record = |name: &str| journal.record(Arc::new(sale(name, 10_00)));
    let plug = record("plug");
    let other = &mut scene.other;
    let rest = async {
        until(|| journal.queued() == (0, 0)).await;
        let (one, two) = (record("one"), record("two"));
        let settle = journal.settle(approval(&operations[0]));
        let full = async {
            until(|| journal.queued() == (2, 1)).await;
            let full = record("three").await;
            assert!(matches!(full, Err(JournalError::Full)), "{full:?}");
            assert_eq!(journal.queued(), (2, 1));
            other.execute("rollback").await.expect("released");
        };
        tokio::join!(one, two, settle, full)
    };
    let (plug, (one, two, settled, ())) = tokio::join!(biased; plug, rest);
    for recorded in [plug, one, two] {
        assert!(matches!(recorded, Ok(Recorded::New(_))), "{recorded:?}");
    }
    assert!(matches!(settled, Ok(Settled::Applied(_))), "{settled:?}");
    assert_eq!(
        scene.batches(),
        [(1, 0), (0, 1), (2, 0)],
        "settlements go first"
    );
    let client = crate::store::contract::client();
    let refused = crate::store::contract::key("three");
    let refused = scene.store.operation_by_key(&client, &refused).await;
    assert!(refused.expect("readable").is_none());
    scene.end().await;
}
