//! Card checks without money: `POST /v1/verifications`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use gateway_core::engine::CreateRequest;
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use http::HeaderMap;

use super::answer::answer;
use super::documents::VerificationDocument;
use super::payments::{every_fault, for_engine};
use crate::app::App;
use crate::auth::Scope;
use crate::extract::{idempotency_key, json_body, request_timeout};
use crate::problem::Problem;
use crate::requests::Verification;
use crate::schema::VerificationBody;

/// Checks a card, under its idempotency key.
#[utoipa::path(
    post, path = "/v1/verifications", tag = "payments", request_body = VerificationBody,
    responses((status = 201, description = "The card is good.", body = VerificationDocument)),
)]
pub async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &[Scope::PaymentsWrite]).await?;
    let key = idempotency_key(&headers)?;
    let wait = request_timeout(&headers, app.request_timeout_max)?;
    let body = json_body(&headers, body, app.body_limits).await?;
    let verification =
        Verification::parse(&body).map_err(|faulty| every_fault(&app, &caller, faulty))?;
    drop(body);
    caller.require_account(verification.account.as_str())?;
    // An account that is no longer configured has no currency; the engine refuses it, unless the key is known.
    let account = app.engine.account(&verification.account);
    let currency = account.and_then(|account| account.currencies.first().copied());
    let nothing = Money::zero(currency.unwrap_or_else(any_currency));
    let form = verification.canonical_form();
    let faults = verification
        .faults_at(app.clock.now())
        .into_iter()
        .map(for_engine)
        .collect();
    let request = CreateRequest {
        client: caller.client.clone(),
        key,
        verb: Verb::Verify,
        account: verification.account,
        amount: nothing,
        order_reference: verification.order_reference,
        statement_descriptor: None,
        once_per_order: false,
        metadata: None,
        payer: verification.payer,
        form,
        faults,
        wait,
    };
    let outcome = app.engine.create(request).await;
    Ok(answer(&app, outcome).await)
}

fn any_currency() -> Currency {
    Currency::parse("USD").expect("an ISO 4217 currency")
}
