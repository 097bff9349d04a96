//! What the engine counts, for Prometheus.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::journal::JournalObserver;
use crate::store::{AtRisk, Operation};

/// Bounded: accounts are configured, verbs and states are ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub account: String,
    pub verb: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabels {
    pub account: String,
    pub verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AtRiskLabels {
    pub account: String,
    pub currency: String,
    pub state: &'static str,
}

/// All of the engine's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Transitions written, by the state reached.
    pub settled: Family<OutcomeLabels, Counter>,
    pub upstream: Family<VerbLabels, Histogram, fn() -> Histogram>,
    pub stale_settlements: Counter,
    /// Callers who wait for the end of an operation, whoever works on it.
    pub waiting_callers: Gauge<i64, AtomicI64>,
    /// Follow-ups that wait for their payment's turn: bounded by `payments.waiting_max`.
    pub waiting_follow_ups: Gauge<i64, AtomicI64>,
    pub adopted: Counter,
    pub checks: Counter,
    pub batch_size: Histogram,
    pub commit: Histogram,
    /// Minor units whose fate is open.
    pub at_risk: Family<AtRiskLabels, Gauge<i64, AtomicI64>>,
    pub open_operations: Family<AtRiskLabels, Gauge<i64, AtomicI64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            settled: Family::default(),
            upstream: Family::new_with_constructor(upstream_buckets as fn() -> Histogram),
            stale_settlements: Counter::default(),
            waiting_callers: Gauge::default(),
            waiting_follow_ups: Gauge::default(),
            adopted: Counter::default(),
            checks: Counter::default(),
            batch_size: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            commit: Histogram::new([
                0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0,
            ]),
            at_risk: Family::default(),
            open_operations: Family::default(),
        }
    }
}

fn upstream_buckets() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "payment_operations",
            "Transitions written, by state reached",
            self.settled.clone(),
        );
        registry.register_with_unit(
            "payment_upstream_call",
            "Time of a money-moving upstream call",
            Unit::Seconds,
            self.upstream.clone(),
        );
        registry.register(
            "payment_stale_settlements",
            "Settlements that came too late and were kept as evidence",
            self.stale_settlements.clone(),
        );
        registry.register(
            "payment_waiting_callers",
            "Callers who wait for the end of an operation",
            self.waiting_callers.clone(),
        );
        registry.register(
            "payment_waiting_follow_ups",
            "Follow-ups that wait for their payment's turn, at most payments.waiting_max",
            self.waiting_follow_ups.clone(),
        );
        registry.register(
            "payment_adopted",
            "Operations adopted from other replicas",
            self.adopted.clone(),
        );
        registry.register(
            "payment_checks",
            "Checks of unknown operations",
            self.checks.clone(),
        );
        registry.register(
            "payment_journal_batch_size",
            "Operations in one commit",
            self.batch_size.clone(),
        );
        registry.register_with_unit(
            "payment_journal_commit",
            "Time of one commit",
            Unit::Seconds,
            self.commit.clone(),
        );
        registry.register(
            "payment_money_at_risk",
            "Minor units whose fate is open, by state; approved: cancelled, and not undone yet",
            self.at_risk.clone(),
        );
        registry.register(
            "payment_open_operations",
            "Operations whose fate is open, by state; approved: cancelled, and not undone yet",
            self.open_operations.clone(),
        );
    }

    pub fn settled(&self, operation: &Operation) {
        self.settled
            .get_or_create(&OutcomeLabels {
                account: operation.account.to_string(),
                verb: operation.verb.as_str(),
                outcome: operation.state.name().as_str(),
            })
            .inc();
    }

    pub fn upstream_call(&self, operation: &Operation, took: Duration) {
        self.upstream
            .get_or_create(&VerbLabels {
                account: operation.account.to_string(),
                verb: operation.verb.as_str(),
            })
            .observe(took.as_secs_f64());
    }

    /// One more caller waits, until the guard is dropped.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting::enter(&self.waiting_callers)
    }

    /// One more follow-up waits for its turn, until the guard is dropped.
    pub(crate) fn waiting_follow_up(&self) -> Waiting {
        Waiting::enter(&self.waiting_follow_ups)
    }

    /// Replaces the gauges: what is no longer at risk must not stay shown.
    pub fn at_risk(&self, open: &[AtRisk]) {
        self.at_risk.clear();
        self.open_operations.clear();
        for row in open {
            let labels = AtRiskLabels {
                account: row.account.to_string(),
                currency: row.currency.code().to_owned(),
                state: row.state.as_str(),
            };
            self.at_risk.get_or_create(&labels).set(row.minor);
            self.open_operations
                .get_or_create(&labels)
                .set(row.operations);
        }
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Waiting(Gauge<i64, AtomicI64>);

impl Waiting {
    fn enter(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl JournalObserver for Metrics {
    fn committed(&self, records: usize, settlements: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
        self.batch_size.observe((records + settlements) as f64);
        self.commit.observe(took.as_secs_f64());
    }
}
