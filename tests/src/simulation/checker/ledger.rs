//! The ledger by itself, as it ended: everything final, entries in balance, nothing reserved for nobody.

use std::collections::BTreeMap;

use gateway_core::ledger::Side;
use gateway_core::operation::{ParkedReason, State, StateName, Verb};
use gateway_core::payment::PaymentStatus;
use gateway_core::store::{EventCursor, EventKind, Operation};

use super::Invariant::{AllFinal, EntriesBalance, NothingReserved, OncePerOrder};
use super::{View, Violation, is_over, name, say};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Violation>) {
    for operation in &view.evidence.operations {
        if operation.reverses.is_none() && !is_over(operation) && !may_wait(view, operation) {
            say(
                found,
                AllFinal,
                format!(
                    "{}: {:?}, due {:?}",
                    name(operation),
                    operation.state,
                    operation.due_at
                ),
            );
        }
    }
    for operation in &view.evidence.operations {
        let waits = operation.reverses.is_none() && operation.verb.is_create();
        let cancelled = operation.cancel_requested_at.is_some();
        if waits && cancelled && !is_over(operation) && !is_told_of_review(view, operation) {
            let detail = format!("{} waits, and nobody is told of a person", name(operation));
            say(found, AllFinal, detail);
        }
    }
    for reversal in view.reversals.values() {
        let of = reversal.reverses.and_then(|of| view.by_id.get(&of));
        if !is_over(reversal) && of.is_some_and(|of| is_over(of)) {
            let detail = format!("the reversal of {}: {:?}", name(reversal), reversal.state);
            say(found, AllFinal, detail);
        }
    }
    once_per_order(view, found);
    let mut sums: BTreeMap<_, i64> = BTreeMap::new();
    for posting in &view.evidence.postings {
        let minor = match posting.entry.side {
            Side::Debit => posting.entry.minor,
            Side::Credit => -posting.entry.minor,
        };
        *sums.entry(posting.operation).or_default() += minor;
    }
    for (operation, sum) in sums {
        if sum != 0 {
            say(found, EntriesBalance, format!("{operation}: {sum}"));
        }
    }
    for payment in &view.evidence.payments {
        let mut of = view
            .evidence
            .operations
            .iter()
            .filter(|operation| operation.payment == Some(payment.id));
        let reserves = payment.capture_reserved != 0
            || payment.refund_reserved != 0
            || payment.busy_with.is_some();
        if reserves && of.all(is_over) {
            say(found, NothingReserved, format!("{payment:?}"));
        }
    }
}

/// A create that asked to be the only one of its order was not recorded beside another that stood from then on.
fn once_per_order(view: &View<'_>, found: &mut Vec<Violation>) {
    let creates = view.evidence.plan.wishes.iter().filter_map(|wish| {
        let operation = view.by_key.get(&*wish.key)?;
        Some((wish, operation, recorded(view, operation)?))
    });
    let creates: Vec<_> = creates.collect();
    for (wish, operation, at) in &creates {
        let beside = creates.iter().find(|(other, standing, before)| {
            // A verification moves nothing: it is nobody's duplicate.
            wish.once_per_order
                && wish.verb != Verb::Verify
                && other.key != wish.key
                && other.order == wish.order
                && before < at
                && stands(view, standing)
        });
        if let Some((other, ..)) = beside {
            let detail = format!("{} beside {}", name(operation), other.key);
            say(found, OncePerOrder, detail);
        }
    }
}

/// When the key was claimed for the last time.
fn recorded(view: &View<'_>, operation: &Operation) -> Option<EventCursor> {
    let claims = view.evidence.events.iter().filter(|event| {
        event.operation == operation.id
            && event.kind == EventKind::Transition
            && event.to == Some(StateName::Recorded)
    });
    claims.map(|event| event.cursor).max()
}

fn stands(view: &View<'_>, operation: &Operation) -> bool {
    use PaymentStatus::{Authorized, Captured, PartiallyRefunded};
    let payment = operation.payment.and_then(|id| view.payments.get(&id));
    operation.state.name() == StateName::Approved
        && payment.is_some_and(|payment| {
            matches!(payment.status, Authorized | Captured | PartiallyRefunded)
        })
}

/// What no machine can decide waits for a person: books that changed otherwise than this operation explains, a reversal that
/// was refused or must not be sent again, and a "not found" where no other transaction shows that the search finds any. Never
/// for lack of answers: the processor answers by now.
fn may_wait(view: &View<'_>, operation: &Operation) -> bool {
    let verb = operation.verb;
    match &operation.state {
        State::Parked { parked } => match parked {
            ParkedReason::NoAnswer => verb.is_create() && !has_control(view, operation),
            ParkedReason::Contradiction { .. } => verb != Verb::Verify,
            ParkedReason::ReversalFailed { .. } => verb.is_create(),
        },
        // Its reversal waits for a person, or a follow-up that keeps what should be returned.
        State::Approved { .. } => {
            let is_parked = |of: &&Operation| of.state.name() == StateName::Parked;
            let reversal = view.reversals.get(&operation.id).copied();
            let mut follow_ups = view.evidence.operations.iter().filter(|of| {
                of.payment == operation.payment && of.verb.is_follow_up() && may_wait(view, of)
            });
            operation.cancel_requested_at.is_some()
                && (reversal.as_ref().is_some_and(is_parked) || follow_ups.any(|of| is_parked(&of)))
        }
        _ => false,
    }
}

/// Whether the last word on a cancelled key that waits for a person says so.
fn is_told_of_review(view: &View<'_>, operation: &Operation) -> bool {
    let calls = view.calls.iter();
    let of = calls.filter(|call| call.key.as_ref() == operation.key.as_str());
    let last = of
        .filter_map(|call| call.told)
        .max_by_key(|(order, ..)| *order);
    last.is_none_or(|(_, told, _)| told.kind == "cancelled, needs review")
}

/// Whether another approved transaction of its kind was there to try the search on: two checks followed its approval, of
/// which the second began after it.
fn has_control(view: &View<'_>, operation: &Operation) -> bool {
    let events = &view.evidence.events;
    let checks = events.iter().rev().filter(|event| {
        event.operation == operation.id
            && (event.kind == EventKind::Checked || event.to == Some(StateName::Parked))
    });
    let Some(last_but_one) = checks.map(|event| event.cursor).nth(1) else {
        return false;
    };
    view.evidence.operations.iter().any(|other| {
        other.id != operation.id
            && other.verb == operation.verb
            && other.state.name() == StateName::Approved
            && events.iter().any(|event| {
                event.operation == other.id
                    && event.to == Some(StateName::Approved)
                    && event.cursor < last_but_one
            })
    })
}
