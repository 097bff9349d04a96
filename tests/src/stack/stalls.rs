//! When this process got no turn, and for how long: a machine that stands still proves nothing about the product.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

const STEP: Duration = Duration::from_millis(10);
/// What a timer may be late on a machine at ease.
const USUAL: Duration = Duration::from_millis(20);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Stalls {
    /// The end of each, in Unix milliseconds, and its length.
    seen: Arc<Mutex<Vec<(u64, Duration)>>>,
    watching: AbortHandle,
}

impl Stalls {
    pub fn watch() -> Self {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let noted = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            let mut step = interval(STEP);
            step.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let began = Instant::now();
                step.tick().await;
                let late = began.elapsed().saturating_sub(STEP);
                if late > USUAL {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    noted.push((unix_ms(), late));
                }
            }
        });
        Self {
            seen,
            watching: watching.abort_handle(),
        }
    }

    /// The longest of those that overlap the time from `from` to `to`, in Unix milliseconds.
    pub fn longest(&self, from: u64, to: u64) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let overlap = |(ended, late): &&(u64, Duration)| {
            let began = ended.saturating_sub(millis(*late));
            began <= to && from <= *ended
        };
        let longest = seen.iter().filter(overlap).map(|(_, late)| *late).max();
        longest.unwrap_or_default()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
