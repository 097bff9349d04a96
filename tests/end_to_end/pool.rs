//! Connections to the processor as payments meet them: they end in good order, and no payment notices.

mod load;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway_http::assemble::Seams;
use gateway_upstream::pool::Resolve;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::tls::LoopbackTls;
use sandbox::simulators::{ConnectionRecord, Moment, Options, Selector};
use sandbox::stack::{Stalls, eventually, unix_ms};
use sandbox::world::{Caller, Reply, Running, World, sale};
use tokio::time::interval;

use self::load::Load;

const CONNECTIONS: usize = 32;
/// Ten times faster than in production.
const AGE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
/// A replacement is opened so long before the end of what it replaces.
const LEAD: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);
/// In which each of the payers is answered once, or all of them at once.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds, or ends of connections, to judge at the least.
const JUDGED_MIN: usize = 10;
/// What a machine may stand still at once without costing a replacement its lead.
const STALL_MAX: Duration = Duration::from_millis(125);

/// How long the steady load lasts: two minutes, in which every connection is replaced four times. The bursts last half of
/// it. A developer in a hurry may shorten it.
fn load_lasts() -> Duration {
    let seconds = std::env::var("POOL_LOAD_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("POOL_LOAD_SECONDS is a number"));
    let lasts = Duration::from_secs(seconds.unwrap_or(120));
    assert!(
        lasts > 2 * AGE,
        "POOL_LOAD_SECONDS: in half of {lasts:?} no connection reaches its age of {AGE:?}"
    );
    lasts
}

/// Whether enough was judged, and more than was excused.
fn are_most(judged: usize, of: usize) -> bool {
    judged >= JUDGED_MIN && judged * 2 > of
}

/// Leads every name to one address, and counts how often it was asked.
#[derive(Debug)]
struct CountingResolver {
    address: SocketAddr,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Resolve for CountingResolver {
    async fn resolve(&self, _: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(vec![self.address])
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("shorter than the universe")
}

fn opened_at(connection: &ConnectionRecord) -> u64 {
    u64::try_from(connection.opened_at_ms).expect("after 1970")
}

fn closed_at(connection: &ConnectionRecord) -> Option<u64> {
    Some(opened_at(connection) + connection.closed_after_ms?)
}

fn is_open(connection: &ConnectionRecord) -> bool {
    connection.ended_by.is_none()
}

async fn metric(shop: &Caller, name: &str) -> u64 {
    let text = shop.get("/metrics").await.expect(200).bytes;
    let text = String::from_utf8(text).expect("text");
    let values = text.lines().filter(|line| line.starts_with(name));
    let values = values.filter_map(|line| line.rsplit(' ').next());
    values
        .map(|value| value.parse::<u64>().expect("a count"))
        .sum()
}

/// So many payments at once, each on a connection of its own: all are on the wire before the first is answered.
async fn pay_at_once(world: &World, shop: &Caller, prefix: &str, count: usize) -> Vec<Reply> {
    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(Moment::BeforeCommit, Selector::verb(verb::SALE));
    let payments = (0..count).map(|number| {
        let (shop, key) = (shop.clone(), format!("{prefix}-{number}"));
        async move { shop.pay(&key, &sale(10_00)).await }
    });
    let paying = tokio::spawn(join_all(payments));
    gate.reached(count).await.expect("all on the wire");
    gate.release();
    paying.await.expect("no panic")
}

/// A gateway with a pool that ages ten times as fast, over TLS.
struct Scene {
    world: World,
    shop: Caller,
    stalls: Stalls,
    resolver: Arc<CountingResolver>,
    _gateway: Running,
}

impl Scene {
    async fn new(warm_min: usize) -> Self {
        let tls = LoopbackTls::new().expect("a certificate");
        let mut world = World::on_postgres(Options {
            idle_limit: Some(Duration::from_secs(15)),
            tls: Some(tls.server),
            ..Options::default()
        })
        .await;
        let roots = world.folder().join("roots.pem");
        std::fs::write(&roots, tls.root_pem).expect("a file");
        world.config.connections_per_host = Some(CONNECTIONS + 1);
        world.config.connect_timeout = "4s".into();
        world.config.upstream_timeout = format!("{}s", TIMEOUT.as_secs());
        world.config.wait_max = "10s".into();
        world.config.horizon = "20s".into();
        world.config.more_account = format!(
            "connection_age_max = \"{}s\"\nconnection_idle_max = \"12s\"\nwarm_min = {warm_min}\n\
             concurrency_max = {CONNECTIONS}\n\
             keep_alive_headers = true\nca_file = \"{}\"",
            AGE.as_secs(),
            roots.display()
        );
        world.config.connexpay_url = world.config.connexpay_url.replace("127.0.0.1", "localhost");
        let resolver = Arc::new(CountingResolver {
            address: world.simulators.address(),
            asked: AtomicUsize::default(),
        });
        let seams = Seams {
            resolver: Arc::clone(&resolver) as _,
            ..Seams::default()
        };
        let gateway = world.gateway_with(seams).await;
        Self {
            shop: world.caller(&gateway.url),
            stalls: Stalls::watch(),
            resolver,
            world,
            _gateway: gateway,
        }
    }

    /// How many calls did not find a connection that was ready.
    async fn waited(&self) -> u64 {
        metric(&self.shop, "upstream_pool_waited_total").await
    }

    /// What must hold whatever the load was; `quiet` tells when no stall of the machine disturbed it.
    async fn assert_orderly(
        &self,
        from: u64,
        to: u64,
        sent: usize,
        quiet: impl Fn(u64, u64) -> bool,
    ) {
        let connections = self.world.simulators.connections();
        for name in ["connections_failed", "attempts_repeated", "waiters_refused"] {
            let count = metric(&self.shop, &format!("upstream_pool_{name}_total")).await;
            assert_eq!(count, 0, "{name}");
        }
        let received = self
            .world
            .simulators
            .connexpay()
            .request_count_of(verb::SALE);
        assert_eq!(received, sent as u64, "each payment was sent once");
        assert_in_time(&self.world, &connections, &self.stalls, from, to);
        assert_one_by_one(&connections, &self.stalls, from, to);
        assert_replaced_before(&connections, quiet, from, to);
        let resolved = eventually(PATIENCE, "a question for each connection", async || {
            let opened = self.world.simulators.connections().len();
            (self.resolver.asked.load(Ordering::Relaxed) == opened).then_some(())
        });
        resolved.await.expect("asked again for each");
        self.world.audit().await;
    }
}

/// Promise: under bursts every connection ends in time and alone, after its replacement is open; no payment fails or waits
/// for a connection, and the name is resolved again for each.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_replaced_in_time_and_one_by_one_and_no_payment_notices() {
    let scene = Scene::new(CONNECTIONS).await;
    let warm =
        |all: &[ConnectionRecord]| all.iter().filter(|one| is_open(one)).count() >= CONNECTIONS;
    let warmed = scene.world.simulators.wait_for_connections(warm).await;
    warmed.expect("connections are opened ahead of use");

    let (began, lasts) = (Instant::now(), load_lasts() / 2);
    let from = unix_ms();
    let mut pace = interval(ROUND);
    let (mut rounds, mut judged, mut waited) = (0, 0, scene.waited().await);
    while began.elapsed() < lasts || !are_most(judged, rounds) && began.elapsed() < 2 * lasts {
        let since = unix_ms() - millis(LEAD);
        pace.tick().await;
        let prefix = rounds.to_string();
        for reply in pay_at_once(&scene.world, &scene.shop, &prefix, CONNECTIONS).await {
            reply.expect(201);
        }
        rounds += 1;
        let waiting = scene.waited().await - waited;
        waited += waiting;
        let stall = scene.stalls.longest(since, unix_ms());
        println!("round {rounds}: {waiting} waited, stalls {stall:?}");
        if stall <= STALL_MAX {
            judged += 1;
            assert_eq!(waiting, 0, "payments of round {rounds} waited");
        }
    }
    assert!(
        are_most(judged, rounds),
        "in {judged} of {rounds} rounds the machine ran: too few to judge"
    );
    let sent = rounds * CONNECTIONS;
    let quiet = |from, to| scene.stalls.longest(from, to) <= STALL_MAX;
    scene.assert_orderly(from, unix_ms(), sent, quiet).await;
}

/// Promise: so it is where the load alone says how many are kept, under payments that come one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_steady_load_needs_is_kept_open_and_replaced() {
    let scene = Scene::new(2).await;
    // From when on all of them are open.
    let from = unix_ms() + millis(2 * ROUND);
    let load = Load::new(&scene);
    let payers =
        (0..CONNECTIONS).map(|number| load.pay_in_turn(u32::try_from(number).expect("few")));
    let ((), (), to) = tokio::join!(
        async { drop(join_all(payers).await) },
        load.watch(),
        load.judge_rounds(),
    );
    let sent = load.answered.load(Ordering::Relaxed);
    let quiet = |from, to| !load.was_disturbed(from, to);
    scene.assert_orderly(from, to, sent, quiet).await;
}

/// No request starts on a connection older than its age less the timeout, and none outlives its age.
fn assert_in_time(
    world: &World,
    connections: &[ConnectionRecord],
    stalls: &Stalls,
    from: u64,
    to: u64,
) {
    // The head travels.
    let limit = millis(AGE) - millis(TIMEOUT) + 100;
    for request in world.simulators.connexpay().requests() {
        let arrived = u64::try_from(request.at_ms).expect("after 1970");
        let stall = stalls.longest(arrived.saturating_sub(1_000), arrived);
        assert!(
            request.connection_age_ms <= limit + millis(stall),
            "a request on a connection of {} ms, where the machine stood still for {stall:?}",
            request.connection_age_ms
        );
        assert_eq!(request.headers["keep-alive"], "timeout=30");
    }
    for connection in connections {
        let age = connection
            .closed_after_ms
            .unwrap_or_else(|| unix_ms() - opened_at(connection));
        assert!(age <= millis(AGE), "{connection:?}");
        assert!(
            matches!(connection.ended_by, None | Some("caller")),
            "ended by the processor: {connection:?}"
        );
    }
    // All of the first ones are gone, and the later ones lived as long as they may.
    let lives = millis(AGE) - millis(TIMEOUT);
    let generations = usize::try_from((to - from) / lives).expect("few");
    assert!(
        connections.len() > CONNECTIONS * generations,
        "only {} connections in {} ms",
        connections.len(),
        to - from
    );
}

/// Any window of a three-hundredth of the age holds at most two ends.
fn assert_one_by_one(connections: &[ConnectionRecord], stalls: &Stalls, from: u64, to: u64) {
    let window = millis(AGE) / 300;
    // What an end may come late, and the processor see it late, without a stall that is noted.
    let seen_late = 40;
    let mut ends: Vec<u64> = connections.iter().filter_map(closed_at).collect();
    ends.retain(|end| (from..=to).contains(end));
    ends.sort_unstable();
    for (first, begins) in ends.iter().enumerate() {
        let held = ends[first..]
            .iter()
            .take_while(|end| **end < begins + window - seen_late);
        // Ends that came due while nothing ran are seen together afterwards.
        let stall = millis(stalls.longest(begins.saturating_sub(window), begins + window + 500));
        let most = 2 * (1 + usize::try_from(stall.div_ceil(window)).expect("few"));
        assert!(
            held.clone().count() <= most,
            "together: {:?}",
            held.collect::<Vec<_>>()
        );
    }
}

/// Whenever one ends, as many as are wanted stay open.
fn assert_replaced_before(
    connections: &[ConnectionRecord],
    quiet: impl Fn(u64, u64) -> bool,
    from: u64,
    to: u64,
) {
    let (mut most, mut ends, mut judged) = (0, 0, 0);
    for end in connections.iter().filter_map(closed_at) {
        if !(from..=to).contains(&end) {
            continue;
        }
        ends += 1;
        if !quiet(end.saturating_sub(millis(2 * LEAD)), end + 500) {
            continue;
        }
        judged += 1;
        let open_after = connections.iter().filter(|other| {
            opened_at(other) <= end && closed_at(other).is_none_or(|other_end| other_end > end)
        });
        let open_after = open_after.count();
        assert!(open_after >= CONNECTIONS, "{open_after} left open at {end}");
        let opened = connections.iter().filter(|other| {
            opened_at(other) < end && closed_at(other).is_none_or(|other_end| other_end >= end)
        });
        most = most.max(opened.count());
    }
    assert!(
        are_most(judged, ends),
        "{judged} of {ends} ends: too few to judge"
    );
    assert!(
        most > CONNECTIONS,
        "a replacement is open beside what it replaces: {most}"
    );
}

/// Promise: a connection that idles is closed here before the processor closes it, and the next payment gets a new one.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_before_the_processor_closes_them() {
    const AT_ONCE: usize = 8;
    let mut world = World::on_postgres(Options {
        idle_limit: Some(Duration::from_secs(3)),
        ..Options::default()
    })
    .await;
    world.config.upstream_timeout = "5s".into();
    world.config.wait_max = "10s".into();
    world.config.horizon = "20s".into();
    world.config.more_account =
        "connection_age_max = \"30s\"\nconnection_idle_max = \"1s\"\nwarm_min = 0".into();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    for round in 1..=3 {
        for reply in pay_at_once(&world, &shop, &round.to_string(), AT_ONCE).await {
            reply.expect(201);
        }
        let ended = |all: &[ConnectionRecord]| {
            all.len() >= AT_ONCE * round && all.iter().all(|one| one.ended_by.is_some())
        };
        let ended = world.simulators.wait_for_connections(ended).await;
        for connection in ended.expect("all of them idle out") {
            assert_eq!(connection.ended_by, Some("caller"), "{connection:?}");
        }
    }
    let idled = metric(
        &shop,
        "upstream_pool_connections_closed_total{pool=\"acme-us\",reason=\"Idle\"}",
    );
    assert!(idled.await >= 3 * AT_ONCE as u64);
    assert_eq!(
        world.simulators.connexpay().request_count_of(verb::SALE),
        3 * AT_ONCE as u64
    );
    world.audit().await;
}

/// Promise: payments that hang hold no connection that a reversal needs, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_hang_a_reversal_still_gets_a_connection() {
    // As many as the account sends at once, by default.
    const HANGING: usize = 64;
    let mut world = World::new().await;
    world.config.set_spans("20s", "30s", "1m");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.pay("earlier", &sale(20_00)).await.expect(201);

    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(Moment::BeforeCommit, Selector::verb(verb::SALE));
    let hanging = (0..HANGING).map(|number| {
        let shop = shop.clone();
        async move { shop.pay(&format!("hang-{number}"), &sale(10_00)).await }
    });
    let hanging = tokio::spawn(join_all(hanging));
    gate.reached(HANGING).await.expect("all on the wire");
    shop.cancel("earlier").await.expect(201);
    let undone = eventually(Duration::from_secs(10), "the reversal", async || {
        let cancellation = shop.cancel("earlier").await.expect(201);
        (cancellation.body["state"] == "done").then_some(())
    });
    undone.await.expect("undone while all others hang");
    assert_eq!(connexpay.books().net(), 0);

    gate.release();
    for reply in hanging.await.expect("no panic") {
        reply.expect(201);
    }
    world.audit().await;
}
