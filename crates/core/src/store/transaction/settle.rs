//! Commit 2 under row locks: a transition, on condition of the epoch, or the evidence that it came too late.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::{Change, NewEvent, Transaction, no_more_sends, transition};
use crate::operation::{State, StateName};
use crate::store::row::Held;
use crate::store::{EventKind, LateAnswer, Settled, Settlement, StoreError};

/// Applies `settlements`, in their order. All of them or, on an error, none.
pub async fn settle<T: Transaction>(
    tx: &mut T,
    settlements: &[Arc<Settlement>],
) -> Result<Vec<Settled>, StoreError> {
    let ids: Vec<_> = settlements
        .iter()
        .map(|settlement| settlement.operation)
        .collect();
    let mut rows: HashMap<_, _> = HashMap::with_capacity(ids.len());
    for row in tx.operations(&ids).await? {
        rows.insert(row.operation.id, row);
    }
    let mut by_payment: Vec<usize> = (0..settlements.len()).collect();
    by_payment.sort_by_key(|&i| settlements[i].payment);
    let mut answers: Vec<Option<Settled>> = settlements.iter().map(|_| None).collect();
    for i in by_payment {
        let Some(row) = rows.remove(&settlements[i].operation) else {
            return Err(StoreError::Refused(
                "a settlement of an operation that is not there".into(),
            ));
        };
        answers[i] = Some(settle_one(tx, row, &settlements[i]).await?);
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.expect("each settlement has a row"))
        .collect())
}

async fn settle_one<T: Transaction>(
    tx: &mut T,
    mut row: Held,
    settlement: &Settlement,
) -> Result<Settled, StoreError> {
    let operation = &row.operation;
    let mine = operation.epoch == settlement.epoch || sabotaged!(SettleWithoutEpoch);
    let is_final = operation.state.is_final();
    let as_left = operation.state.name() == settlement.from
        || sabotaged!(AdoptWithoutEpoch)
        || sabotaged!(ReversalKeepsEpoch)
            && operation.state.name().may_become(settlement.to.name());
    if mine && !is_final && as_left {
        if operation.state == State::Recorded && settlement.to.name() == StateName::Unknown {
            no_more_sends(&mut row, tx.now());
        }
        let change = Change {
            to: settlement.to.clone(),
            effects: &settlement.effects,
            check_after: settlement.check_after,
            reason: settlement.reason,
            evidence: &settlement.evidence,
        };
        transition(tx, &mut row, change).await?;
        return Ok(Settled::Applied(Box::new(row.operation)));
    }
    // The same end, to the last detail: an earlier try whose acknowledgement was lost. A final state never changes, so
    // whoever wrote it, this is what the record says.
    if operation.state == settlement.to && (mine || is_final) {
        return Ok(Settled::Applied(Box::new(row.operation)));
    }
    #[cfg(feature = "sabotage")]
    if is_final && sabotaged!(LateSettleOverwrites) {
        row.operation.state = settlement.to.clone();
        tx.write_operation(&row).await?;
        return Ok(Settled::Applied(Box::new(row.operation)));
    }
    keep_late(tx, &mut row, settlement).await?;
    Ok(Settled::Stale(Box::new(row.operation)))
}

async fn keep_late<T: Transaction>(
    tx: &mut T,
    row: &mut Held,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let now = tx.now();
    let answer = LateAnswer {
        state: settlement.to.clone(),
        attempt: settlement.attempt,
        sends: settlement.sends,
        at: now,
    };
    let operation = &mut row.operation;
    let open = !operation.state.is_final() && operation.state.name() != StateName::NotSent;
    // An answer to an earlier attempt says nothing of this one, which may have been sent.
    let of_this = settlement.attempt == operation.attempt;
    let outweighs = |kept: &LateAnswer| weight(&answer.state) >= weight(&kept.state);
    if open && of_this && operation.late.as_ref().is_none_or(outweighs) {
        operation.late = Some(answer);
        // A reversal is never due itself. What is Recorded was claimed again, and is due at its deadline.
        if operation.due_at.is_some() && operation.state != State::Recorded {
            operation.due_at = Some(now);
        }
        tx.write_operation(row).await?;
    }
    let evidence = json!({
        "answer": settlement.to, "epoch": settlement.epoch, "attempt": settlement.attempt, "sends": settlement.sends,
        "evidence": settlement.evidence,
    });
    let event = NewEvent {
        kind: EventKind::LateAnswer,
        operation: &row.operation,
        from: None,
        to: None,
        payment_status: None,
        reason: settlement.reason,
        evidence: &evidence,
    };
    tx.add_event(&event).await
}

/// An answer never gives way to one that says less.
fn weight(state: &State) -> u8 {
    match state.name() {
        StateName::Approved => 3,
        StateName::Declined | StateName::Failed | StateName::Reversed | StateName::Cancelled => 2,
        StateName::NotSent => 1,
        StateName::Recorded | StateName::Unknown | StateName::Parked => 0,
    }
}
