//! What account, processor and clock say against a request: named like everything else, and in the same answer.

use std::collections::BTreeSet;

use sandbox::world::{Reply, World, card, claims, sale};
use serde_json::{Value, json};

use super::scene::Scene;
use super::{pointers, with};
use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(
    what_the_account_does_not_take_is_named_too,
    form_account_processor_and_clock_name_their_faults_in_one_answer,
);

/// What depends on the account and on the day is told with pointers as well, all of it at once.
async fn what_the_account_does_not_take_is_named_too(world: World) {
    let scene = Scene::new(&world).await;
    let cases = [
        ("/account", json!("nobody"), "/account"),
        ("/amount/currency", json!("EUR"), "/amount/currency"),
        // The processor's own bounds: 0.50 to 999,999.99.
        ("/amount/value", json!(49), "/amount/value"),
        ("/amount/value", json!(100_000_000), "/amount/value"),
        ("/card/expiry_year", json!(2020), "/card/expiry_month"),
        ("/risk/gender", json!("X"), "/risk/gender"),
        ("/risk/surprise", json!(1), "/risk/surprise"),
        ("/upstream/surprise", json!(1), "/upstream/surprise"),
        (
            "/upstream/expected_payments",
            json!(-1),
            "/upstream/expected_payments",
        ),
    ];
    for (pointer, value, named) in cases {
        let body = with(&sale(150_00), pointer, value.clone());
        let refused = scene.post("/v1/payments", &body.to_string()).await;
        assert_eq!(refused.status, 422, "{pointer} {value}: {}", refused.body);
        assert_eq!(pointers(&refused), [named], "{pointer} {value}");
        assert_eq!(refused.body["money_moved"], "no", "the ledger was asked");
    }
    let mut body = sale(150_00);
    body["amount"]["currency"] = json!("EUR");
    body["card"]["expiry_year"] = json!(2020);
    body["risk"] = json!({"gender": "X"});
    let refused = scene
        .post("/v1/payments", &body.to_string())
        .await
        .expect(422);
    let named: BTreeSet<_> = pointers(&refused).into_iter().collect();
    let wanted = [
        "/amount/currency",
        "/card/expiry_month",
        "/risk/gender",
        "/risk/product_item",
        "/risk/product_type",
    ];
    assert_eq!(
        named,
        wanted.map(str::to_owned).into_iter().collect(),
        "{}",
        refused.body
    );

    let mut check = json!({"account": "acme-us", "card": card()});
    check["card"]["expiry_year"] = json!(2020);
    let refused = scene
        .post("/v1/verifications", &check.to_string())
        .await
        .expect(422);
    assert_eq!(pointers(&refused), ["/card/expiry_month"]);
    check["account"] = json!("nobody");
    let refused = scene
        .post("/v1/verifications", &check.to_string())
        .await
        .expect(422);
    assert_eq!(in_order(&refused), ["/account", "/card/expiry_month"]);
    let follow_ups = [
        (1_00, "EUR", "/amount/currency"),
        (49, "USD", "/amount/value"),
        (100_000_000, "USD", "/amount/value"),
    ];
    for (value, currency, named) in follow_ups {
        let body = json!({"amount": {"value": value, "currency": currency}}).to_string();
        for verb in ["captures", "refunds"] {
            let path = format!("/v1/payments/{}/{verb}", scene.payment);
            let refused = scene.post(&path, &body).await.expect(422);
            assert_eq!(pointers(&refused), [named], "{verb}: {}", refused.body);
        }
    }
    scene.left_no_trace().await;
}

/// One round is enough: what is wrong with a body's form keeps nobody from saying what is wrong with the rest of it.
async fn form_account_processor_and_clock_name_their_faults_in_one_answer(world: World) {
    let scene = Scene::new(&world).await;
    let mut all = sale(150_00);
    all["surprise"] = json!(1);
    all["amount"] = json!({"value": 49, "currency": "EUR"});
    all["card"]["expiry_year"] = json!(2020);
    all["customer"]["address"]["state"] = json!("New York");
    all["risk"] = json!({"gender": "X"});
    all["upstream"] = json!({"surprise": 1});
    let expected = [
        "/amount/currency",
        "/amount/value",
        "/card/expiry_month",
        "/customer/address/state",
        "/risk/gender",
        "/risk/product_item",
        "/risk/product_type",
        "/surprise",
        "/upstream/surprise",
    ];
    let refused = scene.post("/v1/payments", &all.to_string()).await;
    assert_eq!(in_order(&refused.expect(422)), expected);

    // What one part needs to be checked may be at fault itself; the others are checked all the same.
    let cases: [(Value, &[&str]); 6] = [
        // Which risk fields are required hangs on whether it is a sale.
        (
            json!({"/capture": "later", "/amount/currency": "EUR", "/risk": {}}),
            &["/amount/currency", "/capture"],
        ),
        (
            json!({"/amount/value": 0, "/amount/currency": "EUR"}),
            &["/amount/currency", "/amount/value"],
        ),
        (
            json!({"/amount/value": 49, "/amount/currency": "XYZ"}),
            &["/amount/currency", "/amount/value"],
        ),
        (
            json!({"/account": "nobody", "/card/number": "4012000098765438", "/card/expiry_year": 2020}),
            &["/account", "/card/expiry_month", "/card/number"],
        ),
        (
            json!({"/account": "Acme", "/card/expiry_year": 2020, "/risk": {}}),
            &["/account", "/card/expiry_month"],
        ),
        // Without any fault of its form, too.
        (
            json!({"/account": "nobody", "/card/expiry_year": 2020}),
            &["/account", "/card/expiry_month"],
        ),
    ];
    for (changes, expected) in cases {
        let mut body = sale(150_00);
        for (pointer, value) in changes.as_object().expect("an object") {
            body = with(&body, pointer, value.clone());
        }
        let refused = scene.post("/v1/payments", &body.to_string()).await;
        assert_eq!(in_order(&refused.expect(422)), expected);
    }
    let mut check = json!({"account": "acme-us", "card": card(), "risk": {"gender": "F"}});
    check["card"]["expiry_year"] = json!(2020);
    check["amount"] = json!({});
    let refused = scene.post("/v1/verifications", &check.to_string()).await;
    let expected = ["/amount", "/card/expiry_month", "/risk/gender"];
    assert_eq!(in_order(&refused.expect(422)), expected);
    let amount = json!({"amount": {"value": 49, "currency": "EUR"}}).to_string();
    for verb in ["captures", "refunds"] {
        let path = format!("/v1/payments/{}/{verb}", scene.payment);
        let refused = scene.post(&path, &amount).await.expect(422);
        assert_eq!(in_order(&refused), ["/amount/currency", "/amount/value"]);
    }

    // Of an account that the token does not cover nothing is told.
    let mut elsewhere = claims("shop-1");
    elsewhere["accounts"] = json!(["acme-eu"]);
    let elsewhere = world.caller_with(&scene.url, &elsewhere);
    let refused = elsewhere.pay("k-elsewhere", &all).await.expect(422);
    assert_eq!(in_order(&refused), ["/card/expiry_month", "/surprise"]);
    scene.left_no_trace().await;
}

/// The pointers, in order.
fn in_order(reply: &Reply) -> Vec<String> {
    let mut pointers = pointers(reply);
    pointers.sort();
    pointers
}
