//! The resolver: adopts what a lost owner left, and asks about every unknown operation until it is final or parked.
//!
//! It holds no card data, so it repeats card-less verbs only. Every decision that moves money (a repeat, a reversal) is
//! written and raises a count or an epoch before its first byte leaves; every conclusion is written on condition that
//! nobody took the operation meanwhile. "Not found" is believed only past the late-arrival horizon, and only over a
//! route that was shown to work in the same check.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::connector::{
    Approval, CallEvidence, Capabilities, Finding, Found, LookUp, Repeat, ReversalForm, Standing,
    UndoBy, Undone, UnknownReason, UpstreamIds, WhenFound,
};
use crate::engine::{Account, Gate, Shared};
use crate::key::{OperationId, UpstreamReference};
use crate::operation::{self, Failure, ParkedReason, Reserved, State, StateName, Verb};
use crate::store::{
    Check, Operation, ReversalBegun, ReversalIntent, Settled, Settlement, StoreError,
};

/// When unknown operations are checked, and how many at once.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// Counted from the moment an operation became unknown: 2, 5, 15, 30 s, 2 and 10 min.
    pub schedule: Vec<Duration>,
    /// After the schedule's last.
    pub repeat_every: Duration,
    /// How often the ledger is asked what is due and who is silent.
    pub scan_every: Duration,
    /// Checks under way at once.
    pub checks_max: usize,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            schedule: [2, 5, 15, 30, 120, 600].map(Duration::from_secs).to_vec(),
            repeat_every: Duration::from_mins(10),
            scan_every: Duration::from_millis(250),
            checks_max: 64,
        }
    }
}

impl ResolverOptions {
    /// From becoming unknown until the first check.
    pub fn first_check(&self) -> Duration {
        self.schedule.first().copied().unwrap_or(self.repeat_every)
    }

    /// From the check numbered `done` (1 for the first) until the next.
    fn after_check(&self, done: u32) -> Duration {
        let index = usize::try_from(done).unwrap_or(usize::MAX);
        match (
            self.schedule.get(index.wrapping_sub(1)),
            self.schedule.get(index),
        ) {
            (Some(last), Some(next)) => next.saturating_sub(*last),
            _ => self.repeat_every,
        }
    }
}

/// How often a card-less verb is repeated while its outcome is unknown. Each repeat moves the horizon: without a bound
/// the operation would never end.
const REPEATS_MAX: u32 = 3;
/// From the count of a send until its first byte.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Operations adopted or taken up in one statement.
const TAKE_MAX: u32 = 200;

#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    /// Checks under way: the next scan must not begin them again.
    in_hand: Arc<Mutex<HashSet<OperationId>>>,
    checks: Arc<Semaphore>,
}

/// The epoch moved, or the ledger is away: somebody, perhaps this process, goes on from the record.
#[derive(Debug)]
enum Stop {
    Stale,
    Ledger(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error)
    }
}

impl Resolver {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let checks = Arc::new(Semaphore::new(shared.options.resolver.checks_max));
        Self {
            shared,
            in_hand: Arc::default(),
            checks,
        }
    }

    /// Scans until the task is aborted.
    pub(crate) async fn run(self) {
        let every = self.shared.options.resolver.scan_every;
        let mut at_risk_in = 0_u32;
        loop {
            let woken = self.shared.resolver_wake.notified();
            let _ = tokio::time::timeout(every, woken).await;
            // Without it nobody would ask about what this process owns: its beats go on, so others do not adopt it.
            let scanned = AssertUnwindSafe(self.scan()).catch_unwind().await;
            let Ok(scanned) = scanned else {
                tracing::error!("BUG: a scan of the resolver panicked");
                tokio::time::sleep(every).await;
                continue;
            };
            if let Err(error) = scanned {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the resolver cannot read the ledger"
                );
                tokio::time::sleep(every).await;
                continue;
            }
            // Money at risk changes slowly, and summing it up is not free.
            if at_risk_in == 0 {
                if let Ok(open) = self.shared.store.at_risk().await {
                    self.shared.metrics.at_risk(&open);
                }
                at_risk_in = 20;
            }
            at_risk_in -= 1;
        }
    }

    async fn scan(&self) -> Result<(), StoreError> {
        self.adopt().await?;
        for operation in self
            .shared
            .store
            .due(self.shared.liveness.replica(), TAKE_MAX)
            .await?
        {
            let Ok(permit) = Arc::clone(&self.checks).try_acquire_owned() else {
                return Ok(());
            };
            if !self
                .in_hand
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(operation.id)
            {
                continue;
            }
            let in_hand = InHand {
                set: Arc::clone(&self.in_hand),
                operation: operation.id,
            };
            let shared = Arc::clone(&self.shared);
            crate::task::spawn(async move {
                let checked = AssertUnwindSafe(shared.check(operation.clone())).catch_unwind();
                if checked.await.is_err() {
                    tracing::error!(payment.operation.id = %operation.id, "BUG: a check panicked");
                    // With the usual pause: it would panic again, and ask the processor each time.
                    let again = shared.check_again(&operation, Vec::new(), "check_panicked");
                    let _ = again.await;
                }
                drop(in_hand);
                drop(permit);
            });
        }
        Ok(())
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if !shared.liveness.may_adopt() {
            return Ok(());
        }
        let me = shared.liveness.replica();
        let silent = shared.liveness.silent();
        // With nobody silent too: what was handed over belongs to nobody.
        let mut adopted = shared.store.adopt_silent(me, &silent, TAKE_MAX).await?;
        adopted.extend(shared.store.adopt_overdue(me, TAKE_MAX).await?);
        for operation in &adopted {
            shared.metrics.adopted.inc();
            tracing::warn!(payment.operation.id = %operation.id, epoch = operation.epoch, "adopted");
        }
        Ok(())
    }
}

/// Takes an operation out of the set when its check ends, by a panic too.
#[derive(Debug)]
struct InHand {
    set: Arc<Mutex<HashSet<OperationId>>>,
    operation: OperationId,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.set
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.operation);
    }
}

/// One check of one operation, with what it saw on the way.
struct Checking<'a> {
    shared: &'a Arc<Shared>,
    account: &'a Account,
    capabilities: Capabilities,
    operation: Operation,
    evidence: Vec<CallEvidence>,
}

impl Shared {
    async fn check(self: &Arc<Self>, operation: Operation) {
        self.metrics.checks.inc();
        let id = operation.id;
        let Some(account) = self.accounts.get(&operation.account).cloned() else {
            tracing::error!(
                payment.operation.id = %id,
                payment.account = %operation.account,
                "the account of an open operation is not configured: nobody can ask about it"
            );
            let reason = "account_not_configured";
            let may_be_parked = operation.state.name() == StateName::Unknown;
            if may_be_parked && operation.past_horizon() {
                let to = State::Parked {
                    parked: ParkedReason::NoAnswer,
                };
                let after = self.options.resolver.repeat_every;
                let settlement = operation.settlement(to, reason, &[], Some(after));
                self.settle_surely(settlement).await;
            } else {
                let _ = self.check_again(&operation, Vec::new(), reason).await;
            }
            return;
        };
        let capabilities = account.connector.capabilities(operation.verb);
        let check = Checking {
            shared: self,
            account: &account,
            capabilities,
            operation,
            evidence: Vec::new(),
        };
        match check.run().await {
            Ok(()) => {}
            Err(Stop::Stale) => {
                tracing::info!(payment.operation.id = %id, "somebody else took it meanwhile");
            }
            Err(Stop::Ledger(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    payment.operation.id = %id,
                    "a check was cut short by the ledger"
                );
            }
        }
    }

    async fn check_again(
        &self,
        operation: &Operation,
        evidence: Vec<CallEvidence>,
        reason: &'static str,
    ) -> Result<(), StoreError> {
        let mut after = self.options.resolver.after_check(operation.checks + 1);
        // Once at the horizon, whatever the schedule says.
        let to_horizon = operation.late_after.since(operation.read_at);
        if !to_horizon.is_zero() && to_horizon < after {
            after = to_horizon + Duration::from_millis(1);
        }
        let check = Check {
            operation: operation.id,
            epoch: operation.epoch,
            owner: self.liveness.replica(),
            next_after: Some(after),
            evidence: json!({ "calls": evidence }),
            reason,
        };
        self.store.reschedule(&check).await.map(|_| ())
    }
}

impl Checking<'_> {
    async fn run(mut self) -> Result<(), Stop> {
        if self.operation.state.name() == StateName::Approved {
            return self.undo_cancelled_approval().await;
        }
        if let Some(end) = told_too_late(&self.operation) {
            self.nothing_to_reverse().await?;
            return self.settle(end, "told_too_late").await;
        }
        match self.operation.verb {
            // No money could move: the card check simply has no answer.
            Verb::Verify => {
                self.settle(
                    State::Failed {
                        failure: Failure::NoAnswer,
                    },
                    "no_answer",
                )
                .await
            }
            Verb::Sale | Verb::Authorize => self.check_create().await,
            Verb::Capture | Verb::Void | Verb::Refund => self.check_follow_up().await,
            Verb::Reversal => unreachable!("BUG: a reversal is driven by what it reverses"),
        }
    }

    async fn check_create(&mut self) -> Result<(), Stop> {
        // Its own route must have said so, too: where nothing may be sent it is not asked, and nothing is conclusive.
        let mut reference_is_silent =
            self.capabilities.undo != UndoBy::Reference || !self.shared.options.quarantine;
        if self.must_undo()
            && self.capabilities.undo == UndoBy::Reference
            && !self.shared.options.quarantine
        {
            match self.undo(ReversalForm::ByReference, None).await? {
                Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                    return self.reversed(Some(reversal), upstream_reference).await;
                }
                Attempt::Outcome(Undone::NothingFound { conclusive }, _) => {
                    reference_is_silent = conclusive;
                }
                Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                    return self.reversed(Some(reversal), None).await;
                }
                // It had found nothing, and its operation was about to end for the same reason.
                Attempt::Ended(_) => {}
                // A refund went out before: only what is found can tell how it ended.
                Attempt::Outcome(_, _) | Attempt::AlreadySent => reference_is_silent = false,
                Attempt::Busy => return self.again("payment_busy").await,
            }
        }
        match self.look_up().await? {
            Finding::Found(Found::Approved { approval, standing }) => {
                self.found_approved(approval, standing).await
            }
            Finding::Found(Found::Declined(decline)) => {
                self.nothing_to_reverse().await?;
                self.settle(State::Declined { decline }, "found_declined")
                    .await
            }
            Finding::NotFound { conclusive } => {
                if conclusive && reference_is_silent && self.operation.past_horizon() {
                    self.nothing_to_reverse().await?;
                    self.settle(
                        State::Failed {
                            failure: Failure::DidNotHappen,
                        },
                        "not_found_past_horizon",
                    )
                    .await
                } else {
                    self.again_or_park("not_found_so_far", ParkedReason::NoAnswer)
                        .await
                }
            }
            Finding::Contradiction { detail } => {
                self.park(ParkedReason::Contradiction { detail }, "contradiction")
                    .await
            }
            Finding::CouldNotAsk { detail } => {
                tracing::info!(payment.operation.id = %self.operation.id, detail, "could not ask");
                self.again_or_park("could_not_ask", ParkedReason::NoAnswer)
                    .await
            }
        }
    }

    /// Whether the create must not stand, even if it is found approved.
    fn must_undo(&self) -> bool {
        self.capabilities.found == WhenFound::Reverse
            || self.operation.cancel_requested_at.is_some()
            || self.operation.read_at >= self.operation.resolves_by()
            || matches!(
                self.operation.state,
                State::Unknown {
                    unknown: UnknownReason::OtherAmount { .. }
                }
            )
    }

    async fn found_approved(&mut self, approval: Approval, standing: Standing) -> Result<(), Stop> {
        if standing.remaining == 0 {
            // Undone already, by an attempt of ours whose answer was lost or by another hand.
            let reversal = self.shared.store.reversal_of(self.operation.id).await?;
            return self
                .reversed(reversal, Some(approval.upstream_reference))
                .await;
        }
        let whole = approval.amount == self.operation.amount
            && standing.remaining == approval.amount.minor();
        if !self.must_undo() && whole {
            return self
                .settle(State::Approved { approval }, "found_approved")
                .await;
        }
        if self.capabilities.undo == UndoBy::Nothing {
            let detail = "approved, must not stand, and this processor cannot undo it".to_owned();
            return self
                .park(ParkedReason::ReversalFailed { detail }, "cannot_undo")
                .await;
        }
        if self.shared.options.quarantine {
            return self.again("quarantine").await;
        }
        let form = form_for(approval.ids, standing);
        match self.undo(form, None).await? {
            Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                self.reversed(Some(reversal), upstream_reference).await
            }
            Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                self.reversed(Some(reversal), None).await
            }
            Attempt::Ended(_) => {
                let detail =
                    "found standing after its reversal had ended without finding it".to_owned();
                self.park(ParkedReason::ReversalFailed { detail }, "found_after_all")
                    .await
            }
            Attempt::Outcome(Undone::Refused(decline), _) => {
                let detail = decline.message;
                self.again_or_park("reversal_refused", ParkedReason::ReversalFailed { detail })
                    .await
            }
            Attempt::AlreadySent => {
                let detail = "a refund was sent, its outcome is not known, and money still stands"
                    .to_owned();
                self.again_or_park(
                    "refund_already_sent",
                    ParkedReason::ReversalFailed { detail },
                )
                .await
            }
            Attempt::Busy => self.again("payment_busy").await,
            // Settled meanwhile, nothing found, not sent, no answer: the next check sees what became of it.
            Attempt::Outcome(_, _) => {
                let detail = "the reversal has no answer".to_owned();
                self.again_or_park("reversal_unknown", ParkedReason::ReversalFailed { detail })
                    .await
            }
        }
    }

    async fn check_follow_up(&mut self) -> Result<(), Stop> {
        match self.look_up().await? {
            Finding::Found(Found::Approved { approval, .. })
                if approval.amount == self.operation.amount =>
            {
                self.settle(State::Approved { approval }, "found_approved")
                    .await
            }
            // Follow-ups are not reversed: what was done otherwise than asked is for a person.
            Finding::Found(Found::Approved { approval, .. }) => {
                let detail = format!("approved for {} instead", approval.amount);
                self.park(ParkedReason::Contradiction { detail }, "other_amount")
                    .await
            }
            Finding::Found(Found::Declined(decline)) => {
                self.settle(State::Declined { decline }, "found_declined")
                    .await
            }
            Finding::NotFound { conclusive } => {
                let may_repeat = self.capabilities.repeat != Repeat::Never
                    && self.operation.sends <= REPEATS_MAX
                    && !self.shared.options.quarantine;
                if may_repeat {
                    return self.repeat().await;
                }
                let was_executed = matches!(
                    self.operation.state,
                    State::Unknown {
                        unknown: UnknownReason::DuplicateOfOurs | UnknownReason::OtherAmount { .. }
                    }
                );
                // What parked it may say that it happened: then silence is no answer any more. An outage says nothing.
                let is_contradicted = matches!(
                    &self.operation.state,
                    State::Parked { parked } if *parked != ParkedReason::NoAnswer
                );
                if conclusive && self.operation.past_horizon() && !was_executed && !is_contradicted
                {
                    let failure = Failure::DidNotHappen;
                    return self
                        .settle(State::Failed { failure }, "not_found_past_horizon")
                        .await;
                }
                let parked = if was_executed {
                    let detail = "refused as a duplicate of ours, and not shown".to_owned();
                    ParkedReason::Contradiction { detail }
                } else {
                    ParkedReason::NoAnswer
                };
                self.again_or_park("not_found_so_far", parked).await
            }
            Finding::Contradiction { detail } => {
                self.park(ParkedReason::Contradiction { detail }, "contradiction")
                    .await
            }
            Finding::CouldNotAsk { detail } => {
                tracing::info!(payment.operation.id = %self.operation.id, detail, "could not ask");
                self.again_or_park("could_not_ask", ParkedReason::NoAnswer)
                    .await
            }
        }
    }

    /// Sends the same request again: the processor executes it at most once. Counted first.
    async fn repeat(&mut self) -> Result<(), Stop> {
        let shared = self.shared;
        let since = shared.clock.tick();
        let me = shared.liveness.replica();
        let counted = shared
            .store
            .count_send(self.operation.id, self.operation.epoch, me)
            .await?;
        self.operation = counted.ok_or(Stop::Stale)?;
        let gate = Gate {
            liveness: &shared.liveness,
            clock: &*shared.clock,
            since,
            send_by: since + SEND_WITHIN,
            cancelled: None,
        };
        let answer = self
            .account
            .connector
            .execute(&self.operation.subject(), None, &gate)
            .await;
        self.evidence.extend(answer.evidence);
        let Operation {
            verb,
            amount,
            sends,
            ..
        } = self.operation;
        match operation::after_send(verb, amount, sends, answer.verdict) {
            to @ State::Approved { .. } => self.settle(to, "approved_on_repeat").await,
            // It was executed, by us or by another: remembered, for it can no longer be found not to have happened.
            State::Unknown {
                unknown:
                    unknown @ (UnknownReason::DuplicateOfOurs | UnknownReason::OtherAmount { .. }),
            } => self.still_unknown(unknown).await,
            // Another "no" to a repeat, or silence, says nothing of the send before it: the next check looks again.
            _ => self.again("repeat_without_success").await,
        }
    }

    /// Keeps what is known by now, and asks again after a while.
    async fn still_unknown(&mut self, unknown: UnknownReason) -> Result<(), Stop> {
        let to = State::Unknown { unknown };
        if self.operation.state == to || self.operation.state.name() == StateName::Parked {
            return self.again("still_unknown").await;
        }
        let evidence = std::mem::take(&mut self.evidence);
        let after = self.shared.options.resolver.first_check();
        let settlement = self
            .operation
            .settlement(to, "still_unknown", &evidence, Some(after));
        self.write(settlement).await
    }

    /// An approved create whose caller wants it undone, with follow-ups the remainder.
    async fn undo_cancelled_approval(&mut self) -> Result<(), Stop> {
        let shared = self.shared;
        let Some(payment) = self.operation.payment else {
            return self.no_more_checks("nothing_stands").await;
        };
        let payment = shared.store.payment(payment).await?.ok_or(Stop::Stale)?;
        let stands = Reserved {
            capture: payment.authorized - payment.captured,
            refund: payment.captured - payment.refunded,
        };
        if payment.voided || stands == Reserved::default() {
            return self.no_more_checks("nothing_stands").await;
        }
        if shared.options.quarantine {
            return self.again("quarantine").await;
        }
        let (ids, standing) = match self.look_up().await? {
            Finding::Found(Found::Approved { approval, standing }) => (approval.ids, standing),
            Finding::Contradiction { .. }
            | Finding::Found(Found::Declined(_))
            | Finding::NotFound { .. } => {
                return self.not_undone("cancelled_approval_not_found").await;
            }
            Finding::CouldNotAsk { .. } => return self.not_undone("could_not_ask").await,
        };
        let nothing_left = standing.remaining == 0;
        match self
            .undo_if(form_for(ids, standing), Some(stands), !nothing_left)
            .await?
        {
            Attempt::Outcome(Undone::Done { upstream_reference }, reversal) => {
                self.end_reversal(reversal, upstream_reference).await
            }
            Attempt::Ended(reversal) if reversal.state.name() == StateName::Approved => {
                self.no_more_checks("reversed").await
            }
            Attempt::AlreadySent if nothing_left => {
                let reversal = shared
                    .store
                    .reversal_of(self.operation.id)
                    .await?
                    .ok_or(Stop::Stale)?;
                self.end_reversal(reversal, None).await
            }
            Attempt::Outcome(Undone::Refused(decline), reversal) => {
                self.park_reversal(reversal, decline.message).await?;
                self.again("reversal_refused").await
            }
            Attempt::AlreadySent | Attempt::Busy | Attempt::Ended(_) | Attempt::Outcome(_, _) => {
                self.not_undone("reversal_unknown").await
            }
        }
    }

    /// A cancelled approval still stands. Asked on; past its reversal's horizon a person is told.
    async fn not_undone(&mut self, reason: &'static str) -> Result<(), Stop> {
        let reversal = self.shared.store.reversal_of(self.operation.id).await?;
        match reversal {
            Some(reversal) if reversal.past_horizon() => {
                self.park_reversal(reversal, reason.to_owned()).await?;
            }
            Some(_) => {}
            None => {
                tracing::error!(
                    payment.operation.id = %self.operation.id,
                    payment.account = %self.operation.account,
                    amount = %self.operation.amount,
                    reason,
                    "a cancelled approval could not be undone yet"
                );
            }
        }
        self.again(reason).await
    }

    async fn park_reversal(&self, reversal: Operation, detail: String) -> Result<(), Stop> {
        if reversal.state.name() == StateName::Parked || !is_open(&reversal) {
            return Ok(());
        }
        let mut unknown = reversal;
        if unknown.state.name() == StateName::Recorded {
            let to = State::Unknown {
                unknown: UnknownReason::Unusable {
                    detail: detail.clone(),
                },
            };
            let settled = self
                .shared
                .settle_surely(unknown.settlement(to, "reversal_refused", &[], None))
                .await;
            let Some(Settled::Applied(now)) = settled else {
                return Err(Stop::Stale);
            };
            unknown = *now;
        }
        let to = State::Parked {
            parked: ParkedReason::ReversalFailed { detail },
        };
        self.shared
            .settle_surely(unknown.settlement(to, "reversal_refused", &[], None))
            .await;
        Ok(())
    }

    async fn look_up(&mut self) -> Result<Finding, Stop> {
        let operation = &self.operation;
        let control = if operation.verb.is_create() {
            self.shared
                .store
                .control(&operation.account, operation.verb, operation.id)
                .await?
        } else {
            None
        };
        let LookUp { finding, evidence } = self
            .account
            .connector
            .look_up(&operation.subject(), control.as_ref())
            .await;
        self.evidence.extend(evidence);
        Ok(finding)
    }

    async fn undo(
        &mut self,
        form: ReversalForm,
        reserve: Option<Reserved>,
    ) -> Result<Attempt, Stop> {
        self.undo_if(form, reserve, true).await
    }

    /// Writes the reversal's record, counts the send, and sends it (`send`: unless nothing is left to undo).
    async fn undo_if(
        &mut self,
        form: ReversalForm,
        reserve: Option<Reserved>,
        send: bool,
    ) -> Result<Attempt, Stop> {
        let shared = self.shared;
        let since = shared.clock.tick();
        let wanted = ReversalIntent {
            of: self.operation.id,
            epoch: self.operation.epoch,
            owner: shared.liveness.replica(),
            operation: shared.new_operation_id(),
            reference: UpstreamReference::derive_internal(
                &shared.keys,
                self.operation.id,
                "reversal",
            ),
            form: form.clone(),
            reserve,
        };
        let reversal = match shared.store.begin_reversal(&wanted).await? {
            ReversalBegun::Send { reversal, of } => {
                self.operation = *of;
                *reversal
            }
            ReversalBegun::AlreadySent { .. } => return Ok(Attempt::AlreadySent),
            ReversalBegun::Ended { reversal } => return Ok(Attempt::Ended(*reversal)),
            ReversalBegun::Busy => return Ok(Attempt::Busy),
            ReversalBegun::Stale => return Err(Stop::Stale),
        };
        if !send {
            return Ok(Attempt::Outcome(
                Undone::Done {
                    upstream_reference: None,
                },
                reversal,
            ));
        }
        let gate = Gate {
            liveness: &shared.liveness,
            clock: &*shared.clock,
            since,
            send_by: since + SEND_WITHIN,
            cancelled: None,
        };
        let undo = self
            .account
            .connector
            .reverse(&self.operation.subject(), &form, &gate)
            .await;
        self.evidence.extend(undo.evidence);
        if let Undone::NotSent(not_sent) = &undo.outcome {
            // Proven: this form never left. Written down, or a refund would count as sent, and never be sent.
            if reversal.sends == 1 && reversal.state.name() == StateName::Recorded {
                let to = State::NotSent {
                    not_sent: not_sent.clone(),
                };
                let settlement = reversal.settlement(to, "reversal_not_sent", &[], None);
                shared.settle_surely(settlement).await;
            } else {
                shared
                    .store
                    .uncount_send(reversal.id, reversal.epoch)
                    .await?;
            }
        }
        Ok(Attempt::Outcome(undo.outcome, reversal))
    }

    /// The reversal is confirmed: first its own end, then that of what it reversed. A crash between the two leaves an
    /// ended reversal, and the next check goes on from there.
    async fn reversed(
        &mut self,
        reversal: Option<Operation>,
        upstream_reference: Option<String>,
    ) -> Result<(), Stop> {
        let id = reversal.as_ref().map(|reversal| reversal.id);
        if let Some(reversal) = reversal.filter(is_open) {
            self.end_reversal(reversal, upstream_reference).await?;
        }
        self.settle(State::Reversed { reversal: id }, "reversed")
            .await
    }

    async fn end_reversal(
        &self,
        reversal: Operation,
        upstream_reference: Option<String>,
    ) -> Result<(), Stop> {
        let approval = Approval {
            ids: UpstreamIds::default(),
            upstream_reference: upstream_reference.unwrap_or_default(),
            authorization_code: None,
            amount: reversal.amount,
            card: None,
        };
        let to = State::Approved { approval };
        let settlement = reversal.settlement(to, "reversed", &self.evidence, None);
        self.shared.settle_surely(settlement).await;
        Ok(())
    }

    /// The reversal, if one was begun, found nothing to reverse and never will.
    async fn nothing_to_reverse(&self) -> Result<(), Stop> {
        if let Some(reversal) = self.shared.store.reversal_of(self.operation.id).await?
            && is_open(&reversal)
        {
            let to = State::Failed {
                failure: Failure::NothingToReverse,
            };
            self.shared
                .settle_surely(reversal.settlement(to, "nothing_to_reverse", &[], None))
                .await;
        }
        Ok(())
    }

    async fn settle(&mut self, to: State, reason: &'static str) -> Result<(), Stop> {
        let evidence = std::mem::take(&mut self.evidence);
        let settlement = self.operation.settlement(to, reason, &evidence, None);
        self.write(settlement).await
    }

    /// Writes a conclusion. One that the ledger refuses is tried again after the usual pause, not at once: each try asks
    /// the processor.
    async fn write(&mut self, settlement: Settlement) -> Result<(), Stop> {
        if self.shared.settle_surely(settlement).await.is_none() {
            return self.again("not_written").await;
        }
        Ok(())
    }

    async fn park(&mut self, parked: ParkedReason, reason: &'static str) -> Result<(), Stop> {
        if self.operation.state.name() == StateName::Parked {
            return self.again(reason).await;
        }
        let evidence = std::mem::take(&mut self.evidence);
        let after = self.shared.options.resolver.repeat_every;
        let settlement =
            self.operation
                .settlement(State::Parked { parked }, reason, &evidence, Some(after));
        self.write(settlement).await
    }

    async fn again_or_park(
        &mut self,
        reason: &'static str,
        parked: ParkedReason,
    ) -> Result<(), Stop> {
        if self.operation.past_horizon() {
            self.park(parked, reason).await
        } else {
            self.again(reason).await
        }
    }

    async fn again(&mut self, reason: &'static str) -> Result<(), Stop> {
        let evidence = std::mem::take(&mut self.evidence);
        Ok(self
            .shared
            .check_again(&self.operation, evidence, reason)
            .await?)
    }

    async fn no_more_checks(&mut self, reason: &'static str) -> Result<(), Stop> {
        let check = Check {
            operation: self.operation.id,
            epoch: self.operation.epoch,
            owner: self.shared.liveness.replica(),
            next_after: None,
            evidence: json!({ "calls": self.evidence }),
            reason,
        };
        self.shared.store.reschedule(&check).await?;
        Ok(())
    }
}

/// Something of it may have been sent, and how that ended is not written yet.
fn is_open(reversal: &Operation) -> bool {
    !reversal.state.is_final() && reversal.state.name() != StateName::NotSent
}

/// What came of trying to undo.
enum Attempt {
    Outcome(Undone, Operation),
    /// A refund was sent before: never again.
    AlreadySent,
    Ended(Operation),
    Busy,
}

/// The form follows what is found: a void while it can be voided, else a return of what is left.
fn form_for(ids: UpstreamIds, standing: Standing) -> ReversalForm {
    if standing.settled {
        ReversalForm::Refund {
            ids,
            amount: standing.remaining,
        }
    } else {
        ReversalForm::Void { ids }
    }
}

/// What a former owner learned too late, where it settles the matter: its was the only send, and it was a "no" or never
/// left. A late "yes" to a create decides nothing, since a reversal may be on its way; to a follow-up it does.
fn told_too_late(operation: &Operation) -> Option<State> {
    let late = operation.late.as_ref()?;
    if (late.attempt, late.sends) != (operation.attempt, operation.sends) {
        return None;
    }
    match &late.state {
        State::NotSent { .. } if operation.cancel_requested_at.is_some() => Some(State::Cancelled),
        State::NotSent { not_sent } => Some(State::Failed {
            failure: Failure::NothingWasSent {
                not_sent: not_sent.clone(),
            },
        }),
        State::Declined { .. } | State::Failed { .. } => Some(late.state.clone()),
        State::Approved { .. } if operation.verb.is_follow_up() => Some(late.state.clone()),
        _ => None,
    }
}
