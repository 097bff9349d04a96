//! A process that is told to stop, and what its peers make of what it leaves.

use std::time::Duration;

use gateway_core::store::EventKind;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind, Moment, Selector};
use sandbox::world::{World, sale};
use serde_json::Value;

/// Silence, adoption, horizon, and a slow machine.
const ENOUGH: Duration = Duration::from_mins(1);

/// A process that is told to stop waits for what is under way as long as it may. What is left then its peer ends as the
/// books say: an unknown outcome that is handed over, and a sale that is still on the wire.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_leaves_open_is_ended_by_a_peer() {
    let mut world = World::new().await;
    world.config.set_spans("10s", "12s", "25s");
    world.config.drain_timeout = "1s".to_owned();
    let mut leaving = world.process("leaving").await;
    let heir = world.process("heir").await;
    let (shop, there) = (
        world.caller(leaving.base_url()),
        world.caller(heir.base_url()),
    );
    there.pay_surely("control", &sale(1_00)).await;
    let connexpay = world.simulators.connexpay();
    let hold = |verb| connexpay.hold(Moment::BeforeCommit, Selector::verb(verb));
    let try_pay = |key: &'static str, body: Value| {
        let shop = shop.clone();
        tokio::spawn(async move {
            let headers = [("idempotency-key", key)];
            let reply = shop.try_post_with("/v1/payments", body.to_string(), &headers);
            reply.await.map(|reply| reply.status)
        })
    };
    let reversals = hold(verb::TIMEOUT_REVERSAL);
    let reset = Fault::on(Kind::CommitThenReset, verb::SALE).first(1);
    connexpay.set_fault(reset).await.expect("in force");
    let unknown = try_pay("unknown", sale(20_00));
    reversals.reached(1).await.expect("being undone");
    let sales = hold(verb::SALE);
    let held = try_pay("held", sale(30_00));
    sales.reached(1).await.expect("on the wire");

    leaving.sigterm().expect("told to stop");
    let ended = leaving.ended(ENOUGH).await.expect("it ends");
    assert!(ended.success(), "{ended}");
    for told in [unknown, held] {
        // Cut off with the process, or told that it is not known yet.
        let told = told.await.expect("no panic");
        assert!(matches!(told, Err(_) | Ok(504)), "{told:?}");
    }
    sales.release(); // It arrives though nobody waits for it any more.
    reversals.release();

    let records = world.records().await;
    for (key, body) in [("unknown", sale(20_00)), ("held", sale(30_00))] {
        let end = there.until_final("/v1/payments", key, &body).await;
        assert_eq!(end.expect(402).problem(), "reversed", "{key}");
        let adopted = records.events(key, EventKind::Adopted).await;
        assert!(!adopted.is_empty(), "{key}");
        let reference = records.operation(key).await.reference;
        let position = connexpay.books().position(reference.as_str());
        assert_eq!(
            (position.sales, position.net),
            (1, 0),
            "{key}: {position:?}"
        );
    }
    world.settle_and_audit(ENOUGH).await;
}
