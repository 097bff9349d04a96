//! The ledger in an SQLite file: the embedded default of the local stack, one process at a time.

mod reads;
mod rows;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use self::rows::SqliteTransaction;
use crate::clock::{Clock, SystemClock};
use crate::connector::Control;
use crate::key::{AccountName, Client, IdempotencyKey, OperationId, PaymentId, ReplicaId};
use crate::operation::Verb;
use crate::payment::Payment;
use crate::store::code::DatabaseCode;
use crate::store::row::{self, Columns};
use crate::store::transaction::nobody;
use crate::store::{
    AtRisk, CancelRecorded, CancelWish, Check, Event, EventQuery, Heartbeat, Intent, Operation,
    PaymentQuery, Recorded, ReversalBegun, ReversalIntent, Settled, Settlement, Store, StoreError,
    TokenRow, assert_one_per_payment, migrations, transaction,
};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// How long a writer of another process may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// The ledger in one file. Writers take turns on one connection; readers never wait for them (WAL).
#[derive(Debug)]
pub struct SqliteStore {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, and creates it if it is not there.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened, or is no database.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Each commit is on the disk before it is acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let writer = SqliteConnection::connect_with(&options)
            .await
            .map_err(read_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self {
            writer: Mutex::new(writer),
            readers,
        })
    }
}

/// What an error means for the write, by its primary result code (sqlite.org/rescode.html).
fn read_error(error: sqlx::Error) -> StoreError {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    match &error {
        sqlx::Error::Database(database) => {
            let cause = DatabaseCode::boxed("SQLite code", &**database);
            let extended = database.code().and_then(|code| code.parse::<i32>().ok());
            match extended.map(|code| code & 0xff) {
                Some(BUSY | LOCKED) => StoreError::Contended(cause),
                Some(TOO_BIG | CONSTRAINT | MISMATCH) => StoreError::Refused(cause),
                _ => StoreError::Unavailable(cause),
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

/// One transaction of the writer, committed if `$work` succeeds and rolled back if it fails.
macro_rules! in_transaction {
    ($store:expr, |$tx:ident| $work:expr) => {{
        let mut writer = $store.writer.lock().await;
        let mut $tx = SqliteTransaction::begin(&mut writer).await?;
        match $work.await {
            Ok(answer) => {
                $tx.commit().await?;
                Ok(answer)
            }
            Err(error) => {
                $tx.rollback().await?;
                Err(error)
            }
        }
    }};
}

#[async_trait]
impl Store for SqliteStore {
    async fn record(&self, intents: &[Arc<Intent>]) -> Result<Vec<Recorded>, StoreError> {
        assert_one_per_payment(intents.iter().map(|intent| intent.payment()));
        in_transaction!(self, |tx| transaction::record(&mut tx, intents))
    }

    async fn settle(&self, settlements: &[Arc<Settlement>]) -> Result<Vec<Settled>, StoreError> {
        assert_one_per_payment(settlements.iter().map(|settlement| settlement.payment));
        in_transaction!(self, |tx| transaction::settle(&mut tx, settlements))
    }

    async fn operation_by_key(
        &self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Operation>, StoreError> {
        reads::operation_by_key(&self.readers, client, key).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, StoreError> {
        reads::operation(&self.readers, id).await
    }

    async fn ended(&self, ids: &[OperationId]) -> Result<Vec<Operation>, StoreError> {
        reads::ended(&self.readers, ids).await
    }

    async fn payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        reads::payment(&self.readers, id).await
    }

    async fn operations_of(&self, payment: PaymentId) -> Result<Vec<Operation>, StoreError> {
        reads::operations_of(&self.readers, payment).await
    }

    async fn payments(&self, query: &PaymentQuery) -> Result<Vec<Payment>, StoreError> {
        reads::payments(&self.readers, query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        reads::events(&self.readers, query).await
    }

    async fn timeline(&self, operation: OperationId) -> Result<Vec<Event>, StoreError> {
        reads::timeline(&self.readers, operation).await
    }

    async fn metadata(&self, payment: PaymentId) -> Result<Option<String>, StoreError> {
        reads::metadata(&self.readers, payment).await
    }

    async fn erase_metadata(&self, payment: PaymentId) -> Result<(), StoreError> {
        let query = sqlx::query("delete from payment_metadata where payment = $1");
        in_transaction!(self, |tx| tx.run(query.bind(payment.uuid())))?;
        Ok(())
    }

    async fn cancel(&self, wish: &CancelWish) -> Result<CancelRecorded, StoreError> {
        in_transaction!(self, |tx| transaction::cancel(&mut tx, wish))
    }

    async fn beat(&self, replica: ReplicaId) -> Result<Vec<Heartbeat>, StoreError> {
        let count = sqlx::query(
            "insert into replica (id, beat, seen_at) values ($1, 1, $2)
             on conflict (id) do update set beat = beat + 1, seen_at = excluded.seen_at",
        );
        let others = sqlx::query("select id, beat from replica where id <> $1");
        let now = SystemClock.now().micros();
        let rows = in_transaction!(self, |tx| async {
            tx.run(count.bind(replica.uuid()).bind(now)).await?;
            tx.rows(others.bind(replica.uuid())).await
        })?;
        rows.iter().map(row::heartbeat).collect()
    }

    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError> {
        let query = sqlx::query(
            "delete from replica
             where (id = $1 or seen_at < $2)
               and not exists (
                   select 1 from operation o where o.owner = replica.id and o.due_at is not null)",
        );
        let hour_ago = SystemClock.now() - Duration::from_hours(1);
        let query = query.bind(replica.uuid()).bind(hour_ago.micros());
        in_transaction!(self, |tx| tx.run(query))?;
        Ok(())
    }

    async fn adopt_silent(
        &self,
        me: ReplicaId,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Operation>, StoreError> {
        in_transaction!(self, |tx| async {
            let rows = tx.open_of(silent, limit).await?;
            transaction::adopt(&mut tx, me, rows, transaction::Adoption::Silent).await
        })
    }

    async fn adopt_overdue(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        in_transaction!(self, |tx| async {
            let rows = tx.overdue(limit).await?;
            transaction::adopt(&mut tx, me, rows, transaction::Adoption::Overdue).await
        })
    }

    async fn hand_over(&self, me: ReplicaId) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "update operation set owner = $2, epoch = epoch + 1
             where owner = $1 and due_at is not null and state <> 'recorded'",
        );
        let query = query.bind(me.uuid()).bind(nobody().uuid());
        in_transaction!(self, |tx| tx.run(query))
    }

    async fn due(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError> {
        if reads::has_due_without_standing(&self.readers, me).await? {
            let query = sqlx::query(
                "update operation set due_at = null
                 where owner = $1 and due_at is not null and state = 'approved' and exists (
                     select 1 from payment p
                     where p.id = operation.payment and p.status in ('voided', 'reversed', 'refunded'))",
            );
            in_transaction!(self, |tx| tx.run(query.bind(me.uuid())))?;
        }
        reads::due(&self.readers, me, limit).await
    }

    async fn reschedule(&self, check: &Check) -> Result<Option<()>, StoreError> {
        in_transaction!(self, |tx| transaction::reschedule(&mut tx, check))
    }

    async fn count_send(
        &self,
        operation: OperationId,
        epoch: i64,
        owner: ReplicaId,
    ) -> Result<Option<Operation>, StoreError> {
        in_transaction!(self, |tx| transaction::count_send(
            &mut tx, operation, epoch, owner
        ))
    }

    async fn begin_reversal(&self, wanted: &ReversalIntent) -> Result<ReversalBegun, StoreError> {
        in_transaction!(self, |tx| transaction::begin_reversal(&mut tx, wanted))
    }

    async fn uncount_send(
        &self,
        reversal: OperationId,
        epoch: i64,
    ) -> Result<Option<Operation>, StoreError> {
        in_transaction!(self, |tx| transaction::uncount_send(
            &mut tx, reversal, epoch
        ))
    }

    async fn reversal_of(&self, operation: OperationId) -> Result<Option<Operation>, StoreError> {
        reads::reversal_of(&self.readers, operation).await
    }

    async fn control(
        &self,
        account: &AccountName,
        verb: Verb,
        except: OperationId,
    ) -> Result<Option<Control>, StoreError> {
        reads::control(&self.readers, account, verb, except).await
    }

    async fn at_risk(&self) -> Result<Vec<AtRisk>, StoreError> {
        reads::at_risk(&self.readers).await
    }

    async fn faults(&self) -> Result<Vec<String>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mode: String = sqlx::query_scalar("pragma journal_mode")
            .fetch_one(&mut *writer)
            .await
            .map_err(read_error)?;
        let synchronous: i64 = sqlx::query_scalar("pragma synchronous")
            .fetch_one(&mut *writer)
            .await
            .map_err(read_error)?;
        drop(writer);
        let mut faults = Vec::new();
        if mode != "wal" {
            faults.push(format!(
                "the journal mode is {mode}, not wal: the ledger must lie in a file"
            ));
        }
        // 2 is FULL, 3 is EXTRA (sqlite.org/pragma.html).
        if synchronous < 2 {
            faults.push(
                "synchronous is below FULL: a crash of the machine forgets commits".to_owned(),
            );
        }
        let there = sqlx::query("select 1 from sqlite_schema where name = '_sqlx_migrations'");
        let mut applied = Vec::new();
        if !reads::rows(&self.readers, there).await?.is_empty() {
            let done =
                sqlx::query("select version, success from _sqlx_migrations order by version");
            for row in reads::rows(&self.readers, done).await? {
                applied.push((row.integer("version")?, row.boolean("success")?));
            }
        }
        faults.extend(migrations::faults(&MIGRATIONS, &applied));
        Ok(faults)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        reads::rows(&self.readers, sqlx::query("select 1")).await?;
        Ok(())
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let done = MIGRATIONS.run_direct(None, &mut *writer, false).await;
        done.map_err(|error| StoreError::Unavailable(Box::new(error)))
    }

    async fn load_token(&self, name: &str) -> Result<Option<TokenRow>, StoreError> {
        reads::load_token(&self.readers, name).await
    }

    async fn store_token(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, StoreError> {
        let query = if expected_generation == 0 {
            sqlx::query(
                "insert into token (name, generation, ciphertext, issued_at, expires_at)
                 values ($1, $2, $3, $4, $5) on conflict (name) do nothing",
            )
        } else {
            sqlx::query(
                "update token set generation = $2, ciphertext = $3, issued_at = $4, expires_at = $5
                 where name = $1 and generation = $6",
            )
        };
        let query = query
            .bind(name)
            .bind(new.generation)
            .bind(&new.ciphertext)
            .bind(new.issued_at.micros())
            .bind(new.expires_at.micros());
        let query = if expected_generation == 0 {
            query
        } else {
            query.bind(expected_generation)
        };
        let changed = in_transaction!(self, |tx| tx.run(query))?;
        Ok(changed == 1)
    }
}
