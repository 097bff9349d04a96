//! The rows of a ledger in memory: ordered, with the indexes and checks that the migrations give a database.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::clock::Timestamp;
use gateway_core::key::{
    AccountName, Client, IdempotencyKey, OperationId, PaymentId, ReplicaId, UpstreamReference,
};
use gateway_core::ledger::Entry;
use gateway_core::money::Currency;
use gateway_core::operation::{StateName, Verb};
use gateway_core::payment::Payment;
use gateway_core::store::rules::Held;
use gateway_core::store::{Event, StoreError, TokenRow};

#[derive(Debug, Default)]
pub(super) struct Tables {
    operations: BTreeMap<OperationId, Arc<Held>>,
    by_key: BTreeMap<Client, BTreeMap<IdempotencyKey, OperationId>>,
    by_reference: BTreeMap<UpstreamReference, OperationId>,
    by_reversed: BTreeMap<OperationId, OperationId>,
    pub(super) payments: BTreeMap<PaymentId, Opened>,
    pub(super) metadata: BTreeMap<PaymentId, String>,
    pub(super) entries: BTreeMap<OperationId, Vec<Posting>>,
    /// In the order of their cursors.
    pub(super) events: Vec<Event>,
    pub(super) replicas: BTreeMap<ReplicaId, Replica>,
    pub(super) tokens: BTreeMap<String, TokenRow>,
    /// How many transactions are committed.
    pub(super) committed: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) payment: Payment,
    pub(super) by: OperationId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    pub(super) beat: i64,
    pub(super) seen_at: Timestamp,
}

/// One line of the double entry, as it was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    pub operation: OperationId,
    pub payment: Option<PaymentId>,
    pub account: AccountName,
    pub currency: Currency,
    pub entry: Entry,
    pub at: Timestamp,
}

impl Tables {
    pub(super) fn operations(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.operations.values()
    }

    pub(super) fn operation(&self, id: OperationId) -> Option<&Arc<Held>> {
        self.operations.get(&id)
    }

    pub(super) fn by_key(&self, client: &Client, key: &IdempotencyKey) -> Option<&Arc<Held>> {
        let id = self.by_key.get(client)?.get(key)?;
        self.operation(*id)
    }

    pub(super) fn by_reference(&self, reference: &UpstreamReference) -> Option<&Arc<Held>> {
        self.operation(*self.by_reference.get(reference)?)
    }

    pub(super) fn by_reversed(&self, of: OperationId) -> Option<&Arc<Held>> {
        self.operation(*self.by_reversed.get(&of)?)
    }

    /// Inserts a row of which no unique index holds anything yet.
    pub(super) fn insert(&mut self, row: Arc<Held>) {
        let operation = &row.operation;
        let id = operation.id;
        let keys = self.by_key.entry(operation.client.clone()).or_default();
        keys.insert(operation.key.clone(), id);
        self.by_reference.insert(operation.reference.clone(), id);
        if let Some(of) = operation.reverses {
            self.by_reversed.insert(of, id);
        }
        self.operations.insert(id, row);
    }

    pub(super) fn remove(&mut self, id: OperationId) -> Option<Arc<Held>> {
        let row = self.operations.remove(&id)?;
        let operation = &row.operation;
        if let Some(keys) = self.by_key.get_mut(&operation.client) {
            keys.remove(&operation.key);
        }
        self.by_reference.remove(&operation.reference);
        if let Some(of) = operation.reverses {
            self.by_reversed.remove(&of);
        }
        Some(row)
    }

    /// Replaces a row by one with the same key, reference and `reverses`.
    pub(super) fn replace(&mut self, row: Arc<Held>) -> Option<Arc<Held>> {
        self.operations.insert(row.operation.id, row)
    }
}

/// The checks of table `operation`. `before`: the row that this one replaces.
pub(super) fn check_operation(row: &Held, before: Option<&Held>) -> Result<(), StoreError> {
    let operation = &row.operation;
    let state = operation.state.name();
    let waits = matches!(
        state,
        StateName::Recorded | StateName::Unknown | StateName::Parked
    );
    let checks = [
        (
            "capture_reserved_check",
            operation.reserved.capture >= 0 && operation.reserved.refund >= 0,
        ),
        (
            "open_is_due",
            operation.due_at.is_some() || !waits || operation.verb == Verb::Reversal,
        ),
        (
            "final_is_settled",
            operation.settled_at.is_some() == state.is_final(),
        ),
        (
            "final_stays_final",
            before.is_none_or(|before| {
                let was = before.operation.state.name();
                !was.is_final() || was == state || gateway_core::sabotaged!(LateSettleOverwrites)
            }),
        ),
    ];
    all(&checks)
}

/// The checks of table `payment`: promise 6.
pub(super) fn check_payment(payment: &Payment) -> Result<(), StoreError> {
    let parts = [
        payment.amount,
        payment.authorized,
        payment.captured,
        payment.refunded,
        payment.capture_reserved,
        payment.refund_reserved,
    ];
    let within = |used: i64, reserved: i64, total: i64| {
        used.checked_add(reserved).is_some_and(|sum| sum <= total)
    };
    all(&[
        (
            "amounts_are_not_negative",
            parts.iter().all(|part| *part >= 0),
        ),
        (
            "captures_within_authorization",
            within(
                payment.captured,
                payment.capture_reserved,
                payment.authorized,
            ),
        ),
        (
            "refunds_within_captures",
            within(payment.refunded, payment.refund_reserved, payment.captured),
        ),
    ])
}

fn all(checks: &[(&str, bool)]) -> Result<(), StoreError> {
    match checks.iter().find(|(_, holds)| !holds) {
        Some((name, _)) => Err(refused(name)),
        None => Ok(()),
    }
}

pub(super) fn refused(constraint: &str) -> StoreError {
    StoreError::Refused(format!("constraint {constraint} does not hold").into())
}
