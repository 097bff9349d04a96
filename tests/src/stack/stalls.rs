//! When this process got no turn, and for how long: a machine that stands still proves nothing about the product.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const STEP: Duration = Duration::from_millis(10);
/// What a thread may wake late on a machine at ease.
const USUAL: Duration = Duration::from_millis(20);

/// Watches until it is dropped, on a thread of its own: a task would share its runtime with the gateway of the test, and
/// take a product that blocks the runtime for a machine that stands still.
#[derive(Debug)]
pub struct Stalls {
    /// The end of each, in Unix milliseconds, and its length.
    seen: Arc<Mutex<Vec<(u64, Duration)>>>,
    over: Arc<AtomicBool>,
}

impl Stalls {
    pub fn watch() -> Self {
        let watch = Self {
            seen: Arc::default(),
            over: Arc::default(),
        };
        let (seen, over) = (Arc::clone(&watch.seen), Arc::clone(&watch.over));
        // Ends by itself a step after the drop: nobody has to wait for it.
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(STEP);
                let late = began.elapsed().saturating_sub(STEP);
                if late > USUAL {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push((unix_ms(), late));
                }
            }
        });
        watch
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
        self.over.store(true, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// On one thread, which the gateway of a test may block as well as this does.
    #[tokio::test]
    async fn a_runtime_that_is_blocked_is_no_machine_that_stands_still() {
        const BLOCKED: Duration = Duration::from_secs(1);
        let stalls = Stalls::watch();
        let from = unix_ms();
        tokio::time::sleep(2 * STEP).await;
        thread::sleep(BLOCKED);
        tokio::time::sleep(2 * STEP).await;
        let longest = stalls.longest(from, unix_ms());
        assert!(longest < BLOCKED / 2, "stood still for {longest:?}");
    }
}
