//! Who waits for the end of which operation: in this process by a signal, across replicas by asking the ledger.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::key::OperationId;
use crate::store::{Operation, Store};

/// What a waiter sees: nothing yet, or the operation as it ended.
pub(super) type Ended = watch::Receiver<Option<Arc<Operation>>>;

/// Operations that somebody in this process waits for.
#[derive(Debug, Default)]
pub struct Waiters {
    entries: Mutex<HashMap<OperationId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    ended: watch::Sender<Option<Arc<Operation>>>,
    /// Tasks of this process that will publish the end. While there is one, the ledger need not be asked.
    tasks: u32,
    /// The newest claim of the key that anybody here has seen. What an earlier one came to is no answer to it.
    attempt: u32,
}

/// Kept by the task that works on an operation. When it ends without an outcome, the ledger is asked instead.
#[derive(Debug)]
pub struct AtWork {
    waiters: Arc<Waiters>,
    operation: OperationId,
}

impl Waiters {
    /// Waits for the end of `operation`, in this attempt or a later one. The receiver may be dropped at any time.
    pub(super) fn subscribe(&self, operation: &Operation) -> Ended {
        let mut entries = self.entries();
        Entry::of(&mut entries, operation).ended.subscribe()
    }

    /// This process works on it.
    pub fn at_work(self: &Arc<Self>, operation: &Operation) -> AtWork {
        Entry::of(&mut self.entries(), operation).tasks += 1;
        AtWork {
            waiters: Arc::clone(self),
            operation: operation.id,
        }
    }

    /// Tells everybody here who waits for it.
    pub fn publish(&self, operation: &Arc<Operation>) {
        if let Some(entry) = self.entries().get(&operation.id)
            && operation.attempt >= entry.attempt
        {
            entry.ended.send_replace(Some(Arc::clone(operation)));
        }
    }

    /// Operations that are waited for and that no task here works on; forgets those nobody waits for.
    fn to_ask(&self) -> Vec<OperationId> {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.tasks > 0 || entry.ended.receiver_count() > 0);
        let open = |entry: &Entry| entry.tasks == 0 && entry.ended.borrow().is_none();
        let mut ids: Vec<OperationId> = entries
            .iter()
            .filter(|(_, entry)| open(entry))
            .map(|(id, _)| *id)
            .collect();
        // Who is told first must not hang on how a map hashes: the same history has to come of the same seed.
        ids.sort_unstable();
        ids
    }

    pub fn waited_for(&self) -> usize {
        self.entries().len()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OperationId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn of<'a>(entries: &'a mut HashMap<OperationId, Self>, operation: &Operation) -> &'a mut Self {
        let entry = entries.entry(operation.id).or_insert_with(|| Self {
            ended: watch::channel(None).0,
            tasks: 0,
            attempt: operation.attempt,
        });
        if operation.attempt > entry.attempt {
            entry.attempt = operation.attempt;
            entry.ended.send_replace(None);
        }
        entry
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut entries = self.waiters.entries();
        if let Some(entry) = entries.get_mut(&self.operation) {
            entry.tasks -= 1;
            if entry.tasks == 0 && entry.ended.receiver_count() == 0 {
                entries.remove(&self.operation);
            }
        }
    }
}

/// Operations asked for in one statement.
const ASK_MAX: usize = 1_000;

/// Asks the ledger about operations that other replicas, or the resolver, will end. Ends when the waiters are gone.
pub(super) async fn ask_for_others(waiters: Weak<Waiters>, store: Arc<dyn Store>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(waiters) = waiters.upgrade() else {
            return;
        };
        for ids in waiters.to_ask().chunks(ASK_MAX) {
            match store.ended(ids).await {
                Ok(ended) => ended
                    .into_iter()
                    .for_each(|operation| waiters.publish(&Arc::new(operation))),
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot ask about awaited operations"
                    );
                    break;
                }
            }
        }
    }
}
