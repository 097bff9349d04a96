//! What the engine says, as a caller is told it by the table of answers.

use gateway_core::engine::{
    Answered, CancelOutcome, CancelProgress, Cancellation, Engine, Outcome, Refusal,
};
use gateway_core::operation::State;
use gateway_core::store::Operation;
use gateway_http::routes::documents::PaymentDocument;

use super::log::Told;

impl Told {
    fn new(status: u16, kind: &'static str) -> Self {
        Self {
            status,
            kind,
            operation: None,
            payment: None,
            body: None,
            replayed: false,
            from_record: false,
        }
    }

    /// It stays so for ever.
    pub(super) fn is_final(&self) -> bool {
        self.from_record && matches!(self.status, 201 | 402 | 410)
    }

    /// Repeating the same request is of no use.
    pub(super) fn is_refusal(&self) -> bool {
        !self.from_record && !matches!(self.status, 503 | 504) && self.kind != "payment-busy"
    }
}

pub(super) async fn of_outcome(engine: &Engine, outcome: Outcome) -> Told {
    match outcome {
        Outcome::Recorded(answered) => of_record(engine, *answered).await,
        Outcome::Refused(refusal) => of_refusal(&refusal),
    }
}

async fn of_record(engine: &Engine, answered: Answered) -> Told {
    let Answered {
        operation,
        replayed,
        ..
    } = answered;
    let told = if operation.cancel_requested_at.is_some() {
        match engine.cancellation((*operation).clone()).await {
            Ok(cancellation) => of_progress(410, &cancellation),
            Err(_) => return Told::new(503, "ledger-unavailable"),
        }
    } else {
        of_state(&operation)
    };
    Told {
        operation: Some(operation.id),
        payment: operation.payment,
        replayed,
        from_record: true,
        ..told
    }
}

/// The outcome of a key, as a look-up of it shows it.
pub(super) async fn of_look_up(engine: &Engine, operation: Operation) -> Told {
    let answered = Answered {
        operation: operation.into(),
        replayed: true,
        payment_status: None,
    };
    of_record(engine, answered).await
}

pub(super) fn of_cancel(outcome: CancelOutcome) -> Told {
    match outcome {
        CancelOutcome::Recorded(cancellation) => Told {
            operation: Some(cancellation.operation.id),
            payment: cancellation.operation.payment,
            from_record: true,
            ..of_progress(201, &cancellation)
        },
        CancelOutcome::NotACreate => Told::new(422, "not-a-create"),
        CancelOutcome::LedgerUnavailable => Told::new(503, "ledger-unavailable"),
    }
}

fn of_progress(status: u16, cancellation: &Cancellation) -> Told {
    let kind = match cancellation.progress {
        CancelProgress::Done => "cancelled, done",
        CancelProgress::Pending => "cancelled, pending",
        CancelProgress::NeedsReview => "cancelled, needs review",
    };
    Told::new(status, kind)
}

fn of_state(operation: &Operation) -> Told {
    let told = match &operation.state {
        State::Approved { .. } => Told::new(201, "approved"),
        State::Declined { .. } => Told::new(402, "declined"),
        State::Failed { .. } => Told::new(402, "failed"),
        State::Reversed { .. } => Told::new(402, "reversed"),
        State::Cancelled => Told::new(410, "cancelled, done"),
        State::NotSent { .. } => Told::new(503, "not-sent"),
        State::Recorded | State::Unknown { .. } => Told::new(504, "outcome-unknown"),
        State::Parked { .. } => Told::new(504, "needs-review"),
    };
    let body = match told.status {
        201 => {
            PaymentDocument::as_left_by(operation).map(|document| serde_json::to_string(&document))
        }
        402 => Some(serde_json::to_string(&operation.state)),
        _ => None,
    };
    Told {
        body: body.map(|body| body.expect("a document of our own is JSON")),
        ..told
    }
}

fn of_refusal(refusal: &Refusal) -> Told {
    let (status, kind) = match refusal {
        Refusal::KeyReused => (422, "idempotency-key-reused"),
        Refusal::PossibleDuplicate { .. } => (409, "possible-duplicate"),
        Refusal::PaymentBusy { .. } => (409, "payment-busy"),
        Refusal::OverLimit { .. } => (422, "over-limit"),
        Refusal::NotSettled => (409, "not-settled"),
        Refusal::AlreadySettled => (409, "already-settled"),
        Refusal::PaymentState { .. } | Refusal::NothingLeft { .. } => (409, "invalid-state"),
        Refusal::NoPayment => (404, "not-found"),
        Refusal::Unsupported { .. } | Refusal::Invalid(_) => (422, "invalid"),
        Refusal::Forbidden { .. } => (403, "forbidden"),
        Refusal::Overloaded => (503, "overloaded"),
        Refusal::Draining => (503, "draining"),
        Refusal::Quarantine => (503, "quarantined"),
        Refusal::LedgerUnavailable { .. } => (503, "ledger-unavailable"),
        Refusal::LedgerRefused => (500, "internal"),
        Refusal::UpstreamUnavailable(_) => (503, "upstream-unavailable"),
    };
    Told::new(status, kind)
}
