//! A gateway at which everything is refused: what is counted before and after.

use std::cell::RefCell;

use sandbox::simulators::connexpay::verb;
use sandbox::world::{Caller, Reply, Running, World, card, sale};
use serde_json::{Value, json};

use super::assert_no_number;

/// A gateway with one payment, before which and after which everything is counted.
pub(super) struct Scene<'w> {
    world: &'w World,
    pub(super) url: String,
    pub(super) shop: Caller,
    pub(super) payment: String,
    operations: i64,
    requests: u64,
    keys: RefCell<Vec<String>>,
    _gateway: Running,
}

impl<'w> Scene<'w> {
    pub(super) async fn new(world: &'w World) -> Self {
        let gateway = world.gateway().await;
        let shop = world.caller(&gateway.url);
        let payment = shop
            .authorize("k-valid", 150_00)
            .await
            .expect(201)
            .payment();
        Self {
            world,
            url: gateway.url.clone(),
            shop,
            payment,
            operations: world.count_sql("select count(*) from operation").await,
            requests: money_requests(world),
            keys: RefCell::default(),
            _gateway: gateway,
        }
    }

    pub(super) fn next_key(&self) -> String {
        let mut keys = self.keys.borrow_mut();
        let key = format!("k-bad-{}", keys.len());
        keys.push(key.clone());
        key
    }

    /// Sends what must be refused, under a key of its own.
    pub(super) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let key = self.next_key();
        let reply = self
            .shop
            .post_with(path, body.as_ref().to_vec(), &[("idempotency-key", &key)])
            .await;
        assert!((400..500).contains(&reply.status), "{}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        assert!(
            reply.body["retry"].is_string() && reply.body["money_moved"].is_string(),
            "{}",
            reply.body
        );
        assert_no_number(&reply);
        reply
    }

    /// A valid body of a POST, with every field that the document declares, and the path to send it to.
    pub(super) fn valid(&self, template: &str) -> (String, Value) {
        let mut full = sale(150_00);
        full["capture"] = json!("automatic");
        full["statement_descriptor"] = json!("Agent Booking 123");
        full["once_per_order"] = json!(true);
        full["customer"]["phone"] = json!("4152345678");
        full["customer"]["address"]["line2"] = json!("4");
        full["metadata"] = json!({"cart": "c-91"});
        let body = match template {
            "/v1/payments" => full,
            "/v1/verifications" => json!({
                "account": "acme-us", "order_reference": "857B2", "card": card(), "customer": full["customer"],
                "risk": {}, "upstream": {},
            }),
            "/v1/cancellations" => json!({"idempotency_key": "k-nobody"}),
            "/v1/payments/{id}/voids" => json!({}),
            _ => json!({"amount": {"value": 1_00, "currency": "USD"}}),
        };
        (template.replace("{id}", &self.payment), body)
    }

    /// Nothing was sent, nothing recorded, and each refused key is free: it was not seen.
    pub(super) async fn left_no_trace(&self) {
        assert_eq!(
            money_requests(self.world),
            self.requests,
            "something was sent"
        );
        let operations = self.world.count_sql("select count(*) from operation").await;
        assert_eq!(operations, self.operations, "something was recorded");
        let keys = self.keys.take();
        let (first, last) = (keys.first().expect("keys"), keys.last().expect("keys"));
        for key in [first, last] {
            self.shop.operation(key).await.expect(404);
            let paid = self.shop.pay(key, &sale(150_00)).await.expect(201);
            assert!(!paid.is_replay());
            if first == last {
                break;
            }
        }
        self.world.audit().await;
    }
}

fn money_requests(world: &World) -> u64 {
    let verbs = [
        verb::SALE,
        verb::AUTH_ONLY,
        verb::CAPTURE,
        verb::VOID,
        verb::RETURN,
        verb::VERIFY,
        verb::TIMEOUT_REVERSAL,
    ];
    verbs
        .iter()
        .map(|verb| world.simulators.connexpay().request_count_of(verb))
        .sum()
}
