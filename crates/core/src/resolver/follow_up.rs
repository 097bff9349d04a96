//! The check of a capture, void or refund, and its repeat where the processor executes it at most once.

use super::check::{Checking, Stop};
use crate::connector::{Finding, Found, Repeat, UnknownReason};
use crate::engine::Gate;
use crate::operation::{self, Failure, ParkedReason, State, StateName};
use crate::store::Operation;

/// How often a card-less verb is repeated while its outcome is unknown. Each repeat moves the horizon: without a bound
/// the operation would never end.
const REPEATS_MAX: u32 = 3;

impl Checking<'_> {
    pub(super) async fn check_follow_up(&mut self) -> Result<(), Stop> {
        match self.look_up().await? {
            Finding::Found(Found::Approved { approval, .. })
                if approval.amount == self.operation.amount =>
            {
                self.settle(State::Approved { approval }, "found_approved")
                    .await
            }
            // Follow-ups are not reversed: what was done otherwise than asked is for a person.
            Finding::Found(Found::Approved { approval, .. }) => {
                let detail = format!("approved for {} instead", approval.amount);
                self.park(ParkedReason::Contradiction { detail }, "other_amount")
                    .await
            }
            Finding::Found(Found::Declined(decline)) => {
                self.settle(State::Declined { decline }, "found_declined")
                    .await
            }
            Finding::NotFound { conclusive } => {
                let may_repeat = (self.capabilities.repeat != Repeat::Never
                    || sabotaged!(SecondReturn))
                    && self.operation.sends <= REPEATS_MAX
                    && !self.shared.options.quarantine;
                if may_repeat {
                    return self.repeat().await;
                }
                let is_proof = conclusive && !self.operation.state.contradicts_silence();
                if is_proof && self.operation.past_horizon() {
                    let failure = Failure::DidNotHappen;
                    return self
                        .settle(State::Failed { failure }, "not_found_past_horizon")
                        .await;
                }
                self.silence("not_found_so_far").await
            }
            Finding::Contradiction { detail } => {
                self.park(ParkedReason::Contradiction { detail }, "contradiction")
                    .await
            }
            Finding::CouldNotAsk { detail } => {
                tracing::info!(payment.operation.id = %self.operation.id, detail, "could not ask");
                self.silence("could_not_ask").await
            }
        }
    }

    /// Sends the same request again: the processor executes it at most once. Counted first.
    async fn repeat(&mut self) -> Result<(), Stop> {
        let shared = self.shared;
        let since = shared.clock.tick();
        let me = shared.liveness.replica();
        let counted = shared
            .store
            .count_send(self.operation.id, self.operation.epoch, me)
            .await?;
        self.operation = counted.ok_or(Stop::Stale)?;
        let gate = Gate {
            liveness: &shared.liveness,
            clock: &*shared.clock,
            since,
            send_by: since + self.operation.send_within(),
            cancelled: None,
        };
        let answer = self
            .account
            .connector
            .execute(&self.operation.subject(), None, &gate)
            .await;
        self.sent = true;
        self.evidence.extend(answer.evidence);
        let Operation {
            verb,
            amount,
            sends,
            ..
        } = self.operation;
        match operation::after_send(verb, amount, sends, answer.verdict) {
            to @ State::Approved { .. } => self.settle(to, "approved_on_repeat").await,
            // It was executed, by us or by another: remembered, for it can no longer be found not to have happened.
            State::Unknown {
                unknown:
                    unknown @ (UnknownReason::DuplicateOfOurs | UnknownReason::OtherAmount { .. }),
            } => self.still_unknown(unknown).await,
            // Another "no" to a repeat, or silence, says nothing of the send before it: the next check looks again.
            _ => self.again("repeat_without_success").await,
        }
    }

    /// Keeps what is known by now, and asks again after a while.
    async fn still_unknown(&mut self, unknown: UnknownReason) -> Result<(), Stop> {
        let to = State::Unknown { unknown };
        if self.operation.state == to || self.operation.state.name() == StateName::Parked {
            return self.again("still_unknown").await;
        }
        let evidence = std::mem::take(&mut self.evidence);
        let after = self.shared.options.resolver.first_check();
        let settlement = self
            .operation
            .settlement(to, "still_unknown", &evidence, Some(after));
        self.write(settlement).await
    }
}
