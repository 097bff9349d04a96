//! Turns what the engine says into the one answer table: what became of the money.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use gateway_core::connector::{DeclineClass, NotSent};
use gateway_core::engine::{Answered, CancelProgress, Cancellation, Outcome, Refusal};
use gateway_core::operation::{Failure, State, Verb};
use gateway_core::store::{Operation, StoreError};
use http::{HeaderName, HeaderValue, StatusCode};

use super::documents::{OperationDocument, PaymentDocument, VerificationDocument, approval};
use crate::app::App;
use crate::patience::unanswered;
use crate::problem::{self, Kind, MoneyMoved, Problem, Retry};
use crate::telemetry;

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const IDEMPOTENCY_FIRST_ATTEMPT: HeaderName = HeaderName::from_static("idempotency-first-attempt");
const PAYMENT_STATE: HeaderName = HeaderName::from_static("payment-state");

/// A short wait for callers who come too early: what blocks them usually passes at once.
const SOON: Duration = Duration::from_secs(1);
/// The longest `Retry-After` for an open outcome.
const LATER: Duration = Duration::from_secs(30);

/// The answer to a POST that moves money.
pub async fn answer(app: &App, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Recorded(answered) => recorded(app, *answered).await,
        Outcome::Refused(refusal) => refused(refusal).into_response(),
    }
}

async fn recorded(app: &App, answered: Answered) -> Response {
    let Answered {
        operation,
        replayed,
        payment_status,
    } = answered;
    telemetry::about(operation.id);
    let mut response = if operation.cancel_requested_at.is_some() {
        // Boxed: it is rare, and would be the largest part of every request that waits.
        let cancellation = Box::pin(app.engine.cancellation((*operation).clone())).await;
        cancellation
            .map_or_else(|error| unanswered(&error), |known| cancelled(&known))
            .into_response()
    } else if is_past_retention(app, &operation) {
        in_short(&operation)
    } else {
        match by_state(&operation) {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        }
    };
    let headers = response.headers_mut();
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        if let Ok(first) = HeaderValue::from_str(&operation.first_attempt_at.rfc3339()) {
            headers.insert(IDEMPOTENCY_FIRST_ATTEMPT, first);
        }
    }
    if let Some(status) = payment_status {
        headers.insert(PAYMENT_STATE, HeaderValue::from_static(status.as_str()));
    }
    response
}

/// The body of an approval, or the problem that tells how else it stands.
fn by_state(operation: &Operation) -> Result<Response, Problem> {
    let id = operation.id.to_string();
    Err(match &operation.state {
        State::Approved { .. } if operation.verb == Verb::Verify => {
            let document = VerificationDocument {
                account: operation.account.to_string(),
                card: approval(operation).and_then(|approval| approval.card.clone()),
                operation: OperationDocument::of(operation),
                as_of: operation
                    .settled_at
                    .unwrap_or(operation.recorded_at)
                    .rfc3339(),
            };
            return Ok((StatusCode::CREATED, Json(document)).into_response());
        }
        State::Approved { .. } => {
            let Some(document) = PaymentDocument::as_left_by(operation) else {
                tracing::error!(payment.operation.id = %operation.id, "BUG: an approval without a snapshot");
                return Err(Problem::new(
                    Kind::Internal,
                    "the record of this approval is not complete",
                )
                .operation(&id));
            };
            return Ok((StatusCode::CREATED, Json(document)).into_response());
        }
        State::Declined { decline } => {
            let kind = if decline.class == DeclineClass::Duplicate {
                Kind::Duplicate
            } else {
                Kind::Declined
            };
            Problem::new(kind, decline.message.clone())
                .decline(class_name(decline.class), decline.code.as_deref())
                .operation(&id)
        }
        State::Failed { failure } => failed(failure).operation(&id),
        State::Reversed { .. } => Problem::new(
            Kind::Reversed,
            "the outcome was not learned in time, so it was undone; nothing stands",
        )
        .operation(&id),
        State::Cancelled => {
            Problem::new(Kind::Cancelled, "cancelled before anything was sent").operation(&id)
        }
        State::NotSent { not_sent } => not_sent_problem(not_sent).operation(&id),
        State::Recorded | State::Unknown { .. } => {
            open(Kind::OutcomeUnknown, "not known yet", operation)
        }
        State::Parked { .. } => open(
            Kind::NeedsReview,
            "no machine can tell; people were alerted",
            operation,
        ),
    })
}

fn open(kind: Kind, detail: &'static str, operation: &Operation) -> Problem {
    let next = operation
        .due_at
        .map_or(SOON, |due| due.since(operation.read_at));
    Problem::new(kind, detail)
        .operation(&operation.id.to_string())
        .member("resolves_by", operation.resolves_by().rfc3339())
        .retry_after(next.clamp(SOON, LATER))
}

fn failed(failure: &Failure) -> Problem {
    match failure {
        Failure::Refused { decline } => Problem::new(Kind::Failed, decline.message.clone())
            .decline(class_name(decline.class), decline.code.as_deref()),
        Failure::DidNotHappen => Problem::new(
            Kind::Failed,
            "the processor never executed it, and no longer can",
        ),
        Failure::NothingWasSent { .. } => {
            Problem::new(Kind::Failed, "nothing was sent to the processor")
        }
        Failure::NoAnswer => Problem::new(
            Kind::Failed,
            "the card check had no answer; no money was involved",
        ),
        Failure::NothingToReverse => Problem::new(Kind::Failed, "there was nothing to reverse"),
        Failure::ByPerson { .. } => {
            Problem::new(Kind::Failed, "a person found that it did not happen")
        }
    }
}

fn not_sent_problem(not_sent: &NotSent) -> Problem {
    let (kind, detail) = match not_sent {
        NotSent::Unreachable { .. } => {
            (Kind::UpstreamUnavailable, "no connection to the processor")
        }
        NotSent::PoolExhausted => (
            Kind::Overloaded,
            "no connection to the processor was free in time",
        ),
        NotSent::NoToken { .. } => (
            Kind::UpstreamUnavailable,
            "the processor gives us no access token",
        ),
        NotSent::BreakerOpen => (Kind::UpstreamUnavailable, "the account's breaker is open"),
        NotSent::ConcurrencyLimit => (
            Kind::Overloaded,
            "the account's concurrency limit is reached",
        ),
        NotSent::HeartbeatLost => (
            Kind::LedgerUnavailable,
            "this process lost touch with the ledger before it sent anything",
        ),
        NotSent::TooLate => (
            Kind::Overloaded,
            "the caller's wait ended before anything was sent",
        ),
        NotSent::CancelRequested => (Kind::Overloaded, "cancelled before anything was sent"),
        NotSent::RefusedUnprocessed { .. } => (
            Kind::UpstreamUnavailable,
            "the processor refused it unprocessed",
        ),
        NotSent::Overloaded => (Kind::Overloaded, "no permit"),
        NotSent::Stopped => (
            Kind::Draining,
            "the process stopped before it sent anything",
        ),
    };
    // Recorded, and proven not to have left: the ledger was asked.
    Problem::new(kind, detail)
        .money_moved(MoneyMoved::No)
        .retry_after(SOON)
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::KeyReused => Problem::new(
            Kind::IdempotencyKeyReused,
            "this key was used for another request; see GET /v1/operations?idempotency_key=",
        ),
        Refusal::PossibleDuplicate { operation, payment } => {
            let existing = serde_json::json!({ "operation": operation, "payment": payment });
            Problem::new(Kind::PossibleDuplicate, "this order has a live payment under another key")
                .member("existing", existing)
        }
        Refusal::PaymentBusy { with } => {
            let problem = Problem::new(Kind::PaymentBusy, "another operation of this payment is open")
                .retry_after(SOON);
            match with {
                Some(operation) => problem.member("busy_with", operation.to_string()),
                None => problem,
            }
        }
        Refusal::OverLimit { available } => {
            Problem::new(Kind::OverLimit, "settled amounts leave less than asked").member(
                "available",
                serde_json::json!({ "value": available.minor(), "currency": available.currency().code() }),
            )
        }
        Refusal::NotSettled => Problem::new(
            Kind::NotSettled,
            "part of an unsettled payment cannot be refunded; void it whole, or repeat after settlement",
        ),
        Refusal::AlreadySettled => Problem::new(
            Kind::AlreadySettled,
            "a settled payment cannot be voided; POST /v1/payments/{id}/refunds instead",
        ),
        Refusal::PaymentState { status } => {
            Problem::new(Kind::InvalidState, format!("the payment is {}", status.as_str()))
                .member("payment_status", status.as_str())
        }
        Refusal::NothingLeft { detail } => Problem::new(Kind::InvalidState, detail),
        Refusal::NoPayment => Problem::new(Kind::NotFound, "there is no such payment").retry(Retry::Never),
        Refusal::Unsupported { detail } => {
            Problem::invalid(vec![problem::Fault::new("", "unsupported", detail)]).money_moved(MoneyMoved::No)
        }
        Refusal::Forbidden { detail } => forbidden(detail),
        Refusal::Invalid(faults) => {
            Problem::invalid(faults.into_iter().map(problem::Fault::from).collect()).money_moved(MoneyMoved::No)
        }
        Refusal::Overloaded => Problem::new(Kind::Overloaded, "all places for running payments are taken")
            .money_moved(MoneyMoved::No)
            .retry_after(SOON),
        Refusal::Draining => Problem::new(Kind::Draining, "this process takes no new work")
            .money_moved(MoneyMoved::No)
            .retry_after(SOON),
        Refusal::Quarantine => Problem::new(Kind::Quarantined, "nothing new is sent until reconciliation has passed")
            .retry_after(LATER),
        Refusal::LedgerUnavailable { asked } => {
            let detail = if asked {
                "the ledger did not say whether this was recorded; nothing was sent"
            } else {
                "the ledger did not answer; nothing was sent"
            };
            Problem::new(Kind::LedgerUnavailable, detail).retry_after(SOON)
        }
        Refusal::LedgerRefused => Problem::new(Kind::Internal, "the ledger refused this record; nothing was sent"),
        Refusal::UpstreamUnavailable(not_sent) => not_sent_problem(&not_sent),
    }
}

/// What the edge lets the engine say of a payment that the token does not allow: the member `reason`.
pub(super) const FORBIDDEN_ACCOUNT: &str = "account";
pub(super) const FORBIDDEN_AMOUNT: &str = "amount";

fn forbidden(reason: String) -> Problem {
    let detail = if reason == FORBIDDEN_ACCOUNT {
        "the token does not cover the payment's account"
    } else {
        "the amount is above what the token allows"
    };
    Problem::new(Kind::Forbidden, detail).member("reason", reason)
}

/// What a POST with the key of an operation is answered with: the status, and what it says of the money.
pub async fn in_brief(
    app: &App,
    operation: &Operation,
) -> Result<(StatusCode, &'static str), StoreError> {
    if operation.cancel_requested_at.is_some() {
        let problem = cancelled(&app.engine.cancellation(operation.clone()).await?);
        return Ok((problem.status(), problem.money_moved_name()));
    }
    let (status, money_moved) = match by_state(operation) {
        Ok(response) => (response.status(), "yes"),
        Err(problem) => (problem.status(), problem.money_moved_name()),
    };
    let in_short = is_past_retention(app, operation);
    let status = if in_short { StatusCode::OK } else { status };
    Ok((status, money_moved))
}

/// The one answer to a cancelled key, with how far the undoing is.
fn cancelled(cancellation: &Cancellation) -> Problem {
    let came_back = matches!(
        cancellation.operation.state,
        State::Approved { .. } | State::Reversed { .. }
    );
    let money_moved = match (cancellation.progress, came_back) {
        (CancelProgress::Done, true) => MoneyMoved::Returned,
        (CancelProgress::Done, false) => MoneyMoved::No,
        _ => MoneyMoved::Unknown,
    };
    Problem::new(
        Kind::Cancelled,
        "this key was cancelled and will not be executed",
    )
    .operation(&cancellation.operation.id.to_string())
    .money_moved(money_moved)
    .member("reversal", progress_name(cancellation.progress))
}

/// The answer to a cancellation itself.
pub fn cancellation(cancellation: &Cancellation) -> Response {
    let operation = &cancellation.operation;
    telemetry::about(operation.id);
    let body = serde_json::json!({
        "aim": "not-charged",
        "state": progress_name(cancellation.progress),
        "idempotency_key": operation.key.as_str(),
        "operation": OperationDocument::of(operation),
        "payment": operation.payment,
        "reversal": cancellation.reversal.as_ref().map(OperationDocument::of),
        "resolves_by": (cancellation.progress != CancelProgress::Done)
            .then(|| operation.resolves_by().rfc3339()),
    });
    (StatusCode::CREATED, Json(body)).into_response()
}

fn progress_name(progress: CancelProgress) -> &'static str {
    match progress {
        CancelProgress::Done => "done",
        CancelProgress::Pending => "pending",
        CancelProgress::NeedsReview => "needs-review",
    }
}

fn is_past_retention(app: &App, operation: &Operation) -> bool {
    operation
        .settled_at
        .is_some_and(|settled| operation.read_at.since(settled) > app.retention)
}

/// After the retention: outcome and ids only, and never execution.
fn in_short(operation: &Operation) -> Response {
    let body = serde_json::json!({
        "operation": operation.id,
        "payment": operation.payment,
        "verb": operation.verb,
        "state": operation.state.name(),
    });
    (StatusCode::OK, Json(body)).into_response()
}

/// The classes as callers see them.
pub fn class_name(class: DeclineClass) -> &'static str {
    match class {
        DeclineClass::Hard => "hard",
        DeclineClass::Soft => "soft",
        DeclineClass::Fraud => "fraud",
        DeclineClass::Limit => "limit",
        DeclineClass::Duplicate => "duplicate",
        DeclineClass::InvalidRequest => "invalid-request",
        DeclineClass::Configuration => "configuration",
        DeclineClass::Authentication => "authentication",
        DeclineClass::NotFound => "not-found",
    }
}
