//! A new payment, or a card check: admit, record, send, answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use super::{Account, DEADLINE_SLACK, Engine, Outcome, Permit, Refusal, Shared, Wait, account};
use crate::connector::{Fault, NotSent, Payer};
use crate::draft::Draft;
use crate::idempotency::CanonicalForm;
use crate::journal::JournalError;
use crate::key::{
    AccountName, Client, IdempotencyKey, OrderReference, StatementDescriptor, UpstreamReference,
};
use crate::money::Money;
use crate::operation::{State, Verb};
use crate::store::{Intent, IntentKind, Operation, Recorded};
use crate::task;

/// A sale, an authorization or a verification, parsed.
#[derive(Debug)]
pub struct CreateRequest {
    pub client: Client,
    pub key: IdempotencyKey,
    /// [`Verb::Sale`], [`Verb::Authorize`] or [`Verb::Verify`].
    pub verb: Verb,
    pub account: AccountName,
    /// Zero for a verification.
    pub amount: Money,
    pub order_reference: Option<OrderReference>,
    pub statement_descriptor: Option<StatementDescriptor>,
    pub once_per_order: bool,
    pub metadata: Option<String>,
    pub payer: Payer,
    pub form: CanonicalForm,
    /// What the edge found that depends on time or configuration (an expired card): it is told for keys never seen only.
    pub faults: Vec<Fault>,
    /// How long the caller waits; the account's timeout and 5 s where it does not say.
    pub wait: Option<Duration>,
}

/// Of an operation's task, below its request's: the task outlives its caller's wait. Named once there is a record.
pub(super) fn operation_span() -> Span {
    tracing::info_span!("operation", payment.operation.id = Empty)
}

/// What a payment's task reports first.
#[derive(Debug)]
pub(super) enum Begun {
    Running(Arc<Operation>),
    Known(Box<Operation>),
    Refused(Refusal),
}

/// A create whose key may be known all the same.
struct NotAdmitted {
    refusal: Refusal,
    intent: Intent,
    wait: Wait,
}

impl Engine {
    /// One sale, authorization or verification, under its key.
    pub async fn create(&self, request: CreateRequest) -> Outcome {
        let shared = &self.shared;
        match shared.begin_create(request) {
            Ok((begins, wait)) => shared.follow(begins, wait).await,
            Err(not_admitted) => {
                let NotAdmitted {
                    refusal,
                    intent,
                    wait,
                } = *not_admitted;
                Box::pin(shared.known_or(refusal, &intent, wait.until)).await
            }
        }
    }
}

impl Shared {
    /// Admits a payment and starts its task; not asynchronous, so that a caller who waits holds nothing of its request.
    fn begin_create(
        self: &Arc<Self>,
        mut request: CreateRequest,
    ) -> Result<(oneshot::Receiver<Begun>, Wait), Box<NotAdmitted>> {
        let account = self.accounts.get(&request.account).cloned();
        let wait = self.wait(request.wait, account.as_deref());
        let faults = std::mem::take(&mut request.faults);
        let (intent, payer) = self.create_intent(request, account.as_deref(), wait);
        let admitted = self.admits_create(account, &intent, &payer, faults);
        let (account, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                return Err(Box::new(NotAdmitted {
                    refusal,
                    intent,
                    wait,
                }));
            }
        };
        let (intent, payer) = (Arc::new(intent), Box::new(payer));
        let (begun, begins) = oneshot::channel();
        // From here on the caller may leave: the task goes on, and the record tells.
        let task = Arc::clone(self).run_create(account, intent, payer, wait, permit, begun);
        task::spawn(task.instrument(operation_span()));
        Ok((begins, wait))
    }

    /// Answers from what a payment's task reports.
    pub(super) async fn follow(
        self: &Arc<Self>,
        begins: oneshot::Receiver<Begun>,
        wait: Wait,
    ) -> Outcome {
        // A little past the caller's wait: a task that gives up at its end must still be heard.
        match tokio::time::timeout_at(wait.until + HEARING, begins).await {
            Ok(Ok(Begun::Running(operation))) => {
                let operation = self.await_end(operation, wait.until).await;
                self.answered(operation, false, wait.until).await
            }
            Ok(Ok(Begun::Known(operation))) => self.replay(Arc::from(operation), wait.until).await,
            Ok(Ok(Begun::Refused(refusal))) => Outcome::Refused(refusal),
            // Not acknowledged in time, or the task is gone.
            Err(_) | Ok(Err(_)) => Outcome::Refused(Refusal::LedgerUnavailable { asked: true }),
        }
    }

    /// What depends on time, configuration or load.
    fn admits_create(
        &self,
        account: Option<Arc<Account>>,
        intent: &Intent,
        payer: &Payer,
        mut faults: Vec<Fault>,
    ) -> Result<(Arc<Account>, Permit), Refusal> {
        self.takes_new_work()?;
        let amount = (intent.verb != Verb::Verify).then_some(intent.amount);
        let draft = Draft::of_payer(intent.verb, amount, payer);
        faults.extend(account::faults(&self.accounts, &intent.account, &draft));
        match account {
            Some(account) if faults.is_empty() => {
                let permit = self.admits(&account, intent)?;
                Ok((account, permit))
            }
            _ => Err(Refusal::Invalid(faults)),
        }
    }

    /// The last of the checks, since it takes a permit.
    pub(super) fn admits(&self, account: &Account, intent: &Intent) -> Result<Permit, Refusal> {
        if let Some(not_sent) = account.connector.refuses_now(intent.verb) {
            return Err(Refusal::UpstreamUnavailable(not_sent));
        }
        let permit = self
            .admission
            .try_admit(&intent.client)
            .ok_or(Refusal::Overloaded)?;
        // With the permit in hand: a drain that begins from now on waits for it.
        self.takes_new_work()?;
        Ok(permit)
    }

    async fn run_create(
        self: Arc<Self>,
        account: Arc<Account>,
        intent: Arc<Intent>,
        payer: Box<Payer>,
        wait: Wait,
        permit: Permit,
        begun: oneshot::Sender<Begun>,
    ) {
        let mut begun = Some(begun);
        let cancel = self.cancel_flag(&intent.client, &intent.key);
        #[cfg(feature = "sabotage")]
        crate::sabotage::before_record(&account, &intent, &payer, self.clock.now()).await;
        let Some(recorded) = self.record_surely(&intent, &mut begun).await else {
            return;
        };
        match recorded {
            Recorded::New(operation) => {
                drop(intent); // The record tells the rest; the answer may be long in coming.
                let operation = Arc::from(operation);
                let cancelled = Some(&*cancel.flag);
                self.send_new(&account, operation, Some(payer), wait, begun, cancelled)
                    .await;
            }
            other => {
                if let Some(begun) = begun {
                    let _ = begun.send(not_new(other, &intent));
                }
            }
        }
        drop(permit);
    }

    /// Sends what was just recorded, unless its caller was told meanwhile that the ledger is away.
    pub(super) async fn send_new(
        self: &Arc<Self>,
        account: &Account,
        operation: Arc<Operation>,
        payer: Option<Box<Payer>>,
        wait: Wait,
        begun: Option<oneshot::Sender<Begun>>,
        cancelled: Option<&AtomicBool>,
    ) {
        Span::current().record("payment.operation.id", display(operation.id));
        let at_work = self.waiters.at_work(&operation);
        if let Some(begun) = begun {
            let _ = begun.send(Begun::Running(Arc::clone(&operation)));
            self.send(account, operation, payer, wait, cancelled).await;
        } else {
            // Nothing may be sent in its name any more: the key is given back.
            let to = State::NotSent {
                not_sent: NotSent::TooLate,
            };
            self.settle_surely(operation.settlement(to, "acknowledged_too_late", &[], None))
                .await;
        }
        drop(at_work);
    }

    /// Records, asking again after a lost acknowledgement until the ledger tells: only the write itself, repeated, is sure
    /// to meet one that is still under way. At the first failure the caller is answered, and `begun` is gone: it repeats
    /// with the same key. What was never asked is not asked again: `None`.
    pub(super) async fn record_surely(
        &self,
        intent: &Arc<Intent>,
        begun: &mut Option<oneshot::Sender<Begun>>,
    ) -> Option<Recorded> {
        let mut pause = Duration::from_millis(20);
        let mut may_be_written = false;
        loop {
            let error = match self.journal.record(Arc::clone(intent)).await {
                Ok(recorded) => return Some(recorded),
                Err(error) => error,
            };
            may_be_written |= matches!(error, JournalError::Unavailable(_));
            let ask_again = may_be_written
                && matches!(
                    error,
                    JournalError::Unavailable(_) | JournalError::Unreachable(_)
                );
            if matches!(error, JournalError::Refused(_) | JournalError::Stopped) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "an intent was not recorded"
                );
            }
            if let Some(begun) = begun.take() {
                let _ = begun.send(Begun::Refused(error.into()));
            }
            if !ask_again {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(super::PAUSE_MAX);
        }
    }

    fn create_intent(
        &self,
        request: CreateRequest,
        account: Option<&Account>,
        wait: Wait,
    ) -> (Intent, Payer) {
        let kind = if request.verb == Verb::Verify {
            IntentKind::Verification
        } else {
            IntentKind::Create {
                payment: self.new_payment_id(),
                once_per_order: request.once_per_order,
                metadata: request.metadata,
            }
        };
        let intent = Intent {
            operation: self.new_operation_id(),
            claim: self.new_claim(),
            verb: request.verb,
            account: request.account,
            endpoint: account
                .map(|account| account.endpoint.clone())
                .unwrap_or_default(),
            amount: request.amount,
            reference: UpstreamReference::derive(&self.keys, &request.client, &request.key),
            fingerprint: request.form.fingerprint(&self.keys),
            form: Arc::new(request.form),
            keys: Arc::clone(&self.keys),
            order_reference: request.order_reference,
            statement_descriptor: request.statement_descriptor,
            owner: self.liveness.replica(),
            send_within: wait.length,
            deadline_after: account
                .map_or(Duration::ZERO, |account| account.timeout + DEADLINE_SLACK),
            late_arrival_horizon: account
                .map_or(Duration::ZERO, |account| account.late_arrival_horizon),
            holds_while_unknown: false,
            client: request.client,
            key: request.key,
            kind,
        };
        (intent, request.payer)
    }
}

/// What an intent that is not ours to send comes to.
pub(super) fn not_new(recorded: Recorded, intent: &Intent) -> Begun {
    Begun::Refused(match recorded {
        Recorded::New(operation) => return Begun::Running(Arc::from(operation)),
        Recorded::Known(operation) if answers(&operation, intent) => {
            return Begun::Known(operation);
        }
        Recorded::Known(_) | Recorded::Reused(_) => Refusal::KeyReused,
        Recorded::PossibleDuplicate {
            operation, payment, ..
        } => Refusal::PossibleDuplicate { operation, payment },
        Recorded::NoPayment => Refusal::NoPayment,
        Recorded::Busy { with } => Refusal::PaymentBusy { with },
        Recorded::OverLimit { available } => Refusal::OverLimit {
            available: Money::new(available.max(0), intent.amount.currency())
                .expect("not negative: what is left of a total"),
        },
        Recorded::Stale => Refusal::PaymentBusy { with: None },
    })
}

/// Whether a request is answered from this record. A cancelled key has one answer, whatever the request: the tombstone of
/// a key never seen knows none.
pub(super) fn answers(operation: &Operation, intent: &Intent) -> bool {
    operation.cancel_requested_at.is_some() || intent.is_same_request_as(operation)
}

/// How long past the caller's wait its task's report is awaited.
const HEARING: Duration = Duration::from_millis(250);
