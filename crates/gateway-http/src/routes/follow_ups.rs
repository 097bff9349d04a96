//! What is done to an existing payment: `POST /v1/payments/{id}/captures`, `/voids`, `/refunds`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use gateway_core::engine::FollowUpRequest;
use gateway_core::idempotency::CanonicalForm;
use gateway_core::key::{AccountName, PaymentId};
use gateway_core::money::Money;
use gateway_core::operation::Verb;
use http::HeaderMap;

use super::answer::{FORBIDDEN_ACCOUNT, FORBIDDEN_AMOUNT, answer};
use super::documents::PaymentDocument;
use crate::app::App;
use crate::auth::Scope;
use crate::extract::{idempotency_key, json_body, request_timeout};
use crate::problem::{Kind, Problem, Retry};
use crate::requests::{AmountOnly, Void};
use crate::schema::{FollowUpBody, VoidBody};

/// Claims all or part of an authorization.
#[utoipa::path(
    post, path = "/v1/payments/{id}/captures", tag = "payments", request_body = FollowUpBody,
    params(("id" = String, Path, description = "`pay_…`")),
    responses((status = 201, description = "Captured: the payment as this operation left it.", body = PaymentDocument)),
)]
pub async fn capture(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    follow_up(app, headers, &id, body, Verb::Capture).await
}

/// Cancels a payment before settlement.
#[utoipa::path(
    post, path = "/v1/payments/{id}/voids", tag = "payments", request_body = VoidBody,
    params(("id" = String, Path, description = "`pay_…`")),
    responses((status = 201, description = "Voided: the payment as this operation left it.", body = PaymentDocument)),
)]
pub async fn void(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    follow_up(app, headers, &id, body, Verb::Void).await
}

/// Returns captured money.
#[utoipa::path(
    post, path = "/v1/payments/{id}/refunds", tag = "payments", request_body = FollowUpBody,
    params(("id" = String, Path, description = "`pay_…`")),
    responses((status = 201, description = "Refunded: the payment as this operation left it.", body = PaymentDocument)),
)]
pub async fn refund(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    follow_up(app, headers, &id, body, Verb::Refund).await
}

async fn follow_up(
    app: App,
    headers: HeaderMap,
    id: &str,
    body: Body,
    verb: Verb,
) -> Result<Response, Problem> {
    let scope = if verb == Verb::Refund {
        Scope::RefundsWrite
    } else {
        Scope::PaymentsWrite
    };
    let caller = app.caller(&headers, &[scope]).await?;
    let key = idempotency_key(&headers)?;
    let wait = request_timeout(&headers, app.request_timeout_max)?;
    let body = json_body(&headers, body, app.body_limits).await?;
    let no_such = |_| Problem::new(Kind::NotFound, "there is no such payment").retry(Retry::Never);
    let payment: PaymentId = id.parse().map_err(no_such)?;
    let (amount, form) = read(verb, payment, &body)?;
    let client = caller.client.clone();
    // Only the engine knows the payment's account; what the token allows there is decided here.
    let permission = move |account: &AccountName, amount: Money| {
        let (currency, minor) = (amount.currency().code(), amount.minor());
        caller
            .require_account(account.as_str())
            .map_err(|_| FORBIDDEN_ACCOUNT.to_owned())?;
        caller
            .require_amount(currency, minor)
            .map_err(|_| FORBIDDEN_AMOUNT.to_owned())
    };
    let request = FollowUpRequest {
        client,
        key,
        verb,
        payment,
        amount,
        permission: Arc::new(permission),
        form,
        wait,
    };
    let outcome = app.engine.follow_up(request).await;
    Ok(answer(&app, outcome).await)
}

fn read(
    verb: Verb,
    payment: PaymentId,
    body: &[u8],
) -> Result<(Option<Money>, CanonicalForm), Problem> {
    if verb == Verb::Void {
        return Ok((None, Void::parse(body)?.canonical_form(payment)));
    }
    let asked = AmountOnly::parse(body)?;
    Ok((Some(asked.amount), asked.canonical_form(verb, payment)))
}
