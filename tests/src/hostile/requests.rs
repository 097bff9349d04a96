//! Whole requests through every layer of the edge, onto a ledger in memory and a processor that says yes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use gateway_core::clock::{Clock, ManualClock, Timestamp};
use gateway_core::engine::Account;
use gateway_core::key::AccountName;
use gateway_core::lock::LocalLock;
use gateway_core::pan_scan::json_contains_pan;
use gateway_http::config::Config;
use gateway_http::gateway::{Gateway, Pieces, fingerprint_keys};
use gateway_http::problem::PROBLEM_JSON;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::processor::{ENDPOINT, NOW, SALE, Scripted, Wire, connector, runtime, script, usd};
use crate::memory_store::MemoryStore;
use crate::stack::{Algorithm, TempDir, TestKey, eventually};
use crate::world::Reply;
use crate::world::contract::assert_declared;

/// A ledger keeps everything: after so many requests there is a new one.
const REQUESTS_MAX: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// An edge, with everything behind it.
struct Edge {
    /// Before what runs in it.
    gateway: Gateway,
    router: Router,
    wire: Arc<Wire>,
    yes: Vec<Scripted>,
    token: HeaderValue,
    requests: usize,
    runtime: Runtime,
    _folder: TempDir,
}

thread_local! {
    static EDGE: RefCell<Option<Edge>> = const { RefCell::new(None) };
}

/// One request, as text: `POST /v1/payments`, its headers, an empty line, its body. A valid token is added unless it brings
/// a header of that name. Whatever is answered must be declared; what is final must be answered again.
pub(super) fn requests(data: &[u8]) {
    let Some(request) = Written::parse(data) else {
        return;
    };
    EDGE.with_borrow_mut(|edge| {
        if edge
            .as_ref()
            .is_none_or(|edge| edge.requests >= REQUESTS_MAX)
        {
            *edge = None; // Ended before another begins.
            *edge = Some(Edge::new());
        }
        let edge = edge.as_mut().expect("just made");
        let first = edge.ask(&request);
        let is_final = matches!(first.status, 201 | 402);
        if is_final && request.headers.contains_key("idempotency-key") {
            let again = edge.ask(&request);
            assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
            let is_cancellation = request.target.starts_with("/v1/cancellations");
            assert!(again.is_replay() || is_cancellation, "executed twice");
        }
    });
}

/// A request that any HTTP library would hand on.
struct Written {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Written {
    fn parse(data: &[u8]) -> Option<Self> {
        let end = data.windows(2).position(|two| two == b"\n\n");
        let (head, body) = match end {
            Some(end) => (&data[..end], &data[end + 2..]),
            None => (data, &[][..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = std::str::from_utf8(lines.next()?).ok()?;
        let (method, target) = first.split_once(' ')?;
        let mut headers = HeaderMap::new();
        for line in lines.take(32) {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
            headers.append(name, value);
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            target: target.parse::<Uri>().ok()?.path_and_query()?.to_string(),
            headers,
            body: body.to_vec(),
        })
    }
}

impl Edge {
    fn new() -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let folder = TempDir::new("hostile").expect("a folder");
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let key = TestKey::generate(Algorithm::EdDsa, "hostile");
        let text = format!(
            r#"
[server]
request_timeout_max = "300ms"
[auth]
issuer = "https://issuer.test"
audience = "quittance"
key_file = "{jwt}"
[clients.shop]
subjects = ["shop-1"]
rate_per_second = 1000000
burst = 1000000
[ledger]
url = "sqlite:///never-opened"
[keys]
fingerprint_file = "{secret}"
token_file = "{secret}"
[accounts.acme-us]
upstream = "connexpay"
base_url = "{ENDPOINT}"
currencies = ["USD"]
device_guid = "{device}"
merchant_guid = "{merchant}"
username_file = "{secret}"
password_file = "{secret}"
timeout = "100ms"
connect_timeout = "50ms"
late_arrival_horizon = "1s"
"#,
            jwt = put("jwt.pem", &key.public_pem()),
            secret = put("secret", &"5a".repeat(32)),
            device = super::processor::DEVICE,
            merchant = super::processor::MERCHANT,
        );
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
        let (connector, wire) = connector();
        let name = AccountName::parse("acme-us").expect("a name");
        let account = Account {
            name: name.clone(),
            connector: Arc::new(connector),
            endpoint: ENDPOINT.to_owned(),
            currencies: vec![usd(0).currency()],
            timeout: Duration::from_millis(100),
            late_arrival_horizon: Duration::from_secs(1),
        };
        let pieces = Pieces {
            clock: Arc::clone(&clock),
            store: Arc::new(MemoryStore::new(clock)),
            lock: Arc::new(LocalLock::new()),
            keys: Arc::new(fingerprint_keys(&config).expect("a key")),
            accounts: HashMap::from([(name, Arc::new(account))]),
            registry: Registry::default(),
        };
        let gateway = Gateway::start(config, pieces).expect("a gateway");
        let claims = json!({
            "iss": "https://issuer.test", "aud": "quittance", "sub": "shop-1", "nbf": NOW, "exp": NOW + 600,
            "scope": "payments:write payments:read refunds:write operations:resolve",
        });
        let token = HeaderValue::from_str(&format!("Bearer {}", key.mint(&claims)));
        let yes = format!(
            r#"{{"guid":"{SALE}","status":"Transaction - Approved","wasProcessed":true,"processorStatusCode":"A0000"}}"#
        );
        drop(inside);
        let mut edge = Self {
            router: gateway.router(),
            gateway,
            wire,
            yes: script(format!("200 application/json\n{yes}").as_bytes()),
            token: token.expect("base64 and dots"),
            requests: 0,
            runtime,
            _folder: folder,
        };
        edge.until_ready();
        edge
    }

    /// Its heart beats, without which it sends nothing.
    fn until_ready(&mut self) {
        let engine = Arc::clone(&self.gateway.app.engine);
        self.runtime.block_on(async {
            let beats = async || engine.is_beating().then_some(());
            let beating = eventually(PATIENCE, "the gateway's first heartbeats", beats);
            beating.await.expect("nothing keeps it from beating");
        });
    }

    fn ask(&mut self, written: &Written) -> Reply {
        self.requests += 1;
        self.wire.play(&self.yes);
        let mut request = Request::new(Body::from(written.body.clone()));
        *request.method_mut() = written.method.clone();
        *request.headers_mut() = written.headers.clone();
        *request.uri_mut() = written.target.parse().expect("parsed before");
        request
            .headers_mut()
            .entry(header::AUTHORIZATION)
            .or_insert_with(|| self.token.clone());
        let router = self.router.clone();
        let reply = self.runtime.block_on(async {
            let answer = router.oneshot(request).await.expect("infallible");
            let (parts, body) = answer.into_parts();
            let bytes = to_bytes(body, 16 << 20).await.expect("a small body");
            Reply {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
                bytes: bytes.to_vec(),
            }
        });
        check(written, &reply);
        reply
    }
}

fn check(written: &Written, reply: &Reply) {
    let Reply { status, body, .. } = reply;
    let said = || format!("{} {}: {status} {body}", written.method, written.target);
    assert_ne!(reply.status, 500, "{}", said());
    // The document about all requests has one as an example.
    if reply.status >= 400 || written.target.starts_with("/v1/") {
        assert!(!json_contains_pan(&reply.body), "a card number: {}", said());
    }
    match written.method {
        Method::GET | Method::POST | Method::DELETE => {}
        Method::HEAD => return, // Without a body there is nothing to compare.
        // `get` is none of ours: methods are told by case (RFC 9110, 9.1).
        _ => {
            assert!(matches!(reply.status, 404 | 405), "{}", said());
            return;
        }
    }
    if reply.status == 405 {
        assert!(reply.headers.contains_key(header::ALLOW), "{}", said());
    }
    assert_declared(&written.method, &written.target, reply);
    if reply.status >= 400 && reply.status != 503 {
        let kind = reply.headers.get(header::CONTENT_TYPE);
        assert!(kind.is_some_and(|kind| kind == PROBLEM_JSON), "{}", said());
        assert_eq!(reply.body["status"], reply.status, "{}", said());
        for member in ["retry", "money_moved", "title", "detail", "instance"] {
            assert!(reply.body[member].is_string(), "{member}: {}", said());
        }
    }
}
