//! What every [`Lock`] promises, as tests that each implementation runs.
//!
//! Names are drawn anew for each run, so that a Redis may be shared and need not be empty.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{Acquired, Guard, Lock};

/// Longer than any test runs: whatever is granted under it was not granted because a lease ended.
const LONG: Duration = Duration::from_mins(2);

/// Two doors to the same lock: two processes, or the same object twice.
#[derive(Debug)]
pub struct Pair {
    pub one: Arc<dyn Lock>,
    pub other: Arc<dyn Lock>,
}

/// Runs the whole suite.
///
/// # Panics
/// Where the implementation breaks a promise.
pub async fn run(pair: &Pair) {
    a_free_name_is_granted_at_once_and_names_are_independent(pair).await;
    one_holder_at_a_time(pair).await;
    a_lease_that_ended_lets_another_in(pair).await;
    a_stale_release_leaves_the_new_owner_alone(pair).await;
    a_wait_ends_when_it_should(pair).await;
    a_release_lets_the_next_in_before_the_lease_ends(pair).await;
    a_dropped_guard_gives_back(pair).await;
    a_dropped_waiter_takes_nothing(pair).await;
}

fn fresh_name() -> String {
    format!("contract/{}", Uuid::now_v7())
}

fn held(acquired: Acquired) -> Guard {
    match acquired {
        Acquired::Held(guard) => guard,
        other => panic!("expected the lock, got {other:?}"),
    }
}

async fn a_free_name_is_granted_at_once_and_names_are_independent(pair: &Pair) {
    let (one, other) = (fresh_name(), fresh_name());
    let first = held(pair.one.acquire(&one, LONG, Duration::ZERO).await);
    let second = held(pair.other.acquire(&other, LONG, Duration::ZERO).await);
    assert!(matches!(
        pair.other.acquire(&one, LONG, Duration::ZERO).await,
        Acquired::Busy
    ));
    assert!(
        matches!(
            pair.one.acquire(&one, LONG, Duration::ZERO).await,
            Acquired::Busy
        ),
        "not re-entrant"
    );
    first.release().await;
    second.release().await;
    held(pair.other.acquire(&one, LONG, Duration::ZERO).await)
        .release()
        .await;
    assert!(pair.one.is_up() && pair.other.is_up());
}

async fn one_holder_at_a_time(pair: &Pair) {
    let name: Arc<str> = fresh_name().into();
    let inside = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for place in 0..50 {
        let lock = Arc::clone(if place % 2 == 0 {
            &pair.one
        } else {
            &pair.other
        });
        let (name, inside) = (Arc::clone(&name), Arc::clone(&inside));
        tasks.spawn(async move {
            let guard = held(lock.acquire(&name, LONG, LONG).await);
            assert_eq!(
                inside.fetch_add(1, Ordering::SeqCst),
                0,
                "two holders at once"
            );
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(
                inside.fetch_sub(1, Ordering::SeqCst),
                1,
                "two holders at once"
            );
            guard.release().await;
        });
    }
    let mut served = 0;
    while let Some(done) = tasks.join_next().await {
        done.expect("every task is served and alone");
        served += 1;
    }
    assert_eq!(served, 50);
}

async fn a_lease_that_ended_lets_another_in(pair: &Pair) {
    let name = fresh_name();
    let asked = Instant::now();
    let forgotten = held(
        pair.one
            .acquire(&name, Duration::from_millis(200), Duration::ZERO)
            .await,
    );
    let next = held(pair.other.acquire(&name, LONG, LONG).await);
    // Redis counts in whole milliseconds.
    assert!(
        asked.elapsed() >= Duration::from_millis(198),
        "let in after {:?}",
        asked.elapsed()
    );
    assert!(
        asked.elapsed() < LONG / 4,
        "let in after {:?}",
        asked.elapsed()
    );
    next.release().await;
    forgotten.release().await;
}

async fn a_stale_release_leaves_the_new_owner_alone(pair: &Pair) {
    let name = fresh_name();
    let stale = held(
        pair.one
            .acquire(&name, Duration::from_millis(50), Duration::ZERO)
            .await,
    );
    let owner = held(pair.other.acquire(&name, LONG, LONG).await);
    stale.release().await;
    assert!(matches!(
        pair.one.acquire(&name, LONG, Duration::ZERO).await,
        Acquired::Busy
    ));
    owner.release().await;
}

async fn a_wait_ends_when_it_should(pair: &Pair) {
    let name = fresh_name();
    let owner = held(pair.one.acquire(&name, LONG, Duration::ZERO).await);
    for lock in [&pair.one, &pair.other] {
        let asked = Instant::now();
        let wait = Duration::from_millis(150);
        assert!(matches!(
            lock.acquire(&name, LONG, wait).await,
            Acquired::Busy
        ));
        assert!(
            asked.elapsed() >= wait,
            "gave up after {:?}",
            asked.elapsed()
        );
        assert!(
            asked.elapsed() < LONG / 4,
            "gave up after {:?}",
            asked.elapsed()
        );
    }
    owner.release().await;
}

async fn a_release_lets_the_next_in_before_the_lease_ends(pair: &Pair) {
    for next in [&pair.one, &pair.other] {
        let name = fresh_name();
        let owner = held(pair.one.acquire(&name, LONG, Duration::ZERO).await);
        let waiter = next.acquire(&name, LONG, LONG);
        let (acquired, ()) = tokio::join!(timeout(LONG / 4, waiter), async {
            tokio::task::yield_now().await;
            owner.release().await;
        });
        held(acquired.expect("let in long before the lease ends"))
            .release()
            .await;
    }
}

async fn a_dropped_guard_gives_back(pair: &Pair) {
    let name = fresh_name();
    drop(held(pair.one.acquire(&name, LONG, Duration::ZERO).await));
    let next = timeout(LONG / 4, pair.other.acquire(&name, LONG, LONG)).await;
    held(next.expect("let in long before the lease ends"))
        .release()
        .await;
}

async fn a_dropped_waiter_takes_nothing(pair: &Pair) {
    for polls in 1..4 {
        let name = fresh_name();
        let owner = held(pair.one.acquire(&name, LONG, Duration::ZERO).await);
        {
            let waiter = pair.other.acquire(&name, LONG, LONG);
            tokio::pin!(waiter);
            for _ in 0..polls {
                assert!(futures_util::poll!(&mut waiter).is_pending());
                tokio::task::yield_now().await;
            }
        }
        // A name nobody holds, given up in the middle of the question.
        let free = fresh_name();
        {
            let asker = pair.other.acquire(&free, LONG, LONG);
            tokio::pin!(asker);
            let _ = futures_util::poll!(&mut asker);
        }
        owner.release().await;
        for name in [&name, &free] {
            let next = timeout(LONG / 4, pair.one.acquire(name, LONG, LONG)).await;
            held(next.expect("the dropped waiter holds nothing"))
                .release()
                .await;
        }
    }
}
