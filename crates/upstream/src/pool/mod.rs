//! The transport pool: carries one HTTP exchange at a time to a processor, and proves what left this process.
//!
//! ```text
//! Pool::new(config: PoolConfig, clock: Arc<dyn Clock>, metrics: &PoolMetrics) -> Result<Arc<Pool>, PoolError>
//! pool.call(Call { method, path, headers, body, timeout, gate, label }).await -> Exchange
//!     Exchange { result: Result<Response { status, headers, body }, CallFailure>, evidence: CallEvidence }
//!     CallFailure::NotSent(NotSent) | CallFailure::Unknown(UnknownReason)
//! ```
//!
//! One pool per (scheme, host, port) and account settings; `Pool::new` is called inside a tokio runtime. Redirects,
//! declines and 5xx are responses: what a status means is the connector's to say.
//!
//! The checkout is ours and not a stack of hyper-util's composable layers: its cache knows neither bounds nor ends that
//! are drawn at birth, and hands each connection's driver to a task of its own. Here the call that holds a connection
//! drives it. So nothing is scheduled between the gate's yes and the first byte, a call that is dropped takes its
//! connection with it, and no thread is woken on the way.

mod breaker;
mod checkout;
mod config;
mod connect;
mod connection;
mod exchange;
mod limit;
mod maintain;
mod metrics;
mod slots;
mod warmth;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::clock::{Clock, Tick};
use gateway_core::connector::{CallEvidence, Ended, NotSent, UnknownReason};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::Full;
use tokio::task::{AbortHandle, unconstrained};
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

pub use breaker::{Admission, Breaker, BreakerConfig, Health, VerbClass};
use checkout::{Lease, Shared};
pub use config::{PoolConfig, PoolError, Resolve, Roots, SystemResolver};
use connection::{Attempt, Broken};
pub use exchange::{Call, CallFailure, Exchange, Response, Transport};
pub use limit::{Limit, LimitConfig, LimitPermit};
pub use metrics::{CloseReason, PoolMetrics};

/// Connections tried for one call, each later one only because the one before wrote no byte.
const ATTEMPT_COUNT_MAX: u32 = 3;

/// Connections to one processor.
pub struct Pool {
    shared: Arc<Shared>,
    maintenance: AbortHandle,
    host: HeaderValue,
    /// The base address's path, without a slash at its end.
    prefix: String,
    keep_alive: Option<HeaderValue>,
}

/// One connection, as [`Pool::snapshot`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Unique in its pool, and growing.
    pub id: u64,
    pub born: Tick,
    pub planned_end: Tick,
    /// Requests begun on it.
    pub requests: u64,
}

impl Pool {
    /// A pool without connections; they are opened on first use, or up to `warm_min` ahead of it.
    ///
    /// # Errors
    /// Settings that do not fit together, all at once; trusted certificates that cannot be read.
    ///
    /// # Panics
    /// Outside a tokio runtime: it starts its maintenance there.
    pub fn new(
        config: PoolConfig,
        clock: Arc<dyn Clock>,
        metrics: &PoolMetrics,
    ) -> Result<Arc<Self>, PoolError> {
        let host = host_of(&config)?;
        let prefix = config.base.path().trim_end_matches('/').to_owned();
        let keep_alive = config.keep_alive_headers.then(|| {
            HeaderValue::from_str(&format!("timeout={}", config.age_max.as_secs()))
                .expect("letters, an equals sign and digits are a header value")
        });
        let shared = Arc::new(Shared::new(config, clock, metrics)?);
        let maintenance = tokio::spawn(maintain::maintain(Arc::downgrade(&shared))).abort_handle();
        Ok(Arc::new(Self {
            shared,
            maintenance,
            host,
            prefix,
            keep_alive,
        }))
    }

    /// Whether [`Pool::new`] would take these settings. Touches no network, and needs no runtime.
    ///
    /// # Errors
    /// As of [`Pool::new`].
    pub fn check(config: &PoolConfig) -> Result<(), PoolError> {
        host_of(config)?;
        connect::Opener::new(config).map(drop)
    }

    /// Sends one request and reads its answer, on a connection that is young enough. Dropping the future closes that
    /// connection; whether the request was sent is then not known to anybody.
    ///
    /// Tried again on another connection, and the gate asked again, only if not one byte was written.
    pub async fn call(&self, call: Call<'_>) -> Exchange {
        let span = tracing::info_span!(
            "upstream_attempt",
            otel.name = call.label,
            otel.kind = "client",
            http.request.method = call.method.as_str(),
            server.address = self.shared.config.base.host(),
            payment.pool = self.shared.config.name,
            http.response.status_code = Empty,
            error.r#type = Empty,
            otel.status_code = Empty,
        );
        let exchange = self.carry(call).instrument(span.clone()).await;
        let status = exchange.result.as_ref().ok().map(|answer| answer.status);
        if let Some(status) = status {
            span.record("http.response.status_code", status.as_u16());
        }
        let error = match &status {
            None => Some(exchange.evidence.ended.as_str()),
            // What it means for the payment is the connector's to say; of this exchange it is an error.
            Some(status) => {
                (status.is_client_error() || status.is_server_error()).then(|| status.as_str())
            }
        };
        if let Some(error) = error {
            span.record("error.type", error);
            span.record("otel.status_code", "ERROR");
        }
        exchange
    }

    async fn carry(&self, call: Call<'_>) -> Exchange {
        let shared = &self.shared;
        let mut report = Report {
            started: shared.clock.tick(),
            clock: &*shared.clock,
            evidence: CallEvidence {
                call: call.label.to_owned(),
                at: shared.clock.now(),
                address: None,
                reused: false,
                tls: None,
                bytes_written: 0,
                first_byte_after: None,
                status: None,
                ended: Ended::NoConnection,
                took: Duration::ZERO,
            },
        };
        // No request may outlive its connection's age.
        let timeout = call.timeout.min(shared.config.age_margin);
        let wait_deadline = Instant::now() + shared.config.wait_max;
        let mut attempts = 1;
        loop {
            let mut lease = match shared.checkout(wait_deadline).await {
                Ok(lease) => lease,
                Err(refusal) => {
                    report.on_none();
                    return report.not_sent(Ended::NoConnection, refusal);
                }
            };
            report.on(&mut lease);
            let request = match self.request(&call) {
                Ok(request) => request,
                Err(detail) => {
                    return report.not_sent(Ended::NoConnection, NotSent::Unreachable { detail });
                }
            };
            if let Err(refusal) = call.gate.may_send() {
                return report.not_sent(Ended::Gated, refusal);
            }
            let (attempt, fit) = self.attempt(&mut lease, request, timeout).await;
            report.of(&attempt);
            match attempt.result {
                Ok(response) => {
                    lease.set_unfit(if fit {
                        None
                    } else {
                        Some(CloseReason::EndedByPeer)
                    });
                    return report.end(Ended::Complete, Ok(response));
                }
                Err(Broken { ended, detail }) => {
                    let timed_out = ended == Ended::TimedOut;
                    lease.set_unfit(Some(if timed_out {
                        CloseReason::TimedOut
                    } else {
                        CloseReason::Failed
                    }));
                    drop(lease);
                    if attempt.bytes_written > 0 {
                        return report.unknown(ended, detail);
                    }
                    if timed_out || attempts == ATTEMPT_COUNT_MAX {
                        return report.not_sent(ended, NotSent::Unreachable { detail });
                    }
                }
            }
            attempts += 1;
            shared.metrics.attempts_repeated.inc();
        }
    }

    /// Every open connection, by id.
    pub fn snapshot(&self) -> Vec<ConnectionInfo> {
        let state = self.shared.lock();
        let info = |vital: &Arc<connection::Vital>| ConnectionInfo {
            id: vital.id,
            born: vital.born,
            planned_end: vital.planned_end,
            requests: vital.requests.load(Ordering::Relaxed),
        };
        state.alive.values().map(info).collect()
    }

    async fn attempt(
        &self,
        lease: &mut Lease,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> (Attempt, bool) {
        // Until it has ended well: this future may be dropped at any await.
        lease.set_unfit(Some(CloseReason::Abandoned));
        let metrics = &self.shared.metrics;
        metrics.requests.inc();
        let connection = lease.connection();
        if connection.vital.requests.load(Ordering::Relaxed) > 0 {
            metrics.reused.inc();
        }
        let bytes_max = self.shared.config.answer_bytes_max;
        // Unconstrained: a task whose turn is up would otherwise be suspended between the gate and the write.
        let exchange = connection.exchange(request, timeout, bytes_max, &*self.shared.clock);
        let attempt = unconstrained(exchange).await;
        let fit = attempt.result.is_ok() && connection.settle();
        (attempt, fit)
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, String> {
        let target = if self.prefix.is_empty() {
            PathAndQuery::try_from(call.path)
        } else {
            PathAndQuery::try_from(format!("{}{}", self.prefix, call.path))
        };
        let target = target.map_err(|error| format!("{}: not a path: {error}", call.label))?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = Uri::from(target);
        let headers = request.headers_mut();
        headers.reserve(call.headers.len() + 3);
        headers.insert(header::HOST, self.host.clone());
        if let Some(keep_alive) = &self.keep_alive {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.insert(HeaderName::from_static("keep-alive"), keep_alive.clone());
        }
        add_all(headers, call.headers);
        Ok(request)
    }
}

/// What requests say in `Host`, if the settings fit together.
fn host_of(config: &PoolConfig) -> Result<HeaderValue, PoolError> {
    let failed = |faults: Vec<String>| PoolError::Faults {
        name: config.name.clone(),
        faults,
    };
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(failed(faults));
    }
    let host = config.base.authority().and_then(|authority| {
        // Credentials before an @ would otherwise travel in the header.
        let host = authority.as_str().rsplit('@').next()?;
        HeaderValue::from_str(host).ok()
    });
    host.ok_or_else(|| failed(vec!["base names no valid host".to_owned()]))
}

fn add_all(headers: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        headers.append(name, value.clone());
    }
}

impl Transport for Pool {
    fn call(&self, call: Call<'_>) -> impl Future<Output = Exchange> + Send {
        Self::call(self, call)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.maintenance.abort();
        self.shared.shut_down();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pool({} to {})",
            self.shared.config.name, self.shared.config.base
        )
    }
}

/// The evidence of a call while it grows.
struct Report<'a> {
    started: Tick,
    clock: &'a dyn Clock,
    evidence: CallEvidence,
}

impl Report<'_> {
    fn on(&mut self, lease: &mut Lease) {
        let vital = &lease.connection().vital;
        self.evidence.address = Some(vital.address);
        self.evidence.tls = vital.tls.map(str::to_owned);
        self.evidence.reused = vital.requests.load(Ordering::Relaxed) > 0;
    }

    fn on_none(&mut self) {
        self.evidence.address = None;
        self.evidence.tls = None;
        self.evidence.reused = false;
    }

    fn of(&mut self, attempt: &Attempt) {
        self.evidence.bytes_written = attempt.bytes_written;
        self.evidence.first_byte_after = attempt.first_byte_at.map(|at| at.since(self.started));
        self.evidence.status = attempt.status;
    }

    fn not_sent(self, ended: Ended, refusal: NotSent) -> Exchange {
        self.end(ended, Err(CallFailure::NotSent(refusal)))
    }

    fn unknown(self, ended: Ended, detail: String) -> Exchange {
        let reason = match ended {
            Ended::TimedOut => UnknownReason::TimedOut,
            Ended::TooLarge | Ended::Malformed => UnknownReason::Unusable { detail },
            Ended::Complete | Ended::Gated | Ended::NoConnection | Ended::Closed => {
                UnknownReason::Closed { detail }
            }
        };
        self.end(ended, Err(CallFailure::Unknown(reason)))
    }

    fn end(mut self, ended: Ended, result: Result<Response, CallFailure>) -> Exchange {
        self.evidence.ended = ended;
        self.evidence.took = self.clock.tick().since(self.started);
        Exchange {
            result,
            evidence: self.evidence,
        }
    }
}
