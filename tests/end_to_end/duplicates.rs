//! What looks like a sale that was made already: to the processor, and to the gateway where a caller asks for it.

use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::Options;
use sandbox::simulators::connexpay::{DeclineForm, EntryKind, verb};
use sandbox::world::{World, claims, sale};

/// A duplicate refusal of a first send is a decline. The sale it looked like belongs to somebody else: it is neither
/// adopted as this key's nor reversed.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_refusal_declines_and_leaves_the_other_alone() {
    for form in [DeclineForm::Unprocessable, DeclineForm::Success] {
        for (capture, kind) in [
            ("automatic", EntryKind::Sale),
            ("manual", EntryKind::AuthOnly),
        ] {
            a_duplicate_is_refused(form, capture, kind).await;
        }
    }
}

async fn a_duplicate_is_refused(form: DeclineForm, capture: &str, kind: EntryKind) {
    let mut options = Options::default();
    options.connexpay.duplicate_window_s = 3_600;
    options.connexpay.decline_form = form;
    let mut body = sale(150_00);
    body["capture"] = capture.into();
    let world = World::on_postgres(options).await;
    let gateway = world.gateway().await;
    let theirs = world.caller_with(&gateway.url, &claims("other-1"));
    let shop = world.caller(&gateway.url);
    let first = theirs.pay("k-1", &body).await.expect(201);

    let refused = shop.pay("k-1", &body).await.expect(402);
    assert_eq!(refused.problem(), "duplicate");
    assert_eq!(
        (&refused.body["retry"], &refused.body["money_moved"]),
        (&"new-key".into(), &"no".into())
    );
    assert_eq!(refused.body["decline"]["class"], "duplicate");
    assert_eq!(refused.body["decline"]["code"], "D0008");
    let again = shop.pay("k-1", &body).await.expect(402);
    assert!(again.is_replay());
    assert_eq!(refused.bytes, again.bytes);

    world.settle_and_audit(Duration::from_secs(10)).await;
    let connexpay = world.simulators.connexpay();
    let books = connexpay.books();
    let approved: Vec<_> = books
        .of(kind)
        .into_iter()
        .filter(|entry| entry.is_approved())
        .collect();
    assert_eq!(approved.len(), 1);
    assert_eq!(
        approved[0].guid,
        first.body["operation"]["upstream_reference"]
    );
    assert_eq!(approved[0].effective, 150_00);
    let positions = books.positions.values();
    let total: i64 = positions.map(|position| position.net + position.held).sum();
    assert_eq!(total, 150_00);
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
        first.body["status"]
    );
    assert_eq!(
        theirs.pay("k-1", &body).await.expect(201).bytes,
        first.bytes
    );
}

/// Twenty new keys for one order at once, over two gateways: the order is charged once, and the others are told by whom.
#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_charged_once_however_many_keys_race() {
    let world = World::new().await;
    let (here, there) = (world.gateway().await, world.gateway().await);
    let callers = [world.caller(&here.url), world.caller(&there.url)];
    for round in 0..3 {
        let mut once = sale(150_00);
        once["once_per_order"] = true.into();
        once["order_reference"] = format!("order-{round}").into();
        let keys: Vec<_> = (0..20)
            .map(|number| format!("k-{round}-{number}"))
            .collect();
        let answers = keys.iter().zip(callers.iter().cycle());
        let answers = join_all(answers.map(|(key, caller)| caller.pay(key, &once))).await;
        let charged: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status == 201)
            .collect();
        let [charged] = charged[..] else {
            panic!("charged {} times", charged.len());
        };
        for (answer, key) in answers
            .iter()
            .zip(&keys)
            .filter(|(answer, _)| answer.status != 201)
        {
            assert_eq!(
                (answer.status, answer.problem()),
                (409, "possible-duplicate")
            );
            assert_eq!(answer.body["existing"]["operation"], charged.operation());
            callers[0].operation(key).await.expect(404);
        }
    }
    let connexpay = world.simulators.connexpay();
    assert_eq!(
        (
            connexpay.request_count_of(verb::SALE),
            connexpay.books().net()
        ),
        (3, 450_00)
    );
    world.audit().await;
}
