//! When an unknown operation is checked again.

use std::time::Duration;

use serde_json::json;

use crate::connector::CallEvidence;
use crate::engine::Shared;
use crate::operation::StateName;
use crate::store::{Check, Operation, RESOLVE_SLACK, StoreError};

/// The last check past the horizon: one that begins then still ends by the time that callers were promised.
const LAST_CHECK: Duration = Duration::from_secs(25);
const _: () = assert!(LAST_CHECK.as_secs() < RESOLVE_SLACK.as_secs());

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

    /// From a check at `past`, counted from the horizon, until the next that still keeps what callers were promised: one
    /// question whose answer was lost is no reason to wake a person.
    pub(super) fn within_promise(&self, past: Duration) -> Option<Duration> {
        let promised = self.schedule.iter().filter(|at| **at <= RESOLVE_SLACK);
        let mut checks = promised.map(|at| (*at).min(LAST_CHECK));
        checks.find(|at| *at > past)?.checked_sub(past)
    }
}

impl Shared {
    pub(super) async fn check_again(
        &self,
        operation: &Operation,
        sent: bool,
        evidence: Vec<CallEvidence>,
        reason: &'static str,
    ) -> Result<(), StoreError> {
        let mut after = self.options.resolver.after_check(operation.checks + 1);
        // Once at the horizon, whatever the schedule says.
        let to_horizon = operation.late_after.since(operation.read_at);
        if !to_horizon.is_zero() && to_horizon < after {
            after = to_horizon + Duration::from_millis(1);
        }
        if let Some(soon) = self.next_within_promise(operation) {
            after = after.min(soon);
        }
        let check = Check {
            operation: operation.id,
            epoch: operation.epoch,
            owner: self.liveness.replica(),
            next_after: Some(after),
            sent,
            evidence: json!({ "calls": evidence }),
            reason,
        };
        self.store.reschedule(&check).await.map(|_| ())
    }

    /// Past its horizon, and unknown: until the next check, where there is time for one before it must be parked.
    pub(super) fn next_within_promise(&self, operation: &Operation) -> Option<Duration> {
        let is_open = operation.past_horizon() && operation.state.name() == StateName::Unknown;
        let past = operation.read_at.since(operation.late_after);
        is_open.then(|| self.options.resolver.within_promise(past))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_horizon_the_schedule_runs_once_more_and_ends_in_time() {
        let within = |past| ResolverOptions::default().within_promise(Duration::from_millis(past));
        let millis = Duration::from_millis;
        assert_eq!(within(0), Some(millis(2_000)));
        assert_eq!(within(2_100), Some(millis(2_900)));
        assert_eq!(within(14_000), Some(millis(1_000)));
        assert_eq!(within(15_000), Some(millis(10_000)));
        assert_eq!(within(25_000), None);
        assert_eq!(within(29_000), None);
    }
}
