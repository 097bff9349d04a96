//! How many payments a second the ledger takes, and what each costs the server: run by hand.
//!
//! `DATABASE_URL=… cargo run --release -p gateway-core --features contract --example ledger_bench [seconds]`
//! A payment is one record and one settlement, in batches, on two connections. Uses a database of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway_core::store::contract::{approved, sale, settlement};
use gateway_core::store::{PostgresOptions, PostgresStore, Recorded, Store};
use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection, Row};
use uuid::Uuid;

const BATCHES: [usize; 4] = [1, 16, 64, 256];
const CONNECTIONS: usize = 2;

#[tokio::main]
async fn main() {
    let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names a Postgres server");
    let seconds = std::env::args()
        .nth(1)
        .map_or(5, |text| text.parse().expect("seconds"));
    let name = format!("quittance_bench_{}", std::process::id());
    let mut administrator = PgConnection::connect(&server)
        .await
        .expect("the server answers");
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    administrator
        .execute(create)
        .await
        .expect("may create databases");
    let (base, _) = server.rsplit_once('/').expect("a URL names a database");
    let options = PostgresOptions::new(SecretString::from(format!("{base}/{name}")));
    let store = Arc::new(PostgresStore::new(&options).expect("a URL"));
    store.migrate().await.expect("migrations apply");

    for batch in BATCHES {
        let before = server_cpu(&mut administrator, &name).await;
        let (payments, took) = run(&store, batch, Duration::from_secs(seconds)).await;
        let spent = server_cpu(&mut administrator, &name).await - before;
        println!(
            "batches of {batch:3}: {:6} payments/s, {:6.1} us of server CPU each ({payments} in {took:?})",
            u128::from(payments) * 1_000_000 / took.as_micros(),
            spent * 1e6 / f64::from(u32::try_from(payments).expect("few enough")),
        );
    }
    drop(store);
    let drop = sqlx::AssertSqlSafe(format!("drop database {name} with (force)"));
    administrator.execute(drop).await.expect("dropped");
}

async fn run(store: &Arc<PostgresStore>, batch: usize, span: Duration) -> (u64, Duration) {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (store, done) = (Arc::clone(store), Arc::clone(&done));
            tokio::spawn(async move {
                while begun.elapsed() < span {
                    done.fetch_add(pay(&store, batch).await, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    (done.load(Ordering::Relaxed), begun.elapsed())
}

/// One batch through both commits.
async fn pay(store: &PostgresStore, batch: usize) -> u64 {
    let intents: Vec<_> = (0..batch)
        .map(|_| Arc::new(sale(&Uuid::new_v4().to_string(), 1_000)))
        .collect();
    let recorded = store.record(&intents).await.expect("recorded");
    let settlements: Vec<_> = recorded
        .iter()
        .map(|answer| match answer {
            Recorded::New(operation) => Arc::new(settlement(operation, approved(1_000))),
            other => panic!("not new: {other:?}"),
        })
        .collect();
    u64::try_from(store.settle(&settlements).await.expect("settled").len()).expect("few enough")
}

/// Seconds of CPU that the server's journal connections to this database have used so far (Linux, same machine).
async fn server_cpu(administrator: &mut PgConnection, database: &str) -> f64 {
    let backends = sqlx::query(
        "select pid from pg_stat_activity where datname = $1 and application_name = 'quittance journal'",
    );
    let rows = backends
        .bind(database)
        .fetch_all(administrator)
        .await
        .expect("readable");
    let mut ticks = 0_u32;
    for row in rows {
        let pid: i32 = row.get("pid");
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // proc(5): after the parenthesised name, utime and stime are the 12th and 13th field.
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        ticks +=
            fields[11].parse::<u32>().expect("utime") + fields[12].parse::<u32>().expect("stime");
    }
    f64::from(ticks) / 100.0
}
