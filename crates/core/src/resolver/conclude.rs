//! How a check ends: with a conclusion that is written down, or with the time of the next one.

use serde_json::json;

use super::check::{Checking, Stop};
use crate::operation::{ParkedReason, State, StateName};
use crate::store::{Check, Settlement};

impl Checking<'_> {
    pub(super) async fn settle(&mut self, to: State, reason: &'static str) -> Result<(), Stop> {
        let evidence = std::mem::take(&mut self.evidence);
        let settlement = self.operation.settlement(to, reason, &evidence, None);
        self.write(settlement).await
    }

    /// Writes a conclusion. One that the ledger refuses is tried again after the usual pause, not at once: each try asks
    /// the processor.
    pub(super) async fn write(&mut self, settlement: Settlement) -> Result<(), Stop> {
        if self.shared.settle_surely(settlement).await.is_none() {
            return self.again("not_written").await;
        }
        Ok(())
    }

    /// Leaves it to a person, who is told once; and once more if it was for lack of answers, and one came that says
    /// more: that must be known when nothing is found later.
    pub(super) async fn park(
        &mut self,
        parked: ParkedReason,
        reason: &'static str,
    ) -> Result<(), Stop> {
        let says_more =
            parked != ParkedReason::NoAnswer && !self.operation.state.contradicts_silence();
        if self.operation.state.name() == StateName::Parked && !says_more {
            return self.again(reason).await;
        }
        let evidence = std::mem::take(&mut self.evidence);
        let after = self.shared.options.resolver.repeat_every;
        let settlement =
            self.operation
                .settlement(State::Parked { parked }, reason, &evidence, Some(after));
        self.write(settlement).await
    }

    pub(super) async fn again_or_park(
        &mut self,
        reason: &'static str,
        parked: ParkedReason,
    ) -> Result<(), Stop> {
        let has_time = self.shared.next_within_promise(&self.operation).is_some();
        if self.operation.past_horizon() && !has_time {
            self.park(parked, reason).await
        } else {
            self.again(reason).await
        }
    }

    /// It was not found, or nobody could be asked.
    pub(super) async fn silence(&mut self, reason: &'static str) -> Result<(), Stop> {
        let parked = self.operation.state.parked_for_silence();
        self.again_or_park(reason, parked).await
    }

    pub(super) async fn again(&mut self, reason: &'static str) -> Result<(), Stop> {
        let evidence = std::mem::take(&mut self.evidence);
        Ok(self
            .shared
            .check_again(&self.operation, self.sent, evidence, reason)
            .await?)
    }

    pub(super) async fn no_more_checks(&mut self, reason: &'static str) -> Result<(), Stop> {
        let check = Check {
            operation: self.operation.id,
            epoch: self.operation.epoch,
            owner: self.shared.liveness.replica(),
            next_after: None,
            sent: self.sent,
            evidence: json!({ "calls": self.evidence }),
            reason,
        };
        self.shared.store.reschedule(&check).await?;
        Ok(())
    }
}
