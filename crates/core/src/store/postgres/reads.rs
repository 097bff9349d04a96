//! Reads: what callers and the resolver ask of the ledger. Each is one statement, and none locks.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Execute, Postgres, QueryBuilder};
use uuid::Uuid;

use super::connections::{Lane, Lease};
use super::rows::at;
use crate::connector::Control;
use crate::key::{AccountName, Client, IdempotencyKey, OperationId, PaymentId, UpstreamReference};
use crate::operation::Verb;
use crate::payment::Payment;
use crate::store::row::{self, Columns, operation_columns, parent_columns, payment_columns};
use crate::store::{
    AtRisk, CONTROL_AMONG, Event, EventQuery, Operation, PaymentQuery, StoreError, TokenRow,
};

/// An operation with its payment's columns beside it, and the instant of the read.
macro_rules! select_operation {
    ($condition:literal) => {
        concat!(
            "select ",
            operation_columns!(),
            ", ",
            parent_columns!(),
            ", now() as read_at from operation o left join payment p on p.id = o.payment ",
            $condition
        )
    };
}

macro_rules! event_columns {
    () => {
        "e.transaction::text::bigint as transaction, e.id, e.at, e.kind, e.operation, e.payment, e.account, e.verb, \
         e.from_state, e.to_state, e.payment_status, e.reason, e.evidence"
    };
}

pub(super) async fn rows(
    lane: &Arc<Lane>,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, StoreError> {
    let query = owned(query)?;
    lane.apart(|mut lease| async move {
        let limit = lease.limit();
        let rows = Lease::answer(limit, query.fetch_all(&mut *lease)).await?;
        lease.done();
        Ok(rows)
    })
    .await
}

/// The same query, for a task that outlives whoever built it.
pub(super) fn owned(
    mut query: Query<'_, Postgres, PgArguments>,
) -> Result<Query<'static, Postgres, PgArguments>, StoreError> {
    let arguments = query.take_arguments().map_err(StoreError::Refused)?;
    Ok(sqlx::query_with(query.sql(), arguments.unwrap_or_default()))
}

pub(super) async fn operations(
    lane: &Arc<Lane>,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<Operation>, StoreError> {
    let rows = rows(lane, query).await?;
    rows.iter()
        .map(|row| Ok(row::held(row, row.time("read_at")?)?.operation))
        .collect()
}

pub(super) async fn operation_by_key(
    lane: &Arc<Lane>,
    client: &Client,
    key: &IdempotencyKey,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.client = $1 and o.key = $2"));
    Ok(
        operations(lane, query.bind(client.as_str()).bind(key.as_str()))
            .await?
            .pop(),
    )
}

pub(super) async fn operation(
    lane: &Arc<Lane>,
    id: OperationId,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.id = $1"));
    Ok(operations(lane, query.bind(id.uuid())).await?.pop())
}

pub(super) async fn ended(
    lane: &Arc<Lane>,
    ids: &[OperationId],
) -> Result<Vec<Operation>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let query = sqlx::query(select_operation!(
        "where o.id = any($1) and o.state not in ('recorded', 'unknown')"
    ));
    operations(lane, query.bind(ids)).await
}

pub(super) async fn reversal_of(
    lane: &Arc<Lane>,
    of: OperationId,
) -> Result<Option<Operation>, StoreError> {
    let query = sqlx::query(select_operation!("where o.reverses = $1"));
    Ok(operations(lane, query.bind(of.uuid())).await?.pop())
}

/// The create is named by the payment, the others are found by it.
pub(super) async fn operations_of(
    lane: &Arc<Lane>,
    payment: PaymentId,
) -> Result<Vec<Operation>, StoreError> {
    let query = sqlx::query(select_operation!(
        "where o.id in (
             select opened_by from payment where id = $1
             union all
             select id from operation where payment = $1 and verb not in ('sale', 'authorize'))
         order by o.first_attempt_at, o.id"
    ));
    operations(lane, query.bind(payment.uuid())).await
}

pub(super) async fn payment(
    lane: &Arc<Lane>,
    id: PaymentId,
) -> Result<Option<Payment>, StoreError> {
    let query = sqlx::query(concat!(
        "select ",
        payment_columns!(),
        " from payment p where p.id = $1"
    ));
    let rows = rows(lane, query.bind(id.uuid())).await?;
    rows.first().map(row::payment).transpose()
}

/// Each account's newest by its index, then the newest of those: a sort of a page per account, not of the table.
pub(super) async fn payments(
    lane: &Arc<Lane>,
    query: &PaymentQuery,
) -> Result<Vec<Payment>, StoreError> {
    let limit = i64::from(query.limit);
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new("");
    match &query.accounts {
        Some(accounts) => {
            let names: Vec<String> = accounts.iter().map(ToString::to_string).collect();
            sql.push("with wanted as (select distinct unnest(");
            sql.push_bind(names);
            sql.push("::text[]) as account)");
        }
        // Every account there is, by skipping through the index.
        None => {
            sql.push(
                "with recursive wanted as (
                     (select account from payment order by account limit 1)
                     union all
                     select (select p.account from payment p where p.account > w.account order by p.account limit 1)
                     from wanted w where w.account is not null)",
            );
        }
    }
    sql.push(concat!(
        " select ",
        payment_columns!(),
        " from wanted w cross join lateral (select * from payment q where q.account = w.account"
    ));
    if let Some(order) = &query.order_reference {
        sql.push(" and q.order_reference = ")
            .push_bind(order.to_string());
    }
    if let Some(status) = query.status {
        sql.push(" and q.status = ").push_bind(status.as_str());
    }
    if let Some(after) = query.created_after {
        sql.push(" and q.created_at > ").push_bind(at(after));
    }
    if let Some((before, id)) = query.before {
        sql.push(" and (q.created_at, q.id) < (")
            .push_bind(at(before));
        sql.push(", ").push_bind(id.uuid()).push(")");
    }
    sql.push(" order by q.created_at desc, q.id desc limit ")
        .push_bind(limit);
    sql.push(") p order by p.created_at desc, p.id desc limit ")
        .push_bind(limit);
    let rows = rows(lane, sql.build()).await?;
    rows.iter().map(row::payment).collect()
}

/// By (transaction, id), below the oldest transaction that still runs: whatever commits later sorts later.
pub(super) async fn events(lane: &Arc<Lane>, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(concat!(
        "select ",
        event_columns!(),
        " from event e where e.kind = 'transition'
         and e.transaction < pg_snapshot_xmin(pg_current_snapshot())"
    ));
    if let Some(after) = query.after {
        sql.push(" and (e.transaction, e.id) > (")
            .push_bind(after.transaction.to_string());
        sql.push("::text::xid8, ").push_bind(after.id).push(")");
    }
    if let Some(accounts) = &query.accounts {
        let names: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        sql.push(" and e.account = any(").push_bind(names).push(")");
    }
    sql.push(" order by e.transaction, e.id limit ")
        .push_bind(i64::from(query.limit));
    let rows = rows(lane, sql.build()).await?;
    rows.iter().map(row::event).collect()
}

pub(super) async fn timeline(
    lane: &Arc<Lane>,
    operation: OperationId,
) -> Result<Vec<Event>, StoreError> {
    let query = sqlx::query(concat!(
        "select ",
        event_columns!(),
        " from event e where e.operation = $1 order by e.id"
    ));
    let rows = rows(lane, query.bind(operation.uuid())).await?;
    rows.iter().map(row::event).collect()
}

pub(super) async fn metadata(
    lane: &Arc<Lane>,
    payment: PaymentId,
) -> Result<Option<String>, StoreError> {
    let query = sqlx::query("select metadata from payment_metadata where payment = $1");
    let rows = rows(lane, query.bind(payment.uuid())).await?;
    rows.first()
        .map(|row| Ok(row.text("metadata")?.to_owned()))
        .transpose()
}

/// By the account's newest payments: no index on the hot table serves this alone.
pub(super) async fn control(
    lane: &Arc<Lane>,
    account: &AccountName,
    verb: Verb,
    except: OperationId,
) -> Result<Option<Control>, StoreError> {
    let query = sqlx::query(
        "select o.reference, p.upstream_ids from (
             select id, opened_by, upstream_ids, created_at from payment
             where account = $1 order by created_at desc, id desc limit $4) p
         cross join lateral (
             select o.id, o.reference, o.verb, o.state, o.endpoint, o.recorded_at from operation o
             where o.id = p.opened_by
             union all
             select o.id, o.reference, o.verb, o.state, o.endpoint, o.recorded_at from operation o
             where o.payment = p.id and o.verb not in ('sale', 'authorize')) o
         where o.verb = $2 and o.state = 'approved' and o.id <> $3
           and o.endpoint = (select endpoint from operation where id = $3)
         order by p.upstream_ids = '{}', o.recorded_at desc, o.id desc limit 1",
    );
    let query = query
        .bind(account.as_str())
        .bind(verb.as_str())
        .bind(except.uuid())
        .bind(i64::from(CONTROL_AMONG));
    let rows = rows(lane, query).await?;
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
pub(super) async fn at_risk(lane: &Arc<Lane>) -> Result<Vec<AtRisk>, StoreError> {
    let query = sqlx::query(
        "select account, currency, state, count(*) as operations, sum(minor)::bigint as minor from (
             select o.account, o.currency,
                 case when r.state in ('recorded', 'unknown', 'parked') then r.state else o.state end as state,
                 case when o.state = 'approved' then p.authorized - p.refunded
                         - (p.capture_reserved - coalesce(r.capture_reserved, 0))
                         - (p.refund_reserved - coalesce(r.refund_reserved, 0))
                     else o.amount end as minor
             from due d
             join operation o on o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
             left join payment p on p.id = o.payment and o.state = 'approved'
             left join operation r on r.reverses = o.id and o.state = 'approved'
             where o.state in ('recorded', 'unknown', 'parked')
                 or (o.state = 'approved' and p.status not in ('voided', 'reversed', 'refunded'))) open
         group by account, currency, state order by account, currency, state",
    );
    let rows = rows(lane, query).await?;
    rows.iter().map(row::at_risk).collect()
}

pub(super) async fn load_token(
    lane: &Arc<Lane>,
    name: &str,
) -> Result<Option<TokenRow>, StoreError> {
    let query = sqlx::query(
        "select generation, ciphertext, issued_at, expires_at from token where name = $1",
    );
    let rows = rows(lane, query.bind(name)).await?;
    rows.first().map(row::token).transpose()
}
