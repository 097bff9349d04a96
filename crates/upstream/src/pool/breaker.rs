//! Stops new charges to a processor that keeps failing; look-ups, voids and reversals go on.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::clock::{Clock, Tick};
use gateway_core::connector::{NotSent, UnknownReason};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::exchange::{CallFailure, Exchange};
use super::metrics::PoolMetrics;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// New charges that must fail in a row.
    pub failure_count_max: u32,
    /// Then every new charge is refused for so long; after it one is let through to try.
    pub open_for: Duration,
}

/// What a call is for, as far as the breaker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerbClass {
    /// Sale, authorization, verification: not sending it harms nobody.
    NewCharge,
    /// Everything about money that has moved, or may have: never held back, and says nothing about new charges.
    FollowUp,
}

/// What one call says about the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered, whatever it said.
    Good,
    /// No connection, no complete answer, or a 5xx.
    Bad,
    /// Nothing: the call ended on our side.
    Silent,
}

impl Health {
    pub fn of(exchange: &Exchange) -> Self {
        match &exchange.result {
            Ok(response) if response.status.is_server_error() => Self::Bad,
            Ok(_) => Self::Good,
            Err(
                CallFailure::NotSent(NotSent::Unreachable { .. })
                | CallFailure::Unknown(
                    UnknownReason::TimedOut
                    | UnknownReason::Closed { .. }
                    | UnknownReason::Unusable { .. },
                ),
            ) => Self::Bad,
            // The gate and our own bounds; the other reasons are not about the wire.
            Err(CallFailure::NotSent(_) | CallFailure::Unknown(_)) => Self::Silent,
        }
    }
}

/// One per account.
pub struct Breaker {
    config: BreakerConfig,
    clock: Arc<dyn Clock>,
    condition: Mutex<Condition>,
    is_open: Gauge,
    refused: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Closed {
        failures_in_row: u32,
    },
    Open {
        until: Tick,
    },
    /// One new charge is on its way, to see.
    Trying,
}

impl Breaker {
    /// `name` is the `pool` label of its metrics.
    pub fn new(
        name: &str,
        config: BreakerConfig,
        clock: Arc<dyn Clock>,
        metrics: &PoolMetrics,
    ) -> Self {
        let (is_open, refused) = metrics.of_breaker(name);
        let condition = Mutex::new(Condition::Closed { failures_in_row: 0 });
        Self {
            config,
            clock,
            condition,
            is_open,
            refused,
        }
    }

    /// Whether a call of this class would be refused now. Changes nothing.
    pub fn refuses(&self, class: VerbClass) -> bool {
        class == VerbClass::NewCharge
            && match *self.lock() {
                Condition::Closed { .. } => false,
                Condition::Open { until } => self.clock.tick() < until,
                Condition::Trying => true,
            }
    }

    /// Lets a call through, or refuses it. What comes of the call is told to [`Admission::record`].
    ///
    /// # Errors
    /// `NotSent::BreakerOpen`.
    pub fn admit(&self, class: VerbClass) -> Result<Admission<'_>, NotSent> {
        let mut trial = false;
        if class == VerbClass::NewCharge {
            let mut condition = self.lock();
            match *condition {
                Condition::Closed { .. } => {}
                Condition::Open { until } if self.clock.tick() >= until => {
                    *condition = Condition::Trying;
                    trial = true;
                }
                Condition::Open { .. } | Condition::Trying => {
                    self.refused.inc();
                    return Err(NotSent::BreakerOpen);
                }
            }
        }
        Ok(Admission {
            breaker: self,
            class,
            trial,
        })
    }

    fn settle(&self, trial: bool, health: Health) {
        let now = self.clock.tick();
        let mut condition = self.lock();
        let next = match (*condition, health) {
            (Condition::Trying, Health::Good) if trial => Condition::Closed { failures_in_row: 0 },
            (Condition::Trying, Health::Bad) if trial => Condition::Open {
                until: now + self.config.open_for,
            },
            // The trial said nothing: the next new charge is one.
            (Condition::Trying, Health::Silent) if trial => Condition::Open { until: now },
            (Condition::Closed { .. }, Health::Good) => Condition::Closed { failures_in_row: 0 },
            (Condition::Closed { failures_in_row }, Health::Bad) => {
                let failures_in_row = failures_in_row.saturating_add(1);
                if failures_in_row >= self.config.failure_count_max {
                    Condition::Open {
                        until: now + self.config.open_for,
                    }
                } else {
                    Condition::Closed { failures_in_row }
                }
            }
            // What was sent before it opened says nothing about now.
            (unchanged, _) => unchanged,
        };
        *condition = next;
        self.is_open
            .set(i64::from(!matches!(next, Condition::Closed { .. })));
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        // One plain value: never half-written.
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Breaker({:?})", *self.lock())
    }
}

/// The right to make one call. Dropped unrecorded, it counts as [`Health::Silent`].
#[derive(Debug)]
#[must_use = "record what came of the call"]
pub struct Admission<'a> {
    breaker: &'a Breaker,
    class: VerbClass,
    /// The one call that decides whether an open breaker closes.
    trial: bool,
}

impl Admission<'_> {
    pub fn record(mut self, health: Health) {
        if self.class == VerbClass::NewCharge {
            self.breaker.settle(self.trial, health);
        }
        self.trial = false;
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.settle(true, Health::Silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::clock::{ManualClock, Timestamp};
    use prometheus_client::registry::Registry;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(10);

    fn breaker() -> (Arc<ManualClock>, Breaker) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(0)));
        let config = BreakerConfig {
            failure_count_max: 3,
            open_for: OPEN_FOR,
        };
        let metrics = PoolMetrics::register(&mut Registry::default());
        let breaker = Breaker::new(
            "test",
            config,
            Arc::clone(&clock) as Arc<dyn Clock>,
            &metrics,
        );
        (clock, breaker)
    }

    fn charge(breaker: &Breaker, health: Health) {
        breaker
            .admit(VerbClass::NewCharge)
            .expect("closed")
            .record(health);
    }

    fn open(breaker: &Breaker) {
        for _ in 0..3 {
            charge(breaker, Health::Bad);
        }
    }

    #[test]
    fn failures_in_a_row_stop_new_charges_and_nothing_else() {
        let (_, breaker) = breaker();
        open(&breaker);
        assert!(breaker.refuses(VerbClass::NewCharge));
        assert_eq!(
            breaker.admit(VerbClass::NewCharge).expect_err("open"),
            NotSent::BreakerOpen
        );
        assert!(!breaker.refuses(VerbClass::FollowUp));
        breaker
            .admit(VerbClass::FollowUp)
            .expect("never held back")
            .record(Health::Good);
        assert!(
            breaker.refuses(VerbClass::NewCharge),
            "a follow-up says nothing about new charges"
        );
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (_, breaker) = breaker();
        for health in [
            Health::Bad,
            Health::Bad,
            Health::Good,
            Health::Bad,
            Health::Silent,
            Health::Bad,
        ] {
            charge(&breaker, health);
        }
        assert!(!breaker.refuses(VerbClass::NewCharge));
        charge(&breaker, Health::Bad);
        assert!(breaker.refuses(VerbClass::NewCharge));
    }

    #[test]
    fn after_a_while_one_charge_tries_and_its_answer_decides() {
        let (clock, breaker) = breaker();
        open(&breaker);
        clock.advance(OPEN_FOR);
        assert!(!breaker.refuses(VerbClass::NewCharge));
        let trial = breaker.admit(VerbClass::NewCharge).expect("one may try");
        breaker.admit(VerbClass::NewCharge).expect_err("only one");
        trial.record(Health::Bad);
        breaker.admit(VerbClass::NewCharge).expect_err("open again");
        clock.advance(OPEN_FOR);
        breaker
            .admit(VerbClass::NewCharge)
            .expect("one may try")
            .record(Health::Good);
        charge(&breaker, Health::Good);
    }

    #[test]
    fn a_trial_that_says_nothing_leaves_the_next_charge_to_try() {
        let (clock, breaker) = breaker();
        open(&breaker);
        clock.advance(OPEN_FOR);
        drop(breaker.admit(VerbClass::NewCharge).expect("one may try"));
        let again = breaker
            .admit(VerbClass::NewCharge)
            .expect("the next may try");
        breaker.admit(VerbClass::NewCharge).expect_err("only one");
        again.record(Health::Good);
        assert!(!breaker.refuses(VerbClass::NewCharge));
    }

    #[test]
    fn what_was_sent_before_it_opened_does_not_close_it() {
        let (clock, breaker) = breaker();
        let early = breaker.admit(VerbClass::NewCharge).expect("closed");
        let other = breaker.admit(VerbClass::NewCharge).expect("closed");
        open(&breaker);
        early.record(Health::Good);
        assert!(breaker.refuses(VerbClass::NewCharge));
        clock.advance(OPEN_FOR);
        let trial = breaker.admit(VerbClass::NewCharge).expect("one may try");
        other.record(Health::Good);
        breaker
            .admit(VerbClass::NewCharge)
            .expect_err("the trial is still out");
        trial.record(Health::Good);
    }
}
