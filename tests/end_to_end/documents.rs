//! What the documents for people show, sent as it is shown.

use sandbox::world::World;
use serde_json::Value;

const README: &str = include_str!("../../README.md");

/// The example of `/docs` is a charge that is taken as it stands, and no route is missing there.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_docs_is_a_charge_and_every_route_is_named() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let docs = shop.get("/docs").await.expect(200);
    let docs = String::from_utf8(docs.bytes).expect("text");
    let mut examples = 0;
    for example in docs.split("<pre>").skip(1) {
        let (example, _) = example.split_once("</pre>").expect("an end");
        let (head, body) = example.split_once("\n\n").expect("head and body");
        let mut lines = head.lines();
        let request = lines.next().and_then(|line| line.strip_prefix("POST "));
        let key = lines.find_map(|line| line.strip_prefix("Idempotency-Key: "));
        let body: Value = serde_json::from_str(body).expect("JSON");
        shop.post(request.expect("a POST"), key.expect("a key"), &body)
            .await
            .expect(201);
        examples += 1;
    }
    assert_eq!(examples, 1);

    let document = shop.get("/openapi.json").await.expect(200).body;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().into_iter().flat_map(|all| all.keys()) {
            let route = format!("{} {path}", method.to_ascii_uppercase());
            let named = !path.starts_with("/v1/") || docs.contains(&route);
            assert!(named, "{route} is not in /docs");
        }
    }
    world.audit().await;
}

/// The five minutes of the README, in its order: charge, close the batch, refund a part, cancel.
#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_the_readme_are_taken_as_they_stand() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let mut sent = Vec::new();
    let mut payment = String::new();
    // As its shell function reads them: post PATH KEY 'BODY'.
    for call in README.split("post /v1/").skip(1) {
        let (path, rest) = call.split_once(' ').expect("a path");
        let (_, rest) = rest.split_once('\'').expect("a body");
        let (body, _) = rest.split_once("}'").expect("its end");
        let body = format!("{body}}}").replace("'\"$2\"'", "150000");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let path = match path.split_once('/') {
            Some((resource, follow_up)) => {
                let (_, follow_up) = follow_up.split_once('/').expect("a follow-up");
                world.simulators.connexpay().settle().expect("settled");
                format!("/v1/{resource}/{payment}/{follow_up}")
            }
            None => format!("/v1/{path}"),
        };
        let reply = if path == "/v1/cancellations" {
            shop.post_with(&path, body.to_string(), &[]).await
        } else {
            let key = if payment.is_empty() {
                "order-857B2"
            } else {
                "refund-1"
            };
            shop.post(&path, key, &body).await
        };
        let reply = reply.expect(201);
        if payment.is_empty() {
            payment = reply.payment();
        }
        sent.push(path);
    }
    let follow_up = format!("/v1/payments/{payment}/refunds");
    assert_eq!(sent, ["/v1/payments", &follow_up, "/v1/cancellations"]);
}
