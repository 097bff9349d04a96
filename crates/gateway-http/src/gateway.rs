//! Puts a gateway together from its configuration, runs it, and takes it down without losing a payment.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use gateway_core::clock::{Clock, SystemClock};
use gateway_core::connector::Connector;
use gateway_core::engine::{self, Engine, EngineOptions};
use gateway_core::idempotency::FingerprintKeys;
use gateway_core::journal::JournalOptions;
use gateway_core::key::{AccountName, ReplicaId};
use gateway_core::liveness::LivenessOptions;
use gateway_core::lock::{LocalLock, Lock, RedisLock, RedisLockOptions};
use gateway_core::metrics::Metrics;
use gateway_core::resolver::ResolverOptions;
use gateway_core::store::Store;
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::app::{App, Parts};
use crate::auth::jwks::Jwks;
use crate::auth::keys::KeySet;
use crate::auth::{Authenticator, KeySource, Rules};
use crate::config::{self, Config};
use crate::extract::BodyLimits;
use crate::rate::Rates;
use crate::server::{self, Bounds};
use crate::tls::Certificate;

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what}: {detail}")]
    Unusable { what: String, detail: String },
    #[error("the ledger cannot be trusted with payments:\n{}", .0.join("\n"))]
    Ledger(Vec<String>),
}

impl StartError {
    pub(crate) fn because(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        Self::Unusable { what: what.into(), detail }
    }
}

/// What a gateway takes from outside besides its configuration: the machine's own in production.
#[derive(Clone)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    /// Replaces an account's connector by one around it.
    pub wrap_connector: Option<Wrap<dyn Connector>>,
    pub wrap_store: Option<Wrap<dyn Store>>,
}

/// A decorator of one part.
pub type Wrap<T> = Arc<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

impl Default for Seams {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), wrap_connector: None, wrap_store: None }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// A gateway, ready to serve.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    app: App,
    registry: Arc<Registry>,
    certificate: Option<Arc<Certificate>>,
    background: Vec<AbortHandle>,
}

impl Gateway {
    /// Builds everything that the configuration names. Neither ledger, lock nor processor need to be there yet:
    /// `/readyz` tells. Runs inside a tokio runtime.
    pub fn assemble(config: Config, seams: Seams) -> Result<Self, StartError> {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::default());
        metrics.register(&mut registry);
        let clock = seams.clock;
        let store = crate::ledger::open(&config.ledger)?;
        let store = match &seams.wrap_store {
            Some(wrap) => wrap(store),
            None => store,
        };
        let lock = open_lock(&config.lock)?;
        let keys = Arc::new(fingerprint_keys(&config.keys)?);
        let upstreams = crate::upstreams::Upstreams {
            store: Arc::clone(&store),
            lock: Arc::clone(&lock),
            clock: Arc::clone(&clock),
            token_key: crate::upstreams::token_key(&config.keys)?,
        };
        let mut accounts = HashMap::new();
        for (name, account) in &config.accounts {
            let mut connector = upstreams.connector(name, account, &mut registry)?;
            if let Some(wrap) = &seams.wrap_connector {
                connector = wrap(connector);
            }
            accounts.insert(name.clone(), Arc::new(engine_account(name, account, connector)));
        }
        let replica = ReplicaId::generate(clock.now(), rand::random());
        let parts = engine::Parts {
            store,
            lock,
            clock: Arc::clone(&clock),
            keys,
            accounts,
            metrics,
            replica,
        };
        let engine = Arc::new(Engine::start(parts, engine_options(&config)));
        let mut background = Vec::new();
        let authenticator = Arc::new(authenticator(&config, &clock, &mut background)?);
        let certificate = match &config.server.tls {
            Some(files) => {
                let certificate = Certificate::load(files)
                    .map_err(|error| StartError::because("server.tls", &error))?;
                let fresh = Arc::clone(&certificate);
                background.push(tokio::spawn(async move { fresh.keep_fresh().await }).abort_handle());
                Some(certificate)
            }
            None => None,
        };
        let app = App::new(Parts {
            engine,
            authenticator,
            clock: Arc::clone(&clock),
            body_limits: BodyLimits {
                bytes_max: config.server.body_bytes_max,
                read_timeout: config.server.body_read_timeout,
            },
            rates: rates(&config, clock),
            request_timeout_max: config.server.request_timeout_max,
            retention: config.payments.retention,
        });
        Ok(Self { config, app, registry: Arc::new(registry), certificate, background })
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.app.engine
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every route.
    pub fn router(&self) -> Router {
        crate::routes::all(self.app.clone(), Arc::clone(&self.registry))
    }

    /// Refuses a ledger that would forget, or whose schema is older. An unreachable one is no fault: it may come back.
    pub async fn check_ledger(&self) -> Result<(), StartError> {
        match self.app.engine.store().faults().await {
            Ok(faults) if faults.is_empty() => Ok(()),
            Ok(faults) => Err(StartError::Ledger(faults)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the ledger cannot be checked yet");
                Ok(())
            }
        }
    }

    /// Serves until `stop` turns true; then takes no new work, finishes what is under way, and hands over the rest.
    pub async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) -> Result<(), StartError> {
        let tls = match &self.certificate {
            Some(certificate) => Some(
                certificate.server_config().map_err(|error| StartError::because("server.tls", &error))?,
            ),
            None => None,
        };
        let (close, closing) = watch::channel(false);
        let grace = self.config.server.drain_timeout;
        let bounds = Bounds::from(&self.config.server);
        let serving = tokio::spawn(server::serve(listener, self.router(), tls, bounds, closing, grace));
        let _ = stop.wait_for(|stop| *stop).await;
        tracing::info!("draining");
        // `/readyz` fails from here on. Callers who come all the same are answered from the record, or told to go on.
        self.app.engine.begin_drain();
        self.app.engine.drain(grace).await;
        let _ = close.send(true);
        let _ = serving.await;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.background.iter().for_each(AbortHandle::abort);
    }
}

fn open_lock(config: &config::Lock) -> Result<Arc<dyn Lock>, StartError> {
    if config.url == "local" {
        return Ok(Arc::new(LocalLock::new()));
    }
    let secret = config.password().map(|secret| secret.read()).transpose();
    let password = secret.map_err(|error| StartError::because("lock.password", &error))?;
    let url = with_password(&config.url, password.as_ref());
    let options = RedisLockOptions {
        prefix: config.prefix.clone(),
        command_timeout: config.command_timeout,
        ..RedisLockOptions::default()
    };
    let lock = RedisLock::new(url.expose_secret(), options)
        .map_err(|error| StartError::because("lock.url", &error))?;
    Ok(Arc::new(lock))
}

/// Puts a password into `scheme://[user@]host…`, percent-encoded: it may hold any character.
pub(crate) fn with_password(url: &str, password: Option<&SecretString>) -> SecretString {
    let Some(password) = password else { return url.to_owned().into() };
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned().into() };
    let encoded: String = password.expose_secret().bytes().map(|byte| format!("%{byte:02X}")).collect();
    match rest.split_once('@') {
        Some((user, host)) => format!("{scheme}://{user}:{encoded}@{host}").into(),
        None => format!("{scheme}://:{encoded}@{rest}").into(),
    }
}

fn fingerprint_keys(keys: &config::Keys) -> Result<FingerprintKeys, StartError> {
    let unreadable = |error: config::SecretError| StartError::because("keys.fingerprint", &error);
    let Some(current) = keys.fingerprint() else {
        let detail = "is required".to_owned();
        return Err(StartError::Unusable { what: "keys.fingerprint".to_owned(), detail });
    };
    let current = current.read().map_err(unreadable)?;
    let older: Vec<_> =
        keys.fingerprint_older().map(|secret| secret.read()).collect::<Result<_, _>>().map_err(unreadable)?;
    FingerprintKeys::parse(&current, &older)
        .map_err(|error| StartError::because("keys.fingerprint", &error))
}

fn engine_account(
    name: &AccountName,
    account: &config::Account,
    connector: Arc<dyn Connector>,
) -> engine::Account {
    engine::Account {
        name: name.clone(),
        connector,
        endpoint: account.base_url.clone(),
        currencies: account.currencies.clone(),
        timeout: account.timeout,
        late_arrival_horizon: account.late_arrival_horizon,
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        permits_max: config.payments.permits_max,
        permits_per_client_max: config.payments.permits_per_client_max,
        journal: JournalOptions {
            writers: config.ledger.writers,
            batch_max: config.ledger.batch_max,
            queue_max: config.ledger.queue_max,
        },
        liveness: LivenessOptions {
            beat_every: config.resolver.beat_every,
            gap_max: config.resolver.gap_max,
            silent_after: config.resolver.silent_after,
        },
        resolver: ResolverOptions {
            schedule: config.resolver.schedule.clone(),
            repeat_every: config.resolver.repeat_every,
            scan_every: config.resolver.scan_every,
            checks_max: config.resolver.checks_max,
        },
        ask_every: config.payments.ask_every,
        quarantine: config.payments.quarantine,
    }
}

fn authenticator(
    config: &Config,
    clock: &Arc<dyn Clock>,
    background: &mut Vec<AbortHandle>,
) -> Result<Authenticator, StartError> {
    let auth = &config.auth;
    let keys = match (&auth.key_file, &auth.jwks_url) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| StartError::because(format!("auth.key_file {}", file.display()), &error))?;
            let keys = KeySet::from_pem(&text).map_err(|error| StartError::because("auth.key_file", &error))?;
            KeySource::Fixed(Arc::new(keys))
        }
        (None, Some(url)) => {
            let url = url.parse().map_err(|error| StartError::Unusable {
                what: "auth.jwks_url".to_owned(),
                detail: format!("{error}"),
            })?;
            let jwks = Jwks::new(url, auth.jwks_refresh, auth.jwks_cooldown)
                .map_err(|error| StartError::because("auth.jwks_url", &error))?;
            let jwks = Arc::new(jwks);
            let fresh = Arc::clone(&jwks);
            background.push(tokio::spawn(async move { fresh.keep_fresh().await }).abort_handle());
            KeySource::Fetched(jwks)
        }
        (None, None) => {
            let detail = "one of auth.key_file and auth.jwks_url is required".to_owned();
            return Err(StartError::Unusable { what: "auth".to_owned(), detail });
        }
    };
    let rules = Rules {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        algorithms: auth.algorithms.clone(),
        lifetime_max: auth.jwt_lifetime_max,
        leeway: auth.leeway,
    };
    let clients = config.clients.iter().flat_map(|(client, rules)| {
        rules.subjects.iter().map(move |subject| (subject.clone(), client.clone()))
    });
    Ok(Authenticator::new(rules, keys, clients, Arc::clone(clock)))
}

fn rates(config: &Config, clock: Arc<dyn Clock>) -> Rates {
    Rates::new(config.clients.iter().map(|(client, rules)| (client.clone(), rules.rate_per_second, rules.burst)), clock)
}
