//! One check of one operation: what it knows, and which way it goes.

use std::sync::Arc;

use crate::connector::{CallEvidence, Capabilities, Finding, LookUp};
use crate::engine::{Account, Shared};
use crate::operation::{Failure, State, StateName, Verb};
use crate::store::{Operation, StoreError};

/// The epoch moved, or the ledger is away: somebody, perhaps this process, goes on from the record.
#[derive(Debug)]
pub(super) enum Stop {
    Stale,
    Ledger(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error)
    }
}

/// One check of one operation, with what it saw on the way.
pub(super) struct Checking<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) account: &'a Account,
    pub(super) capabilities: Capabilities,
    pub(super) operation: Operation,
    /// It was sent once more, and that has ended.
    pub(super) sent: bool,
    pub(super) evidence: Vec<CallEvidence>,
}

impl Shared {
    pub(super) async fn check(self: &Arc<Self>, operation: Operation) {
        self.metrics.checks.inc();
        let id = operation.id;
        let Some(account) = self.accounts.get(&operation.account).cloned() else {
            tracing::error!(
                payment.operation.id = %id,
                payment.account = %operation.account,
                "the account of an open operation is not configured: nobody can ask about it"
            );
            let reason = "account_not_configured";
            let may_be_parked = operation.state.name() == StateName::Unknown;
            if may_be_parked && operation.past_horizon() {
                let to = State::Parked {
                    parked: operation.state.parked_for_silence(),
                };
                let after = self.options.resolver.repeat_every;
                let settlement = operation.settlement(to, reason, &[], Some(after));
                self.settle_surely(settlement).await;
            } else {
                let _ = self
                    .check_again(&operation, false, Vec::new(), reason)
                    .await;
            }
            return;
        };
        let capabilities = account.connector.capabilities(operation.verb);
        let check = Checking {
            shared: self,
            account: &account,
            capabilities,
            operation,
            sent: false,
            evidence: Vec::new(),
        };
        match check.run().await {
            Ok(()) => {}
            Err(Stop::Stale) => {
                tracing::info!(payment.operation.id = %id, "somebody else took it meanwhile");
            }
            Err(Stop::Ledger(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    payment.operation.id = %id,
                    "a check was cut short by the ledger"
                );
            }
        }
    }
}

impl Checking<'_> {
    async fn run(mut self) -> Result<(), Stop> {
        if self.operation.state.name() == StateName::Approved {
            return self.undo_cancelled_approval().await;
        }
        if let Some(end) = told_too_late(&self.operation) {
            self.nothing_to_reverse().await?;
            return self.settle(end, "told_too_late").await;
        }
        match self.operation.verb {
            // No money could move: the card check simply has no answer.
            Verb::Verify => {
                self.settle(
                    State::Failed {
                        failure: Failure::NoAnswer,
                    },
                    "no_answer",
                )
                .await
            }
            Verb::Sale | Verb::Authorize => self.check_create().await,
            Verb::Capture | Verb::Void | Verb::Refund => self.check_follow_up().await,
            Verb::Reversal => unreachable!("BUG: a reversal is driven by what it reverses"),
        }
    }

    pub(super) async fn look_up(&mut self) -> Result<Finding, Stop> {
        let operation = &self.operation;
        let control = if operation.verb.is_create() {
            self.shared
                .store
                .control(&operation.account, operation.verb, operation.id)
                .await?
        } else {
            None
        };
        let LookUp { finding, evidence } = self
            .account
            .connector
            .look_up(&operation.subject(), control.as_ref())
            .await;
        self.evidence.extend(evidence);
        #[cfg(feature = "sabotage")]
        let finding = match finding {
            Finding::CouldNotAsk { .. } if sabotaged!(CouldNotAskIsNotFound) => {
                Finding::NotFound { conclusive: true }
            }
            finding => finding,
        };
        Ok(finding)
    }
}

/// What a former owner learned too late, where it settles the matter: its was the only send, and it was a "no" or never
/// left. A late "yes" to a create decides nothing, since a reversal may be on its way; to a follow-up it does.
fn told_too_late(operation: &Operation) -> Option<State> {
    let late = operation.late.as_ref()?;
    if (late.attempt, late.sends) != (operation.attempt, operation.sends) {
        return None;
    }
    match &late.state {
        State::NotSent { .. } if operation.cancel_requested_at.is_some() => Some(State::Cancelled),
        State::NotSent { not_sent } => Some(State::Failed {
            failure: Failure::NothingWasSent {
                not_sent: not_sent.clone(),
            },
        }),
        State::Declined { .. } | State::Failed { .. } => Some(late.state.clone()),
        State::Approved { .. } if operation.verb.is_follow_up() => Some(late.state.clone()),
        _ => None,
    }
}
