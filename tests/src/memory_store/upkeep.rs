//! The life beside payments: heartbeats, due work, tokens.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::Timestamp;
use gateway_core::key::ReplicaId;
use gateway_core::operation::StateName;
use gateway_core::payment::PaymentStatus;
use gateway_core::store::rules::{Held, Transaction, nobody};
use gateway_core::store::{Heartbeat, ORPHANED_AFTER, Operation, StoreError, TokenRow};

use super::reads::rows;
use super::tables::{Replica, Tables, refused};
use super::transaction::MemoryTransaction;

/// How long a replica is remembered after its last beat.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

impl Tables {
    /// What is due at some time and as `wanted`, soonest first.
    fn waiting(&self, wanted: impl Fn(&Operation) -> bool) -> Vec<Arc<Held>> {
        let mut found: Vec<_> = self
            .operations()
            .filter(|row| row.operation.due_at.is_some() && wanted(&row.operation))
            .cloned()
            .collect();
        found.sort_by_key(|row| (row.operation.due_at, row.operation.id));
        found
    }

    pub(super) fn beat(&mut self, replica: ReplicaId, now: Timestamp) -> Vec<Heartbeat> {
        let mine = self.replicas.entry(replica).or_insert(Replica {
            beat: 0,
            seen_at: now,
        });
        mine.beat += 1;
        mine.seen_at = now;
        let others = self.replicas.iter().filter(|(id, _)| **id != replica);
        others
            .map(|(id, other)| Heartbeat {
                replica: *id,
                beat: other.beat,
            })
            .collect()
    }

    pub(super) fn leave(&mut self, replica: ReplicaId, now: Timestamp) {
        let owners: Vec<_> = self.waiting(|_| true);
        let owns = |id: &ReplicaId| owners.iter().any(|row| row.operation.owner == *id);
        self.replicas.retain(|id, other| {
            let goes = *id == replica || other.seen_at < now - FORGOTTEN_AFTER;
            !goes || owns(id)
        });
    }

    pub(super) fn store_token(
        &mut self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, StoreError> {
        let held = self.tokens.get(name).map(|token| token.generation);
        // 0: no row yet. A database checks what it is to insert before it looks for what is there.
        let inserts = expected_generation == 0;
        let expected = (!inserts).then_some(expected_generation);
        if new.generation <= 0 && (inserts || held == expected) {
            return Err(refused("token_generation_check"));
        }
        if held != expected {
            return Ok(false);
        }
        self.tokens.insert(name.to_owned(), new.clone());
        Ok(true)
    }
}

impl MemoryTransaction<'_> {
    fn first(&self, found: &[Arc<Held>], limit: u32) -> Vec<Held> {
        let first = found.iter().take(rows(limit));
        first.map(|row| self.held(row)).collect()
    }

    /// Open operations of `silent` replicas and of nobody, soonest due first.
    pub(super) fn open_of(&self, silent: &[Heartbeat], limit: u32) -> Vec<Held> {
        let beat = |replica| self.tables.replicas.get(&replica).map_or(0, |own| own.beat);
        let stands = |of: &&Heartbeat| {
            of.beat == beat(of.replica) || gateway_core::sabotaged!(AdoptOnAnOldView)
        };
        let silent: Vec<ReplicaId> = silent.iter().filter(stands).map(|of| of.replica).collect();
        let theirs = |operation: &Operation| {
            silent.contains(&operation.owner) || operation.owner == nobody()
        };
        self.first(&self.tables.waiting(theirs), limit)
    }

    /// Recorded operations past their deadline, whoever owns them, and whatever belongs to nobody or to a replica that
    /// is not there.
    pub(super) fn overdue(&self, limit: u32) -> Vec<Held> {
        let overdue = |operation: &Operation| {
            let due = |at| operation.due_at.is_some_and(|due_at| due_at <= at);
            (due(self.now) && operation.state.name() == StateName::Recorded)
                || operation.owner == nobody()
                || (due(self.now - ORPHANED_AFTER)
                    && !self.tables.replicas.contains_key(&operation.owner))
        };
        self.first(&self.tables.waiting(overdue), limit)
    }

    pub(super) async fn hand_over(&mut self, me: ReplicaId) -> Result<u64, StoreError> {
        let mine = self.tables.waiting(|operation| {
            operation.owner == me && operation.state.name() != StateName::Recorded
        });
        let mut moved = 0;
        for row in mine {
            let mut row = Held::clone(&row);
            row.operation.owner = nobody();
            row.operation.epoch += 1;
            self.write_operation(&row).await?;
            moved += 1;
        }
        Ok(moved)
    }

    pub(super) async fn due(
        &mut self,
        me: ReplicaId,
        limit: u32,
    ) -> Result<Vec<Operation>, StoreError> {
        let now = self.now;
        let mut due = self.tables.waiting(|operation| {
            operation.owner == me
                && operation.due_at.is_some_and(|due_at| due_at <= now)
                && operation.state.name() != StateName::Recorded
        });
        // First what is done: approved creates of which nothing stands any more.
        for row in due
            .extract_if(.., |row| self.nothing_stands(&row.operation))
            .collect::<Vec<_>>()
        {
            let mut row = Held::clone(&row);
            row.operation.due_at = None;
            self.write_operation(&row).await?;
        }
        let due = self.first(&due, limit);
        Ok(due.into_iter().map(|row| row.operation).collect())
    }

    fn nothing_stands(&self, operation: &Operation) -> bool {
        use PaymentStatus::{Refunded, Reversed, Voided};
        let payment = operation.payment.and_then(|id| self.tables.payment(id));
        operation.state.name() == StateName::Approved
            && payment.is_some_and(|p| matches!(p.status, Voided | Reversed | Refunded))
    }
}
