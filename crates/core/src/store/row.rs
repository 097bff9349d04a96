//! Rows to values: one mapping for every database.

use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{Row, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use crate::card::StoredCard;
use crate::clock::Timestamp;
use crate::connector::UpstreamIds;
use crate::idempotency::StoredFingerprint;
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    StatementDescriptor, UpstreamReference,
};
use crate::money::{Currency, Money};
use crate::operation::{Reserved, StateName, Verb};
use crate::payment::{Payment, PaymentStatus, Snapshot};
use crate::store::{
    AtRisk, Event, EventCursor, EventKind, Heartbeat, Operation, StoreError, TokenRow,
};

/// An operation's columns, from `operation o left join payment p`.
macro_rules! operation_columns {
    () => {
        "o.id, o.client, o.key, o.verb, o.payment, o.account, o.endpoint, o.amount, o.currency, o.state, o.detail, \
         o.attempt, o.sends, o.epoch, o.claim, o.reference, o.fingerprint, o.order_reference, o.statement_descriptor, \
         o.owner, o.capture_reserved, o.refund_reserved, o.holds_while_unknown, o.first_attempt_at, o.recorded_at, \
         o.send_by, o.deadline, o.late_arrival_horizon, o.late_after, o.due_at, o.checks, o.settled_at, \
         o.cancel_requested_at, o.prepared, o.reverses, o.reversal_form, o.snapshot_status, o.snapshot_authorized, \
         o.snapshot_captured, o.snapshot_refunded, o.late"
    };
}

/// What an operation shows of its payment, from the same join.
macro_rules! parent_columns {
    () => {
        "p.upstream_ids as parent_ids, p.reference as parent_reference, p.card as parent_card"
    };
}

macro_rules! payment_columns {
    () => {
        "p.id, p.account, p.endpoint, p.currency, p.amount, p.status, p.authorized, p.captured, p.refunded, p.voided, \
         p.capture_reserved, p.refund_reserved, p.busy_with, p.version, p.order_reference, p.upstream_ids, \
         p.reference, p.card, p.created_at"
    };
}

pub(super) use {operation_columns, parent_columns, payment_columns};

/// An operation as its row, with what only the ledger needs of it.
#[derive(Clone, Debug)]
pub struct Held {
    pub operation: Operation,
    /// From the last send until a late arrival is impossible.
    pub horizon: Duration,
}

/// A row of either database.
pub(super) trait Columns {
    fn text(&self, column: &str) -> Result<&str, StoreError>;
    fn text_opt(&self, column: &str) -> Result<Option<&str>, StoreError>;
    fn integer(&self, column: &str) -> Result<i64, StoreError>;
    fn count(&self, column: &str) -> Result<u32, StoreError>;
    fn boolean(&self, column: &str) -> Result<bool, StoreError>;
    fn bytes(&self, column: &str) -> Result<&[u8], StoreError>;
    fn uuid(&self, column: &str) -> Result<Uuid, StoreError>;
    fn uuid_opt(&self, column: &str) -> Result<Option<Uuid>, StoreError>;
    fn time(&self, column: &str) -> Result<Timestamp, StoreError>;
    fn time_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError>;
    fn json<T: DeserializeOwned + 'static>(&self, column: &str) -> Result<T, StoreError>;
    fn json_opt<T: DeserializeOwned + 'static>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError>;
}

fn corrupt(column: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("column {column}: {error}"))
}

fn get<'r, R, T>(row: &'r R, column: &str) -> Result<T, StoreError>
where
    R: Row,
    T: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'c> &'c str: sqlx::ColumnIndex<R>,
{
    row.try_get(column).map_err(|error| corrupt(column, &error))
}

/// Both databases hold the same types but for instants and small counts.
macro_rules! columns_of {
    ($row:ty, instant: $instant:ty => $from_instant:expr, count: $count:ty) => {
        impl Columns for $row {
            fn text(&self, column: &str) -> Result<&str, StoreError> {
                get(self, column)
            }
            fn text_opt(&self, column: &str) -> Result<Option<&str>, StoreError> {
                get(self, column)
            }
            fn integer(&self, column: &str) -> Result<i64, StoreError> {
                get(self, column)
            }
            fn count(&self, column: &str) -> Result<u32, StoreError> {
                let count: $count = get(self, column)?;
                u32::try_from(count).map_err(|error| corrupt(column, &error))
            }
            fn boolean(&self, column: &str) -> Result<bool, StoreError> {
                get(self, column)
            }
            fn bytes(&self, column: &str) -> Result<&[u8], StoreError> {
                get(self, column)
            }
            fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
                get(self, column)
            }
            fn uuid_opt(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
                get(self, column)
            }
            fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
                get::<_, $instant>(self, column).map($from_instant)
            }
            fn time_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
                Ok(get::<_, Option<$instant>>(self, column)?.map($from_instant))
            }
            fn json<T: DeserializeOwned + 'static>(&self, column: &str) -> Result<T, StoreError> {
                get::<_, Json<T>>(self, column).map(|json| json.0)
            }
            fn json_opt<T: DeserializeOwned + 'static>(
                &self,
                column: &str,
            ) -> Result<Option<T>, StoreError> {
                Ok(get::<_, Option<Json<T>>>(self, column)?.map(|json| json.0))
            }
        }
    };
}

columns_of!(PgRow, instant: OffsetDateTime => Timestamp::from, count: i32);
columns_of!(SqliteRow, instant: i64 => Timestamp::from_micros, count: i64);

/// A text column that holds one of our enumerations or a currency.
fn named<T>(
    row: &impl Columns,
    column: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let text = row.text(column)?;
    parse(text).ok_or_else(|| StoreError::Corrupt(format!("column {column}: unknown {text:?}")))
}

fn named_opt<T>(
    row: &impl Columns,
    column: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    let Some(text) = row.text_opt(column)? else {
        return Ok(None);
    };
    let value = parse(text);
    value
        .map(Some)
        .ok_or_else(|| StoreError::Corrupt(format!("column {column}: unknown {text:?}")))
}

fn currency(row: &impl Columns) -> Result<Currency, StoreError> {
    named(row, "currency", |code| Currency::parse(code).ok())
}

/// What the row's operation knows of its payment.
#[derive(Debug)]
pub struct Parent {
    ids: UpstreamIds,
    reference: Option<UpstreamReference>,
    card: Option<StoredCard>,
}

impl Parent {
    pub fn of(payment: &Payment) -> Self {
        Self {
            ids: payment.upstream_ids.clone(),
            reference: Some(payment.reference.clone()),
            card: payment.card.clone(),
        }
    }

    pub fn give_to(self, operation: &mut Operation) {
        operation.parent = self.ids;
        operation.parent_reference = self.reference;
        operation.parent_card = self.card;
    }
}

/// `operation_columns` and `parent_columns`, read at the ledger's instant `now`.
pub(super) fn held(row: &impl Columns, now: Timestamp) -> Result<Held, StoreError> {
    let minor = row.integer("amount")?;
    let amount = Money::new(minor, currency(row)?).map_err(|error| corrupt("amount", &error))?;
    let fingerprint = StoredFingerprint::from_bytes(row.bytes("fingerprint")?)
        .map_err(|error| corrupt("fingerprint", &error))?;
    let state: crate::operation::State = row.json("detail")?;
    if state.name() != named(row, "state", StateName::parse)? {
        return Err(StoreError::Corrupt(
            "columns state and detail differ".to_owned(),
        ));
    }
    let settled_at = row.time_opt("settled_at")?;
    let late_after = row.time("late_after")?;
    let horizon = row.integer("late_arrival_horizon")?;
    let operation = Operation {
        id: OperationId::from_uuid(row.uuid("id")?),
        client: Client::from_stored(row.text("client")?),
        key: IdempotencyKey::from_stored(row.text("key")?),
        verb: named(row, "verb", Verb::parse)?,
        payment: row.uuid_opt("payment")?.map(PaymentId::from_uuid),
        account: AccountName::from_stored(row.text("account")?),
        endpoint: row.text("endpoint")?.to_owned(),
        amount,
        state,
        attempt: row.count("attempt")?,
        sends: row.count("sends")?,
        epoch: row.integer("epoch")?,
        claim: row.uuid("claim")?,
        reference: UpstreamReference::from_stored(row.text("reference")?),
        fingerprint,
        order_reference: row
            .text_opt("order_reference")?
            .map(OrderReference::from_stored),
        statement_descriptor: row
            .text_opt("statement_descriptor")?
            .map(StatementDescriptor::from_stored),
        owner: ReplicaId::from_uuid(row.uuid("owner")?),
        reserved: Reserved {
            capture: row.integer("capture_reserved")?,
            refund: row.integer("refund_reserved")?,
        },
        holds_while_unknown: row.boolean("holds_while_unknown")?,
        first_attempt_at: row.time("first_attempt_at")?,
        recorded_at: row.time("recorded_at")?,
        send_by: row.time("send_by")?,
        deadline: row.time("deadline")?,
        late_after,
        read_at: now,
        settled_at,
        cancel_requested_at: row.time_opt("cancel_requested_at")?,
        prepared: row.json_opt("prepared")?,
        reverses: row.uuid_opt("reverses")?.map(OperationId::from_uuid),
        reversal_form: row.json_opt("reversal_form")?,
        snapshot: snapshot(row, settled_at)?,
        late: row.json_opt("late")?,
        checks: row.count("checks")?,
        due_at: row.time_opt("due_at")?,
        parent: row.json_opt("parent_ids")?.unwrap_or_default(),
        parent_reference: row
            .text_opt("parent_reference")?
            .map(UpstreamReference::from_stored),
        parent_card: row.json_opt("parent_card")?,
    };
    let horizon =
        u64::try_from(horizon).map_err(|error| corrupt("late_arrival_horizon", &error))?;
    Ok(Held {
        operation,
        horizon: Duration::from_micros(horizon),
    })
}

fn snapshot(
    row: &impl Columns,
    settled_at: Option<Timestamp>,
) -> Result<Option<Snapshot>, StoreError> {
    let status = named_opt(row, "snapshot_status", PaymentStatus::parse)?;
    let (Some(status), Some(as_of)) = (status, settled_at) else {
        return Ok(None);
    };
    Ok(Some(Snapshot {
        status,
        authorized: row.integer("snapshot_authorized")?,
        captured: row.integer("snapshot_captured")?,
        refunded: row.integer("snapshot_refunded")?,
        as_of,
    }))
}

pub(super) fn payment(row: &impl Columns) -> Result<Payment, StoreError> {
    Ok(Payment {
        id: PaymentId::from_uuid(row.uuid("id")?),
        account: AccountName::from_stored(row.text("account")?),
        endpoint: row.text("endpoint")?.to_owned(),
        currency: currency(row)?,
        amount: row.integer("amount")?,
        status: named(row, "status", PaymentStatus::parse)?,
        authorized: row.integer("authorized")?,
        captured: row.integer("captured")?,
        refunded: row.integer("refunded")?,
        voided: row.boolean("voided")?,
        capture_reserved: row.integer("capture_reserved")?,
        refund_reserved: row.integer("refund_reserved")?,
        busy_with: row.uuid_opt("busy_with")?.map(OperationId::from_uuid),
        version: row.integer("version")?,
        order_reference: row
            .text_opt("order_reference")?
            .map(OrderReference::from_stored),
        upstream_ids: row.json("upstream_ids")?,
        reference: UpstreamReference::from_stored(row.text("reference")?),
        card: row.json_opt("card")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) fn event(row: &impl Columns) -> Result<Event, StoreError> {
    let transaction = row.integer("transaction")?;
    Ok(Event {
        cursor: EventCursor {
            transaction: u64::try_from(transaction)
                .map_err(|error| corrupt("transaction", &error))?,
            id: row.integer("id")?,
        },
        at: row.time("at")?,
        kind: named(row, "kind", EventKind::parse)?,
        operation: OperationId::from_uuid(row.uuid("operation")?),
        payment: row.uuid_opt("payment")?.map(PaymentId::from_uuid),
        account: AccountName::from_stored(row.text("account")?),
        verb: named(row, "verb", Verb::parse)?,
        from: named_opt(row, "from_state", StateName::parse)?,
        to: named_opt(row, "to_state", StateName::parse)?,
        payment_status: named_opt(row, "payment_status", PaymentStatus::parse)?,
        reason: row.text("reason")?.to_owned(),
        evidence: row.json("evidence")?,
    })
}

pub(super) fn heartbeat(row: &impl Columns) -> Result<Heartbeat, StoreError> {
    Ok(Heartbeat {
        replica: ReplicaId::from_uuid(row.uuid("id")?),
        beat: row.integer("beat")?,
    })
}

pub(super) fn at_risk(row: &impl Columns) -> Result<AtRisk, StoreError> {
    Ok(AtRisk {
        account: AccountName::from_stored(row.text("account")?),
        currency: currency(row)?,
        state: named(row, "state", StateName::parse)?,
        operations: row.integer("operations")?,
        minor: row.integer("minor")?,
    })
}

pub(super) fn token(row: &impl Columns) -> Result<TokenRow, StoreError> {
    Ok(TokenRow {
        generation: row.integer("generation")?,
        ciphertext: row.bytes("ciphertext")?.to_owned(),
        expires_at: row.time("expires_at")?,
        issued_at: row.time("issued_at")?,
    })
}
