//! Ownership, due work, and the small tables beside it.

use std::time::Duration;

use serde_json::json;

use super::fixture::{
    Ledger, account, approved, begin, charged, end, follow_up, never_beat, not_sent, payment_of,
    read, replica, reversal, sale, settle_one, settlement, unknown, usd, wish,
};
use crate::clock::Timestamp;
use crate::connector::{ReversalForm, UpstreamIds};
use crate::key::OperationId;
use crate::operation::{ParkedReason, Reserved, State, StateName, Verb};
use crate::payment::PaymentStatus;
use crate::store::{
    AtRisk, Check, EventKind, Heartbeat, Intent, Operation, ReversalBegun, TokenRow,
};

pub async fn heartbeats_count_up_and_show_the_others(store: Ledger) {
    let (a, b) = (replica(), replica());
    assert!(store.beat(a).await.expect("beats").is_empty());
    store.beat(a).await.expect("beats");
    let seen = store.beat(b).await.expect("beats");
    assert_eq!(
        seen.iter().map(|s| (s.replica, s.beat)).collect::<Vec<_>>(),
        [(a, 2)]
    );
    store.leave(b).await.expect("leaves");
    assert!(store.beat(a).await.expect("beats").is_empty());
}

pub async fn a_replica_with_open_operations_does_not_leave(store: Ledger) {
    let owner = replica();
    store.beat(owner).await.expect("beats");
    let recorded = begin(
        &store,
        Intent {
            owner,
            ..sale("k", 1_000)
        },
    )
    .await;
    store.leave(owner).await.expect("answers");
    assert_eq!(
        store.beat(replica()).await.expect("beats").len(),
        1,
        "it left its payment behind"
    );
    end(&store, &recorded, approved(1_000)).await;
    store.leave(owner).await.expect("leaves");
    let others = store.beat(replica()).await.expect("beats");
    assert!(others.iter().all(|other| other.replica != owner));
}

pub async fn adoption_raises_the_epoch_and_makes_recorded_unknown(store: Ledger) {
    let (silent, alive, me) = (replica(), replica(), replica());
    let recorded = begin(
        &store,
        Intent {
            owner: silent,
            ..sale("k1", 1_000)
        },
    )
    .await;
    let open = begin(
        &store,
        Intent {
            owner: silent,
            ..sale("k2", 1_000)
        },
    )
    .await;
    let open = end(&store, &open, unknown()).await;
    let ended = begin(
        &store,
        Intent {
            owner: silent,
            ..sale("k3", 1_000)
        },
    )
    .await;
    end(&store, &ended, approved(1_000)).await;
    let foreign = begin(
        &store,
        Intent {
            owner: alive,
            ..sale("k4", 1_000)
        },
    )
    .await;

    let adopted = store
        .adopt_silent(me, &[never_beat(silent)], 10)
        .await
        .expect("adopted");
    assert_eq!(adopted.len(), 2);
    for (before, name) in [(&recorded, "k1"), (&open, "k2")] {
        let now = adopted.iter().find(|o| o.id == before.id).expect(name);
        assert_eq!((now.owner, now.epoch), (me, before.epoch + 1));
        assert_eq!(now.state.name(), StateName::Unknown);
    }
    assert_eq!(
        payment_of(&store, &recorded).await.status,
        PaymentStatus::Unknown
    );
    assert_eq!(
        store.due(me, 10).await.expect("readable").len(),
        2,
        "due at once"
    );
    assert_eq!(read(&store, foreign.id).await.owner, alive);
    assert!(
        store
            .adopt_silent(me, &[never_beat(silent)], 10)
            .await
            .expect("adopted")
            .is_empty()
    );
}

pub async fn who_has_beaten_since_is_not_silent(store: Ledger) {
    let (owner, me) = (replica(), replica());
    store.beat(owner).await.expect("beats");
    let of = |beats: Vec<Heartbeat>| beats.into_iter().find(|other| other.replica == owner);
    let seen = of(store.beat(me).await.expect("beats")).expect("it beats");
    // It stood still for long, and goes on: its counter moves, and it records.
    store.beat(owner).await.expect("beats");
    let recorded = begin(
        &store,
        Intent {
            owner,
            ..sale("k", 1_000)
        },
    )
    .await;
    for before in [seen, never_beat(owner)] {
        let adopted = store.adopt_silent(me, &[before], 10).await;
        assert!(adopted.expect("answers").is_empty(), "{before:?}");
    }
    assert_eq!(read(&store, recorded.id).await.owner, owner);
    let seen = of(store.beat(me).await.expect("beats")).expect("it beats");
    let adopted = store.adopt_silent(me, &[seen], 10).await.expect("adopted");
    assert_eq!(adopted.len(), 1, "it stands still since");
}

pub async fn adoption_of_a_follow_up_releases_its_payment(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    store
        .adopt_silent(replica(), &[never_beat(refund.owner)], 10)
        .await
        .expect("adopted");
    let payment = payment_of(&store, &sold).await;
    // What may have been refunded stays reserved.
    assert_eq!((payment.busy_with, payment.refund_reserved), (None, 300));
    assert_eq!(payment.status, PaymentStatus::Captured);
}

pub async fn what_is_handed_over_is_adopted_by_anybody(store: Ledger) {
    let (leaving, me) = (replica(), replica());
    let recorded = begin(
        &store,
        Intent {
            owner: leaving,
            ..sale("k1", 1_000)
        },
    )
    .await;
    let open = begin(
        &store,
        Intent {
            owner: leaving,
            ..sale("k2", 1_000)
        },
    )
    .await;
    let open = end(&store, &open, unknown()).await;
    assert_eq!(store.hand_over(leaving).await.expect("handed over"), 1);
    // What the leaving one was doing with it has no effect any more.
    assert_eq!(read(&store, open.id).await.epoch, open.epoch + 1);
    let checked = store
        .reschedule(&check(&open, None))
        .await
        .expect("answers");
    assert!(checked.is_none(), "its checks go on elsewhere");
    // Nobody is silent, and yet it is taken at once. What still runs is not.
    let adopted = store.adopt_silent(me, &[], 10).await.expect("adopted");
    assert_eq!(adopted.iter().map(|o| o.id).collect::<Vec<_>>(), [open.id]);
    assert_eq!(read(&store, recorded.id).await.owner, leaving);
    // The look for overdue work finds it too: nobody may be silent for weeks.
    assert_eq!(store.hand_over(me).await.expect("handed over"), 1);
    let adopted = store.adopt_overdue(leaving, 10).await.expect("adopted");
    assert_eq!(adopted.iter().map(|o| o.id).collect::<Vec<_>>(), [open.id]);
}

pub async fn overdue_operations_are_adopted_whoever_owns_them(store: Ledger) {
    let me = replica();
    let late = Intent {
        send_within: Duration::ZERO,
        deadline_after: Duration::ZERO,
        ..sale("late", 1_000)
    };
    let late = begin(&store, late).await;
    let running = begin(&store, sale("running", 1_000)).await;
    let adopted = store.adopt_overdue(me, 10).await.expect("adopted");
    assert_eq!(adopted.iter().map(|o| o.id).collect::<Vec<_>>(), [late.id]);
    assert_eq!((adopted[0].owner, adopted[0].epoch), (me, late.epoch + 1));
    assert_eq!(adopted[0].state.name(), StateName::Unknown);
    assert_eq!(
        read(&store, running.id).await.state.name(),
        StateName::Recorded
    );
    let events = store.timeline(late.id).await.expect("readable");
    assert!(events.iter().any(|event| event.kind == EventKind::Adopted));
}

pub async fn what_fell_due_just_now_is_left_to_its_owner(store: Ledger) {
    // It has not beaten yet, or left a moment ago: only what lies about for longer belongs to nobody.
    let (unheard, alive) = (replica(), replica());
    store.beat(alive).await.expect("beats");
    for (name, owner) in [("k1", unheard), ("k2", alive)] {
        let intent = Intent {
            owner,
            ..sale(name, 1_000)
        };
        let recorded = begin(&store, intent).await;
        end(&store, &recorded, unknown()).await;
    }
    let adopted = store.adopt_overdue(alive, 10).await.expect("adopted");
    assert!(adopted.is_empty(), "{adopted:?}");
}

async fn lost(store: &Ledger, name: &str, check_after: Duration) -> Operation {
    let recorded = begin(store, sale(name, 1_000)).await;
    let settlement = crate::store::Settlement {
        check_after: Some(check_after),
        ..settlement(&recorded, unknown())
    };
    settle_one(store, settlement).await;
    read(store, recorded.id).await
}

pub async fn due_operations_come_soonest_first(store: Ledger) {
    let later = lost(&store, "later", Duration::from_hours(1)).await;
    let first = lost(&store, "first", Duration::ZERO).await;
    let second = lost(&store, "second", Duration::ZERO).await;
    let running = begin(&store, sale("running", 1_000)).await;
    let ids = |due: Vec<Operation>| due.into_iter().map(|o| o.id).collect::<Vec<OperationId>>();
    let due = ids(store.due(first.owner, 10).await.expect("readable"));
    assert_eq!(due, [first.id, second.id]);
    assert_eq!(
        ids(store.due(first.owner, 1).await.expect("readable")),
        [first.id]
    );
    assert!(store.due(replica(), 10).await.expect("readable").is_empty());
    assert!(later.due_at > first.due_at && running.due_at > first.due_at);
}

fn check(of: &Operation, next_after: Option<Duration>) -> Check {
    Check {
        operation: of.id,
        epoch: of.epoch,
        owner: of.owner,
        next_after,
        sent: false,
        evidence: json!({ "found": false }),
        reason: "not found so far",
    }
}

pub async fn a_check_moves_the_due_time_and_is_counted(store: Ledger) {
    let open = lost(&store, "k", Duration::ZERO).await;
    let next = check(&open, Some(Duration::from_hours(1)));
    assert!(store.reschedule(&next).await.expect("written").is_some());
    let after = read(&store, open.id).await;
    assert_eq!((after.checks, after.epoch), (1, open.epoch));
    assert!(
        store
            .due(open.owner, 10)
            .await
            .expect("readable")
            .is_empty()
    );
    let events = store.timeline(open.id).await.expect("readable");
    let last = events.last().expect("events");
    assert_eq!(
        (last.kind, last.reason.as_str()),
        (EventKind::Checked, "not found so far")
    );
    assert_eq!(last.evidence, json!({ "found": false }));

    store
        .adopt_silent(replica(), &[never_beat(open.owner)], 10)
        .await
        .expect("adopted");
    assert!(
        store.reschedule(&next).await.expect("answers").is_none(),
        "the epoch moved"
    );
    let ended = charged(&store, "ended", 1_000).await;
    let next = check(&ended, Some(Duration::ZERO));
    assert!(
        store.reschedule(&next).await.expect("answers").is_none(),
        "nothing to check"
    );
}

pub async fn a_send_is_counted_and_moves_the_horizon(store: Ledger) {
    let soon = Intent {
        send_within: Duration::ZERO,
        deadline_after: Duration::ZERO,
        late_arrival_horizon: Duration::ZERO,
        ..sale("k", 1_000)
    };
    let recorded = begin(&store, soon).await;
    assert!(read(&store, recorded.id).await.past_horizon());
    let counted = store
        .count_send(recorded.id, recorded.epoch, recorded.owner)
        .await;
    let counted = counted.expect("written").expect("still ours");
    assert_eq!(counted.sends, 2);
    assert!(counted.late_after > recorded.late_after);
    let stored = read(&store, recorded.id).await;
    assert_eq!((stored.sends, stored.late_after), (2, counted.late_after));
    let other = store
        .count_send(recorded.id, recorded.epoch + 1, recorded.owner)
        .await;
    assert!(other.expect("answers").is_none(), "another epoch");
    end(&store, &stored, approved(1_000)).await;
    let over = store
        .count_send(recorded.id, recorded.epoch, recorded.owner)
        .await;
    assert!(over.expect("answers").is_none(), "it is final");
    // And a horizon is only ever moved up.
    let far = Intent {
        late_arrival_horizon: Duration::from_hours(1),
        ..sale("k2", 1_000)
    };
    let recorded = begin(&store, far).await;
    let counted = store
        .count_send(recorded.id, recorded.epoch, recorded.owner)
        .await;
    assert!(counted.expect("written").expect("ours").late_after >= recorded.late_after);
}

pub async fn the_horizon_counts_from_when_nothing_leaves_any_more(store: Ledger) {
    let moved_up = |before: &Operation, now: &Operation| {
        let horizon = before.late_after.since(before.send_by);
        assert!(now.late_after < before.late_after, "not left as it was");
        assert!(now.late_after >= before.recorded_at + horizon, "too soon");
        assert!(now.late_after <= now.read_at + horizon, "later than this");
    };
    // Its sender said that it has ended.
    let recorded = begin(&store, sale("ended", 1_000)).await;
    end(&store, &recorded, unknown()).await;
    let ended = read(&store, recorded.id).await;
    moved_up(&recorded, &ended);
    // It was sent once more: until that has ended, too, it may leave until the last moment.
    let count = store.count_send(ended.id, ended.epoch, ended.owner).await;
    let counted = count.expect("written").expect("still ours");
    let waits = check(&counted, Some(Duration::from_hours(1)));
    store.reschedule(&waits).await.expect("written");
    let again = read(&store, counted.id).await;
    assert_eq!(again.late_after, counted.late_after);
    let has_ended = Check {
        sent: true,
        ..waits
    };
    store.reschedule(&has_ended).await.expect("written");
    moved_up(&recorded, &read(&store, counted.id).await);
    // Whoever is silent begins no send.
    let silent = begin(&store, sale("silent", 1_000)).await;
    let owners = [never_beat(silent.owner)];
    let taken = store.adopt_silent(replica(), &owners, 10).await;
    taken.expect("adopted");
    moved_up(&silent, &read(&store, silent.id).await);
    // Who is asked to cancel knows nothing of the sender, which may be about to send.
    let running = begin(&store, sale("running", 1_000)).await;
    let wished = store.cancel(&wish("running")).await;
    wished.expect("recorded");
    assert_eq!(
        read(&store, running.id).await.late_after,
        running.late_after
    );
}

pub async fn a_token_is_replaced_only_by_who_knows_it(store: Ledger) {
    let token = |generation: i64| TokenRow {
        generation,
        ciphertext: vec![1, 2, u8::try_from(generation).expect("small")],
        issued_at: Timestamp::from_seconds(1_000),
        expires_at: Timestamp::from_seconds(2_000),
    };
    assert_eq!(store.load_token("t").await.expect("readable"), None);
    assert!(store.store_token("t", 0, &token(1)).await.expect("written"));
    assert!(!store.store_token("t", 0, &token(1)).await.expect("answers"));
    assert!(!store.store_token("t", 7, &token(8)).await.expect("answers"));
    assert_eq!(
        store.load_token("t").await.expect("readable"),
        Some(token(1))
    );
    assert!(store.store_token("t", 1, &token(2)).await.expect("written"));
    assert_eq!(
        store.load_token("t").await.expect("readable"),
        Some(token(2))
    );
    assert_eq!(store.load_token("other").await.expect("readable"), None);
}

pub async fn at_risk_adds_up_what_is_open(store: Ledger) {
    lost(&store, "k1", Duration::ZERO).await;
    lost(&store, "k2", Duration::ZERO).await;
    begin(&store, sale("k3", 500)).await;
    charged(&store, "k4", 9_000).await;
    let found = store.at_risk().await.expect("readable");
    assert_eq!(
        found,
        [
            risk(StateName::Recorded, 1, 500),
            risk(StateName::Unknown, 2, 2_000)
        ]
    );
}

fn risk(state: StateName, operations: i64, minor: i64) -> AtRisk {
    AtRisk {
        account: account(),
        currency: usd(0).currency(),
        state,
        operations,
        minor,
    }
}

pub async fn at_risk_counts_what_is_to_be_undone_once(store: Ledger) {
    let found = async || store.at_risk().await.expect("readable");
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    let refund = end(&store, &refund, unknown()).await;
    assert_eq!(found().await, [risk(StateName::Unknown, 1, 300)]);

    // To be undone: all of it but what the refund counts.
    store.cancel(&wish("k")).await.expect("recorded");
    let both = [
        risk(StateName::Approved, 1, 700),
        risk(StateName::Unknown, 1, 300),
    ];
    assert_eq!(found().await, both);
    end(&store, &refund, approved(300)).await;
    assert_eq!(found().await, [risk(StateName::Approved, 1, 700)]);

    // Then under the state of its reversal, whatever form that takes.
    let reserve = Some(Reserved {
        capture: 0,
        refund: 700,
    });
    let void = ReversalForm::Void {
        ids: UpstreamIds::default(),
    };
    let again = async |form: &ReversalForm| {
        let of = read(&store, sold.id).await;
        let wanted = reversal(&of, form.clone(), reserve);
        let begun = store.begin_reversal(&wanted).await.expect("recorded");
        let ReversalBegun::Send { reversal, .. } = begun else {
            panic!("{begun:?}")
        };
        *reversal
    };
    let sent = again(&void).await;
    assert_eq!(found().await, [risk(StateName::Recorded, 1, 700)]);
    end(&store, &sent, not_sent()).await;
    assert_eq!(found().await, [risk(StateName::Approved, 1, 700)]);
    let sent = again(&void).await;
    let open = end(&store, &sent, unknown()).await;
    assert_eq!(found().await, [risk(StateName::Unknown, 1, 700)]);
    let detail = "refused".to_owned();
    let parked = State::Parked {
        parked: ParkedReason::ReversalFailed { detail },
    };
    let open = end(&store, &open, parked).await;
    assert_eq!(found().await, [risk(StateName::Parked, 1, 700)]);
    end(&store, &open, approved(700)).await;
    assert_eq!(found().await, []);

    // What is unknown itself is counted itself, and its reversal is not.
    let lost = lost(&store, "lost", Duration::ZERO).await;
    let wanted = reversal(&lost, ReversalForm::ByReference, None);
    store.begin_reversal(&wanted).await.expect("recorded");
    assert_eq!(found().await, [risk(StateName::Unknown, 1, 1_000)]);
}
