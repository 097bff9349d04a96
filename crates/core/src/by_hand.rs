//! A person's decision about an operation that no machine could decide: the same rules, with who and why in the ledger.

use std::sync::Arc;
use std::time::Duration;

use crate::connector::{Approval, UpstreamIds};
use crate::key::OperationId;
use crate::operation::{Failure, State, StateName};
use crate::pan_scan::contains_pan;
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
    #[error("who and why must be said, and no text may hold a card number")]
    Words,
    #[error("an executed operation needs the processor's own id of it")]
    NoReference,
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
    let words = [&decider.who, &decider.why];
    if words
        .iter()
        .any(|text| text.trim().is_empty() || contains_pan(text))
    {
        return Err(DecisionError::Words);
    }
    let to = match decision {
        Decision::Approved {
            upstream_reference,
            ids,
            authorization_code,
        } if upstream_reference.is_empty()
            || contains_pan(&upstream_reference)
            || authorization_code.as_deref().is_some_and(contains_pan)
            || ids
                .0
                .iter()
                .any(|(name, id)| contains_pan(name) || contains_pan(id)) =>
        {
            return Err(DecisionError::NoReference);
        }
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
    // Approved though its caller cancelled: the resolver undoes it, as it would have.
    let undo = operation.cancel_requested_at.is_some() && to.name() == StateName::Approved;
    let check_after = undo.then_some(Duration::ZERO);
    let mut settlement = operation.settlement(to, "decided_by_a_person", &[], check_after);
    settlement.evidence = serde_json::json!({ "who": decider.who, "why": decider.why });
    let decided = match store.settle(&[Arc::new(settlement)]).await?.pop() {
        Some(Settled::Applied(operation)) => *operation,
        Some(Settled::Stale(_)) | None => return Err(DecisionError::Moved),
    };
    if !undo {
        end_reversal(store, id, decider).await?;
    }
    Ok(decided)
}

/// Nothing asks any more what became of a reversal whose operation a person ended: it ends with it. Stale is well: somebody
/// learned just now how it ended.
async fn end_reversal(
    store: &dyn Store,
    of: OperationId,
    decider: &Decider,
) -> Result<(), DecisionError> {
    let Some(reversal) = store.reversal_of(of).await? else {
        return Ok(());
    };
    if reversal.state.is_final() || reversal.state.name() == StateName::NotSent {
        return Ok(());
    }
    let to = State::Failed {
        failure: Failure::ByPerson {
            who: decider.who.clone(),
            why: decider.why.clone(),
        },
    };
    let mut settlement = reversal.settlement(to, "decided_by_a_person", &[], None);
    settlement.evidence = serde_json::json!({ "who": decider.who, "why": decider.why });
    store.settle(&[Arc::new(settlement)]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::connector::ReversalForm;
    use crate::operation::ParkedReason;
    use crate::payment::PaymentStatus;
    use crate::store::SqliteStore;
    use crate::store::contract::{
        Ledger, begin, charged, end, payment_of, read, reversal, sale, unknown, wish,
    };

    /// A ledger in a file of its own, which the system removes with its temporary files.
    async fn ledger() -> Ledger {
        let file = format!("quittance-by-hand-{}.sqlite", Uuid::new_v4().simple());
        let store = SqliteStore::open(&std::env::temp_dir().join(file))
            .await
            .expect("opens");
        store.migrate().await.expect("migrations apply");
        Arc::new(store)
    }

    async fn parked(ledger: &Ledger) -> Operation {
        let begun = begin(ledger, sale("k", 1_000)).await;
        let open = end(ledger, &begun, unknown()).await;
        end(
            ledger,
            &open,
            State::Parked {
                parked: ParkedReason::NoAnswer,
            },
        )
        .await
    }

    fn approved() -> Decision {
        Decision::Approved {
            upstream_reference: "guid-9".to_owned(),
            ids: UpstreamIds::default().with("sale", "guid-9"),
            authorization_code: None,
        }
    }

    fn jane(why: &str) -> Decider {
        Decider {
            who: "jane".to_owned(),
            why: why.to_owned(),
        }
    }

    #[tokio::test]
    async fn each_decision_ends_the_operation_and_its_payment() {
        for (decision, state, status) in [
            (approved(), StateName::Approved, PaymentStatus::Captured),
            (Decision::Failed, StateName::Failed, PaymentStatus::Failed),
            (
                Decision::Reversed,
                StateName::Reversed,
                PaymentStatus::Reversed,
            ),
        ] {
            let ledger = ledger().await;
            let open = parked(&ledger).await;
            let decided = resolve(&*ledger, open.id, decision, &jane("seen in their portal")).await;
            let decided = decided.expect("taken");
            assert_eq!((decided.state.name(), decided.due_at), (state, None));
            assert_eq!(payment_of(&ledger, &open).await.status, status);
            let timeline = ledger.timeline(open.id).await.expect("readable");
            let last = timeline.last().expect("an event");
            assert_eq!(last.evidence["who"], "jane");
            assert_eq!(last.evidence["why"], "seen in their portal");
        }
    }

    #[tokio::test]
    async fn what_is_not_parked_or_not_explained_is_refused() {
        let ledger = ledger().await;
        let sold = charged(&ledger, "sold", 1_000).await;
        let refused = resolve(&*ledger, sold.id, Decision::Failed, &jane("because")).await;
        assert!(matches!(
            refused,
            Err(DecisionError::NotParked(StateName::Approved))
        ));
        let open = parked(&ledger).await;
        for why in ["", " ", "the card is 4012000098765439"] {
            let refused = resolve(&*ledger, open.id, Decision::Failed, &jane(why)).await;
            assert!(matches!(refused, Err(DecisionError::Words)), "{why:?}");
        }
        let nameless = Decision::Approved {
            upstream_reference: String::new(),
            ids: UpstreamIds::default(),
            authorization_code: None,
        };
        let refused = resolve(&*ledger, open.id, nameless, &jane("because")).await;
        assert!(matches!(refused, Err(DecisionError::NoReference)));
        assert_eq!(read(&ledger, open.id).await.state.name(), StateName::Parked);
    }

    #[tokio::test]
    async fn a_reversal_ends_with_what_it_was_to_undo() {
        let ledger = ledger().await;
        let open = parked(&ledger).await;
        let wanted = reversal(&open, ReversalForm::ByReference, None);
        ledger.begin_reversal(&wanted).await.expect("recorded");
        let open = read(&ledger, open.id).await;
        let decided = resolve(&*ledger, open.id, Decision::Failed, &jane("not there")).await;
        assert_eq!(decided.expect("taken").state.name(), StateName::Failed);
        let ended = ledger.reversal_of(open.id).await.expect("readable");
        let ended = ended.expect("begun");
        assert_eq!(ended.state.name(), StateName::Failed);
        let timeline = ledger.timeline(ended.id).await.expect("readable");
        assert_eq!(timeline.last().expect("an event").evidence["who"], "jane");
    }

    #[tokio::test]
    async fn a_cancelled_create_that_was_executed_is_due_to_be_undone() {
        let ledger = ledger().await;
        let open = parked(&ledger).await;
        ledger.cancel(&wish("k")).await.expect("recorded");
        let decided = resolve(&*ledger, open.id, approved(), &jane("it is in their books")).await;
        assert!(decided.expect("taken").due_at.is_some());
    }
}
