//! The lock of a single process: a fair queue with the same leases as Redis gives.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{self, BoxFuture};
use tokio::time::{Instant, timeout_at};

use super::names::{InUse, Names};
use super::{Acquired, Guard, Hold, Lock};

/// Who holds a name, by grant number, and until when.
#[derive(Debug, Default)]
struct Holder {
    current: Option<(u64, Instant)>,
    grants: u64,
}

/// A [`Lock`] among the tasks of one process; clones of its `Arc` share it.
#[derive(Debug)]
pub struct LocalLock {
    names: Names<Holder>,
}

impl LocalLock {
    pub fn new() -> Self {
        Self {
            names: Names::new(),
        }
    }
}

impl Default for LocalLock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Lock for LocalLock {
    async fn acquire(&self, name: &str, lease: Duration, wait: Duration) -> Acquired {
        let until = Instant::now() + wait;
        let slot = self.names.enter(name);
        let head = timeout_at(until, slot.queue.lock()).await;
        if head.is_err() {
            return Acquired::Busy;
        }
        loop {
            let now = Instant::now();
            let held_until = {
                let mut holder = slot.state();
                match holder.current {
                    Some((_, end)) if end > now => end,
                    _ => {
                        holder.grants += 1;
                        let grant = holder.grants;
                        holder.current = Some((grant, now + lease));
                        drop(holder);
                        drop(head);
                        return Acquired::Held(Guard::new(LocalHold { slot, grant }));
                    }
                }
            };
            if now >= until {
                return Acquired::Busy;
            }
            // Either way the loop looks again: a wake-up may be left over from an earlier holder.
            let _ = timeout_at(held_until.min(until), slot.freed.notified()).await;
        }
    }

    fn is_up(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct LocalHold {
    slot: InUse<Holder>,
    grant: u64,
}

impl Hold for LocalHold {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(future::ready(()))
    }
}

impl Drop for LocalHold {
    fn drop(&mut self) {
        {
            let mut holder = self.slot.state();
            if holder.current.is_some_and(|(grant, _)| grant == self.grant) {
                holder.current = None;
            }
        }
        self.slot.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::contract;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_local_lock_keeps_the_contract() {
        let lock = Arc::new(LocalLock::new());
        contract::run(&contract::Pair {
            one: lock.clone(),
            other: lock.clone(),
        })
        .await;
        assert_eq!(
            lock.names.len(),
            0,
            "a name nobody uses leaves nothing behind"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_served_in_the_order_they_came() {
        let lock = Arc::new(LocalLock::new());
        let Acquired::Held(guard) = lock
            .acquire("n", Duration::from_mins(1), Duration::ZERO)
            .await
        else {
            panic!("nobody else asks")
        };
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for place in 0..10 {
            let (lock, sender) = (Arc::clone(&lock), sender.clone());
            let task = tokio::spawn(async move {
                let acquired = lock
                    .acquire("n", Duration::from_mins(1), Duration::from_mins(1))
                    .await;
                assert!(matches!(acquired, Acquired::Held(_)));
                sender.send(place).expect("the test still listens");
            });
            tokio::task::yield_now().await;
            drop(task);
        }
        guard.release().await;
        for place in 0..10 {
            assert_eq!(order.recv().await, Some(place));
        }
    }
}
