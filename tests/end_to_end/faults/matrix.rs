//! The matrix: every fault on every verb, what the first answer may be, what the final one is, and what the books hold.

use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{ConnectionRecord, Fault, Kind, Moment, RequestRecord};
use sandbox::world::World;

use super::act::Act;
use super::cells::{Cell, Effect, Expected, Final, REPEATED};
use super::stage::{Pace, Stage};
use Effect::{Half, Nothing, Once, Undone};
use Final::{Approved, Declined, Failed, Parked, Reversed};

/// What the test does between the first answers and the final ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Wait,
    /// The fault goes away.
    Lift,
    /// What hangs is committed, once each outcome was looked for and not found.
    CommitLate,
}

/// One row of the matrix.
pub(super) struct Row {
    name: &'static str,
    fault: Option<Fault>,
    acts: &'static [Act],
    then: Then,
    /// A fault of the connection, which strikes all cells at once.
    connection: bool,
    sale: Expected,
    authorize: Expected,
    /// Capture and void, where the fault strikes once.
    follow_up: Expected,
    /// Where it strikes every repeat too; absent if that is no other case.
    follow_up_lasting: Option<Expected>,
    refund: Expected,
    /// The upstream timeout, where it is not what the row is about.
    patient: bool,
}

impl Row {
    fn new(name: &'static str, fault: Fault, all: Expected) -> Self {
        Self {
            name,
            fault: Some(fault),
            acts: &Act::ALL,
            then: Then::Wait,
            connection: false,
            sale: all,
            authorize: all,
            follow_up: all,
            follow_up_lasting: None,
            refund: all,
            patient: true,
        }
    }

    fn expected(&self, cell: &Cell) -> Expected {
        match cell.act {
            Act::Sale => self.sale,
            Act::Authorize => self.authorize,
            Act::Refund | Act::RefundCaptured | Act::RefundUnsettled => self.refund,
            _ if cell.lasting => self.follow_up_lasting.expect("a lasting cell"),
            _ => self.follow_up,
        }
    }
}

const GOES_THROUGH: Expected = Expected {
    first: &[201],
    last: &[(Approved, Once)],
    sends_max: 1,
};
const NOT_SENT_THEN_DONE: Expected = Expected {
    first: &[503],
    last: &[(Approved, Once)],
    sends_max: 1,
};
pub(super) const DID_NOT_HAPPEN: Expected = Expected {
    first: &[504],
    last: &[(Failed, Nothing)],
    sends_max: 1,
};
pub(super) const ADOPTED: Expected = Expected {
    first: &[201, 504],
    last: &[(Approved, Once)],
    sends_max: 1,
};
pub(super) const REVERSED: Expected = Expected {
    first: &[402, 504],
    last: &[(Reversed, Undone)],
    sends_max: 1,
};
const REVERSED_LATER: Expected = Expected {
    first: &[504],
    last: &[(Reversed, Undone)],
    sends_max: 1,
};
const ADOPTED_LATER: Expected = Expected {
    first: &[504],
    last: &[(Approved, Once)],
    sends_max: 1,
};
const DECLINED: Expected = Expected {
    first: &[402],
    last: &[(Declined, Nothing)],
    sends_max: 1,
};
const REVERSED_AT_ONCE: Expected = Expected {
    first: &[402],
    ..REVERSED
};
/// Done for another amount than asked, which no machine undoes.
const PARKED: Expected = Expected {
    first: &[504],
    last: &[(Parked, Half)],
    sends_max: 1,
};

/// What may be sent again while it has not arrived.
const fn repeated(once: Expected) -> Expected {
    Expected {
        sends_max: REPEATED,
        ..once
    }
}

/// Nothing is executed, and nobody is told so.
pub(super) fn silence(name: &'static str, fault: Fault) -> Row {
    Row {
        follow_up: repeated(ADOPTED),
        follow_up_lasting: Some(repeated(DID_NOT_HAPPEN)),
        patient: false,
        ..Row::new(name, fault, DID_NOT_HAPPEN)
    }
}

/// All is executed, and nobody is told so.
fn lost_answer(name: &'static str, fault: Fault) -> Row {
    Row {
        sale: REVERSED,
        authorize: Expected {
            last: &[(Approved, Once), (Reversed, Undone)],
            ..ADOPTED
        },
        patient: false,
        ..Row::new(name, fault, ADOPTED)
    }
}

fn late(name: &'static str, fault: Fault, then: Then) -> Row {
    Row {
        sale: REVERSED_LATER,
        authorize: Expected {
            last: &[(Approved, Once), (Reversed, Undone)],
            ..ADOPTED_LATER
        },
        follow_up: repeated(ADOPTED),
        then,
        patient: false,
        ..Row::new(name, fault, ADOPTED_LATER)
    }
}

fn no_fault() -> Row {
    Row {
        fault: None,
        ..Row::new("none", Fault::new(Kind::SlowDrip), GOES_THROUGH)
    }
}

fn close_idle() -> Row {
    Row {
        connection: true,
        ..Row::new(
            "close_idle",
            Fault::new(Kind::CloseIdle).delay(Duration::from_millis(150)),
            GOES_THROUGH,
        )
    }
}

fn outage() -> Row {
    Row {
        then: Then::Lift,
        connection: true,
        ..Row::new(
            "outage, then lifted",
            Fault::new(Kind::Outage),
            NOT_SENT_THEN_DONE,
        )
    }
}

/// Plays a row: every cell at once, each on a payment of its own.
pub(super) async fn hold(world: World, row: Row) {
    let pace = if row.patient {
        Pace::PATIENT
    } else {
        Pace::QUICK
    };
    let stage = Stage::with_controls(world, pace).await;
    let mut acts: Vec<_> = row.acts.iter().map(|act| (*act, false)).collect();
    if row.follow_up_lasting.is_some() {
        let repeats = row.acts.iter().filter(|act| act.is_repeatable());
        acts.extend(repeats.map(|act| (*act, true)));
    }
    let mut cells = stage.cells(&acts).await;
    if let Some(fault) = &row.fault {
        let faults = if row.connection {
            vec![fault.clone()]
        } else {
            let strike = |cell: &mut Cell| cell.struck_by(fault);
            cells.iter_mut().map(strike).collect()
        };
        stage.strike(faults).await;
    }
    match row.fault.as_ref().map(|fault| fault.fault) {
        Some(Kind::CloseIdle) => {
            let simulators = &stage.world.simulators;
            let all_idle = simulators.wait_for_connections(|connections| {
                let mut ends = connections.iter().map(|connection| connection.ended_by);
                ends.all(|end| end.is_some())
            });
            let ended = all_idle.await.expect("idle connections to be closed");
            let idled = |one: &ConnectionRecord| one.ended_by == Some("idle");
            assert!(ended.iter().any(idled), "by the processor: {ended:?}");
            stage.ask(&mut cells).await;
        }
        Some(Kind::TokenExpired) => ask_together(&stage, &mut cells).await,
        _ => stage.ask(&mut cells).await,
    }
    match row.then {
        Then::Wait => {}
        Then::Lift => stage.lift().await,
        Then::CommitLate => {
            join_all(cells.iter().map(|cell| cell.until_checked(&stage))).await;
            reversed_in_vain(&stage, &cells).await;
            stage.connexpay().release_late();
        }
    }
    let expected = |cell: &Cell| row.expected(cell);
    stage.end(row.name, &mut cells, expected).await;
}

/// The sale's reversal was answered "not found": what it should have undone is still to come.
async fn reversed_in_vain(stage: &Stage, cells: &[Cell]) {
    let sale = cells.iter().find(|cell| cell.act == Act::Sale);
    let sale = stage.records.operation(&sale.expect("a sale").key).await;
    let of_sale = Some(sale.reference.as_str());
    let answered = stage.connexpay().wait_for_requests(1, |request| {
        request.verb == verb::TIMEOUT_REVERSAL
            && request.sequence_number.as_deref() == of_sale
            && request.answered
    });
    let answered = answered.await.expect("a reversal");
    let found = |request: &RequestRecord| request.status.is_none_or(|status| status < 400);
    assert!(!answered.iter().any(found), "{answered:#?}");
}

/// All send with the same token, so that all find it expired: one refresh is enough for them.
async fn ask_together(stage: &Stage, cells: &mut [Cell]) {
    let connexpay = stage.connexpay();
    let gates: Vec<_> = cells
        .iter()
        .map(|cell| connexpay.hold(Moment::Received, cell.selector()))
        .collect();
    let release = async {
        for gate in &gates {
            gate.reached(1).await.expect("every cell to send");
        }
        drop(gates);
    };
    let tokens = connexpay.request_count_of(verb::TOKEN);
    tokio::join!(stage.ask(cells), release);
    assert_eq!(connexpay.request_count_of(verb::TOKEN), tokens + 1);
}

macro_rules! matrix {
    ($($(#[$promise:meta])* $name:ident: $row:expr;)*) => {
        mod on_postgres {
            use super::*;
            $($(#[$promise])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::hold(World::new().await, $row).await;
            })*
        }

        mod on_sqlite {
            use super::*;
            $($(#[$promise])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::hold(World::on_sqlite().await, $row).await;
            })*
        }
    };
}

matrix! {
    /// Without a fault every verb is done once.
    without_a_fault_each_verb_is_done_once: no_fault();
    /// Connections that the processor closed while they idled cost no payment.
    connections_closed_while_idle_cost_nothing: close_idle();
    /// A token that expired costs one refresh and one repeat.
    an_expired_token_costs_one_repeat: Row::new("token_expired", Fault::new(Kind::TokenExpired), GOES_THROUGH);
    /// While the processor is unreachable nothing is sent; afterwards the same key goes through.
    an_outage_sends_nothing_and_keeps_the_key: outage();
    /// A request that was never read is proven not to have happened, or is repeated where that is safe.
    a_reset_before_it_was_read_leaves_nothing: silence("reset_before_read", Fault::new(Kind::ResetBeforeRead));
    /// A request that hangs and is not executed is proven not to have happened, or is repeated where that is safe.
    a_hang_before_the_commit_leaves_nothing: silence("hang_before_commit", Fault::new(Kind::HangBeforeCommit));
    /// A server error proves nothing, whatever it turns out to be.
    a_server_error_without_effect_leaves_nothing: silence("http_500", Fault::new(Kind::Http500));
    /// A refusal for load is no proof unless the account says so.
    too_many_requests_prove_nothing_by_default: silence("http_429", Fault::new(Kind::Http429));
    /// Executed and then silent: undone or adopted, once.
    a_hang_after_the_commit_is_resolved: lost_answer("commit_then_hang", Fault::new(Kind::CommitThenHang));
    /// Executed and then reset: undone or adopted, once.
    a_reset_after_the_commit_is_resolved: lost_answer("commit_then_reset", Fault::new(Kind::CommitThenReset));
    /// Half of an answer is none.
    a_truncated_answer_is_resolved: lost_answer("commit_then_truncate", Fault::new(Kind::CommitThenTruncate));
    /// A server error after the commit is found out.
    a_server_error_after_the_commit_is_resolved: lost_answer("commit_then_500", Fault::new(Kind::CommitThen500));
    /// A page of somebody else's is no answer.
    garbage_after_the_commit_is_resolved: lost_answer("commit_then_garbage", Fault::new(Kind::CommitThenGarbage));
    /// A code that blames the processor's own network proves nothing.
    a_time_out_behind_the_processor_is_resolved: lost_answer("commit_then_code", Fault::new(Kind::CommitThenCode));
    /// A status that is neither approved nor declined proves nothing.
    a_status_without_a_result_is_resolved: lost_answer("commit_then_status", Fault::new(Kind::CommitThenStatus));
    /// An answer that drips in past the timeout is none.
    an_answer_slower_than_the_timeout_is_resolved:
        lost_answer("slow_drip past the timeout", Fault::new(Kind::SlowDrip).delay(Duration::from_secs(5)));
    /// What is executed after the caller gave up is found and undone or adopted.
    a_late_commit_is_resolved:
        late("commit_late", Fault::new(Kind::CommitLate).delay(Duration::from_millis(2_500)), Then::Wait);
    /// "Not found" is not "did not happen": what arrives after it is found by a later check.
    a_commit_after_not_found_is_resolved:
        late("commit_late after \"not found\"", Fault::new(Kind::CommitLate), Then::CommitLate);
    /// An answer that drips in within the timeout is an answer.
    a_slow_answer_is_an_answer:
        Row::new("slow_drip", Fault::new(Kind::SlowDrip).delay(Duration::from_millis(600)), GOES_THROUGH);
    /// A refusal in the form of a 422 is final.
    a_decline_as_422_is_final: Row::new("decline_422", Fault::new(Kind::Decline422).code("D2026"), DECLINED);
    /// A refusal in the form of a 200 is final.
    a_decline_as_200_is_final: Row::new("decline_2xx", Fault::new(Kind::Decline2xx).code("D2012"), DECLINED);
    /// Approved for less than asked is undone; a capture or a refund of another amount is for a person.
    a_partial_approval_is_undone_or_parked: Row {
        sale: REVERSED_AT_ONCE,
        authorize: REVERSED_AT_ONCE,
        follow_up: PARKED,
        refund: PARKED,
        // A void has no amount to halve.
        acts: &[Act::Sale, Act::Authorize, Act::Capture, Act::Refund, Act::RefundCaptured],
        ..Row::new("partial_approval", Fault::new(Kind::PartialApproval), REVERSED_AT_ONCE)
    };
}

/// Where the account trusts it, a refusal for load proves that nothing happened, and the key goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_429_gives_the_key_back() {
    for mut world in [World::new().await, World::on_sqlite().await] {
        world.config.trust_429 = true;
        let row = Row::new(
            "http_429, trusted",
            Fault::new(Kind::Http429),
            NOT_SENT_THEN_DONE,
        );
        hold(world, row).await;
    }
}
