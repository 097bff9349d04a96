//! The ledger: what it promises, whatever database it lies in.
//!
//! Its unit of work is a batch: one transaction for whatever concurrent payments have ready. Every statement is in this
//! folder. Three rules keep it honest: a claim is decided by the unique index on (client, key); every later write to an
//! operation is conditional on its epoch; totals are guarded by the payment's row lock and, behind it, by constraints.

mod code;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod migrations;
mod postgres;
#[cfg_attr(not(feature = "contract"), allow(unreachable_pub))]
mod row;
mod sqlite;
#[cfg_attr(not(feature = "contract"), allow(unreachable_pub))]
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::card::StoredCard;
use crate::clock::Timestamp;
use crate::connector::{Control, Prepared, ReversalForm, UpstreamIds};
use crate::idempotency::{CanonicalForm, Comparison, FingerprintKeys, StoredFingerprint};
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    StatementDescriptor, UpstreamReference,
};
use crate::money::{Currency, Money};
use crate::operation::{Effects, Reserved, State, StateName, Verb};
use crate::payment::{Payment, PaymentStatus, Snapshot};

#[cfg(feature = "contract")]
pub use self::postgres::statements;
pub use self::postgres::{PostgresOptions, PostgresStore, each_host};
pub use self::sqlite::SqliteStore;
use self::transaction::assert_one_per_payment;

/// What every ledger decides between its locking reads and its writes, for one that lies outside this crate.
#[cfg(feature = "contract")]
pub mod rules {
    pub use super::row::{Held, Parent};
    pub use super::transaction::{
        Adoption, LiveCreate, NewEvent, Transaction, adopt, assert_one_per_payment, begin_reversal,
        cancel, count_send, nobody, record, reschedule, settle, uncount_send,
    };
}

/// The transaction ledger. One contract suite runs against every implementation.
///
/// Instants are the ledger's own clock: every `Duration` handed in is added to it inside the statement.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Commit 1. Claims each intent's (client, key) and writes what is about to be done. One transaction for all; the
    /// answers come in the order of `intents`. At most one intent per payment and per (client, key) in a batch: the
    /// caller sees to that (asserted). Repeating a batch after a lost acknowledgement answers [`Recorded::New`] again for
    /// those that carry the same `claim`.
    async fn record(&self, intents: &[Arc<Intent>]) -> Result<Vec<Recorded>, StoreError>;

    /// Commit 2, and every later transition: new state, payment totals, ledger entries, event. One transaction for all,
    /// at most one settlement per payment in a batch. Each is conditional on the operation's epoch and on its not being final.
    /// Repeating a batch after a lost acknowledgement answers [`Settled::Applied`] again.
    /// A reversal that ends Approved or Failed also ends the checks of what it reverses, if that is final (a cancelled approval).
    async fn settle(&self, settlements: &[Arc<Settlement>]) -> Result<Vec<Settled>, StoreError>;

    async fn operation_by_key(
        &self,
        client: &Client,
        key: &IdempotencyKey,
    ) -> Result<Option<Operation>, StoreError>;
    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, StoreError>;
    /// Those of `ids` that are no longer [`StateName::Recorded`] or [`StateName::Unknown`]: for callers who wait here on
    /// an operation that another replica owns.
    async fn ended(&self, ids: &[OperationId]) -> Result<Vec<Operation>, StoreError>;
    async fn payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError>;
    /// All operations of a payment, oldest first.
    async fn operations_of(&self, payment: PaymentId) -> Result<Vec<Operation>, StoreError>;
    /// Newest first, by (`created_at`, id), strictly before `cursor`.
    async fn payments(&self, query: &PaymentQuery) -> Result<Vec<Payment>, StoreError>;
    /// The feed: in an order that never skips under concurrent commits.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError>;
    /// Every event of one operation, oldest first: transitions, checks, late answers.
    async fn timeline(&self, operation: OperationId) -> Result<Vec<Event>, StoreError>;
    /// The caller's metadata of a payment; `erase` removes it for good.
    async fn metadata(&self, payment: PaymentId) -> Result<Option<String>, StoreError>;
    async fn erase_metadata(&self, payment: PaymentId) -> Result<(), StoreError>;

    /// Records the wish to undo what a key did or will do, and raises the epoch, in one commit. Idempotent. What ended
    /// or is unknown then belongs to the wish's owner; what is being sent stays with whoever sends it.
    async fn cancel(&self, wish: &CancelWish) -> Result<CancelRecorded, StoreError>;

    /// Counts this replica's heartbeat up (inserting it at first) and returns every other replica's counter.
    async fn beat(&self, replica: ReplicaId) -> Result<Vec<Heartbeat>, StoreError>;
    /// Removes a replica at the end of a graceful drain, if it owns nothing open any more. Also forgets replicas whose
    /// row has not changed for an hour and which own nothing open.
    async fn leave(&self, replica: ReplicaId) -> Result<(), StoreError>;
    /// Takes over open operations of replicas whose counter still stands where it was seen standing in `silent` (0: no beat
    /// at all): owner and epoch change, Recorded becomes Unknown, due now. Who has beaten since is not silent, and may be
    /// sending. At most `limit`, skipping rows that someone else has locked.
    async fn adopt_silent(
        &self,
        me: ReplicaId,
        silent: &[Heartbeat],
        limit: u32,
    ) -> Result<Vec<Operation>, StoreError>;
    /// Takes over Recorded operations past their deadline, whoever owns them; what was handed over; and what has been due
    /// for [`ORPHANED_AFTER`] to an owner that has no heartbeat at all: it left, or is forgotten.
    async fn adopt_overdue(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError>;
    /// Gives up every open operation of `me` that is not Recorded, so that others adopt them at once (drain). Raises their
    /// epoch: a check that still runs here must not act on them any more.
    async fn hand_over(&self, me: ReplicaId) -> Result<u64, StoreError>;

    /// Operations of mine whose next check is due: Unknown, Parked, and finally Approved ones whose cancellation is not
    /// done. Soonest first.
    async fn due(&self, me: ReplicaId, limit: u32) -> Result<Vec<Operation>, StoreError>;
    /// Sets the next check and adds a `checked` event; counts the check. `None`: the epoch moved.
    async fn reschedule(&self, check: &Check) -> Result<Option<()>, StoreError>;
    /// Counts one more send, and moves the late-arrival horizon, before it happens. `None`: the epoch moved, or it is final.
    async fn count_send(
        &self,
        operation: OperationId,
        epoch: i64,
        owner: ReplicaId,
    ) -> Result<Option<Operation>, StoreError>;
    /// Writes the reversal's own record (one per operation; never due and never adopted itself: what it reverses drives it), reserves what remains of an approved payment, and raises the
    /// epoch of the reversed operation. If the record exists, updates its form while nothing of another form was sent
    /// that may not be sent with this one.
    async fn begin_reversal(&self, wanted: &ReversalIntent) -> Result<ReversalBegun, StoreError>;
    /// The last counted send of this reversal provably did not leave: takes the count back. A refund form then counts as
    /// never sent (the form becomes [`ReversalForm::ByReference`]), so that it may be sent later. For sends after the
    /// first; where the only one did not leave, the reversal is settled as `NotSent`. `epoch` is the reversal's own, and is
    /// raised: a repeated call is stale. `None`: the epoch moved, it ended, or only one send is counted.
    async fn uncount_send(
        &self,
        reversal: OperationId,
        epoch: i64,
    ) -> Result<Option<Operation>, StoreError>;
    /// The reversal of an operation, if one was begun.
    async fn reversal_of(&self, operation: OperationId) -> Result<Option<Operation>, StoreError>;
    /// An approved operation of this account, verb and endpoint of `except` (not `except` itself), as a control for
    /// searches: the last recorded with ids of the upstream, else the last recorded. One that was recorded after `except`
    /// shows that the search knows what came later, so it goes before any that was recorded earlier, however young its
    /// payment. Among the account's newest [`CONTROL_AMONG`] payments.
    async fn control(
        &self,
        account: &AccountName,
        verb: Verb,
        except: OperationId,
    ) -> Result<Option<Control>, StoreError>;
    /// The money of whatever is due: of open operations, and of approved payments whose cancellation is not done. Each
    /// amount counts once, whoever else names it.
    async fn at_risk(&self) -> Result<Vec<AtRisk>, StoreError>;

    /// Refuses a store that would forget: durability settings, schema version. One sentence per fault.
    async fn faults(&self) -> Result<Vec<String>, StoreError>;
    /// Cheap: answers while the ledger can be written.
    async fn ping(&self) -> Result<(), StoreError>;
    async fn migrate(&self) -> Result<(), StoreError>;

    async fn load_token(&self, name: &str) -> Result<Option<TokenRow>, StoreError>;
    /// Compare-and-set on the generation (0: no row yet).
    async fn store_token(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, StoreError>;
}

/// Why the ledger did not do as asked, with the database's code where it gave one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection to be had: nothing was asked, and nothing was written.
    #[error("the ledger cannot be reached{}", code::of(&**.0))]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was asked, and the answer was lost: a write may or may not have happened. Ask again.
    #[error("the ledger did not answer{}", code::of(&**.0))]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Deadlock, serialization or lock time-out: nothing was written, and it can be tried again at once.
    #[error("the ledger was contended{}", code::of(&**.0))]
    Contended(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused the write. In a batch one of the rows is at fault, and nothing of that row was written: split
    /// the batch, and ask for each part again.
    #[error("the ledger refused the write{}", code::of(&**.0))]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that this release does not understand.
    #[error("the ledger holds a row that cannot be read: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The same for a whole of which a part was asked already: that part may be written.
    pub(crate) fn after_another(self) -> Self {
        match self {
            Self::Unreachable(error) => Self::Unavailable(error),
            other => other,
        }
    }
}

/// Everything commit 1 writes.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Made here, before the write: a lost acknowledgement is asked again by it.
    pub operation: OperationId,
    /// New for every claim of the key: tells a repeated batch from another attempt.
    pub claim: Uuid,
    pub client: Client,
    pub key: IdempotencyKey,
    pub verb: Verb,
    pub account: AccountName,
    pub endpoint: String,
    pub amount: Money,
    pub reference: UpstreamReference,
    /// What the row stores.
    pub fingerprint: StoredFingerprint,
    /// The request itself, to compare with the fingerprint of whoever holds the key.
    pub form: Arc<CanonicalForm>,
    pub keys: Arc<FingerprintKeys>,
    pub order_reference: Option<OrderReference>,
    pub statement_descriptor: Option<StatementDescriptor>,
    pub owner: ReplicaId,
    /// From now until no first byte may leave any more.
    pub send_within: Duration,
    /// From `send_by` until anybody may adopt it: the upstream timeout and 5 s.
    pub deadline_after: Duration,
    /// From the last send until a late arrival is impossible.
    pub late_arrival_horizon: Duration,
    /// It keeps its payment for itself while its outcome is unknown.
    pub holds_while_unknown: bool,
    pub kind: IntentKind,
}

#[derive(Clone, Debug)]
pub enum IntentKind {
    Create {
        payment: PaymentId,
        /// Refuse while another live create of this (account, order reference) exists.
        once_per_order: bool,
        metadata: Option<String>,
    },
    FollowUp {
        payment: PaymentId,
        /// The version at which the payment was read and `prepared` was made.
        version: i64,
        reserve: Reserved,
        prepared: Option<Prepared>,
    },
    Verification,
}

impl Intent {
    pub const fn payment(&self) -> Option<PaymentId> {
        match &self.kind {
            IntentKind::Create { payment, .. } | IntentKind::FollowUp { payment, .. } => {
                Some(*payment)
            }
            IntentKind::Verification => None,
        }
    }

    /// Whether `holder`, which has our key, was the same request. Without the HMAC key it was made with, what can still be
    /// compared is compared.
    pub fn is_same_request_as(&self, holder: &Operation) -> bool {
        #[cfg(feature = "sabotage")]
        if sabotaged!(FingerprintIgnored) {
            return true;
        }
        match holder.fingerprint.compare(&self.form, &self.keys) {
            Comparison::Same => return true,
            Comparison::Different => return false,
            Comparison::KeyLost => {}
        }
        self.verb == holder.verb
            && self.amount == holder.amount
            && self.account == holder.account
            && self.order_reference == holder.order_reference
            && (self.verb.is_create() || self.payment() == holder.payment)
    }
}

/// What became of one intent.
#[derive(Debug)]
pub enum Recorded {
    /// Ours: send it. Also for a `NotSent` key claimed again, with the same reference.
    New(Box<Operation>),
    /// The key is known and this is not our claim: whatever state it is in but `NotSent`. The caller compares the request
    /// ([`Intent::is_same_request_as`]) and answers from the record.
    Known(Box<Operation>),
    /// The key is `NotSent` and the request is another one. Nothing was written.
    Reused(Box<Operation>),
    /// Another live create of this order exists.
    PossibleDuplicate {
        operation: OperationId,
        payment: Option<PaymentId>,
        client: Client,
        key: IdempotencyKey,
    },
    /// No such payment.
    NoPayment,
    /// Another operation has the payment for itself, or reserves what this one needs; or its create is being undone.
    Busy { with: Option<OperationId> },
    /// Settled amounts alone leave less than asked.
    OverLimit { available: i64 },
    /// The payment moved since it was read: read it again.
    Stale,
}

/// One transition, decided by the pure rules and written on condition of the epoch.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub operation: OperationId,
    pub payment: Option<PaymentId>,
    /// As read when the decision was made.
    pub epoch: i64,
    /// The claim of the key that was sent: a late answer to one says nothing of the next.
    pub attempt: u32,
    /// As counted in the ledger when the decision was made: an answer to the first send says nothing of a second one,
    /// so a late answer is kept with it.
    pub sends: u32,
    pub from: StateName,
    pub to: State,
    pub effects: Effects,
    /// When to look at it next, for Unknown and Parked; and for an approved create whose cancellation is not done.
    pub check_after: Option<Duration>,
    /// For the event: what was seen on the wire and why it was decided so. JSON, without any card data.
    pub evidence: serde_json::Value,
    /// The caller's snapshot is taken by final states only.
    pub reason: &'static str,
}

/// What became of one settlement.
#[derive(Debug)]
pub enum Settled {
    /// Written, now or by an earlier try of the same settlement.
    Applied(Box<Operation>),
    /// The epoch moved, or it is final already: nothing was written but a `late_answer` event and, if the operation is
    /// still open in the same attempt, `late` on its row with its next check now.
    Stale(Box<Operation>),
}

/// An operation as the ledger holds it.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: OperationId,
    pub client: Client,
    pub key: IdempotencyKey,
    pub verb: Verb,
    pub payment: Option<PaymentId>,
    pub account: AccountName,
    pub endpoint: String,
    pub amount: Money,
    pub state: State,
    /// 1 for the first claim of the key.
    pub attempt: u32,
    /// Counted before each send; 1 from the record on.
    pub sends: u32,
    pub epoch: i64,
    pub claim: Uuid,
    pub reference: UpstreamReference,
    pub fingerprint: StoredFingerprint,
    pub order_reference: Option<OrderReference>,
    pub statement_descriptor: Option<StatementDescriptor>,
    pub owner: ReplicaId,
    pub reserved: Reserved,
    pub holds_while_unknown: bool,
    pub first_attempt_at: Timestamp,
    pub recorded_at: Timestamp,
    pub send_by: Timestamp,
    /// Past it anybody may adopt a Recorded operation.
    pub deadline: Timestamp,
    /// The late-arrival horizon: last possible send plus the account's figure. Last possible is when it was written down
    /// that its send has ended, or that its owner is silent; until then, when it may leave at the latest.
    pub late_after: Timestamp,
    /// The ledger's clock at the moment of this read: what the instants above are compared with.
    pub read_at: Timestamp,
    pub settled_at: Option<Timestamp>,
    pub cancel_requested_at: Option<Timestamp>,
    pub prepared: Option<Prepared>,
    /// For a reversal: what it reverses, and how.
    pub reverses: Option<OperationId>,
    pub reversal_form: Option<ReversalForm>,
    /// The payment as the final settlement left it.
    pub snapshot: Option<Snapshot>,
    /// A settlement that came too late: what the former owner had learned.
    pub late: Option<LateAnswer>,
    pub checks: u32,
    pub due_at: Option<Timestamp>,
    /// From the payment.
    pub parent: UpstreamIds,
    pub parent_reference: Option<UpstreamReference>,
    pub parent_card: Option<StoredCard>,
}

/// Among how many of an account's newest payments a control is looked for: an account that only ever lost its answers
/// must not have its whole history read at each check.
pub const CONTROL_AMONG: u32 = 1_000;

/// How long something must have been due before an owner without heartbeat counts as gone: one that has just started owns
/// nothing that is due, and its first beat takes less.
pub const ORPHANED_AFTER: Duration = Duration::from_secs(5);

/// Slack between the horizon and the promise to callers: one more check has to run.
pub const RESOLVE_SLACK: Duration = Duration::from_secs(30);

impl Operation {
    /// The original cannot arrive any more.
    pub fn past_horizon(&self) -> bool {
        self.read_at >= self.late_after || sabotaged!(NotFoundIsFinal)
    }

    /// From the count of a further send until its first byte: what the horizon counts with, whatever the account's timeout.
    pub fn send_within(&self) -> Duration {
        self.deadline.since(self.send_by)
    }

    /// By when it is final or parked.
    pub fn resolves_by(&self) -> Timestamp {
        self.late_after + RESOLVE_SLACK
    }
}

/// What a former owner learned after the operation was taken from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LateAnswer {
    pub state: State,
    /// The claim of the key it learned this of.
    pub attempt: u32,
    /// How often the request had been sent when it learned this.
    pub sends: u32,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct CancelWish {
    pub client: Client,
    pub key: IdempotencyKey,
    /// For the tombstone, if the key was never seen.
    pub operation: OperationId,
    pub reference: UpstreamReference,
    pub owner: ReplicaId,
    pub check_after: Duration,
}

#[derive(Debug)]
pub enum CancelRecorded {
    /// Recorded, now or before. The operation as it is now: Cancelled (tombstone, or nothing had been sent), Unknown or
    /// Parked (being reversed), Approved (to be reversed), or finally without effect.
    Wished(Box<Operation>),
    /// The key names a follow-up or a verification: it cannot be cancelled.
    NotACreate(Box<Operation>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub replica: ReplicaId,
    pub beat: i64,
}

/// One check of an open operation that left it as it was.
#[derive(Clone, Debug)]
pub struct Check {
    pub operation: OperationId,
    pub epoch: i64,
    pub owner: ReplicaId,
    /// `None`: nothing is left to check (a cancelled payment of which nothing stands any more).
    pub next_after: Option<Duration>,
    /// It sent once more, and that has ended: the horizon counts from now, not from when that might have left at the latest.
    pub sent: bool,
    pub evidence: serde_json::Value,
    pub reason: &'static str,
}

#[derive(Clone, Debug)]
pub struct ReversalIntent {
    pub of: OperationId,
    pub epoch: i64,
    pub owner: ReplicaId,
    /// For the new record, and new for each send: a call that is repeated with the same one, because its acknowledgement
    /// was lost, is answered the same and counted once.
    pub operation: OperationId,
    /// For the new record; ignored if one exists.
    pub reference: UpstreamReference,
    pub form: ReversalForm,
    /// Reserve what remains of an approved payment (a cancellation); an unknown create has nothing to reserve.
    pub reserve: Option<Reserved>,
}

#[derive(Debug)]
pub enum ReversalBegun {
    /// Send it: the reversal's record, with this send counted, and the reversed operation with its new epoch.
    Send {
        reversal: Box<Operation>,
        of: Box<Operation>,
    },
    /// A refund form was sent already: it is never sent again.
    AlreadySent { reversal: Box<Operation> },
    /// It ended already.
    Ended { reversal: Box<Operation> },
    /// A follow-up has the payment: later.
    Busy,
    /// The epoch moved, or there is nothing to undo any more: it ended, and no cancellation of it is open.
    Stale,
}

#[derive(Clone, Debug, Default)]
pub struct PaymentQuery {
    /// Which accounts the caller may read; `None`: all.
    pub accounts: Option<Vec<AccountName>>,
    pub order_reference: Option<OrderReference>,
    pub status: Option<PaymentStatus>,
    pub created_after: Option<Timestamp>,
    pub before: Option<(Timestamp, PaymentId)>,
    pub limit: u32,
}

#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    pub accounts: Option<Vec<AccountName>>,
    pub after: Option<EventCursor>,
    pub limit: u32,
}

/// A place in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    pub transaction: u64,
    pub id: i64,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub cursor: EventCursor,
    pub at: Timestamp,
    pub kind: EventKind,
    pub operation: OperationId,
    pub payment: Option<PaymentId>,
    pub account: AccountName,
    pub verb: Verb,
    pub from: Option<StateName>,
    pub to: Option<StateName>,
    pub payment_status: Option<PaymentStatus>,
    pub reason: String,
    pub evidence: serde_json::Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A change of state: what the feed shows.
    Transition,
    Checked,
    LateAnswer,
    CancelRequested,
    Adopted,
    /// A send counted before it happens.
    Send,
}

impl EventKind {
    pub const ALL: [Self; 6] = [
        Self::Transition,
        Self::Checked,
        Self::LateAnswer,
        Self::CancelRequested,
        Self::Adopted,
        Self::Send,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Checked => "checked",
            Self::LateAnswer => "late_answer",
            Self::CancelRequested => "cancel_requested",
            Self::Adopted => "adopted",
            Self::Send => "send",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Money whose fate is open, per account, currency and state. For a cancelled payment that still stands the state is its
/// reversal's, and `Approved` until that is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtRisk {
    pub account: AccountName,
    pub currency: Currency,
    pub state: StateName,
    pub operations: i64,
    pub minor: i64,
}

/// An upstream token as the ledger keeps it: encrypted, with its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub generation: i64,
    pub ciphertext: Vec<u8>,
    pub expires_at: Timestamp,
    pub issued_at: Timestamp,
}
