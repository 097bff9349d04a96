//! A capture, void or refund: find the payment free, prepare, record against the version that was read, send, answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::create::{Begun, answers, not_new, operation_span};
use super::{
    Account, DEADLINE_SLACK, Engine, Outcome, Permission, Permit, Refusal, Shared, Wait, account,
    by,
};
use crate::connector::{Capabilities, LookedUp, PrepareError, Prepared, Subject};
use crate::draft::Draft;
use crate::idempotency::CanonicalForm;
use crate::key::{Client, IdempotencyKey, PaymentId, UpstreamReference};
use crate::metrics::Waiting;
use crate::money::Money;
use crate::operation::{Reserved, StateName, Verb};
use crate::payment::{Payment, PaymentStatus};
use crate::store::{Intent, IntentKind, Recorded};
use crate::task;

/// A capture, void or refund, parsed.
pub struct FollowUpRequest {
    pub client: Client,
    pub key: IdempotencyKey,
    /// [`Verb::Capture`], [`Verb::Void`] or [`Verb::Refund`].
    pub verb: Verb,
    pub payment: PaymentId,
    /// In the payment's currency; a void takes none.
    pub amount: Option<Money>,
    /// What the caller's claims allow, asked with the payment's account and the amount.
    pub permission: Permission,
    pub form: CanonicalForm,
    pub wait: Option<Duration>,
}

impl fmt::Debug for FollowUpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FollowUpRequest({} of {})",
            self.verb.as_str(),
            self.payment
        )
    }
}

/// What one follow-up wants of its payment, as that stands now.
#[derive(Clone, Copy, Debug)]
struct Want {
    amount: Money,
    reserve: Reserved,
}

impl Engine {
    /// One capture, void or refund, under its key.
    pub async fn follow_up(&self, request: FollowUpRequest) -> Outcome {
        let shared = &self.shared;
        let until = shared.wait(request.wait, None).until;
        let payment = match by(until, shared.store.payment(request.payment)).await {
            Ok(Some(payment)) => payment,
            Ok(None) => return shared.no_payment(&request, until).await,
            Err(_) => return Outcome::Refused(Refusal::LedgerUnavailable { asked: false }),
        };
        let asked = request.amount;
        let amount = asked.unwrap_or_else(|| whole(&payment));
        if let Err(detail) = (request.permission)(&payment.account, amount) {
            return Outcome::Refused(Refusal::Forbidden { detail });
        }
        let account = shared.accounts.get(&payment.account).cloned();
        let wait = shared.wait(request.wait, account.as_deref());
        let verb = request.verb;
        let intent = shared.follow_up_intent(request, &payment, amount, account.as_deref(), wait);
        // A key that is known answers first: the payment may have become full, settled or void by this very operation.
        let known = shared.store.operation_by_key(&intent.client, &intent.key);
        match by(wait.until, known).await {
            Ok(Some(known)) if known.state.name() != StateName::NotSent => {
                return if answers(&known, &intent) {
                    shared.replay(Arc::new(known), wait.until).await
                } else {
                    Outcome::Refused(Refusal::KeyReused)
                };
            }
            Ok(_) => {}
            Err(_) => return Outcome::Refused(Refusal::LedgerUnavailable { asked: false }),
        }
        if let Err(refusal) = shared.takes_new_work() {
            return Outcome::Refused(refusal);
        }
        // What the processor never takes is told before what this payment does not allow just now.
        let draft = Draft::of_follow_up(verb, asked);
        let mut faults = account::faults(&shared.accounts, &payment.account, &draft);
        if amount.currency() != payment.currency {
            let detail = format!("the payment is in {}", payment.currency.code());
            account::refuse_currency(&mut faults, "currency-mismatch", detail);
        }
        let account = match account {
            Some(account) if faults.is_empty() => account,
            _ => return Outcome::Refused(Refusal::Invalid(faults)),
        };
        let capabilities = account.connector.capabilities(verb);
        if let Some(not_sent) = account.connector.refuses_now(verb) {
            return Outcome::Refused(Refusal::UpstreamUnavailable(not_sent));
        }
        let Some(place) = shared.place(&intent.client) else {
            return Outcome::Refused(Refusal::Overloaded);
        };
        let (begun, begins) = oneshot::channel();
        let task =
            Arc::clone(shared).run_follow_up(account, capabilities, intent, wait, place, begun);
        task::spawn(task.instrument(operation_span()));
        shared.follow(begins, wait).await
    }
}

/// Where a follow-up waits for its payment's turn: bounded, and shown. It holds no permit there, so that others work.
#[derive(Debug)]
struct Place {
    _place: Permit,
    _shown: Waiting,
}

/// What a void takes back: everything that stands.
fn whole(payment: &Payment) -> Money {
    let minor = if payment.captured > 0 {
        payment.captured - payment.refunded
    } else {
        payment.authorized
    };
    money(payment, minor)
}

/// An amount of the payment's own currency.
fn money(payment: &Payment, minor: i64) -> Money {
    Money::new(minor.max(0), payment.currency).expect("not negative: at least zero")
}

impl Shared {
    async fn no_payment(&self, request: &FollowUpRequest, until: Instant) -> Outcome {
        let known = self.store.operation_by_key(&request.client, &request.key);
        match by(until, known).await {
            // A cancelled key has one answer, whatever the request.
            Ok(Some(known)) if known.cancel_requested_at.is_some() => {
                self.replay(Arc::new(known), until).await
            }
            Ok(Some(known)) if known.state.name() != StateName::NotSent => {
                Outcome::Refused(Refusal::KeyReused)
            }
            Ok(_) => Outcome::Refused(Refusal::NoPayment),
            Err(_) => Outcome::Refused(Refusal::LedgerUnavailable { asked: false }),
        }
    }

    fn place(&self, client: &Client) -> Option<Place> {
        Some(Place {
            _place: self.waiting.try_admit(client)?,
            _shown: self.metrics.waiting_follow_up(),
        })
    }

    /// Takes its turn, then prepares and records until the record fits the payment that was read. Owns the place.
    async fn run_follow_up(
        self: Arc<Self>,
        account: Arc<Account>,
        capabilities: Capabilities,
        intent: Intent,
        wait: Wait,
        place: Place,
        begun: oneshot::Sender<Begun>,
    ) {
        let mut begun = Some(begun);
        let payment = intent.payment().expect("a follow-up names its payment");
        // Longer than the work it covers: a lease that ends early only costs a wait that the ledger decides.
        let lease = account.timeout + DEADLINE_SLACK + wait.length;
        // It only saves work: a holder that died keeps its lease long after the ledger has freed the payment. So nobody waits
        // for it longer than such a death goes unnoticed, nor with all of the caller's wait; from then on the ledger queues.
        let queueing = (wait.left(&*self.clock) / 2).min(self.options.liveness.silent_after);
        let name = format!("payment:{payment}");
        let turn = self.lock.acquire(&name, lease, queueing).await.guard();
        let refusal = self
            .try_follow_up(
                &account,
                capabilities,
                intent.clone(),
                wait,
                place,
                &mut begun,
            )
            .await;
        if let Err(refusal) = refusal {
            self.refuse_unknown(&intent, &mut begun, refusal).await;
        }
        if let Some(turn) = turn {
            turn.release().await;
        }
    }

    /// Refuses a key that is still unknown. While this request waited for its turn, an earlier one under the same key may
    /// have been recorded, and what refuses this one may be its own work.
    async fn refuse_unknown(
        &self,
        intent: &Intent,
        begun: &mut Option<oneshot::Sender<Begun>>,
        refusal: Refusal,
    ) {
        let known = self.store.operation_by_key(&intent.client, &intent.key);
        let answer = match known.await {
            Ok(Some(known)) if known.state.name() != StateName::NotSent => {
                if answers(&known, intent) {
                    Begun::Known(Box::new(known))
                } else {
                    Begun::Refused(Refusal::KeyReused)
                }
            }
            Ok(_) => Begun::Refused(refusal),
            Err(_) => Begun::Refused(Refusal::LedgerUnavailable { asked: false }),
        };
        if let Some(begun) = begun.take() {
            let _ = begun.send(answer);
        }
    }

    async fn try_follow_up(
        self: &Arc<Self>,
        account: &Arc<Account>,
        capabilities: Capabilities,
        intent: Intent,
        wait: Wait,
        place: Place,
        begun: &mut Option<oneshot::Sender<Begun>>,
    ) -> Result<(), Refusal> {
        let id = intent.payment().expect("a follow-up names its payment");
        loop {
            let payment = match self.store.payment(id).await {
                Ok(Some(payment)) => payment,
                Ok(None) => return Err(Refusal::NoPayment),
                Err(_) => return Err(Refusal::LedgerUnavailable { asked: false }),
            };
            if is_undecided(&payment) {
                self.wait_for_turn(wait, payment.busy_with).await?;
                continue;
            }
            let want = wanted(&payment, intent.verb, intent.amount, capabilities)?;
            if is_busy(&payment, want) {
                self.wait_for_turn(wait, payment.busy_with).await?;
                continue;
            }
            // Its turn has come: from here on it works, and until it waits again.
            let permit = self.admits(account, &intent)?;
            let prepared = if capabilities.prepares {
                let subject = subject_of(&intent, &payment, want.amount);
                Some(
                    account
                        .connector
                        .prepare(&subject)
                        .await
                        .map_err(refused_to_prepare)?,
                )
            } else {
                None
            };
            let fresh = Arc::new(Intent {
                amount: want.amount,
                send_within: wait.left(&*self.clock),
                kind: IntentKind::FollowUp {
                    payment: id,
                    version: payment.version,
                    reserve: want.reserve,
                    prepared,
                },
                ..intent.clone()
            });
            let wait = Wait {
                since: self.clock.tick(),
                ..wait
            };
            let Some(recorded) = self.record_surely(&fresh, begun).await else {
                return Ok(());
            };
            match recorded {
                Recorded::New(operation) => {
                    drop(place);
                    let begun = begun.take();
                    self.send_new(account, Arc::from(operation), None, wait, begun, None)
                        .await;
                    drop(permit);
                    return Ok(());
                }
                Recorded::Stale => {}
                Recorded::Busy { with } => {
                    drop(permit);
                    self.wait_for_turn(wait, with).await?;
                }
                other => {
                    if let Some(begun) = begun.take() {
                        let _ = begun.send(not_new(other, &fresh));
                    }
                    return Ok(());
                }
            }
            if begun.is_none() {
                return Ok(()); // Its caller was told that the ledger is away, and nothing is recorded.
            }
        }
    }

    /// A short, jittered pause, or `PaymentBusy` when the caller's wait is over. Where nothing new is taken any more, no turn
    /// will come.
    async fn wait_for_turn(
        &self,
        wait: Wait,
        with: Option<crate::key::OperationId>,
    ) -> Result<(), Refusal> {
        self.takes_new_work()?;
        let pause = self.randomness.pause(10..=50);
        if wait.left(&*self.clock) <= pause {
            return Err(Refusal::PaymentBusy { with });
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn follow_up_intent(
        &self,
        request: FollowUpRequest,
        payment: &Payment,
        amount: Money,
        account: Option<&Account>,
        wait: Wait,
    ) -> Intent {
        let capabilities = account.map(|account| account.connector.capabilities(request.verb));
        Intent {
            operation: self.new_operation_id(),
            claim: self.new_claim(),
            verb: request.verb,
            account: payment.account.clone(),
            endpoint: payment.endpoint.clone(),
            amount,
            reference: UpstreamReference::derive(&self.keys, &request.client, &request.key),
            fingerprint: request.form.fingerprint(&self.keys),
            form: Arc::new(request.form),
            keys: Arc::clone(&self.keys),
            order_reference: payment.order_reference.clone(),
            statement_descriptor: None,
            owner: self.liveness.replica(),
            send_within: wait.length,
            deadline_after: account
                .map_or(Duration::ZERO, |account| account.timeout + DEADLINE_SLACK),
            late_arrival_horizon: account
                .map_or(Duration::ZERO, |account| account.late_arrival_horizon),
            // With two at once a change of totals, or the parent's one child, could be either's.
            holds_while_unknown: capabilities
                .is_some_and(|of| of.looked_up == LookedUp::ByTotals || of.once_per_payment),
            client: request.client,
            key: request.key,
            kind: IntentKind::FollowUp {
                payment: payment.id,
                version: payment.version,
                reserve: Reserved::default(),
                prepared: None,
            },
        }
    }
}

/// Its create is still open: what it allows is not known yet.
fn is_undecided(payment: &Payment) -> bool {
    matches!(
        payment.status,
        PaymentStatus::Pending | PaymentStatus::Unknown
    )
}

/// What the verb takes of the payment, or why it cannot. Settled amounts decide; what is merely reserved is waited for.
fn wanted(
    payment: &Payment,
    verb: Verb,
    asked: Money,
    capabilities: Capabilities,
) -> Result<Want, Refusal> {
    let state = Refusal::PaymentState {
        status: payment.status,
    };
    match payment.status {
        // The create itself is not decided yet.
        PaymentStatus::Pending | PaymentStatus::Unknown => {
            return Err(Refusal::PaymentBusy {
                with: payment.busy_with,
            });
        }
        PaymentStatus::Voided
        | PaymentStatus::Declined
        | PaymentStatus::Failed
        | PaymentStatus::Reversed
        | PaymentStatus::Cancelled => return Err(state),
        PaymentStatus::Authorized
        | PaymentStatus::Captured
        | PaymentStatus::PartiallyRefunded
        | PaymentStatus::Refunded => {}
    }
    let uncaptured = payment.authorized - payment.captured;
    let unrefunded = payment.captured - payment.refunded;
    let (available, reserve, amount) = match verb {
        Verb::Capture => {
            let used_up = capabilities.once_per_payment && payment.captured > 0;
            let available = if used_up { 0 } else { uncaptured };
            (
                available,
                Reserved {
                    capture: asked.minor(),
                    refund: 0,
                },
                asked,
            )
        }
        Verb::Refund if payment.captured == 0 => return Err(state),
        Verb::Refund => (
            unrefunded,
            Reserved {
                capture: 0,
                refund: asked.minor(),
            },
            asked,
        ),
        Verb::Void if payment.refunded > 0 => return Err(state),
        Verb::Void => {
            let amount = whole(payment);
            (
                amount.minor(),
                Reserved {
                    capture: uncaptured,
                    refund: unrefunded,
                },
                amount,
            )
        }
        Verb::Sale | Verb::Authorize | Verb::Verify | Verb::Reversal => {
            unreachable!("BUG: {} is no follow-up", verb.as_str())
        }
    };
    if amount.minor() > available {
        return Err(Refusal::OverLimit {
            available: money(payment, available),
        });
    }
    if !capabilities.partial && amount.minor() < available {
        let detail = format!(
            "this account takes a {} of the whole amount only",
            verb.as_str()
        );
        return Err(Refusal::Unsupported { detail });
    }
    Ok(Want { amount, reserve })
}

fn is_busy(payment: &Payment, want: Want) -> bool {
    let captures_left = payment.authorized - payment.captured - payment.capture_reserved;
    let refunds_left = payment.captured - payment.refunded - payment.refund_reserved;
    payment.busy_with.is_some()
        || want.reserve.capture > captures_left
        || want.reserve.refund > refunds_left
}

fn subject_of(intent: &Intent, payment: &Payment, amount: Money) -> Subject {
    Subject {
        operation: intent.operation,
        verb: intent.verb,
        account: intent.account.clone(),
        endpoint: intent.endpoint.clone(),
        reference: intent.reference.clone(),
        amount,
        order_reference: intent.order_reference.clone(),
        statement_descriptor: None,
        parent: payment.upstream_ids.clone(),
        parent_reference: Some(payment.reference.clone()),
        prepared: None::<Prepared>,
        sends: 0,
        recorded_at: payment.created_at,
    }
}

fn refused_to_prepare(error: PrepareError) -> Refusal {
    match error {
        PrepareError::NotSettled => Refusal::NotSettled,
        PrepareError::AlreadySettled => Refusal::AlreadySettled,
        PrepareError::NothingLeft { detail } => Refusal::NothingLeft { detail },
        PrepareError::CouldNotAsk(not_sent) => {
            // Nothing is recorded, so nothing else tells an operator what the processor said.
            tracing::warn!(
                ?not_sent,
                "a follow-up is not sent: what stands of its payment could not be read"
            );
            Refusal::UpstreamUnavailable(not_sent)
        }
    }
}
