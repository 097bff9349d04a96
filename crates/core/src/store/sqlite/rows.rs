//! The reads and writes that the shared rules ask of an SQLite transaction. It holds the write lock from its beginning,
//! so every row is locked by it.

use serde::Serialize;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::types::Json;
use sqlx::{Connection, Sqlite};

use super::read_error;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, UpstreamReference,
};
use crate::ledger::Entry;
use crate::operation::StateName;
use crate::payment::{Payment, PaymentStatus};
use crate::store::row::{self, Columns, Held, operation_columns, parent_columns, payment_columns};
use crate::store::transaction::{LiveCreate, NewEvent, Transaction, nobody};
use crate::store::{Heartbeat, ORPHANED_AFTER, Operation, StoreError};

/// An operation with its payment's columns beside it.
macro_rules! select_operation {
    ($condition:literal) => {
        concat!(
            "select ",
            operation_columns!(),
            ", ",
            parent_columns!(),
            " from operation o left join payment p on p.id = o.payment ",
            $condition
        )
    };
}
pub(super) use select_operation;

/// One transaction of the one writer.
pub(super) struct SqliteTransaction<'connection> {
    inner: sqlx::Transaction<'connection, Sqlite>,
    now: Timestamp,
}

impl<'connection> SqliteTransaction<'connection> {
    pub(super) async fn begin(
        connection: &'connection mut SqliteConnection,
    ) -> Result<Self, StoreError> {
        // At once: a transaction that begins by reading cannot always become a writer later.
        let inner = connection
            .begin_with("begin immediate")
            .await
            .map_err(read_error)?;
        // The file is this machine's, and so is its clock.
        Ok(Self {
            inner,
            now: SystemClock.now(),
        })
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await.map_err(read_error)
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        self.inner.rollback().await.map_err(read_error)
    }

    pub(super) async fn run(
        &mut self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<u64, StoreError> {
        let done = query.execute(&mut *self.inner).await.map_err(read_error)?;
        Ok(done.rows_affected())
    }

    pub(super) async fn rows(
        &mut self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&mut *self.inner).await.map_err(read_error)
    }

    async fn held(
        &mut self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<Held>, StoreError> {
        let rows = self.rows(query).await?;
        rows.iter().map(|row| row::held(row, self.now)).collect()
    }

    /// Open operations of `silent` replicas and of nobody, soonest due first.
    pub(super) async fn open_of(
        &mut self,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Held>, StoreError> {
        let nobody = Heartbeat {
            replica: nobody(),
            beat: 0,
        };
        let mut open = Vec::new();
        for Heartbeat { replica, beat } in silent.iter().copied().chain([nobody]) {
            let query = sqlx::query(select_operation!(
                "where o.due_at is not null and o.owner = $1
                     and coalesce((select r.beat from replica r where r.id = $1), 0) = $3
                 order by o.due_at limit $2"
            ));
            let query = query.bind(replica.uuid()).bind(i64::from(limit)).bind(beat);
            open.extend(self.held(query).await?);
        }
        open.sort_by_key(|row| row.operation.due_at);
        open.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(open)
    }

    /// Recorded operations past their deadline, whoever owns them, and whatever belongs to nobody or to a replica that
    /// is not there.
    pub(super) async fn overdue(&mut self, limit: u32) -> Result<Vec<Held>, StoreError> {
        let query = sqlx::query(select_operation!(
            "where o.due_at is not null and ((o.due_at <= $1 and o.state = 'recorded') or o.owner = $3
                 or (o.due_at <= $4 and not exists (select 1 from replica r where r.id = o.owner)))
             order by o.due_at limit $2"
        ));
        let query = query
            .bind(self.now.micros())
            .bind(i64::from(limit))
            .bind(nobody().uuid())
            .bind((self.now - ORPHANED_AFTER).micros());
        self.held(query).await
    }
}

fn at(instant: Option<Timestamp>) -> Option<i64> {
    instant.map(Timestamp::micros)
}

fn json<T: Serialize>(value: Option<&T>) -> Option<Json<&T>> {
    value.map(Json)
}

fn micros(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Transaction for SqliteTransaction<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    async fn lock_order(&mut self, _: &AccountName, _: &OrderReference) -> Result<(), StoreError> {
        // There is one writer, and it is us.
        Ok(())
    }

    async fn claim(&mut self, row: &Held) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "insert into operation (id, client, key, verb, payment, account, endpoint, amount, currency, state, detail,
                 attempt, sends, epoch, claim, reference, fingerprint, order_reference, statement_descriptor, owner,
                 capture_reserved, refund_reserved, holds_while_unknown, first_attempt_at, recorded_at, send_by,
                 deadline, late_arrival_horizon, late_after, due_at, settled_at, cancel_requested_at, prepared,
                 reverses, reversal_form)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                 $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35)
             on conflict do nothing",
        );
        let operation = &row.operation;
        let query = query
            .bind(operation.id.uuid())
            .bind(operation.client.as_str())
            .bind(operation.key.as_str())
            .bind(operation.verb.as_str())
            .bind(operation.payment.map(PaymentId::uuid))
            .bind(operation.account.as_str())
            .bind(&operation.endpoint)
            .bind(operation.amount.minor())
            .bind(operation.amount.currency().code())
            .bind(operation.state.name().as_str())
            .bind(Json(&operation.state))
            .bind(operation.attempt)
            .bind(operation.sends)
            .bind(operation.epoch)
            .bind(operation.claim)
            .bind(operation.reference.as_str())
            .bind(operation.fingerprint.to_bytes().to_vec())
            .bind(
                operation
                    .order_reference
                    .as_ref()
                    .map(OrderReference::as_str),
            )
            .bind(
                operation
                    .statement_descriptor
                    .as_ref()
                    .map(AsRef::<str>::as_ref),
            )
            .bind(operation.owner.uuid())
            .bind(operation.reserved.capture)
            .bind(operation.reserved.refund)
            .bind(operation.holds_while_unknown)
            .bind(operation.first_attempt_at.micros())
            .bind(operation.recorded_at.micros())
            .bind(operation.send_by.micros())
            .bind(operation.deadline.micros())
            .bind(micros(row.horizon))
            .bind(operation.late_after.micros())
            .bind(at(operation.due_at))
            .bind(at(operation.settled_at))
            .bind(at(operation.cancel_requested_at))
            .bind(json(operation.prepared.as_ref()))
            .bind(operation.reverses.map(OperationId::uuid))
            .bind(json(operation.reversal_form.as_ref()));
        Ok(self.run(query).await? == 1)
    }

    async fn is_taken(&mut self, reference: &UpstreamReference) -> Result<bool, StoreError> {
        let query = sqlx::query("select id from operation where reference = $1");
        Ok(!self.rows(query.bind(reference.as_str())).await?.is_empty())
    }

    async fn unclaim(&mut self, id: OperationId) -> Result<(), StoreError> {
        let query = sqlx::query("delete from operation where id = $1").bind(id.uuid());
        self.run(query).await?;
        Ok(())
    }

    async fn operations(&mut self, ids: &[OperationId]) -> Result<Vec<Held>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let query = sqlx::query(select_operation!("where o.id = $1")).bind(id.uuid());
            found.extend(self.held(query).await?);
        }
        Ok(found)
    }

    async fn operation_by_key(
        &mut self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Held>, StoreError> {
        let query = sqlx::query(select_operation!("where o.client = $1 and o.key = $2"));
        Ok(self
            .held(query.bind(client.as_str()).bind(key.as_str()))
            .await?
            .pop())
    }

    async fn reversal_of(&mut self, of: OperationId) -> Result<Option<Held>, StoreError> {
        let query = sqlx::query(select_operation!("where o.reverses = $1")).bind(of.uuid());
        Ok(self.held(query).await?.pop())
    }

    async fn payment(&mut self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        let query = sqlx::query(concat!(
            "select ",
            payment_columns!(),
            " from payment p where p.id = $1"
        ));
        let rows = self.rows(query.bind(id.uuid())).await?;
        rows.first().map(row::payment).transpose()
    }

    async fn is_being_undone(&mut self, payment: PaymentId) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "select 1 from payment p join operation o on o.id = p.opened_by
             where p.id = $1 and o.cancel_requested_at is not null and o.due_at is not null",
        );
        Ok(!self.rows(query.bind(payment.uuid())).await?.is_empty())
    }

    async fn live_create(
        &mut self,
        account: &AccountName,
        order: &OrderReference,
        except: OperationId,
    ) -> Result<Option<LiveCreate>, StoreError> {
        let query = sqlx::query(
            "select o.id, o.payment, o.client, o.key from payment p join operation o on o.id = p.opened_by
             where p.account = $1 and p.order_reference = $2 and o.id <> $3
               and (o.state in ('recorded', 'unknown', 'parked')
                    or (o.state = 'approved' and not p.voided and p.status not in ('voided', 'reversed', 'refunded')))
             limit 1",
        );
        let query = query
            .bind(account.as_str())
            .bind(order.as_str())
            .bind(except.uuid());
        let rows = self.rows(query).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(LiveCreate {
            operation: OperationId::from_uuid(row.uuid("id")?),
            payment: row.uuid_opt("payment")?.map(PaymentId::from_uuid),
            client: Client::from_stored(row.text("client")?),
            key: IdempotencyKey::from_stored(row.text("key")?),
        }))
    }

    async fn write_operation(&mut self, row: &Held) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update operation set endpoint = $2, state = $3, detail = $4, attempt = $5, sends = $6, epoch = $7,
                 claim = $8, fingerprint = $9, owner = $10, capture_reserved = $11, refund_reserved = $12,
                 holds_while_unknown = $13, recorded_at = $14, send_by = $15, deadline = $16,
                 late_arrival_horizon = $17, late_after = $18, due_at = $19, checks = $20, settled_at = $21,
                 cancel_requested_at = $22, prepared = $23, reversal_form = $24, snapshot_status = $25,
                 snapshot_authorized = $26, snapshot_captured = $27, snapshot_refunded = $28, late = $29
             where id = $1",
        );
        let operation = &row.operation;
        let snapshot = operation.snapshot;
        let query = query
            .bind(operation.id.uuid())
            .bind(&operation.endpoint)
            .bind(operation.state.name().as_str())
            .bind(Json(&operation.state))
            .bind(operation.attempt)
            .bind(operation.sends)
            .bind(operation.epoch)
            .bind(operation.claim)
            .bind(operation.fingerprint.to_bytes().to_vec())
            .bind(operation.owner.uuid())
            .bind(operation.reserved.capture)
            .bind(operation.reserved.refund)
            .bind(operation.holds_while_unknown)
            .bind(operation.recorded_at.micros())
            .bind(operation.send_by.micros())
            .bind(operation.deadline.micros())
            .bind(micros(row.horizon))
            .bind(operation.late_after.micros())
            .bind(at(operation.due_at))
            .bind(operation.checks)
            .bind(at(operation.settled_at))
            .bind(at(operation.cancel_requested_at))
            .bind(json(operation.prepared.as_ref()))
            .bind(json(operation.reversal_form.as_ref()))
            .bind(snapshot.map(|s| s.status.as_str()))
            .bind(snapshot.map(|s| s.authorized))
            .bind(snapshot.map(|s| s.captured))
            .bind(snapshot.map(|s| s.refunded))
            .bind(json(operation.late.as_ref()));
        self.run(query).await?;
        Ok(())
    }

    async fn open_payment(
        &mut self,
        payment: &Payment,
        opened_by: OperationId,
        metadata: Option<&str>,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into payment (id, account, endpoint, currency, amount, status, version, order_reference, reference,
                 opened_by, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let query = query
            .bind(payment.id.uuid())
            .bind(payment.account.as_str())
            .bind(&payment.endpoint)
            .bind(payment.currency.code())
            .bind(payment.amount)
            .bind(payment.status.as_str())
            .bind(payment.version)
            .bind(payment.order_reference.as_ref().map(OrderReference::as_str))
            .bind(payment.reference.as_str())
            .bind(opened_by.uuid())
            .bind(payment.created_at.micros());
        self.run(query).await?;
        if let Some(metadata) = metadata {
            let query = "insert into payment_metadata (payment, metadata) values ($1, $2)";
            self.run(sqlx::query(query).bind(payment.id.uuid()).bind(metadata))
                .await?;
        }
        Ok(())
    }

    async fn write_payment(&mut self, payment: &Payment) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update payment set endpoint = $2, status = $3, authorized = $4, captured = $5, refunded = $6, voided = $7,
                 capture_reserved = $8, refund_reserved = $9, busy_with = $10, version = $11, upstream_ids = $12,
                 card = $13
             where id = $1",
        );
        let query = query
            .bind(payment.id.uuid())
            .bind(&payment.endpoint)
            .bind(payment.status.as_str())
            .bind(payment.authorized)
            .bind(payment.captured)
            .bind(payment.refunded)
            .bind(payment.voided)
            .bind(payment.capture_reserved)
            .bind(payment.refund_reserved)
            .bind(payment.busy_with.map(OperationId::uuid))
            .bind(payment.version)
            .bind(Json(&payment.upstream_ids))
            .bind(json(payment.card.as_ref()));
        self.run(query).await?;
        Ok(())
    }

    async fn add_entries(
        &mut self,
        operation: &Operation,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        for (line, entry) in (1_i64..).zip(entries) {
            let query = sqlx::query(
                "insert into ledger_entry (operation, line, payment, account, ledger_account, currency, minor, at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
            );
            let query = query
                .bind(operation.id.uuid())
                .bind(line)
                .bind(operation.payment.map(PaymentId::uuid))
                .bind(operation.account.as_str())
                .bind(entry.ledger_account.as_str())
                .bind(operation.amount.currency().code())
                .bind(entry.side.sign() * entry.minor)
                .bind(self.now.micros());
            self.run(query).await?;
        }
        Ok(())
    }

    async fn add_event(&mut self, event: &NewEvent<'_>) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into event (at, kind, operation, payment, account, verb, from_state, to_state, payment_status,
                 reason, evidence)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let operation = event.operation;
        let query = query
            .bind(self.now.micros())
            .bind(event.kind.as_str())
            .bind(operation.id.uuid())
            .bind(operation.payment.map(PaymentId::uuid))
            .bind(operation.account.as_str())
            .bind(operation.verb.as_str())
            .bind(event.from.map(StateName::as_str))
            .bind(event.to.map(StateName::as_str))
            .bind(event.payment_status.map(PaymentStatus::as_str))
            .bind(event.reason)
            .bind(Json(event.evidence));
        self.run(query).await?;
        Ok(())
    }
}
