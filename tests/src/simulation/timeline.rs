//! A history in words, for whoever asks why a seed failed.

use std::fmt::Write as _;
use std::time::Duration;

use gateway_core::operation::StateName;
use gateway_core::store::{Event, EventKind};

use super::checker::Evidence;
use super::log::{Act, Entry, Heard, What};
use super::plan::Plan;
use super::replica::START;

/// Everything that happened, by time; what the ledger wrote stands among it.
pub(super) fn write(evidence: &Evidence) -> String {
    let mut out = String::new();
    head(&mut out, &evidence.plan);
    let mut lines: Vec<(Duration, u8, String)> = Vec::new();
    for event in &evidence.events {
        lines.push((event.at.since(START), 0, of_ledger(evidence, event)));
    }
    for entry in &evidence.entries {
        lines.push((entry.at, 1, of_log(evidence, entry)));
    }
    // What the log notes at one instant keeps its order; the ledger's part of that instant stands before it.
    lines.sort_by_key(|(at, rank, _)| (*at, *rank));
    for (at, _, line) in lines {
        let _ = writeln!(out, "{:>9.3}  {line}", at.as_secs_f64());
    }
    out
}

fn head(out: &mut String, plan: &Plan) {
    let _ = writeln!(
        out,
        "seed {}: {} replicas, {:?}\n{:?}\n{:?}, calm at {:?}",
        plan.seed, plan.replicas, plan.figures, plan.account, plan.odds, plan.calm_at
    );
    if let Some(ambush) = &plan.ambush {
        let _ = writeln!(out, "{ambush:?}");
    }
    for spell in &plan.spells {
        let _ = writeln!(out, "{spell:?}");
    }
    for (at, blow) in &plan.blows {
        let _ = writeln!(out, "{at:?}: {blow:?}");
    }
}

fn of_ledger(evidence: &Evidence, event: &Event) -> String {
    let state = |state: Option<StateName>| state.map_or("-", StateName::as_str);
    let operation = evidence
        .operations
        .iter()
        .find(|operation| operation.id == event.operation);
    let key = operation.map_or("?", |operation| operation.key.as_str());
    let what = match event.kind {
        EventKind::Transition => format!("{} → {}", state(event.from), state(event.to)),
        kind => kind.as_str().to_owned(),
    };
    format!(
        "    ledger {:>4}  {key} ({})  {what}  ({})",
        event.cursor.transaction,
        event.verb.as_str(),
        event.reason
    )
}

fn of_log(evidence: &Evidence, entry: &Entry) -> String {
    match &entry.what {
        What::Asked {
            call,
            key,
            act,
            place,
            wait,
        } => {
            let what = match act {
                Act::Create { verb, minor } | Act::FollowUp { verb, minor } => {
                    format!("{} of {minor}", verb.as_str())
                }
                Act::Reuse => "another request".to_owned(),
                Act::Cancel => "cancel".to_owned(),
                Act::Read => "read".to_owned(),
            };
            format!("call {call}: {key}: {what}, at {place}, waits {wait:?}")
        }
        What::Told { call, told } => {
            let again = if told.replayed { ", again" } else { "" };
            format!("call {call}: told {} {}{again}", told.status, told.kind)
        }
        What::HungUp { call } => format!("call {call}: hung up"),
        What::Lost { call } => format!("call {call}: nobody there"),
        What::Sent(sent) => {
            let reference = sent.sequence.as_deref().or(sent.parent.as_deref());
            let of = reference.and_then(|reference| key_of(evidence, reference));
            format!(
                "  send {}: {} by {} {}",
                sent.sending,
                sent.label,
                sent.place,
                of.unwrap_or_else(|| reference.unwrap_or("").to_owned())
            )
        }
        What::Gated { place, label } => format!("  {place} may not send {label}"),
        What::Delivered {
            sending,
            status,
            late,
        } => {
            let late = if *late { ", late" } else { "" };
            format!("    processor: send {sending} delivered, {status}{late}")
        }
        What::Heard { sending, heard } => match heard {
            Heard::Answer(status) => format!("  send {sending}: answered {status}"),
            Heard::TimedOut => format!("  send {sending}: no answer in time"),
            Heard::Closed => format!("  send {sending}: closed"),
        },
        What::Struck { fault, place } => match place {
            Some(place) => format!("  fault: {} at {place}", fault.name()),
            None => format!("  fault: {}", fault.name()),
        },
        What::Stopped(place) => format!("{place} stands still"),
        What::WentOn(place) => format!("{place} goes on"),
        What::Crashed(place) => format!("{place} is dead"),
        What::Started(place) => format!("{place} starts"),
        What::BatchClosed => "processor: batch closed".to_owned(),
        What::Calm => "calm".to_owned(),
    }
}

fn key_of(evidence: &Evidence, reference: &str) -> Option<String> {
    let plain = reference.trim_end_matches('R');
    let operation = evidence
        .operations
        .iter()
        .find(|operation| [reference, plain].contains(&operation.reference.as_str()));
    operation.map(|operation| format!("of {}", operation.key))
}
