//! What callers are shown.

use std::sync::Arc;

use super::fixture::{
    Ledger, account, approved, begin, charged, client, end, follow_up, intent, key, never_beat,
    not_sent, operation_id, payment_id, payment_of, record_one, replica, sale, settle_one,
    settlement, unknown, wish,
};
use crate::connector::UpstreamIds;
use crate::key::{AccountName, OrderReference, PaymentId};
use crate::operation::{State, StateName, Verb};
use crate::payment::{Payment, PaymentStatus};
use crate::store::{CONTROL_AMONG, Event, EventKind, EventQuery, Intent, IntentKind, PaymentQuery};

pub async fn operations_and_payments_are_read_back(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let payment = payment_of(&store, &sold).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    let of = store.operations_of(payment.id).await.expect("readable");
    assert_eq!(
        of.iter().map(|o| o.id).collect::<Vec<_>>(),
        [sold.id, refund.id]
    );
    let by_key = store
        .operation_by_key(&client(), &key("r"))
        .await
        .expect("readable");
    assert_eq!(by_key.expect("it exists").id, refund.id);
    assert!(
        store
            .operation_by_key(&client(), &key("x"))
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        store
            .operation(operation_id())
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        store
            .payment(payment_id())
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        store
            .operations_of(payment_id())
            .await
            .expect("readable")
            .is_empty()
    );
    // The keys of one client are not those of another.
    let other = crate::key::Client::from_stored("other");
    assert!(
        store
            .operation_by_key(&other, &key("r"))
            .await
            .expect("readable")
            .is_none()
    );
}

pub async fn ended_names_only_what_ended(store: Ledger) {
    let running = begin(&store, sale("running", 1_000)).await;
    let lost = begin(&store, sale("lost", 1_000)).await;
    end(&store, &lost, unknown()).await;
    let idle = begin(&store, sale("idle", 1_000)).await;
    end(&store, &idle, not_sent()).await;
    let sold = charged(&store, "sold", 1_000).await;
    let ids = [running.id, lost.id, idle.id, sold.id, operation_id()];
    let mut ended: Vec<_> = store
        .ended(&ids)
        .await
        .expect("readable")
        .into_iter()
        .map(|o| o.id)
        .collect();
    ended.sort_unstable();
    let mut expected = vec![idle.id, sold.id];
    expected.sort_unstable();
    assert_eq!(ended, expected);
    assert!(store.ended(&[]).await.expect("readable").is_empty());
}

fn ids(payments: &[Payment]) -> Vec<PaymentId> {
    payments.iter().map(|payment| payment.id).collect()
}

pub async fn payments_are_listed_newest_first_by_keyset(store: Ledger) {
    let mut created = Vec::new();
    for i in 0..7 {
        let account = AccountName::from_stored(["a", "b", "c"][i % 3]);
        let order = OrderReference::from_stored(["x", "y"][i % 2]);
        let intent = sale(&format!("k{i}"), 1_000);
        let recorded = begin(
            &store,
            Intent {
                account,
                order_reference: Some(order),
                ..intent
            },
        )
        .await;
        if i == 4 {
            end(&store, &recorded, approved(1_000)).await;
        }
        created.push(payment_of(&store, &recorded).await);
    }
    created.sort_by_key(|payment| std::cmp::Reverse((payment.created_at, payment.id)));
    let all = PaymentQuery {
        limit: 100,
        ..PaymentQuery::default()
    };
    assert_eq!(
        ids(&store.payments(&all).await.expect("readable")),
        ids(&created)
    );

    // Page by page, nothing twice and nothing left out.
    let mut paged: Vec<Payment> = Vec::new();
    loop {
        let before = paged.last().map(|last| (last.created_at, last.id));
        let page = PaymentQuery {
            limit: 2,
            before,
            ..PaymentQuery::default()
        };
        let page = store.payments(&page).await.expect("readable");
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(ids(&paged), ids(&created));

    let shown = async |query: PaymentQuery| {
        let query = PaymentQuery {
            limit: 100,
            ..query
        };
        ids(&store.payments(&query).await.expect("readable"))
    };
    let kept = |keep: &dyn Fn(&Payment) -> bool| {
        created
            .iter()
            .filter(|p| keep(p))
            .map(|p| p.id)
            .collect::<Vec<_>>()
    };
    let accounts = vec![AccountName::from_stored("a"), AccountName::from_stored("c")];
    let of_accounts = PaymentQuery {
        accounts: Some(accounts.clone()),
        ..PaymentQuery::default()
    };
    assert_eq!(
        shown(of_accounts).await,
        kept(&|p| accounts.contains(&p.account))
    );
    let none = PaymentQuery {
        accounts: Some(Vec::new()),
        ..PaymentQuery::default()
    };
    assert!(shown(none).await.is_empty());
    let order = OrderReference::from_stored("x");
    let of_order = PaymentQuery {
        order_reference: Some(order.clone()),
        ..PaymentQuery::default()
    };
    assert_eq!(
        shown(of_order).await,
        kept(&|p| p.order_reference.as_ref() == Some(&order))
    );
    let captured = PaymentQuery {
        status: Some(PaymentStatus::Captured),
        ..PaymentQuery::default()
    };
    assert_eq!(
        shown(captured).await,
        kept(&|p| p.status == PaymentStatus::Captured)
    );
    let after = created[3].created_at;
    let newer = PaymentQuery {
        created_after: Some(after),
        ..PaymentQuery::default()
    };
    assert_eq!(shown(newer).await, kept(&|p| p.created_at > after));
}

/// Reads the feed page by page until it has shown `count` events, and once more. What others write into the same server
/// may hold it up, so an empty page is no end.
pub async fn feed(
    store: &Ledger,
    page: u32,
    accounts: Option<Vec<AccountName>>,
    count: usize,
) -> Vec<Event> {
    let begun = std::time::Instant::now();
    let mut seen: Vec<Event> = Vec::new();
    loop {
        assert!(
            begun.elapsed().as_secs() < 60,
            "the feed stopped after {seen:?}"
        );
        let after = seen.last().map(|event| event.cursor);
        let query = EventQuery {
            accounts: accounts.clone(),
            after,
            limit: page,
        };
        let events = store.events(&query).await.expect("readable");
        if events.is_empty() && seen.len() >= count {
            return seen;
        }
        seen.extend(events);
    }
}

pub async fn the_feed_shows_each_transition_once_in_order(store: Ledger) {
    let sold = charged(&store, "k", 1_000).await;
    let lost = begin(&store, sale("lost", 1_000)).await;
    store
        .adopt_silent(replica(), &[never_beat(lost.owner)], 10)
        .await
        .expect("adopted");
    let other = AccountName::from_stored("other");
    let foreign = begin(
        &store,
        Intent {
            account: other.clone(),
            ..sale("other", 5)
        },
    )
    .await;
    let seen = feed(&store, 2, None, 5).await;
    let told: Vec<_> = seen
        .iter()
        .map(|event| (event.operation, event.from, event.to))
        .collect();
    let expected = [
        (sold.id, None, Some(StateName::Recorded)),
        (
            sold.id,
            Some(StateName::Recorded),
            Some(StateName::Approved),
        ),
        (lost.id, None, Some(StateName::Recorded)),
        (lost.id, Some(StateName::Recorded), Some(StateName::Unknown)),
        (foreign.id, None, Some(StateName::Recorded)),
    ];
    assert_eq!(told, expected);
    assert!(seen.is_sorted_by_key(|event| event.cursor));
    assert_eq!(seen[1].payment_status, Some(PaymentStatus::Captured));
    assert_eq!(seen[1].payment, sold.payment);
    let mine = feed(&store, 10, Some(vec![other]), 1).await;
    assert_eq!(
        mine.iter().map(|e| e.operation).collect::<Vec<_>>(),
        [foreign.id]
    );
}

pub async fn the_timeline_tells_everything(store: Ledger) {
    let recorded = begin(&store, sale("k", 1_000)).await;
    store
        .count_send(recorded.id, recorded.epoch, recorded.owner)
        .await
        .expect("counted");
    store.cancel(&wish("k")).await.expect("recorded");
    settle_one(&store, settlement(&recorded, approved(1_000))).await;
    let events = store.timeline(recorded.id).await.expect("readable");
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let expected = [
        EventKind::Transition,
        EventKind::Send,
        EventKind::CancelRequested,
        EventKind::Transition,
        EventKind::LateAnswer,
    ];
    assert_eq!(kinds, expected);
    let late = events.last().expect("events");
    assert_eq!(late.evidence["answer"]["state"], "approved");
    assert_eq!(late.evidence["sends"], 1);
    assert!(
        store
            .timeline(operation_id())
            .await
            .expect("readable")
            .is_empty()
    );
}

pub async fn metadata_is_kept_until_it_is_erased(store: Ledger) {
    let noted = |name: &str, once_per_order: bool| {
        let metadata = Some(format!("{{\"cart\":\"{name}\"}}"));
        let kind = IntentKind::Create {
            payment: payment_id(),
            once_per_order,
            metadata,
        };
        let order_reference = Some(OrderReference::from_stored(name));
        Intent {
            order_reference,
            ..intent(name, Verb::Sale, 1_000, kind)
        }
    };
    // Both ways a create goes in.
    for (name, guarded) in [("plain", false), ("guarded", true)] {
        let payment = begin(&store, noted(name, guarded))
            .await
            .payment
            .expect("a create has one");
        let kept = store.metadata(payment).await.expect("readable");
        assert_eq!(kept, Some(format!("{{\"cart\":\"{name}\"}}")));
        store.erase_metadata(payment).await.expect("erased");
        assert_eq!(store.metadata(payment).await.expect("readable"), None);
    }
    // A loser of its key leaves none behind.
    let loser = noted("plain", false);
    let payment = loser.payment().expect("a create has one");
    record_one(&store, loser).await;
    assert_eq!(store.metadata(payment).await.expect("readable"), None);
}

pub async fn a_control_is_another_approved_operation(store: Ledger) {
    let control = async |verb, except| {
        store
            .control(&account(), verb, except)
            .await
            .expect("readable")
            .map(|c| c.reference)
    };
    let lost = begin(&store, sale("lost", 1_000)).await;
    assert_eq!(control(Verb::Sale, lost.id).await, None);
    let first = charged(&store, "k1", 1_000).await;
    let second = charged(&store, "k2", 1_000).await;
    assert_eq!(
        control(Verb::Sale, lost.id).await,
        Some(second.reference.clone())
    );
    assert_eq!(control(Verb::Sale, second.id).await, Some(first.reference));
    assert_eq!(control(Verb::Refund, lost.id).await, None);
    let payment = payment_of(&store, &second).await;
    let refund = begin(&store, follow_up("r", Verb::Refund, 300, &payment)).await;
    end(&store, &refund, approved(300)).await;
    assert_eq!(control(Verb::Refund, lost.id).await, Some(refund.reference));
    let other = AccountName::from_stored("other");
    assert!(
        store
            .control(&other, Verb::Sale, lost.id)
            .await
            .expect("readable")
            .is_none()
    );
}

pub async fn a_control_recorded_afterwards_is_preferred(store: Ledger) {
    let control = async |except| {
        let control = store.control(&account(), Verb::Sale, except).await;
        control.expect("readable").map(|control| control.reference)
    };
    // Its payment is the oldest, but it is claimed again last.
    let sent_nothing = begin(&store, sale("again", 1_000)).await;
    end(&store, &sent_nothing, not_sent()).await;
    let before = charged(&store, "before", 1_000).await;
    let lost = begin(&store, sale("lost", 1_000)).await;
    assert_eq!(control(lost.id).await, Some(before.reference.clone()));
    let again = begin(&store, sale("again", 1_000)).await;
    assert_eq!(
        control(lost.id).await,
        Some(before.reference.clone()),
        "not approved yet"
    );
    let again = end(&store, &again, approved(1_000)).await;
    assert_eq!(again.id, sent_nothing.id);
    assert_eq!(control(lost.id).await, Some(again.reference.clone()));
    assert_eq!(control(again.id).await, Some(before.reference));
    let newest = charged(&store, "newest", 1_000).await;
    assert_eq!(control(lost.id).await, Some(newest.reference));
}

pub async fn a_control_is_one_that_this_endpoint_can_find(store: Ledger) {
    let control = async |except| {
        store
            .control(&account(), Verb::Sale, except)
            .await
            .expect("readable")
            .map(|c| c.reference)
    };
    let named = charged(&store, "named", 1_000).await;
    // Approved by a person who knew no id: a search could not show that it finds it.
    let unnamed = begin(&store, sale("unnamed", 1_000)).await;
    let mut approval = approved(1_000);
    if let State::Approved { approval } = &mut approval {
        approval.ids = UpstreamIds::default();
    }
    end(&store, &unnamed, approval).await;
    let elsewhere = Intent {
        endpoint: "https://elsewhere.test".to_owned(),
        ..sale("elsewhere", 1_000)
    };
    let elsewhere = begin(&store, elsewhere).await;
    end(&store, &elsewhere, approved(1_000)).await;
    let lost = begin(&store, sale("lost", 1_000)).await;
    assert_eq!(control(lost.id).await, Some(named.reference));
    assert_eq!(control(elsewhere.id).await, None);
    // Better than none.
    assert_eq!(control(named.id).await, Some(unnamed.reference));
}

pub async fn a_control_is_looked_for_among_the_newest_payments(store: Ledger) {
    charged(&store, "old", 1_000).await;
    for batch in 0..CONTROL_AMONG.div_ceil(500) {
        let intents: Vec<_> = (0..500)
            .map(|i| Arc::new(sale(&format!("{batch}-{i}"), 1_000)))
            .collect();
        store.record(&intents).await.expect("recorded");
    }
    let lost = begin(&store, sale("lost", 1_000)).await;
    let control = store.control(&account(), Verb::Sale, lost.id).await;
    assert!(control.expect("readable").is_none(), "the look has an end");
}

pub async fn a_sound_ledger_has_no_faults(store: Ledger) {
    assert_eq!(
        store.faults().await.expect("readable"),
        Vec::<String>::new()
    );
    store.ping().await.expect("answers");
    store
        .migrate()
        .await
        .expect("a second time changes nothing");
    charged(&store, "k", 1_000).await;
}
