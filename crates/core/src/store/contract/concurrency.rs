//! Races: the ledger decides, whoever asks at once.

use std::sync::Arc;

use super::fixture::{
    Ledger, approved, authorized, begin, charged, follow_up, guarded_sale, never_beat, payment_of,
    replica, sale, settle_one, settlement, wish,
};
use crate::operation::{State, StateName, Verb};
use crate::store::{CancelRecorded, Intent, Recorded, Settled, StoreError};

/// Runs all of them at once, each on a task of its own.
async fn at_once<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(task.await.expect("no panic"));
    }
    answers
}

/// As the journal does: what was contended is asked again.
async fn record(store: &Ledger, batch: &[Arc<Intent>]) -> Vec<Recorded> {
    loop {
        match store.record(batch).await {
            Err(StoreError::Contended(_)) => {}
            answers => return answers.expect("recorded"),
        }
    }
}

async fn record_alone(store: &Ledger, intent: Intent) -> Recorded {
    record(store, &[Arc::new(intent)])
        .await
        .pop()
        .expect("one answer")
}

pub async fn one_of_many_racing_claims_wins(store: Ledger) {
    for round in 0..25 {
        let name = format!("k{round}");
        let answers = at_once((0..16).map(|_| {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { record_alone(&store, sale(&name, 1_000)).await }
        }))
        .await;
        let won: Vec<_> = answers
            .iter()
            .filter_map(|answer| match answer {
                Recorded::New(operation) => Some(operation.id),
                _ => None,
            })
            .collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        for answer in &answers {
            let (Recorded::New(holder) | Recorded::Known(holder)) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!(holder.id, won[0]);
        }
    }
}

pub async fn batches_in_opposite_order_do_not_deadlock(store: Ledger) {
    let mut payments = Vec::new();
    for i in 0..8 {
        let sold = charged(&store, &format!("sold{i}"), 1_000).await;
        payments.push(payment_of(&store, &sold).await);
    }
    // Plain creates, creates that look at their order, and follow-ups, all of the same keys and payments.
    let batch = |round: usize| -> Vec<Arc<Intent>> {
        let plain = (0..8).map(|i| sale(&format!("r{round}-{i}"), 100));
        let guarded = (0..8).map(|i| guarded_sale(&format!("g{round}-{i}"), &format!("o{i}")));
        let refunds = payments
            .iter()
            .enumerate()
            .map(|(i, payment)| follow_up(&format!("f{round}-{i}"), Verb::Refund, 10, payment));
        plain.chain(guarded).chain(refunds).map(Arc::new).collect()
    };
    for round in 0..5 {
        let forward = batch(round);
        let mut backward = batch(round);
        backward.reverse();
        let answers = at_once([forward, backward].map(|batch| {
            let store = Arc::clone(&store);
            async move {
                let answers = store.record(&batch).await;
                answers.map(|answers| (batch, answers))
            }
        }))
        .await;
        for answer in answers {
            let (batch, answers) = answer.expect("neither waited for the other in a circle");
            assert_eq!(batch.len(), answers.len());
        }
    }
}

pub async fn parallel_refunds_never_exceed_the_capture(store: Ledger) {
    let sold = charged(&store, "k", 10_000).await;
    let begun = std::time::Instant::now();
    let answers = at_once((0..50).map(|i| {
        let (store, sold) = (Arc::clone(&store), sold.clone());
        async move {
            loop {
                assert!(
                    begun.elapsed().as_secs() < 120,
                    "a payment stays busy for ever"
                );
                let payment = payment_of(&store, &sold).await;
                let refund = follow_up(&format!("r{i}"), Verb::Refund, 300, &payment);
                match record_alone(&store, refund).await {
                    Recorded::New(operation) => {
                        let settlement = Arc::new(settlement(&operation, approved(300)));
                        loop {
                            match store.settle(&[Arc::clone(&settlement)]).await {
                                Err(StoreError::Contended(_)) => {}
                                settled => {
                                    let settled = settled.expect("settled");
                                    assert!(matches!(&settled[..], [Settled::Applied(_)]));
                                    return true;
                                }
                            }
                        }
                    }
                    Recorded::OverLimit { available } => {
                        assert_eq!(available, 100);
                        return false;
                    }
                    Recorded::Busy { .. } | Recorded::Stale => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
            }
        }
    }))
    .await;
    assert_eq!(answers.iter().filter(|refunded| **refunded).count(), 33);
    let payment = payment_of(&store, &sold).await;
    assert_eq!(
        (payment.refunded, payment.refund_reserved, payment.busy_with),
        (9_900, 0, None)
    );
}

pub async fn parallel_captures_have_one_winner(store: Ledger) {
    let held = authorized(&store, "k", 1_000).await;
    let payment = payment_of(&store, &held).await;
    let answers = at_once((0..50).map(|i| {
        let (store, payment) = (Arc::clone(&store), payment.clone());
        async move {
            let capture = follow_up(&format!("c{i}"), Verb::Capture, 1_000, &payment);
            record_alone(&store, capture).await
        }
    }))
    .await;
    let won = answers
        .iter()
        .filter(|answer| matches!(answer, Recorded::New(_)))
        .count();
    let busy = answers
        .iter()
        .filter(|answer| matches!(answer, Recorded::Busy { .. }))
        .count();
    assert_eq!((won, busy), (1, 49), "{answers:?}");
    let payment = payment_of(&store, &held).await;
    assert_eq!(payment.capture_reserved, 1_000);
}

pub async fn racing_guarded_creates_have_one_winner(store: Ledger) {
    for round in 0..5 {
        let order = format!("o{round}");
        let answers =
            at_once(
                (0..12).map(|i| {
                    let (store, order) = (Arc::clone(&store), order.clone());
                    async move {
                        record_alone(&store, guarded_sale(&format!("{order}-{i}"), &order)).await
                    }
                }),
            )
            .await;
        let won = answers
            .iter()
            .filter(|answer| matches!(answer, Recorded::New(_)))
            .count();
        let refused = answers
            .iter()
            .filter(|answer| matches!(answer, Recorded::PossibleDuplicate { .. }))
            .count();
        assert_eq!((won, refused), (1, 11), "{answers:?}");
    }
}

pub async fn a_cancellation_that_races_a_create_leaves_one_answer(store: Ledger) {
    for round in 0..20 {
        let name = format!("k{round}");
        let (recorded, cancelled) = {
            let (recorder, canceller) = (Arc::clone(&store), Arc::clone(&store));
            let (intent, wish) = (sale(&name, 1_000), wish(&name));
            tokio::join!(
                tokio::spawn(async move { record_alone(&recorder, intent).await }),
                tokio::spawn(async move { canceller.cancel(&wish).await }),
            )
        };
        let cancelled = cancelled.expect("no panic").expect("recorded");
        let CancelRecorded::Wished(cancelled) = cancelled else {
            panic!("{cancelled:?}")
        };
        match recorded.expect("no panic") {
            // It came first, and was taken away before it could settle.
            Recorded::New(operation) => {
                assert_eq!(cancelled.id, operation.id);
                assert_eq!(cancelled.state.name(), StateName::Unknown);
                let settled = settle_one(&store, settlement(&operation, approved(1_000))).await;
                assert!(matches!(settled, Settled::Stale(_)), "{settled:?}");
            }
            // It came second, and met the tombstone.
            Recorded::Known(stone) => {
                assert_eq!(cancelled.id, stone.id);
                assert_eq!(stone.state, State::Cancelled);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub async fn racing_adopters_share_the_work(store: Ledger) {
    let silent = replica();
    for i in 0..20 {
        begin(
            &store,
            Intent {
                owner: silent,
                ..sale(&format!("k{i}"), 1_000)
            },
        )
        .await;
    }
    let adopted = at_once((0..4).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let me = replica();
            let mut mine = Vec::new();
            loop {
                let adopted = store
                    .adopt_silent(me, &[never_beat(silent)], 5)
                    .await
                    .expect("adopted");
                if adopted.is_empty() {
                    return mine;
                }
                mine.extend(adopted);
            }
        }
    }))
    .await;
    let mut ids: Vec<_> = adopted
        .iter()
        .flatten()
        .map(|operation| operation.id)
        .collect();
    assert!(
        adopted
            .iter()
            .flatten()
            .all(|operation| operation.epoch == 2)
    );
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), adopted.iter().flatten().count()), (20, 20));
}
