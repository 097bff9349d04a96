//! Declines whose codes no list has: by default they prove nothing, and an account may take them at their word.

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind};
use sandbox::world::{Caller, Reply, Running, World, sale};

/// In no table.
const UNLISTED: &str = "D0777";

async fn scene(unlisted_code: &str) -> (World, Running, Caller) {
    let mut world = World::new().await;
    world.config.set_spans("3s", "8s", "12s");
    world.config.more_strategy = format!("unlisted_code = \"{unlisted_code}\"");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.pay_surely("control", &sale(1_00)).await;
    (world, gateway, shop)
}

/// Pays at a processor that declines in both forms, and returns the final answers.
async fn declined(world: &World, shop: &Caller) -> Vec<Reply> {
    let mut replies = Vec::new();
    for (kind, minor) in [(Kind::Decline422, 10_00), (Kind::Decline2xx, 20_00)] {
        let fault = Fault::on(kind, verb::SALE).code(UNLISTED);
        let connexpay = world.simulators.connexpay();
        connexpay.set_fault(fault).await.expect("a fault");
        let key = kind.name();
        let reply = shop.until_final("/v1/payments", &key, &sale(minor)).await;
        let reply = reply.expect(402);
        assert_eq!(reply.problem(), "declined", "{kind:?}: {}", reply.body);
        assert_eq!(reply.body["decline"]["code"], UNLISTED, "{kind:?}");
        replies.push(reply);
    }
    world.audit().await;
    replies
}

/// Nothing is taken from it: what became of the sale is looked up, and the books say that it was declined.
#[tokio::test(flavor = "multi_thread")]
async fn by_default_an_unlisted_code_is_looked_up() {
    let (world, _gateway, shop) = scene("unknown").await;
    declined(&world, &shop).await;
    let connexpay = world.simulators.connexpay();
    for asked in [verb::TIMEOUT_REVERSAL, verb::SEARCH, verb::READ] {
        assert!(connexpay.request_count_of(asked) >= 2, "{asked}");
    }
}

/// Where the account says so, it is a decline, at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_unlisted_code_can_be_taken_for_a_decline() {
    let (world, _gateway, shop) = scene("declined").await;
    for reply in declined(&world, &shop).await {
        assert!(!reply.is_replay());
        assert_eq!(reply.body["decline"]["class"], "soft");
    }
    let connexpay = world.simulators.connexpay();
    for asked in [verb::TIMEOUT_REVERSAL, verb::SEARCH, verb::READ] {
        assert_eq!(connexpay.request_count_of(asked), 0, "{asked}");
    }
}
