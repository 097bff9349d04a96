//! What one client may take of a gateway: its rate, and its share of the places.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::clock::{Clock, ManualClock};
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Moment, Selector};
use sandbox::world::{World, claims, sale};

/// A client beyond its rate is told when to come again, with nothing sent and no key claimed; others do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_beyond_its_rate_waits_and_others_do_not() {
    let mut world = World::new().await;
    "[clients.slow]\nsubjects = [\"slow-1\"]\nrate_per_second = 1\nburst = 3"
        .clone_into(&mut world.config.more);
    let clock = Arc::new(ManualClock::running());
    let seams = Seams {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let slow = world.caller_with(&gateway.url, &claims("slow-1"));
    let first = slow.pay("k-0", &sale(1_00)).await.expect(201);
    let keys: Vec<_> = (1..=40).map(|number| format!("k-{number}")).collect();
    let body = sale(1_00);
    let answers = join_all(keys.iter().map(|key| slow.pay(key, &body))).await;
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert!(!refused.is_empty(), "forty at once");
    for answer in &refused {
        assert_eq!(answer.problem(), "rate-limited");
        assert_eq!(
            (&answer.body["retry"], &answer.body["money_moved"]),
            (&"same-key".into(), &"unknown".into())
        );
        assert!(answer.headers.contains_key("retry-after"));
    }
    let sent = world.simulators.connexpay().request_count_of(verb::SALE);
    assert_eq!(sent, 41 - u64::try_from(refused.len()).expect("a count"));
    world
        .caller(&gateway.url)
        .pay("k-0", &sale(1_00))
        .await
        .expect(201);

    clock.advance(Duration::from_secs(2));
    let turned_away = answers
        .iter()
        .position(|answer| answer.status == 429)
        .expect("one of them");
    slow.operation(&keys[turned_away]).await.expect(404);
    let again = slow.pay("k-0", &sale(1_00)).await.expect(201);
    assert_eq!(again.bytes, first.bytes);
    world.audit().await;
}

/// A client that has taken its share of the places is told to come again, and another one is charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_all_its_places_taken_leaves_places_to_others() {
    let mut world = World::new().await;
    world.config.set_spans("20s", "25s", "50s");
    world.config.permits_per_client_max = 2;
    let gateway = world.gateway().await;
    let (shop, pod) = (
        world.caller(&gateway.url),
        world.caller_with(&gateway.url, &claims("shop-2")),
    );
    let other = world.caller_with(&gateway.url, &claims("other-1"));
    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(
        Moment::AfterCommit,
        Selector::verb(verb::SALE).amount(20_00),
    );
    let running: Vec<_> = (0..2)
        .map(|number| {
            let shop = shop.clone();
            tokio::spawn(async move { shop.pay(&format!("k-{number}"), &sale(20_00)).await })
        })
        .collect();
    gate.reached(2).await.expect("both sent");

    // The share is the client's, whichever of its pods asks.
    for caller in [&shop, &pod] {
        let refused = caller.pay("k-2", &sale(10_00)).await.expect(503);
        assert_eq!(refused.problem(), "overloaded", "{}", refused.body);
        assert_eq!(refused.body["money_moved"], "no");
    }
    for number in 0..3 {
        other
            .pay(&format!("k-{number}"), &sale(10_00))
            .await
            .expect(201);
    }
    shop.operation("k-2").await.expect(404);
    gate.release();
    for running in running {
        running.await.expect("answered").expect(201);
    }
    shop.pay("k-2", &sale(10_00)).await.expect(201);
    world.audit().await;
}
