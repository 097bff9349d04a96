//! What left the replicas: only what was recorded and counted, never against a known cancellation, never in circles.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_core::key::OperationId;
use gateway_core::operation::{StateName, Verb};
use gateway_core::store::EventKind;

use super::super::log::{Act, Heard};
use super::Invariant::{
    AdoptedIsNotSent, CancelledIsNotSent, HeldAnswerStands, OneRepeatPer401, RecordedBeforeSent,
    SentWhileWaitedFor,
};
use super::answers::stood_still;
use super::{CallView, SendView, View, Violation, name, say};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Violation>) {
    let mut of: BTreeMap<OperationId, Vec<&SendView<'_>>> = BTreeMap::new();
    for send in view.sends.iter().filter(|send| send.sent.moves_money) {
        match view.operation_of(send.sent) {
            Some(operation) => of.entry(operation.id).or_default().push(send),
            None => say(
                found,
                RecordedBeforeSent,
                format!(
                    "{} of {:?} has no record at all",
                    send.sent.label, send.sent.sequence
                ),
            ),
        }
    }
    for (operation, sends) in &of {
        counted(view, *operation, sends, found);
        not_adopted(view, *operation, sends, found);
    }
    while_waited_for(view, found);
    not_cancelled(view, found);
    held_answers(view, found);
}

/// Each send was committed as a count before its first byte; after a 401 it may be repeated once.
fn counted(
    view: &View<'_>,
    operation: OperationId,
    sends: &[&SendView<'_>],
    found: &mut Vec<Violation>,
) {
    let mut uncounted = 0;
    let mut repeats = 0;
    let mut counts_before = 0;
    for (number, send) in sends.iter().enumerate() {
        let counts = counts(view, operation, send);
        let refused = |before: &&SendView<'_>| {
            before.sent.place == send.sent.place
                && matches!(before.heard, Some((order, Heard::Answer(401), _)) if order < send.order)
        };
        let after_401 = number > 0 && refused(&sends[number - 1]);
        if after_401 && counts == counts_before {
            repeats += 1;
            if repeats > 1 {
                let detail = format!("{}: repeated again", name(view.by_id[&operation]));
                say(found, OneRepeatPer401, detail);
                return;
            }
            continue;
        }
        counts_before = counts;
        repeats = 0;
        uncounted += 1;
        if uncounted > counts {
            say(
                found,
                RecordedBeforeSent,
                format!(
                    "{}: send {uncounted} by {} at {:?}, of which the ledger had {counts}",
                    name(view.by_id[&operation]),
                    send.sent.place,
                    send.at
                ),
            );
            return;
        }
    }
}

/// How many sends of the operation the ledger had counted when this one left: its claims, and what was counted since.
fn counts(view: &View<'_>, operation: OperationId, send: &SendView<'_>) -> usize {
    let counted = view.evidence.events.iter().filter(|event| {
        event.operation == operation
            // A count that was taken back.
            && event.reason != "did not leave"
            && event.cursor.transaction <= send.sent.committed
            && (event.kind == EventKind::Send
                || event.kind == EventKind::Transition && event.to == Some(StateName::Recorded))
    });
    counted.count()
}

/// Before anybody may adopt an operation, its owner has stopped sending it.
fn not_adopted(
    view: &View<'_>,
    operation: OperationId,
    sends: &[&SendView<'_>],
    found: &mut Vec<Violation>,
) {
    for send in sends {
        let mut before = view.evidence.events.iter().rev().filter(|event| {
            event.operation == operation && event.cursor.transaction <= send.sent.committed
        });
        let last = before.find(|event| {
            matches!(event.kind, EventKind::Send | EventKind::Adopted)
                || event.to == Some(StateName::Recorded)
        });
        if last.is_some_and(|event| event.kind == EventKind::Adopted) {
            let operation = name(view.by_id[&operation]);
            let detail = format!("{operation}: sent by {} at {:?}", send.sent.place, send.at);
            say(found, AdoptedIsNotSent, detail);
        }
    }
}

/// A create leaves while somebody at that replica waits for it, and not later.
fn while_waited_for(view: &View<'_>, found: &mut Vec<Violation>) {
    for send in &view.sends {
        if !matches!(send.sent.label, "POST /sales" | "POST /AuthOnlys") {
            continue;
        }
        let Some(operation) = view.operation_of(send.sent) else {
            continue;
        };
        let waits = |call: &&CallView<'_>| {
            let until = call.asked_at + call.wait;
            call.key.as_ref() == operation.key.as_str()
                && call.place == send.sent.place
                && (send.at <= until || stood_still(view, call, send.at))
        };
        if !view.calls.iter().any(|call| waits(&call)) {
            let detail = format!("{}: sent at {:?}", name(operation), send.at);
            say(found, SentWhileWaitedFor, detail);
        }
    }
}

fn not_cancelled(view: &View<'_>, found: &mut Vec<Violation>) {
    for call in view.calls.iter().filter(|call| call.act == Act::Cancel) {
        let Some((told, answer, _)) = call.told else {
            continue;
        };
        let Some(operation) = view.by_key.get(&**call.key) else {
            continue;
        };
        if answer.status != 201 {
            continue;
        }
        let creates = view.sends.iter().filter(|send| {
            matches!(send.sent.label, "POST /sales" | "POST /AuthOnlys")
                && send.sent.sequence.as_deref() == Some(operation.reference.as_str())
        });
        for send in creates {
            if send.sent.place == call.place && send.order > told {
                say(
                    found,
                    CancelledIsNotSent,
                    format!(
                        "{}: sent by {} after it had cancelled it",
                        call.key, call.place
                    ),
                );
            }
        }
    }
}

/// How long a live replica may take to write down what it heard: less than others must wait before they may think it silent.
const WRITING: Duration = Duration::from_millis(4_500);

/// An approval that was heard by a replica in good health is what its caller is told.
fn held_answers(view: &View<'_>, found: &mut Vec<Violation>) {
    for send in &view.sends {
        let Some((_, Heard::Answer(200), heard_at)) = send.heard else {
            continue;
        };
        if !matches!(send.sent.label, "POST /sales" | "POST /AuthOnlys") {
            continue;
        }
        let Some(operation) = view.operation_of(send.sent) else {
            continue;
        };
        let sending = u64::try_from(send.sent.sending).unwrap_or(u64::MAX);
        let approved = view.evidence.books.entries.iter().any(|entry| {
            entry.request == sending
                && entry.is_approved()
                && entry.approved == operation.amount.minor()
        });
        let undone = operation.state.name() == StateName::Reversed;
        let mut written = heard_at + WRITING;
        for outage in view.outages() {
            if outage.from <= written && outage.to >= send.at {
                written = written.max(outage.to + WRITING);
            }
        }
        let healthy = !view.was_troubled(send.sent.place, send.at, written);
        if approved
            && undone
            && healthy
            && operation.cancel_requested_at.is_none()
            && answer_was_theirs(view, send)
            && operation.verb != Verb::Verify
        {
            say(
                found,
                HeldAnswerStands,
                format!(
                    "{}: {} had its approval at {heard_at:?}",
                    name(operation),
                    send.sent.place
                ),
            );
        }
    }
}

/// No fault bent the answer itself.
fn answer_was_theirs(view: &View<'_>, send: &SendView<'_>) -> bool {
    use super::super::faults::FaultKind::{
        CommitThen500, CommitThenCode, CommitThenGarbage, CommitThenStatus, PartialApproval,
        Redirect308, Route404,
    };
    use super::super::log::What;
    // A strike is noted right before the send that it strikes.
    let before = send
        .order
        .checked_sub(1)
        .map(|order| &view.evidence.entries[order].what);
    !matches!(
        before,
        Some(What::Struck {
            fault: CommitThen500
                | CommitThenCode
                | CommitThenGarbage
                | CommitThenStatus
                | PartialApproval
                | Redirect308
                | Route404,
            ..
        })
    )
}
