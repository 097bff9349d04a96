//! A processor that refuses what looks like a sale it has just seen.

use std::time::Duration;

use sandbox::simulators::Options;
use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::world::{World, claims, sale};

/// A duplicate refusal of a first send is a decline. The sale it looked like belongs to somebody else: it is neither
/// adopted as this key's nor reversed.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_refusal_declines_and_leaves_the_other_sale_alone() {
    let mut options = Options::default();
    options.connexpay.duplicate_window_s = 3_600;
    let world = World::on_postgres(options).await;
    let gateway = world.gateway().await;
    let theirs = world.caller_with(&gateway.url, &claims("other-1"));
    let shop = world.caller(&gateway.url);
    let first = theirs.pay("k-1", &sale(150_00)).await.expect(201);

    let refused = shop.pay("k-1", &sale(150_00)).await.expect(402);
    assert_eq!(refused.problem(), "duplicate");
    assert_eq!(
        (&refused.body["retry"], &refused.body["money_moved"]),
        (&"new-key".into(), &"no".into())
    );
    assert_eq!(refused.body["decline"]["class"], "duplicate");
    assert_eq!(refused.body["decline"]["code"], "D0008");
    let again = shop.pay("k-1", &sale(150_00)).await.expect(402);
    assert!(again.is_replay());
    assert_eq!(refused.bytes, again.bytes);

    world.settle_and_audit(Duration::from_secs(10)).await;
    let connexpay = world.simulators.connexpay();
    let books = connexpay.books();
    let approved: Vec<_> = books
        .of(EntryKind::Sale)
        .into_iter()
        .filter(|sale| sale.is_approved())
        .collect();
    assert_eq!(approved.len(), 1);
    assert_eq!(
        approved[0].guid,
        first.body["operation"]["upstream_reference"]
    );
    assert_eq!((approved[0].effective, books.net()), (150_00, 150_00));
    for undoing in [verb::TIMEOUT_REVERSAL, verb::VOID, verb::RETURN] {
        assert_eq!(connexpay.request_count_of(undoing), 0, "{undoing}");
    }
    let operation = shop.operation("k-1").await.expect(200);
    assert_eq!(operation.body["state"], "declined");
    let payment = operation.body["payment"].as_str().expect("a payment");
    assert_ne!(payment, first.payment());
    assert_eq!(
        shop.get(&format!("/v1/payments/{payment}")).await.body["captured"],
        0
    );
    assert_eq!(
        theirs
            .get(&format!("/v1/payments/{}", first.payment()))
            .await
            .body["status"],
        "captured"
    );
    assert_eq!(
        theirs.pay("k-1", &sale(150_00)).await.expect(201).bytes,
        first.bytes
    );
}
