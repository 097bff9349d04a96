//! How often each client may ask: one bucket per configured client, so that one client's storm is not another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway_core::clock::Clock;
use gateway_core::key::Client;

use crate::problem::{Kind, Problem};

/// The rates of all clients. Bounded by the configuration: a client that is not in it never gets this far.
#[derive(Debug)]
pub struct Rates {
    buckets: HashMap<Client, Bucket>,
    clock: Arc<dyn Clock>,
}

/// The generic cell rate algorithm (ITU-T I.371): a token bucket kept as one instant, without a timer.
#[derive(Debug)]
struct Bucket {
    /// Between two requests in the long run.
    interval: Duration,
    /// How far `full_at` may lie ahead: the burst.
    tolerance: Duration,
    /// When the bucket will be full again, since the clock's origin.
    full_at: Mutex<Duration>,
}

impl Rates {
    /// `limits`: each client's requests per second and burst, both at least 1.
    pub fn new(
        limits: impl IntoIterator<Item = (Client, u32, u32)>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let buckets = limits
            .into_iter()
            .map(|(client, per_second, burst)| {
                let interval = Duration::from_secs(1) / per_second.max(1);
                let tolerance = interval * burst.max(1);
                (
                    client,
                    Bucket {
                        interval,
                        tolerance,
                        full_at: Mutex::default(),
                    },
                )
            })
            .collect();
        Self { buckets, clock }
    }

    /// Takes one request's worth.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn take(&self, client: &Client) -> Result<(), Duration> {
        let Some(bucket) = self.buckets.get(client) else {
            return Ok(());
        };
        let now = self.clock.tick().since_origin();
        let mut full_at = bucket
            .full_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let next = (*full_at).max(now) + bucket.interval;
        let ahead = next.saturating_sub(now);
        let excess = ahead.saturating_sub(bucket.tolerance);
        if !excess.is_zero() {
            return Err(excess);
        }
        *full_at = next;
        Ok(())
    }

    /// [`Rates::take`] as an answer.
    pub fn require(&self, client: &Client) -> Result<(), Problem> {
        self.take(client).map_err(|wait| {
            Problem::new(Kind::RateLimited, "this client's rate is used up").retry_after(wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::clock::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000)));
        let (shop, other) = (Client::from_stored("shop"), Client::from_stored("other"));
        let limits = [(shop.clone(), 10, 3), (other.clone(), 1, 1)];
        let rates = Rates::new(limits, Arc::clone(&clock) as Arc<dyn Clock>);
        for _ in 0..3 {
            assert_eq!(rates.take(&shop), Ok(()));
        }
        assert_eq!(rates.take(&shop), Err(Duration::from_millis(100)));
        assert_eq!(rates.take(&other), Ok(()), "another client is not held up");
        clock.advance(Duration::from_millis(99));
        assert_eq!(rates.take(&shop), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(rates.take(&shop), Ok(()));
        assert!(rates.take(&shop).is_err());
        clock.advance(Duration::from_hours(1));
        let passed = (0..10).filter(|_| rates.take(&shop).is_ok()).count();
        assert_eq!(passed, 3, "a quiet hour saves up no more than the burst");
        let answer = rates.require(&shop).expect_err("used up");
        assert_eq!(answer.status(), http::StatusCode::TOO_MANY_REQUESTS);
    }
}
