//! `/v1/payments`: charges as callers see them, lists, metadata, and one order charged once.

use std::collections::BTreeSet;
use std::time::Duration;

use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{Fault, Kind};
use sandbox::world::{Caller, World, card, claims, sale};
use serde_json::{Value, json};

use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(
    a_charge_answers_with_the_payment_as_it_left_it,
    an_authorization_is_captured_and_refunded_step_by_step,
    a_decline_is_final_and_says_why,
    payments_are_listed_newest_first_page_by_page,
    metadata_is_read_with_the_payment_and_can_be_erased,
    one_order_is_charged_once_if_the_caller_asks_for_it,
    a_token_from_an_earlier_answer_charges_the_same_card,
    a_verification_moves_no_money,
    the_documents_are_served_without_a_token,
);

/// The answer has what the contract shows, the processor got what the caller sent, and nothing sensitive comes back.
async fn a_charge_answers_with_the_payment_as_it_left_it(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let mut body = sale(150_00);
    body["statement_descriptor"] = json!("Agent Booking 123");
    body["upstream"] = json!({"expected_payments": 9});
    let paid = shop.pay("k-1", &body).await.expect(201);
    let answer = &paid.body;
    assert_eq!(answer["account"], "acme-us");
    assert_eq!(
        answer["amount"],
        json!({"value": 150_00, "currency": "USD"})
    );
    assert_eq!(
        (
            &answer["authorized"],
            &answer["captured"],
            &answer["refunded"]
        ),
        (&json!(150_00), &json!(150_00), &json!(0))
    );
    assert_eq!(answer["order_reference"], "857B2");
    assert_eq!(
        (&answer["card"]["last_four"], &answer["card"]["expiry"]),
        (&json!("5439"), &json!("2030-12"))
    );
    assert_eq!(answer["card"]["type"], "visa");
    assert!(
        answer["card"]["token"]
            .as_str()
            .is_some_and(|token| token.ends_with("5439")),
        "{answer}"
    );
    assert_eq!(
        (&answer["operation"]["verb"], &answer["operation"]["state"]),
        (&json!("sale"), &json!("approved"))
    );
    assert!(answer.get("metadata").is_none() && answer.get("operations").is_none());
    let books = world.simulators.connexpay().books();
    let [entry] = books.of(EntryKind::Sale)[..] else {
        panic!("one sale")
    };
    assert_eq!(answer["operation"]["upstream_reference"], entry.guid);
    assert_eq!(
        answer["operation"]["authorization_code"],
        entry.authorization_code
    );
    assert_eq!((entry.approved, entry.expected_payments), (150_00, Some(9)));
    assert_eq!(entry.statement.as_deref(), Some("Agent Booking 123"));
    let operation = shop.operation("k-1").await.expect(200);
    assert_eq!(
        entry.sequence_number.as_deref(),
        operation.body["reference"].as_str()
    );
    assert_ne!(
        entry.order_number.as_deref(),
        Some("857B2"),
        "the caller's order is not the processor's"
    );
    assert!(!String::from_utf8_lossy(&paid.bytes).contains("4012000098765439"));

    let shown = shop
        .get(&format!("/v1/payments/{}", paid.payment()))
        .await
        .expect(200);
    for name in [
        "id",
        "status",
        "account",
        "amount",
        "authorized",
        "captured",
        "refunded",
        "order_reference",
        "card",
    ] {
        assert_eq!(shown.body[name], answer[name], "{name}");
    }
    assert_eq!(shown.body["operations"], json!([answer["operation"]]));
    world.audit().await;
}

/// Totals and status follow each step, and each answer shows the payment as its operation left it.
async fn an_authorization_is_captured_and_refunded_step_by_step(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let held = shop.authorize("k-1", 100_00).await.expect(201);
    assert_eq!(
        (&held.body["status"], &held.body["captured"]),
        (&json!("authorized"), &json!(0))
    );
    let payment = held.payment();
    let captured = shop.capture("k-2", &payment, 80_00).await.expect(201);
    assert_eq!(
        (&captured.body["status"], &captured.body["captured"]),
        (&json!("captured"), &json!(80_00))
    );
    assert_eq!(captured.body["amount"]["value"], 100_00);
    world.simulators.connexpay().settle().expect("settled");
    let over = shop.refund("k-3", &payment, 80_01).await.expect(422);
    assert_eq!(
        (over.problem(), &over.body["available"]["value"]),
        ("over-limit", &json!(80_00))
    );
    let part = shop.refund("k-3", &payment, 30_00).await.expect(201);
    assert_eq!(
        (&part.body["status"], &part.body["refunded"]),
        (&json!("partially_refunded"), &json!(30_00))
    );
    let rest = shop.refund("k-4", &payment, 50_00).await.expect(201);
    assert_eq!(
        (&rest.body["status"], &rest.body["refunded"]),
        (&json!("refunded"), &json!(80_00))
    );
    assert_eq!(
        rest.body["card"], held.body["card"],
        "follow-ups show the card as well"
    );
    let shown = shop
        .get(&format!("/v1/payments/{payment}"))
        .await
        .expect(200);
    let verbs: Vec<_> = shown.body["operations"]
        .as_array()
        .expect("operations")
        .iter()
        .map(|one| one["verb"].clone())
        .collect();
    assert_eq!(verbs, ["authorize", "capture", "refund", "refund"]);
    assert_eq!(world.simulators.connexpay().books().net(), 0);
    world.audit().await;
}

/// A decline is an answer, not an error: final, with class and code, and it leaves no effect.
async fn a_decline_is_final_and_says_why(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    for (key, minor) in [("k-1", 6600_01), ("k-2", 6600_02)] {
        let declined = shop.pay(key, &sale(minor)).await.expect(402);
        assert_eq!(declined.problem(), "declined");
        assert_eq!(
            (&declined.body["retry"], &declined.body["money_moved"]),
            (&json!("new-key"), &json!("no"))
        );
        assert!(
            declined.body["decline"]["class"].is_string()
                && declined.body["decline"]["code"].is_string()
        );
        let again = shop.pay(key, &sale(minor)).await.expect(402);
        assert!(again.is_replay());
        assert_eq!(again.bytes, declined.bytes);
    }
    let mut risky = sale(10_00);
    risky["customer"]["email"] = json!("decline@connexpay.com");
    let declined = shop.pay("k-3", &risky).await.expect(402);
    assert_eq!(
        declined.body["decline"]["class"], "fraud",
        "{}",
        declined.body
    );
    let mut wrong_code = sale(10_00);
    wrong_code["card"]["cvv"] = json!("111");
    shop.pay("k-4", &wrong_code).await.expect(402);
    assert_eq!(world.simulators.connexpay().books().net(), 0);
    world.audit().await;
}

/// Every payment once, newest first, whatever the page size; filters narrow it, and a token sees its accounts only.
async fn payments_are_listed_newest_first_page_by_page(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let mut made = Vec::new();
    let mut middle = String::new();
    for number in 0..7 {
        let mut body = sale(100_00 + number);
        body["order_reference"] = json!(format!("order-{}", number % 2));
        let paid = shop.pay(&format!("k-{number}"), &body).await.expect(201);
        made.push(paid.payment());
        if number == 3 {
            paid.body["as_of"]
                .as_str()
                .expect("an instant")
                .clone_into(&mut middle);
        }
    }
    shop.pay("k-declined", &sale(6600_01)).await.expect(402);
    shop.void("k-void", &made[6]).await.expect(201);
    let newest_first: Vec<_> = made.iter().rev().cloned().collect();
    let whole = list(&shop, "limit=500").await;
    assert_eq!(whole.len(), 8);
    assert_eq!(ids(&whole)[1..], newest_first);
    for limit in [1, 3, 8] {
        assert_eq!(
            ids(&list(&shop, &format!("limit={limit}")).await),
            ids(&whole),
            "{limit} a page"
        );
    }
    let odd: Vec<_> = [5, 3, 1]
        .into_iter()
        .map(|number: usize| made[number].clone())
        .collect();
    assert_eq!(
        ids(&list(&shop, "order_reference=order-1&limit=2").await),
        odd
    );
    assert_eq!(ids(&list(&shop, "status=voided").await), [made[6].clone()]);
    assert_eq!(list(&shop, "status=declined&limit=1").await.len(), 1);
    assert!(list(&shop, "status=reversed").await.is_empty());
    // The fourth was created before the instant at which it was answered.
    let later = ids(&list(&shop, &format!("created_after={middle}&status=captured")).await);
    assert_eq!(later, [made[5].clone(), made[4].clone()]);
    let mut elsewhere = claims("shop-1");
    elsewhere["accounts"] = json!(["acme-eu"]);
    assert!(
        list(&world.caller_with(&gateway.url, &elsewhere), "")
            .await
            .is_empty()
    );
    assert_eq!(
        list(&world.caller_with(&gateway.url, &claims("other-1")), "")
            .await
            .len(),
        8,
        "payments are the account's"
    );
    for entry in whole {
        assert!(entry.get("operations").is_none() && entry.get("metadata").is_none());
    }
}

/// Metadata is kept with the payment, in no answer to a POST, and forgotten for good when the caller says so.
async fn metadata_is_read_with_the_payment_and_can_be_erased(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let mut body = sale(150_00);
    body["metadata"] = json!({"cart": "cart number 91", "note": "größer \u{1f600}"});
    let paid = shop.pay("k-1", &body).await.expect(201);
    assert!(!String::from_utf8_lossy(&paid.bytes).contains("cart number 91"));
    let path = format!("/v1/payments/{}", paid.payment());
    assert_eq!(
        shop.get(&path).await.expect(200).body["metadata"],
        body["metadata"]
    );

    let mut reader = claims("shop-1");
    reader["scope"] = json!("payments:read");
    let reader = world.caller_with(&gateway.url, &reader);
    reader.delete(&format!("{path}/metadata")).await.expect(403);
    for _ in 0..2 {
        shop.delete(&format!("{path}/metadata")).await.expect(204);
    }
    let shown = shop.get(&path).await.expect(200);
    assert!(shown.body.get("metadata").is_none(), "{}", shown.body);
    assert_eq!(
        world
            .count_sql("select count(*) from payment_metadata")
            .await,
        0
    );
    let again = shop.pay("k-1", &body).await.expect(201);
    assert_eq!(again.bytes, paid.bytes, "the key still knows its request");
    body["metadata"] = json!({"cart": "c-92"});
    assert_eq!(
        shop.pay("k-1", &body).await.expect(422).problem(),
        "idempotency-key-reused"
    );
    shop.delete("/v1/payments/pay_01980000000070008000000000000000/metadata")
        .await
        .expect(404);

    body["metadata"] = json!({"note": "x".repeat(4_092)});
    shop.pay("k-2", &body).await.expect(201);
    body["metadata"] = json!({"note": "x".repeat(4_093)});
    let long = shop.pay("k-3", &body).await.expect(422);
    assert_eq!(long.body["errors"][0]["pointer"], "/metadata");
    world.audit().await;
}

/// A caller that mints a new key for the same order is stopped, while a live charge of that order exists.
async fn one_order_is_charged_once_if_the_caller_asks_for_it(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let mut once = sale(150_00);
    once["once_per_order"] = json!(true);
    let first = shop.pay("k-1", &once).await.expect(201);
    let sent = world.simulators.connexpay().request_count_of(verb::SALE);
    // Whoever asks for it is bound, whichever client made the other.
    for caller in [&shop, &world.caller_with(&gateway.url, &claims("other-1"))] {
        let stopped = caller.pay("k-2", &once).await.expect(409);
        assert_eq!(stopped.problem(), "possible-duplicate");
        assert_eq!(
            (&stopped.body["retry"], &stopped.body["money_moved"]),
            (&json!("never"), &json!("no"))
        );
        assert_eq!(stopped.body["existing"]["operation"], first.operation());
        assert_eq!(stopped.body["existing"]["payment"], first.payment());
        caller.operation("k-2").await.expect(404);
    }
    assert_eq!(
        world.simulators.connexpay().request_count_of(verb::SALE),
        sent,
        "nothing was sent"
    );
    assert_eq!(
        shop.pay("k-1", &once).await.expect(201).bytes,
        first.bytes,
        "its own key repeats"
    );
    // Another order, and a request that does not ask for it, go through.
    let mut other_order = once.clone();
    other_order["order_reference"] = json!("857B3");
    shop.pay("k-3", &other_order).await.expect(201);
    let unbound = shop.pay("k-4", &sale(150_00)).await.expect(201);
    shop.void("k-5", &unbound.payment()).await.expect(201);
    // Nothing of the first is left: the order may be charged again.
    shop.void("k-6", &first.payment()).await.expect(201);
    shop.pay("k-2", &once).await.expect(201);
    world.audit().await;
}

/// The token of an answer stands for the card, without its number.
async fn a_token_from_an_earlier_answer_charges_the_same_card(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let mut body = sale(70_00);
    body["card"] = json!({"token": first.body["card"]["token"]});
    let second = shop.pay("k-2", &body).await.expect(201);
    assert_eq!(second.body["card"]["last_four"], "5439");
    assert_eq!(second.body["card"]["token"], first.body["card"]["token"]);
    let again = shop.pay("k-2", &body).await.expect(201);
    assert!(again.is_replay());
    assert_eq!(again.bytes, second.bytes);
    body["card"]["number"] = json!("4012000098765439");
    assert_eq!(
        shop.pay("k-3", &body).await.expect(422).body["errors"][0]["pointer"],
        "/card"
    );
    assert_eq!(world.simulators.connexpay().books().net(), 220_00);
    world.audit().await;
}

/// A card check is repeated from its record, declined like a charge, and leaves no payment; without an answer it fails.
async fn a_verification_moves_no_money(world: World) {
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let check = json!({"account": "acme-us", "card": card()});
    let checked = shop
        .post("/v1/verifications", "k-1", &check)
        .await
        .expect(201);
    assert_eq!(
        (&checked.body["account"], &checked.body["operation"]["verb"]),
        (&json!("acme-us"), &json!("verify"))
    );
    assert_eq!(checked.body["card"]["last_four"], "5439");
    assert!(
        checked.body.get("id").is_none() && checked.body.get("amount").is_none(),
        "{}",
        checked.body
    );
    let again = shop
        .post("/v1/verifications", "k-1", &check)
        .await
        .expect(201);
    assert!(again.is_replay());
    assert_eq!(again.bytes, checked.bytes);
    let mut wrong = check.clone();
    wrong["card"]["cvv"] = json!("111");
    shop.post("/v1/verifications", "k-2", &wrong)
        .await
        .expect(402);
    assert_eq!(
        shop.cancel("k-1").await.expect(422).problem(),
        "not-cancellable"
    );

    let connexpay = world.simulators.connexpay();
    connexpay
        .set_fault(Fault::on(Kind::CommitThenHang, verb::VERIFY))
        .await
        .expect("a fault");
    let silent = shop
        .until_final("/v1/verifications", "k-3", &check)
        .await
        .expect(402);
    assert_eq!(
        (silent.problem(), &silent.body["money_moved"]),
        ("failed", &json!("no"))
    );
    connexpay.lift_faults().await.expect("lifted");
    assert!(list(&shop, "").await.is_empty(), "no payment");
    assert_eq!(connexpay.books().net(), 0);
    world.settle_and_audit(Duration::from_secs(10)).await;
}

/// What newcomers and machines read needs no token, and every problem type has its page.
async fn the_documents_are_served_without_a_token(world: World) {
    let gateway = world.gateway().await;
    let anyone = Caller::new(&gateway.url, "none");
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs",
        "/problems",
        "/openapi.json",
    ] {
        anyone.get(path).await.expect(200);
    }
    let document = anyone.get("/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let refused = anyone.get("/v1/payments").await.expect(401);
    let page = anyone
        .get(refused.body["type"].as_str().expect("a type"))
        .await
        .expect(200);
    assert!(String::from_utf8_lossy(&page.bytes).contains("unauthenticated"));
    anyone.get("/nothing").await.expect(404);
}

/// All pages.
async fn list(caller: &Caller, query: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = caller
            .get(&format!("/v1/payments?{query}{cursor}"))
            .await
            .expect(200);
        all.extend(
            page.body["payments"]
                .as_array()
                .expect("payments")
                .iter()
                .cloned(),
        );
        let Some(next) = page.body["next_cursor"].as_str() else {
            let ids = ids(&all);
            assert_eq!(
                ids.iter().collect::<BTreeSet<_>>().len(),
                ids.len(),
                "a payment came twice"
            );
            return all;
        };
        cursor = format!("&cursor={next}");
    }
}

fn ids(payments: &[Value]) -> Vec<String> {
    payments
        .iter()
        .map(|payment| payment["id"].as_str().expect("an id").to_owned())
        .collect()
}
