//! Checks one at a time: what each concludes, and what it leaves to the next or to a person.

mod stage;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::stage::{Stage, found, late_sale, past_horizon, plain, refusal, until};
use super::scan::Resolver;
use crate::by_hand::{self, Decider, Decision};
use crate::connector::{
    Capabilities, DeclineClass, Finding, LookedUp, Repeat, ReversalForm, UndoBy, Undone,
    UnknownReason, UpstreamIds, Verdict, WhenFound,
};
use crate::engine::{CancelProgress, EngineOptions};
use crate::key::AccountName;
use crate::operation::{Failure, ParkedReason, State, StateName, Verb};
use crate::store::contract::{
    approved, authorized, begin, end, follow_up, payment_of, read, reversal, sale, settle_one,
    settlement, unknown, wish,
};
use crate::store::{Intent, Operation, ReversalBegun, Settlement};

/// The parent names its one child: it may be sent again.
fn repeated() -> Capabilities {
    Capabilities {
        looked_up: LookedUp::ByParent,
        repeat: Repeat::OncePerParent,
        once_per_payment: true,
        ..plain()
    }
}

/// Undone by the processor's id.
fn undone_when_found() -> Capabilities {
    Capabilities {
        undo: UndoBy::Found,
        ..plain()
    }
}

/// A capture without an answer, past its horizon.
async fn lost_capture(stage: &Stage) -> Operation {
    let held = authorized(&stage.ledger, "hold", 1_000).await;
    let payment = payment_of(&stage.ledger, &held).await;
    let capture = follow_up("capture", Verb::Capture, 1_000, &payment);
    stage.lost(past_horizon(capture)).await
}

/// A sale that was answered with an approval, and cancelled.
async fn unwanted(stage: &Stage, intent: Intent) -> Operation {
    let sold = begin(&stage.ledger, intent).await;
    end(&stage.ledger, &sold, approved(1_000)).await;
    stage.ledger.cancel(&wish("k")).await.expect("recorded");
    read(&stage.ledger, sold.id).await
}

/// A reversal by reference that ended because it found nothing.
async fn ended_reversal(stage: &Stage, of: &Operation) -> Operation {
    let wanted = reversal(of, ReversalForm::ByReference, None);
    let begun = stage.ledger.begin_reversal(&wanted).await;
    let ReversalBegun::Send { reversal, of } = begun.expect("recorded") else {
        panic!("not begun")
    };
    let failure = Failure::NothingToReverse;
    end(&stage.ledger, &reversal, State::Failed { failure }).await;
    *of
}

/// When it is asked about again, from the moment it is read.
fn pause(operation: &Operation) -> Duration {
    let due = operation.due_at.expect("it is asked about again");
    due.since(operation.read_at)
}

#[tokio::test]
async fn a_repeat_refused_as_a_duplicate_never_ends_as_not_happened() {
    let stage = Stage::new(repeated()).await;
    let capture = lost_capture(&stage).await;
    let duplicate = refusal(DeclineClass::Duplicate);
    stage.says(|said| said.execute = Verdict::Declined(duplicate));
    let executed = State::Unknown {
        unknown: UnknownReason::DuplicateOfOurs,
    };
    for sends in 2..=4 {
        let checked = stage.check(capture.id).await;
        assert_eq!((&checked.state, checked.sends), (&executed, sends));
    }
    // No more repeats, and the books conclusively do not show it: it was executed all the same.
    for _ in 0..3 {
        let checked = stage.check(capture.id).await;
        let parked = match &checked.state {
            State::Parked { parked } => parked,
            other => panic!("{other:?}"),
        };
        assert!(matches!(parked, ParkedReason::Contradiction { .. }));
        assert_eq!(checked.sends, 4);
    }
    assert_eq!(stage.processor.executed.load(Ordering::SeqCst), 3);
    stage.says(|said| said.look_up = Some(found(1_000)));
    let shown = stage.check(capture.id).await;
    assert_eq!(shown.state.name(), StateName::Approved, "an answer ends it");
}

#[tokio::test]
async fn a_follow_up_found_for_another_amount_is_parked() {
    let stage = Stage::new(repeated()).await;
    let capture = lost_capture(&stage).await;
    stage.says(|said| said.look_up = Some(found(400)));
    for _ in 0..2 {
        let checked = stage.check(capture.id).await;
        let State::Parked {
            parked: ParkedReason::Contradiction { detail },
        } = &checked.state
        else {
            panic!("{:?}", checked.state)
        };
        assert!(detail.contains("4.00 USD"), "{detail}");
        let payment = payment_of(&stage.ledger, &checked).await;
        assert_eq!((payment.captured, payment.capture_reserved), (0, 1_000));
    }
}

/// A void of all of it.
fn void() -> ReversalForm {
    ReversalForm::Void {
        ids: UpstreamIds::default(),
    }
}

async fn assert_parked_reversal(stage: &Stage, of: &Operation, shown: &str) {
    let reversal = stage.reversal_of(of.id).await;
    assert!(
        matches!(
            &reversal.state,
            State::Parked {
                parked: ParkedReason::ReversalFailed { .. }
            }
        ),
        "{shown}: {:?}",
        reversal.state
    );
    let now = read(&stage.ledger, of.id).await;
    assert!(now.due_at.is_some(), "it is asked on");
    let told = stage.engine.cancellation(now).await.expect("readable");
    assert_eq!(told.progress, CancelProgress::NeedsReview, "{shown}");
}

#[tokio::test]
async fn a_cancelled_approval_that_cannot_be_undone_parks_its_reversal() {
    for answer in [
        Undone::Refused(refusal(DeclineClass::InvalidRequest)),
        Undone::Unknown(UnknownReason::TimedOut),
        Undone::NothingFound { conclusive: true },
    ] {
        let stage = Stage::new(undone_when_found()).await;
        let unwanted = unwanted(&stage, late_sale("k")).await;
        let shown = format!("{answer:?}");
        stage.says(|said| {
            said.look_up = Some(found(1_000));
            said.reverse = answer;
        });
        stage.check(unwanted.id).await;
        assert_parked_reversal(&stage, &unwanted, &shown).await;

        // And an answer ends it.
        let done = Undone::Done {
            upstream_reference: None,
        };
        stage.says(|said| said.reverse = done);
        let undone = stage.check(unwanted.id).await;
        let told = stage.engine.cancellation(undone).await.expect("readable");
        assert_eq!(told.progress, CancelProgress::Done, "{shown}");
        assert_eq!(stage.processor.reversed.load(Ordering::SeqCst), 2);
        let over = stage.check(unwanted.id).await;
        assert_eq!(over.due_at, None, "{shown}");
        assert_eq!(stage.processor.reversed.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_cancelled_approval_that_is_no_longer_shown_parks_its_reversal() {
    let detail = "away".to_owned();
    for finding in [
        Finding::CouldNotAsk { detail },
        Finding::NotFound { conclusive: true },
    ] {
        let stage = Stage::new(undone_when_found()).await;
        let unwanted = unwanted(&stage, late_sale("k")).await;
        let wanted = reversal(&unwanted, void(), None);
        stage
            .ledger
            .begin_reversal(&wanted)
            .await
            .expect("recorded");
        let shown = format!("{finding:?}");
        stage.says(|said| said.look_up = Some(finding));
        stage.check(unwanted.id).await;
        assert_parked_reversal(&stage, &unwanted, &shown).await;
        assert_eq!(stage.processor.reversed.load(Ordering::SeqCst), 0);
    }
}

/// Each void that is sent may still arrive until its own horizon: the next one must not put off the alert for ever.
#[tokio::test]
async fn a_void_that_is_repeated_in_vain_is_told_to_a_person() {
    let horizon = Duration::from_secs(2);
    let stage = Stage::with(undone_when_found(), EngineOptions::default(), horizon).await;
    let intent = Intent {
        late_arrival_horizon: horizon,
        ..late_sale("k")
    };
    let unwanted = unwanted(&stage, intent).await;
    stage.says(|said| said.look_up = Some(found(1_000)));
    stage.check(unwanted.id).await;
    let first = stage.reversal_of(unwanted.id).await;
    assert_eq!(first.state, State::Recorded, "too early to tell");
    until("a person is told", async || {
        stage.check(unwanted.id).await;
        let reversal = stage.reversal_of(unwanted.id).await;
        (reversal.state.name() == StateName::Parked).then_some(())
    })
    .await;
    assert_parked_reversal(&stage, &unwanted, "in vain").await;
}

#[tokio::test]
async fn a_reversal_that_ended_without_success_is_not_taken_for_done() {
    let by_reference = Capabilities {
        undo: UndoBy::Reference,
        found: WhenFound::Reverse,
        ..plain()
    };
    // A create that is found after all.
    let stage = Stage::new(by_reference).await;
    let lost = stage.lost(late_sale("k")).await;
    let lost = ended_reversal(&stage, &lost).await;
    stage.says(|said| said.look_up = Some(found(1_000)));
    let checked = stage.check(lost.id).await;
    assert!(
        matches!(
            &checked.state,
            State::Parked {
                parked: ParkedReason::ReversalFailed { .. }
            }
        ),
        "{:?}",
        checked.state
    );

    // A person says that it happened, and its caller had cancelled it.
    stage.ledger.cancel(&wish("k")).await.expect("recorded");
    let decision = Decision::Approved {
        upstream_reference: "guid-1".to_owned(),
        ids: UpstreamIds::default().with("sale", "guid-1"),
        authorization_code: None,
    };
    let decider = Decider {
        who: "jane".to_owned(),
        why: "it is in their books".to_owned(),
    };
    let decided = by_hand::resolve(&*stage.ledger, lost.id, decision, &decider).await;
    assert_eq!(decided.expect("taken").state.name(), StateName::Approved);
    let checked = stage.check(lost.id).await;
    assert!(pause(&checked) > Duration::from_mins(1), "it is asked on");
    assert_eq!(stage.last_event(lost.id).await.reason, "reversal_unknown");
    let told = stage.engine.cancellation(checked).await.expect("readable");
    assert_eq!(told.progress, CancelProgress::NeedsReview);
    assert_eq!(stage.processor.reversed.load(Ordering::SeqCst), 0);
}

/// What a parked refund keeps cannot be returned before a person has ended it: that is what the caller is told.
#[tokio::test]
async fn a_cancellation_behind_a_parked_refund_needs_review() {
    let stage = Stage::new(undone_when_found()).await;
    let sold = begin(&stage.ledger, sale("k", 1_000)).await;
    end(&stage.ledger, &sold, approved(1_000)).await;
    let payment = payment_of(&stage.ledger, &sold).await;
    let refund = begin(
        &stage.ledger,
        follow_up("refund", Verb::Refund, 300, &payment),
    )
    .await;
    let refund = end(&stage.ledger, &refund, unknown()).await;
    stage.ledger.cancel(&wish("k")).await.expect("recorded");
    let progress = async || {
        let sold = read(&stage.ledger, sold.id).await;
        let told = stage.engine.cancellation(sold).await.expect("readable");
        told.progress
    };
    assert_eq!(progress().await, CancelProgress::Pending);
    let parked = State::Parked {
        parked: ParkedReason::NoAnswer,
    };
    end(&stage.ledger, &refund, parked).await;
    assert_eq!(progress().await, CancelProgress::NeedsReview);
}

#[tokio::test]
async fn a_question_lost_at_the_horizon_is_asked_again_before_a_person_is_told() {
    // Long enough to be read before it has passed, and within what callers are promised.
    let soon = Duration::from_secs(20);
    let stage = Stage::asking_after(plain(), vec![soon]).await;
    let nobody = || Finding::CouldNotAsk {
        detail: "no answer".to_owned(),
    };
    stage.says(|said| said.look_up = Some(nobody()));
    let lost = stage.lost(late_sale("k")).await;
    let checked = stage.check(lost.id).await;
    assert_eq!(checked.state, lost.state);
    assert!(pause(&checked) <= soon, "{:?}", pause(&checked));

    stage.says(|said| said.look_up = Some(Finding::NotFound { conclusive: true }));
    let failed = State::Failed {
        failure: Failure::DidNotHappen,
    };
    assert_eq!(stage.check(lost.id).await.state, failed);

    // Beyond the promise a person is told.
    let stage = Stage::asking_after(plain(), vec![Duration::from_secs(31)]).await;
    stage.says(|said| said.look_up = Some(nobody()));
    let lost = stage.lost(late_sale("k")).await;
    let parked = State::Parked {
        parked: ParkedReason::NoAnswer,
    };
    assert_eq!(stage.check(lost.id).await.state, parked);
}

#[tokio::test]
async fn an_operation_of_an_account_that_is_gone_is_parked_past_its_horizon() {
    let stage = Stage::new(plain()).await;
    let of_nobody = |intent: Intent| Intent {
        account: AccountName::from_stored("gone"),
        ..intent
    };
    let early = stage.lost(of_nobody(sale("early", 1_000))).await;
    let checked = stage.check(early.id).await;
    assert_eq!(checked.state, early.state);
    assert_eq!(checked.checks, 1);
    assert!(pause(&checked) > Duration::from_mins(1));

    let late = stage.lost(of_nobody(late_sale("late"))).await;
    for checks in 0..2 {
        let checked = stage.check(late.id).await;
        assert_eq!(
            checked.state,
            State::Parked {
                parked: ParkedReason::NoAnswer
            }
        );
        assert_eq!(checked.checks, checks);
        assert!(pause(&checked) > Duration::from_mins(1));
    }
}

/// However long the usual pause is: callers were told by when it ends.
#[tokio::test]
async fn the_end_of_the_horizon_has_a_check_of_its_own() {
    let stage = Stage::new(plain()).await;
    let near = Intent {
        late_arrival_horizon: Duration::from_secs(20),
        ..late_sale("near")
    };
    let open = stage.lost(near).await;
    let began = Instant::now();
    let checked = stage.check(open.id).await;
    let due = checked.due_at.expect("a next check");
    let (from, took) = (checked.late_after, began.elapsed());
    assert!(
        due >= from && due <= from + took + Duration::from_millis(10),
        "{due}, and the horizon ends at {from}"
    );
}

#[tokio::test]
async fn a_check_that_panics_waits_before_the_next() {
    let stage = Stage::new(plain()).await;
    let mine = Intent {
        owner: stage.me(),
        ..late_sale("k")
    };
    let lost = begin(&stage.ledger, mine).await;
    let due = Settlement {
        check_after: Some(Duration::ZERO),
        ..settlement(&lost, unknown())
    };
    settle_one(&stage.ledger, due).await;
    stage.says(|said| said.look_up = None);
    let resolver = Resolver::new(Arc::clone(&stage.engine.shared));
    resolver.scan().await.expect("readable");
    let checked = until("a check that is counted", async || {
        Some(read(&stage.ledger, lost.id).await).filter(|now| now.checks == 1)
    })
    .await;
    assert!(pause(&checked) > Duration::from_mins(1));
    assert_eq!(stage.last_event(lost.id).await.reason, "check_panicked");
    resolver.scan().await.expect("readable");
    assert_eq!(stage.processor.look_ups.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_conclusion_that_the_ledger_refuses_is_tried_after_the_usual_pause() {
    let stage = Stage::new(repeated()).await;
    let capture = lost_capture(&stage).await;
    stage.says(|said| said.look_up = Some(found(1_000)));
    stage
        .execute_sql(
            "create trigger refused before update on operation when new.state = 'approved'
             begin select raise(abort, 'no approval today'); end",
        )
        .await;
    for checks in 1..=2 {
        let checked = stage.check(capture.id).await;
        assert_eq!((&checked.state, checked.checks), (&capture.state, checks));
        assert!(pause(&checked) > Duration::from_mins(1));
        assert_eq!(stage.last_event(capture.id).await.reason, "not_written");
    }
    stage.execute_sql("drop trigger refused").await;
    let checked = stage.check(capture.id).await;
    assert_eq!(checked.state.name(), StateName::Approved);
}

/// A reversal by reference moves money, so that route is not asked in quarantine: "not found" on the other is not enough.
#[tokio::test]
async fn in_quarantine_not_found_is_not_conclusive() {
    let by_reference = Capabilities {
        undo: UndoBy::Reference,
        found: WhenFound::Reverse,
        ..plain()
    };
    for quarantine in [true, false] {
        let options = EngineOptions {
            quarantine,
            ..EngineOptions::default()
        };
        let stage = Stage::with(by_reference, options, Duration::ZERO).await;
        stage.says(|said| said.reverse = Undone::NothingFound { conclusive: true });
        let lost = stage.lost(late_sale("k")).await;
        let checked = stage.check(lost.id).await;
        let expected = if quarantine {
            State::Parked {
                parked: ParkedReason::NoAnswer,
            }
        } else {
            State::Failed {
                failure: Failure::DidNotHappen,
            }
        };
        assert_eq!(checked.state, expected);
        let reversed = stage.processor.reversed.load(Ordering::SeqCst);
        assert_eq!(reversed, u32::from(!quarantine));
    }
}
