//! `GET /v1/events`: every change of state once, in an order that skips nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use sandbox::stack::eventually;
use sandbox::world::{Caller, World, claims, sale};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

const PATIENCE: Duration = Duration::from_secs(30);

/// A writer that holds its transaction open while sixty-three others commit: whoever follows the feed meanwhile gets
/// every event once, in order, and skips none, least of all the late writer's.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_skips_nothing_while_one_writer_holds_its_transaction_open() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.pay("k-0", &sale(1_00)).await.expect(201);
    let mut reader = Reader::new(&shop);
    eventually(PATIENCE, "the events before", async || {
        reader.read_to_end().await.has(2)
    })
    .await
    .expect("read");

    let mut other = PgConnection::connect(&world.config.ledger_url)
        .await
        .expect("Postgres");
    let mut holding = other.begin().await.expect("a transaction");
    let late = "insert into event (kind, operation, payment, account, verb, from_state, to_state, payment_status, reason, evidence)
                select kind, operation, payment, account, verb, from_state, to_state, payment_status, 'held open', evidence
                from event where kind = 'transition' limit 1";
    let written = sqlx::query(late)
        .execute(&mut *holding)
        .await
        .expect("written");
    assert_eq!(written.rows_affected(), 1);
    for number in 1..=63 {
        shop.pay(&format!("k-{number}"), &sale(1_00 + number))
            .await
            .expect(201);
        if number % 9 == 0 {
            reader.read_to_end().await;
            assert_eq!(
                reader.events.len(),
                2,
                "nothing beyond a transaction that still runs"
            );
        }
    }
    let mut watching = PgConnection::connect(&world.config.ledger_url)
        .await
        .expect("Postgres");
    let committed: i64 = sqlx::query_scalar("select count(*) from event where kind = 'transition'")
        .fetch_one(&mut watching)
        .await
        .expect("Postgres");
    assert_eq!(committed, 2 * 64, "they have all committed");
    holding.commit().await.expect("committed");

    eventually(PATIENCE, "every event", async || {
        reader.read_to_end().await.has(2 * 64 + 1)
    })
    .await
    .expect("read");
    let truth: Vec<String> = sqlx::query_scalar(
        "select transaction::text || '-' || id from event where kind = 'transition' order by transaction, id",
    )
    .fetch_all(&mut watching)
    .await
    .expect("Postgres");
    assert_eq!(reader.ids(), truth, "each once, in order");
    let held = reader
        .events
        .iter()
        .position(|event| event["reason"] == "held open");
    assert_eq!(
        held,
        Some(2),
        "in its place, before those that committed before it"
    );
    world.audit().await;
}

/// The same pages from the beginning, whatever their size; a reader that is limited to other accounts gets none.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_read_in_pages_and_within_the_accounts_of_the_token() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("k-1", &sale(100_00)).await.expect(201);
    shop.void("k-2", &paid.payment()).await.expect(201);
    shop.pay("k-3", &sale(6600_01)).await.expect(402);
    let mut whole = Reader::new(&shop);
    eventually(PATIENCE, "all events", async || {
        whole.read_to_end().await.has(6)
    })
    .await
    .expect("read");
    let steps: Vec<_> = whole
        .events
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            (text("verb"), text("to"), text("payment_status"))
        })
        .collect();
    let steps: Vec<_> = steps
        .iter()
        .map(|(verb, to, status)| (verb.as_str(), to.as_str(), status.as_str()))
        .collect();
    let wanted = [
        ("sale", "recorded", "pending"),
        ("sale", "approved", "captured"),
        ("void", "recorded", "captured"),
        ("void", "approved", "voided"),
        ("sale", "recorded", "pending"),
        ("sale", "declined", "declined"),
    ];
    assert_eq!(steps, wanted);
    assert_eq!(whole.events[0]["operation"], paid.operation());
    for limit in [1, 4, 500] {
        let mut paged = Reader {
            limit,
            ..Reader::new(&shop)
        };
        paged.read_to_end().await;
        assert_eq!(paged.events, whole.events, "{limit} a page");
    }
    let mut elsewhere = claims("shop-1");
    elsewhere["accounts"] = serde_json::json!(["acme-eu"]);
    let mut blind = Reader::new(&world.caller_with(&gateway.url, &elsewhere));
    blind.read_to_end().await;
    assert!(blind.events.is_empty());
    for wrong in [
        "?after=x",
        "?after=1",
        "?limit=0",
        "?limit=501",
        "?before=1",
        "?after=1-1&after=1-2",
    ] {
        let refused = shop.get(&format!("/v1/events{wrong}")).await.expect(400);
        assert_eq!(refused.problem(), "malformed-request", "{wrong}");
        assert_eq!(
            refused.body["errors"].as_array().map(Vec::len),
            Some(1),
            "{wrong}: {}",
            refused.body
        );
    }
}

/// Follows the feed as a caller does: page by page, from where the last page ended.
struct Reader {
    caller: Caller,
    after: Option<String>,
    limit: usize,
    events: Vec<Value>,
}

impl Reader {
    fn new(caller: &Caller) -> Self {
        Self {
            caller: caller.clone(),
            after: None,
            limit: 7,
            events: Vec::new(),
        }
    }

    /// Reads until a page is not full.
    async fn read_to_end(&mut self) -> &Self {
        loop {
            let after = self
                .after
                .as_ref()
                .map(|after| format!("&after={after}"))
                .unwrap_or_default();
            let page = self
                .caller
                .get(&format!("/v1/events?limit={}{after}", self.limit))
                .await
                .expect(200);
            let events = page.body["events"].as_array().expect("events");
            self.events.extend(events.iter().cloned());
            self.after = page.body["next_after"].as_str().map(str::to_owned);
            if events.len() < self.limit {
                return self;
            }
        }
    }

    fn has(&self, count: usize) -> Option<()> {
        (self.events.len() >= count).then_some(())
    }

    fn ids(&self) -> Vec<String> {
        let ids: Vec<_> = self
            .events
            .iter()
            .map(|event| event["id"].as_str().expect("an id").to_owned())
            .collect();
        assert_eq!(
            ids.iter().collect::<BTreeSet<_>>().len(),
            ids.len(),
            "an event came twice"
        );
        ids
    }
}
