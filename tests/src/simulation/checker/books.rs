//! The processor's books against the ledger and against what callers were told: every cent, by its reference.

use gateway_core::operation::{StateName, Verb};
use gateway_core::payment::PaymentStatus;
use gateway_core::store::Operation;

use super::super::log::Act;
use super::Invariant::{
    CancelledIsGone, NoSilentFailure, OneEffectPerKey, StateEqualsBooks, TotalsHold,
};
use super::{View, Violation, is_follow_up, is_over, name, say};
use crate::simulators::connexpay::{Entry, EntryKind};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Violation>) {
    for operation in &view.evidence.operations {
        one_effect(view, operation, found);
        if is_over(operation) {
            as_told(view, operation, found);
        }
    }
    for payment in &view.evidence.payments {
        let of = |operation: &&Operation| operation.payment == Some(payment.id);
        let mut operations = view.evidence.operations.iter().filter(of);
        // Of what is parked nobody knows; whether it may be is another question.
        if operations.all(|operation| is_over(operation) || operation.reverses.is_some()) {
            compare(view, payment, found);
            agrees(view, payment, found);
        }
    }
    totals(view, found);
    told_and_taken(view, found);
    unknown_money(view, found);
}

/// The approved entries that carry this operation's reference.
fn effects<'a>(view: &View<'a>, operation: &'a Operation) -> impl Iterator<Item = &'a Entry> {
    let reference = operation.reference.as_str();
    view.evidence.books.entries.iter().filter(move |entry| {
        entry.is_approved()
            && entry.kind != EntryKind::Verify
            && entry.sequence_number.as_deref() == Some(reference)
    })
}

fn one_effect(view: &View<'_>, operation: &Operation, found: &mut Vec<Violation>) {
    let count = effects(view, operation).count();
    if count > 1 {
        say(
            found,
            OneEffectPerKey,
            format!(
                "{}: {count} approved entries carry its reference",
                name(operation)
            ),
        );
    }
    let undone = format!("{}R", operation.reference);
    let returns = view.evidence.books.entries.iter().filter(|entry| {
        entry.is_approved() && entry.sequence_number.as_deref() == Some(undone.as_str())
    });
    if returns.count() > 1 {
        let detail = format!("{}: returned twice to undo it", name(operation));
        say(found, OneEffectPerKey, detail);
    }
}

/// A follow-up is in the books exactly if its record says so.
fn as_told(view: &View<'_>, operation: &Operation, found: &mut Vec<Violation>) {
    if !is_follow_up(operation.verb) {
        return;
    }
    let taken: i64 = effects(view, operation).map(|entry| entry.approved).sum();
    let approved = operation.state.name() == StateName::Approved;
    let wanted = if approved {
        operation.amount.minor()
    } else {
        0
    };
    if operation.verb == Verb::Void {
        let count = effects(view, operation).count();
        // What stands in the way of a void may be another void: the target is void either way.
        if !approved && count > 0 {
            let detail = format!("{}: voided in the books", name(operation));
            say(found, StateEqualsBooks, detail);
        }
        return;
    }
    if taken != wanted {
        say(
            found,
            StateEqualsBooks,
            format!(
                "{}: should have moved {wanted}, the books say {taken}",
                name(operation)
            ),
        );
    }
}

fn compare(view: &View<'_>, payment: &gateway_core::payment::Payment, found: &mut Vec<Violation>) {
    let position = view.evidence.books.position(payment.reference.as_str());
    let (net, held) = match payment.status {
        PaymentStatus::Captured | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded => {
            // A processor that captures once lets the rest of the hold go.
            (payment.captured - payment.refunded, 0)
        }
        PaymentStatus::Authorized => (0, payment.authorized),
        _ => (0, 0),
    };
    if payment.status == PaymentStatus::Unknown || (position.net, position.held) != (net, held) {
        say(
            found,
            StateEqualsBooks,
            format!(
                "{} is {}, captured {}, refunded {}; the books say {position:?}",
                payment.id,
                payment.status.as_str(),
                payment.captured,
                payment.refunded
            ),
        );
    }
}

/// The create says of its payment what the payment says of itself; a cancellation may have come between them.
fn agrees(view: &View<'_>, payment: &gateway_core::payment::Payment, found: &mut Vec<Violation>) {
    use PaymentStatus::{Cancelled, Declined, Failed, Pending, Reversed, Unknown};
    let mut operations = view.evidence.operations.iter();
    let create = operations.find(|operation| {
        operation.payment == Some(payment.id)
            && operation.verb.is_create()
            && operation.cancel_requested_at.is_none()
            && operation.state.is_final()
    });
    let Some(create) = create else { return };
    let nothing = matches!(
        payment.status,
        Pending | Unknown | Declined | Failed | Reversed | Cancelled
    );
    if (create.state.name() == StateName::Approved) == nothing {
        let detail = format!(
            "{}: its payment is {}",
            name(create),
            payment.status.as_str()
        );
        say(found, StateEqualsBooks, detail);
    }
}

fn totals(view: &View<'_>, found: &mut Vec<Violation>) {
    for payment in &view.evidence.payments {
        let holds = payment.captured <= payment.authorized
            && payment.refunded <= payment.captured
            && payment.captured + payment.capture_reserved <= payment.authorized
            && payment.refunded + payment.refund_reserved <= payment.captured;
        if !holds {
            say(found, TotalsHold, format!("{payment:?}"));
        }
    }
    let books = &view.evidence.books;
    for entry in books.entries.iter().filter(|entry| entry.is_approved()) {
        let of = |kind| {
            let children = books.entries.iter().filter(move |child| {
                child.kind == kind
                    && child.is_approved()
                    && child.parent.as_ref() == Some(&entry.guid)
            });
            children.map(|child| child.approved).sum::<i64>()
        };
        let taken = match entry.kind {
            EntryKind::Sale => of(EntryKind::Return),
            EntryKind::AuthOnly => of(EntryKind::Capture),
            _ => 0,
        };
        if taken > entry.approved {
            say(
                found,
                TotalsHold,
                format!("{taken} of {} taken from {:?}", entry.approved, entry.kind),
            );
        }
    }
}

/// What callers were told, against the money, whatever the ledger says.
fn told_and_taken(view: &View<'_>, found: &mut Vec<Violation>) {
    for call in &view.calls {
        let Some((_, told, _)) = call.told else {
            continue;
        };
        let Some(operation) = told.operation.and_then(|id| view.by_id.get(&id)) else {
            continue;
        };
        let no_money = told.from_record && told.status == 402;
        let came_back = told.kind == "cancelled, done";
        if !no_money && !came_back {
            continue;
        }
        let taken = match call.act {
            Act::FollowUp { .. } => effects(view, operation).count() > 0,
            _ if is_follow_up(operation.verb) => effects(view, operation).count() > 0,
            _ => {
                let position = view.evidence.books.position(operation.reference.as_str());
                position.net != 0 || position.held != 0
            }
        };
        if taken {
            let invariant = if came_back {
                CancelledIsGone
            } else {
                NoSilentFailure
            };
            say(
                found,
                invariant,
                format!("{}: told {} {}", name(operation), told.status, told.kind),
            );
            return;
        }
    }
}

/// Money in the books that no operation owns.
fn unknown_money(view: &View<'_>, found: &mut Vec<Violation>) {
    for (reference, position) in &view.evidence.books.positions {
        let known = view.by_reference.contains_key(reference.as_str());
        if !known && (position.net != 0 || position.held != 0) {
            say(
                found,
                NoSilentFailure,
                format!("{reference}, which no record has: {position:?}"),
            );
        }
    }
}
