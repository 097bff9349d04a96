//! The running service: engine, edge and what runs beside them, from start to the end of the drain.

use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use bytes::Bytes;
use gateway_core::clock::Clock;
use gateway_core::engine::{Account, Engine, EngineOptions, Parts as EngineParts};
use gateway_core::idempotency::{FingerprintKeyError, FingerprintKeys};
use gateway_core::journal::JournalOptions;
use gateway_core::key::{AccountName, ReplicaId};
use gateway_core::liveness::LivenessOptions;
use gateway_core::lock::Lock;
use gateway_core::metrics::Metrics;
use gateway_core::randomness::SystemRandomness;
use gateway_core::resolver::ResolverOptions;
use gateway_core::store::Store;
use http::header::CONTENT_TYPE;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::{App, Parts};
use crate::auth::jwks::Jwks;
use crate::auth::keys::{KeyError, KeyFile};
use crate::auth::{Authenticator, KeySource, Rules};
use crate::config::{Auth, Config, SecretError};
use crate::extract::BodyLimits;
use crate::openapi;
use crate::problem;
use crate::process;
use crate::rate::Rates;
use crate::routes;
use crate::server::{self, Bounds};
use crate::telemetry::{HttpMetrics, observe, speak_problems};
use crate::tls::{Certificate, TlsError};
use crate::token_metrics::TokenMetrics;

/// How long callers' connections may take to close once every payment is done.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

/// What is handed in: everything that has more than one form.
#[derive(Debug)]
pub struct Pieces {
    pub clock: Arc<dyn Clock>,
    pub store: Arc<dyn Store>,
    pub lock: Arc<dyn Lock>,
    pub keys: Arc<FingerprintKeys>,
    pub accounts: HashMap<AccountName, Arc<Account>>,
    /// Connectors have registered theirs.
    pub registry: Registry,
}

/// Why the service does not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("auth.key_file {0}")]
    AuthKeys(#[source] KeyError),
    #[error("auth.jwks_url cannot be used")]
    Jwks(#[source] reqwest::Error),
    #[error("auth.jwks_url is not a URL")]
    JwksUrl,
    #[error("server.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{name}: {source}")]
    Secret { name: String, source: SecretError },
    #[error("keys.fingerprint: {0}")]
    Fingerprint(#[from] FingerprintKeyError),
    #[error("{what}: {detail}")]
    Unusable { what: String, detail: String },
}

impl StartError {
    /// `what` cannot be used, with the whole chain of causes: whoever starts it reads nothing else.
    pub(crate) fn because(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self::Unusable {
            what: what.into(),
            detail: with_causes(error),
        }
    }
}

/// An error with the whole chain of its causes, each said once.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

/// The service, ready to be served.
#[derive(Debug)]
pub struct Gateway {
    pub app: App,
    config: Config,
    certificate: Option<Arc<Certificate>>,
    keys: KeySource,
}

impl Gateway {
    /// Starts the engine and builds the edge. The engine beats from here on.
    pub fn start(config: Config, mut pieces: Pieces) -> Result<Self, StartError> {
        let keys = key_source(&config.auth)?;
        let certificate = config
            .server
            .tls
            .as_ref()
            .map(Certificate::load)
            .transpose()?;
        let subjects = config.clients.iter().flat_map(|(client, rules)| {
            rules
                .subjects
                .iter()
                .map(move |subject| (subject.clone(), client.clone()))
        });
        let authenticator = Authenticator::new(
            rules(&config.auth),
            keys.clone(),
            subjects,
            Arc::clone(&pieces.clock),
        );
        let limits = config
            .clients
            .iter()
            .map(|(client, rules)| (client.clone(), rules.rate_per_second, rules.burst));
        let rates = Rates::new(limits, Arc::clone(&pieces.clock));
        let metrics = Arc::new(Metrics::default());
        metrics.register(&mut pieces.registry);
        let http_metrics = HttpMetrics::default();
        http_metrics.register(&mut pieces.registry);
        let tokens = TokenMetrics::new(pieces.accounts.values());
        pieces.registry.register_collector(Box::new(tokens.clone()));
        let parts = EngineParts {
            store: pieces.store,
            lock: pieces.lock,
            clock: Arc::clone(&pieces.clock),
            randomness: Arc::new(SystemRandomness),
            keys: pieces.keys,
            accounts: pieces.accounts,
            metrics,
            replica: ReplicaId::generate(pieces.clock.now(), rand::random()),
        };
        let engine = Arc::new(Engine::start(parts, engine_options(&config)));
        let app = App::new(Parts {
            engine,
            authenticator: Arc::new(authenticator),
            rates,
            clock: pieces.clock,
            body_limits: BodyLimits {
                bytes_max: config.server.body_bytes_max,
                read_timeout: config.server.body_read_timeout,
            },
            request_timeout_max: config.server.request_timeout_max,
            retention: config.payments.retention,
            quarantine: config.payments.quarantine,
            tokens,
            http_metrics,
            registry: Arc::new(pieces.registry),
        });
        Ok(Self {
            app,
            config,
            certificate,
            keys,
        })
    }

    /// Every route of the edge. `/metrics` too, unless it has an address of its own.
    pub fn router(&self) -> Router {
        let metrics = self.config.server.metrics_listen.is_none();
        router(&self.app, metrics)
    }

    /// Serves on `listener` until `stop` ends, then drains: `/readyz` fails, known keys are answered, nothing new is
    /// taken, payments under way finish or are handed over; then the connections close.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), StartError> {
        let mut beside = JoinSet::new();
        self.keep_fresh(&mut beside);
        let (close, closing) = watch::channel(false);
        if let Some(address) = self.config.server.metrics_listen {
            let metrics_listener =
                server::bind(address).map_err(|source| StartError::Listen { address, source })?;
            let router = Router::new()
                .route("/metrics", get(routes::health::metrics))
                .with_state(self.app.clone());
            let bounds = Bounds {
                connections_max: 64,
                ..Bounds::from(&self.config.server)
            };
            let closing = closing.clone();
            beside.spawn(server::serve(
                metrics_listener,
                router,
                None,
                bounds,
                Gauge::default(), // Scrapers are not callers.
                closing,
                CLOSING_GRACE,
            ));
        }
        let tls = self
            .certificate
            .as_ref()
            .map(Certificate::server_config)
            .transpose()?;
        let bounds = Bounds::from(&self.config.server)
            .within(process::raise_open_files(), own_files(&self.config));
        let open = self.app.http_metrics.connections.clone();
        let serving = server::serve(
            listener,
            self.router(),
            tls,
            bounds,
            open,
            closing,
            CLOSING_GRACE,
        );
        let serving = tokio::spawn(serving);
        stop.await;
        tracing::info!(under_way = self.app.engine.under_way(), "draining");
        self.app
            .engine
            .drain(self.config.server.drain_timeout)
            .await;
        let _ = close.send(true);
        if serving.await.is_err() {
            tracing::error!("the accept loop panicked");
        }
        beside.shutdown().await;
        tracing::info!("stopped");
        Ok(())
    }

    fn keep_fresh(&self, beside: &mut JoinSet<()>) {
        match &self.keys {
            KeySource::Fixed(_) => {}
            KeySource::File(file) => {
                let file = Arc::clone(file);
                beside.spawn(async move { file.keep_fresh().await });
            }
            KeySource::Fetched(jwks) => {
                let jwks = Arc::clone(jwks);
                beside.spawn(async move { jwks.keep_fresh().await });
            }
        }
        if let Some(certificate) = &self.certificate {
            let certificate = Arc::clone(certificate);
            beside.spawn(async move { certificate.keep_fresh().await });
        }
    }
}

fn router(app: &App, with_metrics: bool) -> Router {
    let (mut router, declared) = routes::declared().split_for_parts();
    let document = Bytes::from(openapi::document(&declared, app.request_timeout_max).to_string());
    let document = move || ready(([(CONTENT_TYPE, "application/json")], document.clone()));
    router = router.route("/openapi.json", get(document));
    if with_metrics {
        router = router.route("/metrics", get(routes::health::metrics));
    }
    router
        .merge(routes::pages::router())
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(app.clone())
        .layer(from_fn(speak_problems))
        .layer(CatchPanicLayer::custom(problem::panic_answer))
        .layer(from_fn_with_state(app.http_metrics.clone(), observe))
}

pub(crate) fn key_source(auth: &Auth) -> Result<KeySource, StartError> {
    if let Some(path) = &auth.key_file {
        let file = KeyFile::load(path).map_err(StartError::AuthKeys)?;
        return Ok(KeySource::File(Arc::new(file)));
    }
    let url = auth
        .jwks_url
        .as_deref()
        .and_then(|url| url.parse().ok())
        .ok_or(StartError::JwksUrl)?;
    let jwks = Jwks::new(url, auth.jwks_refresh, auth.jwks_cooldown).map_err(StartError::Jwks)?;
    Ok(KeySource::Fetched(Arc::new(jwks)))
}

/// How many files this process opens for itself: connections to processors and to the ledger; and with room to spare those
/// to the lock, to collectors and scrapers, for names and keys that are read again, for the log.
fn own_files(config: &Config) -> usize {
    const OTHERS: usize = 256;
    let ledger = &config.ledger;
    let accounts = config.accounts.values();
    let upstream: usize = accounts.map(|account| account.connections_per_host).sum();
    upstream + ledger.work_connections + ledger.read_connections + ledger.writers + OTHERS
}

fn rules(auth: &Auth) -> Rules {
    Rules {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        algorithms: auth.algorithms.clone(),
        lifetime_max: auth.jwt_lifetime_max,
        leeway: auth.leeway,
    }
}

/// The engine's figures, as the operator wants them.
pub fn engine_options(config: &Config) -> EngineOptions {
    let (ledger, payments, resolver) = (&config.ledger, &config.payments, &config.resolver);
    EngineOptions {
        permits_max: payments.permits_max,
        permits_per_client_max: payments.permits_per_client_max,
        waiting_max: payments.waiting_max,
        waiting_per_client_max: payments.waiting_per_client_max,
        journal: JournalOptions {
            writers: ledger.writers,
            batch_max: ledger.batch_max,
            queue_max: ledger.queue_max,
        },
        liveness: LivenessOptions {
            beat_every: resolver.beat_every,
            gap_max: resolver.gap_max,
            silent_after: resolver.silent_after,
        },
        resolver: ResolverOptions {
            schedule: resolver.schedule.clone(),
            repeat_every: resolver.repeat_every,
            scan_every: resolver.scan_every,
            checks_max: resolver.checks_max,
        },
        ask_every: payments.ask_every,
        wait_max: config.server.request_timeout_max,
        quarantine: payments.quarantine,
    }
}

/// The managed keys behind fingerprints and upstream references.
pub fn fingerprint_keys(config: &Config) -> Result<FingerprintKeys, StartError> {
    let failed = |name: &str| {
        let name = name.to_owned();
        move |source| StartError::Secret { name, source }
    };
    let name = "keys.fingerprint";
    let current = config
        .keys
        .fingerprint()
        .expect("validated: one of the two is set");
    let current = current.read().map_err(failed(name))?;
    let older = config
        .keys
        .fingerprint_older()
        .map(|secret| secret.read())
        .collect::<Result<Vec<_>, _>>();
    let older = older.map_err(failed("keys.fingerprint_older_files"))?;
    Ok(FingerprintKeys::parse(&current, &older)?)
}

#[cfg(test)]
mod tests;
