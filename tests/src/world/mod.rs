//! A whole world for a test: simulated processor, ledger, lock, and as many gateways as it wants, on real sockets.
//!
//! Spans are scaled: the upstream times out after three seconds, which even a busy machine rarely needs, callers wait at most
//! six, nothing can arrive after ten, and unknown outcomes are checked from 200 ms on.

mod around;
mod caller;
mod config;
pub(crate) mod contract;
mod records;
mod truth;
mod weather;

use std::path::Path;
use std::sync::Arc;

use gateway_core::lock::{RedisLock, RedisLockOptions};
use gateway_http::assemble::{Seams, check_ledger, pieces};
use gateway_http::config::Config;
use gateway_http::gateway::Gateway;
use sqlx::Connection as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use around::{Around, Hook, Turnstile};
pub use caller::{Caller, Reply, amount, card, claims, sale};
pub use config::WorldConfig;
pub use records::Records;
pub use truth::Tolerance;
pub use weather::weather;

use crate::simulators::tls::LoopbackTls;
use crate::simulators::{Options, Simulators};
use crate::stack::{
    Algorithm, Database, Databases, GatewayOptions, GatewayProcess, RedisServer, StackError,
    TempDir, TestKey, redis_url, reserve_port,
};

/// What tests share: made once, since it takes longer than most tests.
static DATABASES: tokio::sync::OnceCell<Databases> = tokio::sync::OnceCell::const_new();

/// Everything around the gateways of one test.
#[derive(Debug)]
pub struct World {
    pub simulators: Simulators,
    pub key: TestKey,
    /// What the gateways' configuration is written from. Change it before a gateway starts.
    pub config: WorldConfig,
    pub database: Option<Database>,
    /// A Redis of this test's own, if it asked for one.
    pub redis: Option<RedisServer>,
    pub folder: TempDir,
    /// What callers of the gateways trust, as PEM; plain HTTP when absent.
    pub certificate: Option<String>,
}

impl World {
    /// On Postgres and Redis.
    pub async fn new() -> Self {
        Self::on_postgres(Options::default()).await
    }

    /// On Postgres and Redis, with a simulator that follows other rules.
    pub async fn on_postgres(options: Options) -> Self {
        let databases = DATABASES
            .get_or_try_init(|| Databases::from_environment(migrate))
            .await;
        let database = databases
            .expect("a Postgres to make databases in")
            .create()
            .await;
        let database = database.expect("a database of this test's own");
        let url = database.url().to_owned();
        let redis = redis_url().expect("a Redis");
        Self {
            database: Some(database),
            ..Self::at(options, &url, &redis).await
        }
    }

    /// On SQLite, with the lock in the process.
    pub async fn on_sqlite() -> Self {
        let folder = TempDir::new("sqlite").expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        migrate(&url).await.expect("a migrated ledger");
        let world = Self::at(Options::default(), &url, "local").await;
        Self { folder, ..world }
    }

    /// On a ledger, migrated and empty, and a lock of the caller's own.
    pub async fn at(options: Options, ledger_url: &str, lock_url: &str) -> Self {
        let folder = TempDir::new("world").expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let books = folder.path().join("books");
        let simulators = Simulators::start(listener, Some(books), options)
            .await
            .expect("simulators");
        let key = TestKey::generate(Algorithm::EdDsa, "world");
        let config = WorldConfig::new(ledger_url, lock_url, &simulators.connexpay_url());
        Self {
            simulators,
            key,
            config,
            database: None,
            redis: None,
            folder,
            certificate: None,
        }
    }

    /// On Postgres and Redis, with TLS on both sides: to the processor, and at the gateways' own edge.
    pub async fn over_tls() -> Self {
        let tls = LoopbackTls::new().expect("a certificate");
        let options = Options {
            tls: Some(tls.server),
            ..Options::default()
        };
        let mut world = Self::on_postgres(options).await;
        let path = |name: &str| world.folder.path().join(name).display().to_string();
        let [authority, certificate, key] =
            ["upstream-ca.pem", "server.crt", "server.key"].map(path);
        std::fs::write(&authority, tls.root_pem).expect("written");
        world.config.more_account = format!("ca_file = \"{authority}\"\n");
        world.config.more_server = format!(
            "[server.tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\nreload_every = \"1s\"\n"
        );
        world.renew_certificate();
        world
    }

    /// Writes a new certificate for the gateways, and its key. Whoever serves with TLS finds it.
    pub fn renew_certificate(&mut self) -> &str {
        let names = vec!["127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let put = |name: &str, text: String| {
            std::fs::write(self.folder.path().join(name), text).expect("written");
        };
        put("server.crt", made.cert.pem());
        put("server.key", made.signing_key.serialize_pem());
        self.certificate.insert(made.cert.pem())
    }

    /// Gives this test a Redis of its own, to flush and to stop.
    pub async fn with_own_redis(mut self) -> Self {
        let redis = RedisServer::start_new().await.expect("a Redis");
        self.config.lock_url = redis.url();
        self.redis = Some(redis);
        self
    }

    /// A gateway in this process.
    pub async fn gateway(&self) -> Running {
        self.gateway_with(Seams::default()).await
    }

    /// A gateway in this process, with a clock or parts of the test's own.
    pub async fn gateway_with(&self, seams: Seams) -> Running {
        self.gateway_of(&self.config, seams).await
    }

    /// A gateway in this process, configured otherwise than this world's others.
    pub async fn gateway_of(&self, config: &WorldConfig, seams: Seams) -> Running {
        let port = reserve_port().expect("a port");
        let config = config.write(port, &self.key, self.folder.path());
        let config = Config::parse(&config).unwrap_or_else(|error| panic!("{error}\n{config}"));
        let listener = gateway_http::server::bind(config.server.listen).expect("the port");
        let pieces = pieces(&config, seams)
            .await
            .expect("the pieces of a gateway");
        check_ledger(&*pieces.store)
            .await
            .expect("a ledger to trust");
        let gateway = Gateway::start(config, pieces).expect("a gateway");
        let (stop, mut stopping) = watch::channel(false);
        let engine = Arc::clone(&gateway.app.engine);
        let serving = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            gateway
                .run(listener, stopped)
                .await
                .expect("served until stopped");
        });
        let running = Running {
            url: format!("{}://127.0.0.1:{port}", self.scheme()),
            engine,
            stop,
            serving: Some(serving),
        };
        running.ready(self.certificate.as_deref()).await;
        running
    }

    fn scheme(&self) -> &'static str {
        match self.certificate {
            Some(_) => "https",
            None => "http",
        }
    }

    /// A gateway in a process of its own, to be killed or stopped.
    pub async fn process(&self, name: &str) -> GatewayProcess {
        GatewayProcess::start_new(self.process_options(name))
            .await
            .expect("a gateway process")
    }

    pub fn process_options(&self, name: &str) -> GatewayOptions {
        let port = reserve_port().expect("a port");
        GatewayOptions {
            name: name.to_owned(),
            config: self.write_config(port),
            base_url: format!("http://127.0.0.1:{port}"),
            environment: Vec::new(),
        }
    }

    fn write_config(&self, port: u16) -> String {
        self.config.write(port, &self.key, self.folder.path())
    }

    /// The records of the client `shop`, read where this configuration says.
    pub async fn records(&self) -> Records {
        Records::new(self.store().await)
    }

    /// The lock of these gateways, asked beside them; on Redis.
    pub fn lock(&self) -> RedisLock {
        let options = RedisLockOptions {
            prefix: self.config.lock_prefix.clone(),
            ..RedisLockOptions::default()
        };
        RedisLock::new(&self.config.lock_url, options).expect("a Redis")
    }

    /// A caller of the client `shop`, with every scope.
    pub fn caller(&self, url: impl Into<String>) -> Caller {
        self.caller_with(url, &claims("shop-1"))
    }

    /// A caller with claims of the test's own.
    pub fn caller_with(&self, url: impl Into<String>, claims: &serde_json::Value) -> Caller {
        let caller = Caller::new(url, self.key.mint(claims));
        match &self.certificate {
            Some(certificate) => caller.trusting(certificate),
            None => caller,
        }
    }

    /// Runs one statement in the ledger, beside the gateways: what no caller can bring about.
    pub async fn execute_sql(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let url = &self.config.ledger_url;
        if url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(url).await.expect("SQLite");
            sqlx::query(sql)
                .execute(&mut connection)
                .await
                .expect("done");
        } else {
            let mut connection = sqlx::PgConnection::connect(url).await.expect("Postgres");
            sqlx::query(sql)
                .execute(&mut connection)
                .await
                .expect("done");
        }
    }

    /// One number from the ledger.
    pub async fn count_sql(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let url = &self.config.ledger_url;
        if url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(url).await.expect("SQLite");
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a number")
        } else {
            let mut connection = sqlx::PgConnection::connect(url).await.expect("Postgres");
            sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a number")
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A gateway that runs in the test's own process. Stopped without a drain when dropped.
#[derive(Debug)]
pub struct Running {
    pub url: String,
    pub engine: Arc<gateway_core::engine::Engine>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl Running {
    async fn ready(&self, certificate: Option<&str>) {
        let http = caller::client(certificate);
        let url = format!("{}/readyz", self.url);
        let ready = crate::stack::eventually(
            std::time::Duration::from_secs(20),
            "the gateway to be ready",
            async || {
                http.get(&url)
                    .send()
                    .await
                    .ok()
                    .filter(|answer| answer.status().is_success())
            },
        );
        ready.await.expect("a gateway that becomes ready");
    }

    /// Asks it to drain, as SIGTERM does, and does not wait.
    pub fn begin_stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Drains it and waits for its end.
    pub async fn stopped(mut self) {
        self.begin_stop();
        if let Some(serving) = self.serving.take() {
            serving.await.expect("a clean end");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// Applies the product's own migrations.
pub async fn migrate(url: &str) -> Result<(), StackError> {
    let store = gateway_http::ledger::at(url)
        .await
        .map_err(|error| StackError::new(error.to_string()))?;
    store
        .migrate()
        .await
        .map_err(|error| StackError::new(format!("migrating: {error:?}")))
}
