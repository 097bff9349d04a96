//! The ledger in memory, for simulation: the same rules, answers and contract as in a database, on simulated time.
//!
//! A call does its work at once, under a mutex that is held across no `.await`, and so is one atomic transaction whatever
//! the tasks around it do. Everything is ordered, and time comes from the clock that was handed in: the same calls with
//! the same ids give the same answers in the same order. What goes wrong on the way is decided by a [`FaultPlan`].

mod faults;
mod reads;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod upkeep;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gateway_core::clock::{Clock, Timestamp};
use gateway_core::connector::Control;
use gateway_core::key::{AccountName, Client, IdempotencyKey, OperationId, PaymentId, ReplicaId};
use gateway_core::operation::Verb;
use gateway_core::payment::Payment;
use gateway_core::store::rules;
use gateway_core::store::{
    AtRisk, CancelRecorded, CancelWish, Check, Event, EventQuery, Heartbeat, Intent, Operation,
    PaymentQuery, Recorded, ReversalBegun, ReversalIntent, Settled, Settlement, Store, StoreError,
    TokenRow,
};

pub use self::faults::{Call, Ending, Fate, FaultPlan, NoFaults, Wait};
pub use self::tables::Posting;
use self::tables::Tables;

/// One way to a ledger in memory. Those made by [`Self::with_faults`] lead to the same one: a replica each.
#[derive(Clone)]
pub struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn FaultPlan>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty ledger whose own clock is `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tables: Arc::default(),
            clock,
            faults: Arc::new(NoFaults),
        }
    }

    /// The same ledger, by a way on which `faults` decides what happens.
    #[must_use]
    pub fn with_faults(&self, faults: Arc<dyn FaultPlan>) -> Self {
        Self {
            faults,
            ..self.clone()
        }
    }

    /// Every line of the double entry, by operation, for an auditor.
    pub fn postings(&self) -> Vec<Posting> {
        let tables = self.tables();
        tables.entries.values().flatten().cloned().collect()
    }

    /// Lets somebody look at every operation, as it is stored.
    pub fn look<T>(&self, look: impl FnOnce(&[&Operation]) -> T) -> T {
        let tables = self.tables();
        let all: Vec<_> = tables.operations().map(|row| &row.operation).collect();
        look(&all)
    }

    /// Every event in its order, for an auditor, who comes when all is over: they are not there afterwards.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.tables().events)
    }

    /// How many transactions are committed: the number that the newest event's cursor names.
    pub fn committed(&self) -> u64 {
        self.tables().committed
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A transaction that panicked has taken back what it wrote.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: the way there, the work at one instant, the way back.
    async fn ask<T: Send>(
        &self,
        call: Call,
        work: impl FnOnce(&mut Tables, Timestamp) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        self.ask_batch(call, &[], |tables, now, _: &[()]| work(tables, now))
            .await
    }

    async fn ask_batch<W: Sync, T: Send>(
        &self,
        call: Call,
        batch: &[W],
        work: impl FnOnce(&mut Tables, Timestamp, &[W]) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let Fate {
            before,
            ending,
            after,
        } = self.faults.fate(call);
        if let Some(wait) = before {
            wait.await;
        }
        let reaches = match ending {
            Ending::Answered | Ending::LostWritten => Some(batch),
            Ending::LostHalfWritten => {
                let half = &batch[..batch.len() / 2];
                (!half.is_empty()).then_some(half)
            }
            Ending::LostUnwritten => None,
            Ending::Unreachable => return Err(StoreError::Unreachable(struck(call, ending))),
            Ending::Contended => return Err(StoreError::Contended(struck(call, ending))),
        };
        let answer = reaches.map(|batch| work(&mut self.tables(), self.clock.now(), batch));
        if let Some(wait) = after {
            wait.await;
        }
        match answer {
            Some(answer) if ending == Ending::Answered => answer,
            _ => Err(StoreError::Unavailable(struck(call, ending))),
        }
    }
}

fn struck(call: Call, ending: Ending) -> Box<dyn std::error::Error + Send + Sync> {
    format!("a fault struck {call:?}: {ending:?}").into()
}

#[async_trait]
impl Store for MemoryStore {
    async fn record(&self, intents: &[Arc<Intent>]) -> Result<Vec<Recorded>, StoreError> {
        rules::assert_one_per_payment(intents.iter().map(|intent| intent.payment()));
        self.ask_batch(Call::Record, intents, |tables, now, intents| {
            tables.transact(now, async |tx| rules::record(tx, intents).await)
        })
        .await
    }

    async fn settle(&self, settlements: &[Arc<Settlement>]) -> Result<Vec<Settled>, StoreError> {
        rules::assert_one_per_payment(settlements.iter().map(|settlement| settlement.payment));
        self.ask_batch(Call::Settle, settlements, |tables, now, settlements| {
            tables.transact(now, async |tx| rules::settle(tx, settlements).await)
        })
        .await
    }

    async fn operation_by_key(
        &self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Operation>, StoreError> {
        self.ask(Call::OperationByKey, |tables, now| {
            let row = tables.by_key(client, key);
            Ok(row.map(|row| tables.shown(row, now)))
        })
        .await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, StoreError> {
        self.ask(Call::Operation, |tables, now| {
            let row = tables.operation(id);
            Ok(row.map(|row| tables.shown(row, now)))
        })
        .await
    }

    async fn ended(&self, ids: &[OperationId]) -> Result<Vec<Operation>, StoreError> {
        self.ask(Call::Ended, |tables, now| Ok(tables.ended(ids, now)))
            .await
    }

    async fn payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.ask(Call::Payment, |tables, _| Ok(tables.payment(id).cloned()))
            .await
    }

    async fn operations_of(&self, payment: PaymentId) -> Result<Vec<Operation>, StoreError> {
        self.ask(Call::OperationsOf, |tables, now| {
            Ok(tables.operations_of(payment, now))
        })
        .await
    }

    async fn payments(&self, query: &PaymentQuery) -> Result<Vec<Payment>, StoreError> {
        self.ask(Call::Payments, |tables, _| Ok(tables.payments(query)))
            .await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.ask(Call::Events, |tables, _| Ok(tables.events(query)))
            .await
    }

    async fn timeline(&self, operation: OperationId) -> Result<Vec<Event>, StoreError> {
        self.ask(Call::Timeline, |tables, _| Ok(tables.timeline(operation)))
            .await
    }

    async fn metadata(&self, payment: PaymentId) -> Result<Option<String>, StoreError> {
        self.ask(Call::Metadata, |tables, _| {
            Ok(tables.metadata.get(&payment).cloned())
        })
        .await
    }

    async fn erase_metadata(&self, payment: PaymentId) -> Result<(), StoreError> {
        self.ask(Call::EraseMetadata, |tables, _| {
            tables.metadata.remove(&payment);
            Ok(())
        })
        .await
    }

    async fn cancel(&self, wish: &CancelWish) -> Result<CancelRecorded, StoreError> {
        self.ask(Call::Cancel, |tables, now| {
            tables.transact(now, async |tx| rules::cancel(tx, wish).await)
        })
        .await
    }

    async fn beat(&self, replica: ReplicaId) -> Result<Vec<Heartbeat>, StoreError> {
        self.ask(Call::Beat, |tables, now| Ok(tables.beat(replica, now)))
            .await
    }

    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError> {
        self.ask(Call::Leave, |tables, now| {
            tables.leave(replica, now);
            Ok(())
        })
        .await
    }

    async fn adopt_silent(
        &self,
        me: ReplicaId,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Operation>, StoreError> {
        self.ask(Call::AdoptSilent, |tables, now| {
            tables.transact(now, async |tx| {
                let rows = tx.open_of(silent, limit);
                rules::adopt(tx, me, rows, rules::Adoption::Silent).await
            })
        })
        .await
    }

    async fn adopt_overdue(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        self.ask(Call::AdoptOverdue, |tables, now| {
            tables.transact(now, async |tx| {
                let rows = tx.overdue(limit);
                rules::adopt(tx, me, rows, rules::Adoption::Overdue).await
            })
        })
        .await
    }

    async fn hand_over(&self, me: ReplicaId) -> Result<u64, StoreError> {
        self.ask(Call::HandOver, |tables, now| {
            tables.transact(now, async |tx| tx.hand_over(me).await)
        })
        .await
    }

    async fn due(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        self.ask(Call::Due, |tables, now| {
            tables.transact(now, async |tx| tx.due(me, limit).await)
        })
        .await
    }

    async fn reschedule(&self, check: &Check) -> Result<Option<()>, StoreError> {
        self.ask(Call::Reschedule, |tables, now| {
            tables.transact(now, async |tx| rules::reschedule(tx, check).await)
        })
        .await
    }

    async fn count_send(
        &self,
        operation: OperationId,
        epoch: i64,
        owner: ReplicaId,
    ) -> Result<Option<Operation>, StoreError> {
        self.ask(Call::CountSend, |tables, now| {
            tables.transact(now, async |tx| {
                rules::count_send(tx, operation, epoch, owner).await
            })
        })
        .await
    }

    async fn begin_reversal(&self, wanted: &ReversalIntent) -> Result<ReversalBegun, StoreError> {
        self.ask(Call::BeginReversal, |tables, now| {
            tables.transact(now, async |tx| rules::begin_reversal(tx, wanted).await)
        })
        .await
    }

    async fn uncount_send(
        &self,
        reversal: OperationId,
        epoch: i64,
    ) -> Result<Option<Operation>, StoreError> {
        self.ask(Call::UncountSend, |tables, now| {
            tables.transact(now, async |tx| {
                rules::uncount_send(tx, reversal, epoch).await
            })
        })
        .await
    }

    async fn reversal_of(&self, operation: OperationId) -> Result<Option<Operation>, StoreError> {
        self.ask(Call::ReversalOf, |tables, now| {
            let row = tables.by_reversed(operation);
            Ok(row.map(|row| tables.shown(row, now)))
        })
        .await
    }

    async fn control(
        &self,
        account: &AccountName,
        verb: Verb,
        except: OperationId,
    ) -> Result<Option<Control>, StoreError> {
        self.ask(Call::Control, |tables, _| {
            Ok(tables.control(account, verb, except))
        })
        .await
    }

    async fn at_risk(&self) -> Result<Vec<AtRisk>, StoreError> {
        self.ask(Call::AtRisk, |tables, _| Ok(tables.at_risk()))
            .await
    }

    /// None: it lives as long as the world that it is simulated in.
    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        self.ask(Call::Faults, |_, _| Ok(Vec::new())).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask(Call::Ping, |_, _| Ok(())).await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        self.ask(Call::Migrate, |_, _| Ok(())).await
    }

    async fn load_token(&self, name: &str) -> Result<Option<TokenRow>, StoreError> {
        self.ask(Call::LoadToken, |tables, _| {
            Ok(tables.tokens.get(name).cloned())
        })
        .await
    }

    async fn store_token(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, StoreError> {
        self.ask(Call::StoreToken, |tables, _| {
            tables.store_token(name, expected_generation, new)
        })
        .await
    }
}
