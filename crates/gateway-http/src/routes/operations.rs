//! The outcome of one key, for a caller that lost everything else: `GET /v1/operations`, `GET /v1/operations/{id}`.
//! Reads only: nothing is ever executed here.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use gateway_core::key::{IdempotencyKey, OperationId};
use gateway_core::operation::StateName;
use gateway_core::store::Operation;
use http::HeaderMap;

use super::answer::in_brief;
use super::documents::{AnswerSummary, EventDocument, OperationDetail, OperationDocument, outcome};
use crate::app::App;
use crate::auth::Scope;
use crate::extract::Query;
use crate::patience::Patience;
use crate::problem::{Kind, Problem};
use crate::telemetry;

const SCOPES: [Scope; 2] = [Scope::PaymentsRead, Scope::PaymentsWrite];

/// The operation under one of the caller's own keys.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations",
    params(("idempotency_key" = String, Query, description = "As in the header Idempotency-Key.")),
    responses((status = 200, description = "The operation; nothing is executed.", body = OperationDetail)),
)]
pub async fn by_key(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &SCOPES).await?;
    let patience = Patience::of(&app, &headers)?;
    let mut query = Query::parse(query.as_deref());
    let key = query.required("idempotency_key", |text| {
        IdempotencyKey::parse(text).map_err(|error| error.to_string().into())
    });
    query.finish()?;
    let Some(key) = key else {
        return Err(Problem::new(
            Kind::MalformedRequest,
            "the query has no usable idempotency_key",
        ));
    };
    let found = patience
        .ask(app.engine.store().operation_by_key(&caller.client, &key))
        .await?;
    let not_seen = "this key was not seen so far; a request under it may still be on its way, so cancel the key \
                    to make it certain";
    match found {
        Some(operation)
            if caller.covers(operation.account.as_str()) || operation.payment.is_none() =>
        {
            detail(&app, operation, patience).await
        }
        _ => Err(Problem::new(Kind::NotFound, not_seen)),
    }
}

/// One operation with its timeline and evidence.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "operations", params(("id" = String, Path, description = "`op_…`")),
    responses((status = 200, description = "The operation.", body = OperationDetail)),
)]
pub async fn show(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &SCOPES).await?;
    let patience = Patience::of(&app, &headers)?;
    let no_such = || Problem::new(Kind::NotFound, "there is no such operation");
    let id: OperationId = id.parse().map_err(|_| no_such())?;
    let operation = patience
        .ask(app.engine.store().operation(id))
        .await?
        .ok_or_else(no_such)?;
    let covered = if operation.account.as_str().is_empty() {
        operation.client == caller.client // A tombstone has no account.
    } else {
        caller.covers(operation.account.as_str())
    };
    if covered {
        detail(&app, operation, patience).await
    } else {
        Err(no_such())
    }
}

async fn detail(app: &App, operation: Operation, patience: Patience) -> Result<Response, Problem> {
    telemetry::about(operation.id);
    let timeline = patience
        .ask(app.engine.store().timeline(operation.id))
        .await?;
    let (status, money_moved) = patience.ask(in_brief(app, &operation)).await?;
    let is_final = operation.state.is_final();
    let open = !is_final && operation.state.name() != StateName::NotSent;
    let document = OperationDetail {
        operation: OperationDocument::of(&operation),
        account: operation.account.to_string(),
        payment: operation.payment.map(|payment| payment.to_string()),
        order_reference: operation.order_reference.as_ref().map(ToString::to_string),
        reference: operation.reference.to_string(),
        attempt: operation.attempt,
        sends: operation.sends,
        first_attempt_at: operation.first_attempt_at.rfc3339(),
        settled_at: operation
            .settled_at
            .map(gateway_core::clock::Timestamp::rfc3339),
        resolves_by: open.then(|| operation.resolves_by().rfc3339()),
        cancel_requested_at: operation
            .cancel_requested_at
            .map(gateway_core::clock::Timestamp::rfc3339),
        answer: AnswerSummary {
            status: status.as_u16(),
            money_moved,
            r#final: is_final,
        },
        outcome: outcome(&operation.state),
        timeline: timeline
            .iter()
            .map(|event| EventDocument::of(event, true))
            .collect(),
    };
    Ok(Json(document).into_response())
}
