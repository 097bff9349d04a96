//! Reads: what callers and the resolver ask of a ledger in memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use gateway_core::clock::Timestamp;
use gateway_core::connector::{Control, UpstreamIds};
use gateway_core::key::{AccountName, OperationId, PaymentId};
use gateway_core::operation::{StateName, Verb};
use gateway_core::payment::{Payment, PaymentStatus};
use gateway_core::store::rules::{Held, Parent};
use gateway_core::store::{
    AtRisk, CONTROL_AMONG, Event, EventKind, EventQuery, Operation, PaymentQuery,
};

use super::tables::Tables;

/// A `limit` as the count of rows it allows.
pub(super) fn rows(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Tables {
    /// A row as it is read at `now`, with its payment's columns beside it.
    pub(super) fn shown(&self, row: &Held, now: Timestamp) -> Operation {
        let mut operation = Operation {
            read_at: now,
            parent: UpstreamIds::default(),
            parent_reference: None,
            parent_card: None,
            ..row.operation.clone()
        };
        if let Some(payment) = operation.payment.and_then(|id| self.payment(id)) {
            Parent::of(payment).give_to(&mut operation);
        }
        operation
    }

    pub(super) fn payment(&self, id: PaymentId) -> Option<&Payment> {
        self.payments.get(&id).map(|opened| &opened.payment)
    }

    pub(super) fn ended(&self, ids: &[OperationId], now: Timestamp) -> Vec<Operation> {
        let ended = |row: &Held| {
            !matches!(
                row.operation.state.name(),
                StateName::Recorded | StateName::Unknown
            )
        };
        ids.iter()
            .filter_map(|id| self.operation(*id))
            .filter(|row| ended(row))
            .map(|row| self.shown(row, now))
            .collect()
    }

    pub(super) fn operations_of(&self, payment: PaymentId, now: Timestamp) -> Vec<Operation> {
        let mut found: Vec<_> = self
            .operations()
            .filter(|row| row.operation.payment == Some(payment))
            .map(|row| self.shown(row, now))
            .collect();
        found.sort_by_key(|operation| (operation.first_attempt_at, operation.id));
        found
    }

    pub(super) fn payments(&self, query: &PaymentQuery) -> Vec<Payment> {
        let wanted = |payment: &&Payment| {
            let accounts = query.accounts.as_ref();
            accounts.is_none_or(|accounts| accounts.contains(&payment.account))
                && (query.order_reference.is_none()
                    || query.order_reference == payment.order_reference)
                && query.status.is_none_or(|status| status == payment.status)
                && query
                    .created_after
                    .is_none_or(|after| payment.created_at > after)
                && query.before.is_none_or(|before| age(payment) < before)
        };
        let all = self.payments.values().map(|opened| &opened.payment);
        let mut found: Vec<_> = all.filter(wanted).collect();
        found.sort_by_key(|payment| Reverse(age(payment)));
        found.into_iter().take(rows(query.limit)).cloned().collect()
    }

    /// Commits take turns, so nothing can appear before what was shown.
    pub(super) fn events(&self, query: &EventQuery) -> Vec<Event> {
        let seen = |event: &Event| query.after.is_some_and(|after| event.cursor <= after);
        let accounts = query.accounts.as_ref();
        self.events[self.events.partition_point(seen)..]
            .iter()
            .filter(|event| event.kind == EventKind::Transition)
            .filter(|event| accounts.is_none_or(|accounts| accounts.contains(&event.account)))
            .take(rows(query.limit))
            .cloned()
            .collect()
    }

    pub(super) fn timeline(&self, operation: OperationId) -> Vec<Event> {
        let of = self.events.iter().filter(|e| e.operation == operation);
        of.cloned().collect()
    }

    pub(super) fn control(
        &self,
        account: &AccountName,
        verb: Verb,
        except: OperationId,
    ) -> Option<Control> {
        let endpoint = &self.operation(except)?.operation.endpoint;
        let all = self.payments.values().map(|opened| &opened.payment);
        let mut newest: Vec<_> = all.filter(|payment| payment.account == *account).collect();
        newest.sort_by_key(|payment| Reverse(age(payment)));
        newest.truncate(rows(CONTROL_AMONG));
        let among: BTreeMap<_, _> = newest.into_iter().map(|p| (p.id, p)).collect();
        let known = self.operations().filter_map(|row| {
            let operation = &row.operation;
            let found = operation.verb == verb
                && operation.state.name() == StateName::Approved
                && operation.id != except
                && operation.endpoint == *endpoint;
            let payment = among.get(&operation.payment.filter(|_| found)?)?;
            Some((operation, *payment))
        });
        let (operation, payment) = known.min_by_key(|(operation, payment)| {
            let recorded = (operation.recorded_at, operation.id);
            (payment.upstream_ids.0.is_empty(), Reverse(recorded))
        })?;
        Some(Control {
            reference: operation.reference.clone(),
            ids: payment.upstream_ids.clone(),
        })
    }

    pub(super) fn at_risk(&self) -> Vec<AtRisk> {
        let mut found: BTreeMap<_, AtRisk> = BTreeMap::new();
        for row in self.operations() {
            let operation = &row.operation;
            let Some((state, minor)) = self.risk(operation) else {
                continue;
            };
            let currency = operation.amount.currency();
            // As text, as a database sorts them.
            let place = (operation.account.clone(), currency.code(), state.as_str());
            let risk = found.entry(place).or_insert_with(|| AtRisk {
                account: operation.account.clone(),
                currency,
                state,
                operations: 0,
                minor: 0,
            });
            risk.operations += 1;
            risk.minor = risk.minor.saturating_add(minor);
        }
        found.into_values().collect()
    }

    /// The state and the amount under which an operation is at risk. Of a cancelled approval that is what still stands, but
    /// for what its open follow-ups hold, and its reversal, once one is open, tells the state.
    fn risk(&self, operation: &Operation) -> Option<(StateName, i64)> {
        operation.due_at?;
        let open = |state: &StateName| {
            matches!(
                state,
                StateName::Recorded | StateName::Unknown | StateName::Parked
            )
        };
        let state = operation.state.name();
        if open(&state) {
            return Some((state, operation.amount.minor()));
        }
        let payment = self.payment(operation.payment?)?;
        let is_over = matches!(
            payment.status,
            PaymentStatus::Voided | PaymentStatus::Reversed | PaymentStatus::Refunded
        );
        if state != StateName::Approved || is_over {
            return None;
        }
        let reversal = self.by_reversed(operation.id).map(|row| &row.operation);
        let own = reversal.map(|reversal| reversal.reserved);
        let own = own.unwrap_or_default();
        let others = payment.capture_reserved - own.capture + payment.refund_reserved - own.refund;
        let of_reversal = reversal.map(|reversal| reversal.state.name());
        Some((
            of_reversal.filter(open).unwrap_or(state),
            payment.authorized - payment.refunded - others,
        ))
    }
}

/// What lists of payments are ordered by.
fn age(payment: &Payment) -> (Timestamp, PaymentId) {
    (payment.created_at, payment.id)
}
