//! When an unknown operation is checked again.

use std::time::Duration;

use serde_json::json;

use crate::connector::CallEvidence;
use crate::engine::Shared;
use crate::store::{Check, Operation, StoreError};

/// When unknown operations are checked, and how many at once.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// Counted from the moment an operation became unknown: 2, 5, 15, 30 s, 2 and 10 min.
    pub schedule: Vec<Duration>,
    /// After the schedule's last.
    pub repeat_every: Duration,
    /// How often the ledger is asked what is due and who is silent.
    pub scan_every: Duration,
    /// Checks under way at once.
    pub checks_max: usize,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            schedule: [2, 5, 15, 30, 120, 600].map(Duration::from_secs).to_vec(),
            repeat_every: Duration::from_mins(10),
            scan_every: Duration::from_millis(250),
            checks_max: 64,
        }
    }
}

impl ResolverOptions {
    /// From becoming unknown until the first check.
    pub fn first_check(&self) -> Duration {
        self.schedule.first().copied().unwrap_or(self.repeat_every)
    }

    /// From the check numbered `done` (1 for the first) until the next.
    fn after_check(&self, done: u32) -> Duration {
        let index = usize::try_from(done).unwrap_or(usize::MAX);
        match (
            self.schedule.get(index.wrapping_sub(1)),
            self.schedule.get(index),
        ) {
            (Some(last), Some(next)) => next.saturating_sub(*last),
            _ => self.repeat_every,
        }
    }
}

impl Shared {
    pub(super) async fn check_again(
        &self,
        operation: &Operation,
        evidence: Vec<CallEvidence>,
        reason: &'static str,
    ) -> Result<(), StoreError> {
        let mut after = self.options.resolver.after_check(operation.checks + 1);
        // Once at the horizon, whatever the schedule says.
        let to_horizon = operation.late_after.since(operation.read_at);
        if !to_horizon.is_zero() && to_horizon < after {
            after = to_horizon + Duration::from_millis(1);
        }
        let check = Check {
            operation: operation.id,
            epoch: operation.epoch,
            owner: self.liveness.replica(),
            next_after: Some(after),
            evidence: json!({ "calls": evidence }),
            reason,
        };
        self.store.reschedule(&check).await.map(|_| ())
    }
}
