//! The bodies of requests and answers as OpenAPI describes them. Requests are read by `requests.rs`; a test holds the two together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::choices::PaymentStatus;
use crate::problem::{Fault, MoneyMoved, Retry};

/// Minor units of an ISO 4217 currency: 150000 is 1,500.00 USD, and 150,000 JPY.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AmountRequest)]
pub struct AmountBody {
    /// A whole number, written without fraction or exponent.
    #[schema(minimum = 1, maximum = 999_999_999_999_i64, example = 150_000)]
    pub value: i64,
    /// ISO 4217.
    #[schema(
        pattern = "^[A-Z]{3}$",
        min_length = 3,
        max_length = 3,
        example = "USD"
    )]
    pub currency: String,
}

/// Either `number` with its expiry, or `token` from an earlier answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CardRequest)]
pub struct CardBody {
    /// 12 to 19 digits without separators, with a correct check digit. Passed through, never stored.
    #[schema(
        pattern = "^[0-9]{12,19}$",
        min_length = 12,
        max_length = 19,
        example = "4012000098765439"
    )]
    pub number: Option<String>,
    /// From the `card.token` of an earlier answer of the same account.
    #[schema(min_length = 1, max_length = 64)]
    pub token: Option<String>,
    /// Required with `number`.
    #[schema(minimum = 1, maximum = 12, example = 12)]
    pub expiry_month: Option<u8>,
    /// Required with `number`.
    #[schema(minimum = 2000, maximum = 2099, example = 2030)]
    pub expiry_year: Option<u16>,
    /// Never stored, hashed or compared.
    #[schema(
        pattern = "^[0-9]{3,4}$",
        min_length = 3,
        max_length = 4,
        example = "999"
    )]
    pub cvv: Option<String>,
    /// With `number` only.
    #[schema(min_length = 1, max_length = 100, example = "Jane Doe")]
    pub holder: Option<String>,
}

/// Who pays. Passed through to the processor, never stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CustomerRequest)]
pub struct CustomerBody {
    #[schema(min_length = 1, max_length = 64)]
    pub first_name: Option<String>,
    #[schema(min_length = 1, max_length = 64)]
    pub last_name: Option<String>,
    #[schema(min_length = 3, max_length = 254, pattern = "^[^ @]+@[^ ]+$")]
    pub email: Option<String>,
    #[schema(min_length = 1, max_length = 32)]
    pub phone: Option<String>,
    pub address: Option<AddressBody>,
}

/// A postal address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AddressRequest)]
pub struct AddressBody {
    #[schema(min_length = 1, max_length = 100)]
    pub line1: Option<String>,
    #[schema(min_length = 1, max_length = 100)]
    pub line2: Option<String>,
    #[schema(min_length = 1, max_length = 64)]
    pub city: Option<String>,
    #[schema(min_length = 1, max_length = 64)]
    pub state: Option<String>,
    #[schema(min_length = 1, max_length = 16)]
    pub postal_code: Option<String>,
    /// ISO 3166-1, two letters.
    #[schema(pattern = "^[A-Z]{2}$", min_length = 2, max_length = 2, example = "US")]
    pub country: Option<String>,
}

/// When the money is claimed.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CaptureMode)]
pub enum CaptureMode {
    /// Sale: authorized and captured at once.
    Automatic,
    /// Authorization: captured later, by `POST /v1/payments/{id}/captures`.
    Manual,
}

/// A sale or an authorization.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreatePaymentRequest)]
pub struct CreatePaymentBody {
    /// One configured merchant account at one processor.
    #[schema(
        pattern = "^[a-z0-9][a-z0-9._-]{0,63}$",
        min_length = 1,
        max_length = 64,
        example = "acme-us"
    )]
    pub account: String,
    pub amount: AmountBody,
    /// Absent: `automatic`.
    pub capture: Option<CaptureMode>,
    /// Your own name for what is paid. Kept; holds no card number.
    #[schema(min_length = 1, max_length = 50, example = "857B2")]
    pub order_reference: Option<String>,
    /// What the cardholder reads on the statement. Printable ASCII.
    #[schema(min_length = 1, max_length = 25, example = "Agent Booking 123")]
    pub statement_descriptor: Option<String>,
    /// Refuse while another live create of this account and order reference exists. Needs `order_reference`.
    pub once_per_order: Option<bool>,
    pub card: CardBody,
    pub customer: Option<CustomerBody>,
    /// Passed through by name, never stored.
    #[schema(value_type = Option<Object>)]
    pub risk: Option<Map<String, Value>>,
    /// Fields that only the account's processor knows; its connector checks them.
    #[schema(value_type = Option<Object>)]
    pub upstream: Option<Map<String, Value>>,
    /// Kept with the payment, erasable, at most 4096 bytes in 64 members; holds no card number.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A capture or a refund.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FollowUpRequest)]
pub struct FollowUpBody {
    pub amount: AmountBody,
}

/// A void has no fields: it voids what stands.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VoidRequest)]
pub struct VoidBody {}

/// A card check without money.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerificationRequest)]
pub struct VerificationBody {
    #[schema(
        pattern = "^[a-z0-9][a-z0-9._-]{0,63}$",
        min_length = 1,
        max_length = 64,
        example = "acme-us"
    )]
    pub account: String,
    #[schema(min_length = 1, max_length = 50)]
    pub order_reference: Option<String>,
    pub card: CardBody,
    pub customer: Option<CustomerBody>,
    #[schema(value_type = Option<Object>)]
    pub risk: Option<Map<String, Value>>,
    #[schema(value_type = Option<Object>)]
    pub upstream: Option<Map<String, Value>>,
}

/// The wish that a key has no effect.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CancellationRequest)]
pub struct CancellationBody {
    /// The key of a create: seen or not, running or done.
    #[schema(min_length = 1, max_length = 512)]
    pub idempotency_key: String,
}

/// How far an undoing is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CancellationState {
    /// The customer is certainly not charged.
    Done,
    /// Being undone; repeat the request to see the progress.
    Pending,
    /// A person has to decide.
    NeedsReview,
}

/// The progress of a cancellation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cancellation)]
pub struct CancellationDocument {
    /// Always `not-charged`.
    pub aim: String,
    pub state: CancellationState,
    pub idempotency_key: String,
    #[schema(value_type = crate::routes::documents::OperationDocument)]
    pub operation: Value,
    pub payment: Option<String>,
    #[schema(value_type = Option<crate::routes::documents::OperationDocument>)]
    pub reversal: Option<Value>,
    pub resolves_by: Option<String>,
}

/// A page of payments, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PaymentList)]
pub struct PaymentListDocument {
    #[schema(value_type = Vec<crate::routes::documents::PaymentDocument>)]
    pub payments: Vec<Value>,
    /// For the parameter `cursor` of the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// A page of the feed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventList)]
pub struct EventListDocument {
    #[schema(value_type = Vec<crate::routes::documents::EventDocument>)]
    pub events: Vec<Value>,
    /// For the parameter `after` of the next request, whether or not there was an event.
    pub next_after: Option<String>,
}

/// Why an issuer or processor said no.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Decline)]
pub struct DeclineDocument {
    /// `hard`, `soft`, `fraud`, `limit`, `duplicate`, `invalid-request`, `configuration`, `authentication`, `not-found`.
    pub class: String,
    /// The processor's own code.
    pub code: Option<String>,
}

/// RFC 9457. Which members occur depends on the type; /problems explains each.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// `/problems/{slug}`, stable.
    #[schema(example = "/problems/declined")]
    pub r#type: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub instance: String,
    pub retry: Retry,
    pub money_moved: MoneyMoved,
    /// With `invalid-request`: every fault at once.
    pub errors: Option<Vec<Fault>>,
    /// With `declined`, `duplicate`, `failed`.
    pub decline: Option<DeclineDocument>,
    /// The operation that the answer is about: `GET /v1/operations/{id}`.
    pub operation: Option<String>,
    /// With `outcome-unknown` and `needs-review`: by when it is final or waits for a person. RFC 3339.
    pub resolves_by: Option<String>,
    /// With `over-limit`: what is left.
    #[schema(value_type = Option<crate::routes::documents::Amount>)]
    pub available: Option<Value>,
    /// With `possible-duplicate`: the live payment of the same order.
    #[schema(value_type = Option<Object>)]
    pub existing: Option<Value>,
    /// With `payment-busy`: the operation that holds the payment.
    pub busy_with: Option<String>,
    /// With `invalid-state`.
    #[schema(value_type = Option<PaymentStatus>)]
    pub payment_status: Option<String>,
    /// With `cancelled`: how far the undoing is.
    pub reversal: Option<CancellationState>,
    /// With `forbidden`: `client`, `scope`, `account` or `amount`.
    pub reason: Option<String>,
    /// With `payload-too-large`.
    pub bytes_max: Option<u64>,
}
