//! What the edge tells of each request: a span, a log line, metrics. Never a body, a header's value or a query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gateway_core::key::OperationId;
use http::{HeaderValue, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::problem::{Kind, Problem, Reported};
use crate::sinks;

/// Bounded: methods and routes are ours, statuses are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(
    clippy::struct_field_names,
    reason = "the labels are named by OpenTelemetry's conventions"
)]
struct RequestLabels {
    http_request_method: &'static str,
    http_route: String,
    http_response_status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    r#type: &'static str,
}

/// The edge's metrics. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    problems: Family<ProblemLabels, Counter>,
    active: Gauge,
    /// Callers' connections, TLS handshakes included.
    pub connections: Gauge,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        // The advice of OpenTelemetry for http.server.request.duration, with finer steps where we are usually.
        let buckets = || {
            Histogram::new([
                0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                60.0, 120.0,
            ])
        };
        Self {
            durations: Family::new_with_constructor(buckets),
            problems: Family::default(),
            active: Gauge::default(),
            connections: Gauge::default(),
        }
    }
}

impl HttpMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "http_server_request_duration",
            "From a request's head to its answer's",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "http_server_problems",
            "Problem answers by type",
            self.problems.clone(),
        );
        registry.register(
            "http_server_active_requests",
            "Requests that wait for their answer",
            self.active.clone(),
        );
        registry.register(
            "http_server_open_connections",
            "Callers' connections",
            self.connections.clone(),
        );
    }
}

/// Counts one request or connection as long as it lives: a caller that hangs up ends it as well.
pub(crate) struct Active(Gauge);

impl Active {
    pub(crate) fn enter(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The span, the metrics and the log line of one request.
pub async fn observe(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    // The route and not the path: a path holds what a caller typed.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        error.r#type = Empty,
        otel.status_code = Empty,
        payment.client = Empty,
        payment.operation.id = Empty,
    );
    sinks::continue_trace(&span, request.headers());
    let _active = Active::enter(&metrics.active);
    let begun = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let took = begun.elapsed();
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if let Some(reported) = response.extensions().get::<Reported>() {
        let slug = reported.kind.meaning().slug;
        metrics
            .problems
            .get_or_create(&ProblemLabels { r#type: slug })
            .inc();
        report(&span, reported, slug, took);
    }
    let labels = RequestLabels {
        http_request_method: method,
        http_route: route,
        http_response_status_code: status.as_u16(),
    };
    metrics
        .durations
        .get_or_create(&labels)
        .observe(took.as_secs_f64());
    response
}

/// Names the operation that a request turned out to be about in its span.
pub(crate) fn about(operation: OperationId) {
    Span::current().record("payment.operation.id", tracing::field::display(operation));
}

/// Refusals are the caller's business; what we could not do is ours.
fn report(span: &Span, reported: &Reported, slug: &'static str, took: Duration) {
    let status = reported.kind.meaning().status;
    if status.is_server_error() {
        span.record("error.type", slug);
        span.record("otel.status_code", "ERROR");
        let _in_span = span.enter();
        tracing::warn!(
            problem.r#type = slug,
            problem.instance = reported.instance,
            ?took,
            "answered with a problem"
        );
    } else {
        let _in_span = span.enter();
        tracing::debug!(
            problem.r#type = slug,
            problem.instance = reported.instance,
            ?took,
            "answered with a problem"
        );
    }
}

/// RFC 9110's and PATCH; anything else would let callers invent label values.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// Makes our word of what the framework refuses in plain text: a path that is no UTF-8, for example.
pub async fn speak_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    let is_foreign =
        content_type.is_none_or(|content_type| content_type.starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !is_foreign {
        return response;
    }
    match status {
        StatusCode::NOT_FOUND => {
            Problem::new(Kind::NotFound, "there is no such path").into_response()
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let mut refused =
                Problem::new(Kind::MethodNotAllowed, "see the header Allow").into_response();
            if let Some(allow) = response.headers().get(header::ALLOW) {
                refused.headers_mut().insert(header::ALLOW, allow.clone());
            }
            refused
        }
        status if status.is_client_error() => {
            Problem::new(Kind::MalformedRequest, "the request could not be read").into_response()
        }
        _ => Problem::new(
            Kind::Internal,
            "the request ended in a fault of the gateway",
        )
        .into_response(),
    }
}

/// Everything in the registry, in the text format of OpenMetrics.
pub fn exposition(registry: &Arc<Registry>) -> Response {
    let mut text = String::with_capacity(16 * 1024);
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{LazyLock, Mutex};

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::problem;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// While one thread's subscriber is the only one, the thread that first reaches a line that logs decides for all
    /// whether anybody listens there. With one for the whole process besides, `tracing` asks both. Every test here that
    /// could be that thread comes by.
    static LISTENING: LazyLock<()> = LazyLock::new(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry())
            .expect("the only one");
    });

    fn app(metrics: &HttpMetrics) -> Router {
        async fn fail() -> Problem {
            Problem::new(Kind::Overloaded, "no permit")
        }
        async fn blow_up() -> Response {
            panic!("card 4012000098765439")
        }
        LazyLock::force(&LISTENING);
        Router::new()
            .route("/v1/payments/{id}", get(async || "ok"))
            .route("/fail", get(fail))
            .route("/panic", get(blow_up))
            .route(
                "/path/{id}",
                get(async |axum::extract::Path(id): axum::extract::Path<String>| id),
            )
            .fallback(problem::no_such_route)
            .method_not_allowed_fallback(problem::no_such_method)
            .layer(axum::middleware::from_fn(speak_problems))
            .layer(CatchPanicLayer::custom(problem::panic_answer))
            .layer(axum::middleware::from_fn_with_state(
                metrics.clone(),
                observe,
            ))
    }

    async fn ask(app: &Router, method: &str, path: &str) -> (StatusCode, String, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        let content_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|value| value.to_str().expect("ASCII").to_owned());
        let body = to_bytes(response.into_body(), 100_000)
            .await
            .expect("small");
        (
            status,
            content_type.unwrap_or_default(),
            String::from_utf8(body.to_vec()).expect("UTF-8"),
        )
    }

    #[tokio::test]
    async fn whatever_goes_wrong_is_told_in_our_word() {
        let app = app(&HttpMetrics::default());
        for (method, path, status, slug) in [
            ("GET", "/nowhere", 404, "not-found"),
            ("DELETE", "/fail", 405, "method-not-allowed"),
            ("GET", "/path/%FF", 400, "malformed-request"),
            ("GET", "/fail", 503, "overloaded"),
            ("GET", "/panic", 500, "internal"),
        ] {
            let (found, content_type, body) = ask(&app, method, path).await;
            assert_eq!(found.as_u16(), status, "{path}");
            assert_eq!(content_type, problem::PROBLEM_JSON, "{path}");
            assert!(
                body.contains(&format!("/problems/{slug}")) && !body.contains("4012000098765439"),
                "{path}: {body}"
            );
        }
    }

    #[tokio::test]
    async fn requests_are_counted_by_route_and_logged_without_what_callers_typed() {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter("debug")
            .with_writer(sink.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let metrics = HttpMetrics::default();
        let app = app(&metrics);
        for (method, path) in [
            ("GET", "/v1/payments/4012000098765439?key=4012000098765439"),
            ("GET", "/4012000098765439"),
            ("4012000098765439", "/fail"),
            ("GET", "/fail"),
        ] {
            ask(&app, method, path).await;
        }
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let answer = exposition(&Arc::new(registry));
        let text = String::from_utf8(
            to_bytes(answer.into_body(), 1_000_000)
                .await
                .expect("small")
                .to_vec(),
        );
        let text = text.expect("UTF-8");
        let counted = r#"_count{http_request_method="GET",http_route="/v1/payments/{id}",http_response_status_code="200"} 1"#;
        assert!(text.contains(counted), "{text}");
        assert!(
            text.contains(r#"http_server_problems_total{type="overloaded"} 1"#),
            "{text}"
        );
        assert!(text.contains("http_server_active_requests 0"), "{text}");
        let logged =
            String::from_utf8(sink.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert!(
            logged.contains("overloaded") && logged.contains(r#""http.route":"/fail""#),
            "{logged}"
        );
        assert!(
            !text.contains("4012000098765439") && !logged.contains("4012000098765439"),
            "{text}\n{logged}"
        );
    }
}
