//! The contract on Postgres, and what only Postgres can get wrong. Each test has a database of its own.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::timeout;
use uuid::Uuid;

use crate::key::ReplicaId;
use crate::store::contract::{
    Ledger, approved, begin, charged, end, feed, read, replica, sale, settlement, unknown, wish,
};
use crate::store::{
    EventQuery, Intent, Operation, PostgresOptions, PostgresStore, Recorded, Store, StoreError,
};

/// An empty ledger in a database that is dropped at the end.
struct Fresh {
    store: Arc<PostgresStore>,
    name: String,
    url: String,
}

fn server() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL names no Postgres server: run tests/run")
}

/// The same server, another database.
fn url_of(name: &str) -> String {
    let server = server();
    let (base, _) = server.rsplit_once('/').expect("a URL names a database");
    format!("{base}/{name}")
}

async fn administrator() -> PgConnection {
    PgConnection::connect(&server())
        .await
        .expect("the server of DATABASE_URL answers")
}

async fn fresh() -> Fresh {
    let name = format!("quittance_{}", Uuid::new_v4().simple());
    let create = format!("create database {name}");
    let mut server = administrator().await;
    server
        .execute(sqlx::AssertSqlSafe(create))
        .await
        .expect("may create databases");
    let url = url_of(&name);
    let options = PostgresOptions::new(SecretString::from(url.clone()));
    let store = Arc::new(PostgresStore::new(&options).expect("a URL"));
    store.migrate().await.expect("migrations apply");
    Fresh { store, name, url }
}

impl Fresh {
    fn store(&self) -> Ledger {
        Arc::clone(&self.store) as Ledger
    }

    /// What holds after every test: whatever is open can be found, and all entries balance.
    async fn end(self) {
        let mut raw = self.raw().await;
        let holds = sqlx::query(
            "select not exists (
                 select from operation o where o.due_at is not null and not exists (
                     select from due d where d.operation = o.id and d.owner = o.owner and d.due_at = o.due_at))
             and not exists (
                 select from ledger_entry group by operation, currency having sum(minor) <> 0) as holds",
        );
        let holds: bool = holds
            .fetch_one(&mut raw)
            .await
            .expect("readable")
            .get("holds");
        assert!(
            holds,
            "something open is not in the list of what is due, or entries do not balance"
        );
        let Self { store, name, .. } = self;
        drop(store);
        let drop = format!("drop database if exists {name} with (force)");
        administrator()
            .await
            .execute(sqlx::AssertSqlSafe(drop))
            .await
            .expect("dropped");
    }
}

crate::store_contract!(fresh);

impl Fresh {
    /// A connection of somebody else's, past all our code.
    async fn raw(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connects")
    }
}

/// The SQLSTATE with which a statement is refused.
async fn refusal(connection: &mut PgConnection, sql: &'static str) -> String {
    match sqlx::raw_sql(sql).execute(connection).await {
        Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
        other => panic!("not refused by the database: {other:?}"),
    }
}

#[tokio::test]
async fn history_is_written_once_and_balances_whoever_writes() {
    let ledger = fresh().await;
    let sold = charged(&ledger.store(), "k", 1_000).await;
    let mut raw = ledger.raw().await;
    let append_only = [
        "update ledger_entry set minor = 1",
        "delete from ledger_entry",
        "truncate ledger_entry",
        "update event set reason = ''",
        "delete from event",
        "truncate event",
    ];
    for sql in append_only {
        assert_eq!(refusal(&mut raw, sql).await, "23001", "{sql}");
    }
    let wrong = [
        // One side only; and two sides in two currencies.
        "insert into ledger_entry (operation, line, account, ledger_account, currency, minor)
         values (gen_random_uuid(), 1, 'a', 'sales', 'USD', -5)",
        "insert into ledger_entry (operation, line, account, ledger_account, currency, minor)
         select '00000000-0000-0000-0000-000000000001', i, 'a', 'sales', c, m
         from (values (1, 'USD', 5), (2, 'EUR', -5)) v (i, c, m)",
        "update payment set captured = captured + 1",
        "update payment set refund_reserved = captured + 1",
        "update payment set authorized = captured - 1",
        "update operation set state = 'declined'",
        "update operation set settled_at = null",
        "update operation set state = 'unknown', settled_at = null",
    ];
    for sql in wrong {
        assert_eq!(refusal(&mut raw, sql).await, "23514", "{sql}");
    }
    assert_eq!(read(&ledger.store(), sold.id).await.state, sold.state);
    ledger.end().await;
}

#[tokio::test]
async fn the_feed_waits_for_a_writer_that_is_still_open() {
    let ledger = fresh().await;
    let store = ledger.store();
    let mut slow = ledger.raw().await;
    let mut open = slow.begin().await.expect("begins");
    let event = "insert into event (kind, operation, account, verb, to_state, reason, evidence)
                 values ('transition', gen_random_uuid(), 'acme-us', 'sale', 'recorded', 'slow', 'null')";
    sqlx::raw_sql(event)
        .execute(&mut *open)
        .await
        .expect("written");
    for i in 0..63 {
        begin(&store, sale(&format!("k{i}"), 100)).await;
    }
    let all = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    // What committed after the open one began may not be shown before it.
    assert!(store.events(&all).await.expect("readable").is_empty());
    open.commit().await.expect("commits");
    let seen = feed(&store, 10, None, 64).await;
    assert_eq!(seen.len(), 64);
    assert_eq!(seen[0].reason, "slow", "it began first");
    assert!(seen.is_sorted_by_key(|event| event.cursor));
    ledger.end().await;
}

/// The hot statements on tables that grew without ever being analysed: a plan that reads a table to its end is two to
/// three times slower at once, and ever slower later.
#[tokio::test]
async fn hot_statements_find_rows_by_key_in_tables_that_were_never_analysed() {
    let ledger = fresh().await;
    let mut raw = ledger.raw().await;
    // Both while the tables are empty, as at the first start, and after they grew.
    for rows in [0, 100_000] {
        let grow = format!(
            "alter table due set (autovacuum_enabled = off);
             alter table operation set (autovacuum_enabled = off);
             alter table payment set (autovacuum_enabled = off);
             insert into payment (id, account, endpoint, currency, amount, status, reference, opened_by)
             select gen_random_uuid(), 'a', 'e', 'USD', 1, 'pending', 'r', gen_random_uuid()
             from generate_series(1, {rows});
             insert into operation (id, client, key, verb, payment, account, endpoint, amount, currency, state, detail,
                 attempt, sends, epoch, claim, reference, fingerprint, owner, holds_while_unknown, first_attempt_at,
                 recorded_at, send_by, deadline, late_arrival_horizon, late_after, due_at)
             select gen_random_uuid(), 'c', i::text, 'sale', gen_random_uuid(), 'a', 'e', 1, 'USD', 'recorded', '{{}}',
                 1, 1, 1, gen_random_uuid(), i::text, '', gen_random_uuid(), false, now(), now(), now(), now(), 0,
                 now(), now()
             from generate_series(1, {rows}) i;
             insert into due (operation, owner, due_at) select id, owner, due_at from operation"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(grow))
            .execute(&mut raw)
            .await
            .expect("grows");
        for (sql, parameters, step) in super::HOT_STATEMENTS {
            let plan = ledger.store.journal_plan(sql, parameters).await;
            assert!(!plan.contains("Seq Scan on"), "with {rows} rows:\n{plan}");
            assert!(plan.contains(step), "another statement's plan:\n{plan}");
        }
    }
    ledger.end().await;
}

impl PostgresStore {
    /// How a journal connection plans a prepared statement, whatever its parameters.
    async fn journal_plan(&self, sql: &str, parameters: usize) -> String {
        let mut lease = self.journal.lease().await.expect("connects");
        let nulls = vec!["null"; parameters].join(", ");
        let prepare = format!("prepare probe as {sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare))
            .execute(&mut *lease)
            .await
            .expect("prepares");
        let explain = format!("explain execute probe({nulls})");
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain))
            .fetch_all(&mut *lease)
            .await
            .expect("explains");
        sqlx::raw_sql("deallocate probe")
            .execute(&mut *lease)
            .await
            .expect("forgets");
        lease.done();
        rows.iter()
            .map(|row| row.get::<String, _>(0) + "\n")
            .collect()
    }
}

#[tokio::test]
async fn a_database_that_would_forget_is_refused() {
    let ledger = fresh().await;
    let weaken = async |setting: &str, database: &str| {
        let sql = format!("alter database {database} set synchronous_commit = {setting}");
        administrator()
            .await
            .execute(sqlx::AssertSqlSafe(sql))
            .await
            .expect("set");
    };
    for setting in ["off", "local"] {
        weaken(setting, &ledger.name).await;
        // Another process: settings of a database are read when a connection begins.
        let options = PostgresOptions::new(SecretString::from(ledger.url.clone()));
        let store = PostgresStore::new(&options).expect("a URL");
        let faults = store.faults().await.expect("readable");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("synchronous_commit"), "{faults:?}");
    }
    weaken("on", &ledger.name).await;
    let mut raw = ledger.raw().await;
    raw.execute("delete from _sqlx_migrations")
        .await
        .expect("forgets");
    let faults = ledger.store.faults().await.expect("readable");
    assert!(
        matches!(&faults[..], [fault] if fault.contains("gateway migrate")),
        "{faults:?}"
    );
    raw.execute("drop table _sqlx_migrations")
        .await
        .expect("forgets");
    let faults = ledger.store.faults().await.expect("readable");
    assert!(
        matches!(&faults[..], [fault] if fault.contains("gateway migrate")),
        "{faults:?}"
    );
    drop(raw);
    ledger.end().await;
}

/// Whatever the database puts into its error, whoever reads it in a log reads the code and nothing else.
#[tokio::test]
async fn an_error_of_the_database_tells_its_code_and_none_of_its_words() {
    let ledger = fresh().await;
    let store = ledger.store();
    let recorded = begin(&store, sale("k", 1_000)).await;
    for (code, says) in [
        ("23514", "the ledger refused the write"),
        ("40001", "the ledger was contended"),
        ("53100", "the ledger did not answer"),
    ] {
        let tell = format!(
            "create or replace function tell() returns trigger language plpgsql as $$ begin
                 raise exception 'a canary' using errcode = '{code}', detail = 'a canary', hint = 'a canary';
             end $$;
             create or replace trigger tell before update on operation execute function tell()"
        );
        let told = sqlx::raw_sql(sqlx::AssertSqlSafe(tell));
        told.execute(&mut ledger.raw().await).await.expect("told");
        let batch = [Arc::new(settlement(&recorded, approved(1_000)))];
        let error = store.settle(&batch).await.expect_err("refused");
        assert_eq!(error.to_string(), format!("{says}: SQLSTATE {code}"));
        let mut whole = format!("{error:?}");
        let mut cause = error.source();
        while let Some(error) = cause {
            whole = format!("{whole} {error} {error:?}");
            cause = error.source();
        }
        assert!(!whole.contains("canary"), "{whole}");
    }
    ledger.end().await;
}

/// Nor does it remark on rows beside its answers, nor compile what it runs.
#[tokio::test]
async fn the_database_remarks_and_compiles_nothing() {
    let ledger = fresh().await;
    let mut lease = ledger.store.work.lease().await.expect("a connection");
    for (setting, expected) in [("client_min_messages", "error"), ("jit", "off")] {
        let show = sqlx::AssertSqlSafe(format!("show {setting}"));
        let found: String = sqlx::query_scalar(show)
            .fetch_one(&mut *lease)
            .await
            .expect("a setting");
        assert_eq!(found, expected, "{setting}");
    }
    lease.done();
    ledger.end().await;
}

#[tokio::test]
async fn a_ledger_that_goes_away_comes_back() {
    let ledger = fresh().await;
    let store = ledger.store();
    let recorded = begin(&store, sale("k", 1_000)).await;
    // Every connection is cut, as by a restart.
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    ledger.raw().await.execute(cut).await.expect("cut");
    let lost = store
        .settle(&[Arc::new(settlement(&recorded, approved(1_000)))])
        .await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    end(&store, &recorded, approved(1_000)).await;
    let nowhere = PostgresOptions::new(SecretString::from("postgres://postgres@127.0.0.1:1/x"));
    let nowhere = PostgresStore::new(&nowhere).expect("a URL");
    let unreachable = nowhere.ping().await;
    assert!(
        matches!(unreachable, Err(StoreError::Unreachable(_))),
        "{unreachable:?}"
    );
    ledger.end().await;
}

#[tokio::test]
async fn load_does_not_starve_the_heartbeat() {
    let ledger = fresh().await;
    let store = ledger.store();
    begin(&store, sale("k", 1_000)).await;
    // The journal's connections all wait for a row that somebody holds.
    let mut raw = ledger.raw().await;
    let mut open = raw.begin().await.expect("begins");
    sqlx::raw_sql("select 1 from operation for update")
        .execute(&mut *open)
        .await
        .expect("held");
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.cancel(&wish("k")).await })
        })
        .collect();
    store.beat(replica()).await.expect("beats beside them");
    open.rollback().await.expect("lets go");
    for task in waiting {
        task.await.expect("no panic").expect("answered");
    }
    ledger.end().await;
}

/// A caller that gives up leaves its statement at work: what opened another connection instead of waiting for it would take,
/// read by read, every connection the server has.
#[tokio::test]
async fn reads_that_are_given_up_hold_no_more_connections_than_there_are_for_reads() {
    let ledger = fresh().await;
    let mut options = PostgresOptions::new(SecretString::from(ledger.url.clone()));
    options.read_connections = 3;
    options.lock_timeout = Duration::from_mins(1);
    options.statement_timeout = Duration::from_mins(1);
    let store = Arc::new(PostgresStore::new(&options).expect("a URL"));
    let sold = charged(&ledger.store(), "k", 1_000).await;
    let id = sold.payment.expect("a payment");
    let mut raw = ledger.raw().await;
    let mut open = raw.begin().await.expect("begins");
    sqlx::raw_sql("lock table payment in access exclusive mode")
        .execute(&mut *open)
        .await
        .expect("locked");
    // Those of the lane, or of them those that wait for the lock.
    let count = async |connection: &mut PgConnection, waiting: bool| -> i64 {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and application_name = 'quittance reads'
                     and (wait_event_type = 'Lock' or not $1)";
        let count = sqlx::query_scalar(sql).bind(waiting);
        count.fetch_one(connection).await.expect("counted")
    };
    let mut beside = ledger.raw().await;
    let ask = |wait| {
        let store = Arc::clone(&store);
        let asked = async move { timeout(wait, store.payment(id)).await };
        tokio::spawn(asked)
    };
    // So short that a connection is not even made, and long enough that the statement waits for the lock.
    for wait in [1, 100, 1, 100, 1, 100].map(Duration::from_millis) {
        let asked: Vec<_> = (0..12).map(|_| ask(wait)).collect();
        for asked in asked {
            let answer = asked.await.expect("no panic");
            assert!(answer.is_err(), "given up: {answer:?}");
        }
    }
    while count(&mut beside, true).await < 3 {
        tokio::task::yield_now().await;
    }
    let connections = count(&mut beside, false).await;
    assert_eq!(connections, 3, "those of reads that were given up");
    open.rollback().await.expect("unlocks");
    // They come back, and are used again.
    let found = store.payment(id).await.expect("read");
    assert_eq!(found.map(|payment| payment.id), Some(id));
    assert_eq!(count(&mut beside, false).await, 3, "none was dropped");
    drop(store);
    ledger.end().await;
}

/// A settlement stays within its page (HOT): an index on anything that changes then would cost every payment more, and
/// bloat every index of the table.
#[tokio::test]
async fn settlements_touch_no_index_of_operations_and_payments() {
    let ledger = fresh().await;
    let store = ledger.store();
    for batch in 0..20 {
        let intents: Vec<_> = (0..20)
            .map(|i| Arc::new(sale(&format!("{batch}-{i}"), 1_000)))
            .collect();
        let recorded = store.record(&intents).await.expect("recorded");
        let settlements: Vec<_> = recorded
            .iter()
            .map(|answer| match answer {
                Recorded::New(operation) => Arc::new(settlement(operation, approved(1_000))),
                other => panic!("{other:?}"),
            })
            .collect();
        store.settle(&settlements).await.expect("settled");
    }
    let mut raw = ledger.raw().await;
    // A backend reports its counts when it has been idle for a moment, or when it ends.
    let ended = "select count(*) = 0 as ended from (
                     select pg_terminate_backend(pid, 5000) as gone from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()) t where not gone";
    let ended: bool = sqlx::query(ended)
        .fetch_one(&mut raw)
        .await
        .expect("ended")
        .get("ended");
    assert!(ended);
    for table in ["operation", "payment"] {
        let counts = sqlx::query(
            "select n_tup_upd as updated, n_tup_hot_upd as within from pg_stat_user_tables where relname = $1",
        );
        let row = counts
            .bind(table)
            .fetch_one(&mut raw)
            .await
            .expect("readable");
        let (updated, within): (i64, i64) = (row.get("updated"), row.get("within"));
        assert_eq!(updated, 400, "{table}");
        assert!(
            within * 10 >= updated * 9,
            "{table}: only {within} of {updated} stayed in their page"
        );
    }
    ledger.end().await;
}

/// An unknown sale of `owner` whose check has been due for ten seconds.
async fn forgotten(ledger: &Fresh, name: &str, owner: ReplicaId) -> Operation {
    let intent = Intent {
        owner,
        ..sale(name, 1_000)
    };
    let recorded = begin(&ledger.store(), intent).await;
    let lost = end(&ledger.store(), &recorded, unknown()).await;
    let mut raw = ledger.raw().await;
    for sql in [
        "update operation set due_at = recorded_at - interval '10 seconds' where id = $1",
        "update due d set due_at = o.due_at from operation o where o.id = d.operation and o.id = $1",
    ] {
        let aged = sqlx::query(sql)
            .bind(lost.id.uuid())
            .execute(&mut raw)
            .await;
        aged.expect("written");
    }
    lost
}

#[tokio::test]
async fn what_belongs_to_a_replica_that_is_gone_is_adopted() {
    let ledger = fresh().await;
    let store = ledger.store();
    let (gone, alive, me) = (replica(), replica(), replica());
    store.beat(alive).await.expect("beats");
    let orphan = forgotten(&ledger, "k1", gone).await;
    let kept = forgotten(&ledger, "k2", alive).await;
    let adopted = store.adopt_overdue(me, 10).await.expect("adopted");
    let adopted: Vec<_> = adopted.iter().map(|o| (o.id, o.owner, o.epoch)).collect();
    assert_eq!(adopted, [(orphan.id, me, orphan.epoch + 1)]);
    assert_eq!(read(&store, kept.id).await.owner, alive);
    ledger.end().await;
}
