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
use crate::pool::Transport;

/// The answer that alone proves a reversal, without spaces and punctuation.
const REVERSED: &str = "deviceguidandsequencenumbercombinationfoundandvoided";

pub(super) async fn reverse(
    connector: &ConnexPay<impl Transport>,
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
                    let plan = requests::void(config, target, None);
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
                // The create's own number must not be used twice; this form is sent at most once.
                let plan = requests::refund(
                    config,
                    sale,
                    Major(amount),
                    format!("{}R", subject.reference),
                );
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
    connector: &ConnexPay<impl Transport>,
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
        Outcome::Answered(response, _) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Undone {
        let reply = Reply {
            status,
            content_type: Some(content_type),
            body: body.as_bytes(),
        };
        reversal_answer(&reply, true)
    }

    fn json(status: u16, body: &str) -> Undone {
        answer(status, "application/json; charset=utf-8", body)
    }

    fn error(status: u16, message: &str) -> Undone {
        json(
            status,
            &serde_json::json!({"message": message, "errorId": null}).to_string(),
        )
    }

    #[test]
    fn only_the_success_text_is_a_reversal() {
        let done = Undone::Done {
            upstream_reference: None,
        };
        let text = "Device Guid and Sequence Number combination found and voided.";
        assert_eq!(json(200, &format!("{text:?}")), done);
        assert_eq!(
            json(
                201,
                "\" device guid and  sequence number combination found and VOIDED \""
            ),
            done
        );
        assert_eq!(error(200, text), done);
        for body in [
            "\"Combination found\"",
            "\"Device Guid and Sequence Number combination not found and voided.\"",
        ] {
            assert_eq!(json(200, body), Undone::NothingFound { conclusive: true });
        }
        assert_ne!(json(422, &format!("{text:?}")), done);
        assert_ne!(json(500, &format!("{text:?}")), done);
        assert_ne!(answer(200, "text/html", &format!("{text:?}")), done);
    }

    #[test]
    fn nothing_found_is_conclusive_only_in_this_apis_own_words() {
        let conclusive = Undone::NothingFound { conclusive: true };
        assert_eq!(
            error(422, "No Sale could be found for the given Id"),
            conclusive
        );
        assert_eq!(
            error(422, "Sale cannot be voided because it was not processed"),
            conclusive
        );
        assert_eq!(
            error(
                422,
                "Error code D0009. Duplicate Request (Reversed previously)"
            ),
            conclusive
        );
        assert_eq!(error(422, "Something that no list has"), conclusive);
        let open = Undone::NothingFound { conclusive: false };
        assert_eq!(
            error(
                422,
                "Error code D0001. Duplicate Request (Approved previously)"
            ),
            open
        );
        assert_eq!(error(422, "Error code E0010. Inactive Device"), open);
        assert_eq!(
            error(422, "The user does not have permission to do this"),
            open
        );
        assert_eq!(error(404, "No HTTP resource was found"), open);
        assert_eq!(error(400, "The request is invalid."), open);
        assert_eq!(answer(404, "text/html", "<html>"), open);
        assert_eq!(answer(422, "text/html", "<html>"), open);
        assert_eq!(json(422, "[]"), open);
    }

    #[test]
    fn failures_and_settlement_are_told_apart() {
        assert_eq!(error(422, "Transaction already settled"), Undone::Settled);
        let own = "Authorization has been denied for this request.";
        assert!(matches!(
            error(401, own),
            Undone::NotSent(NotSent::RefusedUnprocessed { .. })
        ));
        assert_eq!(
            answer(401, "text/html", own),
            Undone::NothingFound { conclusive: false }
        );
        for undone in [
            error(422, "Error code E0910. Time out"),
            error(500, "There was a database error"),
            json(200, "{}"),
            json(200, ""),
            answer(200, "text/html", "<html>"),
            answer(502, "text/html", "<html>"),
        ] {
            assert!(
                matches!(undone, Undone::Unknown(UnknownReason::Unusable { .. })),
                "{undone:?}"
            );
        }
    }
}
