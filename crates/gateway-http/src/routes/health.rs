//! For whoever keeps processes running: `GET /healthz`, `/readyz`, `/metrics`.

use std::future::{Ready, ready as ready_now};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use crate::app::App;
use crate::telemetry;

/// How long the ledger may take to answer, before this process is called not ready.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process runs. Restarting it would not help against anything else.
#[utoipa::path(
    get, path = "/healthz", tag = "process", responses((status = 200, description = "It runs.", body = String)),
)]
pub fn live() -> Ready<&'static str> {
    ready_now("ok\n")
}

/// Whether new payments should be sent here, and why not.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent checks are what it holds"
)]
pub struct Readiness {
    pub ready: bool,
    /// The ledger answers.
    pub ledger: bool,
    /// This process's heartbeat is confirmed: without it no first byte leaves.
    pub heartbeat: bool,
    /// Tokens can be verified.
    pub keys: bool,
    pub draining: bool,
    /// Only saves work: the service is ready without it.
    pub lock: bool,
    pub quarantine: bool,
    /// Accounts whose processor keeps refusing new access tokens: their payments are refused unsent for now, and
    /// somebody must look. The others go on, so the service is ready.
    pub token_storms: Vec<String>,
}

/// `200` or `503`, with what each check found.
#[utoipa::path(
    get, path = "/readyz", tag = "process",
    responses(
        (status = 200, description = "New payments can be sent here.", body = Readiness),
        (status = 503, description = "They cannot.", body = Readiness),
    ),
)]
pub async fn ready(State(app): State<App>) -> Response {
    let ping = tokio::time::timeout(PATIENCE, app.engine.store().ping()).await;
    let mut readiness = Readiness {
        ready: false,
        ledger: matches!(ping, Ok(Ok(()))),
        heartbeat: app.engine.is_beating(),
        keys: app.authenticator.is_ready(),
        draining: app.engine.is_draining(),
        lock: app.engine.lock().is_up(),
        quarantine: app.quarantine,
        token_storms: app.tokens.storms(),
    };
    readiness.ready =
        readiness.ledger && readiness.heartbeat && readiness.keys && !readiness.draining;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

/// The metrics of this process.
pub fn metrics(State(app): State<App>) -> Ready<Response> {
    ready_now(telemetry::exposition(&app.registry))
}
