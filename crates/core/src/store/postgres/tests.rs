//! The contract on Postgres, and what only Postgres can get wrong. Each test has a database of its own.

use std::sync::Arc;

use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::store::contract::{Ledger, charged, read};
use crate::store::{PostgresOptions, PostgresStore, Store};

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

    async fn end(self) {
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
