//! The only place where an error becomes an HTTP answer: RFC 9457 problem documents.

mod kind;

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use gateway_core::connector;
use gateway_core::echo::hides_name;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

pub use kind::{Kind, Meaning, MoneyMoved, Retry};

/// The media type that makes an answer our word.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// How many faults an answer lists. A request with more is garbage, and its answer must stay small.
pub const ERROR_COUNT_MAX: usize = 64;

/// One fault of a request body, header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the body; empty for the whole body. `header:Name` and `query:name` otherwise. `*` stands
    /// for a name of the request's own that is not repeated, because it may be card data.
    pub pointer: String,
    /// Stable and machine-readable: `required`, `unknown-field`, `type`, `out-of-range`, …
    #[schema(value_type = String)]
    pub code: Cow<'static, str>,
    /// For people. Never repeats a value of the request: it might be card data.
    pub detail: String,
}

impl Fault {
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        let (pointer, mut detail) = (pointer.into(), detail.into());
        if hides_name(&pointer) {
            detail.push_str(" (`*` is a name that is not repeated here: it may be card data)");
        }
        Self {
            pointer,
            code: Cow::Borrowed(code),
            detail,
        }
    }
}

impl From<connector::Fault> for Fault {
    fn from(fault: connector::Fault) -> Self {
        Self::new(fault.pointer, fault.code, fault.detail)
    }
}

/// The instance of a problem answer, left in the response's extensions for metrics and log.
#[derive(Clone, Debug)]
pub struct Reported {
    pub kind: Kind,
    pub instance: String,
}

/// A problem answer. Boxed, because it travels in the `Err` of every handler.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    instance: Option<String>,
    retry: Retry,
    money_moved: MoneyMoved,
    errors: Vec<Fault>,
    members: Vec<(&'static str, Value)>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// `detail` is for people and must hold nothing that a caller or an upstream sent.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let meaning = kind.meaning();
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            instance: None,
            retry: meaning.retry,
            money_moved: meaning.money_moved,
            errors: Vec::new(),
            members: Vec::new(),
            retry_after: None,
        }))
    }

    /// A `422` that lists every fault.
    pub fn invalid(errors: Vec<Fault>) -> Self {
        let detail = "see errors: each names the place and the fault";
        Self::new(Kind::InvalidRequest, detail).errors_are(errors)
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn status(&self) -> StatusCode {
        self.0.kind.meaning().status
    }

    /// What it says of the money, as the document writes it.
    pub fn money_moved_name(&self) -> &'static str {
        match self.0.money_moved {
            MoneyMoved::No => "no",
            MoneyMoved::Returned => "returned",
            MoneyMoved::Unknown => "unknown",
        }
    }

    pub fn errors(&self) -> &[Fault] {
        &self.0.errors
    }

    /// At most [`ERROR_COUNT_MAX`] of them.
    #[must_use]
    pub fn errors_are(mut self, mut errors: Vec<Fault>) -> Self {
        errors.truncate(ERROR_COUNT_MAX);
        self.0.errors = errors;
        self
    }

    /// Replaces the table's advice where this answer knows better.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Replaces the table's word where this answer knows better, e.g. after the ledger was asked.
    #[must_use]
    pub fn money_moved(mut self, money_moved: MoneyMoved) -> Self {
        self.0.money_moved = money_moved;
        self
    }

    /// Names the operation, and makes its resource the `instance`: the same key then gets the same bytes.
    #[must_use]
    pub fn operation(self, operation_id: &str) -> Self {
        let mut problem = self.member("operation", operation_id);
        problem.0.instance = Some(format!("/v1/operations/{operation_id}"));
        problem
    }

    /// Why an issuer or processor said no: our class, their code.
    #[must_use]
    pub fn decline(self, class: &str, code: Option<&str>) -> Self {
        self.member(
            "decline",
            serde_json::json!({ "class": class, "code": code }),
        )
    }

    /// Adds an extension member. A later one of the same name replaces the earlier.
    #[must_use]
    pub fn member(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.members.retain(|(present, _)| *present != name);
        self.0.members.push((name, value.into()));
        self
    }

    /// Sets the `Retry-After` header, rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Sets `instance`, unless the problem already names its operation.
    #[must_use]
    pub fn instance_or(mut self, instance: impl FnOnce() -> String) -> Self {
        self.0.instance.get_or_insert_with(instance);
        self
    }

    /// The document, as it goes over the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a map with string keys always serialises")
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Inner {
            kind,
            detail,
            instance,
            retry,
            money_moved,
            errors,
            members,
            retry_after: _,
        } = &*self.0;
        let meaning = kind.meaning();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("/problems/{}", meaning.slug))?;
        map.serialize_entry("title", meaning.title)?;
        map.serialize_entry("status", &meaning.status.as_u16())?;
        map.serialize_entry("detail", detail)?;
        if let Some(instance) = instance {
            map.serialize_entry("instance", instance)?;
        }
        map.serialize_entry("retry", retry)?;
        map.serialize_entry("money_moved", money_moved)?;
        if !errors.is_empty() {
            map.serialize_entry("errors", errors)?;
        }
        for (name, value) in members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let problem = self.instance_or(|| format!("urn:uuid:{}", uuid::Uuid::now_v7()));
        let body = problem.to_bytes();
        let Inner {
            kind,
            instance,
            retry_after,
            ..
        } = *problem.0;
        let mut response = (kind.meaning().status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response.extensions_mut().insert(Reported {
            kind,
            instance: instance.unwrap_or_default(),
        });
        response
    }
}

/// What a caught panic answers. The panic's text stays in our log: it may quote what it choked on.
pub fn panic_answer(_panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    Problem::new(
        Kind::Internal,
        "the request ended in a fault of the gateway",
    )
    .into_response()
}

/// The fallback for paths nobody serves.
pub fn no_such_route() -> Ready<Problem> {
    ready(Problem::new(Kind::NotFound, "there is no such path").retry(Retry::Never))
}

/// The fallback for methods a path does not serve. (axum adds the header `Allow`.)
pub fn no_such_method() -> Ready<Problem> {
    ready(Problem::new(Kind::MethodNotAllowed, "see the header Allow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.to_bytes()).expect("JSON")
    }

    #[test]
    fn a_problem_carries_the_whole_contract() {
        let problem = Problem::new(Kind::Declined, "the issuer declined")
            .operation("op_1")
            .decline("decline_soft", Some("D2020"));
        assert_eq!(
            read(&problem),
            serde_json::json!({
                "type": "/problems/declined", "title": "The payment was declined", "status": 402,
                "detail": "the issuer declined", "instance": "/v1/operations/op_1",
                "retry": "new-key", "money_moved": "no",
                "operation": "op_1", "decline": {"class": "decline_soft", "code": "D2020"},
            })
        );
    }

    #[test]
    fn the_same_operation_gives_the_same_bytes() {
        let problem = || {
            Problem::new(Kind::Reversed, "undone")
                .operation("op_1")
                .instance_or(|| unreachable!())
        };
        assert_eq!(problem().to_bytes(), problem().to_bytes());
    }

    #[test]
    fn the_answer_has_type_and_retry_headers() {
        let problem =
            Problem::new(Kind::Overloaded, "no permit").retry_after(Duration::from_millis(1200));
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let reported = response
            .extensions()
            .get::<Reported>()
            .expect("left for the log");
        assert!(reported.instance.starts_with("urn:uuid:"));
    }

    #[test]
    fn a_later_member_replaces_an_earlier_one() {
        let problem = Problem::new(Kind::OverLimit, "too much")
            .member("available", 1)
            .member("available", 2);
        assert_eq!(read(&problem)["available"], 2);
    }

    #[tokio::test]
    async fn the_answer_to_a_panic_keeps_its_text_to_itself() {
        let response = panic_answer(Box::new("4012000098765439"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .expect("small");
        let text = std::str::from_utf8(&body).expect("UTF-8");
        assert!(
            text.contains("/problems/internal") && !text.contains("4012000098765439"),
            "{text}"
        );
    }
}
