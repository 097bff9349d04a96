//! The OpenAPI document: what the routes declare, and what all of them share.

use std::time::Duration;

use gateway_core::payment::PaymentStatus;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::problem::Kind;

/// Schemas in which a null is an answer of ours; everywhere else an absent member is absent.
const WITH_NULLS: [&str; 4] = ["Cancellation", "PaymentList", "EventList", "Decline"];

/// Completes what the routes declare: security, headers, problems. `wait_max` is the longest `Request-Timeout`.
pub fn document(declared: &OpenApi, wait_max: Duration) -> Value {
    let mut document =
        serde_json::to_value(declared).expect("a document of strings and numbers serialises");
    document["info"] = json!({
        "title": "Quittance",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "A payment gateway: one intent under one idempotency key moves money at most once, and ends in \
                        exactly one known state. Only application/problem+json with our type is our word about a \
                        failure; any other 5xx means: outcome unknown, repeat with the same key. See /docs.",
    });
    document["security"] = json!([{ "bearer": [] }]);
    if let Some(schemas) = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut)
    {
        for (name, schema) in schemas.iter_mut() {
            if !WITH_NULLS.contains(&name.as_str()) {
                forbid_null(schema);
            }
        }
    }
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
    });
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths.iter_mut() {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                complete(path, method, operation, wait_max);
            }
        }
    }
    document
}

fn complete(path: &str, method: &str, operation: &mut Value, wait_max: Duration) {
    if !path.starts_with("/v1/") {
        operation["security"] = json!([]);
        return;
    }
    let moves_money = method == "post" && path != "/v1/cancellations";
    let parameters = operation
        .as_object_mut()
        .expect("an operation is an object");
    let parameters = parameters.entry("parameters").or_insert_with(|| json!([]));
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        add_form(parameter);
    }
    let headers = moves_money.then(key_header).into_iter();
    let headers = headers.chain([wait_header(wait_max)]);
    parameters
        .as_array_mut()
        .expect("parameters are a list")
        .extend(headers);
    let responses = operation["responses"].as_object_mut();
    let responses = responses.expect("every route declares its answers");
    for (status, kinds) in problems(path, method, moves_money) {
        responses.insert(status.to_string(), problem_response(status, &kinds));
    }
    if moves_money {
        responses.insert("200".into(), in_short());
        // The answers of a record; all others are about this request alone.
        for status in ["200", "201", "402", "410", "504"] {
            answer_headers(&mut responses[status]);
        }
    }
}

/// Bare, without a quote and without spaces around; or a string of RFC 8941, 3.3.3.
const KEY_PATTERN: &str = r#"^([!#-~]([ !#-~]{0,253}[!#-~])?|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;

const INVISIBLE: &str = r"\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb";

fn key_header() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header", "required": true,
        "description": "Names this one intent, for ever. 1 to 255 printable ASCII characters, bare or as a quoted \
                        string. Send it again with every retry.",
        "schema": { "type": "string", "minLength": 1, "maxLength": 512, "pattern": KEY_PATTERN },
    })
}

/// What a parameter that is a text to Rust may be.
fn add_form(parameter: &mut Value) {
    let form = match parameter["name"].as_str() {
        Some("idempotency_key") => {
            json!({ "minLength": 1, "maxLength": 512, "pattern": KEY_PATTERN })
        }
        Some("order_reference") => {
            // Nothing invisible, and no space at an end.
            let (inside, at_ends) = (format!("[^{INVISIBLE}]"), format!(r"[^\s{INVISIBLE}]"));
            let pattern = format!("^{at_ends}({inside}{{0,48}}{at_ends})?$");
            json!({ "minLength": 1, "maxLength": 50, "pattern": pattern })
        }
        Some("status") => json!({ "enum": PaymentStatus::ALL.map(PaymentStatus::as_str) }),
        Some("cursor") => json!({ "pattern": "^[0-9]{1,17}-pay_[0-9a-f]{32}$" }),
        Some("after") => json!({ "pattern": "^[0-9]{1,18}-[0-9]{1,18}$" }),
        _ => return,
    };
    for (name, value) in form.as_object().into_iter().flatten() {
        parameter["schema"][name] = value.clone();
    }
}

/// Whole ones as such.
fn seconds(span: Duration) -> Value {
    if span.subsec_nanos() == 0 {
        json!(span.as_secs())
    } else {
        json!(span.as_secs_f64())
    }
}

fn wait_header(wait_max: Duration) -> Value {
    json!({
        "name": "Request-Timeout", "in": "header", "required": false,
        "description": "How many seconds you wait for the answer. Ends your wait, never the work. Unless given: the \
                        account's timeout and 5 seconds; 5 where no processor is asked.",
        "schema": { "type": "number", "exclusiveMinimum": 0, "maximum": seconds(wait_max), "multipleOf": 0.001 },
    })
}

fn answer_headers(response: &mut Value) {
    for (name, description) in [
        ("Idempotent-Replayed", "`true` on a repeat."),
        (
            "Idempotency-First-Attempt",
            "On a repeat: when the key was first seen, RFC 3339.",
        ),
        (
            "Payment-State",
            "The payment's status of today, which a replayed body does not tell.",
        ),
    ] {
        response["headers"][name] =
            json!({ "description": description, "schema": { "type": "string" } });
    }
}

/// What is left of a final answer after its retention.
fn in_short() -> Value {
    let id = |description: &str| json!({ "type": ["string", "null"], "description": description });
    json!({
        "description": "A final outcome, long past: what became of the key. Nothing was executed.",
        "content": { "application/json": { "schema": {
            "type": "object",
            "required": ["operation", "payment", "verb", "state"],
            "properties": {
                "operation": { "type": "string", "description": "`op_…`" },
                "payment": id("`pay_…`; null where there is none."),
                "verb": { "$ref": "#/components/schemas/OperationVerb" },
                "state": { "$ref": "#/components/schemas/OperationState" },
            },
        } } },
    })
}

/// The problem types of a route, by status.
fn problems(path: &str, method: &str, moves_money: bool) -> Vec<(u16, Vec<Kind>)> {
    let is_create = matches!(path, "/v1/payments" | "/v1/verifications");
    let applies = |kind: Kind| match kind {
        Kind::Unauthenticated
        | Kind::Forbidden
        | Kind::RateLimited
        | Kind::Internal
        | Kind::KeysUnavailable
        | Kind::LedgerUnavailable
        | Kind::MalformedRequest => true,
        Kind::NotFound => path.contains("{id}") || path == "/v1/operations",
        Kind::PayloadTooLarge
        | Kind::UnsupportedMediaType
        | Kind::InvalidRequest
        | Kind::RequestTimeout => method == "post",
        Kind::NotCancellable => path == "/v1/cancellations",
        Kind::PossibleDuplicate => moves_money && path == "/v1/payments",
        Kind::PaymentBusy | Kind::InvalidState => moves_money && !is_create,
        Kind::NotSettled => path.ends_with("/refunds"),
        Kind::AlreadySettled => path.ends_with("/voids"),
        Kind::OverLimit => path.ends_with("/captures") || path.ends_with("/refunds"),
        Kind::IdempotencyKeyMissing
        | Kind::IdempotencyKeyInvalid
        | Kind::IdempotencyKeyReused
        | Kind::Declined
        | Kind::Duplicate
        | Kind::Failed
        | Kind::Reversed
        | Kind::Cancelled
        | Kind::Overloaded
        | Kind::UpstreamUnavailable
        | Kind::Draining
        | Kind::Quarantined
        | Kind::OutcomeUnknown
        | Kind::NeedsReview => moves_money,
        // The router's own answer: no declared route gives it.
        Kind::MethodNotAllowed => false,
    };
    let mut by_status: Vec<(u16, Vec<Kind>)> = Vec::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| applies(*kind)) {
        let status = kind.meaning().status.as_u16();
        match by_status.iter_mut().find(|(found, _)| *found == status) {
            Some((_, kinds)) => kinds.push(kind),
            None => by_status.push((status, vec![kind])),
        }
    }
    by_status
}

fn problem_response(status: u16, kinds: &[Kind]) -> Value {
    let slugs: Vec<_> = kinds
        .iter()
        .map(|kind| format!("`{}`", kind.meaning().slug))
        .collect();
    let mut response = json!({
        "description": format!("{}: see /problems", slugs.join(", ")),
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let surely = matches!(status, 429 | 503 | 504);
    if surely || kinds.contains(&Kind::PaymentBusy) {
        response["headers"]["Retry-After"] = json!({
            "description": "Seconds after which a repeat makes sense.",
            "required": surely,
            "schema": { "type": "integer", "minimum": 1 },
        });
    }
    response
}

/// Rust's `Option` is described as "or null"; our readers refuse null and our answers leave the member out.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            drop_null_type(members);
            members.values_mut().for_each(forbid_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

fn drop_null_type(members: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|name| name != "null");
        if let [single] = types.as_slice() {
            let single = single.clone();
            members.insert("type".into(), single);
        }
    }
    if let Some(Value::Array(choices)) = members.get_mut("oneOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [Value::Object(single)] = choices.as_slice() {
            let single = single.clone();
            members.remove("oneOf");
            for (name, value) in single {
                members.entry(name).or_insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
