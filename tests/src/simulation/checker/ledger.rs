//! The ledger by itself, as it ended: everything final, entries in balance, nothing reserved for nobody.

use std::collections::BTreeMap;

use gateway_core::ledger::Side;
use gateway_core::operation::{ParkedReason, State, StateName, Verb};
use gateway_core::store::Operation;

use super::Invariant::{AllFinal, EntriesBalance, NothingReserved};
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
        State::Approved { .. } => {
            let reversal = view.reversals.get(&operation.id);
            operation.cancel_requested_at.is_some()
                && reversal.is_some_and(|reversal| reversal.state.name() == StateName::Parked)
        }
        _ => false,
    }
}

/// Whether another approved transaction of its kind was there to try the search on.
fn has_control(view: &View<'_>, operation: &Operation) -> bool {
    view.evidence.operations.iter().any(|other| {
        other.id != operation.id
            && other.verb == operation.verb
            && other.state.name() == StateName::Approved
    })
}
