//! What the pools tell operators.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Fifths of the age, for the gauge of ages.
pub(super) const AGE_BANDS: usize = 5;

/// Metrics of all pools, told apart by the label `pool`.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    open: Family<PoolLabel, Gauge>,
    idle: Family<PoolLabel, Gauge>,
    by_age: Family<AgeLabel, Gauge>,
    warm_target: Family<PoolLabel, Gauge>,
    planned_ends_soon: Family<PoolLabel, Gauge>,
    opened: Family<PoolLabel, Counter>,
    open_failed: Family<PoolLabel, Counter>,
    closed: Family<ClosedLabel, Counter>,
    handshake: Family<PoolLabel, Histogram, Buckets>,
    requests: Family<PoolLabel, Counter>,
    reused: Family<PoolLabel, Counter>,
    attempts_repeated: Family<PoolLabel, Counter>,
    waiters: Family<PoolLabel, Gauge>,
    waiters_refused: Family<PoolLabel, Counter>,
    checkout_wait: Family<PoolLabel, Histogram, Buckets>,
    waited: Family<PoolLabel, Counter>,
    breaker_open: Family<PoolLabel, Gauge>,
    breaker_refused: Family<PoolLabel, Counter>,
    limit_refused: Family<PoolLabel, Counter>,
}

impl PoolMetrics {
    /// Registers them once for the process.
    pub fn register(registry: &mut Registry) -> Self {
        let times = || Family::new_with_constructor(Buckets);
        let metrics = Self {
            open: Family::default(),
            idle: Family::default(),
            by_age: Family::default(),
            warm_target: Family::default(),
            planned_ends_soon: Family::default(),
            opened: Family::default(),
            open_failed: Family::default(),
            closed: Family::default(),
            handshake: times(),
            requests: Family::default(),
            reused: Family::default(),
            attempts_repeated: Family::default(),
            waiters: Family::default(),
            waiters_refused: Family::default(),
            checkout_wait: times(),
            waited: Family::default(),
            breaker_open: Family::default(),
            breaker_refused: Family::default(),
            limit_refused: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("upstream_pool");
        registry.register(
            "connections_open",
            "Open connections.",
            metrics.open.clone(),
        );
        registry.register(
            "connections_idle",
            "Open connections that serve no request.",
            metrics.idle.clone(),
        );
        registry.register(
            "connections_by_age",
            "Open connections by age, in fifths.",
            metrics.by_age.clone(),
        );
        registry.register(
            "warm_target",
            "Connections that recent use asks for.",
            metrics.warm_target.clone(),
        );
        let help = "Connections whose planned end lies within a tenth of the age from now.";
        registry.register("planned_ends_soon", help, metrics.planned_ends_soon.clone());
        registry.register(
            "connections_opened",
            "Connections opened.",
            metrics.opened.clone(),
        );
        registry.register(
            "connections_failed",
            "Connections that could not be opened.",
            metrics.open_failed.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections closed, by reason.",
            metrics.closed.clone(),
        );
        let help = "From name resolution to the end of the TLS handshake.";
        registry.register_with_unit("handshake", help, Unit::Seconds, metrics.handshake.clone());
        registry.register(
            "requests",
            "Requests begun on a connection.",
            metrics.requests.clone(),
        );
        let help = "Requests begun on a connection that had served another.";
        registry.register("requests_reused", help, metrics.reused.clone());
        let help = "Attempts repeated on another connection, because the first wrote no byte.";
        registry.register("attempts_repeated", help, metrics.attempts_repeated.clone());
        registry.register(
            "waiters",
            "Calls that wait for a connection.",
            metrics.waiters.clone(),
        );
        let help = "Calls that got no connection within the bounds.";
        registry.register("waiters_refused", help, metrics.waiters_refused.clone());
        let help = "From asking for a connection to having it.";
        registry.register_with_unit(
            "checkout_wait",
            help,
            Unit::Seconds,
            metrics.checkout_wait.clone(),
        );
        registry.register(
            "waited",
            "Calls that found no idle connection.",
            metrics.waited.clone(),
        );
        let help = "1 while new charges are refused.";
        registry.register("breaker_open", help, metrics.breaker_open.clone());
        let help = "New charges refused by the breaker.";
        registry.register("breaker_refused", help, metrics.breaker_refused.clone());
        let help = "Calls refused by the account's concurrency limit.";
        registry.register("limit_refused", help, metrics.limit_refused.clone());
        metrics
    }

    /// Whether it is open, and what it refused.
    pub(super) fn of_breaker(&self, pool: &str) -> (Gauge, Counter) {
        let label = PoolLabel {
            pool: pool.to_owned(),
        };
        (
            self.breaker_open.get_or_create_owned(&label),
            self.breaker_refused.get_or_create_owned(&label),
        )
    }

    /// What it refused.
    pub(super) fn of_limit(&self, pool: &str) -> Counter {
        self.limit_refused.get_or_create_owned(&PoolLabel {
            pool: pool.to_owned(),
        })
    }

    /// The children of one pool, looked up once.
    pub(super) fn of_pool(&self, pool: &str, age_max: Duration) -> OnePool {
        let label = PoolLabel {
            pool: pool.to_owned(),
        };
        let band = |index: usize| {
            let band = age_max.mul_f64(share(index + 1));
            let label = AgeLabel {
                pool: pool.to_owned(),
                up_to_seconds: format!("{}", band.as_secs_f64()),
            };
            self.by_age.get_or_create_owned(&label)
        };
        let closed = |reason| {
            self.closed.get_or_create_owned(&ClosedLabel {
                pool: pool.to_owned(),
                reason,
            })
        };
        OnePool {
            open: self.open.get_or_create_owned(&label),
            idle: self.idle.get_or_create_owned(&label),
            by_age: std::array::from_fn(band),
            warm_target: self.warm_target.get_or_create_owned(&label),
            planned_ends_soon: self.planned_ends_soon.get_or_create_owned(&label),
            opened: self.opened.get_or_create_owned(&label),
            open_failed: self.open_failed.get_or_create_owned(&label),
            closed: CloseReason::ALL.map(closed),
            handshake: self.handshake.get_or_create_owned(&label),
            requests: self.requests.get_or_create_owned(&label),
            reused: self.reused.get_or_create_owned(&label),
            attempts_repeated: self.attempts_repeated.get_or_create_owned(&label),
            waiters: self.waiters.get_or_create_owned(&label),
            waiters_refused: self.waiters_refused.get_or_create_owned(&label),
            checkout_wait: self.checkout_wait.get_or_create_owned(&label),
            waited: self.waited.get_or_create_owned(&label),
        }
    }
}

/// Metrics of one pool: handles, so that a call looks nothing up.
#[derive(Debug)]
pub(super) struct OnePool {
    pub(super) open: Gauge,
    pub(super) idle: Gauge,
    pub(super) by_age: [Gauge; AGE_BANDS],
    pub(super) warm_target: Gauge,
    pub(super) planned_ends_soon: Gauge,
    pub(super) opened: Counter,
    pub(super) open_failed: Counter,
    closed: [Counter; CloseReason::ALL.len()],
    pub(super) handshake: Histogram,
    pub(super) requests: Counter,
    pub(super) reused: Counter,
    pub(super) attempts_repeated: Counter,
    pub(super) waiters: Gauge,
    pub(super) waiters_refused: Counter,
    pub(super) checkout_wait: Histogram,
    pub(super) waited: Counter,
}

impl OnePool {
    pub(super) fn closed(&self, reason: CloseReason) -> &Counter {
        &self.closed[reason as usize]
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CloseReason {
    /// Its planned end.
    Aged,
    /// Unused for the idle limit.
    Idle,
    /// Found closed by the processor before a request began.
    Gone,
    /// The processor ended it with its answer.
    EndedByPeer,
    /// A request on it failed.
    Failed,
    /// A request on it got no answer in time.
    TimedOut,
    /// The call was dropped half-way.
    Abandoned,
    /// The pool was dropped.
    Shutdown,
}

impl CloseReason {
    const ALL: [Self; 8] = [
        Self::Aged,
        Self::Idle,
        Self::Gone,
        Self::EndedByPeer,
        Self::Failed,
        Self::TimedOut,
        Self::Abandoned,
        Self::Shutdown,
    ];
}

/// The age, in fifths of its bound: the index of its band.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of the age, between 0 and a few, times five"
)]
pub(super) fn age_band(age: Duration, age_max: Duration) -> usize {
    let share = age.as_secs_f64() / age_max.as_secs_f64();
    ((share * 5.0) as usize).min(AGE_BANDS - 1)
}

fn share(bands: usize) -> f64 {
    f64::from(u32::try_from(bands).unwrap_or(u32::MAX)) / 5.0
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgeLabel {
    pool: String,
    up_to_seconds: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabel {
    pool: String,
    reason: CloseReason,
}

/// From a tenth of a millisecond to six seconds.
#[derive(Clone, Copy, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1, 0.4, 1.6, 6.4])
    }
}
