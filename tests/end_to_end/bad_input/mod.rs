//! Bad input, generated from the served OpenAPI document and collected from what callers get wrong: every fault is named
//! by its JSON pointer, nothing is sent, and no key is claimed.

mod account;
mod parameters;
mod scene;
mod schema;

use std::collections::BTreeSet;

use sandbox::world::{Reply, World, card, claims, sale};
use serde_json::{Value, json};

use self::scene::Scene;
use self::schema::{Case, Cases};
use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(
    every_field_of_the_schema_refuses_what_it_does_not_allow,
    every_parameter_of_the_document_refuses_what_it_does_not_allow,
    all_faults_of_a_body_are_named_at_once,
    amounts_and_currencies_are_exact,
    a_card_number_is_refused_wherever_it_would_be_kept,
    a_body_that_cannot_be_read_is_refused,
    queries_and_paths_are_checked_like_bodies,
);

/// A valid number in every place where one could slip into an answer.
const NUMBER: &str = "4012000098765439";

/// Missing, null, wrong type, empty, too long, out of range, unknown: for every field that the document declares.
async fn every_field_of_the_schema_refuses_what_it_does_not_allow(world: World) {
    let scene = Scene::new(&world).await;
    let document = scene.shop.get("/openapi.json").await.expect(200).body;
    let mut count = 0;
    let mut paths = BTreeSet::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        paths.insert(template.as_str());
        let (path, base) = scene.valid(template);
        let mut cases = Cases {
            document: &document,
            base: &base,
            found: Vec::new(),
        };
        cases.of(schema, "", &base);
        for Case {
            body,
            pointer,
            what,
        } in cases.found
        {
            count += 1;
            let refused = scene.post(&path, &body).await;
            assert_eq!(
                refused.status, 422,
                "{template} with {what} at {pointer:?}: {}",
                refused.body
            );
            assert_eq!(refused.problem(), "invalid-request");
            let mut named = pointers(&refused);
            // The reader and the connector may both have something to say about one place.
            named.dedup();
            assert_eq!(
                named,
                [pointer.as_str()],
                "{template} with {what}: {}",
                refused.body
            );
        }
    }
    let wanted = [
        "/v1/cancellations",
        "/v1/payments",
        "/v1/payments/{id}/captures",
        "/v1/payments/{id}/refunds",
        "/v1/payments/{id}/voids",
        "/v1/verifications",
    ];
    assert_eq!(paths, BTreeSet::from(wanted), "every POST was visited");
    assert!(count > 300, "only {count} cases: is the schema still read?");
    scene.left_no_trace().await;
}

/// The same of every header, query parameter and place in a path: none of them, two, another type, too long, out of range.
async fn every_parameter_of_the_document_refuses_what_it_does_not_allow(world: World) {
    let scene = Scene::new(&world).await;
    let document = scene.shop.get("/openapi.json").await.expect(200).body;
    let parameters = parameters::declared(&document);
    let mut count = 0;
    for parameter in &parameters {
        for (what, values) in parameter.wrong() {
            count += 1;
            let refused = parameter.send(&scene, &values).await;
            parameter.assert_refused(what, &refused);
        }
    }
    let names: BTreeSet<_> = parameters.iter().map(|parameter| parameter.name).collect();
    let wanted = [
        "Idempotency-Key",
        "Request-Timeout",
        "after",
        "created_after",
        "cursor",
        "id",
        "idempotency_key",
        "limit",
        "order_reference",
        "status",
    ];
    assert_eq!(names, BTreeSet::from(wanted), "every parameter was visited");
    assert!(
        count > 80,
        "only {count} cases: are the parameters still read?"
    );
    scene.left_no_trace().await;
}

/// One answer lists all of them.
async fn all_faults_of_a_body_are_named_at_once(world: World) {
    let scene = Scene::new(&world).await;
    let body = json!({
        "account": "Acme", "amount": {"value": -1, "currency": "US", "surprise": 1}, "capture": "later",
        "order_reference": "", "statement_descriptor": "x".repeat(26), "once_per_order": "yes",
        "card": {"number": "4012000098765438", "expiry_month": 13, "expiry_year": null, "cvv": "12", "holder": 7},
        "customer": {"email": "jane", "address": {"country": "USA"}}, "risk": [], "metadata": {"cart": 91},
        "surprise": true,
    });
    let refused = scene
        .post("/v1/payments", &body.to_string())
        .await
        .expect(422);
    let wanted = [
        "/account",
        "/amount/value",
        "/amount/currency",
        "/amount/surprise",
        "/capture",
        "/order_reference",
        "/statement_descriptor",
        "/once_per_order",
        "/card/number",
        "/card/expiry_month",
        "/card/expiry_year",
        "/card/cvv",
        "/card/holder",
        "/customer/email",
        "/customer/address/country",
        "/risk",
        "/metadata/cart",
        "/surprise",
    ];
    let named: BTreeSet<_> = pointers(&refused).into_iter().collect();
    assert_eq!(
        named,
        wanted.map(str::to_owned).into_iter().collect(),
        "{}",
        refused.body
    );
    for error in refused.body["errors"].as_array().expect("errors") {
        assert!(
            error["code"].is_string() && error["detail"].is_string(),
            "{error}"
        );
    }
    scene.left_no_trace().await;
}

/// Whole minor units of a known currency, above zero and within bounds, in creates and in follow-ups.
async fn amounts_and_currencies_are_exact(world: World) {
    let scene = Scene::new(&world).await;
    let values = [
        "0",
        "-1",
        "-0",
        "1.5",
        "100.0",
        "1e3",
        "\"100\"",
        "true",
        "null",
        "[]",
        "{}",
        "1000000000000",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e400",
        "999999999999999999999999999999",
        "-9223372036854775809",
    ];
    let currencies = [
        "usd",
        "US",
        "USDX",
        "XYZ",
        "840",
        "U\u{17f}D",
        "",
        "\u{0}SD",
    ];
    let paths = [
        "/v1/payments",
        "/v1/payments/{id}/captures",
        "/v1/payments/{id}/refunds",
    ];
    for template in paths {
        let (path, base) = scene.valid(template);
        for value in values {
            let body = with(&base, "/amount/value", json!("VALUE"))
                .to_string()
                .replace("\"VALUE\"", value);
            let refused = scene.post(&path, &body).await;
            assert_eq!(refused.status, 422, "{template} {value}: {}", refused.body);
            assert_eq!(pointers(&refused), ["/amount/value"], "{template} {value}");
        }
        for currency in currencies {
            let body = with(&base, "/amount/currency", json!(currency));
            let refused = scene.post(&path, &body.to_string()).await.expect(422);
            assert_eq!(
                pointers(&refused),
                ["/amount/currency"],
                "{template} {currency:?}"
            );
        }
    }
    scene.left_no_trace().await;
}

/// What is stored must hold no card number: order reference, descriptor, metadata, and the key itself, however written.
async fn a_card_number_is_refused_wherever_it_would_be_kept(world: World) {
    let scene = Scene::new(&world).await;
    let numbers = [
        NUMBER,
        "4012 0000 9876 5439",
        "4012-0000-9876-5439",
        "x4012000098765439y",
        "371449635392376",
    ];
    for number in numbers {
        for pointer in [
            "/order_reference",
            "/statement_descriptor",
            "/metadata/note",
        ] {
            let body = with(
                &with(&sale(150_00), "/metadata", json!({})),
                pointer,
                json!(number),
            );
            let refused = scene
                .post("/v1/payments", &body.to_string())
                .await
                .expect(422);
            assert_eq!(pointers(&refused), [pointer], "{number}: {}", refused.body);
            assert_eq!(
                refused.body["errors"][0]["code"], "card-number",
                "{}",
                refused.body
            );
        }
        let body = with(&sale(150_00), "/metadata", json!({number: "note"}));
        let refused = scene
            .post("/v1/payments", &body.to_string())
            .await
            .expect(422);
        assert_eq!(
            refused.body["errors"][0]["code"], "card-number",
            "{}",
            refused.body
        );
        let key = format!("order {number}");
        let refused = scene
            .shop
            .post_with(
                "/v1/payments",
                sale(150_00).to_string(),
                &[("idempotency-key", &key)],
            )
            .await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert_eq!(pointers(&refused), ["header:Idempotency-Key"]);
        assert_no_number(&refused);
        let refused = scene.shop.cancel(&key).await.expect(422);
        assert_eq!(pointers(&refused), ["/idempotency_key"]);
        assert_no_number(&refused);
    }
    let check = json!({"account": "acme-us", "card": card(), "order_reference": NUMBER});
    let refused = scene
        .post("/v1/verifications", &check.to_string())
        .await
        .expect(422);
    assert_eq!(pointers(&refused), ["/order_reference"]);
    scene.left_no_trace().await;
}

/// Broken JSON, another content type, ten megabytes: refused before anything is asked.
async fn a_body_that_cannot_be_read_is_refused(world: World) {
    let scene = Scene::new(&world).await;
    let valid = sale(150_00).to_string();
    let twice = valid.replacen('{', "{\"account\": \"acme-us\", ", 1);
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let not_utf8 = {
        let mut bytes = valid.clone().into_bytes();
        let place = valid.find("Jane").expect("a name");
        bytes[place] = 0xff;
        bytes
    };
    let broken: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{".to_vec(),
        b"nothing".to_vec(),
        valid.as_bytes()[..valid.len() - 1].to_vec(),
        format!("{valid}{valid}").into_bytes(),
        format!("{valid},").into_bytes(),
        valid.replacen("\"acme-us\"", "'acme-us'", 1).into_bytes(),
        valid.replacen("15000", "NaN", 1).into_bytes(),
        valid.replacen("15000", "015000", 1).into_bytes(),
        valid.replacen("Jane", "\\ud800", 1).into_bytes(),
        deep.into_bytes(),
        not_utf8,
    ];
    for body in broken {
        let told = String::from_utf8_lossy(&body).into_owned();
        let refused = scene.post("/v1/payments", body).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (400, "malformed-request"),
            "{told}: {}",
            refused.body
        );
    }
    for (body, pointer) in [
        ("null", ""),
        ("[]", ""),
        ("\"{}\"", ""),
        (twice.as_str(), "/account"),
    ] {
        let refused = scene.post("/v1/payments", body).await.expect(422);
        assert_eq!(pointers(&refused), [pointer], "{body}");
    }
    let huge = with(
        &sale(150_00),
        "/customer/first_name",
        json!("x".repeat(10 * 1024 * 1024)),
    );
    let refused = scene
        .post("/v1/payments", huge.to_string())
        .await
        .expect(413);
    assert_eq!(
        (refused.problem(), &refused.body["bytes_max"]),
        ("payload-too-large", &json!(65_536))
    );

    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let token = world.key.mint(&claims("shop-1"));
    let types: [&[(&str, &str)]; 6] = [
        &[],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/json; charset=utf-16")],
        &[
            ("content-type", "application/json"),
            ("content-type", "application/json"),
        ],
        &[
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ],
    ];
    for headers in types {
        let mut request = http
            .post(format!("{}/v1/payments", scene.url))
            .bearer_auth(&token)
            .header("idempotency-key", scene.next_key())
            .body(valid.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 415, "{headers:?}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    for timeout in ["0", "-1", "121", "soon", ""] {
        let headers = [
            ("idempotency-key", "k-timeout"),
            ("request-timeout", timeout),
        ];
        let refused = scene
            .shop
            .post_with("/v1/payments", valid.clone(), &headers)
            .await
            .expect(400);
        assert_eq!(
            pointers(&refused),
            ["header:Request-Timeout"],
            "{timeout:?}"
        );
    }
    scene.left_no_trace().await;
}

/// A parameter that is unknown, repeated or of the wrong form is refused by name; a payment that does not exist is not
/// found.
async fn queries_and_paths_are_checked_like_bodies(world: World) {
    let scene = Scene::new(&world).await;
    let cases = [
        ("/v1/payments?limit=0", &["query:limit"][..]),
        ("/v1/payments?limit=501", &["query:limit"]),
        ("/v1/payments?limit=ten", &["query:limit"]),
        ("/v1/payments?status=paid", &["query:status"]),
        (
            "/v1/payments?created_after=yesterday",
            &["query:created_after"],
        ),
        ("/v1/payments?cursor=1", &["query:cursor"]),
        ("/v1/payments?order_reference=", &["query:order_reference"]),
        (
            "/v1/payments?order_reference=4012000098765439",
            &["query:order_reference"],
        ),
        ("/v1/payments?surprise=1", &["query:surprise"]),
        ("/v1/payments?4012000098765439=1&999=1", &["query:*"]),
        (
            "/v1/payments?status=captured&status=voided",
            &["query:status"],
        ),
        (
            "/v1/payments?limit=0&status=paid&surprise=1",
            &["query:limit", "query:status", "query:surprise"],
        ),
        ("/v1/operations", &["query:idempotency_key"]),
        (
            "/v1/operations?idempotency_key=",
            &["query:idempotency_key"],
        ),
        (
            "/v1/operations?idempotency_key=4012000098765439",
            &["query:idempotency_key"],
        ),
        ("/v1/operations?idempotency_key=a&key=b", &["query:key"]),
    ];
    for (path, named) in cases {
        let refused = scene.shop.get(path).await.expect(400);
        assert_eq!(refused.problem(), "malformed-request", "{path}");
        let found: BTreeSet<_> = pointers(&refused).into_iter().collect();
        assert_eq!(
            found,
            named.iter().map(|name| (*name).to_owned()).collect(),
            "{path}: {}",
            refused.body
        );
        assert_no_number(&refused);
    }
    let nowhere = [
        "/v1/payments/pay_1/refunds",
        "/v1/payments/4012000098765439/refunds",
        "/v1/payments/pay_01980000000070008000000000000000/refunds",
    ];
    for path in nowhere {
        let (_, body) = scene.valid("/v1/payments/{id}/refunds");
        let refused = scene.post(path, &body.to_string()).await.expect(404);
        assert_eq!(
            (refused.problem(), &refused.body["retry"]),
            ("not-found", &json!("never"))
        );
        scene
            .shop
            .get(path.trim_end_matches("/refunds"))
            .await
            .expect(404);
    }
    let method = scene.shop.get("/v1/cancellations").await.expect(405);
    assert_eq!(method.problem(), "method-not-allowed");
    assert!(method.headers.contains_key("allow"));
    scene.shop.get("/v1/nothing").await.expect(404);
    scene.left_no_trace().await;
}

fn pointers(reply: &Reply) -> Vec<String> {
    let errors = reply.body["errors"].as_array();
    let errors = errors.unwrap_or_else(|| panic!("no errors in {}", reply.body));
    errors
        .iter()
        .map(|error| error["pointer"].as_str().expect("a pointer").to_owned())
        .collect()
}

/// An answer never repeats what might be a card number.
#[track_caller]
fn assert_no_number(reply: &Reply) {
    let digits: String = String::from_utf8_lossy(&reply.bytes)
        .chars()
        .filter(|c| !" -".contains(*c))
        .collect();
    assert!(!digits.contains(NUMBER), "{digits}");
}

/// `body` with one place set.
fn with(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.expect("an object").insert(name.to_owned(), value);
    body
}
