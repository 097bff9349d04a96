//! Cancellation: the wish to undo what a key did, does or will do, written down first and carried out by the resolver.

use tokio::time::Instant;

use super::{Engine, Shared};
use crate::key::{Client, IdempotencyKey, UpstreamReference};
use crate::operation::StateName;
use crate::store::{CancelRecorded, CancelWish, Operation, StoreError};

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
    /// Records the wish and answers at once. Repeating it is harmless and shows the progress.
    pub async fn cancel(&self, client: Client, key: IdempotencyKey) -> CancelOutcome {
        let shared = &self.shared;
        let wish = CancelWish {
            operation: shared.new_operation_id(),
            reference: UpstreamReference::derive(&shared.keys, &client, &key),
            owner: shared.liveness.replica(),
            check_after: shared.options.resolver.first_check(),
            client,
            key,
        };
        let operation = match shared.store.cancel(&wish).await {
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
        shared.note_cancelled(&operation);
        shared.resolver_wake.notify_one();
        match shared.cancellation(operation).await {
            Ok(cancellation) => CancelOutcome::Recorded(Box::new(cancellation)),
            Err(_) => CancelOutcome::LedgerUnavailable,
        }
    }

    /// The progress of a cancelled operation, for every other answer to its key.
    pub async fn cancellation(&self, operation: Operation) -> Result<Cancellation, StoreError> {
        self.shared.cancellation(operation).await
    }
}

impl Shared {
    async fn cancellation(&self, operation: Operation) -> Result<Cancellation, StoreError> {
        let reversal = match operation.state.name() {
            StateName::Cancelled | StateName::NotSent | StateName::Declined | StateName::Failed => {
                None
            }
            _ => super::by(Instant::now(), self.store.reversal_of(operation.id)).await?,
        };
        let progress = progress(&operation, reversal.as_ref());
        Ok(Cancellation {
            operation,
            reversal,
            progress,
        })
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
