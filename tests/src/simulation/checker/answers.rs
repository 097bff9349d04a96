//! What callers were told: the same about one key for ever, in time, and never the opposite of what became of the money.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::log::{Act, Told};
use super::Invariant::{
    AnswersAgree, CancelledIsGone, FairWeatherServes, ReusedKeyRefused, WaitersAnswered,
};
use super::{CallView, View, Violation, say};

/// After the end of its wait a caller is told at the latest: the last reads have a second each.
const HEARING: Duration = Duration::from_millis(2_500);

pub(super) fn check(view: &View<'_>, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<&str, Vec<&CallView<'_>>> = BTreeMap::new();
    for call in &view.calls {
        by_key.entry(call.key).or_default().push(call);
        in_time(view, call, found);
        if view.evidence.plan.is_fair() {
            served(call, found);
        }
    }
    for (key, calls) in by_key {
        agree(key, &calls, found);
        stays_cancelled(key, &calls, found);
        only_if_cancelled(key, &calls, found);
        reuse_is_refused(key, &calls, found);
    }
}

fn is_post(act: Act) -> bool {
    matches!(act, Act::Create { .. } | Act::FollowUp { .. })
}

/// A final answer is the last word: every later answer from the record is the same, to the byte.
fn agree(key: &str, calls: &[&CallView<'_>], found: &mut Vec<Violation>) {
    let mut told: Vec<(usize, usize, &Told)> = calls
        .iter()
        .filter(|call| is_post(call.act) || call.act == Act::Read)
        .filter_map(|call| call.told.map(|(order, told, _)| (order, call.asked, told)))
        .collect();
    told.sort_by_key(|(order, _, _)| *order);
    let is_final = |told: &Told| told.from_record && matches!(told.status, 201 | 402);
    let Some(&(at, _, first)) = told.iter().find(|(_, _, told)| is_final(told)) else {
        return;
    };
    for (_, asked, later) in &told {
        let same =
            (first.status, first.kind, &first.body) == (later.status, later.kind, &later.body);
        let gone = later.status == 410;
        if is_final(later) && !same && !gone {
            say(
                found,
                AnswersAgree,
                format!("{key}: {first:?}, and then {later:?}"),
            );
        }
        // Asked after the end was told: what is known is answered from the record.
        let opposite = matches!(later.status, 504 | 404 | 409 | 422)
            || later.status == 503 && later.kind != "ledger-unavailable";
        if *asked > at && opposite {
            say(
                found,
                AnswersAgree,
                format!(
                    "{key}: told {}, and asked again told {} {}",
                    first.status, later.status, later.kind
                ),
            );
        }
    }
}

/// After a cancellation was answered, every answer to its key is 410.
fn stays_cancelled(key: &str, calls: &[&CallView<'_>], found: &mut Vec<Violation>) {
    let cancelled = calls
        .iter()
        .filter(|call| call.act == Act::Cancel)
        .filter_map(|call| call.told)
        .filter(|(_, told, _)| told.status == 201)
        .map(|(order, _, _)| order)
        .min();
    let Some(cancelled) = cancelled else { return };
    for call in calls.iter().filter(|call| call.asked > cancelled) {
        let Some((_, told, _)) = call.told else {
            continue;
        };
        let gone = match call.act {
            Act::Cancel => told.status == 201 || told.status == 503,
            _ => told.status == 410 || told.kind == "ledger-unavailable",
        };
        if !gone {
            say(
                found,
                CancelledIsGone,
                format!(
                    "{key}: cancelled, and then told {} {}",
                    told.status, told.kind
                ),
            );
        }
    }
}

/// Nobody is told that a key is gone before somebody asked to cancel it.
fn only_if_cancelled(key: &str, calls: &[&CallView<'_>], found: &mut Vec<Violation>) {
    let wished = calls.iter().filter(|call| call.act == Act::Cancel);
    let wished = wished.map(|call| call.asked).min().unwrap_or(usize::MAX);
    for call in calls {
        if let Some((order, told, _)) = call.told
            && told.status == 410
            && order < wished
        {
            let detail = format!("{key}: told {}, and nobody cancelled it", told.kind);
            say(found, AnswersAgree, detail);
        }
    }
}

/// The same key with another request is refused, whatever became of the first.
fn reuse_is_refused(key: &str, calls: &[&CallView<'_>], found: &mut Vec<Violation>) {
    for call in calls.iter().filter(|call| call.act == Act::Reuse) {
        let Some((_, told, _)) = call.told else {
            continue;
        };
        if !matches!(told.status, 422 | 410 | 503) {
            say(
                found,
                ReusedKeyRefused,
                format!(
                    "{key}: with another amount told {} {}",
                    told.status, told.kind
                ),
            );
        }
    }
}

fn in_time(view: &View<'_>, call: &CallView<'_>, found: &mut Vec<Violation>) {
    if !is_post(call.act) && call.act != Act::Cancel {
        return;
    }
    let latest = call.asked_at + call.wait + HEARING;
    let told_at = call.told.map(|(_, _, at)| at);
    let late = told_at.is_none_or(|at| at > latest);
    // Whoever left was not there to be told; whose machine stood still could not be.
    if late && !(call.gone && told_at.is_none()) && !stood_still(view, call, latest) {
        say(
            found,
            WaitersAnswered,
            format!(
                "{}: asked at {:?} to wait {:?}, told at {told_at:?}",
                call.key, call.asked_at, call.wait
            ),
        );
    }
}

/// Whether the machine that was asked stood still at some time from then until `latest`.
pub(super) fn stood_still(view: &View<'_>, call: &CallView<'_>, latest: Duration) -> bool {
    use super::super::plan::Trouble::Stopped;
    view.evidence.plan.spells.iter().any(|spell| {
        spell.what == Stopped
            && spell.replica == Some(call.place.replica)
            && spell.from <= latest
            && spell.to >= call.asked_at
    })
}

/// Without any fault the first answer is the last.
fn served(call: &CallView<'_>, found: &mut Vec<Violation>) {
    let Act::Create { .. } = call.act else { return };
    let Some((_, told, _)) = call.told else {
        say(
            found,
            FairWeatherServes,
            format!("{}: not answered", call.key),
        );
        return;
    };
    // A short wait may end before the processor's answer; a create of the same order may stand.
    let served = matches!(told.status, 201 | 402 | 410) || told.kind == "possible-duplicate";
    if !served && call.wait >= Duration::from_secs(2) {
        say(
            found,
            FairWeatherServes,
            format!("{}: told {} {}", call.key, told.status, told.kind),
        );
    }
}
