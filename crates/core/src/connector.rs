//! What core asks of any processor: send this, find out what became of it, undo it.
//!
//! A connector translates; it never decides about money. What to do with an unknown outcome is decided by the resolver
//! from the [`Capabilities`] that a connector declares, and every decision is in the ledger before a connector is called.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::card::{CardSource, Sensitive, StoredCard};
use crate::clock::Timestamp;
use crate::draft::Draft;
use crate::key::{
    AccountName, OperationId, OrderReference, StatementDescriptor, UpstreamReference,
};
use crate::money::Money;
use crate::operation::Verb;
use crate::token::TokenHealth;

/// One processor account, as core sees it. Implemented once per processor, and by the simulation's model.
#[async_trait]
pub trait Connector: Send + Sync + fmt::Debug {
    /// How operations of this verb are looked up, repeated and undone. Constant for the life of the process.
    fn capabilities(&self, verb: Verb) -> Capabilities;

    /// Checks what only this processor knows (its `upstream` fields, its limits, its currencies), without any I/O.
    /// All faults at once; pointers are relative to the request body (`/upstream/expected_payments`).
    fn check(&self, draft: &Draft<'_>) -> Vec<Fault>;

    /// Reads whatever a follow-up must know before it is recorded: the baseline that a later comparison needs, and the
    /// form the request takes (a refund before settlement is a void). Only called where `capabilities(..).prepares`.
    /// Never moves money.
    async fn prepare(&self, subject: &Subject) -> Result<Prepared, PrepareError>;

    /// Sends the operation, once. `gate` is asked right before the first byte of the money-moving request is written,
    /// on a connection that is ready; what it refuses is [`Verdict::NotSent`]. Returns within the account's timeout.
    /// The resolver calls it with `payer = None`, for verbs whose [`Repeat`] allows it.
    async fn execute(
        &self,
        subject: &Subject,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
    ) -> Answer;

    /// Asks what became of an operation: of a create by its reference, or by its ids where `subject.parent` has them (the
    /// `standing` then is that of the whole payment: of the sale that a capture made, too). `control` is a transaction of this account and kind which the same search is
    /// known to find: without one, or when it is not found, "not found" is not conclusive.
    async fn look_up(&self, subject: &Subject, control: Option<&Control>) -> LookUp;

    /// Undoes a create. The form was stored in the reversal's own record before this call, and the send counted.
    async fn reverse(&self, subject: &Subject, form: &ReversalForm, gate: &dyn SendGate) -> Undo;

    /// Whether a new operation of this verb would be refused without sending anything (breaker open, no token to be had).
    fn refuses_now(&self, verb: Verb) -> Option<NotSent>;

    /// Of the access token that it sends with, for operators. `None`: it needs none.
    fn token_health(&self) -> Option<TokenHealth>;
}

/// An operation as connectors see it. Holds nothing that may not be stored.
#[derive(Clone, Debug)]
pub struct Subject {
    pub operation: OperationId,
    pub verb: Verb,
    pub account: AccountName,
    /// Where the payment began: follow-ups go to the endpoint that knows it, whatever the configuration says today.
    pub endpoint: String,
    /// Ours, unique per operation: what the processor keeps and finds it by.
    pub reference: UpstreamReference,
    /// Zero for a verification. For a void: what the payment stands at.
    pub amount: Money,
    pub order_reference: Option<OrderReference>,
    pub statement_descriptor: Option<StatementDescriptor>,
    /// The processor's own ids for the payment (`sale`, `authorization`, `capture`), as earlier operations returned them.
    pub parent: UpstreamIds,
    /// The reference under which the payment's create was sent.
    pub parent_reference: Option<UpstreamReference>,
    /// What [`Connector::prepare`] returned, stored with the record.
    pub prepared: Option<Prepared>,
    /// 1 for the first send. Counted in the ledger before each send.
    pub sends: u32,
    /// When this operation was first recorded (the ledger's clock): narrows searches, decides nothing.
    pub recorded_at: Timestamp,
}

/// What a create carries through to the processor and nowhere else: never stored, wiped when dropped.
pub struct Payer {
    pub card: CardSource,
    pub customer: Option<Customer>,
    /// The caller's `risk` object, passed through by name.
    pub risk: serde_json::Map<String, serde_json::Value>,
    /// The caller's `upstream` object: fields only this processor knows.
    pub upstream: serde_json::Map<String, serde_json::Value>,
}

/// The caller's own objects hold names and dates of birth, and the names of their fields are the caller's too: only how
/// many there are is shown.
impl fmt::Debug for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payer")
            .field("card", &self.card)
            .field("customer", &self.customer)
            .field("risk", &self.risk.len())
            .field("upstream", &self.upstream.len())
            .finish()
    }
}

/// The cardholder, as far as the caller told us.
#[derive(Debug, Default)]
pub struct Customer {
    pub first_name: Option<Sensitive>,
    pub last_name: Option<Sensitive>,
    pub email: Option<Sensitive>,
    pub phone: Option<Sensitive>,
    pub line1: Option<Sensitive>,
    pub line2: Option<Sensitive>,
    pub city: Option<Sensitive>,
    pub state: Option<Sensitive>,
    pub postal_code: Option<Sensitive>,
    pub country: Option<Sensitive>,
}

/// How one verb behaves at one processor account.
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent facts about one verb"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub supported: bool,
    /// [`Connector::prepare`] must run before the record.
    pub prepares: bool,
    pub looked_up: LookedUp,
    pub repeat: Repeat,
    pub undo: UndoBy,
    pub found: WhenFound,
    /// Only one approved operation of this verb per payment (ConnexPay: one capture per authorization).
    pub once_per_payment: bool,
    /// The processor accepts part of the amount (partial capture, partial refund).
    pub partial: bool,
}

/// How the outcome of a verb can be learned afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// The processor's record carries our reference.
    ByReference,
    /// The parent names its one child of this verb (an authorization's capture, a sale's void).
    ByParent,
    /// By the change of the parent's totals against the baseline stored before the call. The payment stays busy while
    /// such an operation is unknown: with two at once the difference could be either's.
    ByTotals,
    /// Not at all.
    Never,
}

/// Whether the same request may be sent again while its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Never,
    /// The processor executes this verb at most once for the one parent it names.
    OncePerParent,
    /// The processor documents that it de-duplicates by our reference, and the repeat carries it. Of a create, the task
    /// that holds the card repeats it once, within its caller's wait; the resolver, which has no card, never.
    ByReference,
}

/// How a create whose outcome is unknown, or unwanted, is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoBy {
    /// By our reference alone, found or not (ConnexPay's timeout reversal).
    Reference,
    /// By the processor's id, so it must be found first.
    Found,
    Nothing,
}

/// What to do with a create that turns out to be approved before `resolves_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFound {
    Adopt,
    Reverse,
}

/// A fault in the part of a request that only the connector understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// RFC 6901, into the request body.
    pub pointer: String,
    pub code: &'static str,
    pub detail: String,
}

/// What `prepare` learned. Stored with the record, given back to every later call for the operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Minor units left on the parent before the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<i64>,
    /// The refund is sent as a void, because the parent is not settled yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_void: bool,
    /// Ids fetched ahead, by the connector's own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, String>,
}

/// Why a follow-up cannot be recorded. Nothing was sent, no key is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareError {
    /// A part of an unsettled payment cannot be returned; all of it can be voided.
    NotSettled,
    /// A settled payment cannot be voided; it can be refunded.
    AlreadySettled,
    /// The processor's own books leave less than asked, or nothing at all.
    NothingLeft { detail: String },
    /// The processor could not be asked: not reachable, no token, an answer that makes no sense.
    CouldNotAsk(NotSent),
}

/// The processor's ids of one payment, by the connector's names for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpstreamIds(pub BTreeMap<String, String>);

impl UpstreamIds {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    #[must_use]
    pub fn with(mut self, name: &str, id: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), id.into());
        self
    }

    /// Adds the other's ids; on a clash the other's win.
    pub fn extend(&mut self, other: &Self) {
        self.0
            .extend(other.0.iter().map(|(name, id)| (name.clone(), id.clone())));
    }
}

/// What came back from one send, and what the wire saw.
#[derive(Clone, Debug)]
pub struct Answer {
    pub verdict: Verdict,
    pub evidence: Vec<CallEvidence>,
}

/// What an answer proves. Whatever is not understood is `Unknown`, never `Declined`.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Approved(Approval),
    /// The answer "no": a result, final, no money moved. A `duplicate` counts as an answer only on the first send.
    Declined(Decline),
    /// Provably not executed, for good: the request or the set-up is wrong.
    Refused(Decline),
    /// Provably not executed, and the same request may be tried later: nothing was sent, or a refusal that the connector
    /// declares to be proof.
    NotSent(NotSent),
    Unknown(UnknownReason),
}

/// The processor says yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Added to the payment's ids.
    pub ids: UpstreamIds,
    /// The id shown to callers as `upstream_reference`.
    pub upstream_reference: String,
    pub authorization_code: Option<String>,
    /// What was approved: compared with what was asked, by core.
    pub amount: Money,
    pub card: Option<StoredCard>,
}

/// The processor, or the issuer behind it, says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    pub class: DeclineClass,
    pub code: Option<String>,
    /// In our words or theirs, redacted: safe to store and to show.
    pub message: String,
}

/// What a caller can do about a "no".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclineClass {
    /// Refused for good.
    Hard,
    /// May succeed later or with other data.
    Soft,
    Fraud,
    /// An amount, count or frequency limit.
    Limit,
    /// The processor took it for a repeat of another request.
    Duplicate,
    InvalidRequest,
    Configuration,
    Authentication,
    NotFound,
}

/// Why nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum NotSent {
    /// Name resolution, connect or TLS failed, or the connection closed before a byte of the request was written.
    Unreachable {
        detail: String,
    },
    /// The pool's bounds were reached.
    PoolExhausted,
    /// No access token to be had.
    NoToken {
        detail: String,
    },
    BreakerOpen,
    /// The account's own concurrency limit.
    ConcurrencyLimit,
    /// The gate refused: heartbeat not confirmed, `send_by` past, or a cancellation known.
    HeartbeatLost,
    TooLate,
    CancelRequested,
    /// The processor refused before any processing, and the connector declares that refusal proof.
    RefusedUnprocessed {
        detail: String,
    },
    /// Admission: the process is full or draining.
    Overloaded,
    /// The process stopped before it sent anything.
    Stopped,
}

/// Why the outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum UnknownReason {
    /// No complete answer within the timeout.
    TimedOut,
    /// The connection ended before a complete answer.
    Closed {
        detail: String,
    },
    /// An answer that proves nothing: a 5xx, a redirect, an unknown status, another document, contradictory fields.
    Unusable {
        detail: String,
    },
    /// Refused as a duplicate after more than one send: it may be ours.
    DuplicateOfOurs,
    /// A repeat was refused, or could not be sent: neither says anything of the send before it.
    RepeatRefused {
        code: Option<String>,
    },
    RepeatNotSent,
    /// Its caller cancelled it while it was running.
    Cancelled,
    /// The owner stopped, stalled or lost its lease on the operation.
    OwnerLost,
    /// Approved for another amount than asked.
    OtherAmount {
        approved: i64,
    },
}

/// Asked right before the first byte of a money-moving request. Cheap, synchronous, and the last word.
pub trait SendGate: Send + Sync {
    fn may_send(&self) -> Result<(), NotSent>;
}

/// For calls that move no money.
#[derive(Clone, Copy, Debug)]
pub struct AlwaysOpen;

impl SendGate for AlwaysOpen {
    fn may_send(&self) -> Result<(), NotSent> {
        Ok(())
    }
}

/// A known transaction, searched for in the same way and in the same check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub reference: UpstreamReference,
    pub ids: UpstreamIds,
}

/// What a look-up found, and what the wire saw.
#[derive(Clone, Debug)]
pub struct LookUp {
    pub finding: Finding,
    pub evidence: Vec<CallEvidence>,
}

/// What a look-up proves.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    Found(Found),
    /// The processor knows nothing of it *so far*. `conclusive`: the same search, in the same check, found a control.
    NotFound {
        conclusive: bool,
    },
    /// The books changed, and not by exactly this operation: nobody but a person can tell.
    Contradiction {
        detail: String,
    },
    /// The question was not answered. Proves nothing and counts for nothing.
    CouldNotAsk {
        detail: String,
    },
}

/// A record that is ours.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It happened, and `standing` is what is left of it.
    Approved {
        approval: Approval,
        standing: Standing,
    },
    /// It was refused.
    Declined(Decline),
}

/// What is left of a found transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Minor units not voided or returned.
    pub remaining: i64,
    /// Settled: it can be refunded, no longer voided.
    pub settled: bool,
}

/// How a create is undone. Stored in the reversal's record before the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum ReversalForm {
    /// By our reference alone.
    ByReference,
    /// Void of what was found. May be repeated: it executes at most once for its parent.
    Void { ids: UpstreamIds },
    /// Return of what was found, of `amount` minor units. Sent at most once.
    Refund { ids: UpstreamIds, amount: i64 },
}

/// What came of trying to undo.
#[derive(Clone, Debug)]
pub struct Undo {
    pub outcome: Undone,
    pub evidence: Vec<CallEvidence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Confirmed by the processor: nothing stands.
    Done { upstream_reference: Option<String> },
    /// Nothing to undo *so far*. `conclusive`: this API's own answer, not a route that is missing or a failure.
    NothingFound { conclusive: bool },
    /// Settled meanwhile: a void is impossible, a refund is not.
    Settled,
    /// Refused for a reason that repeating does not change.
    Refused(Decline),
    /// Not one byte left.
    NotSent(NotSent),
    /// It may or may not have been executed.
    Unknown(UnknownReason),
}

/// What the wire saw of one HTTP exchange: the proof behind a verdict. Holds no header, no body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEvidence {
    /// `POST /sales`: method and route, without ids that could be secret.
    pub call: String,
    pub at: Timestamp,
    pub address: Option<SocketAddr>,
    /// A connection that served an earlier request.
    pub reused: bool,
    /// `TLSv1_3`, or nothing for plain TCP.
    pub tls: Option<String>,
    /// Of this request, handed to the socket. Zero proves that it was not sent.
    pub bytes_written: u64,
    /// From the start of the call; stored in microseconds.
    #[serde(rename = "first_byte_after_us", with = "optional_micros")]
    pub first_byte_after: Option<Duration>,
    pub status: Option<u16>,
    pub ended: Ended,
    /// Stored in microseconds.
    #[serde(rename = "took_us", with = "micros")]
    pub took: Duration,
}

/// A span as whole microseconds: readable in the ledger, and the same from any language.
mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        span: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

mod optional_micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands in a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => super::micros::serialize(span, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_micros))
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Complete,
    /// The gate refused on a ready connection.
    Gated,
    /// No connection: resolution, connect, TLS, the pool's bounds.
    NoConnection,
    TimedOut,
    /// Closed or reset before a complete answer.
    Closed,
    /// An answer larger than the cap.
    TooLarge,
    /// Not HTTP.
    Malformed,
}

impl Ended {
    /// As it is written everywhere: `timed_out`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Gated => "gated",
            Self::NoConnection => "no_connection",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}
