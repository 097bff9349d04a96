//! The check of an approved create that its caller cancelled: what stands of it is undone.

use std::sync::Arc;

use super::check::{Checking, Stop};
use super::undo::{Attempt, form_for, is_open};
use crate::connector::{Finding, Found, Undone, UnknownReason};
use crate::engine::Told;
use crate::operation::{ParkedReason, Reserved, State, StateName};
use crate::store::Operation;

impl Checking<'_> {
    /// An approved create whose caller wants it undone, with follow-ups the remainder.
    pub(super) async fn undo_cancelled_approval(&mut self) -> Result<(), Stop> {
        let shared = self.shared;
        let Some(payment) = self.operation.payment else {
            return self.no_more_checks("nothing_stands").await;
        };
        let payment = shared.store.payment(payment).await?.ok_or(Stop::Stale)?;
        let stands = Reserved {
            capture: payment.authorized - payment.captured,
            refund: payment.captured - payment.refunded,
        };
        if payment.voided || stands == Reserved::default() {
            return self.no_more_checks("nothing_stands").await;
        }
        if shared.options.quarantine {
            return self.again("quarantine").await;
        }
        let (ids, standing) = match self.look_up().await? {
            Finding::Found(Found::Approved { approval, standing }) => (approval.ids, standing),
            Finding::Contradiction { .. }
            | Finding::Found(Found::Declined(_))
            | Finding::NotFound { .. } => {
                return self.not_undone("cancelled_approval_not_found").await;
            }
            Finding::CouldNotAsk { .. } => return self.not_undone("could_not_ask").await,
        };
        let nothing_left = standing.remaining == 0;
        match self
            .undo_if(form_for(ids, standing), Some(stands), !nothing_left)
            .await?
        {
            Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                self.end_reversal(reversal, upstream_reference).await
            }
            Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                self.no_more_checks("reversed").await
            }
            Attempt::AlreadySent if nothing_left => {
                let reversal = shared
                    .store
                    .reversal_of(self.operation.id)
                    .await?
                    .ok_or(Stop::Stale)?;
                // Its former owner may have ended it since.
                if is_open(&reversal) {
                    self.end_reversal(reversal, None).await
                } else {
                    self.again("reversal_ended_meanwhile").await
                }
            }
            Attempt::Outcome(Undone::Refused(decline), reversal) => {
                self.park_reversal(reversal, decline.message).await?;
                self.again("reversal_refused").await
            }
            Attempt::AlreadySent | Attempt::Busy | Attempt::Ended(_) | Attempt::Outcome(_, _) => {
                self.not_undone("reversal_unknown").await
            }
        }
    }

    /// A cancelled approval still stands. Asked on; once its reversal was tried for as long as the horizon a person is told.
    /// Counted from its first send: a void is repeated at each check, and each has a horizon of its own.
    async fn not_undone(&mut self, reason: &'static str) -> Result<(), Stop> {
        let reversal = self.shared.store.reversal_of(self.operation.id).await?;
        match reversal {
            Some(reversal)
                if reversal.read_at.since(reversal.first_attempt_at)
                    >= self.account.late_arrival_horizon =>
            {
                self.park_reversal(reversal, reason.to_owned()).await?;
            }
            Some(_) => {}
            None => {
                tracing::error!(
                    payment.operation.id = %self.operation.id,
                    payment.account = %self.operation.account,
                    amount = %self.operation.amount,
                    reason,
                    "a cancelled approval could not be undone yet"
                );
            }
        }
        self.again(reason).await
    }

    async fn park_reversal(&self, reversal: Operation, detail: String) -> Result<(), Stop> {
        if reversal.state.name() == StateName::Parked || !is_open(&reversal) {
            return Ok(());
        }
        let mut unknown = reversal;
        if unknown.state.name() == StateName::Recorded {
            let to = State::Unknown {
                unknown: UnknownReason::Unusable {
                    detail: detail.clone(),
                },
            };
            let settled = self
                .shared
                .settle_surely(unknown.settlement(to, "reversal_refused", &[], None))
                .await;
            let Some(Told::Applied(now)) = settled else {
                return Err(Stop::Stale);
            };
            unknown = Arc::unwrap_or_clone(now);
        }
        let to = State::Parked {
            parked: ParkedReason::ReversalFailed { detail },
        };
        self.shared
            .settle_surely(unknown.settlement(to, "reversal_refused", &[], None))
            .await;
        Ok(())
    }
}
