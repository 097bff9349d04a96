//! What a fault plan does to a call, and what it leaves written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use gateway_core::store::contract::{Ledger, begin, client, key, read, sale};
use gateway_core::store::{Recorded, Store, StoreError};
use tokio::sync::oneshot;

use super::super::{Call, Ending, Fate, FaultPlan};
use super::{Fresh, fresh};

/// One fate after the other, then none; and which calls asked for them.
#[derive(Debug, Default)]
struct Script {
    fates: Mutex<VecDeque<Fate>>,
    asked: Mutex<Vec<Call>>,
}

impl FaultPlan for Script {
    fn fate(&self, call: Call) -> Fate {
        self.asked.lock().expect("no panic").push(call);
        let mut fates = self.fates.lock().expect("no panic");
        fates.pop_front().unwrap_or_default()
    }
}

/// A way to the ledger on which this happens, in turn.
fn with(ledger: &Fresh, fates: impl IntoIterator<Item = Fate>) -> (Ledger, Arc<Script>) {
    let script = Arc::new(Script {
        fates: Mutex::new(fates.into_iter().collect()),
        ..Script::default()
    });
    let plan = Arc::clone(&script) as Arc<dyn FaultPlan>;
    (Arc::new(ledger.store.with_faults(plan)), script)
}

async fn is_there(ledger: &Fresh, name: &str) -> bool {
    let found = ledger.store.operation_by_key(&client(), &key(name)).await;
    found.expect("readable").is_some()
}

#[tokio::test]
async fn a_fault_says_what_it_left_written() {
    let ledger = fresh().await;
    for ending in Ending::ALL {
        let (store, _) = with(&ledger, [ending.into()]);
        let name = format!("{ending:?}");
        let intent = Arc::new(sale(&name, 1_000));
        let answer = store.record(&[Arc::clone(&intent)]).await;
        let (as_told, written) = match ending {
            Ending::Answered => (
                matches!(answer, Ok(ref recorded) if recorded.len() == 1),
                true,
            ),
            Ending::Unreachable => (matches!(answer, Err(StoreError::Unreachable(_))), false),
            Ending::Contended => (matches!(answer, Err(StoreError::Contended(_))), false),
            Ending::LostUnwritten | Ending::LostHalfWritten => {
                (matches!(answer, Err(StoreError::Unavailable(_))), false)
            }
            Ending::LostWritten => (matches!(answer, Err(StoreError::Unavailable(_))), true),
        };
        assert!(as_told, "{answer:?}");
        assert_eq!(is_there(&ledger, &name).await, written, "{ending:?}");
        // Asked again, it is ours all the same.
        let again = store.record(&[intent]).await.expect("recorded");
        assert!(matches!(&again[..], [Recorded::New(_)]), "{again:?}");
    }
}

#[tokio::test]
async fn a_batch_may_be_lost_between_its_two_transactions() {
    let ledger = fresh().await;
    let (store, _) = with(&ledger, [Ending::LostHalfWritten.into()]);
    let batch: Vec<_> = (0..5)
        .map(|i| Arc::new(sale(&format!("k{i}"), 1_000)))
        .collect();
    let lost = store.record(&batch).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    for (i, written) in [true, true, false, false, false].into_iter().enumerate() {
        assert_eq!(is_there(&ledger, &format!("k{i}")).await, written, "k{i}");
    }
    let again = store.record(&batch).await.expect("recorded");
    assert!(
        again
            .iter()
            .all(|answer| matches!(answer, Recorded::New(_)))
    );
}

/// A fate that waits, and the end of its wait.
fn waiting() -> (super::super::Wait, oneshot::Sender<()>) {
    let (over, wait) = oneshot::channel();
    (wait.map(drop).boxed(), over)
}

#[tokio::test]
async fn a_call_waits_on_its_way_there_and_back() {
    let ledger = fresh().await;
    let ((before, there), (after, back)) = (waiting(), waiting());
    let fate = Fate {
        before: Some(before),
        after: Some(after),
        ..Fate::default()
    };
    let (store, _) = with(&ledger, [fate]);
    let mut call = tokio::spawn(async move { begin(&store, sale("k", 1_000)).await });
    tokio::task::yield_now().await;
    assert!(!is_there(&ledger, "k").await, "not yet there");
    there.send(()).expect("it waits");
    tokio::task::yield_now().await;
    assert!(is_there(&ledger, "k").await, "written");
    assert!((&mut call).now_or_never().is_none(), "not yet back");
    back.send(()).expect("it waits");
    let recorded = call.await.expect("no panic");
    assert_eq!(read(&ledger.store(), recorded.id).await.id, recorded.id);
}

#[tokio::test]
async fn who_dies_on_the_way_there_wrote_nothing_and_on_the_way_back_everything() {
    let ledger = fresh().await;
    let ((before, _there), (after, _back)) = (waiting(), waiting());
    let there = Fate {
        before: Some(before),
        ..Fate::default()
    };
    let back = Fate {
        after: Some(after),
        ..Fate::default()
    };
    for (name, fate, written) in [("there", there, false), ("back", back, true)] {
        let (store, _) = with(&ledger, [fate]);
        let intents = [Arc::new(sale(name, 1_000))];
        let dead = store.record(&intents).now_or_never();
        assert!(dead.is_none(), "it waits, and is dropped there");
        assert_eq!(is_there(&ledger, name).await, written, "{name}");
    }
}

#[tokio::test]
async fn each_call_is_asked_for_once_in_its_turn() {
    let ledger = fresh().await;
    let (store, script) = with(&ledger, []);
    let recorded = begin(&store, sale("k", 1_000)).await;
    store.ping().await.expect("answers");
    store.beat(recorded.owner).await.expect("beats");
    store.due(recorded.owner, 10).await.expect("readable");
    store.operation(recorded.id).await.expect("readable");
    let asked = script.asked.lock().expect("no panic").clone();
    let expected = [
        Call::Record,
        Call::Ping,
        Call::Beat,
        Call::Due,
        Call::Operation,
    ];
    assert_eq!(asked, expected);
}
