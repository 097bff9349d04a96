//! Gates: a test holds requests at a named business moment until it lets them go, so that it needs no sleep.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

use super::fault::{Selector, Subject};
use super::{StillWaiting, locked, within};

/// Where a request can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Read completely, nothing decided yet.
    Received,
    /// Nothing in the books yet. Released, it commits even when its caller has left: a late arrival.
    BeforeCommit,
    /// In the books, not answered.
    AfterCommit,
}

#[derive(Debug)]
struct Bar {
    id: u64,
    moment: Moment,
    selector: Selector,
    arrived: watch::Sender<usize>,
    passes: Semaphore,
}

/// The gates of one processor.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    bars: Mutex<Vec<Arc<Bar>>>,
    next: AtomicU64,
}

impl Gates {
    pub(crate) fn hold(self: &Arc<Self>, moment: Moment, selector: Selector) -> Gate {
        let bar = Arc::new(Bar {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            moment,
            selector,
            arrived: watch::Sender::new(0),
            passes: Semaphore::new(0),
        });
        locked(&self.bars).push(Arc::clone(&bar));
        Gate {
            gates: Arc::clone(self),
            bar,
        }
    }

    pub(crate) async fn pass(&self, moment: Moment, subject: &Subject) {
        let bars: Vec<Arc<Bar>> = locked(&self.bars)
            .iter()
            .filter(|bar| bar.moment == moment && bar.selector.matches(subject))
            .cloned()
            .collect();
        for bar in bars {
            bar.arrived.send_modify(|arrived| *arrived += 1);
            if let Ok(permit) = bar.passes.acquire().await {
                permit.forget();
            } // Closed means released for all.
        }
    }
}

/// A held moment. Dropping it releases everyone, so that a failing test leaves nobody behind.
#[derive(Debug)]
pub struct Gate {
    gates: Arc<Gates>,
    bar: Arc<Bar>,
}

impl Gate {
    /// Waits until `count` requests in all have come to this gate.
    ///
    /// # Errors
    /// `StillWaiting` after [`super::WAIT_MAX`].
    pub async fn reached(&self, count: usize) -> Result<(), StillWaiting> {
        let mut arrived = self.bar.arrived.subscribe();
        within("requests at a gate", async {
            // The sender lives in `self`, so the wait cannot fail.
            let _ = arrived.wait_for(|arrived| *arrived >= count).await;
        })
        .await
    }

    /// How many requests have come to this gate so far.
    pub fn arrived(&self) -> usize {
        *self.bar.arrived.borrow()
    }

    /// Lets one request through, the longest waiting first.
    pub fn release_one(&self) {
        self.bar.passes.add_permits(1);
    }

    /// Lets everyone through and removes the gate.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        locked(&self.gates.bars).retain(|bar| bar.id != self.bar.id);
        self.bar.passes.close();
    }
}
