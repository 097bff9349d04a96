//! Commit 2: totals, entries, and who may still write them.

use std::sync::Arc;

use super::fixture::{
    Ledger, approved, authorized, begin, charged, declined, end, follow_up, never_beat, not_sent,
    payment_of, read, record_one, replica, sale, settle_one, settlement, unknown,
};
use crate::operation::{Reserved, StateName, StatusChange, Verb};
use crate::payment::PaymentStatus;
use crate::store::{EventKind, Intent, Settled, StoreError};

pub async fn an_approved_sale_is_captured_and_balanced(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    assert_eq!(sold.state, approved(1_000));
    assert_eq!(sold.due_at, None);
    let payment = payment_of(&store, &sold).await;
    assert_eq!(
        (payment.authorized, payment.captured, payment.refunded),
        (1_000, 1_000, 0)
    );
    assert_eq!(payment.status, PaymentStatus::Captured);
    assert_eq!(payment.upstream_ids.get("sale"), Some("guid-1"));
    assert_eq!(
        payment.card.as_ref().and_then(|c| c.last_four.as_deref()),
        Some("5439")
    );
    assert_eq!(payment.version, 2);
    let snapshot = sold.snapshot.expect("final states have one");
    assert_eq!(snapshot.status, PaymentStatus::Captured);
    assert_eq!(
        (snapshot.authorized, snapshot.captured, snapshot.refunded),
        (1_000, 1_000, 0)
    );
    assert_eq!(Some(snapshot.as_of), sold.settled_at);
    // What the settler was told is what is stored.
    let stored = read(&store, sold.id).await;
    let told = crate::store::Operation {
        read_at: stored.read_at,
        ..sold
    };
    assert_eq!(format!("{told:?}"), format!("{stored:?}"));
}

pub async fn a_repeated_settlement_is_applied_once(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let settlement = Arc::new(settlement(&recorded, approved(1_000)));
    for _ in 0..2 {
        // The second time, because the acknowledgement was lost.
        let answers = store
            .settle(&[Arc::clone(&settlement)])
            .await
            .expect("settled");
        assert!(matches!(&answers[..], [Settled::Applied(_)]), "{answers:?}");
    }
    let payment = payment_of(&store, &recorded).await;
    assert_eq!((payment.captured, payment.version), (1_000, 2));
    assert_eq!(
        store.timeline(recorded.id).await.expect("readable").len(),
        2
    );
    // An open end is repeated as well.
    let recorded = begin(&store, sale("k2", 1_000)).await;
    let settlement = Arc::new(super::fixture::settlement(&recorded, unknown()));
    for _ in 0..2 {
        let answers = store
            .settle(&[Arc::clone(&settlement)])
            .await
            .expect("settled");
        assert!(matches!(&answers[..], [Settled::Applied(_)]), "{answers:?}");
    }
    assert_eq!(
        store.timeline(recorded.id).await.expect("readable").len(),
        2
    );
}

pub async fn an_authorization_is_captured_in_parts_and_voided(store: Ledger) {
    let held = authorized(&store, "k", 1_000).await;
    let payment = payment_of(&store, &held).await;
    assert_eq!(payment.status, PaymentStatus::Authorized);
    let part = begin(&store, follow_up("c", Verb::Capture, 400, &payment)).await;
    end(&store, &part, approved(400)).await;
    let payment = payment_of(&store, &held).await;
    assert_eq!((payment.authorized, payment.captured), (1_000, 400));
    assert_eq!(payment.status, PaymentStatus::Captured);

    let other = authorized(&store, "k2", 500).await;
    let payment = payment_of(&store, &other).await;
    let void = begin(&store, follow_up("v", Verb::Void, 500, &payment)).await;
    let ended = end(&store, &void, approved(500)).await;
    let payment = payment_of(&store, &other).await;
    assert!(payment.voided);
    assert_eq!(
        (payment.status, payment.capture_reserved),
        (PaymentStatus::Voided, 0)
    );
    assert_eq!(ended.snapshot.expect("final").status, PaymentStatus::Voided);
    let late = record_one(&store, follow_up("c2", Verb::Capture, 1, &payment)).await;
    assert!(
        matches!(late, crate::store::Recorded::OverLimit { available: 0 }),
        "{late:?}"
    );
}

pub async fn refunds_add_up_and_end_as_refunded(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    for (name, minor, status) in [
        ("r1", 400, PaymentStatus::PartiallyRefunded),
        ("r2", 600, PaymentStatus::Refunded),
    ] {
        let payment = payment_of(&store, &sold).await;
        let refund = begin(&store, follow_up(name, Verb::Refund, minor, &payment)).await;
        let ended = end(&store, &refund, approved(minor)).await;
        assert_eq!(ended.snapshot.expect("final").status, status);
        assert_eq!(payment_of(&store, &sold).await.status, status);
    }
    let payment = payment_of(&store, &sold).await;
    assert_eq!((payment.captured, payment.refunded), (1_000, 1_000));
    // The sale's own answer stays as it was.
    assert_eq!(read(&store, sold.id).await.snapshot, sold.snapshot);
}

pub async fn a_settlement_of_another_epoch_is_late(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let adopted = store
        .adopt_silent(replica(), &[never_beat(recorded.owner)], 10)
        .await
        .expect("adopted");
    let [adopted] = &adopted[..] else {
        panic!("{adopted:?}")
    };
    let checked = store
        .reschedule(&crate::store::Check {
            operation: adopted.id,
            epoch: adopted.epoch,
            owner: adopted.owner,
            next_after: Some(std::time::Duration::from_hours(1)),
            sent: false,
            evidence: serde_json::Value::Null,
            reason: "test",
        })
        .await
        .expect("rescheduled");
    assert!(checked.is_some());
    assert!(
        store
            .due(adopted.owner, 10)
            .await
            .expect("readable")
            .is_empty()
    );

    let settled = settle_one(&store, settlement(&recorded, approved(1_000))).await;
    let Settled::Stale(open) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(open.state.name(), StateName::Unknown);
    let late = open.late.as_ref().expect("kept for whoever took over");
    assert_eq!((&late.state, late.sends), (&approved(1_000), 1));
    let due = store.due(adopted.owner, 10).await.expect("readable");
    assert_eq!(due.len(), 1, "a late answer is looked at now");
    assert_eq!(due[0].late, open.late);
    let payment = payment_of(&store, &recorded).await;
    assert_eq!(
        (payment.captured, payment.status),
        (0, PaymentStatus::Unknown)
    );
    let kinds = kinds(&store, recorded.id).await;
    assert_eq!(kinds.last(), Some(&EventKind::LateAnswer));

    // The new owner goes on, and its end is final for both.
    end(&store, &due[0], unknown()).await;
    let current = read(&store, recorded.id).await;
    end(&store, &current, declined()).await;
    let settled = settle_one(&store, settlement(&recorded, approved(1_000))).await;
    let Settled::Stale(closed) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(closed.state, declined());
    assert_eq!(
        payment_of(&store, &recorded).await.status,
        PaymentStatus::Declined
    );
}

async fn kinds(store: &Ledger, id: crate::key::OperationId) -> Vec<EventKind> {
    let events = store.timeline(id).await.expect("readable");
    events.iter().map(|event| event.kind).collect()
}

pub async fn a_late_answer_does_not_give_way_to_a_weaker_one(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let first = store
        .adopt_silent(replica(), &[never_beat(recorded.owner)], 10)
        .await
        .expect("adopted");
    let second = store
        .adopt_silent(replica(), &[never_beat(first[0].owner)], 10)
        .await
        .expect("adopted");
    assert_eq!(second[0].epoch, recorded.epoch + 2);
    settle_one(&store, settlement(&recorded, approved(1_000))).await;
    settle_one(&store, settlement(&first[0], unknown())).await;
    let late = read(&store, recorded.id).await.late.expect("kept");
    assert_eq!(late.state, approved(1_000));
}

pub async fn a_late_answer_of_an_earlier_attempt_is_only_told(store: Ledger) {
    let first = begin(&store, sale("k", 1_000)).await;
    end(&store, &first, not_sent()).await;
    let second = begin(&store, sale("k", 1_000)).await;
    assert_eq!((second.id, second.attempt, second.sends), (first.id, 2, 1));
    let running = settle_one(&store, settlement(&first, declined())).await;
    assert!(matches!(running, Settled::Stale(_)), "{running:?}");
    // The second was sent and nobody knows its end: what the first learned too late must not end it.
    let lost = end(&store, &second, unknown()).await;
    let answers = [not_sent(), declined(), approved(1_000)];
    for late in answers {
        let settled = settle_one(&store, settlement(&first, late)).await;
        let Settled::Stale(open) = settled else {
            panic!("{settled:?}")
        };
        assert_eq!((&open.late, open.due_at), (&None, lost.due_at));
    }
    let stored = read(&store, first.id).await;
    assert_eq!((stored.late, stored.due_at), (None, lost.due_at));
    let events = store.timeline(first.id).await.expect("readable");
    let told = events
        .iter()
        .filter(|event| event.kind == EventKind::LateAnswer && event.evidence["attempt"] == 1);
    assert_eq!(told.count(), 4);
}

pub async fn a_final_state_stays(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let mut wrong = settlement(&begin(&store, sale("other", 1_000)).await, declined());
    wrong.operation = sold.id;
    wrong.payment = sold.payment;
    wrong.epoch = sold.epoch;
    let settled = settle_one(&store, wrong).await;
    let Settled::Stale(kept) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!(kept.state, approved(1_000));
    assert_eq!(kept.late, None);
}

pub async fn unknown_keeps_the_amount_and_lets_others_go_on(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let first = begin(&store, follow_up("r1", Verb::Refund, 700, &payment)).await;
    let first = end(&store, &first, unknown()).await;
    assert_eq!(
        first.reserved,
        Reserved {
            capture: 0,
            refund: 700
        }
    );
    assert!(first.due_at.is_some());
    let payment = payment_of(&store, &sold).await;
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 700));
    let second = begin(&store, follow_up("r2", Verb::Refund, 300, &payment)).await;
    end(&store, &second, approved(300)).await;
    end(&store, &first, declined()).await;
    let payment = payment_of(&store, &sold).await;
    assert_eq!((payment.refunded, payment.refund_reserved), (300, 0));
}

pub async fn unknown_that_compares_totals_keeps_the_payment(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = follow_up("r1", Verb::Refund, 300, &payment);
    let refund = begin(
        &store,
        Intent {
            holds_while_unknown: true,
            ..refund
        },
    )
    .await;
    let refund = end(&store, &refund, unknown()).await;
    let payment = payment_of(&store, &sold).await;
    assert_eq!(payment.busy_with, Some(refund.id));
    let other = record_one(&store, follow_up("r2", Verb::Refund, 300, &payment)).await;
    assert!(
        matches!(other, crate::store::Recorded::Busy { .. }),
        "{other:?}"
    );
    end(&store, &refund, approved(300)).await;
    assert_eq!(payment_of(&store, &sold).await.busy_with, None);
}

pub async fn not_sent_gives_back_what_it_held(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r1", Verb::Refund, 1_000, &payment)).await;
    let refund = end(&store, &refund, not_sent()).await;
    assert_eq!(refund.reserved, Reserved::default());
    let payment = payment_of(&store, &sold).await;
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 0));
    // Somebody else takes it; the key comes back and meets the limit like a new one.
    let other = begin(&store, follow_up("r2", Verb::Refund, 600, &payment)).await;
    end(&store, &other, approved(600)).await;
    let payment = payment_of(&store, &sold).await;
    let back = record_one(&store, follow_up("r1", Verb::Refund, 1_000, &payment)).await;
    assert!(
        matches!(back, crate::store::Recorded::OverLimit { available: 400 }),
        "{back:?}"
    );
    let unchanged = read(&store, refund.id).await;
    assert_eq!(
        (unchanged.state.name(), unchanged.attempt),
        (StateName::NotSent, 1)
    );
}

pub async fn totals_never_exceed_whatever_the_settlement_says(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let right = settlement(&recorded, approved(1_000));
    let wrong = |change: fn(&mut crate::operation::Effects)| {
        let mut wrong = right.clone();
        change(&mut wrong.effects);
        wrong
    };
    for effects in [
        wrong(|effects| effects.captured = 1_001),
        wrong(|effects| effects.refunded = 1_001),
        wrong(|effects| effects.authorized = -1),
        wrong(|effects| effects.releases.capture = 1),
    ] {
        let refused = store.settle(&[Arc::new(effects)]).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    let payment = payment_of(&store, &recorded).await;
    assert_eq!((payment.captured, payment.version), (0, 1));
    assert_eq!(
        read(&store, recorded.id).await.state.name(),
        StateName::Recorded
    );
}

pub async fn a_refused_settlement_leaves_its_batch_unwritten(store: Ledger) {
    let good = begin(&store, sale("k1", 1_000)).await;
    let bad = begin(&store, sale("k2", 1_000)).await;
    let mut poison = settlement(&bad, approved(1_000));
    poison.effects.captured = 2_000;
    let batch = [
        Arc::new(settlement(&good, approved(1_000))),
        Arc::new(poison),
    ];
    let refused = store.settle(&batch).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(
        read(&store, good.id).await.state.name(),
        StateName::Recorded
    );
    end(&store, &good, approved(1_000)).await;
}

pub async fn a_declined_create_is_final_with_a_snapshot(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    let ended = end(&store, &recorded, declined()).await;
    let snapshot = ended.snapshot.expect("final states have one");
    assert_eq!(
        (snapshot.status, snapshot.captured),
        (PaymentStatus::Declined, 0)
    );
    assert_eq!(
        payment_of(&store, &ended).await.status,
        PaymentStatus::Declined
    );
    // Unknown tells so on the payment as well.
    let recorded = begin(&store, sale("k2", 1_000)).await;
    let settlement = settlement(&recorded, unknown());
    assert_eq!(
        settlement.effects.status,
        StatusChange::Set(PaymentStatus::Unknown)
    );
    settle_one(&store, settlement).await;
    assert_eq!(
        payment_of(&store, &recorded).await.status,
        PaymentStatus::Unknown
    );
}
