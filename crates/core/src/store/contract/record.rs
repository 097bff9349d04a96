//! Commit 1: who gets a key, and what refuses one.

use std::sync::Arc;

use uuid::Uuid;

use super::fixture::{
    Ledger, approved, authorized, begin, charged, client, create, declined, end, follow_up,
    guarded_sale, intent, key, never_beat, not_sent, payment_of, read, record_one, replica, sale,
    settle_one, settlement, unknown,
};
use crate::connector::Prepared;
use crate::key::PaymentId;
use crate::operation::{Reserved, State, StateName, Verb};
use crate::payment::PaymentStatus;
use crate::store::{Intent, IntentKind, Recorded, StoreError};

pub async fn a_new_key_is_claimed_once_and_repeated_by_its_claim(store: Ledger) {
    let intent = Arc::new(sale("k", 1_000));
    let first = store
        .record(&[Arc::clone(&intent)])
        .await
        .expect("recorded");
    let [Recorded::New(first)] = &first[..] else {
        panic!("{first:?}")
    };
    // The acknowledgement was lost: the same batch again.
    let again = store
        .record(&[Arc::clone(&intent)])
        .await
        .expect("recorded");
    let [Recorded::New(again)] = &again[..] else {
        panic!("{again:?}")
    };
    assert_eq!((again.id, again.claim), (first.id, first.claim));
    assert_eq!(store.timeline(first.id).await.expect("readable").len(), 1);
    // Taken from its owner meanwhile: whoever asks again must not send it any more.
    let adopted = store
        .adopt_silent(replica(), &[never_beat(first.owner)], 10)
        .await
        .expect("adopted");
    assert_eq!(adopted.len(), 1);
    let late = store.record(&[intent]).await.expect("recorded");
    assert!(matches!(&late[..], [Recorded::Known(_)]), "{late:?}");
}

pub async fn a_known_key_shows_its_holder(store: Ledger) {
    let first = begin(&store, sale("k", 1_000)).await;
    let other = record_one(&store, sale("k", 2_000)).await;
    let Recorded::Known(holder) = other else {
        panic!("{other:?}")
    };
    assert_eq!(holder.id, first.id);
    end(&store, &first, declined()).await;
    let other = record_one(&store, sale("k", 1_000)).await;
    let Recorded::Known(holder) = other else {
        panic!("{other:?}")
    };
    assert_eq!(holder.state.name(), StateName::Declined);
    // The loser opened nothing.
    let payments = store.payments(&all_payments()).await.expect("readable");
    assert_eq!(payments.len(), 1);
}

fn all_payments() -> crate::store::PaymentQuery {
    crate::store::PaymentQuery {
        limit: 100,
        ..Default::default()
    }
}

pub async fn the_recorded_row_is_what_was_intended(store: Ledger) {
    let intent = guarded_sale("k", "857B2");
    let recorded = begin(&store, intent.clone()).await;
    let operation = read(&store, recorded.id).await;
    assert_eq!(operation.id, intent.operation);
    assert_eq!(operation.claim, intent.claim);
    assert_eq!(operation.client, intent.client);
    assert_eq!(operation.key, intent.key);
    assert_eq!(operation.verb, Verb::Sale);
    assert_eq!(operation.payment, intent.payment());
    assert_eq!(operation.account, intent.account);
    assert_eq!(operation.endpoint, intent.endpoint);
    assert_eq!(operation.amount, intent.amount);
    assert_eq!(operation.state, State::Recorded);
    assert_eq!(
        (operation.attempt, operation.sends, operation.epoch),
        (1, 1, 1)
    );
    assert_eq!(operation.reference, intent.reference);
    assert_eq!(operation.fingerprint, intent.fingerprint);
    assert_eq!(operation.order_reference, intent.order_reference);
    assert_eq!(operation.owner, intent.owner);
    assert_eq!(operation.first_attempt_at, operation.recorded_at);
    assert_eq!(
        operation.send_by,
        operation.recorded_at + intent.send_within
    );
    assert_eq!(
        operation.deadline,
        operation.send_by + intent.deadline_after
    );
    assert_eq!(
        operation.late_after,
        operation.send_by + intent.late_arrival_horizon
    );
    assert_eq!(operation.due_at, Some(operation.deadline));
    assert!(!operation.past_horizon());
    assert!(operation.read_at >= operation.recorded_at);
    assert_eq!(operation.parent_reference, Some(intent.reference.clone()));
    let payment = payment_of(&store, &operation).await;
    assert_eq!(payment.status, PaymentStatus::Pending);
    assert_eq!(
        (payment.amount, payment.authorized, payment.version),
        (1_000, 0, 1)
    );
    assert_eq!(payment.reference, intent.reference);
    // What the recorder was told is what is stored.
    assert_eq!(
        format!("{:?}", same_read(recorded)),
        format!("{:?}", same_read(operation))
    );

    // And the same of a plain one, which goes another way.
    let recorded = begin(&store, sale("plain", 1_000)).await;
    let operation = read(&store, recorded.id).await;
    assert_eq!(
        format!("{:?}", same_read(recorded)),
        format!("{:?}", same_read(operation))
    );
}

/// The instant of the read is all that may differ.
fn same_read(operation: crate::store::Operation) -> crate::store::Operation {
    crate::store::Operation {
        read_at: operation.recorded_at,
        ..operation
    }
}

pub async fn a_key_that_sent_nothing_is_claimed_again_with_its_reference(store: Ledger) {
    let first = begin(&store, sale("k", 1_000)).await;
    let ended = end(&store, &first, not_sent()).await;
    assert_eq!(ended.due_at, None);
    let again = begin(&store, sale("k", 1_000)).await;
    assert_eq!(again.id, first.id);
    assert_eq!(again.payment, first.payment);
    assert_eq!(again.reference, first.reference);
    assert_ne!(again.claim, first.claim);
    assert_eq!((again.attempt, again.sends), (2, 1));
    assert_eq!(again.epoch, first.epoch + 1);
    assert_eq!(again.first_attempt_at, first.first_attempt_at);
    assert_eq!(again.state, State::Recorded);
    assert_eq!(again.due_at, Some(again.deadline));
    // The first attempt can settle nothing any more.
    let settled = settle_one(&store, settlement(&first, approved(1_000))).await;
    assert!(
        matches!(settled, crate::store::Settled::Stale(_)),
        "{settled:?}"
    );
    end(&store, &again, approved(1_000)).await;
    let payments = store.payments(&all_payments()).await.expect("readable");
    assert_eq!(payments.len(), 1);
    assert_eq!(payments[0].status, PaymentStatus::Captured);
}

pub async fn another_request_does_not_get_a_key_that_sent_nothing(store: Ledger) {
    let first = begin(&store, sale("k", 1_000)).await;
    end(&store, &first, not_sent()).await;
    let other = record_one(&store, sale("k", 2_000)).await;
    assert!(matches!(other, Recorded::Reused(_)), "{other:?}");
    assert_eq!(
        read(&store, first.id).await.state.name(),
        StateName::NotSent
    );
}

pub async fn a_follow_up_takes_the_payment_and_reserves(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let before = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &before)).await;
    assert_eq!(
        refund.reserved,
        Reserved {
            capture: 0,
            refund: 300
        }
    );
    assert_eq!(refund.parent.get("sale"), Some("guid-1"));
    assert_eq!(refund.parent_reference, Some(sold.reference.clone()));
    assert!(refund.parent_card.is_some());
    let during = payment_of(&store, &sold).await;
    assert_eq!(during.busy_with, Some(refund.id));
    assert_eq!(during.refund_reserved, 300);
    assert_eq!(during.version, before.version + 1);
    end(&store, &refund, approved(300)).await;
    let after = payment_of(&store, &sold).await;
    assert_eq!(
        (after.busy_with, after.refund_reserved, after.refunded),
        (None, 0, 300)
    );
    assert_eq!(after.status, PaymentStatus::PartiallyRefunded);
}

pub async fn a_refused_follow_up_claims_no_key(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let running = begin(&store, follow_up("r1", Verb::Refund, 300, &payment)).await;
    let busy = record_one(&store, follow_up("r2", Verb::Refund, 300, &payment)).await;
    assert!(
        matches!(busy, Recorded::Busy { with: Some(with) } if with == running.id),
        "{busy:?}"
    );
    let over = {
        end(&store, &running, approved(300)).await;
        let payment = payment_of(&store, &sold).await;
        record_one(&store, follow_up("r3", Verb::Refund, 701, &payment)).await
    };
    assert!(
        matches!(over, Recorded::OverLimit { available: 700 }),
        "{over:?}"
    );
    let mut lost = follow_up("r4", Verb::Refund, 300, &payment);
    let IntentKind::FollowUp { payment: id, .. } = &mut lost.kind else {
        unreachable!()
    };
    *id = PaymentId::from_uuid(Uuid::new_v4());
    let lost = record_one(&store, lost).await;
    assert!(matches!(lost, Recorded::NoPayment), "{lost:?}");
    for name in ["r2", "r3", "r4"] {
        let holder = store
            .operation_by_key(&client(), &key(name))
            .await
            .expect("readable");
        assert!(holder.is_none(), "{name} is claimed");
    }
    let payment = payment_of(&store, &sold).await;
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 0));
}

pub async fn over_the_limit_is_said_only_of_settled_amounts(store: Ledger) {
    let held = authorized(&store, "k", 1_000).await;
    let payment = payment_of(&store, &held).await;
    let first = begin(&store, follow_up("c1", Verb::Capture, 800, &payment)).await;
    end(&store, &first, unknown()).await;
    // 800 are reserved by what may yet fail: 300 do not fit now, and may fit later.
    let payment = payment_of(&store, &held).await;
    assert_eq!((payment.busy_with, payment.capture_reserved), (None, 800));
    let second = record_one(&store, follow_up("c2", Verb::Capture, 300, &payment)).await;
    assert!(
        matches!(second, Recorded::Busy { with: None }),
        "{second:?}"
    );
    // What is left beside it goes on.
    let third = begin(&store, follow_up("c3", Verb::Capture, 200, &payment)).await;
    end(&store, &third, approved(200)).await;
    let payment = payment_of(&store, &held).await;
    let fourth = record_one(&store, follow_up("c4", Verb::Capture, 801, &payment)).await;
    assert!(
        matches!(fourth, Recorded::OverLimit { available: 800 }),
        "{fourth:?}"
    );
}

pub async fn a_follow_up_of_a_moved_payment_is_stale(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let before = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r1", Verb::Refund, 300, &before)).await;
    end(&store, &refund, approved(300)).await;
    let stale = record_one(&store, follow_up("r2", Verb::Refund, 300, &before)).await;
    assert!(matches!(stale, Recorded::Stale), "{stale:?}");
    let now = payment_of(&store, &sold).await;
    begin(&store, follow_up("r2", Verb::Refund, 300, &now)).await;
}

pub async fn a_follow_up_waits_while_its_create_is_open(store: Ledger) {
    let held = begin(&store, create("k", Verb::Authorize, 1_000)).await;
    let payment = payment_of(&store, &held).await;
    let early = record_one(&store, follow_up("c", Verb::Capture, 1_000, &payment)).await;
    assert!(matches!(early, Recorded::Busy { .. }), "{early:?}");
    end(&store, &held, unknown()).await;
    let payment = payment_of(&store, &held).await;
    let early = record_one(&store, follow_up("c", Verb::Capture, 1_000, &payment)).await;
    assert!(matches!(early, Recorded::Busy { .. }), "{early:?}");
}

pub async fn a_baseline_wants_nothing_else_open(store: Ledger) {
    let held = authorized(&store, "k", 1_000).await;
    let payment = payment_of(&store, &held).await;
    let captured = begin(&store, follow_up("c1", Verb::Capture, 400, &payment)).await;
    end(&store, &captured, approved(400)).await;
    let payment = payment_of(&store, &held).await;
    let open = begin(&store, follow_up("c2", Verb::Capture, 200, &payment)).await;
    end(&store, &open, unknown()).await;
    let payment = payment_of(&store, &held).await;
    let comparing = |name: &str| {
        let mut refund = follow_up(name, Verb::Refund, 100, &payment);
        let IntentKind::FollowUp { prepared, .. } = &mut refund.kind else {
            unreachable!()
        };
        *prepared = Some(Prepared {
            baseline: Some(400),
            ..Prepared::default()
        });
        Intent {
            holds_while_unknown: true,
            ..refund
        }
    };
    // The unknown capture may still change the totals that the refund would be judged by.
    let disturbed = record_one(&store, comparing("r")).await;
    assert!(
        matches!(disturbed, Recorded::Busy { with: None }),
        "{disturbed:?}"
    );
    begin(&store, follow_up("r2", Verb::Refund, 100, &payment)).await;
}

pub async fn an_order_has_one_live_create(store: Ledger) {
    let first = begin(&store, guarded_sale("k1", "857B2")).await;
    let second = record_one(&store, guarded_sale("k2", "857B2")).await;
    let Recorded::PossibleDuplicate {
        operation,
        payment,
        key: holder,
        ..
    } = &second
    else {
        panic!("{second:?}")
    };
    assert_eq!(
        (*operation, *payment, holder),
        (first.id, first.payment, &key("k1"))
    );
    let holder = store
        .operation_by_key(&client(), &key("k2"))
        .await
        .expect("readable");
    assert!(holder.is_none(), "a refused create claimed its key");
    // The same key is itself, not a duplicate of itself.
    let again = record_one(&store, guarded_sale("k1", "857B2")).await;
    assert!(matches!(again, Recorded::Known(_)), "{again:?}");
    // Another order, and a create that does not ask, go on.
    begin(&store, guarded_sale("k3", "857B3")).await;
    let free = Intent {
        order_reference: first.order_reference.clone(),
        ..sale("k4", 1_000)
    };
    begin(&store, free).await;
}

pub async fn an_order_is_free_again_when_nothing_of_it_stands(store: Ledger) {
    let refused = |answer: &Recorded| matches!(answer, Recorded::PossibleDuplicate { .. });
    // Nothing was sent.
    let first = begin(&store, guarded_sale("k1", "o")).await;
    end(&store, &first, not_sent()).await;
    let second = begin(&store, guarded_sale("k2", "o")).await;
    // And now the first may not come back beside the second.
    let back = record_one(&store, guarded_sale("k1", "o")).await;
    assert!(refused(&back), "{back:?}");
    assert_eq!(
        read(&store, first.id).await.state.name(),
        StateName::NotSent
    );
    // Unknown and approved both stand.
    let second = end(&store, &second, unknown()).await;
    assert!(refused(&record_one(&store, guarded_sale("k3", "o")).await));
    let second = end(&store, &second, approved(1_000)).await;
    assert!(refused(&record_one(&store, guarded_sale("k3", "o")).await));
    // Refunded in part still stands, in full no longer.
    let payment = payment_of(&store, &second).await;
    let part = begin(&store, follow_up("r1", Verb::Refund, 400, &payment)).await;
    end(&store, &part, approved(400)).await;
    assert!(refused(&record_one(&store, guarded_sale("k3", "o")).await));
    let payment = payment_of(&store, &second).await;
    let rest = begin(&store, follow_up("r2", Verb::Refund, 600, &payment)).await;
    end(&store, &rest, approved(600)).await;
    let third = begin(&store, guarded_sale("k3", "o")).await;
    end(&store, &third, declined()).await;
    begin(&store, guarded_sale("k4", "o")).await;
}

pub async fn two_guarded_creates_in_one_batch_do_not_both_pass(store: Ledger) {
    let batch: Vec<_> = ["k1", "k2", "k3"]
        .map(|name| Arc::new(guarded_sale(name, "857B2")))
        .into();
    let answers = store.record(&batch).await.expect("recorded");
    let won = answers
        .iter()
        .filter(|answer| matches!(answer, Recorded::New(_)))
        .count();
    let refused = answers
        .iter()
        .filter(|a| matches!(a, Recorded::PossibleDuplicate { .. }))
        .count();
    assert_eq!((won, refused), (1, 2), "{answers:?}");
}

pub async fn a_batch_of_every_kind_answers_in_its_order(store: Ledger) {
    let sold = charged(&store, "sold", 1_000).await;
    let idle = begin(&store, sale("idle", 500)).await;
    end(&store, &idle, not_sent()).await;
    let payment = payment_of(&store, &sold).await;
    let batch = [
        sale("z", 100),
        follow_up("refund", Verb::Refund, 100, &payment),
        sale("sold", 1_000),
        guarded_sale("guarded", "o"),
        sale("idle", 500),
        intent("check", Verb::Verify, 0, IntentKind::Verification),
        sale("a", 100),
    ]
    .map(Arc::new);
    let answers = store.record(&batch).await.expect("recorded");
    assert_eq!(answers.len(), batch.len());
    for (intent, answer) in batch.iter().zip(&answers) {
        let (Recorded::New(operation) | Recorded::Known(operation)) = answer else {
            panic!("{}: {answer:?}", intent.key)
        };
        assert_eq!(operation.key, intent.key);
        let known = intent.key == key("sold");
        assert_eq!(
            known,
            matches!(answer, Recorded::Known(_)),
            "{}",
            intent.key
        );
    }
}

pub async fn a_verification_has_no_payment(store: Ledger) {
    let check = begin(
        &store,
        intent("v", Verb::Verify, 0, IntentKind::Verification),
    )
    .await;
    assert_eq!(check.payment, None);
    let ended = end(&store, &check, approved(0)).await;
    assert_eq!(ended.snapshot, None);
    assert!(ended.settled_at.is_some());
}

pub async fn a_taken_reference_is_refused(store: Ledger) {
    let first = sale("k1", 1_000);
    let taken = |name: &str| Intent {
        reference: first.reference.clone(),
        ..sale(name, 1_000)
    };
    let (second, guarded) = (
        taken("k2"),
        Intent {
            kind: guarded_sale("k3", "o").kind,
            ..taken("k3")
        },
    );
    let innocent = Arc::new(sale("k4", 1_000));
    begin(&store, first).await;
    for wrong in [second, guarded] {
        let batch = [Arc::new(wrong), Arc::clone(&innocent)];
        let refused = store.record(&batch).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    for name in ["k2", "k3"] {
        let holder = store
            .operation_by_key(&client(), &key(name))
            .await
            .expect("readable");
        assert!(holder.is_none(), "{name} was written");
    }
    // Split from it, the other goes on.
    let alone = store.record(&[innocent]).await.expect("recorded");
    assert!(matches!(&alone[..], [Recorded::New(_)]), "{alone:?}");
}
