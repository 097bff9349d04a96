//! The walk past whatever a gateway leans on, as it goes away: the ledger at each commit, the lock, the process itself.

use reqwest::Method;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind};
use sandbox::stack::{Moment, Process, RedisServer, TcpProxy, eventually};
use serde_json::{Value, json};

use super::{Canary, PATIENCE, Visitor};

/// Amounts that the ledger is made to refuse: the record, and the end.
const NOT_RECORDED: i64 = 313_13;
const NOT_SETTLED: i64 = 414_14;

impl Visitor<'_> {
    /// What both the ledger and the lock say when they break, and what is said of it.
    pub(in super::super) async fn walk_while_parts_break(
        &self,
        ledger: &TcpProxy,
        lock: &mut RedisServer,
    ) {
        self.pay_surely("warm", &self.sale(1_00)).await;
        self.cut_commits(ledger).await;
        self.ledger_refuses().await;
        self.ledger_is_away(ledger).await;
        self.lock_is_away(lock).await;
    }

    async fn pay_surely(&self, key: &str, body: &Value) -> String {
        let paid = eventually(PATIENCE, "a payment", async || {
            let heard = self.pay(key, body).await;
            (heard.status == 201).then(|| heard.payment())
        });
        paid.await
            .unwrap_or_else(|error| panic!("{key}: {error:?}"))
    }

    /// The connection breaks before a commit, or with its acknowledgement on the way.
    async fn cut_commits(&self, ledger: &TcpProxy) {
        let body = self.sale(10_00);
        for (key, moment) in [
            ("cut-before-record", Moment::BeforeRequest),
            ("cut-after-record", Moment::after_commit()),
        ] {
            let cut = ledger.cut_at(moment, key.as_bytes());
            self.pay(key, &body).await.expect(&[503]);
            assert!(cut.has_sprung(), "{key}");
            self.pay_surely(key, &body).await;
        }
        for (key, moment) in [
            ("cut-before-end", Moment::BeforeRequest),
            ("cut-after-end", Moment::after_commit()),
        ] {
            let cut = ledger.cut_at(moment, br#"{"state":"approved""#);
            self.pay_surely(key, &body).await;
            assert!(cut.has_sprung(), "{key}");
        }
        // An answer that repeats the card, and whose end cannot be written at first.
        let echo = Fault::on(Kind::EchoCard, verb::SALE).first(1);
        self.set_faults(vec![echo]).await;
        let cut = ledger.cut_at(Moment::BeforeRequest, br#"{"state":"declined""#);
        self.pay("cut-refusal", &body).await.expect(&[402]);
        assert!(cut.has_sprung(), "the refusal is written");
        self.lift_faults().await;
    }

    /// The ledger refuses a row and shows it in its error; and where a trigger of its operator's speaks, a card as well.
    async fn ledger_refuses(&self) {
        let Canary { number, code, .. } = &self.canary;
        self.world
            .execute_sql(&format!(
                "alter table payment add constraint unrecorded check (amount <> {NOT_RECORDED}) not valid"
            ))
            .await;
        self.world
            .execute_sql(&format!(
                "create function unsettled() returns trigger language plpgsql as $$ begin
                     raise warning 'a row with {number} {code}';
                     raise exception 'no row with {number} {code}'
                         using errcode = '23514', detail = '{number} {code}', hint = '{number} {code}';
                 end $$"
            ))
            .await;
        self.world
            .execute_sql(&format!(
                "create trigger unsettled before update on operation for each row
                 when (old.amount = {NOT_SETTLED}) execute function unsettled()"
            ))
            .await;
        let bodies = [
            ("unrecorded", self.sale(NOT_RECORDED)),
            ("unsettled", self.sale(NOT_SETTLED)),
        ];
        for (key, body) in &bodies {
            self.pay(key, body).await.expect(&[500, 503, 504]);
            self.get(&format!("/v1/operations?idempotency_key={key}"))
                .await
                .expect(&[200, 404]);
        }
        for drop in [
            "alter table payment drop constraint unrecorded",
            "drop trigger unsettled on operation",
        ] {
            self.world.execute_sql(drop).await;
        }
        for (key, body) in &bodies {
            let ended = eventually(PATIENCE, "its end", async || {
                let heard = self.pay(key, body).await;
                [201, 402].contains(&heard.status).then_some(())
            });
            ended
                .await
                .unwrap_or_else(|error| panic!("{key}: {error:?}"));
        }
    }

    /// Its connections are ended by its operator; then it says nothing at all.
    async fn ledger_is_away(&self, ledger: &TcpProxy) {
        let body = self.sale(10_00);
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()";
        self.world.execute_sql(end).await;
        self.pay_surely("ended", &body).await;
        ledger.pause();
        self.pay("silent", &body).await.expect(&[503, 504]);
        self.get("/v1/operations?idempotency_key=silent")
            .await
            .expect(&[503]);
        let cancel = json!({"idempotency_key": "silent-too"}).to_string();
        let cancelled = self.post("/v1/cancellations", "unused", cancel);
        cancelled.await.expect(&[503]);
        ledger.resume();
        ledger.cut().await;
        let ended = eventually(PATIENCE, "its end", async || {
            let heard = self.pay("silent", &body).await;
            [201, 402].contains(&heard.status).then_some(())
        });
        ended.await.expect("it ends");
    }

    async fn lock_is_away(&self, lock: &mut RedisServer) {
        let body = self.sale(10_00);
        lock.stop().expect("stopped");
        let paid = self.pay_surely("lockless", &body).await;
        self.follow("voids", "lockless-void", &paid, &json!({}))
            .await
            .expect(&[201]);
        lock.start().await.expect("started");
        self.pay_surely("locked", &body).await;
    }

    /// A payment whose process is killed once the processor has it.
    pub(in super::super) async fn pay_and_kill(&self, process: &mut Process) {
        let connexpay = self.world.simulators.connexpay();
        let hang = Fault::on(Kind::CommitThenHang, verb::SALE).first(1);
        self.set_faults(vec![hang]).await;
        let sent = usize::try_from(connexpay.request_count_of(verb::SALE)).expect("few");
        let request = self
            .request(Method::POST, "/v1/payments")
            .header("idempotency-key", "killed")
            .bearer_auth(&self.token)
            .body(self.sale(10_00).to_string());
        let kill = async {
            let arrived = connexpay.wait_for_requests(sent + 1, |record| record.verb == verb::SALE);
            arrived.await.expect("it arrives");
            process.kill().expect("killed");
        };
        let (answer, ()) = tokio::join!(request.send(), kill);
        assert!(answer.is_err(), "nobody is left to answer");
        self.lift_faults().await;
    }

    /// The same caller of the gateway that takes over: what was open there ends, and all is read.
    pub(in super::super) async fn end_with(&self, url: &str) {
        let heir = Visitor {
            heard: self.heard.clone(),
            ..Visitor::new(self.world, url)
        };
        let body = heir.sale(10_00);
        let ended = eventually(PATIENCE, "the end of what was open", async || {
            let heard = heir.pay("killed", &body).await;
            (heard.status == 402).then_some(())
        });
        ended.await.expect("it is adopted and undone");
        heir.world.settle_and_audit(PATIENCE).await;
        heir.read_everything().await;
    }

    async fn lift_faults(&self) {
        let connexpay = self.world.simulators.connexpay();
        connexpay.lift_faults().await.expect("lifted");
    }
}
