//! What is compared in the end of a cell: the books, when it was told what, under which attempt, and what was sent.

use std::time::Duration;

use gateway_core::clock::Timestamp;
use gateway_core::connector::{CallEvidence, Ended};
use gateway_core::operation::{Failure, State, StateName};
use gateway_core::store::{Event, EventKind, Operation};
use sandbox::simulators::connexpay::Position;
use sandbox::simulators::{Fault, Kind, RequestRecord};

use super::act::{Act, CAPTURED};
use super::cells::{Cell, Effect, Final};
use super::stage::{Answer, Stage};

/// By how much the first answer may exceed the caller's wait: a second for a last read of the ledger, a quarter of one in
/// which a task that gives up at the end of the wait is still heard. Not the product's own numbers: they are judged by these.
const EXCESS_MAX: Duration = Duration::from_millis(1_000 + 250);

impl Cell {
    /// Whether the books hold this cell's operation so often, and nothing else of the payment.
    pub(super) fn holds(&self, effect: Effect, end: Final, position: &Position) -> bool {
        let times = u64::from(effect != Effect::Nothing);
        let undone = u64::from(effect == Effect::Undone);
        let returned = u64::from(effect == Effect::Returned);
        let kept = matches!(effect, Effect::Once | Effect::Half);
        let half = if effect == Effect::Half { 2 } else { 1 };
        let (whole, part) = (self.whole, self.part / half);
        let of = |yes: bool, minor: i64| if yes { minor } else { 0 };
        let captured = Position {
            authorizations: 1,
            captures: 1,
            sales: 1,
            ..Position::default()
        };
        let wanted = match self.act {
            Act::Sale => Position {
                sales: times,
                voids: undone,
                returns: returned,
                net: of(kept, whole),
                ..Position::default()
            },
            Act::Authorize => Position {
                authorizations: times,
                voids: undone,
                held: of(kept, whole),
                ..Position::default()
            },
            Act::Capture => Position {
                authorizations: 1,
                captures: times,
                sales: times,
                net: of(kept, part),
                held: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidSale | Act::RefundUnsettled => Position {
                sales: 1,
                voids: times,
                net: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidHold => Position {
                authorizations: 1,
                voids: times,
                held: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidCaptured => Position {
                voids: times,
                net: of(!kept, CAPTURED),
                ..captured
            },
            Act::Refund => Position {
                sales: 1,
                returns: times,
                net: whole - of(kept, part),
                ..Position::default()
            },
            Act::RefundCaptured => Position {
                returns: times,
                net: CAPTURED - of(kept, part),
                ..captured
            },
        };
        *position
            == Position {
                // A refusal is recorded, and moves no money.
                declines: u64::from(end == Final::Declined),
                ..wanted
            }
    }

    /// The fault changed what the processor's first answer was taken for: one that only was noted down would not have.
    pub(super) fn compare_strike(
        &self,
        stage: &Stage,
        timeline: &[Event],
        wrong: &mut Vec<String>,
    ) {
        let Some(fault) = self.fault.as_ref() else {
            return;
        };
        let config = &stage.world.config;
        if config.resend_identical && self.act.is_create() {
            return; // It is the second send that was answered. Sends are counted.
        }
        let timeout = Duration::from_secs(stage.pace.timeout).as_millis();
        let struck = match fault.fault {
            Kind::Http429 if config.trust_429 => StateName::NotSent,
            Kind::Decline422 | Kind::Decline2xx => StateName::Declined,
            Kind::TokenExpired => StateName::Approved,
            Kind::SlowDrip if u128::from(fault.delay_ms.unwrap_or_default()) < timeout => {
                StateName::Approved
            }
            _ => StateName::Unknown,
        };
        let mut ends = timeline
            .iter()
            .filter(|event| event.from == Some(StateName::Recorded))
            .filter_map(|event| event.to)
            // Given back, by a machine that stood still.
            .filter(|to| *to != StateName::NotSent || struck == StateName::NotSent);
        let first = ends.next();
        if first != Some(struck) {
            wrong.push(format!("{} left it {first:?}", fault.fault.name()));
        }
    }

    /// Past the horizon, the first check that is answered to the end is the last; but for one that was under way already,
    /// and for what was parked because the answers told too little.
    fn compare_checks(horizon: Timestamp, timeline: &[Event], wrong: &mut Vec<String>) {
        if timeline
            .iter()
            .any(|event| event.to == Some(StateName::Parked))
        {
            return;
        }
        let answered = |check: &&Event| {
            let calls: Vec<CallEvidence> =
                serde_json::from_value(check.evidence["calls"].clone()).expect("evidence");
            let mut calls = calls.iter().peekable();
            calls.peek().is_some()
                && calls.all(|call| call.at >= horizon && call.ended == Ended::Complete)
        };
        let checks = timeline
            .iter()
            .filter(|event| event.kind == EventKind::Checked);
        for check in checks.filter(answered).skip(1) {
            let (at, reason) = (check.at, &check.reason);
            wrong.push(format!("asked at {at}, past {horizon}, in vain: {reason}"));
        }
    }

    /// Callers are not kept past their wait, and nothing is called failed before it can no longer happen, nor after the time
    /// that the first caller was told.
    pub(super) fn compare_time(
        &self,
        stage: &Stage,
        record: &Operation,
        timeline: &[Event],
        wrong: &mut Vec<String>,
    ) {
        let wait = Duration::from_secs(stage.pace.wait);
        let Answer {
            took, stood_still, ..
        } = *self.first();
        if took > wait + EXCESS_MAX + stood_still {
            wrong.push(format!("the first answer came after {took:?}"));
        }
        let drips = |kind| kind == Kind::SlowDrip;
        if let Some(fault) = self.fault.as_ref().filter(|fault| drips(fault.fault)) {
            let delay = Duration::from_millis(fault.delay_ms.expect("a drip takes time"));
            // The last byte comes a step before the end.
            if took < (delay / 2).min(Duration::from_secs(stage.pace.timeout)) {
                wrong.push(format!("nothing dripped: it took {took:?}"));
            }
        }
        let State::Failed { failure } = &record.state else {
            return;
        };
        if *failure != Failure::DidNotHappen {
            wrong.push(format!("failed as {failure:?}"));
        }
        let settled = record.settled_at.expect("final");
        if settled < record.late_after {
            let horizon = record.late_after;
            wrong.push(format!(
                "failed at {settled}, and could arrive until {horizon}"
            ));
        }
        if settled > record.resolves_by() {
            let resolves_by = record.resolves_by();
            wrong.push(format!("failed at {settled}, and was due by {resolves_by}"));
        }
        Self::compare_checks(record.late_after, timeline, wrong);
        let promised = self.first().reply.body["resolves_by"].as_str();
        let promised = promised.map(|text| Timestamp::parse(text).expect("an instant"));
        // A repeat moves the end of a follow-up.
        if self.act.is_create() && promised.is_none_or(|promised| settled > promised) {
            wrong.push(format!("failed at {settled}, and promised by {promised:?}"));
        }
    }

    /// Each attempt but the last was given back, and all of them carry one reference.
    pub(super) fn compare_attempts(
        &self,
        record: &Operation,
        timeline: &[Event],
        wrong: &mut Vec<String>,
    ) {
        let given_back = timeline
            .iter()
            .filter(|event| event.to == Some(StateName::NotSent));
        let given_back = u32::try_from(given_back.count()).expect("few");
        if record.attempt != given_back + 1 {
            let attempt = record.attempt;
            wrong.push(format!("attempt {attempt}, and {given_back} given back"));
        }
        if self.first().reply.status != 503 {
            return;
        }
        if self.first().reply.problem() != "upstream-unavailable" {
            wrong.push(format!("first answer {}", self.first().reply.problem()));
        }
        let Some(before) = &self.given_back else {
            // What has to be asked first is not recorded where nobody can be asked.
            if self.act.is_create() {
                wrong.push("503, and no record".to_owned());
            }
            return;
        };
        if before.reference != record.reference || (before.attempt, given_back) == (1, 0) {
            let (one, two) = (&before.reference, &record.reference);
            wrong.push(format!("given back as {one}, and sent as {two}"));
        }
    }

    /// The fault struck; nothing is sent again on a guess; what is sent again was counted first, under the same reference.
    pub(super) fn compare_sends(
        &self,
        stage: &Stage,
        record: &Operation,
        sends_max: usize,
        wrong: &mut Vec<String>,
    ) {
        let received = stage.connexpay().requests_of(self.act.verb());
        let mine: Vec<_> = received
            .iter()
            .filter(|record| self.is_mine(record))
            .collect();
        let struck = |fault: &Fault| {
            let name = fault.fault.name();
            mine.iter().any(|one| {
                one.fault.as_ref() == Some(&name)
                    && (fault.fault != Kind::TokenExpired || one.status == Some(401))
            })
        };
        if let Some(fault) = &self.fault
            && !struck(fault)
        {
            wrong.push(format!("{} did not strike", fault.fault.name()));
        }
        // A refusal that proves "not executed" is no send.
        let trust_429 = stage.world.config.trust_429;
        let proven = |record: &&&RequestRecord| {
            record.status == Some(401) || record.status == Some(429) && trust_429
        };
        let sent = mine.len() - mine.iter().filter(proven).count();
        if !(1..=sends_max).contains(&sent) {
            wrong.push(format!("sent {sent} times"));
        }
        if sent > usize::try_from(record.sends).expect("few") {
            wrong.push(format!("sent {sent} times, and counted {}", record.sends));
        }
        let reference = record.reference.as_str();
        for one in &mine {
            let carried = one
                .sequence_number
                .as_deref()
                .or(one.order_number.as_deref());
            if carried != Some(reference) {
                wrong.push(format!("{reference} was sent as {carried:?}"));
            }
        }
    }
}

/// The positions of a cell in one line.
pub(super) fn brief(position: &Position) -> String {
    let Position {
        net,
        held,
        sales,
        authorizations,
        captures,
        voids,
        returns,
        declines,
    } = position;
    format!(
        "net {net} held {held} ({sales} sales, {authorizations} authorizations, {captures} captures, {voids} voids, \
         {returns} returns, {declines} declines)"
    )
}
