//! Every route that a token can be shown at, and the proof that none of them opened.

use sandbox::simulators::connexpay::verb;
use sandbox::world::{Caller, Reply, World, card, sale};
use serde_json::json;

/// Everything a token can be shown at, in front of a payment to follow up.
pub(super) struct Doors<'w> {
    world: &'w World,
    shop: Caller,
    pub(super) held: String,
    pub(super) paid: String,
    requests: u64,
}

const DOORS: [&str; 9] = [
    "pay",
    "authorize",
    "check",
    "capture",
    "refund",
    "void",
    "cancel",
    "list",
    "look up",
];

impl<'w> Doors<'w> {
    pub(super) async fn new(world: &'w World, url: &str) -> Self {
        let shop = world.caller(url);
        let held = shop.authorize("k-held", 150_00).await.expect(201).payment();
        let paid = shop
            .pay("k-paid", &sale(150_00))
            .await
            .expect(201)
            .payment();
        Self {
            world,
            shop,
            held,
            paid,
            requests: world.simulators.connexpay().request_count(),
        }
    }

    pub(super) async fn knock(&self, caller: &Caller) -> Vec<Reply> {
        let all = self.knock_closed(caller, &[true; DOORS.len()]).await;
        all.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Knocks where it is `closed`: elsewhere money would move.
    pub(super) async fn knock_closed(
        &self,
        caller: &Caller,
        closed: &[bool; DOORS.len()],
    ) -> Vec<(&'static str, Reply)> {
        let mut replies = Vec::new();
        for (door, closed) in DOORS.into_iter().zip(closed) {
            if !closed {
                continue;
            }
            let reply = match door {
                "pay" => caller.pay("k-door", &sale(150_00)).await,
                "authorize" => caller.authorize("k-door", 150_00).await,
                "check" => {
                    let check = json!({"account": "acme-us", "card": card()});
                    caller.post("/v1/verifications", "k-door", &check).await
                }
                "capture" => caller.capture("k-door", &self.held, 150_00).await,
                "refund" => caller.refund("k-door", &self.paid, 150_00).await,
                "void" => caller.void("k-door", &self.held).await,
                "cancel" => caller.cancel("k-held").await,
                "list" => caller.get("/v1/payments").await,
                _ => caller.operation("k-held").await,
            };
            replies.push((door, reply));
        }
        replies
    }

    /// Nothing was sent and no key was claimed.
    pub(super) async fn nothing_happened(&self) {
        assert_eq!(
            self.world.simulators.connexpay().request_count(),
            self.requests
        );
        assert_eq!(
            self.world
                .simulators
                .connexpay()
                .request_count_of(verb::CAPTURE),
            0
        );
        self.shop.operation("k-door").await.expect(404);
        let held = self.shop.operation("k-held").await.expect(200);
        assert!(held.body.get("cancel_requested_at").is_none());
    }
}
