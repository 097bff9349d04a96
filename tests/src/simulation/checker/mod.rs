//! The judge of one history: sees what callers saw, the processor's books, what passed the wire, and the ledger as it ended.

mod answers;
mod books;
mod ledger;
mod sends;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use gateway_core::key::{OperationId, PaymentId};
use gateway_core::operation::{StateName, Verb};
use gateway_core::payment::Payment;
use gateway_core::store::{Event, Operation, PaymentQuery, Store};

use super::faults::FaultKind;
use super::log::{Entry, Heard, Key, Number, Place, Sent, What};
use super::plan::{Plan, Spell, Trouble};
use super::world::World;
use crate::memory_store::Posting;
use crate::simulators::connexpay::{self, Books};

/// What must hold in every history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Invariant {
    OneEffectPerKey,
    RecordedBeforeSent,
    AllFinal,
    StateEqualsBooks,
    AnswersAgree,
    EntriesBalance,
    TotalsHold,
    NoSilentFailure,
    SentWhileWaitedFor,
    AdoptedIsNotSent,
    CancelledIsNotSent,
    CancelledIsGone,
    HeldAnswerStands,
    NothingReserved,
    WaitersAnswered,
    OneRepeatPer401,
    FairWeatherServes,
    ReusedKeyRefused,
    OncePerOrder,
}

impl Invariant {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OneEffectPerKey => "one effect per key",
            Self::RecordedBeforeSent => "nothing sent before its record",
            Self::AllFinal => "every operation ends",
            Self::StateEqualsBooks => "the state equals the books",
            Self::AnswersAgree => "answers to one key agree",
            Self::EntriesBalance => "entries balance",
            Self::TotalsHold => "captures within the authorization, refunds within the captures",
            Self::NoSilentFailure => "no failure told while money moved",
            Self::SentWhileWaitedFor => "no first byte after the end of the caller's wait",
            Self::AdoptedIsNotSent => "nothing sent by whom it was taken from",
            Self::CancelledIsNotSent => "nothing sent by who knew of the cancellation",
            Self::CancelledIsGone => "a cancelled key stays cancelled, and its money comes back",
            Self::HeldAnswerStands => "no reversal of what a live replica knew to be approved",
            Self::NothingReserved => "nothing open, nothing reserved",
            Self::WaitersAnswered => "every waiter is answered by the end of its wait",
            Self::OneRepeatPer401 => "one repeat per 401",
            Self::FairWeatherServes => "in fair weather everybody is served",
            Self::ReusedKeyRefused => "a key is good for one request",
            Self::OncePerOrder => "one live create of an order, where that was asked",
        }
    }
}

/// What does not hold.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) invariant: Invariant,
    pub(super) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.name(), self.detail)
    }
}

/// What the judge looks at.
pub(super) struct Evidence {
    pub(super) plan: Plan,
    pub(super) entries: Vec<Entry>,
    pub(super) books: Books,
    pub(super) operations: Vec<Operation>,
    pub(super) payments: Vec<Payment>,
    pub(super) postings: Vec<Posting>,
    pub(super) events: Vec<Event>,
}

impl Evidence {
    pub(super) async fn gather(world: &World) -> Self {
        let all = PaymentQuery {
            limit: 1_000,
            ..PaymentQuery::default()
        };
        let payments = world.ledger.payments(&all).await;
        let operations = world.operations().await;
        let mut plan = world.plan.clone();
        plan.spells.extend(world.sprung.spell());
        Self {
            plan,
            entries: std::mem::take(&mut *world.log.entries()),
            books: world.processor.books(),
            operations,
            payments: payments.expect("memory answers"),
            postings: world.ledger.postings(),
            events: world.ledger.take_events(),
        }
    }

    /// Everything that does not hold.
    pub(super) fn judge(&self) -> Vec<Violation> {
        let view = View::of(self);
        let mut found = Vec::new();
        answers::check(&view, &mut found);
        books::check(&view, &mut found);
        ledger::check(&view, &mut found);
        sends::check(&view, &mut found);
        found
    }
}

/// A call of a caller, from its question to what came of it.
struct CallView<'a> {
    key: &'a Key,
    act: super::log::Act,
    place: Place,
    wait: Duration,
    asked: usize,
    asked_at: Duration,
    /// Where in the log it was told, what, and when.
    told: Option<(usize, &'a super::log::Told, Duration)>,
    /// It left, or its replica died.
    gone: bool,
}

/// A request on the wire, with what became of it.
struct SendView<'a> {
    sent: &'a Sent,
    order: usize,
    at: Duration,
    /// When it was delivered for the first time.
    delivered: Option<usize>,
    heard: Option<(usize, Heard, Duration)>,
}

/// The evidence, sorted.
struct View<'a> {
    evidence: &'a Evidence,
    calls: Vec<CallView<'a>>,
    sends: Vec<SendView<'a>>,
    by_key: BTreeMap<&'a str, &'a Operation>,
    by_reference: BTreeMap<&'a str, &'a Operation>,
    by_id: BTreeMap<OperationId, &'a Operation>,
    reversals: BTreeMap<OperationId, &'a Operation>,
    payments: BTreeMap<PaymentId, &'a Payment>,
    /// Creates by the processor's id of what they made.
    creates_by_guid: BTreeMap<&'a str, &'a Operation>,
}

impl<'a> View<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let mut calls: BTreeMap<Number, CallView<'a>> = BTreeMap::new();
        let mut sends: BTreeMap<Number, SendView<'a>> = BTreeMap::new();
        for (order, entry) in evidence.entries.iter().enumerate() {
            match &entry.what {
                What::Asked {
                    call,
                    key,
                    act,
                    place,
                    wait,
                } => {
                    let view = CallView {
                        key,
                        act: *act,
                        place: *place,
                        wait: *wait,
                        asked: order,
                        asked_at: entry.at,
                        told: None,
                        gone: false,
                    };
                    calls.insert(*call, view);
                }
                What::Told { call, told } => {
                    if let Some(view) = calls.get_mut(call) {
                        view.told = Some((order, told, entry.at));
                    }
                }
                What::HungUp { call } | What::Lost { call } => {
                    if let Some(view) = calls.get_mut(call) {
                        view.gone = true;
                    }
                }
                What::Sent(sent) => {
                    let view = SendView {
                        sent,
                        order,
                        at: entry.at,
                        delivered: None,
                        heard: None,
                    };
                    sends.insert(sent.sending, view);
                }
                What::Delivered { sending, .. } => {
                    if let Some(view) = sends.get_mut(sending) {
                        view.delivered.get_or_insert(order);
                    }
                }
                What::Heard { sending, heard } => {
                    if let Some(view) = sends.get_mut(sending) {
                        view.heard = Some((order, *heard, entry.at));
                    }
                }
                _ => {}
            }
        }
        let mut view = Self {
            evidence,
            calls: calls.into_values().collect(),
            sends: sends.into_values().collect(),
            by_key: BTreeMap::new(),
            by_reference: BTreeMap::new(),
            by_id: BTreeMap::new(),
            reversals: BTreeMap::new(),
            payments: BTreeMap::new(),
            creates_by_guid: BTreeMap::new(),
        };
        for operation in &evidence.operations {
            view.by_id.insert(operation.id, operation);
            view.by_reference
                .insert(operation.reference.as_str(), operation);
            if let Some(of) = operation.reverses {
                view.reversals.insert(of, operation);
            } else {
                view.by_key.insert(operation.key.as_str(), operation);
            }
        }
        for payment in &evidence.payments {
            view.payments.insert(payment.id, payment);
        }
        for entry in &evidence.books.entries {
            if let Some(create) = view.create_of(entry) {
                view.creates_by_guid.insert(&entry.guid, create);
            }
        }
        view
    }

    /// The create at the root of an entry in the books.
    fn create_of(&self, entry: &connexpay::Entry) -> Option<&'a Operation> {
        let mut root = entry;
        while let Some(parent) = root
            .parent
            .as_deref()
            .and_then(|parent| self.evidence.books.entry(parent))
        {
            root = parent;
        }
        let reference = root.sequence_number.as_deref()?;
        self.by_reference.get(reference).copied()
    }

    /// The operation that this request is a send of: the reversal, if it undoes a create.
    fn operation_of(&self, sent: &Sent) -> Option<&'a Operation> {
        let reversal = |create: &Operation| self.reversals.get(&create.id).copied();
        match (sent.label, sent.sequence.as_deref()) {
            ("POST /timeoutreversal", Some(reference)) => {
                self.by_reference.get(reference).copied().and_then(reversal)
            }
            // Cleaning up a create: its own number is not used twice.
            ("POST /returns", Some(reference))
                if reference.ends_with('R') && reference.len() > 17 =>
            {
                let create = self.by_reference.get(&reference[..reference.len() - 1]);
                create.copied().and_then(reversal)
            }
            (_, Some(reference)) => self.by_reference.get(reference).copied(),
            ("POST /void", None) => {
                let create = self.creates_by_guid.get(sent.parent.as_deref()?);
                create.copied().and_then(reversal)
            }
            _ => None,
        }
    }

    /// The times at which the ledger is away for all of several replicas: that makes none of them silent.
    fn outages(&self) -> impl Iterator<Item = &'a Spell> {
        let plan = &self.evidence.plan;
        plan.spells.iter().filter(|spell| {
            spell.what == Trouble::LedgerAway && spell.replica.is_none() && plan.replicas > 1
        })
    }

    /// Whether anything went wrong at this replica, or with its way to the ledger, between these instants. One call to the
    /// ledger that fails by itself is nothing to a replica that asks again.
    fn was_troubled(&self, place: Place, from: Duration, to: Duration) -> bool {
        use super::plan::Trouble::{LedgerAway, Stopped};
        let plan = &self.evidence.plan;
        let spell = plan.spells.iter().any(|spell| {
            matches!(spell.what, LedgerAway | Stopped)
                // A ledger that is away for all makes nobody silent.
                && (spell.replica == Some(place.replica) || spell.replica.is_none() && plan.replicas == 1)
                && spell.from <= to
                && spell.to >= from
        });
        let is_away = |at| plan.troubles(LedgerAway, place.replica, at).is_some();
        let mut strikes = 0;
        let mut dies = false;
        for entry in self.evidence.entries.iter().filter(|entry| entry.at <= to) {
            if let What::Crashed(at) = &entry.what {
                dies |= *at == place;
            }
            let What::Struck { fault, place: at } = &entry.what else {
                continue;
            };
            if *at != Some(place) {
                continue;
            }
            // It dies some polls later, which nobody notes.
            dies |= *fault == FaultKind::Crash;
            // With one before it, and a silence that began with that, a second one may be one too many.
            let counts = fault.is_of_ledger() && entry.at + LONGEST_GAP >= from;
            strikes += u32::from(counts && !is_away(entry.at));
        }
        spell || dies || strikes > 1
    }
}

/// So long before a send its replica may have been heard of last.
const LONGEST_GAP: Duration = Duration::from_secs(4);

fn is_over(operation: &Operation) -> bool {
    let state = operation.state.name();
    (state.is_final() || state == StateName::NotSent) && operation.due_at.is_none()
}

fn say(found: &mut Vec<Violation>, invariant: Invariant, detail: String) {
    found.push(Violation { invariant, detail });
}

fn name(operation: &Operation) -> String {
    format!(
        "{} ({}, {})",
        operation.key,
        operation.verb.as_str(),
        operation.state.name().as_str()
    )
}

const fn is_follow_up(verb: Verb) -> bool {
    matches!(verb, Verb::Capture | Verb::Void | Verb::Refund)
}
