//! Single statements of the life beside payments: heartbeats, due work, tokens.

use std::sync::Arc;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::connections::{Lane, Lease};
use super::reads::{operations, owned};
use super::rows::at;
use crate::key::{PaymentId, ReplicaId};
use crate::store::row::{self, operation_columns, parent_columns};
use crate::store::transaction::nobody;
use crate::store::{Heartbeat, Operation, StoreError, TokenRow};

async fn run(lane: &Arc<Lane>, query: Query<'_, Postgres, PgArguments>) -> Result<u64, StoreError> {
    let query = owned(query)?;
    lane.apart(|mut lease| async move {
        let limit = lease.limit();
        let done = Lease::answer(limit, query.execute(&mut *lease)).await?;
        lease.done();
        Ok(done.rows_affected())
    })
    .await
}

/// One statement: my beat is committed when the others' are known. Given up with its connection: what hangs must not keep the
/// next beat waiting.
pub(super) async fn beat(
    lane: &Arc<Lane>,
    replica: ReplicaId,
) -> Result<Vec<Heartbeat>, StoreError> {
    let query = sqlx::query(
        "with mine as (
             insert into replica (id, beat, seen_at) values ($1, 1, now())
             on conflict (id) do update set beat = replica.beat + 1, seen_at = now())
         select id, beat from replica where id <> $1",
    );
    let query = query.bind(replica.uuid());
    let mut lease = lane.lease().await?;
    let limit = lease.limit();
    let rows = Lease::answer(limit, query.fetch_all(&mut *lease)).await?;
    lease.done();
    rows.iter().map(row::heartbeat).collect()
}

pub(super) async fn leave(lane: &Arc<Lane>, replica: ReplicaId) -> Result<(), StoreError> {
    let query = sqlx::query(
        "delete from replica r
         where (r.id = $1 or r.seen_at < now() - interval '1 hour')
           and not exists (
               select from due d
               join operation o on o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
               where d.owner = r.id)",
    );
    run(lane, query.bind(replica.uuid())).await?;
    Ok(())
}

pub(super) async fn hand_over(lane: &Arc<Lane>, me: ReplicaId) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "with moved as (
             update operation o set owner = $2, epoch = o.epoch + 1 from due d
             where d.owner = $1 and o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
               and o.state <> 'recorded'
             returning o.id, o.due_at
         ), gone as (
             delete from due d using moved m where d.owner = $1 and d.due_at = m.due_at and d.operation = m.id)
         insert into due (operation, owner, due_at) select id, $2, due_at from moved",
    );
    run(lane, query.bind(me.uuid()).bind(nobody().uuid())).await
}

pub(super) async fn due(
    lane: &Arc<Lane>,
    me: ReplicaId,
    limit: u32,
) -> Result<Vec<Operation>, StoreError> {
    // First what is done: approved creates of which nothing stands any more, and void rows.
    let query = sqlx::query(
        "with done as (
             update operation o set due_at = null from due d, payment p
             where d.owner = $1 and d.due_at <= now() and o.id = d.operation and o.owner = d.owner
               and o.due_at = d.due_at and o.state = 'approved' and p.id = o.payment
               and p.status in ('voided', 'reversed', 'refunded')
             returning o.id)
         delete from due d
         where d.due_at <= now()
           and (d.operation in (select id from done) or not exists (
               select from operation o where o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at))",
    );
    run(lane, query.bind(me.uuid())).await?;
    let query = sqlx::query(concat!(
        "select ",
        operation_columns!(),
        ", ",
        parent_columns!(),
        ", now() as read_at from due d
         join operation o on o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
         left join payment p on p.id = o.payment
         where d.owner = $1 and d.due_at <= now() and o.state <> 'recorded' order by d.due_at limit $2"
    ));
    operations(lane, query.bind(me.uuid()).bind(i64::from(limit))).await
}

pub(super) async fn erase_metadata(lane: &Arc<Lane>, payment: PaymentId) -> Result<(), StoreError> {
    let query = sqlx::query("delete from payment_metadata where payment = $1");
    run(lane, query.bind(payment.uuid())).await?;
    Ok(())
}

pub(super) async fn store_token(
    lane: &Arc<Lane>,
    name: &str,
    expected_generation: i64,
    new: &TokenRow,
) -> Result<bool, StoreError> {
    let query = if expected_generation == 0 {
        sqlx::query(
            "insert into token (name, generation, ciphertext, issued_at, expires_at) values ($1, $2, $3, $4, $5)
             on conflict (name) do nothing",
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
        .bind(at(new.issued_at))
        .bind(at(new.expires_at));
    let query = if expected_generation == 0 {
        query
    } else {
        query.bind(expected_generation)
    };
    Ok(run(lane, query).await? == 1)
}
