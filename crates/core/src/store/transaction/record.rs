//! Commit 1 under row locks: every way a key can be claimed, and every way it can be refused.

use std::sync::Arc;

use serde_json::Value;

use super::{LiveCreate, NewEvent, Transaction, locked_payment, sum, unclaimed};
use crate::clock::Timestamp;
use crate::connector::UpstreamIds;
use crate::operation::{Reserved, State, StateName};
use crate::payment::{Payment, PaymentStatus};
use crate::store::row::{Held, Parent};
use crate::store::{EventKind, Intent, IntentKind, Operation, Recorded, StoreError};

/// How a key was won.
enum Won {
    /// It was free: the row is inserted.
    New(Held),
    /// Its holder had sent nothing: the row is locked, and still as it was.
    Again(Held),
}

/// Records `intents`, in their order. All of them or, on an error, none.
pub async fn record<T: Transaction>(
    tx: &mut T,
    intents: &[Arc<Intent>],
) -> Result<Vec<Recorded>, StoreError> {
    let mut orders: Vec<_> = intents
        .iter()
        .filter_map(|intent| guarded_order(intent))
        .collect();
    orders.sort_unstable();
    orders.dedup();
    for (account, order) in orders {
        tx.lock_order(account, order).await?;
    }

    let mut by_key: Vec<usize> = (0..intents.len()).collect();
    by_key.sort_unstable_by_key(|&i| (&intents[i].client, &intents[i].key));
    let mut answers: Vec<Option<Recorded>> = intents.iter().map(|_| None).collect();
    let mut won = Vec::with_capacity(intents.len());
    for i in by_key {
        match claim(tx, &intents[i]).await? {
            Ok(row) => won.push((i, row)),
            Err(answer) => answers[i] = Some(answer),
        }
    }

    won.sort_by_key(|(i, row)| payment_of(row).or(intents[*i].payment()));
    for (i, row) in won {
        let intent = &intents[i];
        let again = matches!(row, Won::Again(_));
        let id = operation_of(&row).id;
        let answer = match &intent.kind {
            IntentKind::Verification => begin(tx, intent, row, None).await?,
            IntentKind::Create { once_per_order, .. } => {
                create(tx, intent, row, *once_per_order).await?
            }
            IntentKind::FollowUp { .. } => follow_up(tx, intent, row).await?,
        };
        // What is refused leaves no claim behind.
        if !again && !matches!(answer, Recorded::New(_)) {
            tx.unclaim(id).await?;
        }
        answers[i] = Some(answer);
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.expect("each intent was either refused its key or won it"))
        .collect())
}

fn guarded_order(
    intent: &Intent,
) -> Option<(&crate::key::AccountName, &crate::key::OrderReference)> {
    let guarded = matches!(
        intent.kind,
        IntentKind::Create {
            once_per_order: true,
            ..
        }
    );
    let order = intent.order_reference.as_ref().filter(|_| guarded)?;
    Some((&intent.account, order))
}

fn operation_of(won: &Won) -> &Operation {
    let (Won::New(row) | Won::Again(row)) = won;
    &row.operation
}

fn payment_of(won: &Won) -> Option<crate::key::PaymentId> {
    operation_of(won).payment
}

async fn claim<T: Transaction>(
    tx: &mut T,
    intent: &Intent,
) -> Result<Result<Won, Recorded>, StoreError> {
    let row = claimed(intent, tx.now());
    if tx.claim(&row).await? {
        return Ok(Ok(Won::New(row)));
    }
    // A second statement: the first cannot see who won.
    let Some(holder) = tx.operation_by_key(&intent.client, &intent.key).await? else {
        return Err(unclaimed(tx.is_taken(&intent.reference).await?));
    };
    Ok(match reading_of_holder(intent, &holder.operation) {
        Some(answer) => Err(answer(Box::new(holder.operation))),
        None => Ok(Won::Again(holder)),
    })
}

/// What the holder of our key means for us. `None`: it had sent nothing and is ours to claim again.
pub(in crate::store) fn reading_of_holder(
    intent: &Intent,
    holder: &Operation,
) -> Option<fn(Box<Operation>) -> Recorded> {
    if holder.claim == intent.claim && holder.state == State::Recorded {
        // Our own row: the acknowledgement was lost.
        return Some(Recorded::New);
    }
    if holder.state.name() != StateName::NotSent {
        return Some(Recorded::Known);
    }
    if intent.is_same_request_as(holder) {
        None
    } else {
        Some(Recorded::Reused)
    }
}

/// The row of a key that is claimed for the first time.
pub(in crate::store) fn claimed(intent: &Intent, now: Timestamp) -> Held {
    let send_by = now + intent.send_within;
    let deadline = send_by + intent.deadline_after;
    let (prepared, reserved) = match &intent.kind {
        IntentKind::FollowUp {
            prepared, reserve, ..
        } => (prepared.clone(), taken(*reserve)),
        IntentKind::Create { .. } | IntentKind::Verification => (None, Reserved::default()),
    };
    let create = matches!(intent.kind, IntentKind::Create { .. });
    let operation = Operation {
        id: intent.operation,
        client: intent.client.clone(),
        key: intent.key.clone(),
        verb: intent.verb,
        payment: intent.payment(),
        account: intent.account.clone(),
        endpoint: intent.endpoint.clone(),
        amount: intent.amount,
        state: State::Recorded,
        attempt: 1,
        sends: 1,
        epoch: 1,
        claim: intent.claim,
        reference: intent.reference.clone(),
        fingerprint: intent.fingerprint,
        order_reference: intent.order_reference.clone(),
        statement_descriptor: intent.statement_descriptor.clone(),
        owner: intent.owner,
        reserved,
        holds_while_unknown: intent.holds_while_unknown,
        first_attempt_at: now,
        recorded_at: now,
        send_by,
        deadline,
        late_after: send_by + intent.late_arrival_horizon,
        read_at: now,
        settled_at: None,
        cancel_requested_at: None,
        prepared,
        reverses: None,
        reversal_form: None,
        snapshot: None,
        late: None,
        checks: 0,
        due_at: Some(deadline),
        parent: UpstreamIds::default(),
        // A create is its payment's own reference.
        parent_reference: create.then(|| intent.reference.clone()),
        parent_card: None,
    };
    Held {
        operation,
        horizon: intent.late_arrival_horizon,
    }
}

/// The row of a key whose last attempt sent nothing: another attempt, under the same reference.
fn claimed_again(intent: &Intent, holder: Held, now: Timestamp) -> Held {
    let fresh = claimed(intent, now);
    let before = holder.operation;
    let operation = Operation {
        id: before.id,
        payment: before.payment,
        reference: before.reference,
        attempt: before.attempt + 1,
        epoch: before.epoch + 1,
        first_attempt_at: before.first_attempt_at,
        parent: before.parent,
        parent_reference: before.parent_reference,
        parent_card: before.parent_card,
        ..fresh.operation
    };
    Held { operation, ..fresh }
}

/// A create, by every rule that a new key meets.
async fn create<T: Transaction>(
    tx: &mut T,
    intent: &Intent,
    row: Won,
    once_per_order: bool,
) -> Result<Recorded, StoreError> {
    let once_per_order = once_per_order && !sabotaged!(OrderIgnored);
    if let (true, Some(order)) = (once_per_order, &intent.order_reference) {
        let id = operation_of(&row).id;
        if let Some(live) = tx.live_create(&intent.account, order, id).await? {
            let LiveCreate {
                operation,
                payment,
                client,
                key,
            } = live;
            return Ok(Recorded::PossibleDuplicate {
                operation,
                payment,
                client,
                key,
            });
        }
    }
    let payment = match payment_of(&row) {
        Some(id) if matches!(row, Won::Again(_)) => {
            let mut payment = locked_payment(tx, id).await?;
            // Nothing had left, so it begins anew, wherever that is by now.
            payment.endpoint.clone_from(&intent.endpoint);
            payment.status = PaymentStatus::Pending;
            payment.version += 1;
            tx.write_payment(&payment).await?;
            payment
        }
        _ => {
            let payment = opened(intent, tx.now())?;
            let metadata = match &intent.kind {
                IntentKind::Create { metadata, .. } => metadata.as_deref(),
                IntentKind::FollowUp { .. } | IntentKind::Verification => None,
            };
            tx.open_payment(&payment, intent.operation, metadata)
                .await?;
            payment
        }
    };
    begin(tx, intent, row, Some(&payment)).await
}

/// The payment that a create opens.
pub(in crate::store) fn opened(intent: &Intent, now: Timestamp) -> Result<Payment, StoreError> {
    let id = intent
        .payment()
        .ok_or_else(|| StoreError::Refused("a create without payment".into()))?;
    Ok(Payment {
        id,
        account: intent.account.clone(),
        endpoint: intent.endpoint.clone(),
        currency: intent.amount.currency(),
        amount: intent.amount.minor(),
        status: PaymentStatus::Pending,
        authorized: 0,
        captured: 0,
        refunded: 0,
        voided: false,
        capture_reserved: 0,
        refund_reserved: 0,
        busy_with: None,
        version: 1,
        order_reference: intent.order_reference.clone(),
        upstream_ids: UpstreamIds::default(),
        reference: intent.reference.clone(),
        card: None,
        created_at: now,
    })
}

/// A follow-up: takes the payment and reserves on it, or says what is in the way.
async fn follow_up<T: Transaction>(
    tx: &mut T,
    intent: &Intent,
    row: Won,
) -> Result<Recorded, StoreError> {
    let IntentKind::FollowUp {
        payment: id,
        version,
        reserve,
        ..
    } = &intent.kind
    else {
        return Err(StoreError::Refused("a follow-up without payment".into()));
    };
    let Some(mut payment) = tx.payment(*id).await? else {
        return Ok(Recorded::NoPayment);
    };
    if payment.currency != intent.amount.currency() || payment.account != intent.account {
        return Err(StoreError::Refused(
            "a follow-up in another currency or account".into(),
        ));
    }
    if let Some(answer) = in_the_way(&payment, intent.holds_while_unknown, *version, *reserve) {
        return Ok(answer);
    }
    // What remains is about to be voided or returned: a follow-up would race it for the same money.
    if tx.is_being_undone(*id).await? {
        return Ok(Recorded::Busy { with: None });
    }
    let reserve = taken(*reserve);
    if !sabotaged!(ReservationNotTaken) {
        payment.busy_with = Some(operation_of(&row).id);
    }
    payment.capture_reserved = sum(payment.capture_reserved, reserve.capture)?;
    payment.refund_reserved = sum(payment.refund_reserved, reserve.refund)?;
    payment.version += 1;
    tx.write_payment(&payment).await?;
    begin(tx, intent, row, Some(&payment)).await
}

/// What a follow-up takes of its payment, of what it asked for.
fn taken(asked: Reserved) -> Reserved {
    if sabotaged!(ReservationNotTaken) {
        return Reserved::default();
    }
    asked
}

/// What keeps a follow-up from being recorded now.
fn in_the_way(
    payment: &Payment,
    compares_totals: bool,
    version: i64,
    reserve: Reserved,
) -> Option<Recorded> {
    if payment.busy_with.is_some() {
        return Some(Recorded::Busy {
            with: payment.busy_with,
        });
    }
    // Its create has not ended: what will stand to be captured or refunded is not known.
    if matches!(
        payment.status,
        PaymentStatus::Pending | PaymentStatus::Unknown
    ) {
        return Some(Recorded::Busy { with: None });
    }
    // Before the limits: a void reserves what stood when the payment was read.
    if payment.version != version {
        return Some(Recorded::Stale);
    }
    let (to_capture, to_refund) = if payment.voided {
        (0, 0)
    } else {
        (
            payment.authorized - payment.captured,
            payment.captured - payment.refunded,
        )
    };
    if reserve.capture > to_capture {
        return Some(Recorded::OverLimit {
            available: to_capture,
        });
    }
    if reserve.refund > to_refund {
        return Some(Recorded::OverLimit {
            available: to_refund,
        });
    }
    if reserve == Reserved::default() {
        return Some(Recorded::OverLimit { available: 0 });
    }
    let fits = reserve.capture <= to_capture - payment.capture_reserved
        && reserve.refund <= to_refund - payment.refund_reserved;
    // A baseline is worth nothing while something else may still change the totals that are compared with it.
    let disturbed =
        compares_totals && (payment.capture_reserved > 0 || payment.refund_reserved > 0);
    (!fits || disturbed).then_some(Recorded::Busy { with: None })
}

/// The checks are passed: writes what the claim could not, and the event.
async fn begin<T: Transaction>(
    tx: &mut T,
    intent: &Intent,
    row: Won,
    payment: Option<&Payment>,
) -> Result<Recorded, StoreError> {
    let (mut row, from) = match row {
        Won::New(row) => (row, None),
        Won::Again(holder) => {
            let row = claimed_again(intent, holder, tx.now());
            tx.write_operation(&row).await?;
            (row, Some(StateName::NotSent))
        }
    };
    if let Some(payment) = payment {
        Parent::of(payment).give_to(&mut row.operation);
    }
    let event = NewEvent {
        kind: EventKind::Transition,
        operation: &row.operation,
        from,
        to: Some(StateName::Recorded),
        payment_status: payment.map(|payment| payment.status),
        reason: "recorded",
        evidence: &Value::Null,
    };
    tx.add_event(&event).await?;
    Ok(Recorded::New(Box::new(row.operation)))
}
