//! The locking reads and the writes that the shared rules ask of a Postgres transaction.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection, Postgres};
use uuid::Uuid;

use super::connections::Lease;
use crate::clock::Timestamp;
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, UpstreamReference,
};
use crate::ledger::Entry;
use crate::payment::Payment;
use crate::store::row::{self, Columns, Held, operation_columns, parent_columns, payment_columns};
use crate::store::transaction::{LiveCreate, NewEvent, Transaction, nobody};
use crate::store::{Heartbeat, ORPHANED_AFTER, Operation, StoreError};

/// Locked with its payment's columns beside it, which are not.
macro_rules! locked_operation {
    ($condition:literal) => {
        concat!(
            "select ",
            operation_columns!(),
            ", ",
            parent_columns!(),
            " from operation o left join payment p on p.id = o.payment where ",
            $condition
        )
    };
}

/// The same, of operations that are due at some time. A row of `due` that differs from its operation is void.
macro_rules! locked_due {
    ($condition:literal) => {
        concat!(
            "select ", operation_columns!(), ", ", parent_columns!(),
            " from due d
              join operation o on o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
              left join payment p on p.id = o.payment
              where ", $condition
        )
    };
}

/// One transaction on one connection.
pub(super) struct PgTransaction<'connection> {
    inner: sqlx::Transaction<'connection, Postgres>,
    now: Timestamp,
    limit: Duration,
}

impl<'connection> PgTransaction<'connection> {
    pub(super) async fn begin(
        connection: &'connection mut PgConnection,
        limit: Duration,
    ) -> Result<Self, StoreError> {
        let mut inner = Lease::answer(limit, connection.begin()).await?;
        let now = sqlx::query("select now() as now");
        let row = Lease::answer(limit, now.fetch_one(&mut *inner)).await?;
        let now = row.time("now")?;
        Ok(Self { inner, now, limit })
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        Lease::answer(self.limit, self.inner.commit()).await
    }

    /// Ends it without a trace; the connection can be used again.
    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        Lease::answer(self.limit, self.inner.rollback()).await
    }

    async fn run(&mut self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, StoreError> {
        let done = Lease::answer(self.limit, query.execute(&mut *self.inner)).await?;
        Ok(done.rows_affected())
    }

    async fn one(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Option<PgRow>, StoreError> {
        Lease::answer(self.limit, query.fetch_optional(&mut *self.inner)).await
    }

    async fn all(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<Held>, StoreError> {
        let rows = Lease::answer(self.limit, query.fetch_all(&mut *self.inner)).await?;
        rows.iter().map(|row| row::held(row, self.now)).collect()
    }

    /// Open operations of `silent` replicas and of nobody, soonest due first, but for those that somebody has locked. A
    /// replica's beats are compared in the statement that finds its operations: what it records after a beat that this
    /// statement does not see, it does not see either.
    pub(super) async fn open_of(
        &mut self,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Held>, StoreError> {
        let nobody = [Heartbeat {
            replica: nobody(),
            beat: 0,
        }];
        let all = || silent.iter().chain(&nobody);
        let owners: Vec<Uuid> = all().map(|of| of.replica.uuid()).collect();
        let beats: Vec<i64> = all().map(|of| of.beat).collect();
        let query = sqlx::query(locked_due!(
            "d.owner = any($1)
             and coalesce((select r.beat from replica r where r.id = d.owner), 0)
                 = ($3::bigint[])[array_position($1::uuid[], d.owner)]
             order by d.due_at limit $2 for update of o skip locked"
        ));
        let query = query.bind(owners).bind(i64::from(limit)).bind(beats);
        self.all(query).await
    }

    /// Recorded operations past their deadline, whoever owns them, and whatever belongs to nobody or to a replica that
    /// is not there.
    pub(super) async fn overdue(&mut self, limit: u32) -> Result<Vec<Held>, StoreError> {
        let query = sqlx::query(locked_due!(
            "(d.due_at <= now() and o.state = 'recorded') or d.owner = $2
             or (d.due_at <= now() - $3 * interval '1 microsecond'
                 and not exists (select from replica r where r.id = d.owner))
             order by d.due_at limit $1 for update of o skip locked"
        ));
        let query = query
            .bind(i64::from(limit))
            .bind(nobody().uuid())
            .bind(micros(ORPHANED_AFTER));
        self.all(query).await
    }
}

/// An instant as the driver wants it.
pub(super) fn at(instant: Timestamp) -> OffsetDateTime {
    instant.to_offset_date_time()
}

pub(super) fn at_opt(instant: Option<Timestamp>) -> Option<OffsetDateTime> {
    instant.map(at)
}

pub(super) fn json<T: Serialize>(value: Option<&T>) -> Option<Json<&T>> {
    value.map(Json)
}

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// A count as its `integer` column.
fn count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl Transaction for PgTransaction<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    async fn lock_order(
        &mut self,
        account: &AccountName,
        order: &OrderReference,
    ) -> Result<(), StoreError> {
        // Two orders that share a hash wait for each other; that is all.
        let query = sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, hashtext($2)))");
        self.run(query.bind(order.as_str()).bind(account.as_str()))
            .await?;
        Ok(())
    }

    async fn claim(&mut self, row: &Held) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "with claimed as (
             insert into operation (id, client, key, verb, payment, account, endpoint, amount, currency, state, detail,
                 attempt, sends, epoch, claim, reference, fingerprint, order_reference, statement_descriptor, owner,
                 capture_reserved, refund_reserved, holds_while_unknown, first_attempt_at, recorded_at, send_by,
                 deadline, late_arrival_horizon, late_after, due_at, settled_at, cancel_requested_at, prepared,
                 reverses, reversal_form)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                 $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35)
             on conflict do nothing -- On any: see the statement of plain creates.
             returning id, owner, due_at
             ), awaited as (
                 insert into due (operation, owner, due_at) select id, owner, due_at from claimed where due_at is not null)
             select id from claimed",
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
            .bind(count(operation.attempt))
            .bind(count(operation.sends))
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
            .bind(at(operation.first_attempt_at))
            .bind(at(operation.recorded_at))
            .bind(at(operation.send_by))
            .bind(at(operation.deadline))
            .bind(micros(row.horizon))
            .bind(at(operation.late_after))
            .bind(at_opt(operation.due_at))
            .bind(at_opt(operation.settled_at))
            .bind(at_opt(operation.cancel_requested_at))
            .bind(json(operation.prepared.as_ref()))
            .bind(operation.reverses.map(OperationId::uuid))
            .bind(json(operation.reversal_form.as_ref()));
        Ok(self.one(query).await?.is_some())
    }

    async fn is_taken(&mut self, reference: &UpstreamReference) -> Result<bool, StoreError> {
        let query = sqlx::query("select id from operation where reference = $1");
        Ok(self.one(query.bind(reference.as_str())).await?.is_some())
    }

    async fn unclaim(&mut self, id: OperationId) -> Result<(), StoreError> {
        let query = sqlx::query(
            "with gone as (delete from operation where id = $1 returning id, owner, due_at)
             delete from due d using gone o
             where d.owner = o.owner and d.due_at = o.due_at and d.operation = o.id",
        );
        self.run(query.bind(id.uuid())).await?;
        Ok(())
    }

    async fn operations(&mut self, ids: &[OperationId]) -> Result<Vec<Held>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let query = sqlx::query(locked_operation!(
            "o.id = any($1) order by o.client, o.key for update of o"
        ));
        self.all(query.bind(ids)).await
    }

    async fn operation_by_key(
        &mut self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Held>, StoreError> {
        let query = sqlx::query(locked_operation!(
            "o.client = $1 and o.key = $2 for update of o"
        ));
        Ok(self
            .all(query.bind(client.as_str()).bind(key.as_str()))
            .await?
            .pop())
    }

    async fn reversal_of(&mut self, of: OperationId) -> Result<Option<Held>, StoreError> {
        let query = sqlx::query(locked_operation!("o.reverses = $1 for update of o"));
        Ok(self.all(query.bind(of.uuid())).await?.pop())
    }

    async fn payment(&mut self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        let query = sqlx::query(concat!(
            "select ",
            payment_columns!(),
            " from payment p where p.id = $1 for update"
        ));
        let row = self.one(query.bind(id.uuid())).await?;
        row.as_ref().map(row::payment).transpose()
    }

    async fn is_being_undone(&mut self, payment: PaymentId) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "select 1 from payment p join operation o on o.id = p.opened_by
             where p.id = $1 and o.cancel_requested_at is not null and o.due_at is not null",
        );
        Ok(self.one(query.bind(payment.uuid())).await?.is_some())
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
        let Some(row) = self.one(query).await? else {
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
            "with no_longer_due as (
                 delete from due d using operation o -- As it was before this statement.
                 where o.id = $1 and d.owner = o.owner and d.due_at = o.due_at and d.operation = o.id
             ), due_again as (
                 insert into due (operation, owner, due_at)
                 select $1, $10, $19 where $19::timestamptz is not null)
             update operation set endpoint = $2, state = $3, detail = $4, attempt = $5, sends = $6, epoch = $7,
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
            .bind(count(operation.attempt))
            .bind(count(operation.sends))
            .bind(operation.epoch)
            .bind(operation.claim)
            .bind(operation.fingerprint.to_bytes().to_vec())
            .bind(operation.owner.uuid())
            .bind(operation.reserved.capture)
            .bind(operation.reserved.refund)
            .bind(operation.holds_while_unknown)
            .bind(at(operation.recorded_at))
            .bind(at(operation.send_by))
            .bind(at(operation.deadline))
            .bind(micros(row.horizon))
            .bind(at(operation.late_after))
            .bind(at_opt(operation.due_at))
            .bind(count(operation.checks))
            .bind(at_opt(operation.settled_at))
            .bind(at_opt(operation.cancel_requested_at))
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
            .bind(at(payment.created_at));
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
        let names: Vec<&str> = entries
            .iter()
            .map(|entry| entry.ledger_account.as_str())
            .collect();
        let minors: Vec<i64> = entries
            .iter()
            .map(|entry| entry.side.sign() * entry.minor)
            .collect();
        let query = sqlx::query(
            "insert into ledger_entry (operation, line, payment, account, ledger_account, currency, minor)
             select $1, e.line, $2, $3, e.ledger_account, $4, e.minor
             from unnest($5::text[], $6::bigint[]) with ordinality as e (ledger_account, minor, line)",
        );
        let query = query
            .bind(operation.id.uuid())
            .bind(operation.payment.map(PaymentId::uuid))
            .bind(operation.account.as_str())
            .bind(operation.amount.currency().code())
            .bind(names)
            .bind(minors);
        self.run(query).await?;
        Ok(())
    }

    async fn add_event(&mut self, event: &NewEvent<'_>) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into event (kind, operation, payment, account, verb, from_state, to_state, payment_status, reason,
                 evidence)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        );
        let operation = event.operation;
        let query = query
            .bind(event.kind.as_str())
            .bind(operation.id.uuid())
            .bind(operation.payment.map(PaymentId::uuid))
            .bind(operation.account.as_str())
            .bind(operation.verb.as_str())
            .bind(event.from.map(crate::operation::StateName::as_str))
            .bind(event.to.map(crate::operation::StateName::as_str))
            .bind(
                event
                    .payment_status
                    .map(crate::payment::PaymentStatus::as_str),
            )
            .bind(event.reason)
            .bind(Json(event.evidence));
        self.run(query).await?;
        Ok(())
    }
}
