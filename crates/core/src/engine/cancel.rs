//! Cancellation: the wish to undo what a key did, does or will do, written down first and carried out by the resolver.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Engine, Shared};
use crate::key::{Client, IdempotencyKey, UpstreamReference};
use crate::operation::StateName;
use crate::store::{CancelRecorded, CancelWish, Operation, StoreError};
use crate::task;

/// A cancellation and how far it has come.
#[derive(Debug)]
pub struct Cancellation {
    pub operation: Operation,
    pub reversal: Option<Operation>,
    pub progress: CancelProgress,
}

/// Whether the customer is certainly not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelProgress {
    Done,
    Pending,
    NeedsReview,
}

/// What a wish came to.
#[derive(Debug)]
pub enum CancelOutcome {
    Recorded(Box<Cancellation>),
    /// The key names a capture, void, refund or verification.
    NotACreate,
    /// It may be recorded: ask again.
    LedgerUnavailable,
}

impl Engine {
    /// Records the wish and answers at once, or at `until`. Repeating it is harmless and shows the progress.
    pub async fn cancel(
        &self,
        client: Client,
        key: IdempotencyKey,
        until: Instant,
    ) -> CancelOutcome {
        let shared = Arc::clone(&self.shared);
        // A task of its own: what it commits must be known to the payment's task here, whether its caller still waits or
        // not. It ends with the ledger's own patience, so that a client's rate bounds how many there are.
        let wish = async move { shared.cancel(client, key).await };
        match tokio::time::timeout_at(
            until,
            task::spawn(wish.instrument(tracing::info_span!("cancellation"))),
        )
        .await
        {
            Ok(Ok(outcome)) => outcome,
            // It may be recorded by now, or later.
            Ok(Err(_)) | Err(_) => CancelOutcome::LedgerUnavailable,
        }
    }

    /// The progress of a cancelled operation, for every other answer to its key.
    pub async fn cancellation(&self, operation: Operation) -> Result<Cancellation, StoreError> {
        self.shared.cancellation(operation).await
    }
}

impl Shared {
    async fn cancel(&self, client: Client, key: IdempotencyKey) -> CancelOutcome {
        let wish = CancelWish {
            operation: self.new_operation_id(),
            reference: UpstreamReference::derive(&self.keys, &client, &key),
            owner: self.liveness.replica(),
            check_after: self.options.resolver.first_check(),
            client,
            key,
        };
        let operation = match self.store.cancel(&wish).await {
            Ok(CancelRecorded::Wished(operation)) => *operation,
            Ok(CancelRecorded::NotACreate(_)) => return CancelOutcome::NotACreate,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a cancellation was not acknowledged"
                );
                return CancelOutcome::LedgerUnavailable;
            }
        };
        // Committed: if the send is under way here and no byte has left, none will.
        self.note_cancelled(&operation);
        self.resolver_wake.notify_one();
        match self.cancellation(operation).await {
            Ok(cancellation) => CancelOutcome::Recorded(Box::new(cancellation)),
            Err(_) => CancelOutcome::LedgerUnavailable,
        }
    }

    async fn cancellation(&self, operation: Operation) -> Result<Cancellation, StoreError> {
        let reversal = match operation.state.name() {
            StateName::Cancelled | StateName::NotSent | StateName::Declined | StateName::Failed => {
                None
            }
            _ => super::by(Instant::now(), self.store.reversal_of(operation.id)).await?,
        };
        let mut progress = progress(&operation, reversal.as_ref());
        let stands = operation.state.name() == StateName::Approved;
        if stands && progress == CancelProgress::Pending && self.is_held(&operation).await? {
            progress = CancelProgress::NeedsReview;
        }
        Ok(Cancellation {
            operation,
            reversal,
            progress,
        })
    }
}

impl Shared {
    /// Whether what stands of an approval waits for a person, who must end a follow-up first: a parked one keeps its amount.
    async fn is_held(&self, operation: &Operation) -> Result<bool, StoreError> {
        let Some(payment) = operation.payment else {
            return Ok(false);
        };
        let of = super::by(Instant::now(), self.store.operations_of(payment)).await?;
        Ok(of.iter().any(|of| of.state.name() == StateName::Parked))
    }
}

fn progress(operation: &Operation, reversal: Option<&Operation>) -> CancelProgress {
    match operation.state.name() {
        StateName::Cancelled
        | StateName::NotSent
        | StateName::Declined
        | StateName::Failed
        | StateName::Reversed => CancelProgress::Done,
        StateName::Recorded | StateName::Unknown => CancelProgress::Pending,
        StateName::Parked => CancelProgress::NeedsReview,
        // Approved, to be undone: nothing is due any more once nothing of it stands.
        StateName::Approved => match reversal.map(|reversal| reversal.state.name()) {
            Some(StateName::Approved) => CancelProgress::Done,
            // Ended without success: only a person knows what stands.
            Some(StateName::Parked | StateName::Failed) => CancelProgress::NeedsReview,
            None if operation.due_at.is_none() => CancelProgress::Done,
            _ => CancelProgress::Pending,
        },
    }
}
