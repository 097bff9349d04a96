//! The contract on SQLite, and what only SQLite can get wrong. Each test has a file of its own.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use uuid::Uuid;

use crate::key::ReplicaId;
use crate::store::contract::{
    Ledger, approved, begin, charged, end, read, replica, sale, settlement, unknown,
};
use crate::store::{Intent, Operation, SqliteStore, Store};

/// An empty ledger in a folder that is removed at the end.
struct Fresh {
    store: Arc<SqliteStore>,
    folder: PathBuf,
}

async fn fresh() -> Fresh {
    let folder = std::env::temp_dir().join(format!("quittance-{}", Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).expect("may write to the temporary folder");
    let store = SqliteStore::open(&folder.join("ledger.sqlite"))
        .await
        .expect("opens");
    store.migrate().await.expect("migrations apply");
    Fresh {
        store: Arc::new(store),
        folder,
    }
}

impl Fresh {
    fn store(&self) -> Ledger {
        Arc::clone(&self.store) as Ledger
    }

    /// What holds after every test: all entries balance.
    async fn end(self) {
        let mut raw = self.raw().await;
        let unbalanced =
            "select 1 from ledger_entry group by operation, currency having sum(minor) <> 0";
        let unbalanced = sqlx::query(unbalanced)
            .fetch_optional(&mut raw)
            .await
            .expect("readable");
        assert!(unbalanced.is_none(), "entries do not balance");
        raw.close().await.expect("closes");
        self.store.readers.close().await;
        drop(self.store);
        std::fs::remove_dir_all(&self.folder).expect("removed");
    }

    /// A connection of somebody else's, past all our code.
    async fn raw(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.folder.join("ledger.sqlite"));
        SqliteConnection::connect_with(&options)
            .await
            .expect("connects")
    }
}

crate::store_contract!(fresh);

/// Whatever the database puts into its error, whoever reads it in a log reads the code and nothing else.
#[tokio::test]
async fn an_error_of_the_database_tells_its_code_and_none_of_its_words() {
    let ledger = fresh().await;
    let store = ledger.store();
    let recorded = begin(&store, sale("k", 1_000)).await;
    let tell =
        "create trigger tell before update on operation begin select raise(abort, 'a canary'); end";
    let told = sqlx::raw_sql(tell).execute(&mut ledger.raw().await).await;
    told.expect("told");
    let batch = [Arc::new(settlement(&recorded, approved(1_000)))];
    let error = store.settle(&batch).await.expect_err("refused");
    // SQLITE_CONSTRAINT_TRIGGER.
    assert_eq!(
        error.to_string(),
        "the ledger refused the write: SQLite code 1811"
    );
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    ledger.end().await;
}

#[tokio::test]
async fn history_is_written_once_and_balances_whoever_writes() {
    let ledger = fresh().await;
    let sold = charged(&ledger.store(), "k", 1_000).await;
    let mut raw = ledger.raw().await;
    for sql in [
        "update ledger_entry set minor = 1",
        "delete from ledger_entry",
        "update event set reason = ''",
        "delete from event",
        // One side only; and two sides in two currencies.
        "insert into ledger_entry (operation, line, account, ledger_account, currency, minor, at)
         values (x'00', 1, 'a', 'sales', 'USD', -5, 0)",
        "insert into ledger_entry (operation, line, account, ledger_account, currency, minor, at)
         values (x'00', 1, 'a', 'sales', 'USD', -5, 0), (x'00', 2, 'a', 'sales', 'EUR', 5, 0)",
        "insert into balanced (minor) values (5)",
        "delete from balanced",
        "update payment set captured = captured + 1",
        "update payment set refund_reserved = captured + 1",
        "update payment set authorized = captured - 1",
        "update operation set state = 'declined'",
        "update operation set settled_at = null",
        "update operation set state = 'unknown', settled_at = null",
    ] {
        let refused = sqlx::query(sql).execute(&mut raw).await;
        let Err(sqlx::Error::Database(error)) = refused else {
            panic!("{sql}: {refused:?}")
        };
        let code: i32 = error
            .code()
            .expect("a result code")
            .parse()
            .expect("a number");
        assert_eq!(code & 0xff, 19, "{sql}: {error}");
    }
    assert_eq!(read(&ledger.store(), sold.id).await.state, sold.state);
    drop(raw);
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
    let sql = "update operation set due_at = recorded_at - 10000000 where id = $1";
    let aged = sqlx::query(sql)
        .bind(lost.id.uuid())
        .execute(&mut raw)
        .await;
    aged.expect("written");
    raw.close().await.expect("closes");
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
