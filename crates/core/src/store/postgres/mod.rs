//! The ledger in Postgres.

mod connections;
mod health;
mod hosts;
mod reads;
mod record;
mod rows;
mod settle;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::migrate::Migrator;

pub use self::connections::PostgresOptions;
use self::connections::{Lane, Planned};
pub use self::hosts::each_host;
use self::record::{Plain, is_plain, record_plain};
use self::rows::PgTransaction;
use self::settle::settle_unraced;
use crate::connector::Control;
use crate::key::{AccountName, Client, IdempotencyKey, OperationId, PaymentId, ReplicaId};
use crate::operation::Verb;
use crate::payment::Payment;
use crate::store::{
    AtRisk, CancelRecorded, CancelWish, Check, Event, EventQuery, Heartbeat, Intent, Operation,
    PaymentQuery, Recorded, ReversalBegun, ReversalIntent, Settled, Settlement, Store, StoreError,
    TokenRow, assert_one_per_payment, transaction,
};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// The ledger in a Postgres database of its own. Cheap to make: it connects when it is first asked something.
#[derive(Debug)]
pub struct PostgresStore {
    /// Batches of the journal.
    journal: Arc<Lane>,
    /// The resolver, cancellations, tokens.
    work: Arc<Lane>,
    reads: Arc<Lane>,
    /// Nothing but heartbeats: a replica that cannot beat must not send.
    beats: Arc<Lane>,
}

impl PostgresStore {
    /// # Errors
    /// `Refused` for a URL that cannot be read. Whether anybody is there shows at the first call.
    pub fn new(options: &PostgresOptions) -> Result<Self, StoreError> {
        let lane = |name, connections, planned| {
            Lane::new(name, connections, planned, options).map(Arc::new)
        };
        Ok(Self {
            journal: lane("journal", options.journal_connections, Planned::ByKey)?,
            work: lane("work", options.work_connections, Planned::ByKey)?,
            reads: lane("reads", options.read_connections, Planned::Freely)?,
            beats: lane("beats", 1, Planned::ByKey)?,
        })
    }
}

/// The two commits of a payment by themselves, for a benchmark to compare the service with.
#[cfg(feature = "contract")]
pub mod statements {
    use super::connections::{BY_KEY, NO_JIT};

    pub const RECORD: &str = super::record::RECORD;
    pub const SETTLE: &str = super::settle::SETTLE;
    /// Settings of the connections that run them, as far as they decide what a statement costs.
    pub const SETTINGS: [(&str, &str); 5] = [BY_KEY[0], BY_KEY[1], BY_KEY[2], BY_KEY[3], NO_JIT];
}

/// What runs for every payment, with its count of parameters and a step of its plan, which is tested.
#[cfg(test)]
const HOT_STATEMENTS: [(&str, usize, &str); 3] = [
    (record::RECORD, 20, "Insert on operation"),
    (record::HOLDERS, 2, "Index Scan using operation_by_key"),
    (settle::SETTLE, 21, "Index Scan using payment_pkey"),
];

/// One transaction on a connection of this lane, committed if `$work` succeeds and rolled back if it fails.
macro_rules! in_transaction {
    ($lane:expr, |$tx:ident| $work:expr) => {{
        let mut lease = $lane.lease().await?;
        let limit = lease.limit();
        let mut $tx = PgTransaction::begin(&mut lease, limit).await?;
        match $work.await {
            Ok(answer) => {
                $tx.commit().await?;
                lease.done();
                Ok(answer)
            }
            Err(error) => {
                if $tx.rollback().await.is_ok() {
                    lease.done();
                }
                Err(error)
            }
        }
    }};
}

#[async_trait]
impl Store for PostgresStore {
    async fn record(&self, intents: &[Arc<Intent>]) -> Result<Vec<Recorded>, StoreError> {
        assert_one_per_payment(intents.iter().map(|intent| intent.payment()));
        let mut answers: Vec<Option<Recorded>> = intents.iter().map(|_| None).collect();
        let (plain, mut careful): (Vec<usize>, Vec<usize>) =
            (0..intents.len()).partition(|&i| is_plain(&intents[i]));
        let plain_were_asked = !plain.is_empty();
        if plain_were_asked {
            let batch: Vec<&Arc<Intent>> = plain.iter().map(|&i| &intents[i]).collect();
            let mut lease = self.journal.lease().await?;
            let limit = lease.limit();
            let recorded = record_plain(&mut lease, limit, &batch).await?;
            lease.done();
            for (i, answer) in plain.into_iter().zip(recorded) {
                match answer {
                    Plain::Answered(answer) => answers[i] = Some(answer),
                    Plain::Again => careful.push(i),
                }
            }
        }
        if !careful.is_empty() {
            let batch: Vec<Arc<Intent>> =
                careful.iter().map(|&i| Arc::clone(&intents[i])).collect();
            let recorded: Result<Vec<Recorded>, StoreError> =
                in_transaction!(self.journal, |tx| transaction::record(&mut tx, &batch));
            let recorded = if plain_were_asked {
                recorded.map_err(StoreError::after_another)
            } else {
                recorded
            };
            for (i, answer) in careful.into_iter().zip(recorded?) {
                answers[i] = Some(answer);
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.expect("plain or careful, each was answered"))
            .collect())
    }

    async fn settle(&self, settlements: &[Arc<Settlement>]) -> Result<Vec<Settled>, StoreError> {
        assert_one_per_payment(settlements.iter().map(|settlement| settlement.payment));
        let mut lease = self.journal.lease().await?;
        let limit = lease.limit();
        let mut settled = settle_unraced(&mut lease, limit, settlements).await?;
        lease.done();
        let raced: Vec<Arc<Settlement>> = settlements
            .iter()
            .filter(|s| !settled.contains_key(&s.operation))
            .cloned()
            .collect();
        if !raced.is_empty() {
            let answers: Result<Vec<Settled>, StoreError> =
                in_transaction!(self.journal, |tx| transaction::settle(&mut tx, &raced));
            let answers = answers.map_err(StoreError::after_another)?;
            settled.extend(raced.iter().map(|s| s.operation).zip(answers));
        }
        Ok(settlements
            .iter()
            .map(|s| {
                settled
                    .remove(&s.operation)
                    .expect("settled at once or under row locks")
            })
            .collect())
    }

    async fn operation_by_key(
        &self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Operation>, StoreError> {
        reads::operation_by_key(&self.reads, client, key).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, StoreError> {
        reads::operation(&self.reads, id).await
    }

    async fn ended(&self, ids: &[OperationId]) -> Result<Vec<Operation>, StoreError> {
        reads::ended(&self.reads, ids).await
    }

    async fn payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        reads::payment(&self.reads, id).await
    }

    async fn operations_of(&self, payment: PaymentId) -> Result<Vec<Operation>, StoreError> {
        reads::operations_of(&self.reads, payment).await
    }

    async fn payments(&self, query: &PaymentQuery) -> Result<Vec<Payment>, StoreError> {
        reads::payments(&self.reads, query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        reads::events(&self.reads, query).await
    }

    async fn timeline(&self, operation: OperationId) -> Result<Vec<Event>, StoreError> {
        reads::timeline(&self.reads, operation).await
    }

    async fn metadata(&self, payment: PaymentId) -> Result<Option<String>, StoreError> {
        reads::metadata(&self.reads, payment).await
    }

    async fn erase_metadata(&self, payment: PaymentId) -> Result<(), StoreError> {
        upkeep::erase_metadata(&self.work, payment).await
    }

    async fn cancel(&self, wish: &CancelWish) -> Result<CancelRecorded, StoreError> {
        in_transaction!(self.work, |tx| transaction::cancel(&mut tx, wish))
    }

    async fn beat(&self, replica: ReplicaId) -> Result<Vec<Heartbeat>, StoreError> {
        upkeep::beat(&self.beats, replica).await
    }

    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError> {
        upkeep::leave(&self.work, replica).await
    }

    async fn adopt_silent(
        &self,
        me: ReplicaId,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Operation>, StoreError> {
        in_transaction!(self.work, |tx| async {
            let rows = tx.open_of(silent, limit).await?;
            transaction::adopt(&mut tx, me, rows, transaction::Adoption::Silent).await
        })
    }

    async fn adopt_overdue(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        in_transaction!(self.work, |tx| async {
            let rows = tx.overdue(limit).await?;
            transaction::adopt(&mut tx, me, rows, transaction::Adoption::Overdue).await
        })
    }

    async fn hand_over(&self, me: ReplicaId) -> Result<u64, StoreError> {
        upkeep::hand_over(&self.work, me).await
    }

    async fn due(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        upkeep::due(&self.work, me, limit).await
    }

    async fn reschedule(&self, check: &Check) -> Result<Option<()>, StoreError> {
        in_transaction!(self.work, |tx| transaction::reschedule(&mut tx, check))
    }

    async fn count_send(
        &self,
        operation: OperationId,
        epoch: i64,
        owner: ReplicaId,
    ) -> Result<Option<Operation>, StoreError> {
        in_transaction!(self.work, |tx| transaction::count_send(
            &mut tx, operation, epoch, owner
        ))
    }

    async fn begin_reversal(&self, wanted: &ReversalIntent) -> Result<ReversalBegun, StoreError> {
        in_transaction!(self.work, |tx| transaction::begin_reversal(&mut tx, wanted))
    }

    async fn uncount_send(
        &self,
        reversal: OperationId,
        epoch: i64,
    ) -> Result<Option<Operation>, StoreError> {
        in_transaction!(self.work, |tx| transaction::uncount_send(
            &mut tx, reversal, epoch
        ))
    }

    async fn reversal_of(&self, operation: OperationId) -> Result<Option<Operation>, StoreError> {
        reads::reversal_of(&self.reads, operation).await
    }

    async fn control(
        &self,
        account: &AccountName,
        verb: Verb,
        except: OperationId,
    ) -> Result<Option<Control>, StoreError> {
        reads::control(&self.reads, account, verb, except).await
    }

    async fn at_risk(&self) -> Result<Vec<AtRisk>, StoreError> {
        reads::at_risk(&self.reads).await
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        health::faults(&self.reads, &MIGRATIONS).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        health::ping(&self.reads).await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        health::migrate(&self.work, &MIGRATIONS).await
    }

    async fn load_token(&self, name: &str) -> Result<Option<TokenRow>, StoreError> {
        reads::load_token(&self.reads, name).await
    }

    async fn store_token(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, StoreError> {
        upkeep::store_token(&self.work, name, expected_generation, new).await
    }
}
