//! One replica's way to a lock that all share, and that may lose any lease at any moment.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::lock::{Acquired, LocalLock, Lock, LockError};

use super::dice::SharedDice;
use super::faults::FaultKind;
use super::log::Place;
use super::plan::Trouble;
use super::world::World;

/// The lock that all replicas ask. A lost lease is a name that is called otherwise from then on.
#[derive(Debug, Default)]
pub(super) struct SharedLock {
    lock: LocalLock,
    /// Raised when all leases are forgotten, and by each that is lost.
    era: AtomicU64,
    /// Names that a replica asked for last, to be kept by the dead.
    asked: Mutex<Vec<(usize, String)>>,
}

impl SharedLock {
    pub(super) fn flush(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    fn name(&self, name: &str) -> String {
        format!("{name}#{}", self.era.load(Ordering::Relaxed))
    }

    /// What a dead replica asked for stays taken: nobody gives it back.
    pub(super) fn squat(self: &Arc<Self>, replica: usize, lease: Duration) -> usize {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = asked
            .extract_if(.., |(by, _)| *by == replica)
            .map(|(_, name)| name)
            .collect();
        drop(asked);
        let count = names.len();
        for name in names {
            let lock = Arc::clone(self);
            tokio::spawn(async move {
                let name = lock.name(&name);
                let kept = lock.lock.acquire(&name, lease, Duration::ZERO).await;
                tokio::time::sleep(lease).await;
                drop(kept);
            });
        }
        count
    }
}

pub(super) struct LockWay {
    pub(super) world: Arc<World>,
    pub(super) place: Place,
    pub(super) dice: SharedDice,
}

impl fmt::Debug for LockWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockWay of {}", self.place)
    }
}

impl LockWay {
    fn is_away(&self) -> bool {
        let now = self.world.log.now();
        let away = Trouble::LockAway;
        self.world.troubles(away, self.place.replica, now).is_some()
    }
}

#[async_trait]
impl Lock for LockWay {
    async fn acquire(&self, name: &str, lease: Duration, wait: Duration) -> Acquired {
        if self.is_away() {
            self.world.struck(FaultKind::LockAway, Some(self.place));
            return Acquired::Unavailable(LockError::Down);
        }
        let shared = &self.world.lock;
        {
            let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() > 8 {
                asked.remove(0);
            }
            asked.push((self.place.replica, name.to_owned()));
        }
        let odds = self.world.odds();
        let (lost, lease) = self.dice.with(|dice| {
            let lost = dice.chance(odds.lock);
            (lost, if lost { dice.millis(0, 500) } else { lease })
        });
        if lost {
            self.world.struck(FaultKind::LockLost, Some(self.place));
        }
        shared.lock.acquire(&shared.name(name), lease, wait).await
    }

    fn is_up(&self) -> bool {
        !self.is_away()
    }
}
