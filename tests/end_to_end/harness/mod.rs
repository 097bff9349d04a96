//! The tools of these tests do what they say: otherwise a test could pass because nothing was broken at all.

mod commits;
mod gateway;
mod keys;
mod processes;
mod proxy;
mod servers;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn postgres(url: &str) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.connect().await
}

pub(super) async fn notes(url: &str) -> Vec<String> {
    let mut connection = postgres(url).await.expect("Postgres answers");
    sqlx::query_scalar("select text from note order by text")
        .fetch_all(&mut connection)
        .await
        .expect("a table")
}

pub(super) async fn create_notes(url: &str) -> sqlx::Result<()> {
    let mut connection = postgres(url).await?;
    sqlx::query("create table note (text text not null)")
        .execute(&mut connection)
        .await?;
    connection.close().await
}

pub(super) const INSERT: &str = "insert into note (text) values ($1)";
