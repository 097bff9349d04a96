//! Reads what a request carries besides its meaning: headers, query, and the bytes of its body.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use gateway_core::echo::shown_name;
use gateway_core::key::{IdempotencyKey, KeyError};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::problem::{Fault, Kind, Problem};

/// The header that names an intent.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header that says how long the caller waits.
pub const REQUEST_TIMEOUT: &str = "request-timeout";

/// How much of a body that is too large is read and thrown away, so that its sender hears why instead of a reset.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The key of a request that moves money.
pub fn idempotency_key(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Err(Problem::new(
            Kind::IdempotencyKeyMissing,
            "send one Idempotency-Key header",
        ));
    };
    let refused = |detail: Cow<'static, str>| Problem::new(Kind::IdempotencyKeyInvalid, detail);
    if values.next().is_some() {
        return Err(refused(
            "there is more than one Idempotency-Key header".into(),
        ));
    }
    let text = value
        .to_str()
        .map_err(|_| refused("the key must be printable ASCII".into()))?;
    IdempotencyKey::parse(text).map_err(|error| match error {
        KeyError::ContainsPan => Problem::invalid(vec![Fault::new(
            "header:Idempotency-Key",
            "card-number",
            "must not hold a card number",
        )]),
        other => refused(format!("the key: {other}").into()),
    })
}

/// How long the caller waits: seconds, up to three decimals, above zero and at most `max`.
pub fn request_timeout(headers: &HeaderMap, max: Duration) -> Result<Option<Duration>, Problem> {
    let mut values = headers.get_all(REQUEST_TIMEOUT).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let wait = value
        .to_str()
        .ok()
        .filter(|_| values.next().is_none())
        .and_then(seconds);
    match wait {
        Some(wait) if !wait.is_zero() && wait <= max => Ok(Some(wait)),
        _ => {
            let detail = format!(
                "must be one number of seconds above 0 and at most {}",
                max.as_secs()
            );
            let problem = Problem::new(
                Kind::MalformedRequest,
                "the header Request-Timeout cannot be used",
            );
            Err(problem.errors_are(vec![Fault::new(
                "header:Request-Timeout",
                "out-of-range",
                detail,
            )]))
        }
    }
}

/// Digits, and perhaps a point and up to three more. No sign, exponent, infinity.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str, count_max: usize| {
        (1..=count_max).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !digits(whole, 6) || !digits(fraction, 3) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").parse().ok()?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_millis(millis))
}

/// Bounds on the body of a request.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Beyond it: `413`.
    pub bytes_max: usize,
    /// From the end of the headers to the end of the body. Beyond it: `408`.
    pub read_timeout: Duration,
}

/// The bytes of a JSON body.
pub async fn json_body(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
) -> Result<Bytes, Problem> {
    require_json(headers)?;
    tokio::time::timeout(limits.read_timeout, collect(body, limits.bytes_max))
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                Kind::RequestTimeout,
                "the body did not arrive in time",
            ))
        })
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let error = match Limited::new(&mut body, bytes_max).collect().await {
        Ok(whole) => return Ok(whole.to_bytes()),
        Err(error) => error,
    };
    if !error.is::<LengthLimitError>() {
        return Err(Problem::new(Kind::MalformedRequest, "the body broke off"));
    }
    let mut left = DISCARDED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    Err(
        Problem::new(Kind::PayloadTooLarge, "the body is larger than bytes_max")
            .member("bytes_max", bytes_max),
    )
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: &'static str| Err(Problem::new(Kind::UnsupportedMediaType, detail));
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else {
        return refused("send one Content-Type header");
    };
    let text = value.to_str().unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    if !parts
        .next()
        .is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
    {
        return refused("the body must be application/json");
    }
    // RFC 8259, 8.1: JSON between systems is UTF-8. The parameter is undefined but often sent.
    let is_utf8 = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !name.eq_ignore_ascii_case("charset")
            || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    if !parts.all(is_utf8) {
        return refused("the body must be UTF-8");
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            refused("the body must not be compressed")
        }
        _ => Ok(()),
    }
}

/// The parameters of a query string. Take each known one, then call [`Query::finish`].
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self {
            pairs: pairs.into_owned().collect(),
            faults: Vec::new(),
        }
    }

    /// A parameter that may be absent, read by `read`, whose error says what is wrong.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, Cow<'static, str>>,
    ) -> Option<T> {
        let mut found = self.pairs.extract_if(.., |(present, _)| present == name);
        let (_, value) = found.next()?;
        if found.count() > 0 {
            self.refuse(name, "repeated", "must occur once");
            return None;
        }
        match read(&value) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.refuse(name, "form", detail);
                None
            }
        }
    }

    /// A parameter that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, Cow<'static, str>>,
    ) -> Option<T> {
        if !self.pairs.iter().any(|(present, _)| present == name) {
            self.refuse(name, "required", "is required");
        }
        self.optional(name, read)
    }

    pub fn refuse(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.faults
            .push(Fault::new(format!("query:{name}"), code, detail));
    }

    /// All faults at once: those found so far, and what nobody took.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs).iter().take(8) {
            self.refuse(
                shown_name(name),
                "unknown-parameter",
                "is not a known parameter here",
            );
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let problem = Problem::new(Kind::MalformedRequest, "the query has faults; see errors");
        Err(problem.errors_are(self.faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    fn key_kind(values: &[&str]) -> Kind {
        let pairs: Vec<_> = values
            .iter()
            .map(|value| (IDEMPOTENCY_KEY, *value))
            .collect();
        idempotency_key(&headers(&pairs))
            .expect_err("refused")
            .kind()
    }

    #[test]
    fn the_key_is_one_header_bare_or_quoted() {
        let bare = idempotency_key(&headers(&[(IDEMPOTENCY_KEY, "order-7")])).expect("a key");
        let quoted = idempotency_key(&headers(&[(IDEMPOTENCY_KEY, "\"order-7\"")])).expect("a key");
        assert_eq!(bare, quoted);
        assert_eq!(key_kind(&[]), Kind::IdempotencyKeyMissing);
        assert_eq!(key_kind(&[""]), Kind::IdempotencyKeyInvalid);
        assert_eq!(key_kind(&["a", "a"]), Kind::IdempotencyKeyInvalid);
        assert_eq!(key_kind(&["\"a"]), Kind::IdempotencyKeyInvalid);
        assert_eq!(key_kind(&["é"]), Kind::IdempotencyKeyInvalid);
        assert_eq!(key_kind(&[&"x".repeat(256)]), Kind::IdempotencyKeyInvalid);
        assert_eq!(
            key_kind(&["4012000098765439"]),
            Kind::InvalidRequest,
            "a card number is 422"
        );
    }

    #[test]
    fn the_wait_is_a_bounded_number_of_seconds() {
        let max = Duration::from_mins(2);
        let read = |value: &str| request_timeout(&headers(&[(REQUEST_TIMEOUT, value)]), max);
        assert_eq!(
            request_timeout(&HeaderMap::new(), max).expect("absent is fine"),
            None
        );
        assert_eq!(read("120").expect("seconds"), Some(max));
        assert_eq!(
            read("0.25").expect("seconds"),
            Some(Duration::from_millis(250))
        );
        for refused in [
            "", "0", "0.000", "120.001", "121", "-1", "+1", "1e1", "inf", "1.", ".5", "1.0000",
            "1 ",
        ] {
            assert!(read(refused).is_err(), "{refused:?}");
        }
        let twice = headers(&[(REQUEST_TIMEOUT, "1"), (REQUEST_TIMEOUT, "1")]);
        assert!(request_timeout(&twice, max).is_err());
    }

    const LIMITS: BodyLimits = BodyLimits {
        bytes_max: 8,
        read_timeout: Duration::from_secs(10),
    };

    async fn body_kind(pairs: &[(&'static str, &str)], body: Body) -> Kind {
        json_body(&headers(pairs), body, LIMITS)
            .await
            .expect_err("refused")
            .kind()
    }

    #[tokio::test(start_paused = true)]
    async fn the_body_is_json_small_and_quick() {
        let json = ("content-type", "application/json");
        let utf8 = ("content-type", "Application/JSON; charset=\"UTF-8\"");
        for headers_of_json in [json, utf8] {
            let read =
                json_body(&headers(&[headers_of_json]), Body::from("12345678"), LIMITS).await;
            assert_eq!(read.expect("read"), "12345678");
        }
        let unsupported: [&[_]; 6] = [
            &[],
            &[("content-type", "text/json")],
            &[("content-type", "application/json; charset=latin1")],
            &[json, json],
            &[json, ("content-encoding", "gzip")],
            &[("content-type", "application/x-www-form-urlencoded")],
        ];
        for pairs in unsupported {
            assert_eq!(
                body_kind(pairs, Body::from("{}")).await,
                Kind::UnsupportedMediaType,
                "{pairs:?}"
            );
        }
        assert_eq!(
            body_kind(&[json], Body::from("123456789")).await,
            Kind::PayloadTooLarge
        );
        let endless = Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>("x".repeat(65_536))
        }));
        assert_eq!(body_kind(&[json], endless).await, Kind::PayloadTooLarge);
        let silent = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(body_kind(&[json], silent).await, Kind::RequestTimeout);
        let broken = Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(
            std::io::Error::other("gone"),
        )]));
        assert_eq!(body_kind(&[json], broken).await, Kind::MalformedRequest);
    }

    #[test]
    fn a_query_names_every_fault() {
        let number = |text: &str| {
            text.parse::<u8>()
                .map_err(|_| Cow::Borrowed("must be a small number"))
        };
        let mut good = Query::parse(Some("a=1&b=%32"));
        assert_eq!(
            (good.required("a", number), good.optional("b", number)),
            (Some(1), Some(2))
        );
        assert!(good.finish().is_ok());

        let mut bad = Query::parse(Some("a=x&b=1&b=2&4012000098765439=1"));
        assert_eq!(bad.required("a", number), None);
        assert_eq!(bad.optional("b", number), None);
        assert_eq!(bad.required("c", number), None);
        let problem = bad.finish().expect_err("faults");
        let codes: Vec<_> = problem
            .errors()
            .iter()
            .map(|fault| fault.code.as_ref())
            .collect();
        assert_eq!(codes, ["form", "repeated", "required", "unknown-parameter"]);
        assert!(
            !String::from_utf8(problem.to_bytes())
                .expect("UTF-8")
                .contains("4012")
        );
    }
}
