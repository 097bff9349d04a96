//! The life of connections: how they end, what replaces them, and that no call notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway_core::clock::{Clock, ManualClock, SystemClock, Tick};
use gateway_upstream::pool::{ConnectionInfo, Pool, PoolConfig, PoolMetrics};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::server::{Log, Peer, Server};
use super::{CountingResolver, config, pool_with, post_open, text};

/// The value of a counter of the one pool.
fn counter(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("writing to a string");
    let wanted = format!("upstream_pool_{name}");
    let values = text
        .lines()
        .filter(|line| line.starts_with(&wanted))
        .filter_map(|line| line.rsplit(' ').next());
    values
        .map(|value| value.parse::<u64>().expect("a count"))
        .sum()
}

fn fullest_window(infos: &[ConnectionInfo], window: Duration) -> usize {
    let held = |from: Tick| {
        infos
            .iter()
            .filter(move |info| info.planned_end >= from && info.planned_end <= from + window)
    };
    infos
        .iter()
        .map(|info| held(info.planned_end).count())
        .max()
        .unwrap_or(0)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Calls without a pause until told to stop; the count of those that got no answer.
fn caller(
    pool: &Arc<Pool>,
    stop: &Arc<AtomicBool>,
    failed: &Arc<AtomicUsize>,
) -> tokio::task::JoinHandle<()> {
    let (pool, stop, failed) = (Arc::clone(pool), Arc::clone(stop), Arc::clone(failed));
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            if post_open(&pool).await.result.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

/// Holds its first answers until the test opens; then serves.
async fn server_that_holds(open: &watch::Sender<bool>) -> Server {
    let open = open.subscribe();
    Server::start(move |mut peer: Peer| {
        let mut open = open.clone();
        async move {
            peer.request().await;
            open.wait_for(|open| *open)
                .await
                .expect("the test holds it");
            peer.answer("200 OK", "held").await;
            peer.serve().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_steady_load_connections_are_replaced_before_they_end_and_no_call_waits_or_fails() {
    const CALLERS: usize = 8;
    let age_max = Duration::from_secs(6);
    let age_margin = Duration::from_secs(1);
    let server = Server::start(|mut peer: Peer| async move {
        while peer.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(3)).await;
            peer.answer("200 OK", "ok").await;
        }
    })
    .await;
    let resolver = CountingResolver::new(server.address);
    let settings = PoolConfig {
        age_max,
        age_margin,
        idle_max: Duration::from_secs(3),
        connections_max: CALLERS,
        resolver: resolver.clone(),
        ..config("http://processor.test".parse().expect("a URI"))
    };
    let mut registry = Registry::default();
    let clock = SystemClock;
    let pool = Pool::new(
        settings,
        Arc::new(clock),
        &PoolMetrics::register(&mut registry),
    )
    .expect("settings that fit");
    let (stop, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| caller(&pool, &stop, &failed))
        .collect();
    until("all callers have a connection", || {
        pool.snapshot().len() >= CALLERS
    })
    .await;
    let waited_at_start = counter(&registry, "waited_total");

    let began = Instant::now();
    let mut seen: BTreeMap<u64, ConnectionInfo> = BTreeMap::new();
    let mut open_max = 0;
    while began.elapsed() < age_max + age_max / 2 {
        let now = clock.tick();
        let infos = pool.snapshot();
        assert!(
            fullest_window(&infos, age_max / 300) <= 2,
            "too many ends together: {infos:?}"
        );
        for info in &infos {
            assert!(
                info.planned_end + age_margin <= info.born + age_max,
                "an end too late: {info:?}"
            );
            // A call may be running on it, for its timeout at most; none of these takes half a second.
            assert!(
                now < info.planned_end + age_margin / 2,
                "still open after its end: {info:?}"
            );
        }
        open_max = open_max.max(infos.len());
        for info in infos {
            let before = seen.insert(info.id, info.clone());
            let unchanged = before.is_none_or(|before| before.planned_end == info.planned_end);
            assert!(unchanged, "an end is drawn once");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waited = counter(&registry, "waited_total") - waited_at_start;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no panic");
    }

    assert_eq!(failed.load(Ordering::Relaxed), 0, "a failed call");
    assert_eq!(waited, 0, "a call that waited for a connection");
    let opened = server.connection_count();
    assert!(
        opened > 2 * CALLERS,
        "{opened} connections: every first one must have been replaced"
    );
    assert!(
        open_max > CALLERS,
        "a replacement is open beside the old one"
    );
    assert_eq!(
        resolver.asked(),
        opened,
        "DNS asked again for each connection"
    );
    server.read(|log| {
        for seen in &log.connections {
            // The latest ones may not have been needed before the callers stopped.
            let Some((latest, _)) = seen.requests.last() else {
                continue;
            };
            let age = latest.duration_since(seen.accepted);
            // It was younger still when the request began; the rest is travel.
            assert!(
                age + age_margin / 2 < age_max,
                "a request arrived at the age of {age:?}"
            );
        }
    });
}

#[tokio::test]
async fn no_request_starts_on_a_connection_past_its_end() {
    let server = Server::start(Peer::serve).await;
    let clock = Arc::new(ManualClock::running());
    let pool = pool_with(config(server.base()), clock.clone());
    assert_eq!(text(&post_open(&pool).await), "0/1");
    let [first] = &pool.snapshot()[..] else {
        panic!("one connection")
    };
    assert_eq!(first.requests, 1);
    // Used all the time, so that its idle limit is not what ends it.
    while clock.tick() < first.planned_end {
        clock.advance(Duration::from_secs(10));
        if clock.tick() < first.planned_end {
            assert!(text(&post_open(&pool).await).starts_with("0/"));
        }
    }
    assert_eq!(text(&post_open(&pool).await), "1/1");
    server.until(|log| log.connections[0].ended.is_some()).await;
}

#[tokio::test]
async fn a_call_under_way_at_the_end_is_finished_and_then_the_connection_closes() {
    let (open, _) = watch::channel(false);
    let server = server_that_holds(&open).await;
    let clock = Arc::new(ManualClock::running());
    let pool = pool_with(config(server.base()), clock.clone());
    let (exchange, ()) = tokio::join!(post_open(&pool), async {
        server
            .until(|log| {
                log.connections
                    .first()
                    .is_some_and(|seen| seen.requests.len() == 1)
            })
            .await;
        clock.advance(Duration::from_secs(299));
        open.send_replace(true);
    });
    assert_eq!(text(&exchange), "held");
    server.until(|log| log.connections[0].ended.is_some()).await;
    assert_eq!(server.request_count(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed_by_us_before_the_processor_does() {
    let closed_by_processor = Arc::new(AtomicUsize::new(0));
    let server = {
        let closed_by_processor = Arc::clone(&closed_by_processor);
        Server::start(move |mut peer: Peer| {
            let closed_by_processor = Arc::clone(&closed_by_processor);
            async move {
                let limit = Duration::from_millis(1_500);
                loop {
                    match tokio::time::timeout(limit, peer.request()).await {
                        Ok(Some(_)) => peer.answer("200 OK", "ok").await,
                        Ok(None) => return,
                        Err(_) => {
                            closed_by_processor.fetch_add(1, Ordering::Relaxed);
                            return peer.close().await;
                        }
                    }
                }
            }
        })
        .await
    };
    let settings = PoolConfig {
        age_max: Duration::from_secs(9),
        age_margin: Duration::from_secs(2),
        idle_max: Duration::from_millis(300),
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    let ended = |log: &Log| {
        let ended = log.connections.iter().filter(|one| one.ended.is_some());
        ended.count()
    };
    for _ in 0..6 {
        let calls = (0..6).map(|_| post_open(&pool));
        for exchange in futures_util::future::join_all(calls).await {
            exchange.result.expect("no call fails");
        }
        // What a burst needs idles, until the limit is seen to strike.
        let before = server.read(ended);
        server.until(|log| ended(log) > before).await;
    }
    assert_eq!(closed_by_processor.load(Ordering::Relaxed), 0);
    assert!(
        server.connection_count() > 6,
        "idle ones were closed and replaced"
    );
}

#[tokio::test]
async fn what_a_burst_opened_is_given_up_when_it_does_not_come_back() {
    let (open, _) = watch::channel(false);
    let server = server_that_holds(&open).await;
    let settings = PoolConfig {
        age_max: Duration::from_secs(3),
        age_margin: Duration::from_secs(1),
        idle_max: Duration::from_millis(200),
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    let burst = futures_util::future::join_all((0..16).map(|_| post_open(&pool)));
    let (exchanges, ()) = tokio::join!(burst, async {
        server
            .until(|log| {
                log.connections
                    .iter()
                    .filter(|seen| seen.requests.len() == 1)
                    .count()
                    == 16
            })
            .await;
        open.send_replace(true);
    });
    assert!(exchanges.iter().all(|exchange| text(exchange) == "held"));
    let began = Instant::now();
    while pool.snapshot().len() > 2 {
        post_open(&pool).await.result.expect("no call fails");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "still warm: {:?}",
            pool.snapshot()
        );
    }
}

#[tokio::test]
async fn connections_asked_for_ahead_of_use_are_there_without_any() {
    let server = Server::start(Peer::serve).await;
    let settings = PoolConfig {
        warm_min: 3,
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    until("three are open", || pool.snapshot().len() == 3).await;
    assert_eq!(server.request_count(), 0);
}

#[tokio::test]
async fn a_pool_that_is_dropped_closes_its_connections() {
    let server = Server::start(Peer::serve).await;
    let pool = pool_with(config(server.base()), Arc::new(SystemClock));
    post_open(&pool).await.result.expect("an answer");
    drop(pool);
    server.until(|log| log.connections[0].ended.is_some()).await;
}

#[tokio::test]
async fn an_idle_limit_that_the_processor_announces_is_kept() {
    let server = Server::start(|mut peer: Peer| async move {
        while peer.request().await.is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nkeep-alive: timeout=4, max=100\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
        }
    })
    .await;
    let clock = Arc::new(ManualClock::running());
    let pool = pool_with(config(server.base()), clock.clone());
    post_open(&pool).await.result.expect("an answer");
    clock.advance(Duration::from_secs(3));
    post_open(&pool).await.result.expect("an answer");
    assert_eq!(
        server.connection_count(),
        2,
        "three quarters of four seconds have passed"
    );
}
