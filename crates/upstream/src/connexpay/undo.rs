//! Undoing a create: by its sequence number, by a void of what was found, or by a return.

use gateway_core::connector::{
    CallEvidence, Decline, DeclineClass, NotSent, ReversalForm, SendGate, Subject, Undo, Undone,
    UnknownReason, Verdict,
};
use gateway_core::money::Money;
use http::Method;

use super::amount::Major;
use super::answers::{self, Reply};
use super::client::{Outcome, Request, reply};
use super::codes::Class;
use super::requests::{self, Target};
use super::wire::TimeoutReversalRequest;
use super::{ConnexPay, body};

/// Why we void, in the processor's words.
const VOID_REASON: &str = "DEVICE_TIMEOUT";
/// The answer that alone proves a reversal, without spaces and punctuation.
const REVERSED: &str = "deviceguidandsequencenumbercombinationfoundandvoided";

pub(super) async fn reverse(
    connector: &ConnexPay,
    subject: &Subject,
    form: &ReversalForm,
    gate: &dyn SendGate,
) -> Undo {
    let mut evidence = Vec::new();
    let config = &connector.config;
    let outcome = match form {
        ReversalForm::ByReference => by_reference(connector, subject, gate, &mut evidence).await,
        ReversalForm::Void { ids } => {
            let target = match (ids.get("sale"), ids.get("authorization")) {
                (Some(sale), _) => Some(Target::Sale(sale)),
                (None, Some(authorization)) => Some(Target::Authorization(authorization)),
                (None, None) => None,
            };
            match target {
                Some(target) => {
                    let plan = requests::void(config, subject, target, Some(VOID_REASON));
                    let amount = subject.amount;
                    undone(
                        connector
                            .money(subject, &plan, amount, None, gate, &mut evidence)
                            .await,
                    )
                }
                None => refused("nothing to void is named"),
            }
        }
        ReversalForm::Refund { ids, amount } => match (
            ids.get("sale"),
            Money::new(*amount, subject.amount.currency()),
        ) {
            (Some(sale), Ok(amount)) => {
                let plan = requests::refund(config, subject, sale, Major(amount));
                undone(
                    connector
                        .money(subject, &plan, amount, None, gate, &mut evidence)
                        .await,
                )
            }
            _ => refused("nothing to return is named"),
        },
    };
    Undo { outcome, evidence }
}

/// What the answer to a void or a return means for what it should undo.
fn undone(verdict: Verdict) -> Undone {
    match verdict {
        Verdict::Approved(approval) => Undone::Done {
            upstream_reference: Some(approval.upstream_reference),
        },
        Verdict::NotSent(reason) => Undone::NotSent(reason),
        Verdict::Unknown(reason) => Undone::Unknown(reason),
        Verdict::Declined(decline) | Verdict::Refused(decline) => {
            if is_settled(&decline.message) {
                return Undone::Settled;
            }
            if is_already_undone(&decline) {
                // The next look-up sees what is left, and decides.
                return Undone::NothingFound { conclusive: false };
            }
            Undone::Refused(decline)
        }
    }
}

fn is_settled(message: &str) -> bool {
    message
        .to_ascii_lowercase()
        .starts_with("transaction already settled")
}

/// Refusals that may mean "done before": reversed or voided already, or the other form is needed by now.
fn is_already_undone(decline: &Decline) -> bool {
    let by_code = matches!(
        decline.code.as_deref(),
        Some("D0001" | "D0004" | "D0005" | "D0007" | "D0009" | "D0080" | "D0090" | "D0091")
    );
    let message = decline.message.to_ascii_lowercase();
    let by_text = ["sale has been voided", "sale has not been settled"]
        .iter()
        .any(|text| message.starts_with(text));
    by_code || by_text || decline.class == DeclineClass::Duplicate
}

async fn by_reference(
    connector: &ConnexPay,
    subject: &Subject,
    gate: &dyn SendGate,
    evidence: &mut Vec<CallEvidence>,
) -> Undone {
    let request = TimeoutReversalRequest {
        device_guid: &connector.config.device_guid,
        sequence_number: subject.reference.as_str(),
    };
    let request = Request {
        method: Method::POST,
        path: "/timeoutreversal",
        label: "POST /timeoutreversal",
        body: body::json(&request),
        timeout: connector.config.timeout,
    };
    match connector.client.send(&request, gate, evidence).await {
        Outcome::Answered(response) => {
            reversal_answer(&reply(&response), connector.config.trust_401)
        }
        Outcome::NotSent(reason) => Undone::NotSent(reason),
        Outcome::Unknown(reason) => Undone::Unknown(reason),
    }
}

/// The answer of `/timeoutreversal`: a bare JSON string when it found and voided the sale; for every other case the
/// reference says nothing.
pub(super) fn reversal_answer(reply: &Reply<'_>, trust_401: bool) -> Undone {
    let text = reply.json().and_then(text_of);
    if reply.is_success() && text.as_deref().is_some_and(is_reversed) {
        return Undone::Done {
            upstream_reference: None,
        };
    }
    let unusable = |detail: String| Undone::Unknown(UnknownReason::Unusable { detail });
    match (reply.status, text) {
        (401, Some(_)) if trust_401 => Undone::NotSent(NotSent::RefusedUnprocessed {
            detail: "HTTP 401: the access token was refused".to_owned(),
        }),
        (200..=299 | 422, Some(text)) => not_reversed(reply.status, &text),
        (200..=299 | 500..=599, _) => unusable(format!("HTTP {}", reply.status)),
        // The route is missing, or not ours to call, or somebody else answers.
        _ => Undone::NothingFound { conclusive: false },
    }
}

/// A bare string, or the message of an error body.
fn text_of(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Object(fields) => {
            let message = fields.get("message").or_else(|| fields.get("Message"))?;
            message.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn is_reversed(text: &str) -> bool {
    let letters: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    letters.eq_ignore_ascii_case(REVERSED)
}

fn not_reversed(status: u16, text: &str) -> Undone {
    if is_settled(text) {
        return Undone::Settled;
    }
    let Some((listed, code)) = answers::meaning(text) else {
        // This API's own words, and not those of a failure that it lists: it found nothing that it could void.
        return Undone::NothingFound { conclusive: true };
    };
    match listed.class {
        Class::SystemError => Undone::Unknown(UnknownReason::Unusable {
            detail: format!("HTTP {status}: {}", listed.message),
        }),
        Class::Authentication | Class::Configuration => Undone::NothingFound { conclusive: false },
        // "Approved previously": there is something, and it stands.
        Class::Duplicate if matches!(code.as_deref(), Some("D0001" | "D0080")) => {
            Undone::NothingFound { conclusive: false }
        }
        _ => Undone::NothingFound { conclusive: true },
    }
}

fn refused(message: &str) -> Undone {
    Undone::Refused(Decline {
        class: DeclineClass::InvalidRequest,
        code: None,
        message: message.to_owned(),
    })
}
