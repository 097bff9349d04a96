//! Connections to Postgres: few, each kind with its own, so that no load can starve a heartbeat.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::hosts::each_host;
use crate::secret::Secret;
use crate::store::StoreError;
use crate::store::code::DatabaseCode;
use crate::task;

/// Where the ledger is, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user@host:port/database?sslmode=…`. Of several hosts, `host:port,host:port`, one takes writes at a time.
    pub url: SecretString,
    /// Takes the place of a password in the URL. Read for each new connection.
    pub password: Option<Secret>,
    /// Connections that commit batches. More than the journal's writers are never used.
    pub journal_connections: usize,
    /// Connections for the resolver and cancellations.
    pub work_connections: usize,
    pub read_connections: usize,
    pub connect_timeout: Duration,
    /// Wait for a free connection. Past it: `Unavailable`.
    pub acquire_timeout: Duration,
    /// For one statement, enforced by the server.
    pub statement_timeout: Duration,
    /// For one row lock, enforced by the server. Past it: `Contended`.
    pub lock_timeout: Duration,
}

impl PostgresOptions {
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            password: None,
            journal_connections: 2,
            work_connections: 3,
            read_connections: 6,
            connect_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(2),
        }
    }
}

/// One kind of connection, at most so many at once. They are opened when wanted, so that a process starts, and comes
/// back, whatever the database does meanwhile.
pub(super) struct Lane {
    name: &'static str,
    /// Where the ledger may be.
    hosts: Vec<PgConnectOptions>,
    /// The one that took writes last: the first to be asked again.
    host: AtomicUsize,
    password: Option<Secret>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    connect_timeout: Duration,
    acquire_timeout: Duration,
    /// The server stops a statement on its own; past this nobody answers.
    answer_timeout: Duration,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
    opened: Instant,
}

/// An idle connection this old is asked whether it still lives before it is used.
const IDLE_TRUSTED: Duration = Duration::from_secs(20);
/// A connection this old is replaced: after a failover the name leads elsewhere.
const AGE_MAX: Duration = Duration::from_mins(30);

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// # Errors
    /// `Refused` for a URL that cannot be read; its text is not repeated.
    pub(super) fn new(
        name: &'static str,
        connections: usize,
        planned: Planned,
        options: &PostgresOptions,
    ) -> Result<Self, StoreError> {
        let connect = |url: String| {
            let connect = PgConnectOptions::from_str(&url)
                .map_err(|_| StoreError::Refused("the ledger's URL cannot be read".into()))?
                .application_name(&format!("quittance {name}"))
                .statement_cache_capacity(200)
                .disable_statement_logging()
                .options([
                    ("statement_timeout", millis(options.statement_timeout)),
                    ("lock_timeout", millis(options.lock_timeout)),
                    (
                        "idle_in_transaction_session_timeout",
                        millis(options.statement_timeout),
                    ),
                    ("default_transaction_isolation", "read committed".to_owned()),
                    (NO_JIT.0, NO_JIT.1.to_owned()),
                    // What a database remarks beside its answers would be written to the log as it is.
                    ("client_min_messages", "error".to_owned()),
                ]);
            Ok(match planned {
                Planned::ByKey => connect.options(BY_KEY),
                Planned::Freely => connect,
            })
        };
        let urls = each_host(options.url.expose_secret());
        Ok(Self {
            name,
            hosts: urls
                .into_iter()
                .map(connect)
                .collect::<Result<_, StoreError>>()?,
            host: AtomicUsize::new(0),
            password: options.password.clone(),
            permits: Arc::new(Semaphore::new(connections.max(1))),
            idle: Mutex::default(),
            connect_timeout: options.connect_timeout,
            acquire_timeout: options.acquire_timeout,
            answer_timeout: options.statement_timeout + Duration::from_secs(5),
        })
    }

    /// A connection for one piece of work.
    ///
    /// # Errors
    /// `Unreachable`.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, StoreError> {
        let permit = self.permit().await?;
        self.connected(permit).await
    }

    /// Does one piece of work in a task of its own. Whoever gives up before it began leaves the queue. Whoever gives up later
    /// leaves the connection to the task, which keeps it until the server is done: one that was dropped would still be at
    /// work there, beside the next one, and together they would be more than this lane may have.
    ///
    /// # Errors
    /// Those of the work, `Unreachable`, and `Unavailable` where the task breaks.
    pub(super) async fn apart<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Lease) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let permit = self.permit().await?;
        let lane = Arc::clone(self);
        let working = task::spawn(async move { work(lane.connected(permit).await?).await });
        working
            .await
            .unwrap_or_else(|broken| Err(StoreError::Unavailable(Box::new(broken))))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        timeout(
            self.acquire_timeout,
            Arc::clone(&self.permits).acquire_owned(),
        )
        .await
        .map_err(|elapsed| StoreError::Unreachable(Box::new(elapsed)))?
        .map_err(|closed| StoreError::Unreachable(Box::new(closed)))
    }

    async fn connected(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Lease, StoreError> {
        let lease = |Idle {
                         connection, opened, ..
                     }| Lease {
            lane: Arc::clone(self),
            connection: Some(connection),
            opened,
            _permit: permit,
        };
        while let Some(mut idle) = self.pop() {
            if idle.opened.elapsed() > AGE_MAX {
                continue;
            }
            let fresh = idle.since.elapsed() < IDLE_TRUSTED;
            if fresh
                || matches!(
                    timeout(self.connect_timeout, idle.connection.ping()).await,
                    Ok(Ok(()))
                )
            {
                return Ok(lease(idle));
            }
        }
        let connection = self.connect().await?;
        Ok(lease(Idle {
            connection,
            since: Instant::now(),
            opened: Instant::now(),
        }))
    }

    /// To the first host that takes writes, beginning with the one that did last.
    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let count = self.hosts.len();
        let first = self.host.load(Ordering::Relaxed);
        let mut refusal = StoreError::Unreachable("the ledger has no host".into());
        for host in (first..first + count).map(|turn| turn % count) {
            match timeout(self.connect_timeout, self.connect_to(host)).await {
                Ok(Ok(connection)) => {
                    self.host.store(host, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => refusal = error,
                Err(elapsed) => refusal = StoreError::Unreachable(Box::new(elapsed)),
            }
        }
        Err(refusal)
    }

    /// Asks whether it takes writes: while a failover is under way a name, or a list, leads to a standby too, and a
    /// connection to one would be kept, and its reads be old.
    async fn connect_to(&self, host: usize) -> Result<PgConnection, StoreError> {
        let unreachable = |error| StoreError::Unreachable(Box::new(error));
        let mut options = self.hosts[host].clone();
        // The password of this moment: one that was rotated needs no restart.
        if let Some(password) = &self.password {
            let password = password
                .read()
                .map_err(|error| StoreError::Unreachable(error.into()))?;
            options = options.password(password.expose_secret());
        }
        let mut connection = PgConnection::connect_with(&options)
            .await
            .map_err(unreachable)?;
        let is_standby: bool = sqlx::query_scalar("select pg_is_in_recovery()")
            .fetch_one(&mut connection)
            .await
            .map_err(unreachable)?;
        if is_standby {
            let _ = connection.close().await;
            return Err(StoreError::Unreachable("the ledger is a standby".into()));
        }
        Ok(connection)
    }

    fn pop(&self) -> Option<Idle> {
        self.idle().pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        // A push or a pop cannot leave the list half-written.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the statements of a lane are planned.
#[derive(Clone, Copy)]
pub(super) enum Planned {
    /// As the planner likes.
    Freely,
    /// Always by key. A plan made while a table was new and small is kept, and reads the whole table once it is large.
    ByKey,
}

pub(super) const BY_KEY: [(&str, &str); 4] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Compiling a statement takes tens of milliseconds, each time it is run, and saves none: ours read a few rows. A scan that
/// the planner was told to avoid looks expensive enough to it (the heartbeat's, of a small table).
pub(super) const NO_JIT: (&str, &str) = ("jit", "off");

fn millis(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

/// A connection in use. It goes back only if its last answer was read to the end.
pub(super) struct Lease {
    lane: Arc<Lane>,
    connection: Option<PgConnection>,
    opened: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Gives the connection back: the work is done and nothing is under way on it.
    pub(super) fn done(mut self) {
        if let Some(connection) = self.connection.take() {
            let idle = Idle {
                connection,
                since: Instant::now(),
                opened: self.opened,
            };
            self.lane.idle().push(idle);
        }
    }

    /// Waits for one answer, at most as long as the server may take.
    pub(super) async fn answer<T>(
        limit: Duration,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        match timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(read_error(error)),
            Err(elapsed) => Err(StoreError::Unavailable(Box::new(elapsed))),
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.lane.answer_timeout
    }
}

impl Deref for Lease {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.connection
            .as_ref()
            .expect("taken only by done, which consumes the lease")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection
            .as_mut()
            .expect("taken only by done, which consumes the lease")
    }
}

/// What an error means for the write, by its SQLSTATE (Postgres manual, appendix A).
pub(super) fn read_error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(database) => {
            let cause = DatabaseCode::boxed("SQLSTATE", &**database);
            let code = database.code().unwrap_or_default();
            match code.as_ref() {
                // Serialization, deadlock, lock and statement time-out: rolled back.
                "40001" | "40P01" | "55P03" | "57014" => StoreError::Contended(cause),
                // The data or a constraint.
                code if code.starts_with("22") || code.starts_with("23") => {
                    StoreError::Refused(cause)
                }
                // Connection, shutdown, resources, a read-only standby, a missing table: not this row's fault.
                _ => StoreError::Unavailable(cause),
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
