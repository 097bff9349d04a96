//! Undoing a create by its key: `POST /v1/cancellations`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use gateway_core::engine::CancelOutcome;
use http::HeaderMap;

use super::answer;
use crate::app::App;
use crate::auth::Scope;
use crate::extract::{json_body, request_timeout};
use crate::patience::Patience;
use crate::problem::{Kind, Problem};
use crate::requests::Cancellation;
use crate::schema::{CancellationBody, CancellationDocument};

/// Records the wish that a key has no effect, and says how far that is. Takes no key of its own.
#[utoipa::path(
    post, path = "/v1/cancellations", tag = "operations", request_body = CancellationBody,
    responses((status = 201, description = "The wish is recorded; repeat to see the progress.", body = CancellationDocument)),
)]
pub async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &[Scope::PaymentsWrite]).await?;
    let wait = request_timeout(&headers, app.request_timeout_max)?;
    let body = json_body(&headers, body, app.body_limits).await?;
    let Cancellation { key } = Cancellation::parse(&body)?;
    let patience = Patience::lasting(&app, wait);
    let known = patience
        .ask(app.engine.store().operation_by_key(&caller.client, &key))
        .await?;
    if let Some(operation) = known.filter(|operation| operation.payment.is_some()) {
        caller.require_account(operation.account.as_str())?;
    }
    let cancelled = app
        .engine
        .cancel(caller.client.clone(), key, patience.until);
    match cancelled.await {
        CancelOutcome::Recorded(cancellation) => Ok(answer::cancellation(&cancellation)),
        CancelOutcome::NotACreate => Err(Problem::new(
            Kind::NotCancellable,
            "the key belongs to a follow-up or a verification; only creates can be cancelled",
        )),
        CancelOutcome::LedgerUnavailable => Err(Problem::new(
            Kind::LedgerUnavailable,
            "the cancellation may be recorded; repeat it",
        )
        .retry_after(std::time::Duration::from_secs(1))),
    }
}
