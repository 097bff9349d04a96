//! A caller as the README's recipe wants it: one key per intent, repeated at the next gateway until the answer is final.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::notes::{Intent, Notes, Told};
use super::rig::Rig;
use crate::world::{Caller, Reply, claims};

/// Tokens are good for ten minutes.
const TOKEN_AGE_MAX: Duration = Duration::from_mins(4);
/// Before the next try where nobody answered: another gateway may.
const UNANSWERED: Duration = Duration::from_millis(200);
/// And where an answer does not say when.
const UNSAID: Duration = Duration::from_secs(2);

/// All callers, and the plain round robin between them and the gateways.
#[derive(Debug)]
pub(super) struct Callers {
    rig: Arc<Rig>,
    notes: Arc<Notes>,
    next: AtomicUsize,
    bearing: Mutex<Bearing>,
}

/// One caller for each gateway, all with the token of that moment.
#[derive(Debug)]
struct Bearing {
    since: Instant,
    callers: Vec<Caller>,
}

impl Callers {
    pub(super) fn new(rig: &Arc<Rig>, notes: &Arc<Notes>) -> Self {
        let token = || rig.world.key.mint(&claims("shop-1"));
        // Behind a round robin of its own each, a caller has its connections to every gateway.
        let at = |url: &String| Caller::new(url.clone(), token());
        Self {
            next: AtomicUsize::new(0),
            bearing: Mutex::new(Bearing {
                since: Instant::now(),
                callers: rig.urls().iter().map(at).collect(),
            }),
            rig: Arc::clone(rig),
            notes: Arc::clone(notes),
        }
    }

    /// At the gateway whose turn it is, dead or alive.
    fn next(&self) -> Caller {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // A clone or an assignment cannot leave it half-written.
        let mut bearing = self.bearing.lock().unwrap_or_else(PoisonError::into_inner);
        if bearing.since.elapsed() > TOKEN_AGE_MAX {
            let token = self.rig.world.key.mint(&claims("shop-1"));
            for caller in &mut bearing.callers {
                *caller = caller.bearing(token.clone());
            }
            bearing.since = Instant::now();
        }
        bearing.callers[turn % bearing.callers.len()].clone()
    }

    /// Repeats until the answer is final. `wait`: how long each request says that it waits, in seconds. Also: how long it was
    /// since the first answer that was not final, or did not come.
    pub(super) async fn until_final(
        &self,
        intent: &Intent,
        wait: Option<&str>,
    ) -> (Told, Option<Duration>) {
        let mut headers = vec![("idempotency-key", intent.key.as_str())];
        headers.extend(wait.map(|seconds| ("request-timeout", seconds)));
        let heard = |what: String| self.notes.heard(&intent.key, what);
        self.repeat(&intent.path, &intent.body.to_string(), &headers, heard)
            .await
    }

    /// Cancels a key, until that is answered.
    pub(super) async fn cancel(&self, key: &str) -> Told {
        let body = json!({"idempotency_key": key}).to_string();
        let heard = |what: String| self.notes.heard(key, format!("cancelling: {what}"));
        self.repeat("/v1/cancellations", &body, &[], heard).await.0
    }

    async fn repeat(
        &self,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
        heard: impl Fn(String),
    ) -> (Told, Option<Duration>) {
        let mut doubt: Option<Instant> = None;
        for turn in 1_u64.. {
            let caller = self.next();
            heard(format!("nothing since its request {turn}"));
            let answer = caller.try_post_with(path, body.to_owned(), headers).await;
            let pause = match answer {
                Ok(reply) if is_final(&reply) => {
                    return (Told::by(&reply), doubt.map(|since| since.elapsed()));
                }
                Ok(reply) => {
                    heard(format!("{} {}", reply.status, reply.problem()));
                    retry_after(&reply).unwrap_or(UNSAID)
                }
                Err(error) => {
                    heard(error.to_string());
                    UNANSWERED
                }
            };
            doubt.get_or_insert_with(Instant::now);
            sleep(pause).await;
        }
        unreachable!("more requests than can be counted")
    }
}

/// A success, or a problem that the same key will not change.
fn is_final(reply: &Reply) -> bool {
    match reply.status {
        200..300 => true,
        400.. => reply.body["retry"] != "same-key",
        _ => false,
    }
}

fn retry_after(reply: &Reply) -> Option<Duration> {
    let seconds = reply.headers.get("retry-after")?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}
