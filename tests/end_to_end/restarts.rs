//! What was killed with SIGKILL and started again goes on where it was: same ledger, same answers.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sandbox::simulators::connexpay::Books;
use sandbox::stack::{Process, TempDir, eventually, reserve_port};
use sandbox::world::{Caller, World, card, sale};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// `cargo local` as a process: gateway, simulators and an SQLite ledger in one folder.
struct LocalStack {
    process: Option<Process>, // Before the folder: killed before its folder is removed.
    folder: TempDir,
    port: u16,
}

impl LocalStack {
    async fn start() -> Self {
        let mut stack = Self {
            process: None,
            folder: TempDir::new("local").expect("a folder"),
            port: three_ports(),
        };
        stack.start_again().await;
        stack
    }

    /// Starts it in the same folder, and waits until it takes payments.
    async fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command
            .args(["local", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir());
        let folder = self.folder.path();
        let mut process = Process::spawn("local", folder, &mut command).expect("a process");
        let url = format!("{}/readyz", self.url());
        let ready = eventually(PATIENCE, "the local stack to be ready", async || {
            let ended = process.ended().expect("its state");
            assert!(ended.is_none(), "{}", process.output().expect("its output"));
            let answer = reqwest::get(&url).await.ok()?;
            answer.status().is_success().then_some(())
        });
        ready.await.expect("ready");
        assert!(process.leaves_no_core_file().expect("its limits"));
        self.process = Some(process);
    }

    fn kill9(&mut self) {
        let process = self.process.as_mut().expect("it runs");
        process.kill().expect("killed");
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("stack")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// With the token that it wrote when it started last.
    fn caller(&self) -> Caller {
        let token = std::fs::read_to_string(self.dir().join("token")).expect("a token");
        Caller::new(self.url(), token)
    }

    fn control(&self, what: &str) -> String {
        let port = self.port + 2;
        format!("http://127.0.0.1:{port}/_sandbox/connexpay/{what}")
    }

    async fn books(&self) -> Books {
        let answer = reqwest::get(self.control("books"))
            .await
            .expect("an answer");
        answer.json().await.expect("books")
    }

    async fn close_batch(&self) {
        let closed = reqwest::Client::new()
            .post(self.control("close-batch"))
            .send();
        assert!(closed.await.expect("an answer").status().is_success());
    }
}

/// The first of three free ports in a row: gateway, processors, control.
fn three_ports() -> u16 {
    loop {
        let port = reserve_port().expect("a port");
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port + 1) && free(port + 2) {
            return port;
        }
    }
}

/// What was done before the kill: each POST with its answer, and what the gateway told about it all.
struct Before {
    done: Vec<(String, &'static str, Value, u16, Vec<u8>)>,
    told: Value,
    to_refund: String,
    to_void: String,
    to_capture: String,
}

/// One of everything that leaves a record.
async fn do_all(shop: &Caller) -> Before {
    let mut done = Vec::new();
    let mut post = async |path: &str, key: &'static str, body: Value, status: u16| {
        let reply = shop.post(path, key, &body).await.expect(status);
        let id = reply.body["id"].as_str().unwrap_or_default().to_owned();
        done.push((path.to_owned(), key, body, status, reply.bytes));
        id
    };
    let payments = "/v1/payments";
    let hold = |minor| {
        let mut body = sale(minor);
        body["capture"] = json!("manual");
        body
    };
    let to_refund = post(payments, "to-refund", sale(100_00), 201).await;
    let to_void = post(payments, "to-void", sale(20_00), 201).await;
    let to_capture = post(payments, "to-capture", hold(30_00), 201).await;
    let captured = post(payments, "captured", hold(40_00), 201).await;
    let voided = post(payments, "voided", sale(50_00), 201).await;
    let mut declined = sale(60_00);
    declined["customer"]["email"] = json!("decline@connexpay.com");
    post(payments, "declined", declined, 402).await;
    let amount = json!({"amount": {"value": 40_00, "currency": "USD"}});
    post(
        &format!("{payments}/{captured}/captures"),
        "capture",
        amount,
        201,
    )
    .await;
    post(
        &format!("{payments}/{voided}/voids"),
        "void",
        json!({}),
        201,
    )
    .await;
    let body = json!({"account": "acme-us", "card": card()});
    post("/v1/verifications", "verified", body, 201).await;
    shop.cancel("never-seen").await.expect(201);
    Before {
        told: told(shop).await,
        done,
        to_refund,
        to_void,
        to_capture,
    }
}

/// Payments, operations and events as a caller reads them, but for the moment of reading.
async fn told(shop: &Caller) -> Value {
    let mut payments = shop.get("/v1/payments").await.expect(200).body;
    let list = payments["payments"].as_array_mut().expect("a list");
    let mut operations = Vec::new();
    for payment in list.iter_mut() {
        let id = payment["id"].as_str().expect("an id");
        let one = shop
            .get(&format!("/v1/payments/{id}"))
            .await
            .expect(200)
            .body;
        for operation in one["operations"].as_array().expect("a list") {
            let id = operation["id"].as_str().expect("an id");
            operations.push(
                shop.get(&format!("/v1/operations/{id}"))
                    .await
                    .expect(200)
                    .body,
            );
        }
        payment["as_of"] = Value::Null;
    }
    assert!(operations.len() >= 8, "{operations:?}");
    let events = shop.get("/v1/events").await.expect(200).body;
    json!({"payments": payments, "operations": operations, "events": events})
}

/// The same ledger, the same replays.
async fn compare(shop: &Caller, before: &Before) {
    assert_eq!(told(shop).await, before.told);
    for (path, key, body, status, bytes) in &before.done {
        let replayed = shop.post(path, key, body).await.expect(*status);
        assert!(replayed.is_replay(), "{key}");
        assert_eq!(&replayed.bytes, bytes, "{key}");
    }
    let cancelled = shop.pay("never-seen", &sale(10_00)).await;
    cancelled.expect(410);
    assert_eq!(
        told(shop).await,
        before.told,
        "replays leave nothing behind"
    );
}

/// Follow-ups of payments that were made before.
async fn follow_up(shop: &Caller, before: &Before, close_batch: impl AsyncFnOnce()) {
    shop.void("void-2", &before.to_void).await.expect(201);
    let captured = shop.capture("capture-2", &before.to_capture, 30_00).await;
    captured.expect(201);
    close_batch().await;
    let refund = shop
        .refund("refund", &before.to_refund, 45_00)
        .await
        .expect(201);
    assert_eq!(
        refund.body["status"], "partially_refunded",
        "{}",
        refund.body
    );
    assert_eq!(refund.body["refunded"], 45_00, "{}", refund.body);
    let too_much = shop.refund("refund-2", &before.to_refund, 60_00).await;
    too_much.expect(422);
}

/// What all of that leaves at the processor.
const NET_AT_THE_END: i64 = 100_00 - 45_00 + 40_00 + 30_00;

/// Promise: `cargo local` killed with -9 and started again has the same ledger and gives the same answers, and what was
/// paid before can be refunded.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_local_stack_goes_on_where_it_was() {
    let mut stack = LocalStack::start().await;
    let shop = stack.caller();
    let before = do_all(&shop).await;
    let books = stack.books().await;
    for _ in 0..2 {
        stack.kill9();
        stack.start_again().await;
        // The token of before is as good as the new one.
        compare(&shop, &before).await;
        compare(&stack.caller(), &before).await;
        assert_eq!(stack.books().await, books);
    }
    follow_up(&stack.caller(), &before, async || stack.close_batch().await).await;
    let mut books = stack.books().await;
    assert_eq!(books.net(), NET_AT_THE_END);
    stack.kill9();
    stack.start_again().await;
    assert_eq!(stack.books().await, books);
    let refunded = stack
        .caller()
        .refund("refund", &before.to_refund, 45_00)
        .await;
    assert!(refunded.expect(201).is_replay());
    books = stack.books().await;
    assert_eq!(books.net(), NET_AT_THE_END);
}

/// Promise: a charge whose answer was awaited when everything was killed is known afterwards, and undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_under_way_when_the_local_stack_is_killed_is_undone_after_it() {
    let mut stack = LocalStack::start().await;
    let shop = stack.caller();
    // An amount that is charged and never answered.
    let body = sale(6_600_04);
    let paying = tokio::spawn({
        let (shop, body) = (shop.clone(), body.to_string());
        async move {
            let headers = [("idempotency-key", "under-way")];
            shop.try_post_with("/v1/payments", body, &headers).await
        }
    });
    let charged = eventually(PATIENCE, "the charge in the books", async || {
        (stack.books().await.net() == 6_600_04).then_some(())
    });
    charged.await.expect("charged");
    stack.kill9();
    assert!(paying.await.expect("no panic").is_err(), "nobody answers");

    stack.start_again().await;
    assert_eq!(stack.books().await.net(), 6_600_04);
    let ended = shop.until_final("/v1/payments", "under-way", &body).await;
    assert_eq!(ended.expect(402).body["money_moved"], "returned");
    assert_eq!(stack.books().await.net(), 0);
}

/// A gateway process is killed and started again beside its ledger.
async fn kill_and_compare(world: World) {
    let mut gateway = world.process("gateway").await;
    let shop = world.caller(gateway.base_url());
    let before = do_all(&shop).await;
    gateway.kill9().expect("killed");
    gateway.start_again().await.expect("started again");
    compare(&shop, &before).await;
    let close = async || world.simulators.connexpay().settle().expect("books");
    follow_up(&shop, &before, close).await;
    world.audit().await;
    assert_eq!(world.simulators.connexpay().books().net(), NET_AT_THE_END);
}

/// The same promise of the gateway alone, on Postgres and Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_goes_on_where_it_was() {
    kill_and_compare(World::new().await).await;
}

/// The same on SQLite, with the lock in the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_goes_on_where_it_was_on_sqlite() {
    kill_and_compare(World::on_sqlite().await).await;
}
