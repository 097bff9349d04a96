//! The documents callers see: a payment, an operation, an event. Rendered from stored fields alone, in a fixed order, so
//! that a replay has the same bytes as the first answer.

use gateway_core::card::StoredCard;
use gateway_core::connector::Approval;
use gateway_core::operation::{Failure, ParkedReason, State, Verb};
use gateway_core::payment::Payment;
use gateway_core::store::{Event, Operation};
use serde::Serialize;
use serde_json::Value;

use crate::choices::{OperationState, OperationVerb, PaymentStatus};

/// Minor units of an ISO 4217 currency.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
pub struct Amount {
    /// Minor units.
    pub value: i64,
    /// ISO 4217, three letters.
    pub currency: &'static str,
}

/// A payment: what its operations add up to.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PaymentDocument {
    pub id: String,
    #[schema(value_type = PaymentStatus)]
    pub status: &'static str,
    pub account: String,
    pub amount: Amount,
    /// Minor units, as all totals.
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CardDocument>)]
    pub card: Option<StoredCard>,
    /// In the answer to a POST: the operation that gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationDocument>,
    /// In the answer to a GET: all of them, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<OperationDocument>>,
    /// In the answer to a GET of one payment only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// RFC 3339: when the totals were so.
    pub as_of: String,
}

/// What may be kept of a card.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct CardDocument {
    pub token: Option<String>,
    pub r#type: Option<String>,
    pub last_four: Option<String>,
    /// `2030-12`.
    pub expiry: Option<String>,
}

/// One operation, in short.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OperationDocument {
    pub id: String,
    #[schema(value_type = OperationVerb)]
    pub verb: &'static str,
    #[schema(value_type = OperationState)]
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_code: Option<String>,
}

/// A card check.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct VerificationDocument {
    pub account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CardDocument>)]
    pub card: Option<StoredCard>,
    pub operation: OperationDocument,
    pub as_of: String,
}

/// One operation with its timeline: every transition, check and late answer, with what the wire saw.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OperationDetail {
    #[serde(flatten)]
    pub operation: OperationDocument,
    pub account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_reference: Option<String>,
    /// Ours: the processor's record carries it.
    pub reference: String,
    pub attempt: u32,
    pub sends: u32,
    pub first_attempt_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// While it is open: by when it is final or parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolves_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<String>,
    /// What a POST with its key is answered with.
    pub answer: AnswerSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub outcome: Option<Value>,
    pub timeline: Vec<EventDocument>,
}

/// What a POST with the key of an operation is answered with: its status, and what that says of the money.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct AnswerSummary {
    /// 200, 201, or a problem's.
    pub status: u16,
    /// `yes`, or a problem's `no`, `returned` or `unknown`.
    pub money_moved: &'static str,
    /// Never another answer again.
    pub r#final: bool,
}

/// One change of state, or one step towards it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct EventDocument {
    /// A place in the feed: `GET /v1/events?after=`.
    pub id: String,
    pub at: String,
    pub kind: &'static str,
    pub operation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    pub account: String,
    #[schema(value_type = OperationVerb)]
    pub verb: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OperationState>)]
    pub from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OperationState>)]
    pub to: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PaymentStatus>)]
    pub payment_status: Option<&'static str>,
    pub reason: String,
    /// In a timeline only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub evidence: Option<Value>,
}

impl OperationDocument {
    pub fn of(operation: &Operation) -> Self {
        let approval = approval(operation);
        let amount = (operation.verb != Verb::Verify).then(|| Amount {
            value: operation.amount.minor(),
            currency: operation.amount.currency().code(),
        });
        Self {
            id: operation.id.to_string(),
            verb: operation.verb.as_str(),
            state: operation.state.name().as_str(),
            amount,
            upstream_reference: approval
                .map(|approval| approval.upstream_reference.clone())
                .filter(|reference| !reference.is_empty()),
            authorization_code: approval.and_then(|approval| approval.authorization_code.clone()),
        }
    }
}

impl PaymentDocument {
    /// The payment as one approved operation left it. `None` for an operation without a payment or a snapshot.
    pub fn as_left_by(operation: &Operation) -> Option<Self> {
        let snapshot = operation.snapshot?;
        let currency = operation.amount.currency().code();
        let value = if operation.verb.is_create() {
            operation.amount.minor()
        } else {
            snapshot.authorized
        };
        let card = approval(operation).and_then(|approval| approval.card.clone());
        Some(Self {
            id: operation.payment?.to_string(),
            status: snapshot.status.as_str(),
            account: operation.account.to_string(),
            amount: Amount { value, currency },
            authorized: snapshot.authorized,
            captured: snapshot.captured,
            refunded: snapshot.refunded,
            order_reference: operation.order_reference.as_ref().map(ToString::to_string),
            card: card.or_else(|| operation.parent_card.clone()),
            operation: Some(OperationDocument::of(operation)),
            operations: None,
            metadata: None,
            as_of: snapshot.as_of.rfc3339(),
        })
    }

    /// The payment as it is now.
    pub fn of(payment: &Payment, as_of: String) -> Self {
        Self {
            id: payment.id.to_string(),
            status: payment.status.as_str(),
            account: payment.account.to_string(),
            amount: Amount {
                value: payment.amount,
                currency: payment.currency.code(),
            },
            authorized: payment.authorized,
            captured: payment.captured,
            refunded: payment.refunded,
            order_reference: payment.order_reference.as_ref().map(ToString::to_string),
            card: payment.card.clone(),
            operation: None,
            operations: None,
            metadata: None,
            as_of,
        }
    }
}

impl EventDocument {
    pub fn of(event: &Event, with_evidence: bool) -> Self {
        Self {
            id: cursor_text(event.cursor),
            at: event.at.rfc3339(),
            kind: event.kind.as_str(),
            operation: event.operation.to_string(),
            payment: event.payment.map(|payment| payment.to_string()),
            account: event.account.to_string(),
            verb: event.verb.as_str(),
            from: event.from.map(gateway_core::operation::StateName::as_str),
            to: event.to.map(gateway_core::operation::StateName::as_str),
            payment_status: event
                .payment_status
                .map(gateway_core::payment::PaymentStatus::as_str),
            reason: event.reason.clone(),
            evidence: Some(event.evidence.clone())
                .filter(|evidence| with_evidence && !evidence.is_null()),
        }
    }
}

/// A cursor as callers carry it.
pub fn cursor_text(cursor: gateway_core::store::EventCursor) -> String {
    format!("{}-{}", cursor.transaction, cursor.id)
}

/// The outcome in detail, for the view of one operation.
pub fn outcome(state: &State) -> Option<Value> {
    Some(match state {
        State::Declined { decline }
        | State::Failed {
            failure: Failure::Refused { decline },
        } => {
            serde_json::json!({ "class": decline.class, "code": decline.code, "message": decline.message })
        }
        State::Failed { failure } => serde_json::to_value(failure).ok()?,
        State::NotSent { not_sent } => serde_json::to_value(not_sent).ok()?,
        State::Unknown { unknown } => serde_json::to_value(unknown).ok()?,
        State::Parked { parked } => serde_json::to_value::<&ParkedReason>(parked).ok()?,
        State::Reversed { reversal } => serde_json::json!({ "reversal": reversal }),
        State::Recorded | State::Approved { .. } | State::Cancelled => return None,
    })
}

pub fn approval(operation: &Operation) -> Option<&Approval> {
    match &operation.state {
        State::Approved { approval } => Some(approval),
        _ => None,
    }
}
