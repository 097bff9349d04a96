//! Spans that leave the process: one trace from the caller to the processor, and a collector that nobody waits for.

use std::time::Duration;

use sandbox::stack::{CollectedSpan, Collector, eventually};
use sandbox::world::{Caller, Reply, World, sale};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_mins(1);

/// A W3C trace context: the caller's trace and span, and whether the trace is kept.
const KEPT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_KEPT: &str = "00-5bf92f3577b34da6a3ce929d0e0e4737-10f067aa0ba902b7-00";

fn traced(world: &mut World, endpoint: &str, sampled: &str) {
    world.config.more =
        format!("[telemetry.traces]\nendpoint = \"{endpoint}\"\nsampled = {sampled}\n");
}

async fn pay_in(shop: &Caller, key: &str, trace: &str) -> Reply {
    // What else a caller's tracing says is its own business.
    let headers = [
        ("idempotency-key", key),
        ("traceparent", trace),
        ("tracestate", "shop=untold"),
    ];
    shop.post_with("/v1/payments", sale(10_00).to_string(), &headers)
        .await
        .expect(201)
}

/// The span of that name, as soon as it came.
async fn span(collector: &Collector, name: &str) -> CollectedSpan {
    let found = eventually(PATIENCE, "the span to come", async || {
        collector.spans().into_iter().find(|span| span.name == name)
    });
    found.await.expect("a span")
}

/// The processor's call hangs below the operation, that below the request, and the request below its caller's span.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_one_trace_from_its_caller_to_the_processor() {
    let collector = Collector::start().await.expect("a collector");
    let mut world = World::new().await;
    traced(&mut world, &collector.endpoint(), "0.0");
    let gateway = world.process("traced").await;
    let shop = world.caller(gateway.base_url());
    let operation = pay_in(&shop, "traced", KEPT).await.operation();

    let request = span(&collector, "POST /v1/payments").await;
    assert_eq!(request.trace, KEPT[3..35]);
    assert_eq!(request.parent, KEPT[36..52]);
    for (name, value) in [
        ("http.route", "/v1/payments"),
        ("http.response.status_code", "201"),
        ("payment.client", "shop"),
        ("payment.operation.id", &operation),
    ] {
        assert_eq!(request.attribute(name), Some(value), "{name}");
    }
    let call = span(&collector, "POST /sales").await;
    let work = span(&collector, "operation").await;
    assert_eq!((&call.trace, &call.parent), (&request.trace, &work.id));
    assert_eq!((&work.trace, &work.parent), (&request.trace, &request.id));
    assert_eq!(work.attribute("payment.operation.id"), Some(&*operation));
    assert!(
        [&request, &work, &call]
            .iter()
            .all(|span| span.state.is_empty())
    );
    assert_eq!(call.attribute("http.response.status_code"), Some("200"));
    assert_eq!(call.attribute("server.address"), Some("127.0.0.1"));
    world.audit().await;
}

/// A caller's decision holds; where there is none, the configured share does.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_chosen_is_traced() {
    let collector = Collector::start().await.expect("a collector");
    for (sampled, expected) in [("0.0", 1), ("1.0", 2)] {
        let mut world = World::new().await;
        traced(&mut world, &collector.endpoint(), sampled);
        let mut gateway = world.process("traced").await;
        let shop = world.caller(gateway.base_url());
        let before = collector.spans().len();
        shop.pay("undecided", &sale(10_00)).await.expect(201);
        pay_in(&shop, "not kept", NOT_KEPT).await;
        pay_in(&shop, "kept", KEPT).await;
        // With its end everything that it has to tell is told.
        gateway.sigterm().expect("told");
        assert!(gateway.ended(PATIENCE).await.expect("ended").success());
        let payments: Vec<CollectedSpan> = collector.spans()[before..]
            .iter()
            .filter(|span| span.name == "POST /v1/payments")
            .cloned()
            .collect();
        assert_eq!(payments.len(), expected, "{sampled}: {payments:?}");
        assert!(payments.iter().all(|span| span.trace != NOT_KEPT[3..35]));
        assert!(payments.iter().any(|span| span.trace == KEPT[3..35]));
    }
}

/// A collector that takes connections and says nothing costs spans, never a payment: each is answered within its caller's wait,
/// which is shorter than one attempt to hand spans over. Nor does the end of the process wait for such an attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_delays_neither_payments_nor_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("its address");
    let mut world = World::new().await;
    traced(
        &mut world,
        &format!("http://{address}/v1/traces"),
        "1.0\nqueue_max = 512",
    );
    let mut gateway = world.process("traced").await;
    let shop = world.caller(gateway.base_url());
    // An attempt holds 512, and as many wait: whatever comes after them is dropped.
    let full = eventually(PATIENCE, "the queue to be full", async || {
        for _ in 0..100 {
            shop.get("/nowhere").await.expect(404);
        }
        let log = gateway.output().expect("its log");
        log.contains("BatchSpanProcessor.SpanDroppingStarted")
            .then_some(())
    });
    full.await.expect("a bound");
    for number in 0..20 {
        let key = format!("untold-{number}");
        shop.pay(&key, &sale(10_00)).await.expect(201);
    }
    gateway.sigterm().expect("told");
    assert!(gateway.ended(PATIENCE).await.expect("ended").success());
    // Said by who waited three seconds; had it waited for the attempt, there would be nothing to say.
    let log = gateway.output().expect("its log");
    assert!(
        log.contains("the last spans did not reach the collector"),
        "{log}"
    );
    world.audit().await;
}
