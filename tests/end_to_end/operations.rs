//! `GET /v1/operations`: the outcome of one key, for a caller that lost everything else.

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Moment, Selector};
use sandbox::world::{Caller, Reply, World, card, claims, sale};
use serde_json::json;

use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(
    a_key_alone_tells_what_became_of_it,
    a_key_never_seen_is_not_found_and_stays_free,
    a_key_tells_that_its_operation_is_still_running,
    a_key_is_looked_up_among_those_of_its_client,
    an_operation_shows_its_timeline_without_card_data,
);

/// Whoever lost everything but the key reads the outcome, and nothing is executed by it.
async fn a_key_alone_tells_what_became_of_it(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let approved = shop.pay("k-approved", &sale(150_00)).await.expect(201);
    let declined = shop.pay("k-declined", &sale(6600_01)).await.expect(402);
    let voided = shop.void("k-void", &approved.payment()).await.expect(201);
    let checked = json!({"account": "acme-us", "card": card()});
    shop.post("/v1/verifications", "k-check", &checked)
        .await
        .expect(201);
    shop.pay("k-undone", &sale(70_00)).await.expect(201);
    shop.cancel("k-undone").await.expect(201);
    shop.cancel("k-never").await.expect(201);
    world
        .settle_and_audit(std::time::Duration::from_secs(20))
        .await;

    let requests = world.simulators.connexpay().request_count();
    let survivor = world.caller_with(&gateway.url, &claims("shop-2"));
    let sale = outcome(&survivor, "k-approved", "sale", "approved", 201, "yes").await;
    assert_eq!(sale.body["id"], approved.operation());
    assert_eq!(sale.body["payment"], approved.payment());
    assert_eq!(
        sale.body["amount"],
        json!({"value": 150_00, "currency": "USD"})
    );
    assert_eq!(
        sale.body["upstream_reference"],
        approved.body["operation"]["upstream_reference"]
    );
    let declined_now = outcome(&survivor, "k-declined", "sale", "declined", 402, "no").await;
    assert_eq!(declined_now.body["id"], declined.operation());
    assert_eq!(
        declined_now.body["outcome"]["class"],
        declined.body["decline"]["class"]
    );
    let void = outcome(&survivor, "k-void", "void", "approved", 201, "yes").await;
    assert_eq!(void.body["id"], voided.operation());
    let check = outcome(&survivor, "k-check", "verify", "approved", 201, "yes").await;
    assert_eq!(check.body.get("amount"), None, "a check has no amount");
    outcome(&survivor, "k-undone", "sale", "approved", 410, "returned").await;
    outcome(&survivor, "k-never", "sale", "cancelled", 410, "no").await;
    assert_eq!(
        world.simulators.connexpay().request_count(),
        requests,
        "nothing was executed"
    );
    world.audit().await;
}

/// "Not seen so far" is all that a look-up can say of a key it does not find; it claims nothing.
async fn a_key_never_seen_is_not_found_and_stays_free(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let requests = world.simulators.connexpay().request_count_of(verb::SALE);
    for _ in 0..2 {
        let unseen = shop.operation("k-1").await.expect(404);
        assert_eq!(unseen.problem(), "not-found");
        assert_eq!(
            unseen.body["money_moved"], "unknown",
            "it may be on its way"
        );
        assert_eq!(unseen.body["retry"], "same-key");
    }
    assert_eq!(
        world.simulators.connexpay().request_count_of(verb::SALE),
        requests
    );
    let paid = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert!(!paid.is_replay());
    for nothing in [
        "/v1/operations/op_0",
        "/v1/operations/op_01980000-0000-7000-8000-000000000000",
    ] {
        assert_eq!(shop.get(nothing).await.expect(404).problem(), "not-found");
    }
    world.audit().await;
}

/// While it runs, the look-up says so, and by when it will be known.
async fn a_key_tells_that_its_operation_is_still_running(mut world: World) {
    world.config.set_spans("5s", "6s", "20s");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let gate = world
        .simulators
        .connexpay()
        .hold(Moment::AfterCommit, Selector::verb(verb::SALE));
    let running = {
        let shop = shop.clone();
        tokio::spawn(async move { shop.pay("k-1", &sale(150_00)).await })
    };
    gate.reached(1).await.expect("sent");
    let open = outcome(&shop, "k-1", "sale", "recorded", 504, "unknown").await;
    assert!(open.body["resolves_by"].is_string(), "{}", open.body);
    assert!(open.body.get("settled_at").is_none());
    gate.release();
    let paid = running.await.expect("answered").expect(201);
    let done = outcome(&shop, "k-1", "sale", "approved", 201, "yes").await;
    assert_eq!(done.body["id"], paid.operation());
    assert!(done.body.get("resolves_by").is_none());
    assert!(done.body["settled_at"].is_string());
    world.audit().await;
}

/// Keys belong to the client: another's key of the same name is not found. Any form of the key finds it.
async fn a_key_is_looked_up_among_those_of_its_client(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let key = "order #7 & more+100%";
    let paid = shop.pay(key, &sale(150_00)).await.expect(201);
    let encoded = "order%20%237%20%26%20more%2B100%25";
    let found = shop.operation(encoded).await.expect(200);
    assert_eq!(found.body["id"], paid.operation());
    let quoted = shop
        .operation(&format!("%22{encoded}%22"))
        .await
        .expect(200);
    assert_eq!(quoted.body["id"], paid.operation());
    let other = world.caller_with(&gateway.url, &claims("other-1"));
    other.operation(encoded).await.expect(404);
    // The payment and the operation itself belong to the account, which both cover.
    other
        .get(&format!("/v1/operations/{}", paid.operation()))
        .await
        .expect(200);
    let mut elsewhere = claims("shop-1");
    elsewhere["accounts"] = json!(["acme-eu"]);
    let elsewhere = world.caller_with(&gateway.url, &elsewhere);
    elsewhere.operation(encoded).await.expect(404);
    elsewhere
        .get(&format!("/v1/operations/{}", paid.operation()))
        .await
        .expect(404);
    elsewhere
        .get(&format!("/v1/payments/{}", paid.payment()))
        .await
        .expect(404);
}

/// Every transition is there with its reason and what the wire saw, and nothing of the card.
async fn an_operation_shows_its_timeline_without_card_data(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let shown = shop
        .get(&format!("/v1/operations/{}", paid.operation()))
        .await
        .expect(200);
    assert_eq!(shown.body, shop.operation("k-1").await.expect(200).body);
    let timeline = shown.body["timeline"].as_array().expect("a timeline");
    let reached: Vec<_> = timeline
        .iter()
        .map(|event| event["to"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(reached, ["recorded", "approved"]);
    let call = &timeline[1]["evidence"]["calls"][0];
    assert!(call.is_object(), "what the wire saw: {}", shown.body);
    assert_eq!(shown.body["order_reference"], "857B2");
    assert_eq!(
        (&shown.body["attempt"], &shown.body["sends"]),
        (&json!(1), &json!(1))
    );
    let text = String::from_utf8_lossy(&shown.bytes).into_owned();
    for secret in ["4012000098765439", "Jane", "jane@example.com", "\"999\""] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

async fn outcome(
    caller: &Caller,
    key: &str,
    verb: &str,
    state: &str,
    status: u16,
    money: &str,
) -> Reply {
    let found = caller.operation(key).await.expect(200);
    assert_eq!(found.body["verb"], verb, "{key}: {}", found.body);
    assert_eq!(found.body["state"], state, "{key}: {}", found.body);
    assert_eq!(
        found.body["answer"]["status"], status,
        "{key}: {}",
        found.body
    );
    assert_eq!(
        found.body["answer"]["money_moved"], money,
        "{key}: {}",
        found.body
    );
    let is_final = !matches!(status, 503 | 504);
    assert_eq!(
        found.body["answer"]["final"], is_final,
        "{key}: {}",
        found.body
    );
    found
}
