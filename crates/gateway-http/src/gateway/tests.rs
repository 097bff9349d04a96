//! The whole edge on a real ledger, without a processor: what is refused, in which words, and that it leaves nothing behind.

use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use gateway_core::clock::{Clock, ManualClock, SystemClock};
use gateway_core::key::{Client, IdempotencyKey};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::assemble::{Seams, pieces};
use crate::auth::Scope;
use crate::auth::mint::{SigningKey, Wanted};

/// A gateway in a folder of its own. Its one account leads to a port that nobody serves.
struct World {
    gateway: Gateway,
    key: SigningKey,
    folder: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn world(more: &str) -> World {
    world_with(more, Seams::default()).await
}

async fn world_with(more: &str, seams: Seams) -> World {
    let folder =
        std::env::temp_dir().join(format!("quittance-edge-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).expect("made");
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let text = format!(
        r#"
[auth]
issuer = "https://idp.test"
audience = "quittance"
key_file = "{jwt}"
[clients.shop]
subjects = ["pod"]
rate_per_second = 1
burst = 200
[ledger]
url = "sqlite://{ledger}"
[keys]
fingerprint_file = "{fingerprint}"
token_file = "{token}"
[accounts.acme-us]
upstream = "connexpay"
base_url = "http://127.0.0.1:9/api/v1"
currencies = ["USD"]
device_guid = "8ec1c40b-0c00-4a57-a9c7-7800bd52c308"
merchant_guid = "4aa19b68-910e-4e27-b62d-260235935fcd"
username_file = "{token}"
password_file = "{token}"
late_arrival_horizon = "30m"
{more}
"#,
        jwt = put("jwt.pem", &pair.public_key_pem()),
        ledger = folder.join("ledger.db").display(),
        fingerprint = put("fingerprint", &"5a".repeat(32)),
        token = put("token", &"c3".repeat(32)),
    );
    let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let pieces = pieces(&config, seams).await.expect("pieces");
    pieces.store.migrate().await.expect("migrated");
    let gateway = Gateway::start(config, pieces).expect("started");
    World {
        gateway,
        key: SigningKey::from_pem(&pair.serialize_pem()).expect("a key"),
        folder,
    }
}

fn claims() -> Wanted {
    Wanted {
        issuer: "https://idp.test".into(),
        audience: "quittance".into(),
        subject: "pod".into(),
        scopes: Scope::ALL.to_vec(),
        lifetime: Duration::from_mins(5),
        accounts: None,
        max_amount: [].into(),
    }
}

fn sale() -> Value {
    json!({"account": "acme-us", "amount": {"value": 100, "currency": "USD"},
           "card": {"number": "4012000098765439", "expiry_month": 12, "expiry_year": 2098, "cvv": "999"},
           "risk": {"gender": "F", "product_type": "Flight", "product_item": "1"},
           "upstream": {"expected_payments": 0}})
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

impl Answer {
    fn slug(&self) -> &str {
        assert_eq!(self.headers[CONTENT_TYPE], problem::PROBLEM_JSON);
        self.body["type"]
            .as_str()
            .and_then(|text| text.strip_prefix("/problems/"))
            .expect("our type")
    }
}

impl World {
    fn token(&self, wanted: &Wanted) -> String {
        format!("Bearer {}", self.key.sign(wanted, SystemClock.now()))
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self
            .gateway
            .router()
            .oneshot(request)
            .await
            .expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10_000_000).await.expect("small");
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// A charge under `key`, with one header or the body replaced.
    async fn charge(&self, key: &str, claims: &Wanted, body: Vec<u8>) -> Answer {
        let request = Request::post("/v1/payments")
            .header("authorization", self.token(claims))
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .body(Body::from(body));
        self.ask(request.expect("a request")).await
    }

    async fn knows(&self, key: &str) -> bool {
        let key = IdempotencyKey::parse(key).expect("a key");
        let found = self
            .gateway
            .app
            .engine
            .store()
            .operation_by_key(&Client::from_stored("shop"), &key)
            .await;
        found.expect("readable").is_some()
    }
}

#[tokio::test]
async fn what_is_refused_is_told_and_claims_no_key() {
    let world = world("").await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = sale();
        change(&mut body);
        body.to_string().into_bytes()
    };
    let all = claims();
    let limited = Wanted {
        max_amount: [("USD".to_owned(), 99)].into(),
        ..claims()
    };
    let other_currency = Wanted {
        max_amount: [("EUR".to_owned(), 99)].into(),
        ..claims()
    };
    let other_account = Wanted {
        accounts: Some(vec!["acme-eu".into()]),
        ..claims()
    };
    let reader = Wanted {
        scopes: vec![Scope::PaymentsRead],
        ..claims()
    };
    let stranger = Wanted {
        subject: "stranger".into(),
        ..claims()
    };
    let expired_card = |body: &mut Value| {
        body["card"]["expiry_year"] = 2001.into();
    };
    let cases: [(&str, &Wanted, Vec<u8>, u16, &str); 12] = [
        ("broken", &all, b"{".to_vec(), 400, "malformed-request"),
        (
            "huge",
            &all,
            vec![b' '; 10_000_000],
            413,
            "payload-too-large",
        ),
        (
            "deep",
            &all,
            "[".repeat(30_000).into_bytes(),
            400,
            "malformed-request",
        ),
        (
            "faults",
            &all,
            with(&|body| body["amount"]["value"] = 0.into()),
            422,
            "invalid-request",
        ),
        (
            "account",
            &all,
            with(&|body| body["account"] = "acme-xx".into()),
            422,
            "invalid-request",
        ),
        (
            "currency",
            &all,
            with(&|body| body["amount"]["currency"] = "EUR".into()),
            422,
            "invalid-request",
        ),
        ("expired", &all, with(&expired_card), 422, "invalid-request"),
        ("limit", &limited, with(&|_| ()), 403, "forbidden"),
        ("unlisted", &other_currency, with(&|_| ()), 403, "forbidden"),
        ("uncovered", &other_account, with(&|_| ()), 403, "forbidden"),
        ("scope", &reader, with(&|_| ()), 403, "forbidden"),
        ("client", &stranger, with(&|_| ()), 403, "forbidden"),
    ];
    for (key, claims, body, status, slug) in cases {
        let answer = world.charge(key, claims, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.slug()),
            (status, slug),
            "{key}: {}",
            answer.body
        );
        assert!(!world.knows(key).await, "{key}");
    }
    let answer = world
        .charge(
            "several",
            &all,
            with(&|body| body["customer"] = json!({"x": 1, "email": "?"})),
        )
        .await;
    assert_eq!(
        answer.body["errors"].as_array().map(Vec::len),
        Some(2),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn headers_are_asked_for_by_name() {
    let world = world("").await;
    let ask = async |change: &dyn Fn(&mut http::HeaderMap)| {
        let mut request = Request::post("/v1/payments")
            .body(Body::from(sale().to_string()))
            .expect("a request");
        let headers = request.headers_mut();
        headers.insert(
            "authorization",
            world.token(&claims()).parse().expect("a value"),
        );
        headers.insert("idempotency-key", "k".parse().expect("a value"));
        headers.insert("content-type", "application/json".parse().expect("a value"));
        change(headers);
        let answer = world.ask(request).await;
        (
            answer.status.as_u16(),
            answer.slug().to_owned(),
            answer.headers,
        )
    };
    for (name, value, status, slug) in [
        ("authorization", None, 401, "unauthenticated"),
        (
            "authorization",
            Some("Bearer x.y.z"),
            401,
            "unauthenticated",
        ),
        ("idempotency-key", None, 400, "idempotency-key-missing"),
        (
            "idempotency-key",
            Some("\""),
            400,
            "idempotency-key-invalid",
        ),
        (
            "idempotency-key",
            Some("4012000098765439"),
            422,
            "invalid-request",
        ),
        ("content-type", None, 415, "unsupported-media-type"),
        (
            "content-type",
            Some("text/plain"),
            415,
            "unsupported-media-type",
        ),
        ("request-timeout", Some("0"), 400, "malformed-request"),
        ("request-timeout", Some("121"), 400, "malformed-request"),
    ] {
        let (found, found_slug, headers) = ask(&|headers| {
            headers.remove(name);
            if let Some(value) = value {
                headers.insert(name, value.parse().expect("a value"));
            }
        })
        .await;
        assert_eq!(
            (found, found_slug.as_str()),
            (status, slug),
            "{name}: {value:?}"
        );
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    }
    let (status, slug, _) = ask(&|headers| {
        headers.append("idempotency-key", "k".parse().expect("a value"));
    })
    .await;
    assert_eq!((status, slug.as_str()), (400, "idempotency-key-invalid"));
    assert!(!world.knows("k").await);
}

#[tokio::test]
async fn routes_speak_problems_and_pages() {
    let world = world("").await;
    let get = async |path: &str| {
        world
            .ask(Request::get(path).body(Body::empty()).expect("a request"))
            .await
    };
    for (path, status) in [
        ("/healthz", 200),
        ("/openapi.json", 200),
        ("/docs", 200),
        ("/problems", 200),
        ("/metrics", 200),
    ] {
        assert_eq!(get(path).await.status.as_u16(), status, "{path}");
    }
    assert_eq!(get("/nowhere").await.slug(), "not-found");
    assert_eq!(get("/v1/captures").await.slug(), "not-found");
    let refused = get("/v1/cancellations").await;
    assert_eq!(
        (refused.slug(), &refused.headers["allow"]),
        ("method-not-allowed", &"POST".parse().expect("a value"))
    );
    assert_eq!(get("/v1/payments/%FF").await.slug(), "malformed-request");
    assert_eq!(get("/v1/payments").await.slug(), "unauthenticated");
    let document = get("/openapi.json").await.body;
    for path in document["paths"].as_object().expect("paths").keys() {
        let described = path.replace("{id}", "x");
        assert_ne!(
            get(&described).await.status,
            StatusCode::NOT_FOUND,
            "{path} is described but not served"
        );
    }
}

#[tokio::test]
async fn a_clients_rate_is_a_429_that_says_when() {
    // It stands still: between two requests of a busy machine nobody earns a third.
    let seams = Seams {
        clock: Arc::new(ManualClock::new(SystemClock.now())),
        ..Seams::default()
    };
    let slow = "[clients.slow]\nsubjects = [\"slow\"]\nrate_per_second = 1\nburst = 1\n";
    let world = world_with(slow, seams).await;
    let slow = Wanted {
        subject: "slow".into(),
        ..claims()
    };
    let list = async |wanted: &Wanted| {
        let request = Request::get("/v1/payments")
            .header("authorization", world.token(wanted))
            .body(Body::empty());
        world.ask(request.expect("a request")).await
    };
    assert_eq!(list(&slow).await.status, StatusCode::OK);
    let refused = list(&slow).await;
    assert_eq!(
        (refused.slug(), &refused.headers["retry-after"]),
        ("rate-limited", &"1".parse().expect("a value"))
    );
    assert_eq!(
        list(&claims()).await.status,
        StatusCode::OK,
        "another client is not held up"
    );
}

#[tokio::test]
async fn a_draining_process_answers_known_keys_and_takes_no_new_ones() {
    let world = world("").await;
    // Nobody serves the account's port: recorded, and proven not to have left.
    let unreachable = world
        .charge("known", &claims(), sale().to_string().into_bytes())
        .await;
    assert_eq!(
        (unreachable.slug(), &unreachable.body["money_moved"]),
        ("upstream-unavailable", &json!("no"))
    );
    assert!(world.knows("known").await);
    world.gateway.app.engine.begin_drain();
    let refused = world
        .charge("new", &claims(), sale().to_string().into_bytes())
        .await;
    assert_eq!(
        (refused.slug(), &refused.body["retry"]),
        ("draining", &json!("same-key"))
    );
    assert!(!world.knows("new").await);
    let ready = world
        .ask(
            Request::get("/readyz")
                .body(Body::empty())
                .expect("a request"),
        )
        .await;
    assert_eq!(
        (ready.status, &ready.body["draining"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!(true))
    );
    let request = Request::get("/v1/operations?idempotency_key=known")
        .header("authorization", world.token(&claims()))
        .body(Body::empty());
    let told = world.ask(request.expect("a request")).await;
    assert_eq!(
        (told.status, &told.body["state"]),
        (StatusCode::OK, &json!("not_sent"))
    );
}

#[tokio::test]
async fn a_cancelled_key_that_was_never_seen_stays_unseen() {
    let world = world("").await;
    let request = Request::post("/v1/cancellations")
        .header("authorization", world.token(&claims()))
        .header("content-type", "application/json")
        .body(Body::from(r#"{"idempotency_key":"late"}"#));
    let cancelled = world.ask(request.expect("a request")).await;
    assert_eq!(
        (cancelled.status, &cancelled.body["state"]),
        (StatusCode::CREATED, &json!("done")),
        "{}",
        cancelled.body
    );
    let late = world
        .charge("late", &claims(), sale().to_string().into_bytes())
        .await;
    assert_eq!(
        (late.status, late.slug()),
        (StatusCode::GONE, "cancelled"),
        "{}",
        late.body
    );
    assert_eq!(
        (&late.body["money_moved"], &late.body["reversal"]),
        (&json!("no"), &json!("done"))
    );
}
