//! Before and after settlement: what a refund and a void come to at a processor that voids first and returns later.

use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::world::{World, sale};

/// A refund of the whole payment before settlement is a void at the processor, and a refund to the caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_refund_before_settlement_is_sent_as_a_void() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let refunded = shop.refund("k-2", &paid, 100_00).await.expect(201);
    assert_eq!(refunded.body["status"], "refunded");
    assert_eq!(
        (&refunded.body["captured"], &refunded.body["refunded"]),
        (&100_00.into(), &100_00.into())
    );
    assert_eq!(refunded.body["operation"]["verb"], "refund");
    let connexpay = world.simulators.connexpay();
    let books = connexpay.books();
    assert_eq!(
        (
            books.of(EntryKind::Void).len(),
            books.of(EntryKind::Return).len()
        ),
        (1, 0)
    );
    assert_eq!(connexpay.request_count_of(verb::RETURN), 0);
    assert_eq!(books.net(), 0);
    // Nothing is left of it: neither to refund nor to void.
    assert_eq!(
        shop.refund("k-3", &paid, 1_00).await.expect(422).problem(),
        "over-limit"
    );
    assert_eq!(
        shop.void("k-4", &paid).await.expect(409).problem(),
        "invalid-state"
    );
    world.audit().await;
}

/// A part of an unsettled payment cannot be refunded. Nothing is recorded, so the key is free for what comes instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_partial_refund_before_settlement_is_refused_and_claims_no_key() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let refused = shop.refund("k-2", &paid, 40_00).await.expect(409);
    assert_eq!(refused.problem(), "not-settled");
    assert_eq!(
        (&refused.body["retry"], &refused.body["money_moved"]),
        (&"same-key".into(), &"no".into())
    );
    assert_eq!(
        shop.operation("k-2").await.status,
        404,
        "no key was claimed"
    );
    let connexpay = world.simulators.connexpay();
    assert_eq!(
        connexpay.request_count_of(verb::RETURN) + connexpay.request_count_of(verb::VOID),
        0
    );
    assert_eq!(
        shop.get(&format!("/v1/payments/{paid}")).await.body["refunded"],
        0
    );

    // The advice holds: the same key, after settlement.
    connexpay.settle().expect("settled");
    let refunded = shop.refund("k-2", &paid, 40_00).await.expect(201);
    assert!(!refunded.is_replay());
    assert_eq!(refunded.body["status"], "partially_refunded");
    assert_eq!(connexpay.books().net(), 60_00);
    let rest = shop.refund("k-3", &paid, 60_00).await.expect(201);
    assert_eq!(rest.body["status"], "refunded");
    assert_eq!(connexpay.books().of(EntryKind::Return).len(), 2);
    world.audit().await;
}

/// A settled payment cannot be voided. The answer points to refunds, nothing is recorded, and a refund works.
#[tokio::test(flavor = "multi_thread")]
async fn a_void_after_settlement_is_refused_and_points_to_refunds() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201).payment();
    let held = shop.authorize("k-2", 80_00).await.expect(201).payment();
    shop.capture("k-3", &held, 80_00).await.expect(201);
    let connexpay = world.simulators.connexpay();
    connexpay.settle().expect("settled");
    for (key, payment, minor) in [("k-4", &paid, 100_00), ("k-5", &held, 80_00)] {
        let refused = shop.void(key, payment).await.expect(409);
        assert_eq!(refused.problem(), "already-settled");
        assert_eq!(
            (&refused.body["retry"], &refused.body["money_moved"]),
            (&"never".into(), &"no".into())
        );
        assert!(
            refused.body["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("/refunds")),
            "{}",
            refused.body
        );
        assert_eq!(shop.operation(key).await.status, 404, "no key was claimed");
        let refunded = shop.refund(key, payment, minor).await.expect(201);
        assert_eq!(refunded.body["status"], "refunded");
    }
    assert_eq!(
        connexpay.request_count_of(verb::VOID),
        0,
        "nothing was sent"
    );
    assert_eq!(connexpay.books().of(EntryKind::Return).len(), 2);
    assert_eq!(connexpay.books().net(), 0);
    world.audit().await;
}

/// What the payment's status does not allow is refused before the processor is asked, and claims no key.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_over_takes_no_follow_up() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let held = shop.authorize("k-1", 80_00).await.expect(201).payment();
    assert_eq!(
        shop.refund("k-2", &held, 80_00).await.expect(409).problem(),
        "invalid-state"
    );
    shop.void("k-3", &held).await.expect(201);
    let declined = shop.pay("k-4", &sale(6600_01)).await.expect(402);
    let declined = shop
        .get(&format!("/v1/operations/{}", declined.operation()))
        .await
        .body["payment"]
        .clone();
    let requests = world.simulators.connexpay().request_count();
    for (payment, status) in [
        (held.as_str(), "voided"),
        (declined.as_str().expect("a payment"), "declined"),
    ] {
        let refused = [
            shop.capture("k-5", payment, 80_00).await,
            shop.refund("k-5", payment, 80_00).await,
            shop.void("k-5", payment).await,
        ];
        for refused in refused {
            let refused = refused.expect(409);
            assert_eq!(
                (refused.problem(), &refused.body["payment_status"]),
                ("invalid-state", &status.into())
            );
            assert_eq!(refused.body["retry"], "never");
        }
    }
    assert_eq!(world.simulators.connexpay().request_count(), requests);
    assert_eq!(shop.operation("k-5").await.status, 404);
    world.audit().await;
}
