//! Servers that stop and start, and databases of a test's own.

use sandbox::stack::{Databases, PostgresServer, RedisServer, StackError};
use sqlx::Connection;

use super::{INSERT, create_notes, notes, postgres};

#[tokio::test]
async fn redis_is_flushed_stopped_and_comes_back_empty_on_its_port() -> Result<(), StackError> {
    async fn get(url: &str) -> redis::RedisResult<Option<String>> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("GET")
            .arg("key")
            .query_async(&mut connection)
            .await
    }
    async fn set(url: &str) -> redis::RedisResult<()> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("SET")
            .arg("key")
            .arg("value")
            .query_async(&mut connection)
            .await
    }
    let mut server = RedisServer::start_new().await?;
    let url = server.url();

    set(&url).await.expect("Redis takes a key");
    assert_eq!(
        get(&url).await.expect("Redis answers").as_deref(),
        Some("value")
    );
    server.flush().await?;
    assert_eq!(get(&url).await.expect("Redis answers"), None);

    set(&url).await.expect("Redis takes a key");
    server.stop()?;
    assert!(get(&url).await.is_err());
    server.start().await?;
    assert_eq!(server.url(), url);
    assert_eq!(get(&url).await.expect("Redis answers"), None);
    Ok(())
}

#[tokio::test]
async fn postgres_stops_at_once_and_comes_back_with_what_was_committed() -> Result<(), StackError> {
    let mut server = PostgresServer::start_new().await?;
    let url = server.admin_url();
    create_notes(&url).await.expect("a new table");
    let mut connection = postgres(&url).await.expect("Postgres answers");
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .expect("a setting");
        assert_eq!(value, "on", "{setting}");
    }
    sqlx::query(INSERT)
        .bind("committed")
        .execute(&mut connection)
        .await
        .expect("an insert");
    let mut transaction = connection.begin().await.expect("a transaction");
    sqlx::query(INSERT)
        .bind("lost")
        .execute(&mut *transaction)
        .await
        .expect("an insert");

    server.stop_immediate().await?;
    assert!(transaction.commit().await.is_err());
    assert!(postgres(&url).await.is_err());

    server.start().await?;
    assert_eq!(server.admin_url(), url);
    assert_eq!(notes(&url).await, ["committed"]);
    Ok(())
}

#[tokio::test]
async fn every_database_is_its_own_and_ends_with_its_test() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let (first, second) = (databases.create().await?, databases.create().await?);
    let mut connection = postgres(first.url())
        .await
        .expect("the new database answers");
    sqlx::query(INSERT)
        .bind("mine")
        .execute(&mut connection)
        .await
        .expect("the table was migrated");
    assert_eq!(notes(first.url()).await, ["mine"]);
    assert_eq!(notes(second.url()).await, [""; 0]);

    let url = first.url().to_owned();
    drop(first); // Though `connection` is still open.
    assert!(postgres(&url).await.is_err());
    assert_eq!(notes(second.url()).await, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_a_killed_run_left_behind_is_removed_by_a_later_run()
-> Result<(), StackError> {
    let server = PostgresServer::start_new().await?;
    let mut connection = postgres(&server.admin_url())
        .await
        .expect("Postgres answers");
    for name in ["quittance_test_1700000000_1_0_0", "somebody_elses"] {
        let create = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::query(create)
            .execute(&mut connection)
            .await
            .expect("a new database");
    }
    let databases = Databases::at(&server.admin_url(), create_notes).await?;
    let young = databases.create().await?;
    Databases::at(&server.admin_url(), create_notes).await?;

    assert!(
        postgres(&server.url("quittance_test_1700000000_1_0_0"))
            .await
            .is_err()
    );
    assert!(postgres(&server.url("somebody_elses")).await.is_ok());
    assert!(postgres(young.url()).await.is_ok());
    Ok(())
}
