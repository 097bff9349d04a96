//! Sending what was recorded, and writing down what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Account, PAUSE_MAX, Shared, Wait};
use crate::clock::{Clock, Tick};
use crate::connector::{CallEvidence, NotSent, Payer, Repeat, SendGate, Subject, Verdict};
use crate::journal::JournalError;
use crate::liveness::Liveness;
use crate::operation::{self, Facts, Failure, State, StateName, Verb};
use crate::store::{Operation, Settled, Settlement};

/// Asked right before the first byte.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    pub(crate) liveness: &'a Liveness,
    pub(crate) clock: &'a dyn Clock,
    /// Before the record, or the count of this send, was written.
    pub(crate) since: Tick,
    pub(crate) send_by: Tick,
    pub(crate) cancelled: Option<&'a AtomicBool>,
}

impl SendGate for Gate<'_> {
    fn may_send(&self) -> Result<(), NotSent> {
        if self
            .cancelled
            .is_some_and(|flag| flag.load(Ordering::SeqCst) && !sabotaged!(CancelNotReadBeforeSend))
        {
            return Err(NotSent::CancelRequested);
        }
        if self.clock.tick() > self.send_by && !sabotaged!(SendAfterTheWait) {
            return Err(NotSent::TooLate);
        }
        if sabotaged!(SendWithoutHeartbeat) {
            return Ok(());
        }
        self.liveness.vouches_since(self.since)
    }
}

impl Operation {
    /// As a connector sees it.
    pub fn subject(&self) -> Subject {
        Subject {
            operation: self.id,
            verb: self.verb,
            account: self.account.clone(),
            endpoint: self.endpoint.clone(),
            reference: self.reference.clone(),
            amount: self.amount,
            order_reference: self.order_reference.clone(),
            statement_descriptor: self.statement_descriptor.clone(),
            parent: self.parent.clone(),
            parent_reference: self.parent_reference.clone(),
            prepared: self.prepared.clone(),
            sends: self.sends,
            recorded_at: self.recorded_at,
        }
    }

    pub fn facts(&self) -> Facts {
        Facts {
            verb: self.verb,
            amount: self.amount,
            reserved: self.reserved,
            holds_while_unknown: self.holds_while_unknown,
        }
    }

    /// The settlement that moves this operation to `to`.
    ///
    /// # Panics
    /// On a transition that the rules do not know: only a bug of ours asks for it, and nothing may be written then.
    pub(crate) fn settlement(
        &self,
        to: State,
        reason: &'static str,
        evidence: &[CallEvidence],
        check_after: Option<Duration>,
    ) -> Settlement {
        let from = self.state.name();
        let effects = match operation::effects(&self.facts(), from, to.name()) {
            Ok(effects) => effects,
            Err(illegal) => unreachable!("BUG: {illegal} ({})", self.id),
        };
        Settlement {
            operation: self.id,
            payment: self.payment,
            epoch: self.epoch,
            attempt: self.attempt,
            sends: self.sends,
            from,
            to,
            effects,
            check_after,
            evidence: json!({ "calls": evidence }),
            reason,
        }
    }
}

/// What a settlement came to, told to those who wait.
#[derive(Debug)]
pub(crate) enum Told {
    Applied(Arc<Operation>),
    Stale,
}

impl Shared {
    /// Sends a recorded operation once and settles it. Runs in the payment's own task.
    pub(super) async fn send(
        self: &Arc<Self>,
        account: &Account,
        mut operation: Arc<Operation>,
        payer: Option<Box<Payer>>,
        wait: Wait,
        cancelled: Option<&AtomicBool>,
    ) {
        let gate = Gate {
            liveness: &self.liveness,
            clock: &*self.clock,
            since: wait.since,
            send_by: wait.send_by,
            cancelled,
        };
        let started = tokio::time::Instant::now();
        let connector = &account.connector;
        let mut answer = connector
            .execute(&operation.subject(), payer.as_deref(), &gate)
            .await;
        let repeats = connector.capabilities(operation.verb).repeat == Repeat::ByReference;
        if repeats && matches!(answer.verdict, Verdict::Unknown(_)) {
            // The processor answers a repeat under our reference with the first result, or executes it now if the first
            // never arrived. Only here: nobody else holds what the repeat must carry. Counted before it leaves.
            let since = self.clock.tick();
            let me = self.liveness.replica();
            let (id, epoch) = (operation.id, operation.epoch);
            let counted = self.store.count_send(id, epoch, me).await;
            if let Some(counted) = counted.ok().flatten().map(Arc::new) {
                operation = counted;
                let gate = Gate { since, ..gate };
                let again = connector
                    .execute(&operation.subject(), payer.as_deref(), &gate)
                    .await;
                answer.verdict = again.verdict;
                answer.evidence.extend(again.evidence);
            }
        }
        drop(payer); // Wiped here: settling may take as long as the ledger is away.
        self.metrics.upstream_call(&operation, started.elapsed());
        let mut to = operation::after_send(
            operation.verb,
            operation.amount,
            operation.sends,
            answer.verdict,
        );
        if operation.verb == Verb::Verify && matches!(to, State::Unknown { .. }) {
            to = State::Failed {
                failure: Failure::NoAnswer,
            }; // No money could move: nothing to resolve.
        }
        let check_after = match to.name() {
            StateName::Unknown => Some(self.options.resolver.first_check()),
            _ => None,
        };
        let settlement = operation.settlement(to, "answered", &answer.evidence, check_after);
        self.settle_surely(settlement).await;
    }

    /// Writes a transition, however long the ledger is away: an answer that is held here exists nowhere else. `None` only
    /// if the ledger refuses the row itself, which leaves the operation to its deadline.
    pub(crate) async fn settle_surely(&self, settlement: Settlement) -> Option<Told> {
        let settlement = Arc::new(settlement);
        let mut pause = Duration::from_millis(20);
        loop {
            match self.journal.settle(Arc::clone(&settlement)).await {
                Ok(settled) => return Some(self.tell(settled, &settlement)),
                Err(error @ (JournalError::Unavailable(_) | JournalError::Unreachable(_)))
                    if !sabotaged!(AnswerDropped) =>
                {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        payment.operation.id = %settlement.operation,
                        "holding an answer until the ledger is back"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        payment.operation.id = %settlement.operation,
                        "the ledger refused a settlement; the operation stays as it is until its deadline"
                    );
                    return None;
                }
            }
        }
    }

    fn tell(&self, settled: Settled, settlement: &Settlement) -> Told {
        let (operation, is_applied): (Arc<Operation>, _) = match settled {
            Settled::Applied(operation) => (Arc::from(operation), true),
            Settled::Stale(operation) => (Arc::from(operation), false),
        };
        if is_applied {
            self.metrics.settled(&operation);
            if operation.state.name() == StateName::Parked {
                tracing::error!(
                    payment.operation.id = %operation.id,
                    payment.account = %operation.account,
                    amount = %operation.amount,
                    reason = settlement.reason,
                    "parked for a person: money at risk"
                );
            }
        } else {
            self.metrics.stale_settlements.inc();
            tracing::warn!(
                payment.operation.id = %operation.id,
                epoch = settlement.epoch,
                epoch_now = operation.epoch,
                "a settlement came too late and was kept as evidence"
            );
        }
        if super::has_answer(&operation) {
            self.waiters.publish(&operation);
        } else {
            self.resolver_wake.notify_one();
        }
        if is_applied {
            Told::Applied(operation)
        } else {
            Told::Stale
        }
    }
}
