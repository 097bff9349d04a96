//! A key server that counts who asks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::{Doing, StackError, TestKey, jwks};

/// Serves a JWKS on a loopback port. Ends on drop.
#[derive(Debug)]
pub struct JwksServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    request_count: AtomicU64,
    answer: Mutex<(StatusCode, Value)>,
}

impl JwksServer {
    pub async fn start<'a>(
        keys: impl IntoIterator<Item = &'a TestKey>,
    ) -> Result<Self, StackError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .doing(|| "opening a port for the key server".to_owned())?;
        let address = listener
            .local_addr()
            .doing(|| "asking for the key server's port".to_owned())?;
        let shared = Arc::new(Shared {
            request_count: AtomicU64::new(0),
            answer: Mutex::new((StatusCode::OK, jwks(keys))),
        });
        let routes = Router::new()
            .route("/jwks.json", routing::get(answer))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self {
            address,
            shared,
            server: serving.abort_handle(),
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Requests answered since the start.
    pub fn request_count(&self) -> u64 {
        self.shared.request_count.load(Ordering::Acquire)
    }

    /// Serves these keys from now on.
    pub fn serve<'a>(&self, keys: impl IntoIterator<Item = &'a TestKey>) {
        self.answer_with(StatusCode::OK, jwks(keys));
    }

    /// Answers anything, from now on.
    pub fn answer_with(&self, status: StatusCode, body: Value) {
        *self
            .shared
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (status, body);
    }
}

impl Drop for JwksServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>) -> Response {
    shared.request_count.fetch_add(1, Ordering::AcqRel);
    let (status, body) = shared
        .answer
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    (status, Json(body)).into_response()
}
