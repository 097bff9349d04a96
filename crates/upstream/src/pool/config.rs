//! What a pool is told: where to connect, and the bound of everything it may do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// The smallest answer cap worth having: below it even an error document would be cut.
const ANSWER_BYTES_MIN: usize = 1_024;

/// Settings of one pool. [`PoolConfig::new`] gives defaults; [`PoolConfig::faults`] says what does not fit together.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The `pool` label of its metrics; no secret.
    pub name: String,
    /// `https://host[:port][/path]`; plain `http` for a processor on this machine. Requests' paths are appended.
    pub base: Uri,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Connections that may serve requests. Replacements for connections about to end come on top: at most
    /// `5 * max(2, connections_max / 100)`, each for the moment of the change. At the bound, callers wait.
    pub connections_max: usize,
    /// Calls that may wait for another call's connection; the next one is `PoolExhausted` at once.
    pub waiters_max: usize,
    /// How long a call waits for a connection, over all its attempts; then `PoolExhausted`, or `Unreachable` if none
    /// could be opened.
    pub wait_max: Duration,
    /// Every connection is closed by this age.
    pub age_max: Duration,
    /// The longest timeout of a request (longer ones are cut to it): none starts on a connection older than `age_max - age_margin`.
    pub age_margin: Duration,
    /// Idle connections are closed after this; keep it below the processor's own limit.
    pub idle_max: Duration,
    /// Sends `Connection: keep-alive` and `Keep-Alive: timeout=` with `age_max` in seconds.
    pub keep_alive_headers: bool,
    /// The body of an answer; a larger one is unusable.
    pub answer_bytes_max: usize,
    /// Kept open even without use.
    pub warm_min: usize,
    /// The most that are kept open ahead of use, however busy it was.
    pub warm_max: usize,
    pub roots: Roots,
    pub resolver: Arc<dyn Resolve>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The system's certificate store.
    System,
    /// The certificates in this PEM file, and no others.
    PemFile(PathBuf),
}

impl PoolConfig {
    pub fn new(name: impl Into<String>, base: Uri) -> Self {
        Self {
            name: name.into(),
            base,
            connect_timeout: Duration::from_secs(5),
            connections_max: 64,
            waiters_max: 1_024,
            wait_max: Duration::from_secs(5),
            age_max: Duration::from_mins(5),
            age_margin: Duration::from_mins(1),
            idle_max: Duration::from_secs(50),
            keep_alive_headers: false,
            answer_bytes_max: 256 * 1_024,
            warm_min: 0,
            warm_max: 64,
            roots: Roots::System,
            resolver: Arc::new(SystemResolver),
        }
    }

    /// Everything that is wrong with it, at once.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let scheme = self.base.scheme();
        if scheme != Some(&Scheme::HTTP) && scheme != Some(&Scheme::HTTPS) {
            faults.push("base must begin with https:// or http://".to_owned());
        }
        if self.base.host().is_none_or(str::is_empty) {
            faults.push("base must name a host".to_owned());
        }
        if self
            .base
            .path_and_query()
            .and_then(PathAndQuery::query)
            .is_some()
        {
            faults.push("base must not have a query".to_owned());
        }
        for (name, span) in [
            ("connect_timeout", self.connect_timeout),
            ("wait_max", self.wait_max),
            ("idle_max", self.idle_max),
            ("age_margin", self.age_margin),
        ] {
            if span.is_zero() {
                faults.push(format!("{name} must not be zero"));
            }
        }
        if self.age_max < Duration::from_secs(1) {
            faults.push("age_max must be at least one second".to_owned());
        }
        // With less than two thirds of its age to spread over, the ends of a full pool would not find room (slots.rs).
        if self.age_margin > self.age_max / 3 {
            faults.push(
                "age_margin (the account's request timeout) must not exceed a third of age_max"
                    .to_owned(),
            );
        }
        if self.connections_max == 0 {
            faults.push("connections_max must not be zero".to_owned());
        }
        if self.warm_min > self.warm_max {
            faults.push("warm_min must not exceed warm_max".to_owned());
        }
        if self.answer_bytes_max < ANSWER_BYTES_MIN {
            faults.push(format!(
                "answer_bytes_max must be at least {ANSWER_BYTES_MIN}"
            ));
        }
        faults
    }
}

/// Why a pool could not be made. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("pool {name}: {}", faults.join("; "))]
    Faults { name: String, faults: Vec<String> },
    #[error("pool {name}: cannot read the trusted certificates: {detail}")]
    Roots { name: String, detail: String },
}

/// Turns a host name into addresses; asked for each new connection. A seam because tests count and redirect.
#[async_trait]
pub trait Resolve: Send + Sync + fmt::Debug {
    /// Addresses to try, in order.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver, with its own configuration and no cache of ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}
