//! Commit 1 in one statement: a batch of plain creates, in one round trip.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::connections::Lease;
use super::rows::micros;
use crate::clock::Timestamp;
use crate::key::{OrderReference, PaymentId};
use crate::store::row::{self, Columns, operation_columns, parent_columns};
use crate::store::transaction::{claimed, reading_of_holder, unclaimed};
use crate::store::{Intent, IntentKind, Operation, Recorded, StoreError};

/// Whether nothing but its key decides it.
pub(super) fn is_plain(intent: &Intent) -> bool {
    match &intent.kind {
        IntentKind::Create { once_per_order, .. } => {
            !once_per_order || intent.order_reference.is_none()
        }
        IntentKind::Verification => true,
        IntentKind::FollowUp { .. } => false,
    }
}

/// What became of a plain intent.
pub(super) enum Plain {
    Answered(Recorded),
    /// Its holder had sent nothing: to be claimed again, under row locks.
    Again,
}

/// One statement claims, opens the payments and writes the events; its rows are inserted by (client, key), so that two
/// batches which share keys wait for each other and do not deadlock.
pub(super) const RECORD: &str = "
    with input as (
        select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[],
            $8::bigint[], $9::text[], $10::uuid[], $11::text[], $12::bytea[], $13::text[], $14::text[], $15::uuid[],
            $16::bigint[], $17::bigint[], $18::bigint[], $19::boolean[], $20::text[])
        as i (id, client, key, verb, payment, account, endpoint, amount, currency, claim, reference, fingerprint,
            order_reference, statement_descriptor, owner, send_within, deadline_within, horizon, holds_while_unknown,
            metadata)
    ), claimed as (
        insert into operation (id, client, key, verb, payment, account, endpoint, amount, currency, state, detail,
            attempt, sends, epoch, claim, reference, fingerprint, order_reference, statement_descriptor, owner,
            holds_while_unknown, first_attempt_at, recorded_at, send_by, deadline, late_arrival_horizon, late_after,
            due_at)
        select id, client, key, verb, payment, account, endpoint, amount, currency, 'recorded',
            '{\"state\":\"recorded\"}', 1, 1, 1, claim, reference, fingerprint, order_reference, statement_descriptor,
            owner, holds_while_unknown, now(), now(), now() + send_within * interval '1 microsecond',
            now() + deadline_within * interval '1 microsecond', horizon,
            now() + (send_within + horizon) * interval '1 microsecond',
            now() + deadline_within * interval '1 microsecond'
        from input order by client, key
        -- On any: two claims of one key have one reference, and a race may show there first.
        on conflict do nothing
        returning id, payment, account, endpoint, currency, amount, order_reference, reference, verb, recorded_at,
            owner, due_at
    ), awaited as (
        insert into due (operation, owner, due_at) select id, owner, due_at from claimed
    ), opened as (
        insert into payment (id, account, endpoint, currency, amount, status, order_reference, reference, opened_by)
        select payment, account, endpoint, currency, amount, 'pending', order_reference, reference, id
        from claimed where payment is not null
    ), kept as (
        insert into payment_metadata (payment, metadata)
        select payment, metadata from input
        where metadata is not null and (id in (select id from claimed)) is true -- Not a join: hashed, whatever the plan.
    ), noted as (
        insert into event (kind, operation, payment, account, verb, to_state, payment_status, reason, evidence)
        select 'transition', id, payment, account, verb, 'recorded', case when payment is not null then 'pending' end,
            'recorded', 'null'
        from claimed
    )
    select id, recorded_at from claimed";

pub(super) const HOLDERS: &str = concat!(
    "select ",
    operation_columns!(),
    ", ",
    parent_columns!(),
    ", now() as read_at
     from unnest($1::text[], $2::text[]) as i (client, key)
     join operation o on o.client = i.client and o.key = i.key
     left join payment p on p.id = o.payment"
);

/// Records plain intents; the answers come in their order.
pub(super) async fn record_plain(
    connection: &mut PgConnection,
    limit: std::time::Duration,
    intents: &[&Arc<Intent>],
) -> Result<Vec<Plain>, StoreError> {
    let won = insert(connection, limit, intents).await?;
    let lost: Vec<&Arc<Intent>> = intents
        .iter()
        .copied()
        .filter(|intent| !won.contains_key(&intent.operation.uuid()))
        .collect();
    let mut holders = if lost.is_empty() {
        HashMap::new()
    } else {
        // A second statement: the first cannot see who won.
        holders(connection, limit, &lost).await?
    };
    let mut answers = Vec::with_capacity(intents.len());
    for intent in intents {
        if let Some(&now) = won.get(&intent.operation.uuid()) {
            let row = claimed(intent, now);
            answers.push(Plain::Answered(Recorded::New(Box::new(row.operation))));
            continue;
        }
        let key = (
            intent.client.as_str().to_owned(),
            intent.key.as_str().to_owned(),
        );
        let Some(holder) = holders.remove(&key) else {
            return Err(no_holder(connection, limit, intent).await?);
        };
        answers.push(match reading_of_holder(intent, &holder) {
            Some(answer) => Plain::Answered(answer(Box::new(holder))),
            None => Plain::Again,
        });
    }
    Ok(answers)
}

/// Not inserted, and nobody has the key: the reference is another key's, or the holder gave up its claim just now.
async fn no_holder(
    connection: &mut PgConnection,
    limit: std::time::Duration,
    intent: &Intent,
) -> Result<StoreError, StoreError> {
    let query = sqlx::query("select exists (select from operation where reference = $1) as taken");
    let query = query.bind(intent.reference.as_str());
    let row = Lease::answer(limit, query.fetch_one(connection)).await?;
    Ok(unclaimed(row.boolean("taken")?))
}

async fn insert(
    connection: &mut PgConnection,
    limit: std::time::Duration,
    intents: &[&Arc<Intent>],
) -> Result<HashMap<Uuid, Timestamp>, StoreError> {
    fn column<'a, T>(intents: &'a [&Arc<Intent>], of: impl Fn(&'a Intent) -> T) -> Vec<T> {
        intents.iter().map(|intent| of(intent)).collect()
    }
    let query = sqlx::query(RECORD)
        .bind(column(intents, |i| i.operation.uuid()))
        .bind(column(intents, |i| i.client.as_str()))
        .bind(column(intents, |i| i.key.as_str()))
        .bind(column(intents, |i| i.verb.as_str()))
        .bind(column(intents, |i| i.payment().map(PaymentId::uuid)))
        .bind(column(intents, |i| i.account.as_str()))
        .bind(column(intents, |i| i.endpoint.as_str()))
        .bind(column(intents, |i| i.amount.minor()))
        .bind(column(intents, |i| i.amount.currency().code()))
        .bind(column(intents, |i| i.claim))
        .bind(column(intents, |i| i.reference.as_str()))
        .bind(column(intents, |i| i.fingerprint.to_bytes().to_vec()))
        .bind(column(intents, |i| {
            i.order_reference.as_ref().map(OrderReference::as_str)
        }))
        .bind(column(intents, |i| {
            i.statement_descriptor.as_ref().map(AsRef::<str>::as_ref)
        }))
        .bind(column(intents, |i| i.owner.uuid()))
        .bind(column(intents, |i| micros(i.send_within)))
        .bind(column(intents, |i| {
            micros(i.send_within + i.deadline_after)
        }))
        .bind(column(intents, |i| micros(i.late_arrival_horizon)))
        .bind(column(intents, |i| i.holds_while_unknown))
        .bind(column(intents, metadata));
    let rows = Lease::answer(limit, query.fetch_all(connection)).await?;
    rows.iter()
        .map(|row| Ok((row.uuid("id")?, row.time("recorded_at")?)))
        .collect()
}

fn metadata(intent: &Intent) -> Option<&str> {
    match &intent.kind {
        IntentKind::Create { metadata, .. } => metadata.as_deref(),
        IntentKind::FollowUp { .. } | IntentKind::Verification => None,
    }
}

async fn holders(
    connection: &mut PgConnection,
    limit: std::time::Duration,
    intents: &[&Arc<Intent>],
) -> Result<HashMap<(String, String), Operation>, StoreError> {
    let clients: Vec<&str> = intents
        .iter()
        .map(|intent| intent.client.as_str())
        .collect();
    let keys: Vec<&str> = intents.iter().map(|intent| intent.key.as_str()).collect();
    let query = sqlx::query(HOLDERS).bind(clients).bind(keys);
    let rows = Lease::answer(limit, query.fetch_all(connection)).await?;
    let mut holders = HashMap::with_capacity(rows.len());
    for row in &rows {
        let operation = row::held(row, row.time("read_at")?)?.operation;
        let key = (
            operation.client.as_str().to_owned(),
            operation.key.as_str().to_owned(),
        );
        holders.insert(key, operation);
    }
    Ok(holders)
}
