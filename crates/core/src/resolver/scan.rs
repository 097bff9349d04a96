//! Looks for what is due and for what lost its owner, and starts a check of each.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::engine::Shared;
use crate::key::OperationId;
use crate::store::StoreError;

/// Operations adopted or taken up in one statement.
const TAKE_MAX: u32 = 200;

#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    /// Checks under way: the next scan must not begin them again.
    in_hand: Arc<Mutex<HashSet<OperationId>>>,
    checks: Arc<Semaphore>,
}

impl Resolver {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let checks = Arc::new(Semaphore::new(shared.options.resolver.checks_max));
        Self {
            shared,
            in_hand: Arc::default(),
            checks,
        }
    }

    /// Scans until the task is aborted.
    pub(crate) async fn run(self) {
        let every = self.shared.options.resolver.scan_every;
        let mut at_risk_in = 0_u32;
        loop {
            let woken = self.shared.resolver_wake.notified();
            let _ = tokio::time::timeout(every, woken).await;
            // Without it nobody would ask about what this process owns: its beats go on, so others do not adopt it.
            let scanned = AssertUnwindSafe(self.scan()).catch_unwind().await;
            let Ok(scanned) = scanned else {
                tracing::error!("BUG: a scan of the resolver panicked");
                tokio::time::sleep(every).await;
                continue;
            };
            if let Err(error) = scanned {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the resolver cannot read the ledger"
                );
                tokio::time::sleep(every).await;
                continue;
            }
            // Money at risk changes slowly, and summing it up is not free.
            if at_risk_in == 0 {
                if let Ok(open) = self.shared.store.at_risk().await {
                    self.shared.metrics.at_risk(&open);
                }
                at_risk_in = 20;
            }
            at_risk_in -= 1;
        }
    }

    pub(super) async fn scan(&self) -> Result<(), StoreError> {
        self.adopt().await?;
        for operation in self
            .shared
            .store
            .due(self.shared.liveness.replica(), TAKE_MAX)
            .await?
        {
            let Ok(permit) = Arc::clone(&self.checks).try_acquire_owned() else {
                return Ok(());
            };
            if !self
                .in_hand
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(operation.id)
            {
                continue;
            }
            let in_hand = InHand {
                set: Arc::clone(&self.in_hand),
                operation: operation.id,
            };
            let shared = Arc::clone(&self.shared);
            let span = tracing::info_span!("resolve", payment.operation.id = %operation.id);
            let check = async move {
                let checked = AssertUnwindSafe(shared.check(operation.clone())).catch_unwind();
                if checked.await.is_err() {
                    tracing::error!(payment.operation.id = %operation.id, "BUG: a check panicked");
                    // With the usual pause: it would panic again, and ask the processor each time.
                    let again = shared.check_again(&operation, false, Vec::new(), "check_panicked");
                    let _ = again.await;
                }
                drop(in_hand);
                drop(permit);
            };
            crate::task::spawn(check.instrument(span));
        }
        Ok(())
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if !shared.liveness.may_adopt() {
            return Ok(());
        }
        let me = shared.liveness.replica();
        let silent = shared.liveness.silent();
        // With nobody silent too: what was handed over belongs to nobody.
        let mut adopted = shared.store.adopt_silent(me, &silent, TAKE_MAX).await?;
        adopted.extend(shared.store.adopt_overdue(me, TAKE_MAX).await?);
        for operation in &adopted {
            shared.metrics.adopted.inc();
            tracing::warn!(payment.operation.id = %operation.id, epoch = operation.epoch, "adopted");
        }
        Ok(())
    }
}

/// Takes an operation out of the set when its check ends, by a panic too.
#[derive(Debug)]
struct InHand {
    set: Arc<Mutex<HashSet<OperationId>>>,
    operation: OperationId,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.set
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.operation);
    }
}
