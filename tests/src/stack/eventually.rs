//! A bounded wait for something that only another process can bring about.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::StackError;

const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Asks `probe` until it has an answer; after `within`, an error that names `what` was awaited.
///
/// It asks at short intervals. That is acceptable only for a state outside this process (a server that comes up, a row
/// that another replica settles), which nobody can signal to us, and it is never a pause in the hope that something has
/// happened meanwhile: the answer is what ends it. Inside one process, await the event itself.
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T, StackError> {
    let deadline = Instant::now() + within;
    let asking = async {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    };
    timeout_at(deadline, asking)
        .await
        .map_err(|_| StackError::new(format!("not within {within:?}: {what}")))
}
