//! A database of one test's own, in the Postgres that all tests share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::{Doing, StackError, database_url, eventually};

/// What the names of databases made here begin with; nothing else may, because leftovers are removed by name.
const NAME_START: &str = "quittance_test_";
/// Longer than any run: what is older was left behind.
const LEFTOVER_AGE: Duration = Duration::from_hours(3);
/// How long a connection to the template may take to be gone after whoever used it let go of it.
const TEMPLATE_WAIT: Duration = Duration::from_secs(20);
const OBJECT_IN_USE: &str = "55006"; // SQLSTATE: somebody is connected to the template.

/// Makes databases that are copies of one migrated template, for migrating each would take longer than most tests.
#[derive(Clone, Debug)]
pub struct Databases {
    server_url: String,
    template: String,
}

impl Databases {
    /// In the Postgres of `DATABASE_URL`. `migrate` is given the URL of the template, and must have closed its
    /// connections when it returns.
    pub async fn from_environment<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
    ) -> Result<Self, StackError> {
        Self::at(&database_url()?, migrate).await
    }

    /// In the Postgres of `server_url`, whose role must be allowed to create databases.
    pub async fn at<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        server_url: &str,
        migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
    ) -> Result<Self, StackError> {
        let mut connection = connect(server_url).await?;
        remove_leftovers(&mut connection).await?;
        let template = new_name();
        run(&mut connection, format!("create database {template}")).await?;
        close(connection).await?;
        migrate(&with_database(server_url, &template))
            .await
            .doing(|| format!("migrating {template}"))?;
        Ok(Self {
            server_url: server_url.to_owned(),
            template,
        })
    }

    /// A new database, migrated and empty.
    pub async fn create(&self) -> Result<Database, StackError> {
        let mut connection = connect(&self.server_url).await?;
        let name = new_name();
        let statement = format!("create database {name} template {}", self.template);
        eventually(
            TEMPLATE_WAIT,
            "nobody to use the template",
            async || match sqlx::query(AssertSqlSafe(statement.clone()))
                .execute(&mut connection)
                .await
            {
                Err(sqlx::Error::Database(refusal))
                    if refusal.code().as_deref() == Some(OBJECT_IN_USE) =>
                {
                    None
                }
                result => Some(result.doing(|| statement.clone())),
            },
        )
        .await??;
        close(connection).await?;
        Ok(Database {
            url: with_database(&self.server_url, &name),
            server_url: self.server_url.clone(),
            name,
        })
    }
}

/// A database that is dropped with this value, whoever is still connected. A panicking test keeps it and says its name; a
/// later run removes what was left behind.
#[derive(Debug)]
pub struct Database {
    url: String,
    server_url: String,
    name: String,
}

impl Database {
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` of its server, for a `TcpProxy` to forward to.
    pub fn server_address(&self) -> Result<String, StackError> {
        let options: PgConnectOptions = self
            .url
            .parse()
            .doing(|| "reading the database's URL".to_owned())?;
        Ok(format!("{}:{}", options.get_host(), options.get_port()))
    }

    /// The same database reached through another port of this machine: a `TcpProxy`, for one.
    pub fn url_through(&self, port: u16) -> String {
        through_port(&self.url, port)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.url);
            return;
        }
        let (server_url, name) = (self.server_url.clone(), self.name.clone());
        // On a thread with a runtime of its own: a test's runtime may be ending, and cannot be waited on from inside.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            runtime.block_on(async {
                let mut connection = connect(&server_url).await.ok()?;
                remove(&mut connection, &name).await.ok()?;
                close(connection).await.ok()
            })
        });
        // What cannot be dropped now (the server may be gone) is removed by a later run.
        let _ = dropping.join();
    }
}

async fn connect(url: &str) -> Result<PgConnection, StackError> {
    let options: PgConnectOptions = url
        .parse()
        .doing(|| "reading the database's URL".to_owned())?;
    options
        .connect()
        .await
        .doing(|| "connecting to Postgres".to_owned())
}

async fn close(connection: PgConnection) -> Result<(), StackError> {
    connection
        .close()
        .await
        .doing(|| "closing a connection to Postgres".to_owned())
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<(), StackError> {
    let described = statement.clone();
    sqlx::query(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .doing(|| described)
        .map(drop)
}

async fn remove(connection: &mut PgConnection, name: &str) -> Result<(), StackError> {
    run(
        connection,
        format!("drop database if exists {name} with (force)"),
    )
    .await
}

async fn remove_leftovers(connection: &mut PgConnection) -> Result<(), StackError> {
    let names: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)")
            .bind(NAME_START)
            .fetch_all(&mut *connection)
            .await
            .doing(|| "listing databases".to_owned())?;
    let oldest = seconds_now().saturating_sub(LEFTOVER_AGE.as_secs());
    for name in names
        .iter()
        .filter(|name| made_at(name).is_some_and(|made| made < oldest))
    {
        // A failure is another process that removes it at this moment.
        let _ = remove(connection, name).await;
    }
    Ok(())
}

/// `quittance_test_SECONDS_PROCESS_COUNT_RANDOM`: unique on one server, and it says how old it is.
fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random: u16 = rand::random();
    format!(
        "{NAME_START}{}_{}_{count}_{random}",
        seconds_now(),
        std::process::id()
    )
}

fn made_at(name: &str) -> Option<u64> {
    name.strip_prefix(NAME_START)?
        .split('_')
        .next()?
        .parse()
        .ok()
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `url` with another database; its options stay.
fn with_database(url: &str, database: &str) -> String {
    let (address, options) = url
        .split_once('?')
        .map_or((url, None), |(address, options)| (address, Some(options)));
    let authority = address.find("://").map_or(0, |at| at + 3);
    let server = address[authority..]
        .find('/')
        .map_or(address, |at| &address[..authority + at]);
    options.map_or_else(
        || format!("{server}/{database}"),
        |options| format!("{server}/{database}?{options}"),
    )
}

/// `url` with 127.0.0.1 and `port` for its host and port.
fn through_port(url: &str, port: u16) -> String {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..]
        .find(['/', '?'])
        .map_or(url.len(), |at| authority + at);
    let credentials = url[authority..end]
        .rfind('@')
        .map_or("", |at| &url[authority..=authority + at]);
    format!(
        "{}{credentials}127.0.0.1:{port}{}",
        &url[..authority],
        &url[end..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_changes_only_its_database() {
        let with = |url| with_database(url, "other");
        assert_eq!(
            with("postgres://me:pw@host:5432/mine?sslmode=disable"),
            "postgres://me:pw@host:5432/other?sslmode=disable"
        );
        assert_eq!(with("postgres://host"), "postgres://host/other");
        assert_eq!(
            with("postgres:///mine?host=/run/postgres"),
            "postgres:///other?host=/run/postgres"
        );
    }

    #[test]
    fn a_url_goes_through_another_port_with_the_same_credentials() {
        assert_eq!(
            through_port("postgres://me:p@w@host:5432/mine?a=b", 7),
            "postgres://me:p@w@127.0.0.1:7/mine?a=b"
        );
        assert_eq!(through_port("postgres://host", 7), "postgres://127.0.0.1:7");
    }

    #[test]
    fn a_name_says_when_it_was_made() {
        let name = new_name();
        assert!(
            made_at(&name).is_some_and(|made| made.abs_diff(seconds_now()) <= 1),
            "{name}"
        );
        assert_eq!(made_at("production"), None);
        assert_eq!(made_at("quittance_test_soon"), None);
    }
}
