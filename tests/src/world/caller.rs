//! A commerce service, as the gateway sees it: HTTP with a token and idempotency keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::contract::assert_declared;

/// Longer than any wait the gateway allows: a caller that hears nothing is a failed test, not a hung one.
const PATIENCE: Duration = Duration::from_secs(130);

/// One caller of one gateway.
#[derive(Clone, Debug)]
pub struct Caller {
    url: String,
    token: String,
    http: reqwest::Client,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    /// The body, or null if it is no JSON.
    pub body: Value,
}

/// Claims of a token with every scope, good for ten minutes.
pub fn claims(subject: &str) -> Value {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    json!({
        "iss": "https://issuer.test", "aud": "quittance", "sub": subject, "iat": now, "nbf": now, "exp": now + 600,
        "scope": "payments:write payments:read refunds:write operations:resolve",
    })
}

/// A card of the processor's sandbox, as callers send it.
pub fn card() -> Value {
    json!({"number": "4012000098765439", "expiry_month": 12, "expiry_year": 2030, "cvv": "999", "holder": "Jane Doe"})
}

/// A sale of `minor` US cents.
pub fn sale(minor: i64) -> Value {
    json!({
        "account": "acme-us", "amount": {"value": minor, "currency": "USD"}, "order_reference": "857B2",
        "card": card(),
        "customer": {"first_name": "Jane", "last_name": "Doe", "email": "jane@example.com",
            "address": {"line1": "107 7th Av.", "city": "New York", "state": "NY", "postal_code": "10007", "country": "US"}},
        "risk": {"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"},
        "upstream": {"expected_payments": 0},
    })
}

impl Caller {
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            http: client(None),
        }
    }

    /// The same caller, who trusts this certificate (PEM) and no other, over connections of its own.
    #[must_use]
    pub fn trusting(&self, certificate: &str) -> Self {
        Self {
            http: client(Some(certificate)),
            ..self.clone()
        }
    }

    /// The same caller at another gateway.
    #[must_use]
    pub fn at(&self, url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..self.clone()
        }
    }

    /// The same caller with another token.
    #[must_use]
    pub fn bearing(&self, token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            ..self.clone()
        }
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.post_with(path, body.to_string(), &[("idempotency-key", key)])
            .await
    }

    /// A POST that waits `seconds` at most.
    pub async fn post_waiting(&self, path: &str, key: &str, body: &Value, seconds: &str) -> Reply {
        let headers = [("idempotency-key", key), ("request-timeout", seconds)];
        self.post_with(path, body.to_string(), &headers).await
    }

    /// A POST whose headers, besides token and content type, are the test's own.
    pub async fn post_with(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
        headers: &[(&str, &str)],
    ) -> Reply {
        self.try_post_with(path, body, headers)
            .await
            .expect("an answer")
    }

    /// As [`Caller::post_with`], for a gateway that may die meanwhile.
    pub async fn try_post_with(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, reqwest::Error> {
        let mut request = self
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = read(request.send().await?).await?;
        assert_declared(&Method::POST, path, &reply);
        Ok(reply)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
    }

    /// Sends a POST over a connection of its own and reads nothing: dropping the stream is hanging up.
    pub async fn post_without_listening(&self, path: &str, key: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let host = self.url.trim_start_matches("http://");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let mut stream = TcpStream::connect(host).await.expect("a gateway");
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .expect("a gateway that reads");
        stream
    }

    /// The sum of a metric over its labels; zero where it is not shown.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let text = String::from_utf8_lossy(&text.bytes).into_owned();
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let rest = rest.starts_with(['{', ' ']).then_some(rest)?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        text.lines().filter_map(value).sum()
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask_with(Method::GET, path, &[]).await
    }

    /// A GET that waits `seconds` at most.
    pub async fn get_waiting(&self, path: &str, seconds: &str) -> Reply {
        let headers = [("request-timeout", seconds)];
        self.ask_with(Method::GET, path, &headers).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.ask_with(Method::DELETE, path, &[]).await
    }

    /// A request without a body whose headers, besides the token, are the test's own.
    pub async fn ask_with(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = self.request(method.clone(), path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let reply = read(answer).await.expect("a body");
        assert_declared(&method, path, &reply);
        reply
    }

    /// `POST /v1/payments`.
    pub async fn pay(&self, key: &str, body: &Value) -> Reply {
        self.post("/v1/payments", key, body).await
    }

    /// `POST /v1/payments`, repeated while nothing was sent: what a test needs before it begins.
    pub async fn pay_surely(&self, key: &str, body: &Value) -> Reply {
        self.until_final("/v1/payments", key, body)
            .await
            .expect(201)
    }

    /// `POST /v1/payments`, an authorization.
    pub async fn authorize(&self, key: &str, minor: i64) -> Reply {
        let mut body = sale(minor);
        body["capture"] = json!("manual");
        self.pay(key, &body).await
    }

    /// `POST /v1/payments/{payment}/captures`.
    pub async fn capture(&self, key: &str, payment: &str, minor: i64) -> Reply {
        self.post(
            &format!("/v1/payments/{payment}/captures"),
            key,
            &amount(minor),
        )
        .await
    }

    /// `POST /v1/payments/{payment}/refunds`.
    pub async fn refund(&self, key: &str, payment: &str, minor: i64) -> Reply {
        self.post(
            &format!("/v1/payments/{payment}/refunds"),
            key,
            &amount(minor),
        )
        .await
    }

    /// `POST /v1/payments/{payment}/voids`.
    pub async fn void(&self, key: &str, payment: &str) -> Reply {
        self.post(&format!("/v1/payments/{payment}/voids"), key, &json!({}))
            .await
    }

    /// `POST /v1/cancellations`.
    pub async fn cancel(&self, key: &str) -> Reply {
        let body = json!({"idempotency_key": key}).to_string();
        self.post_with("/v1/cancellations", body, &[]).await
    }

    /// `GET /v1/operations?idempotency_key=`.
    pub async fn operation(&self, key: &str) -> Reply {
        self.get(&format!("/v1/operations?idempotency_key={key}"))
            .await
    }

    /// Repeats a POST under the same key until its answer is final, as the contract asks of callers.
    pub async fn until_final(&self, path: &str, key: &str, body: &Value) -> Reply {
        let within = Duration::from_secs(45);
        let reply = crate::stack::eventually(within, "a final answer", async || {
            Some(self.post(path, key, body).await).filter(Reply::is_final)
        });
        reply.await.expect("every operation ends")
    }
}

/// The body of a capture or refund.
pub fn amount(minor: i64) -> Value {
    json!({"amount": {"value": minor, "currency": "USD"}})
}

/// An HTTP client that trusts this certificate (PEM) and no other.
pub(super) fn client(certificate: Option<&str>) -> reqwest::Client {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
    let client = match certificate {
        Some(pem) => {
            let trusted = reqwest::Certificate::from_pem(pem.as_bytes()).expect("PEM");
            client.tls_certs_only([trusted])
        }
        None => client,
    };
    client.build().expect("an HTTP client")
}

async fn read(answer: reqwest::Response) -> Result<Reply, reqwest::Error> {
    let status = answer.status().as_u16();
    let headers = answer.headers().clone();
    let bytes = answer.bytes().await?.to_vec();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Reply {
        status,
        headers,
        bytes,
        body,
    })
}

impl Reply {
    /// Nothing more will become of it.
    pub fn is_final(&self) -> bool {
        !matches!(StatusCode::from_u16(self.status), Ok(status) if status.is_server_error())
            && self.status != StatusCode::CONFLICT.as_u16()
            && self.status != StatusCode::TOO_MANY_REQUESTS.as_u16()
    }

    /// The problem's type, or nothing for a body that is none.
    pub fn problem(&self) -> &str {
        self.body["type"]
            .as_str()
            .and_then(|kind| kind.strip_prefix("/problems/"))
            .unwrap_or_default()
    }

    pub fn is_replay(&self) -> bool {
        self.headers
            .get("idempotent-replayed")
            .is_some_and(|value| value == "true")
    }

    pub fn payment(&self) -> String {
        self.body["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no payment in {self:?}"))
            .to_owned()
    }

    /// Our id of the operation, in an approval and in a problem alike.
    pub fn operation(&self) -> String {
        let id = self.body["operation"]["id"]
            .as_str()
            .or(self.body["operation"].as_str());
        id.unwrap_or_else(|| panic!("no operation in {self:?}"))
            .to_owned()
    }

    /// Fails the test unless the status is as said.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the status is often all that matters"
    )]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.bytes)
        );
        self
    }
}
