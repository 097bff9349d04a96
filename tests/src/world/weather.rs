//! The weather: every fault that a processor may have by chance, on whatever is sent to it.

use std::time::Duration;

use crate::simulators::connexpay::verb;
use crate::simulators::{Fault, Kind};

/// What may strike a request that moves money, and how often of a hundred times in a storm.
const OF_MONEY: &[(Kind, u8)] = &[
    (Kind::ResetBeforeRead, 5),
    (Kind::HangBeforeCommit, 4),
    (Kind::CommitThenHang, 6),
    (Kind::CommitThenReset, 6),
    (Kind::CommitThenTruncate, 5),
    (Kind::CommitThen500, 5),
    (Kind::CommitThenCode, 4),
    (Kind::CommitThenGarbage, 4),
    (Kind::CommitThenStatus, 4),
    (Kind::CommitLate, 8),
    (Kind::Http500, 4),
    (Kind::Http429, 3),
    (Kind::SlowDrip, 4),
    (Kind::Decline422, 3),
    (Kind::Decline2xx, 3),
];

/// And a create. A follow-up that is done in part waits for a person, and keeps its payment until then.
const OF_A_CREATE: &[(Kind, u8)] = &[(Kind::PartialApproval, 4)];

/// And a question, or a reversal.
const OF_ASKING: &[(Kind, u8)] = &[
    (Kind::ResetBeforeRead, 5),
    (Kind::CommitThenHang, 5),
    (Kind::CommitThenReset, 8),
    (Kind::CommitThenTruncate, 5),
    (Kind::CommitThen500, 8),
    (Kind::CommitThenGarbage, 5),
    (Kind::Route404, 5),
];

/// `share` of the storm in which about half of all sends meet a fault (1: all of it). What is late or slow is so for a
/// gateway that waits `timeout` for an answer.
pub fn weather(share: f64, timeout: Duration) -> Vec<Fault> {
    let creates = [verb::SALE, verb::AUTH_ONLY];
    let follow_ups = [verb::CAPTURE, verb::VOID, verb::RETURN];
    let asking = [verb::TIMEOUT_REVERSAL, verb::SEARCH, verb::READ];
    let fault = |verb, (kind, chance): &(Kind, u8)| {
        let fault = Fault::on(*kind, verb).probability(share * f64::from(*chance) / 100.0);
        match kind {
            Kind::CommitLate => fault.delay(timeout.mul_f64(1.7)),
            Kind::SlowDrip => fault.delay(timeout.mul_f64(1.5)),
            _ => fault,
        }
    };
    let each = |verbs: &[&'static str], chances: &[(Kind, u8)]| {
        let pairs = verbs
            .iter()
            .flat_map(|verb| chances.iter().map(|chance| fault(*verb, chance)));
        pairs.collect::<Vec<_>>()
    };
    [
        each(&creates, OF_MONEY),
        each(&creates, OF_A_CREATE),
        each(&follow_ups, OF_MONEY),
        each(&asking, OF_ASKING),
    ]
    .concat()
}
