//! The life of one operation: its states, which transitions are legal, and what each does to the payment and the ledger.
//!
//! Pure functions. Who calls them has read the operation from the store and will write the result back on condition that
//! its epoch has not moved.

use serde::{Deserialize, Serialize};

use crate::connector::{Approval, Decline, DeclineClass, NotSent, UnknownReason, Verdict};
use crate::key::OperationId;
use crate::ledger::{Entry, LedgerAccount, Side};
use crate::money::Money;
use crate::payment::PaymentStatus;

/// What an operation does. A reversal is one too, with its own row and its own unknowns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Authorization and capture in one.
    Sale,
    Authorize,
    Capture,
    Void,
    Refund,
    /// A card check without money.
    Verify,
    /// We undo a create whose outcome was not learned in time, or that its caller cancelled.
    Reversal,
}

impl Verb {
    pub const ALL: [Self; 7] = [
        Self::Sale,
        Self::Authorize,
        Self::Capture,
        Self::Void,
        Self::Refund,
        Self::Verify,
        Self::Reversal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
            Self::Verify => "verify",
            Self::Reversal => "reversal",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// Opens a payment.
    pub const fn is_create(self) -> bool {
        matches!(self, Self::Sale | Self::Authorize)
    }

    /// Acts on an existing payment at a caller's wish.
    pub const fn is_follow_up(self) -> bool {
        matches!(self, Self::Capture | Self::Void | Self::Refund)
    }
}

/// Where an operation stands. What a state needs lives inside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Stored before the first byte leaves: money may now have moved.
    Recorded,
    /// Proven: nothing left. The same key may claim it again.
    NotSent {
        not_sent: NotSent,
    },
    Approved {
        approval: Approval,
    },
    Declined {
        decline: Decline,
    },
    /// Final, and no money moved.
    Failed {
        failure: Failure,
    },
    /// It was approved, or may have been, and nothing of it stands.
    Reversed {
        reversal: Option<OperationId>,
    },
    /// Cancelled before anything was sent, or before it was ever seen.
    Cancelled,
    /// Neither success nor failure: only a look-up or a reversal ends it.
    Unknown {
        unknown: UnknownReason,
    },
    /// No machine can decide. Asked on, and a person may end it.
    Parked {
        parked: ParkedReason,
    },
}

/// Why an operation is over without having happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum Failure {
    /// The processor refused it, provably without executing.
    Refused { decline: Decline },
    /// Conclusively not found after the last moment at which it could have arrived.
    DidNotHappen,
    /// Adopted from an owner which proves afterwards that it had sent nothing.
    NothingWasSent { not_sent: NotSent },
    /// A card check without an answer: nothing to resolve, since no money could move.
    NoAnswer,
    /// A reversal that found nothing to reverse.
    NothingToReverse,
    /// Decided by a person.
    ByPerson { who: String, why: String },
}

/// Why an operation waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "parked", rename_all = "snake_case")]
pub enum ParkedReason {
    /// Past `resolves_by` without a conclusive answer.
    NoAnswer,
    /// The books changed in a way that this operation alone does not explain.
    Contradiction { detail: String },
    /// Its reversal was refused, or is itself of unknown outcome and may not be repeated.
    ReversalFailed { detail: String },
}

/// The state's name, as stored and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Recorded,
    NotSent,
    Approved,
    Declined,
    Failed,
    Reversed,
    Cancelled,
    Unknown,
    Parked,
}

impl StateName {
    pub const ALL: [Self; 9] = [
        Self::Recorded,
        Self::NotSent,
        Self::Approved,
        Self::Declined,
        Self::Failed,
        Self::Reversed,
        Self::Cancelled,
        Self::Unknown,
        Self::Parked,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::NotSent => "not_sent",
            Self::Approved => "approved",
            Self::Declined => "declined",
            Self::Failed => "failed",
            Self::Reversed => "reversed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::Parked => "parked",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// A final state never becomes another.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Approved | Self::Declined | Self::Failed | Self::Reversed | Self::Cancelled
        )
    }

    /// Whether `to` may follow. Unknown and Parked may follow themselves: another reason, the same state.
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Recorded => !matches!(to, Self::Recorded | Self::Reversed | Self::Parked),
            // A re-claim under the same key, or a cancellation of something that provably never left.
            Self::NotSent => matches!(to, Self::Recorded | Self::Cancelled),
            Self::Unknown | Self::Parked => !matches!(to, Self::Recorded | Self::NotSent),
            Self::Approved | Self::Declined | Self::Failed | Self::Reversed | Self::Cancelled => {
                false
            }
        }
    }
}

impl State {
    pub const fn name(&self) -> StateName {
        match self {
            Self::Recorded => StateName::Recorded,
            Self::NotSent { .. } => StateName::NotSent,
            Self::Approved { .. } => StateName::Approved,
            Self::Declined { .. } => StateName::Declined,
            Self::Failed { .. } => StateName::Failed,
            Self::Reversed { .. } => StateName::Reversed,
            Self::Cancelled => StateName::Cancelled,
            Self::Unknown { .. } => StateName::Unknown,
            Self::Parked { .. } => StateName::Parked,
        }
    }

    pub const fn is_final(&self) -> bool {
        self.name().is_final()
    }

    /// An answer said that something was executed, or what parked it may say so: "not found" is then no proof that nothing
    /// was. An outage says nothing.
    pub fn contradicts_silence(&self) -> bool {
        match self {
            Self::Unknown { unknown } => matches!(
                unknown,
                UnknownReason::DuplicateOfOurs | UnknownReason::OtherAmount { .. }
            ),
            Self::Parked { parked } => *parked != ParkedReason::NoAnswer,
            _ => false,
        }
    }

    /// Why it waits for a person if it is not found until the end, or nobody can be asked. What an answer said is kept.
    pub fn parked_for_silence(&self) -> ParkedReason {
        if self.contradicts_silence() {
            let detail = "an answer says that it was executed, and it is not shown".to_owned();
            ParkedReason::Contradiction { detail }
        } else {
            ParkedReason::NoAnswer
        }
    }
}

/// A transition that only a bug of ours could ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operation that is {from:?} cannot become {to:?}")]
pub struct IllegalTransition {
    pub from: StateName,
    pub to: StateName,
}

/// What a verdict makes of an operation that is recorded or unknown. `sends` counts this one.
pub fn after_send(verb: Verb, asked: Money, sends: u32, verdict: Verdict) -> State {
    #[cfg(feature = "sabotage")]
    let sends = crate::sabotage::sends(sends, &verdict);
    match verdict {
        Verdict::Approved(approval) if verb != Verb::Verify && approval.amount != asked => {
            State::Unknown {
                unknown: UnknownReason::OtherAmount {
                    approved: approval.amount.minor(),
                },
            }
        }
        Verdict::Approved(approval) => State::Approved { approval },
        Verdict::Unknown(unknown) => State::Unknown { unknown },
        // A "no" to a repeat says nothing of the send before it, which may be what the repeat is a duplicate of.
        Verdict::Declined(decline) | Verdict::Refused(decline) if sends > 1 => State::Unknown {
            unknown: if decline.class == DeclineClass::Duplicate {
                UnknownReason::DuplicateOfOurs
            } else {
                UnknownReason::RepeatRefused { code: decline.code }
            },
        },
        Verdict::NotSent(_) if sends > 1 => State::Unknown {
            unknown: UnknownReason::RepeatNotSent,
        },
        Verdict::Declined(decline) => State::Declined { decline },
        Verdict::Refused(decline) => State::Failed {
            failure: Failure::Refused { decline },
        },
        Verdict::NotSent(not_sent) => State::NotSent { not_sent },
    }
}

/// What an operation is about to do to its payment: the part of it that the rules below need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub verb: Verb,
    pub amount: Money,
    /// Reserved on the payment by this operation when it was recorded.
    pub reserved: Reserved,
    /// It keeps the payment for itself while its outcome is unknown.
    pub holds_while_unknown: bool,
}

/// Minor units that an open operation keeps others from using.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// Of what is authorized and not captured.
    pub capture: i64,
    /// Of what is captured and not refunded.
    pub refund: i64,
}

/// What a transition does to the payment and to the ledger, written in the same commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Added to the payment's totals.
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    /// The payment is void from now on: nothing of it can be captured or refunded.
    pub voids: bool,
    /// Given back, both of them, in full.
    pub releases: Reserved,
    /// `busy_with` is cleared, if it names this operation.
    pub releases_payment: bool,
    pub status: StatusChange,
    pub entries: Vec<Entry>,
}

/// What becomes of the payment's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusChange {
    Keep,
    /// From the totals, after they changed.
    Derive,
    Set(PaymentStatus),
}

/// The effects of moving an operation to `to`.
///
/// # Errors
/// [`IllegalTransition`]: the caller has a bug, and nothing may be written.
pub fn effects(
    facts: &Facts,
    from: StateName,
    to: StateName,
) -> Result<Effects, IllegalTransition> {
    if !from.may_become(to) {
        return Err(IllegalTransition { from, to });
    }
    let nothing = Effects {
        authorized: 0,
        captured: 0,
        refunded: 0,
        voids: false,
        releases: Reserved::default(),
        releases_payment: false,
        status: StatusChange::Keep,
        entries: Vec::new(),
    };
    // Over, whichever way, or provably never begun: what it held is given back.
    let ended = to.is_final() || to == StateName::NotSent;
    let mut effects = if ended {
        Effects {
            releases: facts.reserved,
            releases_payment: true,
            ..nothing
        }
    } else {
        // Unknown or parked: the amount stays reserved; the payment stays busy only where totals will be compared.
        Effects {
            releases_payment: facts.verb.is_follow_up() && !facts.holds_while_unknown,
            ..nothing
        }
    };
    #[cfg(feature = "sabotage")]
    if sabotaged!(ReservationKept) {
        effects.releases = Reserved::default();
    }
    if facts.verb.is_create() {
        effects.status = StatusChange::Set(match to {
            StateName::Approved => return Ok(approved(facts, effects)),
            StateName::Recorded | StateName::NotSent => PaymentStatus::Pending,
            StateName::Unknown | StateName::Parked => PaymentStatus::Unknown,
            StateName::Declined => PaymentStatus::Declined,
            StateName::Failed => PaymentStatus::Failed,
            StateName::Reversed => PaymentStatus::Reversed,
            StateName::Cancelled => PaymentStatus::Cancelled,
        });
        return Ok(effects);
    }
    Ok(if to == StateName::Approved {
        approved(facts, effects)
    } else {
        effects
    })
}

fn approved(facts: &Facts, effects: Effects) -> Effects {
    use LedgerAccount::{HoldsGiven, HoldsTaken, Receivable, Sales};
    let amount = facts.amount.minor();
    let derived = Effects {
        status: StatusChange::Derive,
        ..effects
    };
    let both = |debit, credit, minor: i64| {
        vec![
            Entry {
                ledger_account: debit,
                side: Side::Debit,
                minor,
            },
            Entry {
                ledger_account: credit,
                side: Side::Credit,
                minor,
            },
        ]
    };
    match facts.verb {
        Verb::Sale => Effects {
            authorized: amount,
            captured: amount,
            entries: both(Receivable, Sales, amount),
            ..derived
        },
        Verb::Authorize => Effects {
            authorized: amount,
            entries: both(HoldsTaken, HoldsGiven, amount),
            ..derived
        },
        Verb::Capture => {
            let mut entries = both(Receivable, Sales, amount);
            entries.extend(both(HoldsGiven, HoldsTaken, amount));
            Effects {
                captured: amount,
                entries,
                ..derived
            }
        }
        Verb::Refund => Effects {
            refunded: amount,
            entries: both(Sales, Receivable, amount),
            ..derived
        },
        // What was reserved when it was recorded is what it takes back: a hold, or a sale that is not settled.
        Verb::Void | Verb::Reversal => {
            let mut entries = Vec::new();
            if facts.reserved.capture > 0 {
                entries.extend(both(HoldsGiven, HoldsTaken, facts.reserved.capture));
            }
            if facts.reserved.refund > 0 {
                entries.extend(both(Sales, Receivable, facts.reserved.refund));
            }
            let status = if facts.verb == Verb::Reversal && facts.reserved != Reserved::default() {
                StatusChange::Set(PaymentStatus::Reversed)
            } else if facts.verb == Verb::Reversal {
                // The create itself, still unknown, carries the status; its own end sets it.
                StatusChange::Keep
            } else {
                StatusChange::Set(PaymentStatus::Voided)
            };
            Effects {
                voids: facts.reserved != Reserved::default(),
                entries,
                status,
                ..derived
            }
        }
        Verb::Verify => Effects {
            status: StatusChange::Keep,
            ..derived
        },
    }
}
