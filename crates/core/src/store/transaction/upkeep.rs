//! What keeps open operations moving: adoption, the next check, one more send.

use serde_json::json;

use super::{NewEvent, Transaction, horizon_after_send, no_more_sends, one_operation, take_away};
use crate::key::{OperationId, ReplicaId};
use crate::operation::{State, StateName};
use crate::store::row::Held;
use crate::store::{Check, EventKind, Operation, StoreError};

/// Why an operation is taken from its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Its owner has not beaten for so long that it may send nothing any more.
    Silent,
    /// Past its deadline, given up, or of an owner that is not there: nothing is known of what that may still do.
    Overdue,
}

impl Adoption {
    const fn reason(self) -> &'static str {
        match self {
            Self::Silent => "its replica is silent",
            Self::Overdue => "past its deadline",
        }
    }
}

/// Makes `rows`, locked by this transaction, ours: what was Recorded becomes Unknown, and all are due now.
pub async fn adopt<T: Transaction>(
    tx: &mut T,
    me: ReplicaId,
    mut rows: Vec<Held>,
    adoption: Adoption,
) -> Result<Vec<Operation>, StoreError> {
    rows.sort_by_key(|row| row.operation.payment);
    let (now, reason) = (tx.now(), adoption.reason());
    let mut adopted = Vec::with_capacity(rows.len());
    for mut row in rows {
        let from = row.operation.owner;
        row.operation.owner = me;
        row.operation.epoch +=
            i64::from(!(sabotaged!(AdoptWithoutEpoch) || sabotaged!(ReversalKeepsEpoch)));
        if adoption == Adoption::Silent {
            no_more_sends(&mut row, now);
        }
        if row.operation.state == State::Recorded {
            take_away(tx, &mut row, std::time::Duration::ZERO, reason).await?;
        } else {
            row.operation.due_at = Some(now);
            tx.write_operation(&row).await?;
        }
        let evidence = json!({ "from": from, "to": me, "epoch": row.operation.epoch });
        let event = NewEvent {
            kind: EventKind::Adopted,
            operation: &row.operation,
            from: None,
            to: None,
            payment_status: None,
            reason,
            evidence: &evidence,
        };
        tx.add_event(&event).await?;
        adopted.push(row.operation);
    }
    Ok(adopted)
}

/// Sets the next check. `None`: the epoch moved, or there is nothing left to check.
pub async fn reschedule<T: Transaction>(
    tx: &mut T,
    check: &Check,
) -> Result<Option<()>, StoreError> {
    let Some(mut row) = one_operation(tx, check.operation).await? else {
        return Ok(None);
    };
    let operation = &mut row.operation;
    let undone = operation.state.name() == StateName::Approved && operation.due_at.is_some();
    let open = matches!(
        operation.state.name(),
        StateName::Unknown | StateName::Parked
    ) || undone;
    if operation.epoch != check.epoch || !open {
        return Ok(None);
    }
    operation.owner = check.owner;
    operation.due_at = check.next_after.map(|after| tx.now() + after);
    operation.checks = operation.checks.saturating_add(1);
    if check.sent {
        no_more_sends(&mut row, tx.now());
    }
    tx.write_operation(&row).await?;
    let event = NewEvent {
        kind: EventKind::Checked,
        operation: &row.operation,
        from: None,
        to: None,
        payment_status: None,
        reason: check.reason,
        evidence: &check.evidence,
    };
    tx.add_event(&event).await?;
    Ok(Some(()))
}

/// Counts a send before it happens. `None`: the epoch moved, or nothing may be sent any more.
pub async fn count_send<T: Transaction>(
    tx: &mut T,
    id: OperationId,
    epoch: i64,
    owner: ReplicaId,
) -> Result<Option<Operation>, StoreError> {
    let Some(mut row) = one_operation(tx, id).await? else {
        return Ok(None);
    };
    let operation = &row.operation;
    let over = operation.state.is_final() || operation.state.name() == StateName::NotSent;
    if operation.epoch != epoch || over {
        return Ok(None);
    }
    let late_after = horizon_after_send(&row, tx.now());
    let operation = &mut row.operation;
    operation.owner = owner;
    operation.sends = operation.sends.saturating_add(1);
    operation.late_after = late_after;
    tx.write_operation(&row).await?;
    let evidence = json!({ "sends": row.operation.sends });
    let event = NewEvent {
        kind: EventKind::Send,
        operation: &row.operation,
        from: None,
        to: None,
        payment_status: None,
        reason: "sent again",
        evidence: &evidence,
    };
    tx.add_event(&event).await?;
    Ok(Some(row.operation))
}
