//! Cancellations and reversals.

use super::fixture::{
    Ledger, approved, begin, charged, declined, end, follow_up, never_beat, not_sent, operation_id,
    payment_of, read, record_one, replica, reversal, sale, settle_one, settlement, unknown, usd,
    wish,
};
use crate::connector::{ReversalForm, UpstreamIds};
use crate::operation::{Failure, Reserved, State, StateName, Verb};
use crate::payment::PaymentStatus;
use crate::store::{
    CancelRecorded, CancelWish, EventKind, Intent, Operation, Recorded, ReversalBegun, Settled,
};

async fn cancelled(store: &Ledger, wish: &CancelWish) -> Operation {
    match store.cancel(wish).await.expect("recorded") {
        CancelRecorded::Wished(operation) => *operation,
        other @ CancelRecorded::NotACreate(_) => panic!("{other:?}"),
    }
}

pub async fn a_cancelled_key_that_was_never_seen_is_a_tombstone(store: Ledger) {
    let stone = cancelled(&store, &wish("k")).await;
    assert_eq!((&stone.state, stone.attempt), (&State::Cancelled, 0));
    assert!(stone.cancel_requested_at.is_some());
    // The create arrives later and finds it.
    let late = record_one(&store, sale("k", 1_000)).await;
    let Recorded::Known(found) = late else {
        panic!("{late:?}")
    };
    assert_eq!((found.id, &found.state), (stone.id, &State::Cancelled));
    let again = cancelled(&store, &wish("k")).await;
    assert_eq!(again.id, stone.id);
    assert_eq!(read(&store, stone.id).await.state, State::Cancelled);
}

pub async fn cancelling_what_runs_takes_it_from_its_owner(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let taken = cancelled(&store, &wish("k")).await;
    assert_eq!(taken.state.name(), StateName::Unknown);
    assert_eq!(taken.epoch, recorded.epoch + 1);
    assert!(taken.cancel_requested_at.is_some());
    assert_eq!(
        payment_of(&store, &taken).await.status,
        PaymentStatus::Unknown
    );
    let due = store.due(recorded.owner, 10).await.expect("readable");
    assert_eq!(due.len(), 1, "its owner undoes it");
    // The answer that was on its way is evidence, not a charge.
    let settled = settle_one(&store, settlement(&recorded, approved(1_000))).await;
    let Settled::Stale(open) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(open.late.expect("kept").state, approved(1_000));
    assert_eq!(payment_of(&store, &taken).await.captured, 0);
    // What is unknown already only changes hands of the epoch.
    let other = begin(&store, sale("k2", 1_000)).await;
    let other = end(&store, &other, unknown()).await;
    let wished = cancelled(&store, &wish("k2")).await;
    assert_eq!(
        (wished.state.name(), wished.epoch),
        (StateName::Unknown, other.epoch + 1)
    );
}

pub async fn cancelling_is_idempotent(store: Ledger) {
    begin(&store, sale("k", 1_000)).await;
    let first = cancelled(&store, &wish("k")).await;
    let second = cancelled(&store, &wish("k")).await;
    assert_eq!(second.epoch, first.epoch);
    assert_eq!(second.cancel_requested_at, first.cancel_requested_at);
    let events = store.timeline(first.id).await.expect("readable");
    let wishes = events
        .iter()
        .filter(|event| event.kind == EventKind::CancelRequested)
        .count();
    assert_eq!(wishes, 1);
}

pub async fn cancelling_what_sent_nothing_ends_it(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    end(&store, &recorded, not_sent()).await;
    let ended = cancelled(&store, &wish("k")).await;
    assert_eq!(ended.state, State::Cancelled);
    assert_eq!(
        ended.snapshot.expect("final").status,
        PaymentStatus::Cancelled
    );
    assert_eq!(
        payment_of(&store, &ended).await.status,
        PaymentStatus::Cancelled
    );
    let late = record_one(&store, sale("k", 1_000)).await;
    assert!(matches!(late, Recorded::Known(_)), "{late:?}");
}

pub async fn cancelling_an_approved_create_makes_it_due_until_nothing_stands(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let wished = cancelled(&store, &wish("k")).await;
    assert_eq!(wished.state, sold.state);
    assert_eq!(wished.epoch, sold.epoch + 1);
    let due = store.due(wished.owner, 10).await.expect("readable");
    assert_eq!(due.len(), 1);
    let form = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let begun = store
        .begin_reversal(&reversal(&wished, form, reserve))
        .await
        .expect("recorded");
    let ReversalBegun::Send { reversal, .. } = begun else {
        panic!("{begun:?}")
    };
    end(&store, &reversal, approved(1_000)).await;
    assert!(
        store
            .due(wished.owner, 10)
            .await
            .expect("readable")
            .is_empty()
    );
    let payment = payment_of(&store, &sold).await;
    assert_eq!(payment.status, PaymentStatus::Reversed);
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 0));
    // The recorded answer stays what it was.
    assert_eq!(read(&store, sold.id).await.state, sold.state);
}

pub async fn what_is_cancelled_is_undone_by_whoever_was_asked(store: Ledger) {
    let (gone, asked) = (replica(), replica());
    store.beat(gone).await.expect("beats");
    let mut made = Vec::new();
    for (name, to) in [("approved", approved(1_000)), ("unknown", unknown())] {
        let intent = Intent {
            owner: gone,
            ..sale(name, 1_000)
        };
        let recorded = begin(&store, intent).await;
        made.push(end(&store, &recorded, to).await);
    }
    for operation in &made {
        let wish = CancelWish {
            owner: asked,
            ..wish(operation.key.as_str())
        };
        let wished = cancelled(&store, &wish).await;
        assert_eq!(wished.owner, asked);
    }
    // Who made them may leave: nothing open is its own any more.
    store.leave(gone).await.expect("leaves");
    assert!(store.beat(asked).await.expect("beats").is_empty());
    let due = store.due(asked, 10).await.expect("readable");
    assert_eq!(due.len(), 2);
}

pub async fn cancelling_a_declined_create_only_marks_it(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let ended = end(&store, &recorded, declined()).await;
    let wished = cancelled(&store, &wish("k")).await;
    assert_eq!((&wished.state, wished.epoch), (&ended.state, ended.epoch));
    assert!(wished.cancel_requested_at.is_some());
    assert_eq!(wished.due_at, None);
}

pub async fn a_follow_up_cannot_be_cancelled(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    let answer = store.cancel(&wish("r")).await.expect("readable");
    assert!(
        matches!(answer, CancelRecorded::NotACreate(_)),
        "{answer:?}"
    );
    let unchanged = read(&store, refund.id).await;
    assert_eq!(
        (unchanged.epoch, unchanged.cancel_requested_at),
        (refund.epoch, None)
    );
}

pub async fn no_follow_up_is_begun_on_what_is_being_undone(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let wished = cancelled(&store, &wish("k")).await;
    // Nothing of the payment changed yet: its version is still the one that was read.
    for verb in [Verb::Refund, Verb::Void] {
        let answer = record_one(&store, follow_up("r", verb, 1_000, &payment)).await;
        assert!(
            matches!(answer, Recorded::Busy { with: None }),
            "{answer:?}"
        );
    }
    let form = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let (reversal, _) = sent(&store, &reversal(&wished, form, reserve)).await;
    end(&store, &reversal, approved(1_000)).await;
    // Undone: now it is not a matter of waiting.
    let payment = payment_of(&store, &sold).await;
    let answer = record_one(&store, follow_up("r", Verb::Refund, 1_000, &payment)).await;
    assert!(
        matches!(answer, Recorded::OverLimit { available: 0 }),
        "{answer:?}"
    );
}

/// A sale that was approved and is to be undone.
async fn unwanted(store: &Ledger, name: &str) -> Operation {
    charged(store, name, 1_000).await;
    cancelled(store, &wish(name)).await
}

/// An unknown sale, as the resolver meets it.
async fn lost_sale(store: &Ledger, name: &str) -> Operation {
    let recorded = begin(store, sale(name, 1_000)).await;
    end(store, &recorded, unknown()).await
}

async fn sent(store: &Ledger, wanted: &crate::store::ReversalIntent) -> (Operation, Operation) {
    match store.begin_reversal(wanted).await.expect("recorded") {
        ReversalBegun::Send { reversal, of } => (*reversal, *of),
        other => panic!("{other:?}"),
    }
}

pub async fn a_reversal_is_recorded_before_it_is_sent(store: Ledger) {
    let lost = lost_sale(&store, "k").await;
    let wanted = reversal(&lost, ReversalForm::ByReference, None);
    let (first, of) = sent(&store, &wanted).await;
    assert_eq!(
        (first.verb, &first.state),
        (Verb::Reversal, &State::Recorded)
    );
    assert_eq!((first.reverses, first.sends), (Some(lost.id), 1));
    assert_eq!(first.reversal_form, Some(ReversalForm::ByReference));
    assert_eq!(first.payment, lost.payment);
    assert_eq!(first.parent_reference, Some(lost.reference.clone()));
    assert_eq!(first.due_at, None, "what it reverses is due");
    assert_eq!(of.epoch, lost.epoch + 1);
    assert_eq!(read(&store, first.id).await.reference, wanted.reference);
    // The acknowledgement was lost: the same call again is answered the same.
    let (again, _) = sent(&store, &wanted).await;
    assert_eq!((again.id, again.sends), (first.id, 1));
    // Sent again after an unknown end, it is one record still, and counted.
    let open = end(&store, &first, unknown()).await;
    assert_eq!(open.due_at, None);
    let wanted = reversal(&of, ReversalForm::ByReference, None);
    let (second, of) = sent(&store, &wanted).await;
    assert_eq!((second.id, second.sends), (first.id, 2));
    let (again, of_again) = sent(&store, &wanted).await;
    assert_eq!((again.id, again.sends), (first.id, 2), "not counted twice");
    assert_eq!((again.epoch, of_again.epoch), (second.epoch, of.epoch));
    // Somebody else's is another send.
    let other = crate::store::ReversalIntent {
        operation: operation_id(),
        ..wanted
    };
    let answer = store.begin_reversal(&other).await.expect("readable");
    assert!(matches!(answer, ReversalBegun::Stale), "{answer:?}");
    assert!(second.epoch > first.epoch && second.late_after >= first.late_after);
    let found = store
        .reversal_of(lost.id)
        .await
        .expect("readable")
        .expect("begun");
    assert_eq!((found.id, found.sends), (first.id, 2));
    // The end of both.
    end(&store, &second, approved(1_000)).await;
    let reversed = State::Reversed {
        reversal: Some(second.id),
    };
    let ended = end(&store, &of, reversed).await;
    assert_eq!(
        ended.snapshot.expect("final").status,
        PaymentStatus::Reversed
    );
    assert_eq!(payment_of(&store, &ended).await.captured, 0);
}

pub async fn a_reversal_of_an_approved_sale_takes_what_remains(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    end(&store, &refund, approved(300)).await;
    let sold = cancelled(&store, &wish("k")).await;
    let form = ReversalForm::Refund {
        ids: UpstreamIds::default(),
        amount: 700,
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 700,
    });
    let (reversal, _) = sent(&store, &reversal(&sold, form, reserve)).await;
    assert_eq!((reversal.amount, reversal.reserved.refund), (usd(700), 700));
    let payment = payment_of(&store, &sold).await;
    assert_eq!(
        (payment.busy_with, payment.refund_reserved),
        (Some(reversal.id), 700)
    );
    let late = record_one(&store, follow_up("r2", Verb::Refund, 100, &payment)).await;
    assert!(matches!(late, Recorded::Busy { .. }), "{late:?}");
    end(&store, &reversal, approved(700)).await;
    let payment = payment_of(&store, &sold).await;
    assert_eq!(
        (payment.status, payment.voided),
        (PaymentStatus::Reversed, true)
    );
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 0));
}

pub async fn a_refund_form_is_never_sent_twice(store: Ledger) {
    let sold = unwanted(&store, "k").await;
    let form = ReversalForm::Refund {
        ids: UpstreamIds::default(),
        amount: 1_000,
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let (first, of) = sent(&store, &reversal(&sold, form.clone(), reserve)).await;
    end(&store, &first, unknown()).await;
    for again in [
        form,
        ReversalForm::Void {
            ids: UpstreamIds::default(),
        },
    ] {
        let answer = store
            .begin_reversal(&reversal(&of, again, reserve))
            .await
            .expect("readable");
        let ReversalBegun::AlreadySent { reversal } = &answer else {
            panic!("{answer:?}")
        };
        assert_eq!((reversal.id, reversal.sends), (first.id, 1));
    }
    assert_eq!(read(&store, sold.id).await.epoch, of.epoch);
}

pub async fn a_refund_form_that_never_left_may_be_sent_later(store: Ledger) {
    let sold = unwanted(&store, "k").await;
    let void = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let refund = ReversalForm::Refund {
        ids: UpstreamIds::default(),
        amount: 1_000,
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let (first, of) = sent(&store, &reversal(&sold, void, reserve)).await;
    let alone = store.uncount_send(first.id, first.epoch).await;
    assert!(alone.expect("answers").is_none(), "that is NotSent");
    end(&store, &first, unknown()).await;
    let (second, of) = sent(&store, &reversal(&of, refund.clone(), reserve)).await;
    assert_eq!(second.sends, 2);

    // It is proven that the second never left.
    let uncounted = store.uncount_send(second.id, second.epoch).await;
    let uncounted = uncounted.expect("written").expect("current");
    assert_eq!(uncounted.sends, 1);
    assert_eq!(uncounted.reversal_form, Some(ReversalForm::ByReference));
    assert!(uncounted.epoch > second.epoch);
    assert_eq!(uncounted.late_after, second.late_after);
    assert_eq!(uncounted.reserved, second.reserved);
    // The acknowledgement was lost: once is enough.
    let again = store.uncount_send(second.id, second.epoch).await;
    assert!(again.expect("answers").is_none());
    assert_eq!(read(&store, first.id).await.sends, 1);

    let (third, of) = sent(&store, &reversal(&of, refund.clone(), reserve)).await;
    assert_eq!((third.id, third.sends), (first.id, 2));
    assert_eq!(third.reversal_form, Some(refund.clone()));
    // This one left for all we know: never again.
    let answer = store
        .begin_reversal(&reversal(&of, refund, reserve))
        .await
        .expect("readable");
    assert!(
        matches!(answer, ReversalBegun::AlreadySent { .. }),
        "{answer:?}"
    );
    let events = store.timeline(first.id).await.expect("readable");
    let sends = events
        .iter()
        .filter(|event| event.kind == EventKind::Send)
        .map(|event| event.reason.as_str());
    assert_eq!(
        sends.collect::<Vec<_>>(),
        ["reversal", "did not leave", "reversal"]
    );
    end(&store, &third, approved(1_000)).await;
    let over = store.uncount_send(third.id, third.epoch).await;
    assert!(over.expect("answers").is_none(), "it ended");
}

pub async fn a_reversal_that_sent_nothing_begins_anew(store: Ledger) {
    let sold = unwanted(&store, "k").await;
    let form = ReversalForm::Refund {
        ids: UpstreamIds::default(),
        amount: 1_000,
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let (first, of) = sent(&store, &reversal(&sold, form.clone(), reserve)).await;
    end(&store, &first, not_sent()).await;
    assert_eq!(payment_of(&store, &sold).await.refund_reserved, 0);
    let (again, _) = sent(&store, &reversal(&of, form, reserve)).await;
    assert_eq!((again.id, again.attempt, again.sends), (first.id, 2, 1));
    assert_eq!(again.state, State::Recorded);
    assert_eq!(payment_of(&store, &sold).await.refund_reserved, 1_000);
}

pub async fn what_became_approved_meanwhile_is_not_reversed(store: Ledger) {
    let void = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let lost = lost_sale(&store, "k").await;
    let decided = reversal(&lost, void.clone(), None);
    // A settlement leaves the epoch as it was.
    let sold = end(&store, &lost, approved(1_000)).await;
    assert_eq!(sold.epoch, decided.epoch);
    let running = begin(&store, sale("k2", 1_000)).await;
    let failed = lost_sale(&store, "k3").await;
    let failed = end(&store, &failed, declined()).await;
    for of in [&sold, &running, &failed] {
        let wanted = reversal(of, void.clone(), None);
        let answer = store.begin_reversal(&wanted).await.expect("readable");
        assert!(matches!(answer, ReversalBegun::Stale), "{answer:?}");
        let begun = store.reversal_of(of.id).await.expect("readable");
        assert!(begun.is_none(), "{begun:?}");
        assert_eq!(read(&store, of.id).await.epoch, of.epoch);
    }
    // Once it is to be undone it may be.
    let wished = cancelled(&store, &wish("k")).await;
    sent(&store, &reversal(&wished, void, None)).await;
}

pub async fn a_reversal_with_an_old_epoch_is_stale(store: Ledger) {
    let lost = lost_sale(&store, "k").await;
    let old = reversal(&lost, ReversalForm::ByReference, None);
    let adopted = store
        .adopt_silent(replica(), &[never_beat(lost.owner)], 10)
        .await
        .expect("adopted");
    assert_eq!(adopted.len(), 1);
    let answer = store.begin_reversal(&old).await.expect("readable");
    assert!(matches!(answer, ReversalBegun::Stale), "{answer:?}");
    assert!(
        store
            .reversal_of(lost.id)
            .await
            .expect("readable")
            .is_none()
    );
}

pub async fn a_reversal_that_ended_is_not_sent_again(store: Ledger) {
    let lost = lost_sale(&store, "k").await;
    let (first, of) = sent(&store, &reversal(&lost, ReversalForm::ByReference, None)).await;
    end(
        &store,
        &first,
        State::Failed {
            failure: Failure::NothingToReverse,
        },
    )
    .await;
    let again = reversal(&of, ReversalForm::ByReference, None);
    let answer = store.begin_reversal(&again).await.expect("readable");
    assert!(matches!(answer, ReversalBegun::Ended { .. }), "{answer:?}");
}

pub async fn a_reversal_waits_for_a_follow_up(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    let sold = cancelled(&store, &wish("k")).await;
    let form = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let reserve = Some(Reserved {
        capture: 0,
        refund: 1_000,
    });
    let wanted = reversal(&sold, form, reserve);
    let answer = store.begin_reversal(&wanted).await.expect("readable");
    assert!(matches!(answer, ReversalBegun::Busy), "{answer:?}");
    assert!(
        store
            .reversal_of(sold.id)
            .await
            .expect("readable")
            .is_none()
    );
    assert_eq!(read(&store, sold.id).await.epoch, sold.epoch);
    end(&store, &refund, not_sent()).await;
    sent(&store, &wanted).await;
}
