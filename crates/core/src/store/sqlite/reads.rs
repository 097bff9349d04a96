//! Reads: what callers and the resolver ask of the ledger. None waits for the writer.

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::types::Json;

use super::read_error;
use super::rows::select_operation;
use crate::clock::{Clock, SystemClock};
use crate::connector::Control;
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    UpstreamReference,
};
use crate::operation::Verb;
use crate::payment::{Payment, PaymentStatus};
use crate::store::row::{self, Columns, operation_columns, parent_columns, payment_columns};
use crate::store::{
    AtRisk, CONTROL_AMONG, Event, EventQuery, Operation, PaymentQuery, StoreError, TokenRow,
};

macro_rules! event_columns {
    () => {
        "0 as \"transaction\", e.id, e.at, e.kind, e.operation, e.payment, e.account, e.verb, e.from_state, \
         e.to_state, e.payment_status, e.reason, e.evidence"
    };
}

pub(super) async fn rows(
    pool: &SqlitePool,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Vec<SqliteRow>, StoreError> {
    query.fetch_all(pool).await.map_err(read_error)
}

async fn operations(
    pool: &SqlitePool,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Vec<Operation>, StoreError> {
    let rows = rows(pool, query).await?;
    let now = SystemClock.now();
    rows.iter()
        .map(|row| Ok(row::held(row, now)?.operation))
        .collect()
}

pub(super) async fn operation_by_key(
    pool: &SqlitePool,
    client: &Client,
    key: &IdempotencyKey,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.client = $1 and o.key = $2"));
    Ok(
        operations(pool, query.bind(client.as_str()).bind(key.as_str()))
            .await?
            .pop(),
    )
}

pub(super) async fn operation(
    pool: &SqlitePool,
    id: OperationId,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.id = $1"));
    Ok(operations(pool, query.bind(id.uuid())).await?.pop())
}

pub(super) async fn ended(
    pool: &SqlitePool,
    ids: &[OperationId],
) -> Result<Vec<Operation>, StoreError> {
    let mut ended = Vec::new();
    for id in ids {
        let query = sqlx::query(select_operation!(
            "where o.id = $1 and o.state not in ('recorded', 'unknown')"
        ));
        ended.extend(operations(pool, query.bind(id.uuid())).await?);
    }
    Ok(ended)
}

pub(super) async fn reversal_of(
    pool: &SqlitePool,
    of: OperationId,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.reverses = $1"));
    Ok(operations(pool, query.bind(of.uuid())).await?.pop())
}

/// The create is named by the payment, the others are found by it.
pub(super) async fn operations_of(
    pool: &SqlitePool,
    payment: PaymentId,
) -> Result<Vec<Operation>, StoreError> {
    let query = sqlx::query(select_operation!(
        "where o.id in (
             select opened_by from payment where id = $1
             union all
             select id from operation where payment = $1 and verb not in ('sale', 'authorize'))
         order by o.first_attempt_at, o.id"
    ));
    operations(pool, query.bind(payment.uuid())).await
}

/// Whether an approved create is due of which nothing stands any more: asked first, so as not to write for nothing.
pub(super) async fn has_due_without_standing(
    pool: &SqlitePool,
    me: ReplicaId,
) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "select 1 from operation o join payment p on p.id = o.payment
         where o.due_at is not null and o.owner = $1 and o.due_at <= $2 and o.state = 'approved'
           and p.status in ('voided', 'reversed', 'refunded') limit 1",
    );
    let now = SystemClock.now().micros();
    Ok(!rows(pool, query.bind(me.uuid()).bind(now))
        .await?
        .is_empty())
}

pub(super) async fn due(
    pool: &SqlitePool,
    me: ReplicaId,
    limit: u32,
) -> Result<Vec<Operation>, StoreError> {
    let query = sqlx::query(select_operation!(
        "where o.due_at is not null and o.owner = $1 and o.due_at <= $2 and o.state <> 'recorded'
         order by o.due_at limit $3"
    ));
    let now = SystemClock.now().micros();
    operations(pool, query.bind(me.uuid()).bind(now).bind(i64::from(limit))).await
}

pub(super) async fn payment(
    pool: &SqlitePool,
    id: PaymentId,
) -> Result<Option<Payment>, StoreError> {
    let query = sqlx::query(concat!(
        "select ",
        payment_columns!(),
        " from payment p where p.id = $1"
    ));
    let rows = rows(pool, query.bind(id.uuid())).await?;
    rows.first().map(row::payment).transpose()
}

/// A list as a JSON array: SQLite has no other.
fn names(accounts: Option<&Vec<AccountName>>) -> Option<Json<&Vec<AccountName>>> {
    accounts.map(Json)
}

pub(super) async fn payments(
    pool: &SqlitePool,
    query: &PaymentQuery,
) -> Result<Vec<Payment>, StoreError> {
    let sql = concat!(
        "select ",
        payment_columns!(),
        " from payment p
         where ($1 is null or p.account in (select value from json_each($1)))
           and ($2 is null or p.order_reference = $2)
           and ($3 is null or p.status = $3)
           and ($4 is null or p.created_at > $4)
           and ($5 is null or (p.created_at, p.id) < ($5, $6))
         order by p.created_at desc, p.id desc limit $7"
    );
    let before = query.before;
    let bound = sqlx::query(sql)
        .bind(names(query.accounts.as_ref()))
        .bind(query.order_reference.as_ref().map(OrderReference::as_str))
        .bind(query.status.map(PaymentStatus::as_str))
        .bind(query.created_after.map(crate::clock::Timestamp::micros))
        .bind(before.map(|(at, _)| at.micros()))
        .bind(before.map(|(_, id)| id.uuid()))
        .bind(i64::from(query.limit));
    let rows = rows(pool, bound).await?;
    rows.iter().map(row::payment).collect()
}

/// By id: writers take turns, so no smaller id can appear later.
pub(super) async fn events(
    pool: &SqlitePool,
    query: &EventQuery,
) -> Result<Vec<Event>, StoreError> {
    let sql = concat!(
        "select ",
        event_columns!(),
        " from event e
         where e.kind = 'transition' and e.id > $1
           and ($2 is null or e.account in (select value from json_each($2)))
         order by e.id limit $3"
    );
    let bound = sqlx::query(sql)
        .bind(query.after.map_or(0, |after| after.id))
        .bind(names(query.accounts.as_ref()))
        .bind(i64::from(query.limit));
    let rows = rows(pool, bound).await?;
    rows.iter().map(row::event).collect()
}

pub(super) async fn timeline(
    pool: &SqlitePool,
    operation: OperationId,
) -> Result<Vec<Event>, StoreError> {
    let query = sqlx::query(concat!(
        "select ",
        event_columns!(),
        " from event e where e.operation = $1 order by e.id"
    ));
    let rows = rows(pool, query.bind(operation.uuid())).await?;
    rows.iter().map(row::event).collect()
}

pub(super) async fn metadata(
    pool: &SqlitePool,
    payment: PaymentId,
) -> Result<Option<String>, StoreError> {
    let query = sqlx::query("select metadata from payment_metadata where payment = $1");
    let rows = rows(pool, query.bind(payment.uuid())).await?;
    rows.first()
        .map(|row| Ok(row.text("metadata")?.to_owned()))
        .transpose()
}

pub(super) async fn control(
    pool: &SqlitePool,
    account: &AccountName,
    verb: Verb,
    except: OperationId,
) -> Result<Option<Control>, StoreError> {
    let query = sqlx::query(
        "select o.reference, p.upstream_ids from (
             select id, opened_by, upstream_ids, created_at from payment
             where account = $1 order by created_at desc, id desc limit $4) p
         join operation o on o.id = p.opened_by
             or (o.payment = p.id and o.verb not in ('sale', 'authorize'))
         where o.verb = $2 and o.state = 'approved' and o.id <> $3
           and o.endpoint = (select endpoint from operation where id = $3)
         order by p.upstream_ids = '{}', o.recorded_at desc, o.id desc limit 1",
    );
    let query = query
        .bind(account.as_str())
        .bind(verb.as_str())
        .bind(except.uuid())
        .bind(i64::from(CONTROL_AMONG));
    let rows = rows(pool, query).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Control {
        reference: UpstreamReference::from_stored(row.text("reference")?),
        ids: row.json("upstream_ids")?,
    }))
}

/// Of a cancelled approval what still stands, but for what its open follow-ups hold: they count that themselves. Its
/// reversal, once one is open, tells the state. Other reversals belong to an operation that is counted.
pub(super) async fn at_risk(pool: &SqlitePool) -> Result<Vec<AtRisk>, StoreError> {
    let query = sqlx::query(
        "select account, currency, state, count(*) as operations, sum(minor) as minor from (
             select o.account, o.currency,
                 case when r.state in ('recorded', 'unknown', 'parked') then r.state else o.state end as state,
                 case when o.state = 'approved' then p.authorized - p.refunded
                         - (p.capture_reserved - coalesce(r.capture_reserved, 0))
                         - (p.refund_reserved - coalesce(r.refund_reserved, 0))
                     else o.amount end as minor
             from operation o
             left join payment p on p.id = o.payment and o.state = 'approved'
             left join operation r on r.reverses = o.id and o.state = 'approved'
             where o.due_at is not null and (o.state in ('recorded', 'unknown', 'parked')
                 or (o.state = 'approved' and p.status not in ('voided', 'reversed', 'refunded'))))
         group by account, currency, state order by account, currency, state",
    );
    let rows = rows(pool, query).await?;
    rows.iter().map(row::at_risk).collect()
}

pub(super) async fn load_token(
    pool: &SqlitePool,
    name: &str,
) -> Result<Option<TokenRow>, StoreError> {
    let query = sqlx::query(
        "select generation, ciphertext, issued_at, expires_at from token where name = $1",
    );
    let rows = rows(pool, query.bind(name)).await?;
    rows.first().map(row::token).transpose()
}
