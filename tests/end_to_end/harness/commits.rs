//! A database behind the proxy: commits that are lost, held, or happen unseen.

use sandbox::stack::{Databases, Moment, StackError, TcpProxy};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use super::{INSERT, PATIENCE, create_notes, notes, postgres};

/// Inserts one note in a transaction, through the proxy.
async fn insert_note(url: &str, text: &str) -> sqlx::Result<()> {
    let mut connection = postgres(url).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(INSERT)
        .bind(text)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

#[tokio::test]
async fn a_commit_happens_although_its_acknowledgement_is_lost() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let database = databases.create().await?;
    let proxy = TcpProxy::start(database.server_address()?).await?;
    let through = database.url_through(proxy.port());

    insert_note(&through, "untouched")
        .await
        .expect("nothing is set yet");
    let trap = proxy.cut_at(Moment::after_commit(), b"COMMIT");
    assert!(insert_note(&through, "acknowledgement lost").await.is_err());
    assert!(trap.has_sprung());
    assert_eq!(
        notes(database.url()).await,
        ["acknowledgement lost", "untouched"]
    );

    let trap = proxy.cut_at(Moment::BeforeRequest, b"COMMIT");
    assert!(insert_note(&through, "never committed").await.is_err());
    assert!(trap.has_sprung());
    assert_eq!(
        notes(database.url()).await,
        ["acknowledgement lost", "untouched"]
    );
    Ok(())
}

/// One statement that commits by itself carries no `COMMIT`: it is known by one of its values.
#[tokio::test]
async fn a_statement_that_commits_by_itself_is_caught_by_its_values() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let database = databases.create().await?;
    let proxy = TcpProxy::start(database.server_address()?).await?;
    let through = database.url_through(proxy.port());
    let insert = async |connection: &mut PgConnection, text: &str| {
        sqlx::query(INSERT).bind(text).execute(connection).await
    };
    let mut connection = postgres(&through).await.expect("Postgres answers");
    let plain = insert(&mut connection, "plain").await;
    plain.expect("nothing is set yet");

    let trap = proxy.cut_at(Moment::after_commit(), b"key-1");
    let lost = insert(&mut connection, "with key-1 in it").await;
    assert!(lost.is_err() && trap.has_sprung());
    assert_eq!(notes(database.url()).await, ["plain", "with key-1 in it"]);

    let trap = proxy.cut_at(Moment::BeforeRequest, b"key-2");
    let mut connection = postgres(&through).await.expect("Postgres answers");
    let never = insert(&mut connection, "with key-2 in it").await;
    assert!(never.is_err() && trap.has_sprung());
    assert_eq!(notes(database.url()).await, ["plain", "with key-1 in it"]);
    Ok(())
}

#[tokio::test]
async fn a_commit_can_be_held_before_it_happens_and_after() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let database = databases.create().await?;
    let proxy = TcpProxy::start(database.server_address()?).await?;
    let through = database.url_through(proxy.port());
    for (moment, text, visible) in [
        (Moment::BeforeRequest, "first", false),
        (Moment::after_commit(), "second", true),
    ] {
        let trap = proxy.hold_at(moment, b"COMMIT");
        let through = through.clone();
        let inserting = tokio::spawn(async move { insert_note(&through, text).await });
        timeout(PATIENCE, trap.sprung())
            .await
            .expect("the commit is on its way");
        assert_eq!(
            notes(database.url()).await.contains(&text.to_owned()),
            visible
        );
        assert!(!inserting.is_finished());
        trap.release();
        inserting
            .await
            .expect("no panic")
            .expect("a held commit succeeds in the end");
        assert!(notes(database.url()).await.contains(&text.to_owned()));
    }
    Ok(())
}
