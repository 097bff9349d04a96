//! Payments: `POST /v1/payments`, `GET /v1/payments`, `GET /v1/payments/{id}`.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use gateway_core::clock::Timestamp;
use gateway_core::connector;
use gateway_core::engine::CreateRequest;
use gateway_core::key::{OrderReference, PaymentId};
use gateway_core::payment::{Payment, PaymentStatus};
use gateway_core::store::PaymentQuery;
use http::{HeaderMap, StatusCode};

use super::answer::answer;
use super::documents::{OperationDocument, PaymentDocument};
use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::extract::{Query, idempotency_key, json_body, request_timeout};
use crate::patience::Patience;
use crate::problem::{Fault, Kind, Problem};
use crate::requests::{CreatePayment, Faulty};
use crate::schema::{CreatePaymentBody, PaymentListDocument};

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 500;

/// Sale or authorization, under its idempotency key.
#[utoipa::path(
    post, path = "/v1/payments", tag = "payments", request_body = CreatePaymentBody,
    responses((status = 201, description = "Approved: the payment as this operation left it.", body = PaymentDocument)),
)]
pub async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // Boxed: whoever waits for an answer holds nothing of what reading took. Ten thousand may wait.
    let request = Box::pin(read(&app, headers, body)).await?;
    let outcome = app.engine.create(request).await;
    Ok(answer(&app, outcome).await)
}

async fn read(app: &App, headers: HeaderMap, body: Body) -> Result<CreateRequest, Problem> {
    let caller = app.caller(&headers, &[Scope::PaymentsWrite]).await?;
    let key = idempotency_key(&headers)?;
    let wait = request_timeout(&headers, app.request_timeout_max)?;
    let body = json_body(&headers, body, app.body_limits).await?;
    let payment =
        CreatePayment::parse(&body).map_err(|faulty| every_fault(app, &caller, faulty))?;
    caller.require_account(payment.account.as_str())?;
    caller.require_amount(payment.amount.currency().code(), payment.amount.minor())?;
    let form = payment.canonical_form();
    let faults = payment
        .faults_at(app.clock.now())
        .into_iter()
        .map(for_engine)
        .collect();
    Ok(CreateRequest {
        client: caller.client.clone(),
        key,
        verb: payment.verb,
        account: payment.account,
        amount: payment.amount,
        order_reference: payment.order_reference,
        statement_descriptor: payment.statement_descriptor,
        once_per_order: payment.once_per_order,
        metadata: payment
            .metadata
            .map(|metadata| serde_json::Value::Object(metadata).to_string()),
        payer: payment.payer,
        form,
        faults,
        wait,
    })
}

/// The faults of a request that cannot be taken, and what account, processor and clock say against the rest of it.
pub(super) fn every_fault(app: &App, caller: &Caller, faulty: Faulty) -> Problem {
    let Faulty { problem, legible } = faulty;
    let Some(legible) = legible else {
        return problem;
    };
    let mut faults = problem.errors().to_vec();
    faults.extend(legible.faults_at(app.clock.now()));
    // Of an account that the token does not cover nothing is told.
    let account = legible.account.as_ref();
    if let Some(account) = account.filter(|account| caller.covers(account.as_str())) {
        let found = app.engine.faults(account, &legible.draft());
        faults.extend(found.into_iter().map(Fault::from));
    }
    problem.errors_are(faults)
}

/// A fault of the edge, for the engine to tell or to withhold.
pub(super) fn for_engine(fault: Fault) -> connector::Fault {
    let code = match fault.code {
        Cow::Borrowed(code) => code,
        Cow::Owned(_) => "invalid",
    };
    connector::Fault {
        pointer: fault.pointer,
        code,
        detail: fault.detail,
    }
}

/// One payment as it is now, with its operations.
#[utoipa::path(
    get, path = "/v1/payments/{id}", tag = "payments", params(("id" = String, Path, description = "`pay_…`")),
    responses((status = 200, description = "The payment.", body = PaymentDocument)),
)]
pub async fn show(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let caller = app
        .caller(&headers, &[Scope::PaymentsRead, Scope::PaymentsWrite])
        .await?;
    let patience = Patience::of(&app, &headers)?;
    let payment = find(&app, &caller, &id, patience).await?;
    let operations = patience
        .ask(app.engine.store().operations_of(payment.id))
        .await?;
    let metadata = patience
        .ask(app.engine.store().metadata(payment.id))
        .await?;
    let document = PaymentDocument {
        operations: Some(operations.iter().map(OperationDocument::of).collect()),
        metadata: metadata.and_then(|text| serde_json::from_str(&text).ok()),
        ..PaymentDocument::of(&payment, app.clock.now().rfc3339())
    };
    Ok(Json(document).into_response())
}

/// Forgets the caller's metadata of a payment, for good.
#[utoipa::path(
    delete, path = "/v1/payments/{id}/metadata", tag = "payments",
    params(("id" = String, Path, description = "`pay_…`")),
    responses((status = 204, description = "There is none any more.")),
)]
pub async fn erase_metadata(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &[Scope::PaymentsWrite]).await?;
    let patience = Patience::of(&app, &headers)?;
    let payment = find(&app, &caller, &id, patience).await?;
    patience
        .ask(app.engine.store().erase_metadata(payment.id))
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The payment, if it exists and the caller's token covers its account.
async fn find(
    app: &App,
    caller: &Caller,
    id: &str,
    patience: Patience,
) -> Result<Payment, Problem> {
    let no_such = || Problem::new(Kind::NotFound, "there is no such payment");
    let id: PaymentId = id.parse().map_err(|_| no_such())?;
    let payment = patience
        .ask(app.engine.store().payment(id))
        .await?
        .ok_or_else(no_such)?;
    if caller.covers(payment.account.as_str()) {
        Ok(payment)
    } else {
        Err(no_such())
    }
}

/// A page of payments, newest first.
#[utoipa::path(
    get, path = "/v1/payments", tag = "payments",
    params(
        ("order_reference" = Option<String>, Query, description = "Of this order."),
        ("status" = Option<String>, Query, description = "In this status."),
        ("created_after" = Option<String>, Query, format = DateTime, description = "RFC 3339."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 unless given."),
    ),
    responses((status = 200, description = "A page.", body = PaymentListDocument)),
)]
pub async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let caller = app
        .caller(&headers, &[Scope::PaymentsRead, Scope::PaymentsWrite])
        .await?;
    let patience = Patience::of(&app, &headers)?;
    let mut query = Query::parse(query.as_deref());
    let order_reference = query.optional("order_reference", |text| {
        OrderReference::parse(text).map_err(|error| error.to_string().into())
    });
    let status = query.optional("status", |text| {
        PaymentStatus::parse(text).ok_or(Cow::Borrowed("is no payment status"))
    });
    let created_after = query.optional("created_after", |text| {
        Timestamp::parse(text).map_err(|error| error.to_string().into())
    });
    let before = query.optional("cursor", |text| {
        cursor(text).ok_or(Cow::Borrowed("is no cursor of this list"))
    });
    let limit = limit(&mut query);
    query.finish()?;
    let wanted = PaymentQuery {
        accounts: caller_accounts(&caller),
        order_reference,
        status,
        created_after,
        before,
        limit: limit + 1,
    };
    let mut payments = patience.ask(app.engine.store().payments(&wanted)).await?;
    let more = payments.len() > limit as usize;
    payments.truncate(limit as usize);
    let next = payments.last().filter(|_| more);
    let next = next.map(|last| format!("{}-{}", last.created_at.micros(), last.id));
    let as_of = app.clock.now().rfc3339();
    let documents: Vec<_> = payments
        .iter()
        .map(|payment| PaymentDocument::of(payment, as_of.clone()))
        .collect();
    Ok(Json(serde_json::json!({ "payments": documents, "next_cursor": next })).into_response())
}

fn cursor(text: &str) -> Option<(Timestamp, PaymentId)> {
    let (micros, id) = text.rsplit_once('-')?;
    Some((
        Timestamp::from_micros(micros.parse().ok()?),
        id.parse().ok()?,
    ))
}

/// The page size.
pub(super) fn limit(query: &mut Query) -> u32 {
    let asked = query.optional("limit", |text| match text.parse() {
        Ok(limit @ 1..=PAGE_MAX) => Ok(limit),
        _ => Err(Cow::Owned(format!("must be 1 to {PAGE_MAX}"))),
    });
    asked.unwrap_or(PAGE_DEFAULT)
}

/// The accounts a token is limited to, as the ledger's queries take them.
pub(super) fn caller_accounts(caller: &Caller) -> Option<Vec<gateway_core::key::AccountName>> {
    let names = caller.accounts.as_ref()?;
    Some(
        names
            .iter()
            .map(|name| gateway_core::key::AccountName::from_stored(name))
            .collect(),
    )
}
