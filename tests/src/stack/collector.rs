//! A collector that takes spans over OTLP and keeps them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::{Doing, StackError};

/// Listens on a loopback port. Ends on drop.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Bytes>>>,
    server: AbortHandle,
}

/// One span, as far as tests ask.
#[derive(Clone, Debug)]
pub struct CollectedSpan {
    pub name: String,
    /// In hexadecimal, as in `traceparent`.
    pub trace: String,
    pub id: String,
    /// Empty where there is none.
    pub parent: String,
    /// As of `tracestate`.
    pub state: String,
    attributes: Vec<(String, String)>,
}

impl CollectedSpan {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Collector {
    pub async fn start() -> Result<Self, StackError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .doing(|| "opening a port for the collector".to_owned())?;
        let address = listener
            .local_addr()
            .doing(|| "asking for the collector's port".to_owned())?;
        let taken = Arc::default();
        let routes = Router::new()
            .route("/v1/traces", routing::post(take))
            .with_state(Arc::clone(&taken));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self {
            address,
            taken,
            server: serving.abort_handle(),
        })
    }

    /// What gateways are configured with.
    pub fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Everything as it came: texts stand in it as they are.
    pub fn bytes(&self) -> Vec<u8> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.concat()
    }

    /// Every span, in the order in which they came.
    ///
    /// # Panics
    /// If something came that is no such document.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for document in taken.iter() {
            let request = ExportTraceServiceRequest::decode(document.clone()).expect("OTLP");
            let scopes = request.resource_spans.into_iter();
            let scopes = scopes.flat_map(|resource| resource.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans).map(collected));
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(taken): State<Arc<Mutex<Vec<Bytes>>>>, document: Bytes) -> StatusCode {
    taken
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(document);
    StatusCode::OK
}

fn collected(span: Span) -> CollectedSpan {
    let attributes = span.attributes.into_iter().filter_map(|attribute| {
        let text = match attribute.value?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key, text))
    });
    CollectedSpan {
        name: span.name,
        trace: hexadecimal(&span.trace_id),
        id: hexadecimal(&span.span_id),
        parent: hexadecimal(&span.parent_span_id),
        state: span.trace_state,
        attributes: attributes.collect(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}
