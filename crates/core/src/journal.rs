//! The journal: gathers what concurrent payments have ready and commits it as one transaction.
//!
//! Nobody lingers. While one batch commits, the next gathers; an idle journal commits a lone intent at once. Settlements
//! go before new intents: they free what others wait for. A batch holds at most one operation per payment (`update …
//! from` would apply only one of two, and no constraint would fire), and one per key.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

use crate::key::{Client, IdempotencyKey, OperationId, PaymentId};
use crate::randomness::Randomness;
use crate::store::{Intent, Recorded, Settled, Settlement, Store, StoreError};
use crate::task;

/// How the journal gathers.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Batches under way at once, each on a connection of its own. Two: one commits while the other gathers.
    pub writers: usize,
    /// Operations in one transaction.
    pub batch_max: usize,
    /// New intents that may wait. Past it [`JournalError::Full`]. Settlements always may: each belongs to an admitted
    /// operation, of which there is a bound already.
    pub queue_max: usize,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            writers: 2,
            batch_max: 256,
            queue_max: 20_000,
        }
    }
}

/// Why a write was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The queue of new intents is at its bound. Nothing was written.
    #[error("the journal's queue is full")]
    Full,
    /// No connection to be had: nothing was written.
    #[error(transparent)]
    Unreachable(Arc<StoreError>),
    /// It may or may not be written: ask again with the same intent or settlement.
    #[error(transparent)]
    Unavailable(Arc<StoreError>),
    /// The ledger refused this one row. Nothing of it was written.
    #[error(transparent)]
    Refused(Arc<StoreError>),
    #[error("the journal has stopped")]
    Stopped,
}

/// What a batch did, for metrics.
pub trait JournalObserver: Send + Sync + fmt::Debug {
    fn committed(&self, records: usize, settlements: usize, took: Duration);
}

/// Hands intents and settlements to the store in batches. Cheap to share.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    options: JournalOptions,
    /// Of the pauses after contention.
    randomness: Arc<dyn Randomness>,
    queues: Mutex<Queues>,
    ready: Notify,
    observer: Option<Arc<dyn JournalObserver>>,
}

#[derive(Debug, Default)]
struct Queues {
    settlements: VecDeque<Job<Settlement, Settled>>,
    intents: VecDeque<Job<Intent, Recorded>>,
    stopped: bool,
}

#[derive(Debug)]
struct Job<W, A> {
    what: Arc<W>,
    answer: oneshot::Sender<Result<A, JournalError>>,
}

impl Journal {
    /// Starts the writers on the current runtime. They end when the journal is dropped and its queues are empty.
    pub fn start(
        store: Arc<dyn Store>,
        options: JournalOptions,
        randomness: Arc<dyn Randomness>,
        observer: Option<Arc<dyn JournalObserver>>,
    ) -> Self {
        assert!(
            options.writers > 0 && options.batch_max > 0,
            "BUG: a journal that cannot write"
        );
        let shared = Arc::new(Shared {
            store,
            options,
            randomness,
            queues: Mutex::default(),
            ready: Notify::new(),
            observer,
        });
        for _ in 0..options.writers {
            task::spawn(write_batches(Arc::clone(&shared)));
        }
        Self { shared }
    }

    /// Commit 1 of one operation, in whatever company. Dropping the future does not take the intent back.
    pub async fn record(&self, intent: Arc<Intent>) -> Result<Recorded, JournalError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queues = self.shared.queues();
            if queues.intents.len() >= self.shared.options.queue_max {
                return Err(JournalError::Full);
            }
            queues.intents.push_back(Job {
                what: intent,
                answer,
            });
        }
        self.shared.ready.notify_one();
        answered.await.unwrap_or(Err(JournalError::Stopped))
    }

    /// Any later transition. Dropping the future does not take the settlement back.
    pub async fn settle(&self, settlement: Arc<Settlement>) -> Result<Settled, JournalError> {
        let (answer, answered) = oneshot::channel();
        self.shared.queues().settlements.push_back(Job {
            what: settlement,
            answer,
        });
        self.shared.ready.notify_one();
        answered.await.unwrap_or(Err(JournalError::Stopped))
    }

    /// Intents and settlements that wait for a writer.
    pub fn queued(&self) -> (usize, usize) {
        let queues = self.shared.queues();
        (queues.intents.len(), queues.settlements.len())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queues().stopped = true;
        self.shared.ready.notify_waiters();
        // A writer between its look at the queue and its wait takes this permit instead.
        self.shared.ready.notify_one();
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Nothing panics while it is held, and a queue is valid after any push or pop.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Batch {
    Settlements(Vec<Job<Settlement, Settled>>),
    Intents(Vec<Job<Intent, Recorded>>),
    Nothing,
    Stopped,
}

async fn write_batches(shared: Arc<Shared>) {
    loop {
        match shared.take_batch() {
            Batch::Settlements(jobs) => settle_batch(&shared, jobs).await,
            Batch::Intents(jobs) => record_batch(&shared, jobs).await,
            Batch::Nothing => shared.ready.notified().await,
            Batch::Stopped => {
                shared.ready.notify_one(); // Wakes the next writer, which stops in its turn.
                return;
            }
        }
    }
}

impl Shared {
    fn take_batch(&self) -> Batch {
        let mut queues = self.queues();
        let batch_max = self.options.batch_max;
        let batch = if !queues.settlements.is_empty() {
            let mut payments = HashSet::new();
            // A verification has no payment, and two settlements of one must not meet in a batch either.
            let mut operations = HashSet::new();
            Batch::Settlements(take(
                &mut queues.settlements,
                batch_max,
                |settlement: &Settlement| {
                    let payment_is_free = settlement
                        .payment
                        .is_none_or(|payment| !payments.contains(&payment));
                    if !payment_is_free || !operations.insert(settlement.operation) {
                        return false;
                    }
                    payments.extend(settlement.payment);
                    true
                },
            ))
        } else if !queues.intents.is_empty() {
            let mut taken = Taken::default();
            Batch::Intents(take(&mut queues.intents, batch_max, |intent| {
                taken.admits(intent)
            }))
        } else if queues.stopped {
            Batch::Stopped
        } else {
            Batch::Nothing
        };
        let more = !queues.settlements.is_empty() || !queues.intents.is_empty();
        drop(queues);
        if more {
            self.ready.notify_one();
        }
        batch
    }
}

/// What a batch of intents holds already.
#[derive(Default)]
struct Taken {
    payments: HashSet<PaymentId>,
    keys: HashSet<(Client, IdempotencyKey)>,
    operations: HashSet<OperationId>,
}

impl Taken {
    fn admits(&mut self, intent: &Intent) -> bool {
        let payment_is_free = intent
            .payment()
            .is_none_or(|payment| !self.payments.contains(&payment));
        let key = (intent.client.clone(), intent.key.clone());
        if !payment_is_free || self.keys.contains(&key) || !self.operations.insert(intent.operation)
        {
            return false;
        }
        self.payments.extend(intent.payment());
        self.keys.insert(key);
        true
    }
}

/// Takes up to `count_max` jobs that `admits` lets in; the others keep their places.
fn take<W, A>(
    queue: &mut VecDeque<Job<W, A>>,
    count_max: usize,
    mut admits: impl FnMut(&W) -> bool,
) -> Vec<Job<W, A>> {
    let mut taken = Vec::with_capacity(count_max.min(queue.len()));
    let mut kept = VecDeque::new();
    while taken.len() < count_max {
        let Some(job) = queue.pop_front() else { break };
        if admits(&job.what) {
            taken.push(job);
        } else {
            kept.push_back(job);
        }
    }
    while let Some(job) = kept.pop_back() {
        queue.push_front(job);
    }
    taken
}

async fn settle_batch(shared: &Shared, jobs: Vec<Job<Settlement, Settled>>) {
    let (what, answers) = split(jobs);
    let started = tokio::time::Instant::now();
    let count = what.len();
    let write = |batch: Vec<_>| -> BoxFuture<'_, _> {
        let store = Arc::clone(&shared.store);
        Box::pin(async move { store.settle(&batch).await })
    };
    let results = commit(&what, &write, &*shared.randomness).await;
    if let Some(observer) = &shared.observer {
        observer.committed(0, count, started.elapsed());
    }
    deliver(answers, results);
}

async fn record_batch(shared: &Shared, jobs: Vec<Job<Intent, Recorded>>) {
    let (what, answers) = split(jobs);
    let started = tokio::time::Instant::now();
    let count = what.len();
    let write = |batch: Vec<_>| -> BoxFuture<'_, _> {
        let store = Arc::clone(&shared.store);
        Box::pin(async move { store.record(&batch).await })
    };
    let results = commit(&what, &write, &*shared.randomness).await;
    if let Some(observer) = &shared.observer {
        observer.committed(count, 0, started.elapsed());
    }
    deliver(answers, results);
}

type Answers<A> = Vec<oneshot::Sender<Result<A, JournalError>>>;
type Write<'a, W, A> = dyn Fn(Vec<Arc<W>>) -> BoxFuture<'a, Result<Vec<A>, StoreError>> + Sync + 'a;

fn split<W, A>(jobs: Vec<Job<W, A>>) -> (Vec<Arc<W>>, Answers<A>) {
    jobs.into_iter().map(|job| (job.what, job.answer)).unzip()
}

fn deliver<A>(answers: Answers<A>, results: Vec<Result<A, JournalError>>) {
    debug_assert_eq!(answers.len(), results.len(), "BUG: an answer for each job");
    for (answer, result) in answers.into_iter().zip(results) {
        // Whoever asked may have gone; the write stands, and the record tells it to whoever asks next.
        let _ = answer.send(result);
    }
}

/// Tries of a contended batch before it is split like a poisoned one.
const CONTENDED_TRIES_MAX: u32 = 5;

/// Writes a batch. What the ledger refuses is halved until the poisonous row stands alone and fails alone.
async fn commit<W, A>(
    what: &[Arc<W>],
    write: &Write<'_, W, A>,
    randomness: &dyn Randomness,
) -> Vec<Result<A, JournalError>>
where
    W: Send + Sync,
    A: Send,
{
    // An explicit stack instead of recursion: async functions do not recurse without boxing.
    let mut parts: Vec<&[Arc<W>]> = vec![what];
    let mut results = Vec::with_capacity(what.len());
    while let Some(part) = parts.pop() {
        let mut tries = 0;
        let error = loop {
            // A bug that one row wakes must not take the writer with it, nor the answers of the others.
            let written = AssertUnwindSafe(write(part.to_vec())).catch_unwind().await;
            let panicked = |_| Err(StoreError::Refused("BUG: writing it panicked".into()));
            match written.unwrap_or_else(panicked) {
                Ok(answers) => {
                    assert_eq!(
                        answers.len(),
                        part.len(),
                        "BUG: the store answers each of a batch"
                    );
                    results.extend(answers.into_iter().map(Ok));
                    break None;
                }
                Err(StoreError::Contended(_)) if tries < CONTENDED_TRIES_MAX => {
                    tries += 1;
                    let pause = randomness.pause(1..=10 * tries);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => break Some(error),
            }
        };
        match error {
            None => {}
            // Not about a row: all of it, and asking row by row would only multiply the time-outs.
            Some(error @ (StoreError::Unavailable(_) | StoreError::Unreachable(_))) => {
                let said: fn(Arc<StoreError>) -> JournalError = match error {
                    StoreError::Unreachable(_) => JournalError::Unreachable,
                    _ => JournalError::Unavailable,
                };
                let error = Arc::new(error);
                results.extend(part.iter().map(|_| Err(said(Arc::clone(&error)))));
            }
            // Somebody keeps a lock on it, which says nothing against the row: an answer that is held here must not be
            // dropped for it.
            Some(error @ StoreError::Contended(_)) if part.len() == 1 => {
                results.push(Err(JournalError::Unavailable(Arc::new(error))));
            }
            Some(error) if part.len() == 1 => {
                results.push(Err(JournalError::Refused(Arc::new(error))));
            }
            Some(error) => {
                tracing::warn!(
                    batch = part.len(),
                    error = &error as &dyn std::error::Error,
                    "splitting a batch that the ledger refused"
                );
                let (first, second) = part.split_at(part.len() / 2);
                // Popped in order: the results must stay in the order of the batch.
                parts.push(second);
                parts.push(first);
            }
        }
    }
    results
}

#[cfg(test)]
mod tests;
