//! A lease on a name, so that callers do not do the same work twice.
//!
//! **It only saves work; the ledger decides.** A lock queues the follow-ups of one payment and makes one replica
//! refresh a token. Nothing that moves money may be safe only because a lock was held: a lease ends while its holder
//! is paused, a Redis fails over without the key, and with the lock away every caller proceeds.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod local;
mod names;
mod redis;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub use local::LocalLock;
pub use redis::{RedisLock, RedisLockOptions};

/// A lease on a name: in Redis for many replicas, in this process for one.
#[async_trait]
pub trait Lock: Send + Sync + Debug {
    /// Asks for `name` until it is granted or `wait` is over; `wait` zero asks once. The grant ends by itself after
    /// `lease`. Dropping the future gives back whatever it was about to be granted.
    async fn acquire(&self, name: &str, lease: Duration, wait: Duration) -> Acquired;

    /// Whether the last thing heard from the lock was good, for `/readyz` and the metric. Touches no network.
    fn is_up(&self) -> bool;
}

/// What became of asking for a lock.
#[derive(Debug)]
pub enum Acquired {
    /// Granted, for the lease at most.
    Held(Guard),
    /// Somebody else held it for the whole wait.
    Busy,
    /// The lock cannot be asked. The caller goes on without it: the ledger decides.
    Unavailable(LockError),
}

impl Acquired {
    /// The guard to keep while working, whether granted or not: for callers that proceed in every case.
    pub fn guard(self) -> Option<Guard> {
        match self {
            Self::Held(guard) => Some(guard),
            Self::Busy | Self::Unavailable(_) => None,
        }
    }
}

/// Why the lock cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The configured address is none. The text of the address is left out: it may hold a password.
    #[error("the lock's address is not usable: {reason}")]
    Address { reason: String },
    #[error("the lock's password cannot be read: {reason}")]
    Password { reason: String },
    /// The last contact failed and the connection is being made again; no network was touched.
    #[error("the lock is down")]
    Down,
    /// It took the question and did not answer.
    #[error("the lock did not answer within {waited:?}")]
    Silent { waited: Duration },
    /// It answered with an error, or the connection broke.
    #[error("the lock failed")]
    Failed(#[source] ::redis::RedisError),
}

/// A granted lock. Given back by [`Guard::release`], or on drop in a task of its own, without a promise.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once locks nothing"]
pub struct Guard {
    hold: Box<dyn Hold>,
}

impl Guard {
    fn new(hold: impl Hold + 'static) -> Self {
        Self {
            hold: Box::new(hold),
        }
    }

    /// Gives the lock back, if it is still ours: a lease that has passed to somebody else stays theirs.
    pub async fn release(self) {
        self.hold.release().await;
    }
}

/// One grant of one implementation; its `Drop` gives it back as far as that is possible without waiting.
trait Hold: Debug + Send + Sync {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}
