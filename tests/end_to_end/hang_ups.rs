//! Callers that leave: the end of a wait is never the end of the work.

use std::time::Duration;

use gateway_core::operation::StateName;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{Moment, Selector};
use sandbox::world::{Around, Turnstile, World, sale};

const ENOUGH: Duration = Duration::from_secs(30);

/// A caller that hangs up once its payment is recorded, sent or answered ends nothing; its repeat gets the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_goes_on_when_its_caller_hangs_up() {
    let mut world = World::new().await;
    world.config.set_spans("10s", "12s", "25s");
    let turnstile = Turnstile::closed();
    let gateway = world
        .gateway_with(Around::before(turnstile.hook()).seams())
        .await;
    let shop = world.caller(&gateway.url);
    let connexpay = world.simulators.connexpay();
    let records = world.records().await;
    let path = "/v1/payments";

    let line = shop
        .post_without_listening(path, "recorded", &sale(10_00))
        .await;
    turnstile.reached(1).await;
    drop(line);
    turnstile.open();
    let approved =
        |operation: &gateway_core::store::Operation| operation.state.name() == StateName::Approved;
    records
        .until("recorded", ENOUGH, "the work to go on", approved)
        .await;

    let gate = connexpay.hold(Moment::AfterCommit, Selector::verb(verb::SALE));
    let line = shop
        .post_without_listening(path, "sent", &sale(10_00))
        .await;
    gate.reached(1).await.expect("sent");
    drop(line);
    gate.release();
    records
        .until("sent", ENOUGH, "the work to go on", approved)
        .await;

    let line = shop
        .post_without_listening(path, "answered", &sale(10_00))
        .await;
    records
        .until("answered", ENOUGH, "an answer", approved)
        .await;
    drop(line);

    for key in ["recorded", "sent", "answered"] {
        let reply = shop.pay(key, &sale(10_00)).await.expect(201);
        assert!(reply.is_replay(), "{key}");
    }
    assert_eq!(connexpay.books().of(EntryKind::Sale).len(), 3);
    world.settle_and_audit(ENOUGH).await;
}

/// After the caller's own `Request-Timeout` no first byte leaves; the key is given back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_after_the_callers_wait_has_ended() {
    let world = World::new().await;
    let turnstile = Turnstile::closed();
    let gateway = world
        .gateway_with(Around::before(turnstile.hook()).seams())
        .await;
    let shop = world.caller(&gateway.url);
    let left = shop
        .post_waiting("/v1/payments", "k", &sale(10_00), "2")
        .await;
    assert_eq!(left.status, 504, "{}", left.body);
    turnstile.open();
    let records = world.records().await;
    let given_back =
        |operation: &gateway_core::store::Operation| operation.state.name() == StateName::NotSent;
    let first = records.until("k", ENOUGH, "the key to be given back", given_back);
    let first = first.await;
    let connexpay = world.simulators.connexpay();
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);

    shop.pay("k", &sale(10_00)).await.expect(201);
    let second = records.operation("k").await;
    assert_eq!((second.attempt, &second.reference), (2, &first.reference));
    assert_eq!(
        connexpay.books().position(first.reference.as_str()).sales,
        1
    );
    world.settle_and_audit(ENOUGH).await;
}
