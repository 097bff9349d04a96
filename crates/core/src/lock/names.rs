//! The names somebody in this process waits for or holds, so that one waiter a name asks while the others queue.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What the waiters of one name share, with the implementation's own state `S`.
#[derive(Debug, Default)]
pub(super) struct Slot<S> {
    /// First come, first served; whoever has it is the head, and only the head asks.
    pub(super) queue: tokio::sync::Mutex<()>,
    /// Wakes the head when a holder in this process gives back.
    pub(super) freed: Notify,
    pub(super) state: Mutex<S>,
}

impl<S> Slot<S> {
    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        // Every critical section is a plain assignment, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Slots<S> = Arc<Mutex<HashMap<String, Arc<Slot<S>>>>>;

/// The slots in use. Bounded by its users: a name without a waiter or a holder has no slot.
#[derive(Debug)]
pub(super) struct Names<S> {
    slots: Slots<S>,
}

impl<S: Default> Names<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Arc::default(),
        }
    }

    pub(super) fn enter(&self, name: &str) -> InUse<S> {
        let mut slots = lock(&self.slots);
        let slot = if let Some(slot) = slots.get(name) {
            Arc::clone(slot)
        } else {
            let slot = Arc::<Slot<S>>::default();
            slots.insert(name.to_owned(), Arc::clone(&slot));
            slot
        };
        InUse {
            slots: Arc::clone(&self.slots),
            name: name.into(),
            slot,
        }
    }

    /// Another claim on the same slot, for a task that outlives the first.
    pub(super) fn again(&self, claim: &InUse<S>) -> InUse<S> {
        self.enter(&claim.name)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.slots).len()
    }
}

/// A slot that stays while this is alive; the last one out removes it.
#[derive(Debug)]
pub(super) struct InUse<S> {
    slots: Slots<S>,
    name: Box<str>,
    slot: Arc<Slot<S>>,
}

impl<S> Deref for InUse<S> {
    type Target = Slot<S>;

    fn deref(&self) -> &Slot<S> {
        &self.slot
    }
}

impl<S> Drop for InUse<S> {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        // Two: the map's and ours. Nobody can take a third meanwhile, for that needs the map.
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(&*self.name);
        }
    }
}

fn lock<S>(slots: &Slots<S>) -> MutexGuard<'_, HashMap<String, Arc<Slot<S>>>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
