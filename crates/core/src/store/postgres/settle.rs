//! Commit 2 in one statement: every settlement of a batch that nobody raced, in one round trip.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::types::Json;

use super::connections::Lease;
use super::rows::micros;
use crate::connector::Approval;
use crate::key::OperationId;
use crate::ledger::{Entry, imbalance};
use crate::operation::{State, StatusChange};
use crate::store::row::{self, Columns, operation_columns};
use crate::store::{Settled, Settlement, StoreError};

/// Locks the operations that are as the settlement read them, by (client, key); then their payments, by id; changes both;
/// adds entries and events. What it does not return was changed meanwhile, and is looked at under row locks.
///
/// Columns of the input are carried along from step to step instead of being joined again: a join of two steps would
/// compare every row with every other.
pub(super) const SETTLE: &str = concat!("
    with input as (
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::json[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::boolean[], $10::bigint[], $11::bigint[], $12::boolean[], $13::text[], $14::bigint[],
            $15::json[], $16::text[], $17::jsonb[], $18::json[], $19::boolean[], $20::text[], $21::text[])
        as i (id, epoch, was, becomes, detail, authorized, captured, refunded, voids, releases_capture,
            releases_refund, releases_payment, status, check_after, evidence, reason, ids, card, final, lines, minors)
    ), locked as materialized (
        select i.*, o.payment, o.owner as held_by, o.due_at as was_due
        from input i join operation o on o.id = i.id and o.epoch = i.epoch and o.state = i.was
        order by o.client, o.key
        for update of o
    ), paid as (
        update payment p set
            authorized = p.authorized + l.authorized,
            captured = p.captured + l.captured,
            refunded = p.refunded + l.refunded,
            voided = p.voided or l.voids,
            capture_reserved = p.capture_reserved - l.releases_capture,
            refund_reserved = p.refund_reserved - l.releases_refund,
            busy_with = case when l.releases_payment and p.busy_with = l.id then null else p.busy_with end,
            version = p.version + 1,
            upstream_ids = case when l.ids is null then p.upstream_ids else p.upstream_ids || l.ids end,
            card = coalesce(l.card, p.card),
            status = case l.status
                when 'keep' then p.status
                when 'derive' then -- As PaymentStatus::derive.
                    case when p.voided or l.voids then 'voided'
                         when p.refunded + l.refunded > 0 and p.refunded + l.refunded >= p.captured + l.captured
                             then 'refunded'
                         when p.refunded + l.refunded > 0 then 'partially_refunded'
                         when p.captured + l.captured > 0 then 'captured'
                         when p.authorized + l.authorized > 0 then 'authorized'
                         else 'pending' end
                else l.status end
        from (select * from locked order by payment) l
        where p.id = l.payment
        returning l.*, p.status as payment_status, p.authorized as now_authorized, p.captured as now_captured,
            p.refunded as now_refunded, p.upstream_ids as parent_ids, p.reference as parent_reference,
            p.card as parent_card
    ), settled as (
        select * from paid
        union all
        select l.*, null, null, null, null, null, null, null from locked l where l.payment is null
    ), done as (
        update operation o set
            state = s.becomes,
            detail = s.detail,
            capture_reserved = o.capture_reserved - s.releases_capture,
            refund_reserved = o.refund_reserved - s.releases_refund,
            late_after = case when s.was = 'recorded' and s.becomes = 'unknown' -- As no_more_sends.
                then least(o.late_after, now() + o.late_arrival_horizon * interval '1 microsecond')
                else o.late_after end,
            due_at = case when o.verb <> 'reversal' then now() + s.check_after * interval '1 microsecond' end,
            settled_at = case when s.final then now() end,
            snapshot_status = case when s.final then s.payment_status end,
            snapshot_authorized = case when s.final then s.now_authorized end,
            snapshot_captured = case when s.final then s.now_captured end,
            snapshot_refunded = case when s.final then s.now_refunded end
        from settled s
        where o.id = s.id
        returning ", operation_columns!(), ", s.parent_ids, s.parent_reference, s.parent_card, s.was, s.payment_status,
            s.reason, s.evidence, s.lines, s.minors
    ), no_longer_due as (
        delete from due d using locked l where d.owner = l.held_by and d.due_at = l.was_due and d.operation = l.id
    ), due_again as (
        insert into due (operation, owner, due_at) select id, owner, due_at from done where due_at is not null
    ), entered as (
        insert into ledger_entry (operation, line, payment, account, ledger_account, currency, minor)
        select d.id, e.line, d.payment, d.account, e.ledger_account, d.currency, e.minor
        from done d
        cross join lateral unnest(d.lines::text[], d.minors::bigint[]) with ordinality as e (ledger_account, minor, line)
    ), noted as (
        insert into event (kind, operation, payment, account, verb, from_state, to_state, payment_status, reason, evidence)
        select 'transition', id, payment, account, verb, was, state, payment_status, reason, evidence
        from done
    )
    select *, now() as read_at from done");

/// Settles what is as it was read. What is missing in the answer is not written.
pub(super) async fn settle_unraced(
    connection: &mut PgConnection,
    limit: Duration,
    settlements: &[Arc<Settlement>],
) -> Result<HashMap<OperationId, Settled>, StoreError> {
    fn column<'a, T>(
        settlements: &'a [Arc<Settlement>],
        of: impl Fn(&'a Settlement) -> T,
    ) -> Vec<T> {
        settlements
            .iter()
            .map(|settlement| of(settlement))
            .collect()
    }
    for settlement in settlements {
        let Settlement {
            operation,
            from,
            to,
            effects,
            ..
        } = settlement.as_ref();
        assert!(
            from.may_become(to.name()),
            "BUG: {operation} cannot go from {from:?} to {:?}",
            to.name()
        );
        assert_eq!(
            imbalance(&effects.entries),
            0,
            "BUG: unbalanced entries for {operation}"
        );
    }
    let query = sqlx::query(SETTLE)
        .bind(column(settlements, |s| s.operation.uuid()))
        .bind(column(settlements, |s| s.epoch))
        .bind(column(settlements, |s| s.from.as_str()))
        .bind(column(settlements, |s| s.to.name().as_str()))
        .bind(column(settlements, |s| Json(&s.to)))
        .bind(column(settlements, |s| s.effects.authorized))
        .bind(column(settlements, |s| s.effects.captured))
        .bind(column(settlements, |s| s.effects.refunded))
        .bind(column(settlements, |s| s.effects.voids))
        .bind(column(settlements, |s| s.effects.releases.capture))
        .bind(column(settlements, |s| s.effects.releases.refund))
        .bind(column(settlements, |s| s.effects.releases_payment))
        .bind(column(settlements, |s| status(s.effects.status)))
        .bind(column(settlements, check_after))
        .bind(column(settlements, |s| Json(&s.evidence)))
        .bind(column(settlements, |s| s.reason))
        .bind(column(settlements, |s| {
            approval(&s.to).map(|a| Json(&a.ids))
        }))
        .bind(column(settlements, |s| {
            approval(&s.to).and_then(|a| a.card.as_ref()).map(Json)
        }))
        .bind(column(settlements, |s| s.to.is_final()))
        .bind(column(settlements, |s| {
            list(&s.effects.entries, |e| e.ledger_account.as_str())
        }))
        .bind(column(settlements, |s| {
            list(&s.effects.entries, |e| e.side.sign() * e.minor)
        }));
    let rows = Lease::answer(limit, query.fetch_all(connection)).await?;
    let mut settled = HashMap::with_capacity(rows.len());
    for row in &rows {
        let operation = row::held(row, row.time("read_at")?)?.operation;
        settled.insert(operation.id, Settled::Applied(Box::new(operation)));
    }
    Ok(settled)
}

fn approval(state: &State) -> Option<&Approval> {
    match state {
        State::Approved { approval } => Some(approval),
        _ => None,
    }
}

/// Until the next check, in microseconds: what is open always has one.
fn check_after(settlement: &Settlement) -> Option<i64> {
    let open = matches!(settlement.to, State::Unknown { .. } | State::Parked { .. });
    let after = settlement.check_after.or(open.then_some(Duration::ZERO));
    after.map(micros)
}

fn status(change: StatusChange) -> &'static str {
    match change {
        StatusChange::Keep => "keep",
        StatusChange::Derive => "derive",
        StatusChange::Set(status) => status.as_str(),
    }
}

/// A one-dimensional array of names or numbers as Postgres reads it: the driver has no arrays of arrays.
fn list<T: std::fmt::Display>(entries: &[Entry], of: impl Fn(&Entry) -> T) -> String {
    let mut text = String::from("{");
    for (i, entry) in entries.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        write!(text, "{comma}{}", of(entry)).expect("writing to a String cannot fail");
    }
    text.push('}');
    text
}
