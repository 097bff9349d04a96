//! A person's decision about an operation that no machine could decide: the same rules, with who and why in the ledger.

use std::sync::Arc;

use crate::connector::{Approval, UpstreamIds};
use crate::key::OperationId;
use crate::operation::{Failure, State, StateName};
use crate::store::{Operation, Settled, Store, StoreError};

/// What a person found out.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The processor executed it.
    Approved {
        upstream_reference: String,
        /// The processor's ids, by the connector's names: follow-ups need them (`sale`, `authorization`).
        ids: UpstreamIds,
        authorization_code: Option<String>,
    },
    /// It did not happen, and no longer can.
    Failed,
    /// It happened, and was undone by hand.
    Reversed,
}

/// Who decided, and why. Both are kept for ever.
#[derive(Clone, Debug)]
pub struct Decider {
    pub who: String,
    pub why: String,
}

/// Why a decision was not written.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    #[error("there is no operation {0}")]
    NoOperation(OperationId),
    #[error("the operation is {}: only a parked one waits for a person", .0.as_str())]
    NotParked(StateName),
    #[error("somebody else changed the operation at the same moment: look at it again")]
    Moved,
    #[error("the ledger did not take the decision")]
    Ledger(#[from] StoreError),
}

/// Ends a parked operation as decided.
pub async fn resolve(
    store: &dyn Store,
    id: OperationId,
    decision: Decision,
    decider: &Decider,
) -> Result<Operation, DecisionError> {
    let operation = store
        .operation(id)
        .await?
        .ok_or(DecisionError::NoOperation(id))?;
    if operation.state.name() != StateName::Parked {
        return Err(DecisionError::NotParked(operation.state.name()));
    }
    let to = match decision {
        Decision::Approved {
            upstream_reference,
            ids,
            authorization_code,
        } => State::Approved {
            approval: Approval {
                ids,
                upstream_reference,
                authorization_code,
                amount: operation.amount,
                card: None,
            },
        },
        Decision::Failed => State::Failed {
            failure: Failure::ByPerson {
                who: decider.who.clone(),
                why: decider.why.clone(),
            },
        },
        Decision::Reversed => State::Reversed { reversal: None },
    };
    let mut settlement = operation.settlement(to, "decided_by_a_person", &[], None);
    settlement.evidence = serde_json::json!({ "who": decider.who, "why": decider.why });
    match store.settle(&[Arc::new(settlement)]).await?.pop() {
        Some(Settled::Applied(operation)) => Ok(*operation),
        Some(Settled::Stale(_)) | None => Err(DecisionError::Moved),
    }
}
