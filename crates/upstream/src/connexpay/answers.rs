//! What one answer of this processor proves about one request.
//!
//! The rule of the whole file: a yes must be complete and without contradiction; a no must be this API's own, with a
//! status, code or text that is listed; everything else proves nothing and is `Unknown`.

use gateway_core::card::{Expiry, StoredCard};
use gateway_core::connector::{
    Approval, Decline, DeclineClass, NotSent, Subject, UnknownReason, UpstreamIds, Verdict,
};
use gateway_core::money::Money;
use gateway_core::pan_scan::redact;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::codes::{self, Class, Listed};
use super::wire::Record;
use crate::scrub::Scrub;

/// Which of their transactions was asked for. A refund before settlement is a `Void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Sale,
    AuthOnly,
    Capture,
    Void,
    Return,
    Verify,
}

/// What to make of a decline whose code is in no table: regions other than the US have tables of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlistedCode {
    /// It proves nothing: the payment is looked up and reversed.
    #[default]
    Unknown,
    /// A decline, where the status says "declined", or a 422 says so in an issuer's words.
    Declined,
}

/// How far this API is trusted, by configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A 401 with this API's own body was refused before any processing.
    pub(super) trust_401: bool,
    pub(super) trust_429: bool,
    pub(super) unlisted_code: UnlistedCode,
}

/// The request that was answered.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Whose it was, for the log.
    pub(super) subject: &'a Subject,
    pub(super) shape: Shape,
    pub(super) amount: Money,
    /// The sequence number, if it was sent.
    pub(super) reference: Option<&'a str>,
    pub(super) device_guid: &'a str,
    /// The transaction that a follow-up named.
    pub(super) parent: Option<&'a str>,
    pub(super) rules: Rules,
    pub(super) scrub: Scrub<'a>,
}

/// A complete HTTP answer.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: &'a [u8],
}

impl Reply<'_> {
    /// The body as JSON text; nothing if it says, or is, something else.
    pub(super) fn json(&self) -> Option<&str> {
        let media_type = |value: &str| {
            value
                .split(';')
                .next()
                .unwrap_or("")
                .trim()
                .to_ascii_lowercase()
        };
        let is_json = self.content_type.is_none_or(|value| {
            let media_type = media_type(value);
            media_type == "application/json"
                || media_type == "text/json"
                || media_type.ends_with("+json")
        });
        let text = std::str::from_utf8(self.body).ok()?.trim();
        (is_json && !text.is_empty()).then_some(text)
    }

    /// One JSON object. serde would read an array as a struct too, field by field.
    pub(super) fn object<T: DeserializeOwned>(&self) -> Option<T> {
        let text = self.json().filter(|text| text.starts_with('{'))?;
        serde_json::from_str(text).ok()
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.object()
    }

    /// The text of this API's own error body: `{"message": …, "errorId": …}`.
    pub(super) fn own_error(&self) -> Option<String> {
        self.record().and_then(|record| record.message)
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A status text, read without case and outer or repeated spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Approved,
    Declined,
    /// Stored, the processor not yet asked.
    Created,
    /// Processor error, processor not reached, a pending 3-D Secure step, anything new.
    Other,
}

impl Status {
    pub(super) fn parse(text: &str) -> Self {
        match plain(text).as_str() {
            "transaction - approved" | APPROVED_WITH_WARNING => Self::Approved,
            "transaction - declined" => Self::Declined,
            "transaction - created - local" | "transaction - createdlocal" => Self::Created,
            _ => Self::Other,
        }
    }
}

/// A yes like the other, with which their documents ask for a line in the log.
const APPROVED_WITH_WARNING: &str = "transaction - approved - warning";

fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_ascii_lowercase()
}

/// For an approval that is taken for the outcome. Its code is one of their approvals', five characters that hold nothing
/// of the request.
pub(super) fn tell_warning(subject: &Subject, record: &Record) {
    let made = record.sale_of_capture();
    let status = record.status.as_deref();
    let status = status.or(made.and_then(|sale| sale.status.as_deref()));
    if status.is_some_and(|status| plain(status) == APPROVED_WITH_WARNING) {
        let code = record.processor_status_code.as_deref();
        let code = code.or(made.and_then(|sale| sale.processor_status_code.as_deref()));
        let code = code.filter(|code| codes::is_success(code));
        tracing::warn!(
            payment.operation.id = %subject.operation,
            payment.account = %subject.account,
            code,
            "approved with a warning"
        );
    }
}

/// The verdict on a complete answer.
pub(super) fn classify(asked: &Asked<'_>, reply: &Reply<'_>) -> Verdict {
    match reply.status {
        200..=299 => match reply.record() {
            Some(record) => {
                let verdict = transaction(asked, &record);
                if matches!(verdict, Verdict::Approved(_)) {
                    tell_warning(asked.subject, &record);
                }
                verdict
            }
            None => unusable("a success without a JSON object"),
        },
        401 if asked.rules.trust_401 => unprocessed(reply, "the access token was refused"),
        429 if asked.rules.trust_429 => unprocessed(reply, "too many requests"),
        // 403 to 415 say that nothing was executed only if it is this API that says so, in words that are listed.
        400 | 403 | 404 | 405 | 409 | 415 | 422 => refusal(asked, reply),
        status => unusable(format!("HTTP {status}")),
    }
}

fn unprocessed(reply: &Reply<'_>, why: &str) -> Verdict {
    match reply.own_error() {
        Some(_) => Verdict::NotSent(NotSent::RefusedUnprocessed {
            detail: format!("HTTP {}: {why}", reply.status),
        }),
        None => unusable(format!("HTTP {} without the API's own body", reply.status)),
    }
}

fn transaction(asked: &Asked<'_>, record: &Record) -> Verdict {
    if let Some(stranger) = stranger(asked, record) {
        return unusable(stranger);
    }
    // A newer capture answers with the full sale in the place of its own fields.
    let made = record
        .sale_of_capture()
        .filter(|_| asked.shape == Shape::Capture);
    let Some(status) = record
        .status
        .as_deref()
        .or(made.and_then(|sale| sale.status.as_deref()))
    else {
        return unusable("an answer without a status");
    };
    let processed = record
        .was_processed
        .or(made.and_then(|sale| sale.was_processed));
    let code = record.processor_status_code.as_deref();
    let code = code.or(made.and_then(|sale| sale.processor_status_code.as_deref()));
    let risk = record
        .risk_response
        .as_ref()
        .and_then(|risk| risk.response.as_deref());
    let refused_by_risk = risk.is_some_and(|response| !response.eq_ignore_ascii_case("approved"));
    match Status::parse(status) {
        Status::Approved => {
            if processed == Some(false) {
                return unusable("approved, yet not processed");
            }
            if code.is_some_and(|code| !codes::is_success(code)) {
                return unusable("approved, with a code that is no approval");
            }
            if record.risk_processing_only == Some(true) {
                return unusable("a risk check without an authorisation");
            }
            if refused_by_risk {
                return unusable("approved, yet refused by the risk check");
            }
            match approved_amount(asked, record) {
                Ok(amount) => match approval(asked.shape, record, amount, asked.scrub) {
                    Some(approval) => Verdict::Approved(approval),
                    None => unusable("approved, without an id"),
                },
                Err(contradiction) => unusable(contradiction),
            }
        }
        Status::Declined if processed == Some(true) => unusable("declined, yet processed"),
        Status::Declined if code.is_some_and(codes::is_success) => {
            unusable("declined, with a code that is an approval")
        }
        Status::Declined | Status::Created
            if refused_by_risk
                && processed != Some(true)
                && record.auth_code.is_none()
                && code.is_none_or(is_fraud) =>
        {
            Verdict::Declined(Decline {
                class: DeclineClass::Fraud,
                code: code.map(str::to_owned),
                message: "refused by the risk check".to_owned(),
            })
        }
        Status::Declined => declined(asked, code, record.processor_response_message.as_deref()),
        Status::Created => unusable("stored, and the processor not yet asked"),
        Status::Other => unusable(format!("status {:?}", asked.scrub.clean(status))),
    }
}

fn is_fraud(code: &str) -> bool {
    codes::by_code(code).is_some_and(|listed| listed.class == Class::Fraud)
}

/// What shows that the answer belongs to another request.
fn stranger(asked: &Asked<'_>, record: &Record) -> Option<&'static str> {
    let differs = |theirs: &Option<String>, ours: &str| {
        theirs
            .as_deref()
            .is_some_and(|theirs| !theirs.eq_ignore_ascii_case(ours))
    };
    if differs(&record.device_guid, asked.device_guid) {
        return Some("the answer names another device");
    }
    if asked
        .reference
        .is_some_and(|ours| differs(&record.sequence_number, ours))
    {
        return Some("the answer names another sequence number");
    }
    let parent = asked.parent?;
    let nested =
        |record: &Option<Box<Record>>| record.as_ref().and_then(|record| record.guid.clone());
    let named = match asked.shape {
        Shape::Capture => [record.auth_only_guid.clone(), nested(&record.auth_only)],
        Shape::Return => [record.sale_guid.clone(), nested(&record.sale)],
        Shape::Void => [
            record.sale_guid.clone().or(record.auth_only_guid.clone()),
            nested(&record.sale).or(nested(&record.auth_only)),
        ],
        Shape::Sale | Shape::AuthOnly | Shape::Verify => [None, None],
    };
    let other = named
        .into_iter()
        .flatten()
        .any(|guid| !guid.eq_ignore_ascii_case(parent));
    other.then_some("the answer names another parent")
}

/// What was approved, from every amount in the answer: one that differs from what was asked wins.
fn approved_amount(asked: &Asked<'_>, record: &Record) -> Result<Money, &'static str> {
    let currency = asked.amount.currency();
    let read = |amount: &super::amount::Decimal| {
        amount
            .money(currency)
            .ok_or("an amount that cannot be read")
    };
    let amounts = match asked.shape {
        Shape::Verify => return Ok(asked.amount),
        Shape::Void => {
            // The void's own answer has no amount; what it left of its parent must be nothing.
            let parent = record.sale.as_deref().or(record.auth_only.as_deref());
            let left = parent
                .and_then(|parent| parent.effective_amount.as_ref())
                .map(read)
                .transpose()?;
            let all_gone = left.is_none_or(Money::is_zero);
            return if all_gone {
                Ok(asked.amount)
            } else {
                Err("voided, yet something is left")
            };
        }
        Shape::Return => vec![&record.amount],
        Shape::Sale | Shape::AuthOnly => vec![&record.amount, &record.effective_amount],
        Shape::Capture => {
            let mut amounts = vec![&record.new_amount, &record.amount, &record.effective_amount];
            if let Some(sale) = record.sale_of_capture() {
                amounts.extend([&sale.amount, &sale.effective_amount]);
            }
            amounts
        }
    };
    let mut amounts = amounts
        .into_iter()
        .flatten()
        .map(read)
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(partial) = &record.partially_approved_amount {
        // Zero where nothing was cut.
        amounts.extend(Some(read(partial)?).filter(|amount| !amount.is_zero()));
    }
    let smallest = amounts.iter().copied().min_by_key(|amount| amount.minor());
    let largest = amounts.iter().copied().max_by_key(|amount| amount.minor());
    if let Some(smallest) = smallest.filter(|amount| amount.minor() < asked.amount.minor()) {
        return Ok(smallest);
    }
    if let Some(largest) = largest.filter(|amount| amount.minor() > asked.amount.minor()) {
        return Ok(largest);
    }
    // The status stays "approved" for a part; the code says so where the amounts do not.
    if record
        .processor_status_code
        .as_deref()
        .is_some_and(codes::is_partial)
    {
        return Err("approved in part, without saying how much");
    }
    Ok(asked.amount)
}

/// What callers and follow-ups need of an approved record; nothing without its id.
pub(super) fn approval(
    shape: Shape,
    record: &Record,
    amount: Money,
    scrub: Scrub<'_>,
) -> Option<Approval> {
    let sale = record.sale_of_capture().filter(|_| shape == Shape::Capture);
    let guid = record.guid.clone()?;
    let ids = match shape {
        Shape::Sale => UpstreamIds::default().with("sale", guid.as_str()),
        Shape::AuthOnly => UpstreamIds::default().with("authorization", guid.as_str()),
        Shape::Capture => {
            let ids = UpstreamIds::default().with("capture", guid.as_str());
            match sale.and_then(|sale| sale.guid.as_deref()) {
                Some(sale) => ids.with("sale", sale),
                None => ids,
            }
        }
        Shape::Void | Shape::Return | Shape::Verify => UpstreamIds::default(),
    };
    let auth_code = record
        .auth_code
        .as_deref()
        .or(sale.and_then(|sale| sale.auth_code.as_deref()));
    let card = record
        .card
        .as_ref()
        .filter(|_| matches!(shape, Shape::Sale | Shape::AuthOnly | Shape::Verify));
    let [auth_code, token, brand, last_four] = scrub.kept([
        auth_code.filter(|code| is_auth_code(code)),
        card.and_then(|card| card.card_number.as_deref()),
        card.and_then(|card| card.card_type.as_deref()),
        card.and_then(|card| card.last4.as_deref()),
    ]);
    let card = card.map(|card| {
        let expiry = card
            .expiration_date
            .as_deref()
            .and_then(|text| Expiry::parse(text).ok());
        StoredCard::from_answer(token, brand, last_four, expiry)
    });
    Some(Approval {
        ids,
        upstream_reference: guid,
        authorization_code: auth_code.map(str::to_owned),
        amount,
        card,
    })
}

/// Six characters by the reference; whatever else stands there must not be a card number.
fn is_auth_code(code: &str) -> bool {
    code.len() <= 16 && code.bytes().all(|b| b.is_ascii_graphic()) && redact(code) == code
}

/// A transaction whose status is "declined".
fn declined(asked: &Asked<'_>, code: Option<&str>, message: Option<&str>) -> Verdict {
    let Some(code) = code else {
        let message = message.map_or_else(
            || "declined without a code".to_owned(),
            |text| asked.scrub.clean(text),
        );
        return Verdict::Declined(Decline {
            class: DeclineClass::Soft,
            code: None,
            message,
        });
    };
    match codes::by_code(code) {
        Some(listed) => match listed.class.decline() {
            // It was the status that said no, so it is an answer, whatever the class.
            Some(class) => Verdict::Declined(Decline {
                class,
                code: Some(upper(code)),
                message: listed.message.to_owned(),
            }),
            None => unusable(format!(
                "declined for a fault of theirs, code {}",
                upper(code)
            )),
        },
        None => unlisted(asked, code, message),
    }
}

fn unlisted(asked: &Asked<'_>, code: &str, message: Option<&str>) -> Verdict {
    let code = asked.scrub.clean(code);
    if asked.rules.unlisted_code == UnlistedCode::Unknown {
        return unusable(format!("declined with the unlisted code {code}"));
    }
    let message = message.map_or_else(
        || "declined with an unlisted code".to_owned(),
        |text| asked.scrub.clean(text),
    );
    Verdict::Declined(Decline {
        class: DeclineClass::Soft,
        code: Some(code),
        message,
    })
}

/// A 4xx: a decline or a refusal, if this API says so in listed words.
fn refusal(asked: &Asked<'_>, reply: &Reply<'_>) -> Verdict {
    let Some(record) = reply.record() else {
        return unusable(format!("HTTP {} without the API's own body", reply.status));
    };
    let Some(message) = record.message.as_deref() else {
        // The transaction itself: only a no is believed with such a status.
        let verdict = transaction(asked, &record);
        return match verdict {
            Verdict::Declined(_) => verdict,
            _ => unusable(format!("HTTP {} without a text", reply.status)),
        };
    };
    match meaning(message) {
        Some((listed, code)) => match listed.class.decline() {
            Some(class) => {
                let decline = Decline {
                    class,
                    code,
                    message: listed.message.to_owned(),
                };
                if listed.class.is_decline() {
                    Verdict::Declined(decline)
                } else {
                    Verdict::Refused(decline)
                }
            }
            None => unusable(format!(
                "HTTP {}: a fault of theirs: {}",
                reply.status, listed.message
            )),
        },
        None => match codes::embedded_code(message) {
            Some(code)
                if reply.status == 422
                    && speaks_like_an_issuer(message)
                    && !codes::is_success(code) =>
            {
                unlisted(asked, code, Some(message))
            }
            _ => unusable(format!(
                "HTTP {} with an unlisted text: {}",
                reply.status,
                asked.scrub.clean(message)
            )),
        },
    }
}

/// What an error text means: by the code it names, else by its words.
pub(super) fn meaning(message: &str) -> Option<(Listed, Option<String>)> {
    match codes::embedded_code(message) {
        Some(code) => codes::by_code(code).map(|listed| (listed, Some(upper(code)))),
        None => codes::by_text(message).map(|listed| (listed, None)),
    }
}

fn speaks_like_an_issuer(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let words = [
        "declin",
        "not honor",
        "not honour",
        "insufficient",
        "exceed",
        "expired",
        "restricted",
        "not permitted",
        "issuer",
    ];
    words.iter().any(|word| message.contains(word))
}

fn upper(code: &str) -> String {
    code.trim().to_ascii_uppercase()
}

fn unusable(detail: impl Into<String>) -> Verdict {
    Verdict::Unknown(UnknownReason::Unusable {
        detail: detail.into(),
    })
}

#[cfg(test)]
mod tests;
