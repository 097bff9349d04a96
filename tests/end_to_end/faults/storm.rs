//! Everything at once: many payments and their follow-ups under every fault by chance, the look-ups and reversals too.

use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::connexpay::{SANDBOX_CARDS, verb};
use sandbox::stack::eventually;
use sandbox::world::{Caller, Reply, World, amount, sale, weather};
use serde_json::{Value, json};

use super::stage::{Pace, Stage};

const PATIENCE: Duration = Duration::from_mins(1);
/// The upstream's, at [`Pace::QUICK`].
const TIMEOUT: Duration = Duration::from_secs(1);
/// Sales, and as many authorizations.
const PAYMENTS: i64 = 16;
/// Approved, at the least.
const SALES_MIN: usize = 3;
const HOLDS_MIN: usize = 6;
const REFUNDS_MIN: usize = 4;

/// One intent and where it goes.
struct Intent {
    path: String,
    key: String,
    body: Value,
}

impl Intent {
    fn new(path: impl Into<String>, key: String, body: Value) -> Self {
        Self {
            path: path.into(),
            key,
            body,
        }
    }

    fn follow_up(payment: &str, verb: &str, key: String, body: Value) -> Self {
        Self::new(format!("/v1/payments/{payment}/{verb}"), key, body)
    }

    /// Repeats as the contract asks, until final.
    async fn until_final(&self, stage: &Stage) -> Reply {
        let shop = &stage.shop;
        let reply = eventually(PATIENCE, &self.key, async || {
            let reply = shop.post(&self.path, &self.key, &self.body).await;
            // A payment that another operation keeps, or left in another state, refuses this one for good.
            let refused = reply.status == 409 && reply.problem() != "payment-busy";
            (reply.is_final() || refused).then_some(reply)
        });
        match reply.await {
            Ok(reply) => reply,
            Err(error) => {
                let detail = shop.operation(&self.key).await.body;
                panic!("{error}: {detail:#}")
            }
        }
    }
}

/// Under every fault by chance each intent has one end, and the ledger agrees with the processor's books to the cent.
async fn storm(world: World, seed: u64) {
    let stage = Stage::with_controls(world, Pace::QUICK).await;
    // A card each: a look-up reads every return of its card and day, and hardly ever gets through many in such weather.
    let settled = join_all((0..).zip(SANDBOX_CARDS).map(async |(n, (number, cvv))| {
        let mut body = sale(300_00 + n * 100);
        body["card"]["number"] = json!(number);
        body["card"]["cvv"] = json!(cvv);
        let pay = async |shop: &Caller, key: &str| shop.pay(key, &body).await;
        stage.approved(&format!("settled-{n}"), pay).await
    }))
    .await;
    stage.connexpay().settle().expect("the books to be written");
    stage.strike_seeded(weather(1.0, TIMEOUT), seed).await;

    let refunds = settled.iter().map(async |paid| {
        // Three at once, of which two fit.
        let refunds = (0..3).map(async |n| {
            let key = format!("refund-{}-{n}", paid.payment());
            let refund = Intent::follow_up(&paid.payment(), "refunds", key, amount(120_00));
            refund.until_final(&stage).await
        });
        let statuses: Vec<u16> = join_all(refunds)
            .await
            .iter()
            .map(|reply| reply.status)
            .collect();
        let done = statuses.iter().filter(|status| **status == 201).count();
        assert!(done <= 2, "{statuses:?}");
        done
    });
    let sales = (0..PAYMENTS).map(async |n| {
        let paid = Intent::new("/v1/payments", format!("sale-{n}"), sale(100_00 + n * 100));
        let paid = paid.until_final(&stage).await;
        if paid.status != 201 {
            return 0;
        }
        if n % 2 == 0 {
            let key = format!("void-sale-{n}");
            let void = Intent::follow_up(&paid.payment(), "voids", key, json!({}));
            void.until_final(&stage).await;
        }
        1
    });
    let holds = (0..PAYMENTS).map(async |n| {
        let mut body = sale(200_00 + n * 100);
        body["capture"] = json!("manual");
        let held = Intent::new("/v1/payments", format!("hold-{n}"), body);
        let held = held.until_final(&stage).await;
        if held.status != 201 {
            return 0;
        }
        if n % 4 != 0 {
            let key = format!("capture-{n}");
            let part = amount(50_00 + n * 100);
            let capture = Intent::follow_up(&held.payment(), "captures", key, part);
            capture.until_final(&stage).await;
        }
        if n % 2 == 0 {
            let key = format!("void-hold-{n}");
            let void = Intent::follow_up(&held.payment(), "voids", key, json!({}));
            void.until_final(&stage).await;
        }
        1
    });
    let done = tokio::join!(join_all(refunds), join_all(sales), join_all(holds));
    let sum = |done: Vec<usize>| done.into_iter().sum::<usize>();
    let (refunds, sales, holds) = (sum(done.0), sum(done.1), sum(done.2));
    println!("seed {seed}: {sales} sales, {holds} holds, {refunds} refunds approved");
    // A storm in which nothing succeeds proves little: about half of the sends meet no fault.
    assert!(
        sales >= SALES_MIN && holds >= HOLDS_MIN && refunds >= REFUNDS_MIN,
        "{sales} sales, {holds} holds, {refunds} refunds"
    );
    stage.connexpay().release_late();
    stage.lift().await;
    stage.world.settle_and_audit(PATIENCE).await;
    let returns = stage.connexpay().requests_of(verb::RETURN);
    let mut references: Vec<_> = returns
        .iter()
        .map(|record| &record.sequence_number)
        .collect();
    let sent = references.len();
    references.sort();
    references.dedup();
    assert_eq!(references.len(), sent, "a refund was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_any_weather_ledger_and_books_agree() {
    let worlds = [
        World::new().await,
        World::new().await,
        World::on_sqlite().await,
    ];
    let seeds = match std::env::var("STORM_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => vec![1, 2, 3],
    };
    for (world, seed) in worlds.into_iter().zip(seeds) {
        storm(world, seed).await;
    }
}
