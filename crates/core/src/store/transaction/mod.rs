//! What the ledger does under row locks, written once for every database.
//!
//! A database offers a few reads that lock and a few writes; the decisions are here, in Rust, between the two. Postgres
//! has single statements for the two hot ways (a plain create, a settlement that nobody raced) and comes here for the rest.

mod record;
mod settle;
mod undo;
mod upkeep;

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Timestamp;
use crate::connector::UnknownReason;
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    UpstreamReference,
};
use crate::ledger::{Entry, imbalance};
use crate::operation::{Effects, Facts, Reserved, State, StateName, StatusChange, Verb, effects};
use crate::payment::{Payment, PaymentStatus, Snapshot};
use crate::store::row::{Held, Parent};
use crate::store::{EventKind, Operation, StoreError};

pub use record::record;
pub(super) use record::{claimed, reading_of_holder};
pub use settle::settle;
pub use undo::{begin_reversal, cancel, uncount_send};
pub use upkeep::{Adoption, adopt, count_send, reschedule};

/// One open transaction: reads lock what they return until it ends, so what is decided on them still holds when written.
///
/// Locks are taken in one order everywhere: orders, then operations by (client, key), then payments by id.
pub trait Transaction: Send {
    /// The ledger's clock. It stands still within one transaction.
    fn now(&self) -> Timestamp;

    /// Keeps others from looking for creates of this order until the transaction ends.
    fn lock_order(
        &mut self,
        account: &AccountName,
        order: &OrderReference,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Inserts the row. `false`: its (client, key), or its reference, is taken by a row that is committed by now.
    fn claim(&mut self, row: &Held) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Whether any operation has this reference.
    fn is_taken(
        &mut self,
        reference: &UpstreamReference,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Takes back a claim of this very transaction.
    fn unclaim(&mut self, id: OperationId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Those of `ids` that exist, locked and returned by (client, key).
    fn operations(
        &mut self,
        ids: &[OperationId],
    ) -> impl Future<Output = Result<Vec<Held>, StoreError>> + Send;
    fn operation_by_key(
        &mut self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<Held>, StoreError>> + Send;
    fn reversal_of(
        &mut self,
        of: OperationId,
    ) -> impl Future<Output = Result<Option<Held>, StoreError>> + Send;
    fn payment(
        &mut self,
        id: PaymentId,
    ) -> impl Future<Output = Result<Option<Payment>, StoreError>> + Send;
    /// Whether the create of this payment is to be undone, and that is not done. Locks nothing: a wish that is committed
    /// a moment later finds the follow-up instead.
    fn is_being_undone(
        &mut self,
        payment: PaymentId,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// A create of this order, other than `except`, that may have moved money or still may. Locks nothing.
    fn live_create(
        &mut self,
        account: &AccountName,
        order: &OrderReference,
        except: OperationId,
    ) -> impl Future<Output = Result<Option<LiveCreate>, StoreError>> + Send;

    fn write_operation(
        &mut self,
        row: &Held,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn open_payment(
        &mut self,
        payment: &Payment,
        opened_by: OperationId,
        metadata: Option<&str>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn write_payment(
        &mut self,
        payment: &Payment,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn add_entries(
        &mut self,
        operation: &Operation,
        entries: &[Entry],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn add_event(
        &mut self,
        event: &NewEvent<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The create that stands in the way of a `once_per_order` one.
#[derive(Debug)]
pub struct LiveCreate {
    pub operation: OperationId,
    pub payment: Option<PaymentId>,
    pub client: Client,
    pub key: IdempotencyKey,
}

#[derive(Debug)]
pub struct NewEvent<'a> {
    pub kind: EventKind,
    pub operation: &'a Operation,
    pub from: Option<StateName>,
    pub to: Option<StateName>,
    pub payment_status: Option<PaymentStatus>,
    pub reason: &'a str,
    pub evidence: &'a Value,
}

/// Where an operation goes, and what goes with it.
struct Change<'a> {
    to: State,
    effects: &'a Effects,
    /// Until its next check. Open states have one, now if nothing else is said.
    check_after: Option<Duration>,
    reason: &'a str,
    evidence: &'a Value,
}

/// Not inserted, and nobody has the key.
pub(super) fn unclaimed(reference_is_taken: bool) -> StoreError {
    if reference_is_taken {
        StoreError::Refused("another key has this upstream reference".into())
    } else {
        StoreError::Contended("the holder of a key gave it up".into())
    }
}

/// One statement applies only one of two changes to the same payment, and no constraint would tell.
pub fn assert_one_per_payment(payments: impl Iterator<Item = Option<PaymentId>>) {
    let mut seen = HashSet::new();
    for payment in payments.flatten() {
        assert!(seen.insert(payment), "BUG: {payment} twice in one batch");
    }
}

async fn one_operation<T: Transaction>(
    tx: &mut T,
    id: OperationId,
) -> Result<Option<Held>, StoreError> {
    Ok(tx.operations(&[id]).await?.pop())
}

/// Moves a locked operation to another state: payment, ledger entries and event with it.
async fn transition<T: Transaction>(
    tx: &mut T,
    row: &mut Held,
    change: Change<'_>,
) -> Result<(), StoreError> {
    let Change {
        to,
        effects,
        check_after,
        reason,
        evidence,
    } = change;
    let operation = &mut row.operation;
    let from = operation.state.name();
    let name = to.name();
    assert!(
        from.may_become(name) || sabotaged!(AdoptWithoutEpoch),
        "BUG: {} cannot go from {from:?} to {name:?}",
        operation.id
    );
    assert_eq!(
        imbalance(&effects.entries),
        0,
        "BUG: unbalanced entries for {}",
        operation.id
    );

    let now = tx.now();
    let payment = match operation.payment {
        Some(id) => Some(changed_payment(tx, id, operation.id, &to, effects).await?),
        None => None,
    };
    operation.state = to;
    operation.reserved = Reserved {
        capture: sum(operation.reserved.capture, -effects.releases.capture)?,
        refund: sum(operation.reserved.refund, -effects.releases.refund)?,
    };
    let open = matches!(name, StateName::Unknown | StateName::Parked);
    operation.due_at = match check_after {
        _ if operation.verb == Verb::Reversal => None,
        Some(after) => Some(now + after),
        None => open.then_some(now),
    };
    if name.is_final() {
        operation.settled_at = Some(now);
        operation.snapshot = payment.as_ref().map(|payment| snapshot(payment, now));
    }
    if let Some(payment) = &payment {
        Parent::of(payment).give_to(operation);
    }
    tx.write_operation(row).await?;
    if !effects.entries.is_empty() {
        tx.add_entries(&row.operation, &effects.entries).await?;
    }
    let event = NewEvent {
        kind: EventKind::Transition,
        operation: &row.operation,
        from: Some(from),
        to: Some(name),
        payment_status: payment.map(|payment| payment.status),
        reason,
        evidence,
    };
    tx.add_event(&event).await
}

/// Moves it to Unknown because it is taken from its owner.
async fn take_away<T: Transaction>(
    tx: &mut T,
    row: &mut Held,
    check_after: Duration,
    reason: &str,
) -> Result<(), StoreError> {
    let operation = &row.operation;
    let effects = effects(
        &facts(operation),
        operation.state.name(),
        StateName::Unknown,
    )
    .map_err(|error| StoreError::Refused(Box::new(error)))?;
    let change = Change {
        to: State::Unknown {
            unknown: UnknownReason::OwnerLost,
        },
        effects: &effects,
        check_after: Some(check_after),
        reason,
        evidence: &Value::Null,
    };
    transition(tx, row, change).await
}

fn facts(operation: &Operation) -> Facts {
    Facts {
        verb: operation.verb,
        amount: operation.amount,
        reserved: operation.reserved,
        holds_while_unknown: operation.holds_while_unknown,
    }
}

async fn changed_payment<T: Transaction>(
    tx: &mut T,
    id: PaymentId,
    operation: OperationId,
    to: &State,
    effects: &Effects,
) -> Result<Payment, StoreError> {
    let mut payment = locked_payment(tx, id).await?;
    apply(&mut payment, operation, to, effects)?;
    tx.write_payment(&payment).await?;
    Ok(payment)
}

async fn locked_payment<T: Transaction>(tx: &mut T, id: PaymentId) -> Result<Payment, StoreError> {
    let payment = tx.payment(id).await?;
    payment.ok_or_else(|| StoreError::Corrupt(format!("{id} has an operation and no row")))
}

/// What a transition does to the payment. The settle statement of Postgres does the same in SQL.
fn apply(
    payment: &mut Payment,
    operation: OperationId,
    to: &State,
    effects: &Effects,
) -> Result<(), StoreError> {
    payment.authorized = sum(payment.authorized, effects.authorized)?;
    payment.captured = sum(payment.captured, effects.captured)?;
    payment.refunded = sum(payment.refunded, effects.refunded)?;
    payment.voided |= effects.voids;
    payment.capture_reserved = sum(payment.capture_reserved, -effects.releases.capture)?;
    payment.refund_reserved = sum(payment.refund_reserved, -effects.releases.refund)?;
    if effects.releases_payment && payment.busy_with == Some(operation) {
        payment.busy_with = None;
    }
    payment.status = match effects.status {
        StatusChange::Keep => payment.status,
        StatusChange::Set(status) => status,
        StatusChange::Derive => PaymentStatus::derive(
            payment.authorized,
            payment.captured,
            payment.refunded,
            payment.voided,
        ),
    };
    payment.version += 1;
    if let State::Approved { approval } = to {
        payment.upstream_ids.extend(&approval.ids);
        payment.card = approval.card.clone().or_else(|| payment.card.take());
    }
    Ok(())
}

fn snapshot(payment: &Payment, now: Timestamp) -> Snapshot {
    Snapshot {
        status: payment.status,
        authorized: payment.authorized,
        captured: payment.captured,
        refunded: payment.refunded,
        as_of: now,
    }
}

/// Adds minor units. Past 64 bits nothing is written.
fn sum(minor: i64, change: i64) -> Result<i64, StoreError> {
    minor
        .checked_add(change)
        .ok_or_else(|| StoreError::Refused("the total does not fit 64 bits".into()))
}

/// Counted from the last moment at which this send, counted now, can still leave.
fn horizon_after_send(row: &Held, now: Timestamp) -> Timestamp {
    let operation = &row.operation;
    let send_by = now + operation.send_within();
    operation.late_after.max(send_by + row.horizon)
}

/// Nothing of it leaves after this moment: who sent it has ended that, or is silent and may not begin. What still arrives
/// was sent by now.
fn no_more_sends(row: &mut Held, now: Timestamp) {
    let operation = &mut row.operation;
    operation.late_after = operation.late_after.min(now + row.horizon);
}

/// What belongs to nobody: whoever looks next adopts it.
pub fn nobody() -> ReplicaId {
    ReplicaId::from_uuid(uuid::Uuid::nil())
}
