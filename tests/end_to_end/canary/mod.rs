//! Card data passes through and leaves no trace: it is sent down every path, and then looked for everywhere.

mod gateway;
mod search;
mod sinks;
mod visit;

use std::time::Duration;

use sandbox::stack::{Collector, TcpProxy, eventually};
use sandbox::world::World;

use search::Canary;
use visit::Visitor;

const PATIENCE: Duration = Duration::from_mins(1);

/// One place that was searched.
struct Place {
    name: &'static str,
    text: Vec<u8>,
}

/// Fails unless each spelling of the planted canary is found in each place, and nothing of the other in any.
fn assert_clean(places: &[Place]) {
    let (planted, sent) = (Canary::planted(), Canary::sent());
    for Place { name, text } in places {
        let found = planted.found_in(text);
        for (what, _) in planted.spellings() {
            let is_found = found
                .iter()
                .any(|found| found.starts_with(&format!("{what}: ")));
            assert!(is_found, "the search of the {name} does not find {what}");
        }
    }
    let mut left = Vec::new();
    for Place { name, text } in places {
        left.extend(
            sent.found_in(text)
                .into_iter()
                .map(|found| format!("{name}: {found}")),
        );
    }
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

/// What both kinds of gateway leave behind, apart from logs and spans.
async fn common_places(world: &World, visitor: &Visitor<'_>, url: &str) -> Vec<Place> {
    let metrics = reqwest::get(format!("{url}/metrics"))
        .await
        .expect("metrics");
    let metrics = metrics.bytes().await.expect("a body").to_vec();
    assert!(metrics.windows(13).any(|text| text == b"upstream_pool"));
    // What lies in the ledger as bytes is found as well.
    let bytes = format!("in bytes {}", Canary::planted().number);
    sinks::plant_in_ledger(world, bytes.as_bytes()).await;
    let ledger = sinks::ledger(world).await;
    let dumped = String::from_utf8_lossy(&ledger).to_ascii_lowercase();
    assert!(dumped.contains(&search::hex(bytes.as_bytes())));
    vec![
        Place {
            name: "metrics",
            text: metrics,
        },
        Place {
            name: "answers",
            text: visitor.heard.bytes(),
        },
        Place {
            name: "ledger",
            text: ledger,
        },
    ]
}

fn prepared(mut world: World) -> World {
    world.config.log = "trace".into();
    // So many failures would hold back the paths that come after them.
    world.config.more_account = "breaker.failures_max = 1000".into();
    let Canary {
        token, password, ..
    } = Canary::sent();
    world.config.connexpay_password.clone_from(&password);
    world.simulators.connexpay().change_rules(|rules| {
        rules.token_prefix = token;
        rules.password = password;
    });
    world
}

/// Sends the canary through a gateway process, and searches its log and everything else.
async fn search_log(world: World, redis_port: Option<u16>) {
    let mut world = prepared(world);
    let collector = tell_a_collector(&mut world).await;
    let redis = match redis_port {
        Some(port) => Some(sinks::listen_to_redis(port).await),
        None => None,
    };
    let options = world.process_options("canary");
    let process = gateway::start_process(world.folder(), &options).await;
    let visitor = Visitor::new(&world, &options.base_url);
    visitor.walk(true).await;
    visitor.plant(&Canary::planted()).await;
    let mut places = common_places(&world, &visitor, &options.base_url).await;
    places.push(Place {
        name: "exported spans",
        text: exported(&collector, &options.base_url).await,
    });
    let log = process.output().expect("its output").into_bytes();
    assert_said(
        &log,
        &["cannot parse [redacted]", "Cvv(***)", "a new access token"],
    );
    places.push(Place {
        name: "log",
        text: log,
    });
    if let Some(heard) = redis {
        sinks::plant_in_redis(&world.config.lock_url, &heard).await;
        let dump = sinks::redis(&world.config.lock_url).await;
        let heard = heard.bytes();
        assert_said(&heard, &["payment:", "token/"]);
        places.push(Place {
            name: "Redis dump",
            text: dump,
        });
        places.push(Place {
            name: "Redis traffic",
            text: heard,
        });
    }
    assert_clean(&places);
}

/// From now on gateways that are started hand every span to it.
async fn tell_a_collector(world: &mut World) -> Collector {
    let collector = Collector::start().await.expect("a collector");
    world.config.more = format!(
        "[telemetry.traces]\nendpoint = \"{}\"\nsampled = 1.0\n",
        collector.endpoint()
    );
    collector
}

/// What has left the process for the collector, up to a request that comes after all others.
async fn exported(collector: &Collector, url: &str) -> Vec<u8> {
    let last = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let client = reqwest::Client::builder().no_proxy().build();
    let client = client.expect("a client");
    let asked = client
        .get(format!("{url}/nowhere"))
        .header("traceparent", last);
    asked.send().await.expect("an answer");
    let told = eventually(PATIENCE, "the last span", async || {
        let spans = collector.spans();
        let mut traces = spans.iter().map(|span| &span.trace);
        traces.any(|trace| *trace == last[3..35]).then_some(())
    });
    told.await.expect("told in order");
    let bytes = collector.bytes();
    assert_said(
        &bytes,
        &[
            "POST /v1/payments",
            "POST /sales",
            "answered with a problem",
        ],
    );
    bytes
}

/// Sends the canary through a gateway of this process, and searches its spans and everything else.
async fn search_spans(world: World) {
    let world = prepared(world);
    let options = world.process_options("tapped");
    let (runtime, spans) = gateway::start_tapped(&options).await;
    let visitor = Visitor::new(&world, &options.base_url);
    visitor.walk(false).await;
    visitor.plant(&Canary::planted()).await;
    let mut places = common_places(&world, &visitor, &options.base_url).await;
    let spans = spans.bytes();
    assert_said(&spans, &["http.route=/v1/payments", "a new access token"]);
    places.push(Place {
        name: "spans",
        text: spans,
    });
    assert_clean(&places);
    runtime.shutdown_background();
}

/// The place really is where the gateway wrote.
fn assert_said(text: &[u8], expected: &[&str]) {
    let text = String::from_utf8_lossy(text);
    for expected in expected {
        assert!(text.contains(expected), "nothing says {expected:?}");
    }
}

/// Promise: no card number, security code, access token or password is left in log, metrics, answers, ledger or Redis.
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_of_a_card_is_left_in_log_ledger_and_redis() {
    let world = World::new().await.with_own_redis().await;
    let port = world.redis.as_ref().expect("asked for").port();
    search_log(world, Some(port)).await;
}

/// The same on SQLite, with the lock in the process.
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_of_a_card_is_left_in_log_and_ledger_on_sqlite() {
    search_log(World::on_sqlite().await, None).await;
}

/// Promise: nor in any span or event, whatever its level and whoever writes it.
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_of_a_card_is_left_in_spans() {
    search_spans(World::new().await).await;
}

/// The same on SQLite, with the lock in the process.
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_of_a_card_is_left_in_spans_on_sqlite() {
    search_spans(World::on_sqlite().await).await;
}

/// Promise: nor where ledger and lock break while they are used and what they say about it is written down, nor in what a
/// killed process leaves to another.
#[tokio::test(flavor = "multi_thread")]
async fn no_trace_of_a_card_is_left_where_ledger_lock_and_process_break() {
    let mut world = prepared(World::new().await.with_own_redis().await);
    let collector = tell_a_collector(&mut world).await;
    // Beside each error it writes down whatever brought it about.
    world.config.log_format = "text".into();
    let mut redis = world.redis.take().expect("asked for");
    let database = world.database.as_ref().expect("on Postgres");
    let server = database.server_address().expect("an address");
    let proxy = TcpProxy::start(server).await.expect("a proxy");
    let direct = database.url().to_owned();
    world.config.ledger_url = database.url_through(proxy.port());
    let (options, heir) = (
        world.process_options("canary"),
        world.process_options("heir"),
    );
    world.config.ledger_url = direct;
    let mut process = gateway::start_process(world.folder(), &options).await;
    let visitor = Visitor::new(&world, &options.base_url);
    visitor.walk_while_parts_break(&proxy, &mut redis).await;
    visitor.plant(&Canary::planted()).await;
    visitor.pay_and_kill(&mut process).await;
    // It writes its log behind that of the killed one.
    let process = gateway::start_process(world.folder(), &heir).await;
    visitor.end_with(&heir.base_url).await;
    let mut places = common_places(&world, &visitor, &heir.base_url).await;
    let log = process.output().expect("its output").into_bytes();
    // What the database says of a row it refuses shows the row: of its words, only the code is told.
    assert_said(
        &log,
        &[
            "the ledger refused the write: SQLSTATE 23514",
            "the ledger did not answer",
            "the lock is down",
        ],
    );
    places.push(Place {
        name: "log",
        text: log,
    });
    places.push(Place {
        name: "exported spans",
        text: exported(&collector, &heir.base_url).await,
    });
    assert_clean(&places);
}
