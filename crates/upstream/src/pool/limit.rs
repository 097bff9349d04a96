//! How many calls one account may have under way at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway_core::connector::NotSent;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::PoolMetrics;

/// The bounds of one account.
#[derive(Clone, Copy, Debug)]
pub struct LimitConfig {
    pub calls_max: usize,
    /// Calls that may wait for their turn; the next one is refused at once.
    pub waiters_max: usize,
    /// Then a waiting call is refused.
    pub wait_max: Duration,
}

/// One per account; first come, first served.
pub struct Limit {
    config: LimitConfig,
    free: Arc<Semaphore>,
    waiters: AtomicUsize,
    refused: Counter,
}

/// The right to have one call under way, until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when dropped"]
pub struct LimitPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Limit {
    /// `name` is the `pool` label of its metrics.
    pub fn new(name: &str, config: LimitConfig, metrics: &PoolMetrics) -> Self {
        let free = Arc::new(Semaphore::new(config.calls_max.min(Semaphore::MAX_PERMITS)));
        Self {
            config,
            free,
            waiters: AtomicUsize::new(0),
            refused: metrics.of_limit(name),
        }
    }

    /// # Errors
    /// `NotSent::ConcurrencyLimit` at the bounds.
    pub async fn acquire(&self) -> Result<LimitPermit, NotSent> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(LimitPermit(permit));
        }
        let waited = self.wait().await;
        if waited.is_none() {
            self.refused.inc();
        }
        waited.map(LimitPermit).ok_or(NotSent::ConcurrencyLimit)
    }

    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let _place = Place::take(&self.waiters, self.config.waiters_max)?;
        let turn = Arc::clone(&self.free).acquire_owned();
        // The semaphore is never closed, so the inner result is always a permit.
        tokio::time::timeout(self.config.wait_max, turn)
            .await
            .ok()?
            .ok()
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Limit({} of {} free)",
            self.free.available_permits(),
            self.config.calls_max
        )
    }
}

/// A place among those who wait; left when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiters: &'a AtomicUsize, waiters_max: usize) -> Option<Self> {
        let taken = waiters.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiters);
        (taken < waiters_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn limit(calls_max: usize, waiters_max: usize) -> Limit {
        let config = LimitConfig {
            calls_max,
            waiters_max,
            wait_max: Duration::from_secs(1),
        };
        Limit::new(
            "test",
            config,
            &PoolMetrics::register(&mut Registry::default()),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_over_the_limit_waits_for_one_to_end() {
        let limit = limit(1, 1);
        let first = limit.acquire().await.expect("free");
        let (second, ()) = tokio::join!(limit.acquire(), async { drop(first) });
        drop(second.expect("the first ended"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waited_too_long_is_refused_and_leaves_its_place() {
        let limit = limit(1, 1);
        let first = limit.acquire().await.expect("free");
        for _ in 0..3 {
            let (waiting, at_once) = tokio::join!(biased; limit.acquire(), limit.acquire());
            assert_eq!(waiting.expect_err("waited"), NotSent::ConcurrencyLimit);
            assert_eq!(
                at_once.expect_err("no room to wait"),
                NotSent::ConcurrencyLimit
            );
        }
        drop(first);
        drop(limit.acquire().await.expect("free"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_the_queue_gives_its_place_back() {
        let limit = limit(1, 1);
        let _first = limit.acquire().await.expect("free");
        for _ in 0..3 {
            let left = tokio::time::timeout(Duration::from_millis(1), limit.acquire()).await;
            left.expect_err("still waiting");
        }
        assert_eq!(limit.waiters.load(Ordering::Relaxed), 0);
    }
}
