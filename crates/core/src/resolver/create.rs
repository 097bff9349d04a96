//! The check of a sale or an authorization: found or not, and whether it may stand.

use super::check::{Checking, Stop};
use super::undo::{Attempt, form_for};
use crate::connector::{
    Approval, Finding, Found, ReversalForm, Standing, UndoBy, Undone, UnknownReason, WhenFound,
};
use crate::operation::{Failure, ParkedReason, State, StateName};

impl Checking<'_> {
    pub(super) async fn check_create(&mut self) -> Result<(), Stop> {
        // Its own route must have said so, too: where nothing may be sent it is not asked, and nothing is conclusive.
        let mut reference_is_silent =
            self.capabilities.undo != UndoBy::Reference || !self.shared.options.quarantine;
        if self.must_undo()
            && self.capabilities.undo == UndoBy::Reference
            && !self.shared.options.quarantine
        {
            match self.undo(ReversalForm::ByReference, None).await? {
                Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                    return self.reversed(Some(reversal), upstream_reference).await;
                }
                Attempt::Outcome(Undone::NothingFound { conclusive }, _) => {
                    reference_is_silent = conclusive;
                }
                Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                    return self.reversed(Some(reversal), None).await;
                }
                // It had found nothing, and its operation was about to end for the same reason.
                Attempt::Ended(_) => {}
                // A refund went out before: only what is found can tell how it ended.
                Attempt::Outcome(_, _) | Attempt::AlreadySent => reference_is_silent = false,
                Attempt::Busy => return self.again("payment_busy").await,
            }
        }
        match self.look_up().await? {
            Finding::Found(Found::Approved { approval, standing }) => {
                self.found_approved(approval, standing).await
            }
            Finding::Found(Found::Declined(decline)) => {
                self.nothing_to_reverse().await?;
                self.settle(State::Declined { decline }, "found_declined")
                    .await
            }
            Finding::NotFound { conclusive } => {
                let is_silent = conclusive && reference_is_silent;
                let is_proof = is_silent && !self.operation.state.contradicts_silence();
                if is_proof && self.operation.past_horizon() {
                    self.nothing_to_reverse().await?;
                    self.settle(
                        State::Failed {
                            failure: Failure::DidNotHappen,
                        },
                        "not_found_past_horizon",
                    )
                    .await
                } else {
                    self.silence("not_found_so_far").await
                }
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

    /// Whether the create must not stand, even if it is found approved.
    fn must_undo(&self) -> bool {
        self.capabilities.found == WhenFound::Reverse
            || self.operation.cancel_requested_at.is_some()
            || self.operation.read_at >= self.operation.resolves_by()
            || matches!(
                self.operation.state,
                State::Unknown {
                    unknown: UnknownReason::OtherAmount { .. }
                }
            )
    }

    async fn found_approved(&mut self, approval: Approval, standing: Standing) -> Result<(), Stop> {
        if standing.remaining == 0 {
            // Undone already, by an attempt of ours whose answer was lost or by another hand.
            let reversal = self.shared.store.reversal_of(self.operation.id).await?;
            return self
                .reversed(reversal, Some(approval.upstream_reference))
                .await;
        }
        let whole = approval.amount == self.operation.amount
            && standing.remaining == approval.amount.minor();
        if !self.must_undo() && whole {
            return self
                .settle(State::Approved { approval }, "found_approved")
                .await;
        }
        if self.capabilities.undo == UndoBy::Nothing {
            let detail = "approved, must not stand, and this processor cannot undo it".to_owned();
            return self
                .park(ParkedReason::ReversalFailed { detail }, "cannot_undo")
                .await;
        }
        if self.shared.options.quarantine {
            return self.again("quarantine").await;
        }
        let form = form_for(approval.ids, standing);
        match self.undo(form, None).await? {
            Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                self.reversed(Some(reversal), upstream_reference).await
            }
            Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                self.reversed(Some(reversal), None).await
            }
            Attempt::Ended(_) => {
                let detail =
                    "found standing after its reversal had ended without finding it".to_owned();
                self.park(ParkedReason::ReversalFailed { detail }, "found_after_all")
                    .await
            }
            Attempt::Outcome(Undone::Refused(decline), _) => {
                let detail = decline.message;
                self.again_or_park("reversal_refused", ParkedReason::ReversalFailed { detail })
                    .await
            }
            Attempt::AlreadySent => {
                let detail = "a refund was sent, its outcome is not known, and money still stands"
                    .to_owned();
                self.again_or_park(
                    "refund_already_sent",
                    ParkedReason::ReversalFailed { detail },
                )
                .await
            }
            Attempt::Busy => self.again("payment_busy").await,
            // Settled meanwhile, nothing found, not sent, no answer: the next check sees what became of it.
            Attempt::Outcome(_, _) => {
                let detail = "the reversal has no answer".to_owned();
                self.again_or_park("reversal_unknown", ParkedReason::ReversalFailed { detail })
                    .await
            }
        }
    }
}
