//! The configuration: one typed value, read once from a TOML file, in which every span and bound is named.

mod account;
mod secret;
pub mod span;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_core::key::{AccountName, Client};
use serde::Deserialize;

pub use account::{Account, Breaker, Strategy, UpstreamKind};
pub use secret::{SecretError, SecretRef};

use crate::auth::keys::Algorithm;

/// Everything an operator decides. `config/reference.toml` documents each key with its unit, default and bound.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub server: Server,
    #[serde(default)]
    pub telemetry: Telemetry,
    pub auth: Auth,
    /// By name: the owner of idempotency keys.
    pub clients: BTreeMap<Client, ClientRules>,
    pub ledger: Ledger,
    #[serde(default)]
    pub lock: Lock,
    pub keys: Keys,
    #[serde(default)]
    pub payments: Payments,
    #[serde(default)]
    pub resolver: Resolver,
    /// By name: merchant accounts at processors.
    pub accounts: BTreeMap<AccountName, Account>,
}

/// How callers reach us.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub listen: SocketAddr,
    /// Allows plain HTTP beyond loopback, for example behind a proxy on a private network.
    pub plaintext: bool,
    pub tls: Option<Tls>,
    /// `/metrics` on an address of its own, over plain HTTP; without it, on `listen`.
    pub metrics_listen: Option<SocketAddr>,
    /// Allows that plain HTTP beyond loopback.
    pub metrics_plaintext: bool,
    pub body_bytes_max: usize,
    #[serde(deserialize_with = "span::deserialize")]
    pub body_read_timeout: Duration,
    #[serde(deserialize_with = "span::deserialize")]
    pub header_read_timeout: Duration,
    pub connections_max: usize,
    /// Connections of callers are asked to close at this age, so that they spread over replicas again.
    #[serde(deserialize_with = "span::deserialize")]
    pub connection_age_max: Duration,
    /// Streams on one HTTP/2 connection.
    pub streams_max: u32,
    /// The longest `Request-Timeout`.
    #[serde(deserialize_with = "span::deserialize")]
    pub request_timeout_max: Duration,
    /// From SIGTERM until payments under way are handed over.
    #[serde(deserialize_with = "span::deserialize")]
    pub drain_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            plaintext: false,
            tls: None,
            metrics_listen: None,
            metrics_plaintext: false,
            body_bytes_max: 64 * 1024,
            body_read_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            connection_age_max: Duration::from_mins(10),
            streams_max: 256,
            request_timeout_max: Duration::from_mins(2),
            drain_timeout: Duration::from_secs(75),
        }
    }
}

/// The certificate callers see. Both files are read again when they change.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificate, then its intermediates.
    pub certificate_file: PathBuf,
    /// PEM: the private key.
    pub key_file: PathBuf,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Tls::reload_default"
    )]
    pub reload_every: Duration,
}

impl Tls {
    fn reload_default() -> Duration {
        Duration::from_mins(1)
    }
}

/// What we say about ourselves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// A filter as of `RUST_LOG`: `info`, `info,gateway_core=debug`.
    pub log: String,
    pub format: LogFormat,
    /// Without it, no span leaves the process.
    pub traces: Option<Traces>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: "info".into(),
            format: LogFormat::Json,
            traces: None,
        }
    }
}

/// A collector that takes spans over OTLP (HTTP, protobuf).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    pub endpoint: String,
    /// Share of the requests that are traced where the caller did not decide.
    #[serde(default = "Traces::sampled_default")]
    pub sampled: f64,
    /// Spans that wait to be handed over; further ones are dropped.
    #[serde(default = "Traces::queue_default")]
    pub queue_max: usize,
}

impl Traces {
    const fn sampled_default() -> f64 {
        0.05
    }

    const fn queue_default() -> usize {
        2048
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    /// For a person at a terminal.
    Text,
}

/// Whose tokens are accepted. Exactly one of `key_file` and `jwks_url`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    #[serde(default = "Auth::algorithms_default")]
    pub algorithms: Vec<Algorithm>,
    /// PEM with one or several public keys, read again when it changes.
    pub key_file: Option<PathBuf>,
    pub jwks_url: Option<String>,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Auth::jwks_refresh_default"
    )]
    pub jwks_refresh: Duration,
    /// Between two fetches for key ids that are not known.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Auth::jwks_cooldown_default"
    )]
    pub jwks_cooldown: Duration,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Auth::jwt_lifetime_default"
    )]
    pub jwt_lifetime_max: Duration,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Auth::leeway_default"
    )]
    pub leeway: Duration,
}

impl Auth {
    fn algorithms_default() -> Vec<Algorithm> {
        Algorithm::ALL.to_vec()
    }
    fn jwks_refresh_default() -> Duration {
        Duration::from_mins(10)
    }
    fn jwks_cooldown_default() -> Duration {
        Duration::from_secs(30)
    }
    fn jwt_lifetime_default() -> Duration {
        Duration::from_hours(1)
    }
    fn leeway_default() -> Duration {
        Duration::from_secs(5)
    }
}

/// One client: whose tokens it has, and how much it may ask for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientRules {
    /// JWT `sub`s.
    pub subjects: Vec<String>,
    /// Requests per second in the long run. Beyond it `429`.
    #[serde(default = "ClientRules::rate_default")]
    pub rate_per_second: u32,
    /// Requests at once after a quiet time.
    #[serde(default = "ClientRules::burst_default")]
    pub burst: u32,
}

impl ClientRules {
    fn rate_default() -> u32 {
        500
    }
    fn burst_default() -> u32 {
        1_000
    }
}

/// Where it is written down.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// `postgres://user@host/database?sslmode=verify-full` or `sqlite:///path`; without a password.
    pub url: String,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    /// For the resolver, heartbeats and cancellations; each writer has one more.
    #[serde(default = "Ledger::work_connections_default")]
    pub work_connections: usize,
    #[serde(default = "Ledger::read_connections_default")]
    pub read_connections: usize,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Ledger::connect_timeout_default"
    )]
    pub connect_timeout: Duration,
    /// For a free connection.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Ledger::connect_timeout_default"
    )]
    pub acquire_timeout: Duration,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Ledger::lock_timeout_default"
    )]
    pub lock_timeout: Duration,
    /// How long one question or commit may take.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Ledger::statement_timeout_default"
    )]
    pub statement_timeout: Duration,
    /// Batches under way at once.
    #[serde(default = "Ledger::writers_default")]
    pub writers: usize,
    /// Operations in one batch.
    #[serde(default = "Ledger::batch_default")]
    pub batch_max: usize,
    /// New intents that may wait for a batch. Beyond it `503 overloaded`.
    #[serde(default = "Ledger::queue_default")]
    pub queue_max: usize,
}

impl Ledger {
    fn work_connections_default() -> usize {
        3
    }
    fn read_connections_default() -> usize {
        6
    }
    fn connect_timeout_default() -> Duration {
        Duration::from_secs(5)
    }
    fn lock_timeout_default() -> Duration {
        Duration::from_secs(2)
    }
    fn statement_timeout_default() -> Duration {
        Duration::from_secs(10)
    }
    fn writers_default() -> usize {
        2
    }
    fn batch_default() -> usize {
        256
    }
    fn queue_default() -> usize {
        20_000
    }

    pub fn password(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.password_file.as_ref(),
            self.password_env.as_ref(),
            &mut Vec::new(),
        )
    }
}

/// The file behind `sqlite:///absolute`, `sqlite://relative` or `sqlite:relative`; `None` for another database.
pub fn sqlite_path(url: &str) -> Option<&Path> {
    let rest = url.strip_prefix("sqlite:")?;
    Some(Path::new(rest.strip_prefix("//").unwrap_or(rest)))
}

/// What keeps replicas from doing the same work. Without it they still agree: the ledger decides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lock {
    /// `redis://host:6379/0`, `rediss://…`, `redis+cluster://host:port,host:port`, or `local`.
    pub url: String,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    /// Written before each name, so that several services can share one Redis.
    pub prefix: String,
    #[serde(deserialize_with = "span::deserialize")]
    pub command_timeout: Duration,
}

impl Default for Lock {
    fn default() -> Self {
        Self {
            url: "local".into(),
            password_file: None,
            password_env: None,
            prefix: "quittance:lock:".into(),
            command_timeout: Duration::from_millis(250),
        }
    }
}

impl Lock {
    pub fn password(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.password_file.as_ref(),
            self.password_env.as_ref(),
            &mut Vec::new(),
        )
    }
}

/// Keys that the operator keeps. Each is at least 32 bytes, written in hexadecimal or base64.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Makes fingerprints of requests and upstream references.
    pub fingerprint_file: Option<PathBuf>,
    pub fingerprint_env: Option<String>,
    /// Former fingerprint keys, for requests that were recorded under them.
    #[serde(default)]
    pub fingerprint_older_files: Vec<PathBuf>,
    /// Encrypts upstream tokens in the ledger.
    pub token_file: Option<PathBuf>,
    pub token_env: Option<String>,
}

impl Keys {
    pub fn fingerprint(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.fingerprint_file.as_ref(),
            self.fingerprint_env.as_ref(),
            &mut Vec::new(),
        )
    }

    pub fn fingerprint_older(&self) -> impl Iterator<Item = SecretRef> + '_ {
        self.fingerprint_older_files
            .iter()
            .cloned()
            .map(SecretRef::File)
    }

    pub fn token(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.token_file.as_ref(),
            self.token_env.as_ref(),
            &mut Vec::new(),
        )
    }
}

/// The service as a whole.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payments {
    /// How long a final answer is repeated byte for byte; then outcome and ids only.
    #[serde(deserialize_with = "span::deserialize")]
    pub retention: Duration,
    /// Payments under way at once. Beyond it `503 overloaded`.
    pub permits_max: usize,
    /// Of them, of any one client.
    pub permits_per_client_max: usize,
    /// Follow-ups that wait at once for their payment's turn. Beyond it `503 overloaded`.
    pub waiting_max: usize,
    /// Of them, of any one client.
    pub waiting_per_client_max: usize,
    /// How often the ledger is asked for callers whose operation another replica works on.
    #[serde(deserialize_with = "span::deserialize")]
    pub ask_every: Duration,
    /// After a restore: reads, look-ups and reconciliation only.
    pub quarantine: bool,
}

impl Default for Payments {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(400 * 24),
            permits_max: 10_000,
            permits_per_client_max: 5_000,
            waiting_max: 10_000,
            waiting_per_client_max: 5_000,
            ask_every: Duration::from_millis(50),
            quarantine: false,
        }
    }
}

/// How unknown outcomes are chased, and how silence is told from slowness.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// When an unknown outcome is looked at, counted from the moment it became unknown; then `repeat_every`.
    #[serde(deserialize_with = "span::list::deserialize")]
    pub schedule: Vec<Duration>,
    #[serde(deserialize_with = "span::deserialize")]
    pub repeat_every: Duration,
    /// How often the ledger is searched for operations that are due.
    #[serde(deserialize_with = "span::deserialize")]
    pub scan_every: Duration,
    /// Checks under way at once.
    pub checks_max: usize,
    #[serde(deserialize_with = "span::deserialize")]
    pub beat_every: Duration,
    /// The longest gap between two confirmed beats with which a first byte may leave.
    #[serde(deserialize_with = "span::deserialize")]
    pub gap_max: Duration,
    /// A replica whose counter stood still this long is silent.
    #[serde(deserialize_with = "span::deserialize")]
    pub silent_after: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            schedule: [2, 5, 15, 30, 120, 600].map(Duration::from_secs).to_vec(),
            repeat_every: Duration::from_mins(10),
            scan_every: Duration::from_millis(250),
            checks_max: 64,
            beat_every: Duration::from_millis(250),
            gap_max: Duration::from_secs(3),
            silent_after: Duration::from_secs(5),
        }
    }
}

/// Why there is no configuration. The text of the file is in no variant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("line {line}: {message}")]
    Form { line: usize, message: String },
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        Self::parse(&text)
    }

    /// Reads and validates. Files that it names are not looked at: see [`Config::unreadable`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            // Not `Display`: it quotes the line, and somebody may have put a secret there.
            ConfigError::Form {
                line,
                message: error.message().to_owned(),
            }
        })?;
        let faults = config.validate();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Faults(faults))
        }
    }

    /// Every secret that is referred to, by its key.
    pub fn secrets(&self) -> Vec<(String, SecretRef)> {
        let named =
            |name: &str, secret: Option<SecretRef>| secret.map(|secret| (name.to_owned(), secret));
        let mut secrets: Vec<_> = [
            named("ledger.password", self.ledger.password()),
            named("lock.password", self.lock.password()),
            named("keys.fingerprint", self.keys.fingerprint()),
            named("keys.token", self.keys.token()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let older = self.keys.fingerprint_older();
        secrets.extend(older.map(|secret| ("keys.fingerprint_older_files".to_owned(), secret)));
        for (name, account) in &self.accounts {
            let pair = [
                ("username", account.username()),
                ("password", account.password()),
            ];
            secrets.extend(
                pair.into_iter()
                    .filter_map(|(key, secret)| named(&format!("accounts.{name}.{key}"), secret)),
            );
        }
        secrets
    }

    /// What is named but cannot be read now: secrets, keys, certificates. All at once.
    pub fn unreadable(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, secret) in self.secrets() {
            if let Err(error) = secret.read() {
                faults.push(format!("{name}: {error}"));
            }
        }
        let tls = self.server.tls.iter().flat_map(|tls| {
            [
                ("server.tls.certificate_file", &tls.certificate_file),
                ("server.tls.key_file", &tls.key_file),
            ]
        });
        let keys = self
            .auth
            .key_file
            .iter()
            .map(|path| ("auth.key_file", path));
        for (name, path) in tls.chain(keys) {
            if let Err(error) = std::fs::File::open(path) {
                faults.push(format!(
                    "{name}: {} cannot be opened: {error}",
                    path.display()
                ));
            }
        }
        faults
    }
}
