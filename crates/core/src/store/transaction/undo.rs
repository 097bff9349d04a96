//! The wish to undo a create, and the start of the reversal that fulfils it.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Change, NewEvent, Transaction, facts, horizon_after_send, locked_payment, one_operation, sum,
    take_away, transition, unclaimed,
};
use crate::clock::Timestamp;
use crate::connector::{ReversalForm, UpstreamIds};
use crate::idempotency::StoredFingerprint;
use crate::key::{AccountName, IdempotencyKey, OperationId};
use crate::money::{Currency, Money};
use crate::operation::{Reserved, State, StateName, Verb, effects};
use crate::payment::Payment;
use crate::store::row::{Held, Parent};
use crate::store::{
    CancelRecorded, CancelWish, EventKind, Operation, ReversalBegun, ReversalIntent, StoreError,
};

/// Records the wish, whatever the key did so far. The index on (client, key) decides against a create that races.
pub async fn cancel<T: Transaction>(
    tx: &mut T,
    wish: &CancelWish,
) -> Result<CancelRecorded, StoreError> {
    let now = tx.now();
    let stone = tombstone(wish, now)?;
    if tx.claim(&stone).await? {
        let nothing = NewEvent {
            kind: EventKind::CancelRequested,
            operation: &stone.operation,
            from: None,
            to: None,
            payment_status: None,
            reason: "cancelled before it was seen",
            evidence: &Value::Null,
        };
        tx.add_event(&nothing).await?;
        return Ok(CancelRecorded::Wished(Box::new(stone.operation)));
    }
    let Some(mut row) = tx.operation_by_key(&wish.client, &wish.key).await? else {
        return Err(unclaimed(tx.is_taken(&wish.reference).await?));
    };
    let operation = &mut row.operation;
    let tombstone = operation.attempt == 0;
    if !operation.verb.is_create() && !tombstone {
        return Ok(CancelRecorded::NotACreate(Box::new(row.operation)));
    }
    if operation.cancel_requested_at.is_some() {
        return Ok(CancelRecorded::Wished(Box::new(row.operation)));
    }
    operation.cancel_requested_at = Some(now);
    let requested = NewEvent {
        kind: EventKind::CancelRequested,
        operation: &row.operation,
        from: None,
        to: None,
        payment_status: None,
        reason: "cancellation requested",
        evidence: &Value::Null,
    };
    tx.add_event(&requested).await?;

    let operation = &mut row.operation;
    match operation.state.name() {
        #[cfg(feature = "sabotage")]
        StateName::Recorded if sabotaged!(CancelNotReadAtSettle) => {
            tx.write_operation(&row).await?;
        }
        StateName::Recorded => {
            operation.epoch += 1;
            take_away(tx, &mut row, wish.check_after, "cancellation requested").await?;
        }
        // Whoever was asked undoes it: its owner may have left, and what nobody owns nobody checks.
        StateName::Unknown | StateName::Parked => {
            operation.epoch += 1;
            operation.owner = wish.owner;
            operation.due_at = Some(now + wish.check_after);
            tx.write_operation(&row).await?;
        }
        StateName::NotSent => {
            operation.epoch += 1;
            let effects = effects(&facts(operation), StateName::NotSent, StateName::Cancelled)
                .map_err(|error| StoreError::Refused(Box::new(error)))?;
            let change = Change {
                to: State::Cancelled,
                effects: &effects,
                check_after: None,
                reason: "cancelled before anything was sent",
                evidence: &Value::Null,
            };
            transition(tx, &mut row, change).await?;
        }
        StateName::Approved => {
            operation.epoch += 1;
            operation.owner = wish.owner;
            operation.due_at = Some(now);
            tx.write_operation(&row).await?;
        }
        // Without effect already: the wish only changes what callers are told.
        StateName::Declined | StateName::Failed | StateName::Reversed | StateName::Cancelled => {
            tx.write_operation(&row).await?;
        }
    }
    Ok(CancelRecorded::Wished(Box::new(row.operation)))
}

/// The row of a key that was cancelled before it was seen. Its verb, account and amount are nobody's; attempt 0 says so.
fn tombstone(wish: &CancelWish, now: Timestamp) -> Result<Held, StoreError> {
    let currency = Currency::parse("USD").map_err(|error| StoreError::Refused(Box::new(error)))?;
    let operation = Operation {
        id: wish.operation,
        client: wish.client.clone(),
        key: wish.key.clone(),
        verb: Verb::Sale,
        payment: None,
        account: AccountName::from_stored(""),
        endpoint: String::new(),
        amount: Money::zero(currency),
        state: State::Cancelled,
        attempt: 0,
        sends: 0,
        epoch: 1,
        claim: Uuid::nil(),
        reference: wish.reference.clone(),
        fingerprint: StoredFingerprint {
            version: 0,
            key_id: 0,
            digest: [0; 32],
        },
        order_reference: None,
        statement_descriptor: None,
        owner: wish.owner,
        reserved: Reserved::default(),
        holds_while_unknown: false,
        first_attempt_at: now,
        recorded_at: now,
        send_by: now,
        deadline: now,
        late_after: now,
        read_at: now,
        settled_at: Some(now),
        cancel_requested_at: Some(now),
        prepared: None,
        reverses: None,
        reversal_form: None,
        snapshot: None,
        late: None,
        checks: 0,
        due_at: None,
        parent: UpstreamIds::default(),
        parent_reference: None,
        parent_card: None,
    };
    Ok(Held {
        operation,
        horizon: Duration::ZERO,
    })
}

/// Writes the reversal's own record before anything of it is sent, or counts one more send of it.
pub async fn begin_reversal<T: Transaction>(
    tx: &mut T,
    wanted: &ReversalIntent,
) -> Result<ReversalBegun, StoreError> {
    let Some(mut of) = one_operation(tx, wanted.of).await? else {
        return Err(StoreError::Refused(
            "a reversal of an operation that is not there".into(),
        ));
    };
    let existing = tx.reversal_of(wanted.of).await?;
    if of.operation.epoch != wanted.epoch {
        return Ok(repeated(wanted, of, existing));
    }
    if !may_be_reversed(&of.operation) {
        return Ok(ReversalBegun::Stale);
    }
    let mut payment = match of.operation.payment {
        Some(id) => Some(locked_payment(tx, id).await?),
        None => None,
    };
    let begun = match existing {
        Some(reversal) => send_again(tx, wanted, reversal, payment.as_mut()).await?,
        None => send_first(tx, wanted, &of, payment.as_mut()).await?,
    };
    let mut reversal = match begun {
        Ok(reversal) => reversal,
        Err(answer) => return Ok(answer),
    };
    of.operation.epoch += i64::from(!sabotaged!(ReversalKeepsEpoch));
    of.operation.owner = wanted.owner;
    tx.write_operation(&of).await?;
    if let Some(payment) = &payment {
        if wanted.reserve.is_some() {
            tx.write_payment(payment).await?;
        }
        Parent::of(payment).give_to(&mut reversal.operation);
    }
    Ok(ReversalBegun::Send {
        reversal: Box::new(reversal.operation),
        of: Box::new(of.operation),
    })
}

/// A settlement leaves the epoch as it was: what was unknown when the reversal was decided may have become an approval
/// that callers were told of, and that only a cancellation undoes.
fn may_be_reversed(of: &Operation) -> bool {
    match of.state.name() {
        StateName::Unknown | StateName::Parked => true,
        StateName::Approved => of.cancel_requested_at.is_some() && of.due_at.is_some(),
        StateName::Recorded
        | StateName::NotSent
        | StateName::Declined
        | StateName::Failed
        | StateName::Reversed
        | StateName::Cancelled => false,
    }
}

/// The epoch moved. If this very call moved it, and nothing happened since, its acknowledgement was lost.
fn repeated(wanted: &ReversalIntent, of: Held, existing: Option<Held>) -> ReversalBegun {
    match existing.map(|row| row.operation) {
        Some(reversal)
            if reversal.claim == wanted.operation.uuid()
                && !reversal.state.is_final()
                && reversal.state.name() != StateName::NotSent
                && of.operation.epoch == wanted.epoch + 1
                && reversal.owner == wanted.owner =>
        {
            ReversalBegun::Send {
                reversal: Box::new(reversal),
                of: Box::new(of.operation),
            }
        }
        _ => ReversalBegun::Stale,
    }
}

type Begun = Result<Held, ReversalBegun>;

async fn send_first<T: Transaction>(
    tx: &mut T,
    wanted: &ReversalIntent,
    of: &Held,
    payment: Option<&mut Payment>,
) -> Result<Begun, StoreError> {
    let mut reversal = first_record(wanted, of, tx.now())?;
    if !reserve(&mut reversal, wanted, payment)? {
        return Ok(Err(ReversalBegun::Busy));
    }
    if !tx.claim(&reversal).await? {
        return Err(unclaimed(tx.is_taken(&wanted.reference).await?));
    }
    note_send(tx, &reversal, None).await?;
    Ok(Ok(reversal))
}

async fn send_again<T: Transaction>(
    tx: &mut T,
    wanted: &ReversalIntent,
    mut reversal: Held,
    payment: Option<&mut Payment>,
) -> Result<Begun, StoreError> {
    let operation = &mut reversal.operation;
    let state = operation.state.name();
    if state.is_final() {
        return Ok(Err(ReversalBegun::Ended {
            reversal: Box::new(reversal.operation),
        }));
    }
    let sent = state != StateName::NotSent;
    // A second return is a second payment to the cardholder, and so is a void after a return of unknown outcome.
    if sent
        && matches!(operation.reversal_form, Some(ReversalForm::Refund { .. }))
        && !sabotaged!(SecondReturn)
    {
        return Ok(Err(ReversalBegun::AlreadySent {
            reversal: Box::new(reversal.operation),
        }));
    }
    operation.reversal_form = Some(wanted.form.clone());
    // Names the call: if its acknowledgement is lost, the next one tells it by this.
    operation.claim = wanted.operation.uuid();
    operation.owner = wanted.owner;
    operation.epoch += 1;
    let now = tx.now();
    let from = if sent {
        operation.sends += 1;
        None
    } else {
        operation.state = State::Recorded;
        operation.attempt += 1;
        operation.sends = 1;
        operation.recorded_at = now;
        Some(StateName::NotSent)
    };
    if operation.state == State::Recorded {
        (operation.send_by, operation.deadline) = spans(operation, now);
    }
    reversal.operation.late_after = horizon_after_send(&reversal, now);
    if !reserve(&mut reversal, wanted, payment)? {
        return Ok(Err(ReversalBegun::Busy));
    }
    tx.write_operation(&reversal).await?;
    note_send(tx, &reversal, from).await?;
    Ok(Ok(reversal))
}

/// Takes back the count of a send that provably did not leave. What went before it did: only that may still arrive.
pub async fn uncount_send<T: Transaction>(
    tx: &mut T,
    reversal: OperationId,
    epoch: i64,
) -> Result<Option<Operation>, StoreError> {
    let Some(mut row) = one_operation(tx, reversal).await? else {
        return Ok(None);
    };
    let operation = &mut row.operation;
    let over = operation.state.is_final() || operation.state.name() == StateName::NotSent;
    if operation.verb != Verb::Reversal || operation.epoch != epoch || over || operation.sends < 2 {
        return Ok(None);
    }
    operation.sends -= 1;
    operation.epoch += 1;
    // A refund form is never sent after another one: what remains counted was something else.
    if matches!(operation.reversal_form, Some(ReversalForm::Refund { .. })) {
        operation.reversal_form = Some(ReversalForm::ByReference);
    }
    tx.write_operation(&row).await?;
    let operation = &row.operation;
    let evidence = json!({ "form": operation.reversal_form, "sends": operation.sends });
    let event = NewEvent {
        kind: EventKind::Send,
        operation,
        from: None,
        to: None,
        payment_status: None,
        reason: "did not leave",
        evidence: &evidence,
    };
    tx.add_event(&event).await?;
    Ok(Some(row.operation))
}

/// Takes what is to be reversed, and the payment with it. `false`: a follow-up has it.
fn reserve(
    reversal: &mut Held,
    wanted: &ReversalIntent,
    payment: Option<&mut Payment>,
) -> Result<bool, StoreError> {
    let operation = &mut reversal.operation;
    let (Some(reserve), Some(payment)) = (wanted.reserve, payment) else {
        return Ok(true);
    };
    if payment.busy_with.is_some_and(|with| with != operation.id) {
        return Ok(false);
    }
    if operation.reserved == Reserved::default() {
        let free = |total: i64, used: i64, reserved: i64| total - used - reserved;
        let to_capture = free(
            payment.authorized,
            payment.captured,
            payment.capture_reserved,
        );
        let to_refund = free(payment.captured, payment.refunded, payment.refund_reserved);
        if payment.voided || reserve.capture > to_capture || reserve.refund > to_refund {
            return Ok(false);
        }
        operation.reserved = reserve;
        payment.capture_reserved = sum(payment.capture_reserved, reserve.capture)?;
        payment.refund_reserved = sum(payment.refund_reserved, reserve.refund)?;
    }
    payment.busy_with = Some(operation.id);
    payment.version += 1;
    Ok(true)
}

/// The bounds of one call, as long as those of the operation it follows: the account's timeouts are the same.
fn spans(like: &Operation, now: Timestamp) -> (Timestamp, Timestamp) {
    let send_by = now + like.send_within();
    (send_by, send_by + like.send_within())
}

fn first_record(wanted: &ReversalIntent, of: &Held, now: Timestamp) -> Result<Held, StoreError> {
    let before = &of.operation;
    let (send_by, deadline) = spans(before, now);
    let minor = match (&wanted.form, wanted.reserve) {
        (ReversalForm::Refund { amount, .. }, _) => *amount,
        (_, Some(reserve)) => sum(reserve.capture, reserve.refund)?,
        (ReversalForm::ByReference | ReversalForm::Void { .. }, None) => before.amount.minor(),
    };
    let amount = Money::new(minor, before.amount.currency())
        .map_err(|error| StoreError::Refused(Box::new(error)))?;
    let operation = Operation {
        id: wanted.operation,
        key: key_of_reversal(before.id),
        verb: Verb::Reversal,
        amount,
        state: State::Recorded,
        attempt: 1,
        sends: 1,
        epoch: 1,
        claim: wanted.operation.uuid(),
        reference: wanted.reference.clone(),
        owner: wanted.owner,
        reserved: Reserved::default(),
        // Nobody else touches the payment until it is known what this did.
        holds_while_unknown: true,
        first_attempt_at: now,
        recorded_at: now,
        send_by,
        deadline,
        late_after: send_by + of.horizon,
        read_at: now,
        settled_at: None,
        cancel_requested_at: None,
        prepared: None,
        reverses: Some(before.id),
        reversal_form: Some(wanted.form.clone()),
        snapshot: None,
        late: None,
        checks: 0,
        // What it reverses is due, and drives it.
        due_at: None,
        ..before.clone()
    };
    Ok(Held {
        operation,
        horizon: of.horizon,
    })
}

/// No caller can send this key: theirs are ASCII. Sorts behind every one of them, so that the reversed operation is
/// locked first.
fn key_of_reversal(of: OperationId) -> IdempotencyKey {
    IdempotencyKey::from_stored(&format!("\u{21a9}{of}"))
}

async fn note_send<T: Transaction>(
    tx: &mut T,
    reversal: &Held,
    from: Option<StateName>,
) -> Result<(), StoreError> {
    let operation = &reversal.operation;
    let evidence = json!({ "form": operation.reversal_form, "sends": operation.sends });
    let begins = operation.state == State::Recorded && operation.sends == 1;
    let event = NewEvent {
        kind: if begins {
            EventKind::Transition
        } else {
            EventKind::Send
        },
        operation,
        from,
        to: begins.then_some(StateName::Recorded),
        payment_status: None,
        reason: "reversal",
        evidence: &evidence,
    };
    tx.add_event(&event).await
}
