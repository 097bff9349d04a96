//! The reads and writes that the shared rules ask of a transaction in memory: it has the whole ledger for itself, and takes
//! everything back unless it commits.

use std::sync::Arc;

use futures_util::FutureExt;
use gateway_core::clock::Timestamp;
use gateway_core::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, UpstreamReference,
};
use gateway_core::ledger::{Entry, imbalance};
use gateway_core::operation::StateName;
use gateway_core::payment::{Payment, PaymentStatus};
use gateway_core::store::rules::{Held, LiveCreate, NewEvent, Transaction};
use gateway_core::store::{Event, EventCursor, Operation, StoreError};

use super::tables::{Opened, Posting, Tables, check_operation, check_payment, refused};

type TakeBack = Box<dyn FnOnce(&mut Tables) + Send>;

pub(super) struct MemoryTransaction<'ledger> {
    pub(super) tables: &'ledger mut Tables,
    pub(super) now: Timestamp,
    /// How each write is taken back, oldest first.
    undo: Vec<TakeBack>,
    events_before: usize,
}

impl Tables {
    /// One transaction, committed if `work` succeeds; what fails or panics leaves nothing behind.
    pub(super) fn transact<T>(
        &mut self,
        now: Timestamp,
        work: impl AsyncFnOnce(&mut MemoryTransaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let events_before = self.events.len();
        let mut transaction = MemoryTransaction {
            tables: self,
            now,
            undo: Vec::new(),
            events_before,
        };
        let answer = work(&mut transaction)
            .now_or_never()
            .expect("BUG: the rules waited for something, and memory never makes them wait");
        if answer.is_ok() {
            transaction.commit();
        }
        answer
    }
}

impl MemoryTransaction<'_> {
    fn commit(mut self) {
        self.undo.clear();
        self.events_before = self.tables.events.len();
        self.tables.committed += 1;
    }

    fn can_be_taken_back(&mut self, how: impl FnOnce(&mut Tables) + Send + 'static) {
        self.undo.push(Box::new(how));
    }

    /// As a transaction reads it: with its payment's columns beside it.
    pub(super) fn held(&self, row: &Held) -> Held {
        Held {
            operation: self.tables.shown(row, self.now),
            horizon: row.horizon,
        }
    }
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        for take_back in self.undo.drain(..).rev() {
            take_back(self.tables);
        }
        self.tables.events.truncate(self.events_before);
    }
}

impl Transaction for MemoryTransaction<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    async fn lock_order(&mut self, _: &AccountName, _: &OrderReference) -> Result<(), StoreError> {
        Ok(())
    }

    async fn claim(&mut self, row: &Held) -> Result<bool, StoreError> {
        check_operation(row, None)?;
        let (operation, tables) = (&row.operation, &mut *self.tables);
        let taken = tables.operation(operation.id).is_some()
            || tables.by_key(&operation.client, &operation.key).is_some()
            || tables.by_reference(&operation.reference).is_some()
            || operation
                .reverses
                .is_some_and(|of| tables.by_reversed(of).is_some());
        if taken {
            return Ok(false);
        }
        let id = operation.id;
        tables.insert(Arc::new(row.clone()));
        self.can_be_taken_back(move |tables| drop(tables.remove(id)));
        Ok(true)
    }

    async fn is_taken(&mut self, reference: &UpstreamReference) -> Result<bool, StoreError> {
        Ok(self.tables.by_reference(reference).is_some())
    }

    async fn unclaim(&mut self, id: OperationId) -> Result<(), StoreError> {
        if let Some(row) = self.tables.remove(id) {
            self.can_be_taken_back(move |tables| tables.insert(row));
        }
        Ok(())
    }

    async fn operations(&mut self, ids: &[OperationId]) -> Result<Vec<Held>, StoreError> {
        let mut found: Vec<_> = ids
            .iter()
            .filter_map(|id| self.tables.operation(*id))
            .map(|row| self.held(row))
            .collect();
        found.sort_by(|a, b| {
            let key = |row: &Held| (row.operation.client.clone(), row.operation.key.clone());
            key(a).cmp(&key(b))
        });
        Ok(found)
    }

    async fn operation_by_key(
        &mut self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Held>, StoreError> {
        let row = self.tables.by_key(client, key);
        Ok(row.map(|row| self.held(row)))
    }

    async fn reversal_of(&mut self, of: OperationId) -> Result<Option<Held>, StoreError> {
        let row = self.tables.by_reversed(of);
        Ok(row.map(|row| self.held(row)))
    }

    async fn payment(&mut self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        Ok(self.tables.payment(id).cloned())
    }

    async fn is_being_undone(&mut self, payment: PaymentId) -> Result<bool, StoreError> {
        let opened = self.tables.payments.get(&payment);
        let create = opened.and_then(|opened| self.tables.operation(opened.by));
        Ok(create.is_some_and(|row| {
            row.operation.cancel_requested_at.is_some() && row.operation.due_at.is_some()
        }))
    }

    async fn live_create(
        &mut self,
        account: &AccountName,
        order: &OrderReference,
        except: OperationId,
    ) -> Result<Option<LiveCreate>, StoreError> {
        let stands = |payment: &Payment| {
            use PaymentStatus::{Refunded, Reversed, Voided};
            !payment.voided && !matches!(payment.status, Voided | Reversed | Refunded)
        };
        let lives = |opened: &&Opened| {
            let payment = &opened.payment;
            let of_order = payment.account == *account
                && payment.order_reference.as_ref() == Some(order)
                && opened.by != except;
            let state = |row: &Arc<Held>| row.operation.state.name();
            of_order
                && match self.tables.operation(opened.by).map(state) {
                    Some(StateName::Recorded | StateName::Unknown | StateName::Parked) => true,
                    Some(StateName::Approved) => stands(payment),
                    _ => false,
                }
        };
        let live = self.tables.payments.values().find(lives);
        let create = live.and_then(|opened| self.tables.operation(opened.by));
        Ok(create.map(|row| LiveCreate {
            operation: row.operation.id,
            payment: row.operation.payment,
            client: row.operation.client.clone(),
            key: row.operation.key.clone(),
        }))
    }

    async fn write_operation(&mut self, row: &Held) -> Result<(), StoreError> {
        let Some(stored) = self.tables.operation(row.operation.id).cloned() else {
            return Ok(()); // As an update that finds no row.
        };
        check_operation(row, Some(&stored))?;
        // What a row is claimed with stays: no statement of a database writes these columns again.
        let fixed = &stored.operation;
        let operation = Operation {
            client: fixed.client.clone(),
            key: fixed.key.clone(),
            verb: fixed.verb,
            payment: fixed.payment,
            account: fixed.account.clone(),
            amount: fixed.amount,
            reference: fixed.reference.clone(),
            order_reference: fixed.order_reference.clone(),
            statement_descriptor: fixed.statement_descriptor.clone(),
            first_attempt_at: fixed.first_attempt_at,
            reverses: fixed.reverses,
            ..row.operation.clone()
        };
        self.tables.replace(Arc::new(Held {
            operation,
            horizon: row.horizon,
        }));
        self.can_be_taken_back(move |tables| drop(tables.replace(stored)));
        Ok(())
    }

    async fn open_payment(
        &mut self,
        payment: &Payment,
        opened_by: OperationId,
        metadata: Option<&str>,
    ) -> Result<(), StoreError> {
        check_payment(payment)?;
        let id = payment.id;
        if self.tables.payments.contains_key(&id) {
            return Err(refused("payment_pkey"));
        }
        let opened = Opened {
            payment: payment.clone(),
            by: opened_by,
        };
        self.tables.payments.insert(id, opened);
        if let Some(metadata) = metadata {
            self.tables.metadata.insert(id, metadata.to_owned());
        }
        self.can_be_taken_back(move |tables| {
            tables.payments.remove(&id);
            tables.metadata.remove(&id);
        });
        Ok(())
    }

    async fn write_payment(&mut self, payment: &Payment) -> Result<(), StoreError> {
        check_payment(payment)?;
        if let Some(opened) = self.tables.payments.get_mut(&payment.id) {
            let before = std::mem::replace(&mut opened.payment, payment.clone());
            self.can_be_taken_back(move |tables| {
                if let Some(opened) = tables.payments.get_mut(&before.id) {
                    opened.payment = before;
                }
            });
        }
        Ok(())
    }

    async fn add_entries(
        &mut self,
        operation: &Operation,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        if entries.iter().any(|entry| entry.minor == 0) {
            return Err(refused("ledger_entry_minor_check"));
        }
        if imbalance(entries) != 0 {
            return Err(refused("debits_equal_credits"));
        }
        let id = operation.id;
        if self.tables.entries.contains_key(&id) {
            return Err(refused("ledger_entry_pkey"));
        }
        let posted = entries.iter().map(|entry| Posting {
            operation: id,
            payment: operation.payment,
            account: operation.account.clone(),
            currency: operation.amount.currency(),
            entry: *entry,
            at: self.now,
        });
        self.tables.entries.insert(id, posted.collect());
        self.can_be_taken_back(move |tables| drop(tables.entries.remove(&id)));
        Ok(())
    }

    async fn add_event(&mut self, event: &NewEvent<'_>) -> Result<(), StoreError> {
        let operation = event.operation;
        let events = &mut self.tables.events;
        let last = events.last().map_or(0, |event| event.cursor.id);
        events.push(Event {
            cursor: EventCursor {
                transaction: self.tables.committed + 1,
                id: last + 1,
            },
            at: self.now,
            kind: event.kind,
            operation: operation.id,
            payment: operation.payment,
            account: operation.account.clone(),
            verb: operation.verb,
            from: event.from,
            to: event.to,
            payment_status: event.payment_status,
            reason: event.reason.to_owned(),
            evidence: event.evidence.clone(),
        });
        Ok(())
    }
}
