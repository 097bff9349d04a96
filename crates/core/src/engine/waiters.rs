//! Who waits for the end of which operation: in this process by a signal, across replicas by asking the ledger.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::key::OperationId;
use crate::store::{Operation, Store};

/// A waiter's share in the end of an operation.
#[derive(Debug)]
pub(super) struct Ended(Arc<End>);

/// The end of an operation, once somebody tells it. Waiters are woken in the order in which they came; tokio's `watch`
/// wakes them in one that it draws, and no seed would play a history again.
#[derive(Debug)]
struct End<T = Operation> {
    told: Mutex<Option<Arc<T>>>,
    changed: Notify,
}

/// Operations that somebody in this process waits for.
#[derive(Debug, Default)]
pub struct Waiters {
    entries: Mutex<HashMap<OperationId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    end: Arc<End>,
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
    /// Waits for the end of `operation`, in this attempt or a later one. The share may be dropped at any time.
    pub(super) fn subscribe(&self, operation: &Operation) -> Ended {
        let mut entries = self.entries();
        Ended(Arc::clone(&Entry::of(&mut entries, operation).end))
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
            entry.end.tell(Some(Arc::clone(operation)));
        }
    }

    /// Operations that are waited for and that no task here works on; forgets those nobody waits for.
    fn to_ask(&self) -> Vec<OperationId> {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.tasks > 0 || entry.is_waited_for());
        let open = |entry: &Entry| entry.tasks == 0 && entry.end.told().is_none();
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

impl Ended {
    /// The operation as it ended.
    pub(super) async fn wait(self) -> Arc<Operation> {
        self.0.wait().await
    }
}

impl<T> End<T> {
    fn new() -> Self {
        Self {
            told: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    async fn wait(&self) -> Arc<T> {
        loop {
            // Made before the look: what is told in between wakes it.
            let changed = self.changed.notified();
            if let Some(end) = self.told() {
                return end;
            }
            changed.await;
        }
    }

    fn told(&self) -> Option<Arc<T>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }

    fn tell(&self, end: Option<Arc<T>>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.changed.notify_waiters();
    }
}

impl Entry {
    fn of<'a>(entries: &'a mut HashMap<OperationId, Self>, operation: &Operation) -> &'a mut Self {
        let entry = entries.entry(operation.id).or_insert_with(|| Self {
            end: Arc::new(End::new()),
            tasks: 0,
            attempt: operation.attempt,
        });
        if operation.attempt > entry.attempt {
            entry.attempt = operation.attempt;
            entry.end.tell(None);
        }
        entry
    }

    fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.end) > 1
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut entries = self.waiters.entries();
        if let Some(entry) = entries.get_mut(&self.operation) {
            entry.tasks -= 1;
            if entry.tasks == 0 && !entry.is_waited_for() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_are_told_in_the_order_in_which_they_came() {
        let end = Arc::new(End::new());
        let told: Arc<Mutex<Vec<u32>>> = Arc::default();
        let waiters: Vec<_> = (0..32)
            .map(|number| {
                let (end, told) = (Arc::clone(&end), Arc::clone(&told));
                tokio::spawn(async move {
                    let seen = end.wait().await;
                    told.lock().expect("whole").push(number);
                    *seen
                })
            })
            .collect();
        tokio::task::yield_now().await;
        end.tell(Some(Arc::new(7)));
        for waiter in waiters {
            assert_eq!(waiter.await.expect("told"), 7);
        }
        assert_eq!(*told.lock().expect("whole"), (0..32).collect::<Vec<_>>());
    }
}
