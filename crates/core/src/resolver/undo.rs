//! Undoing: the reversal is written down and counted, then sent, then ended.

use std::time::Duration;

use tokio::time::Instant;

use super::check::{Checking, Stop};
use crate::connector::{Approval, ReversalForm, Standing, Undone, UpstreamIds};
use crate::engine::{Gate, PAUSE_MAX};
use crate::key::UpstreamReference;
use crate::operation::{Failure, Reserved, State, StateName};
use crate::store::{Operation, ReversalBegun, ReversalIntent, StoreError};

/// How long the ledger is asked whether it wrote what it did not acknowledge: longer than a failover takes. Past it the
/// check ends, and what is counted counts as sent, as after a crash.
const TOLD_WITHIN: Duration = Duration::from_mins(5);

impl Checking<'_> {
    pub(super) async fn undo(
        &mut self,
        form: ReversalForm,
        reserve: Option<Reserved>,
    ) -> Result<Attempt, Stop> {
        self.undo_if(form, reserve, true).await
    }

    /// Writes the reversal's record, counts the send, and sends it (`send`: unless nothing is left to undo).
    pub(super) async fn undo_if(
        &mut self,
        form: ReversalForm,
        reserve: Option<Reserved>,
        send: bool,
    ) -> Result<Attempt, Stop> {
        let shared = self.shared;
        let since = shared.clock.tick();
        #[cfg(feature = "sabotage")]
        if sabotaged!(ReversalWithoutRecord) {
            return Ok(self.undo_unrecorded(&form).await);
        }
        let wanted = ReversalIntent {
            of: self.operation.id,
            epoch: self.operation.epoch,
            owner: shared.liveness.replica(),
            operation: shared.new_operation_id(),
            reference: UpstreamReference::derive_internal(
                &shared.keys,
                self.operation.id,
                "reversal",
            ),
            form: form.clone(),
            reserve,
        };
        // In the same words each time: the ledger knows them again, where new ones would be another send. What was
        // counted and then took too long the gate stops, and the count is taken back.
        let begun = until_told(Asked::Nothing, || shared.store.begin_reversal(&wanted)).await?;
        let reversal = match begun {
            ReversalBegun::Send { reversal, of } => {
                self.operation = *of;
                *reversal
            }
            ReversalBegun::AlreadySent { .. } => return Ok(Attempt::AlreadySent),
            ReversalBegun::Ended { reversal } => return Ok(Attempt::Ended(*reversal)),
            ReversalBegun::Busy => return Ok(Attempt::Busy),
            ReversalBegun::Stale => return Err(Stop::Stale),
        };
        if !send {
            return Ok(Attempt::Outcome(
                Undone::Done {
                    upstream_reference: None,
                },
                reversal,
            ));
        }
        let gate = Gate {
            liveness: &shared.liveness,
            clock: &*shared.clock,
            since,
            send_by: since + reversal.send_within(),
            cancelled: None,
        };
        let undo = self
            .account
            .connector
            .reverse(&self.operation.subject(), &form, &gate)
            .await;
        self.evidence.extend(undo.evidence);
        if let Undone::NotSent(not_sent) = &undo.outcome {
            // Proven: this form never left. Written down, or a refund would count as sent, and never be sent.
            if reversal.sends == 1 && reversal.state.name() == StateName::Recorded {
                let to = State::NotSent {
                    not_sent: not_sent.clone(),
                };
                let settlement = reversal.settlement(to, "reversal_not_sent", &[], None);
                shared.settle_surely(settlement).await;
            } else {
                // The proof is held here alone. Asked again, the ledger says no more than that the epoch moved.
                let (id, epoch) = (reversal.id, reversal.epoch);
                until_told(Asked::MustBeWritten, || {
                    shared.store.uncount_send(id, epoch)
                })
                .await?;
            }
        }
        Ok(Attempt::Outcome(undo.outcome, reversal))
    }

    /// The reversal is confirmed: first its own end, then that of what it reversed. A crash between the two leaves an
    /// ended reversal, and the next check goes on from there.
    pub(super) async fn reversed(
        &mut self,
        reversal: Option<Operation>,
        upstream_reference: Option<String>,
    ) -> Result<(), Stop> {
        let id = reversal.as_ref().map(|reversal| reversal.id);
        if let Some(reversal) = reversal.filter(is_open) {
            self.end_reversal(reversal, upstream_reference).await?;
        }
        self.settle(State::Reversed { reversal: id }, "reversed")
            .await
    }

    pub(super) async fn end_reversal(
        &self,
        reversal: Operation,
        upstream_reference: Option<String>,
    ) -> Result<(), Stop> {
        let approval = Approval {
            ids: UpstreamIds::default(),
            upstream_reference: upstream_reference.unwrap_or_default(),
            authorization_code: None,
            amount: reversal.amount,
            card: None,
        };
        let to = State::Approved { approval };
        let settlement = reversal.settlement(to, "reversed", &self.evidence, None);
        self.shared.settle_surely(settlement).await;
        Ok(())
    }

    /// The reversal, if one was begun, found nothing to reverse and never will.
    pub(super) async fn nothing_to_reverse(&self) -> Result<(), Stop> {
        if let Some(reversal) = self.shared.store.reversal_of(self.operation.id).await?
            && is_open(&reversal)
        {
            let to = State::Failed {
                failure: Failure::NothingToReverse,
            };
            self.shared
                .settle_surely(reversal.settlement(to, "nothing_to_reverse", &[], None))
                .await;
        }
        Ok(())
    }
}

#[cfg(feature = "sabotage")]
impl Checking<'_> {
    async fn undo_unrecorded(&self, form: &ReversalForm) -> Attempt {
        let (connector, subject) = (&self.account.connector, self.operation.subject());
        let gate = crate::connector::AlwaysOpen;
        let undo = connector.reverse(&subject, form, &gate).await;
        let nobody = Operation {
            state: State::Recorded,
            ..self.operation.clone()
        };
        Attempt::Outcome(undo.outcome, nobody)
    }
}

/// What is known of a write before it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Given up where the ledger cannot be reached: the next check asks anew.
    Nothing,
    /// Nobody else would ask for it.
    MustBeWritten,
}

/// Asks for a write until the ledger tells what became of it. It must be one that is recognised when it is repeated.
async fn until_told<T, F>(asked: Asked, write: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + TOLD_WITHIN;
    let mut pause = Duration::from_millis(20);
    let mut may_be_written = asked == Asked::MustBeWritten;
    loop {
        let error = match write().await {
            Ok(told) => return Ok(told),
            Err(error) => error,
        };
        may_be_written |= matches!(error, StoreError::Unavailable(_));
        let passes = matches!(
            error,
            StoreError::Unavailable(_) | StoreError::Unreachable(_) | StoreError::Contended(_)
        );
        if !may_be_written || !passes || Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Something of it may have been sent, and how that ended is not written yet.
pub(super) fn is_open(reversal: &Operation) -> bool {
    !reversal.state.is_final() && reversal.state.name() != StateName::NotSent
}

/// What came of trying to undo.
pub(super) enum Attempt {
    Outcome(Undone, Operation),
    /// A refund was sent before: never again.
    AlreadySent,
    Ended(Operation),
    Busy,
}

/// The form follows what is found: a void while it can be voided, else a return of what is left.
pub(super) fn form_for(ids: UpstreamIds, standing: Standing) -> ReversalForm {
    if standing.settled {
        ReversalForm::Refund {
            ids,
            amount: standing.remaining,
        }
    } else {
        ReversalForm::Void { ids }
    }
}
