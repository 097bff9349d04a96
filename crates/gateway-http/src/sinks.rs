//! Where log lines and spans go: to standard error, and over OTLP to a collector where one is configured.

use std::io::{self, IsTerminal};
use std::time::Duration;

use gateway_core::pan_scan::redact;
use http::HeaderValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use thiserror::Error;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogFormat, Telemetry, Traces};
use crate::span_fields::SpanFields;

/// One attempt to hand spans to the collector, which the exporter repeats a few times. What it does not take then is lost,
/// and only that.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the last spans may delay the end of the process. Shorter than an attempt: a collector that says nothing is noticed.
const END_TIMEOUT: Duration = Duration::from_secs(3);

const TRACEPARENT: &str = "traceparent";

/// Why nothing can be told.
#[derive(Debug, Error)]
pub enum SinkError {
    #[error("this process logs already")]
    Twice(#[from] TryInitError),
    #[error("telemetry.traces: {0}")]
    Traces(String),
}

/// What must be ended, so that what was told last is not lost.
#[derive(Debug)]
#[must_use = "the last spans are lost unless it is ended"]
pub struct Sinks {
    traces: Option<SdkTracerProvider>,
}

impl Sinks {
    /// Hands over the spans that wait, for a short time only: a collector that is away must not keep a replica from ending.
    pub async fn end(self) {
        let Some(traces) = self.traces else { return };
        // It waits for the exporter's own thread.
        let ended = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(END_TIMEOUT));
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans did not reach the collector"),
            Err(error) => tracing::error!(%error, "the end of tracing panicked"),
        }
    }
}

/// Starts telling, and makes panics part of the log. Once per process.
///
/// # Errors
/// When somebody else did already; when spans could never be exported as configured.
pub fn start(config: &Telemetry) -> Result<Sinks, SinkError> {
    let filter: EnvFilter = config
        .log
        .parse()
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .fmt_fields(SpanFields)
            .boxed(),
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .boxed(),
    };
    let traces = config.traces.as_ref().map(provider).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("quittance"))
            .with_threads(false)
            .with_location(false)
            .with_tracked_inactivity(false)
            .with_error_records_to_exceptions(false)
            .with_error_fields_to_exceptions(false)
            .with_filter(filter_fn(is_ours))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()?;
    log_panics();
    Ok(Sinks { traces })
}

/// Spans of ours, with what happened in them. Not a library's: what it would tell nobody here has looked through, and the
/// exporter would report its own work for ever.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("gateway_")
}

fn provider(config: &Traces) -> Result<SdkTracerProvider, SinkError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&config.endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| SinkError::Traces(error.to_string()))?;
    let bounds = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue_max)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(
            BatchSpanProcessor::builder(exporter)
                .with_batch_config(bounds)
                .build(),
        )
        // A caller that traces has decided already, and half a trace helps nobody.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            config.sampled,
        ))))
        .with_resource(
            Resource::builder()
                .with_service_name("quittance-gateway")
                .with_attribute(opentelemetry::KeyValue::new(
                    "service.version",
                    env!("CARGO_PKG_VERSION"),
                ))
                .build(),
        )
        .build())
}

/// It blocks, for the exporter has a thread of its own: a runtime that is busy with payments does not delay it, nor it them.
/// And it is made on one, because it refuses to be made inside a runtime.
fn client() -> Result<reqwest::blocking::Client, SinkError> {
    let made = std::thread::spawn(|| {
        reqwest::blocking::Client::builder()
            .timeout(EXPORT_TIMEOUT)
            // The collector's headers may hold its token: they go to no other host.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
    });
    match made.join() {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(SinkError::Traces(error.to_string())),
        Err(_) => Err(SinkError::Traces("the HTTP client cannot be made".into())),
    }
}

/// The only header that is read. What `tracestate` holds would leave with every span as the caller typed it, and may be
/// some kilobytes.
struct Traceparent<'a>(&'a str);

impl Extractor for Traceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// Makes the span a part of its caller's trace, if the caller has one (W3C Trace Context).
pub(crate) fn continue_trace(span: &Span, headers: &http::HeaderMap) {
    // Most callers' requests come without, and most gateways run without a collector.
    let Some(Ok(traceparent)) = headers.get(TRACEPARENT).map(HeaderValue::to_str) else {
        return;
    };
    let parent = TraceContextPropagator::new().extract(&Traceparent(traceparent));
    // Nobody listens: then there is nothing to be a part of.
    let _ = span.set_parent(parent);
}

/// A panic quotes what it choked on, and the default hook prints that as it is: here it is cleaned first.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("not a text");
        tracing::error!(panic.location = location, panic.message = %redact(message), "panicked");
    }));
}
