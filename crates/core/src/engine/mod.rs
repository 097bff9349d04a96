//! The engine: takes an intent through record, send and settle, answers from the record, and starts what runs beside it.
//!
//! Whatever moves money runs in a task of its own, with its permit moved in; a caller only waits for it. A caller may
//! leave, a task may panic, the process may die: what was reached is in the ledger, and the resolver goes on from there.

mod account;
mod admission;
mod cancel;
mod create;
mod follow_up;
mod send;
mod waiters;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

pub use account::Account;
pub use admission::{Admission, Permit};
pub use cancel::{CancelOutcome, CancelProgress, Cancellation};
pub use create::CreateRequest;
pub use follow_up::FollowUpRequest;
pub use waiters::Waiters;

pub(crate) use send::{Gate, Told};

use crate::clock::{Clock, Tick};
use crate::connector::{Fault, NotSent};
use crate::draft::Draft;
use crate::idempotency::FingerprintKeys;
use crate::journal::{Journal, JournalError, JournalOptions};
use crate::key::{AccountName, Client, IdempotencyKey, OperationId, PaymentId, ReplicaId};
use crate::liveness::{Liveness, LivenessOptions};
use crate::lock::Lock;
use crate::metrics::Metrics;
use crate::money::Money;
use crate::operation::StateName;
use crate::payment::PaymentStatus;
use crate::randomness::Randomness;
use crate::resolver::{Resolver, ResolverOptions};
use crate::store::{Intent, Operation, Store, StoreError};
use crate::task;

/// The figures of the engine. Each is a bound.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Payments under way at once; past it `503 overloaded`.
    pub permits_max: usize,
    /// Of them, at most so many of one client.
    pub permits_per_client_max: usize,
    /// Follow-ups that wait at once for their payment's turn, and hold no permit; past it `503 overloaded`.
    pub waiting_max: usize,
    /// Of them, at most so many of one client.
    pub waiting_per_client_max: usize,
    pub journal: JournalOptions,
    pub liveness: LivenessOptions,
    pub resolver: ResolverOptions,
    /// How often the ledger is asked about operations that callers here wait for and others work on.
    pub ask_every: Duration,
    /// The longest that a caller waits, whether it says so or not.
    pub wait_max: Duration,
    /// Reads, look-ups and reconciliation only: no new payment, nothing sent that moves money.
    pub quarantine: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            permits_max: 10_000,
            permits_per_client_max: 10_000,
            waiting_max: 10_000,
            waiting_per_client_max: 10_000,
            journal: JournalOptions::default(),
            liveness: LivenessOptions::default(),
            resolver: ResolverOptions::default(),
            ask_every: Duration::from_millis(50),
            wait_max: Duration::from_mins(2),
            quarantine: false,
        }
    }
}

/// From `send_by` and the upstream's timeout until anybody may adopt an operation; added to the timeout for callers that do
/// not say how long they wait, too.
pub const DEADLINE_SLACK: Duration = Duration::from_secs(5);
/// Between two tries to write what is held here while the ledger is away.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the engine is made of. Clock, randomness, store, lock and connectors are handed in.
#[derive(Debug)]
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub lock: Arc<dyn Lock>,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    pub keys: Arc<FingerprintKeys>,
    pub accounts: HashMap<AccountName, Arc<Account>>,
    pub metrics: Arc<Metrics>,
    pub replica: ReplicaId,
}

/// The product's heart. One per process.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    background: Vec<AbortHandle>,
}

/// What tasks of the engine and the resolver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) journal: Journal,
    pub(crate) lock: Arc<dyn Lock>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Arc<dyn Randomness>,
    pub(crate) keys: Arc<FingerprintKeys>,
    pub(crate) accounts: HashMap<AccountName, Arc<Account>>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) admission: Arc<Admission>,
    /// Follow-ups that are not recorded yet: most of them wait for their payment's turn.
    pub(crate) waiting: Arc<Admission>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: EngineOptions,
    pub(crate) resolver_wake: tokio::sync::Notify,
    draining: AtomicBool,
    /// Creates under way here, by their key, with how many tasks there are of each: set by a cancellation.
    cancelled: Mutex<CancelFlags>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("replica", &self.shared.liveness.replica())
            .finish_non_exhaustive()
    }
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// The record of its key, as it stands: final, or not yet when the wait ended.
    Recorded(Box<Answered>),
    Refused(Refusal),
}

/// A known key, ready to be told.
#[derive(Debug)]
pub struct Answered {
    pub operation: Arc<Operation>,
    /// Not the first answer to this key.
    pub replayed: bool,
    /// The payment's status of today, which a snapshot does not know.
    pub payment_status: Option<PaymentStatus>,
}

/// Why a request left no record of its own. Nothing was sent for it.
#[derive(Debug)]
pub enum Refusal {
    /// The key belongs to another request.
    KeyReused,
    PossibleDuplicate {
        operation: OperationId,
        payment: Option<PaymentId>,
    },
    PaymentBusy {
        with: Option<OperationId>,
    },
    OverLimit {
        available: Money,
    },
    NotSettled,
    AlreadySettled,
    /// The payment's status does not allow the verb.
    PaymentState {
        status: PaymentStatus,
    },
    /// The processor's books allow nothing more.
    NothingLeft {
        detail: String,
    },
    NoPayment,
    /// The account's processor does not do this to this payment.
    Unsupported {
        detail: String,
    },
    Forbidden {
        detail: String,
    },
    Invalid(Vec<Fault>),
    Overloaded,
    Draining,
    Quarantine,
    /// The ledger did not answer. `asked`: it was asked to record this, and may have.
    LedgerUnavailable {
        asked: bool,
    },
    LedgerRefused,
    /// The processor cannot be reached or asked, and nothing was recorded.
    UpstreamUnavailable(NotSent),
}

/// Names a decision of the edge about the payment that a follow-up finds: the account in the caller's claims, its
/// amount limit.
pub type Permission = Arc<dyn Fn(&AccountName, Money) -> Result<(), String> + Send + Sync>;

impl Engine {
    /// Starts the heartbeat, the resolver and the journal on the current runtime.
    pub fn start(parts: Parts, options: EngineOptions) -> Self {
        let ask_every = options.ask_every;
        let liveness = Liveness::new(parts.replica, Arc::clone(&parts.clock), options.liveness);
        let shared = Arc::new(Shared {
            journal: Journal::start(
                Arc::clone(&parts.store),
                options.journal,
                Arc::clone(&parts.randomness),
                Some(Arc::clone(&parts.metrics) as Arc<_>),
            ),
            store: parts.store,
            lock: parts.lock,
            clock: parts.clock,
            randomness: parts.randomness,
            keys: parts.keys,
            accounts: parts.accounts,
            liveness,
            waiters: Arc::default(),
            admission: Admission::new(options.permits_max, options.permits_per_client_max),
            waiting: Admission::new(options.waiting_max, options.waiting_per_client_max),
            metrics: parts.metrics,
            options,
            resolver_wake: tokio::sync::Notify::new(),
            draining: AtomicBool::new(false),
            cancelled: Mutex::default(),
        });
        let beat = Arc::clone(&shared.liveness).run(Arc::clone(&shared.store));
        let ask = waiters::ask_for_others(
            Arc::downgrade(&shared.waiters),
            Arc::clone(&shared.store),
            ask_every,
        );
        let resolve = Resolver::new(Arc::clone(&shared)).run();
        let background = vec![
            task::spawn(beat).abort_handle(),
            task::spawn(ask).abort_handle(),
            task::spawn(resolve).abort_handle(),
        ];
        Self { shared, background }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    pub fn lock(&self) -> &Arc<dyn Lock> {
        &self.shared.lock
    }

    pub fn replica(&self) -> ReplicaId {
        self.shared.liveness.replica()
    }

    pub fn account(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.shared.accounts.get(name)
    }

    /// What account and processor say against a request. An account that is not configured is a fault, too.
    pub fn faults(&self, account: &AccountName, draft: &Draft<'_>) -> Vec<Fault> {
        account::faults(&self.shared.accounts, account, draft)
    }

    /// Until when a caller waits that asks for nothing but the ledger's word.
    pub fn patience(&self, asked: Option<Duration>) -> Instant {
        self.shared.wait(asked, None).until
    }

    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.shared.accounts.values()
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub fn is_beating(&self) -> bool {
        self.shared.liveness.is_beating()
    }

    /// Payments under way in this process.
    pub fn under_way(&self) -> usize {
        self.shared.admission.under_way()
    }

    /// Follow-ups in this process that wait for their payment's turn, or are about to be recorded.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.under_way()
    }

    /// Operations of which somebody here awaits the end.
    pub fn waited_for(&self) -> usize {
        self.shared.waiters.waited_for()
    }

    /// Intents and settlements that wait for the journal's next batch.
    pub fn queued(&self) -> (usize, usize) {
        self.shared.journal.queued()
    }

    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// From now on known keys are answered and nothing new is taken.
    pub fn begin_drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Waits for payments under way, and for follow-ups to be told that their turn will not come, at most `wait`; then hands
    /// over what is open and leaves the ledger's list of replicas. What is still being sent stays with this replica's silence: others adopt it once its beats stop.
    pub async fn drain(&self, wait: Duration) {
        self.begin_drain();
        let until = Instant::now() + wait;
        while self.under_way() + self.waiting() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = self.under_way();
        if left > 0 {
            tracing::warn!(
                left,
                "drain ended with payments under way; another replica will adopt them"
            );
        }
        let me = self.replica();
        // The resolver stops first: what it handed over it must not touch again.
        self.stop_background();
        let handed = async {
            let open = self.shared.store.hand_over(me).await?;
            if left == 0 {
                self.shared.store.leave(me).await?;
            }
            Ok::<u64, StoreError>(open)
        };
        match handed.await {
            Ok(open) => tracing::info!(open, "handed over"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not hand over; silence will do it"
                );
            }
        }
    }

    pub(crate) fn stop_background(&self) {
        self.background.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_background();
    }
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(crate) fn new_operation_id(&self) -> OperationId {
        OperationId::generate(self.clock.now(), self.randomness.bytes())
    }

    fn new_payment_id(&self) -> PaymentId {
        PaymentId::generate(self.clock.now(), self.randomness.bytes())
    }

    fn new_claim(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.randomness.bytes()).into_uuid()
    }

    /// The flag of a create under way: set by a cancellation that this process commits, read right before the first byte.
    /// Raised before the record is written: a cancellation may follow that before its acknowledgement is heard here.
    fn cancel_flag(&self, client: &Client, key: &IdempotencyKey) -> CancelFlag<'_> {
        let of = (client.clone(), key.clone());
        let mut cancelled = self.cancelled();
        let (flag, tasks) = cancelled.entry(of.clone()).or_default();
        *tasks += 1;
        CancelFlag {
            shared: self,
            of,
            flag: Arc::clone(flag),
        }
    }

    fn note_cancelled(&self, operation: &Operation) {
        let of = (operation.client.clone(), operation.key.clone());
        if let Some((flag, _)) = self.cancelled().get(&of) {
            flag.store(true, Ordering::SeqCst);
        }
    }

    fn cancelled(&self) -> MutexGuard<'_, CancelFlags> {
        // Nothing panics between two changes that belong together.
        self.cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A known key answers for itself before any refusal that depends on time, configuration or load.
    async fn known_or(
        self: &Arc<Self>,
        refusal: Refusal,
        intent: &Intent,
        until: Instant,
    ) -> Outcome {
        let known = self.store.operation_by_key(&intent.client, &intent.key);
        match by(until, known).await {
            Ok(Some(operation)) if operation.state.name() != StateName::NotSent => {
                if create::answers(&operation, intent) {
                    self.replay(Arc::new(operation), until).await
                } else {
                    Outcome::Refused(Refusal::KeyReused)
                }
            }
            Ok(_) => Outcome::Refused(refusal),
            Err(_) => Outcome::Refused(Refusal::LedgerUnavailable { asked: false }),
        }
    }

    /// Answers from a record, waiting for its end while it has none.
    async fn replay(&self, operation: Arc<Operation>, until: Instant) -> Outcome {
        let operation = self.await_end(operation, until).await;
        self.answered(operation, true, until).await
    }

    fn takes_new_work(&self) -> Result<(), Refusal> {
        if self.is_draining() {
            Err(Refusal::Draining)
        } else if self.options.quarantine {
            Err(Refusal::Quarantine)
        } else {
            Ok(())
        }
    }

    fn wait(&self, asked: Option<Duration>, account: Option<&Account>) -> Wait {
        let usual = || account.map_or(DEADLINE_SLACK, |account| account.timeout + DEADLINE_SLACK);
        let length = asked.unwrap_or_else(usual).min(self.options.wait_max);
        let since = self.clock.tick();
        Wait {
            until: Instant::now() + length,
            send_by: since + length,
            since,
            length,
        }
    }

    async fn answered(&self, operation: Arc<Operation>, replayed: bool, until: Instant) -> Outcome {
        // Past the end of the wait the reads share what one may take.
        let until = until.min(Instant::now());
        let payment_status = match (replayed, operation.snapshot, operation.payment) {
            (false, Some(snapshot), _) => Some(snapshot.status),
            // A replayed approval of a payment voided since must not mislead. Unreadable just now: left out.
            (true, _, Some(payment)) => match by(until, self.store.payment(payment)).await {
                Ok(payment) => payment.map(|payment| payment.status),
                Err(_) => None,
            },
            _ => None,
        };
        Outcome::Recorded(Box::new(Answered {
            operation,
            replayed,
            payment_status,
        }))
    }

    /// Waits until `operation` is final, parked or not sent, or until the caller's wait is over.
    async fn await_end(&self, operation: Arc<Operation>, until: Instant) -> Arc<Operation> {
        if has_answer(&operation) {
            return operation;
        }
        let id = operation.id;
        let ended = self.waiters.subscribe(&operation);
        let _waiting = self.metrics.waiting();
        match tokio::time::timeout_at(until, ended.wait()).await {
            Ok(ended) => ended,
            // Its own last word, for `resolves_by` and a cancellation that came meanwhile.
            Err(_) => match by(until, self.store.operation(id)).await {
                Ok(Some(now)) => Arc::new(now),
                _ => operation,
            },
        }
    }
}

/// By how much the end of a caller's wait may be exceeded, for a last read of the ledger. Longer than a read takes, and
/// short beside any wait.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A read that somebody waits for until then: a ledger that is silent must not keep a caller past the end of its wait.
async fn by<T>(
    until: Instant,
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout_at(until + LAST_WORD, read).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(StoreError::Unavailable(Box::new(elapsed))),
    }
}

/// Final, parked, or not sent: nothing to wait for.
pub(crate) fn has_answer(operation: &Operation) -> bool {
    use crate::operation::StateName::{NotSent, Parked};
    operation.state.is_final() || matches!(operation.state.name(), NotSent | Parked)
}

type CancelFlags = HashMap<(Client, IdempotencyKey), (Arc<AtomicBool>, usize)>;

/// Registered for as long as a create is under way.
struct CancelFlag<'a> {
    shared: &'a Shared,
    of: (Client, IdempotencyKey),
    flag: Arc<AtomicBool>,
}

impl Drop for CancelFlag<'_> {
    fn drop(&mut self) {
        let mut cancelled = self.shared.cancelled();
        if let Some((_, tasks)) = cancelled.get_mut(&self.of) {
            *tasks -= 1;
            if *tasks == 0 {
                cancelled.remove(&self.of);
            }
        }
    }
}

/// When the caller's wait ends, on both clocks that matter: tokio's to wait by, the counting one to send by.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    send_by: Tick,
    /// When the request came in, before anything was recorded.
    since: Tick,
    length: Duration,
}

impl Wait {
    /// Until no first byte may leave any more.
    fn left(&self, clock: &dyn Clock) -> Duration {
        self.send_by.since(clock.tick())
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full => Self::Overloaded,
            JournalError::Unreachable(_) => Self::LedgerUnavailable { asked: false },
            JournalError::Unavailable(_) | JournalError::Stopped => {
                Self::LedgerUnavailable { asked: true }
            }
            JournalError::Refused(_) => Self::LedgerRefused,
        }
    }
}
