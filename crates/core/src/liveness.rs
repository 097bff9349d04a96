//! Who is alive: this process's heartbeat in the ledger, and what it sees of the others'.
//!
//! Two sides of one bargain. An owner sends nothing unless its own beats were confirmed without a gap; an adopter takes
//! nothing unless it watched a counter stand still while its own beats went through. All of it is measured on the
//! process's monotonic clock (one that counts sleep): no replica's wall clock decides, and a ledger outage makes nobody
//! silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::connector::NotSent;
use crate::key::ReplicaId;
use crate::store::{Heartbeat, Store};

/// The figures of the bargain. `silent_after` must exceed `gap_max`: an owner stops sending before anyone may adopt.
#[derive(Clone, Copy, Debug)]
pub struct LivenessOptions {
    pub beat_every: Duration,
    /// The longest time between two confirmed beats, and since the last, with which a first byte may leave.
    pub gap_max: Duration,
    /// A replica whose counter stood still this long is silent; the adopter's own beats must be unbroken as long.
    pub silent_after: Duration,
}

impl Default for LivenessOptions {
    fn default() -> Self {
        Self {
            beat_every: Duration::from_millis(250),
            gap_max: Duration::from_secs(3),
            silent_after: Duration::from_secs(5),
        }
    }
}

/// This process as the ledger knows it. New at every start.
#[derive(Debug)]
pub struct Liveness {
    replica: ReplicaId,
    clock: Arc<dyn Clock>,
    options: LivenessOptions,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the last confirmed beat was sent: it reached the ledger at that moment or later.
    confirmed: Option<Tick>,
    /// Since when no two confirmed beats lie more than `gap_max` apart.
    unbroken_since: Option<Tick>,
    others: HashMap<ReplicaId, Other>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    beat: i64,
    /// When this value was first seen here.
    moved: Tick,
}

impl Liveness {
    pub fn new(replica: ReplicaId, clock: Arc<dyn Clock>, options: LivenessOptions) -> Arc<Self> {
        assert!(
            options.silent_after > options.gap_max,
            "BUG: adopted while the owner may still send"
        );
        Arc::new(Self {
            replica,
            clock,
            options,
            seen: Mutex::default(),
        })
    }

    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    pub fn options(&self) -> LivenessOptions {
        self.options
    }

    /// Beats until the task is aborted. The store keeps a connection for this alone, so that load cannot starve it.
    pub async fn run(self: Arc<Self>, store: Arc<dyn Store>) {
        let mut ticks = tokio::time::interval(self.options.beat_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat_once(&*store).await;
        }
    }

    /// One beat: `true` if it was confirmed.
    pub async fn beat_once(&self, store: &dyn Store) -> bool {
        let sent = self.clock.tick();
        // A beat that takes longer than the allowed gap proves nothing any more; a fresh one may.
        match tokio::time::timeout(self.options.gap_max, store.beat(self.replica)).await {
            Ok(Ok(others)) => {
                self.confirmed(sent, &others);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "heartbeat not confirmed"
                );
                false
            }
            Err(_) => {
                tracing::warn!("heartbeat not confirmed within {:?}", self.options.gap_max);
                false
            }
        }
    }

    fn confirmed(&self, sent: Tick, others: &[Heartbeat]) {
        let now = self.clock.tick();
        let mut seen = self.seen();
        // From the sending of the last one, for it may have been committed then, to the confirmation of this one, for it may
        // have been committed only now: so long the counter may have stood still for others.
        let continues = seen
            .confirmed
            .is_some_and(|last| now.since(last) <= self.options.gap_max);
        if !continues {
            // After a gap only what is recorded from now on: until this beat was in the ledger others could adopt.
            seen.unbroken_since = Some(now);
        }
        seen.confirmed = Some(sent);
        let known = std::mem::take(&mut seen.others);
        seen.others = others
            .iter()
            .filter(|other| other.replica != self.replica)
            .map(|&Heartbeat { replica, beat }| {
                let other = match known.get(&replica) {
                    Some(&same) if same.beat == beat => same,
                    _ => Other { beat, moved: now },
                };
                (replica, other)
            })
            .collect();
    }

    /// Whether a first byte may leave for something recorded (or counted) at `since`.
    pub fn vouches_since(&self, since: Tick) -> Result<(), NotSent> {
        let now = self.clock.tick();
        let seen = self.seen();
        let fresh = seen
            .confirmed
            .is_some_and(|last| now.since(last) <= self.options.gap_max);
        let unbroken = seen.unbroken_since.is_some_and(|start| start <= since);
        if fresh && unbroken {
            Ok(())
        } else {
            Err(NotSent::HeartbeatLost)
        }
    }

    /// Whether this process has beaten without a gap for as long as an adopter must.
    pub fn may_adopt(&self) -> bool {
        let now = self.clock.tick();
        let seen = self.seen();
        let fresh = seen
            .confirmed
            .is_some_and(|last| now.since(last) <= self.options.gap_max);
        fresh
            && seen.unbroken_since.is_some_and(|start| {
                now.since(start) >= self.options.silent_after || sabotaged!(AdoptAfterOutage)
            })
    }

    /// The replicas that were silent while this one was not, each with the counter at which it was seen standing: by the time
    /// it is read here it may have moved. Empty unless [`Self::may_adopt`].
    pub fn silent(&self) -> Vec<Heartbeat> {
        if !self.may_adopt() {
            return Vec::new();
        }
        let now = self.clock.tick();
        let seen = self.seen();
        let Some(unbroken_since) = seen.unbroken_since else {
            return Vec::new();
        };
        #[cfg(feature = "sabotage")]
        let unbroken_since = crate::sabotage::since_ever(unbroken_since);
        let silent =
            |other: &Other| now.since(other.moved.max(unbroken_since)) >= self.options.silent_after;
        let mut replicas: Vec<Heartbeat> = seen
            .others
            .iter()
            .filter(|(_, other)| silent(other))
            .map(|(&replica, &Other { beat, .. })| Heartbeat { replica, beat })
            .collect();
        replicas.sort_unstable_by_key(|silent| silent.replica);
        replicas
    }

    /// A first beat was confirmed, and the last one recently.
    pub fn is_beating(&self) -> bool {
        self.vouches_since(self.clock.tick()).is_ok()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
