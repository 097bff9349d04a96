//! A processor that answers by script over real sockets, and a connector that talks to it.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::card::{CardSource, Cvv, Expiry, Pan, Sensitive};
use gateway_core::clock::{Clock, SystemClock, Timestamp};
use gateway_core::connector::{Customer, NotSent, Payer, Prepared, SendGate, Subject, UpstreamIds};
use gateway_core::key::{AccountName, OperationId, StatementDescriptor, UpstreamReference};
use gateway_core::lock::LocalLock;
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use gateway_core::token::{TokenKeeper, TokenKey, TokenOptions};
use gateway_upstream::connexpay::{
    ConnexPay, ConnexPayConfig, ConnexPayParts, ConnexPayTokens, Credentials, Login,
};
use gateway_upstream::pool::{
    Breaker, BreakerConfig, Limit, LimitConfig, Pool, PoolConfig, PoolMetrics,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const DEVICE: &str = "8ec1c40b-0c00-4a57-a9c7-7800bd52c308";
pub(crate) const MERCHANT: &str = "19344275-985e-4dff-81ee-cb84b8ad356c";
pub(crate) const REFERENCE: &str = "7Q4M0ZK2T9B1XW5RC";
pub(crate) const CREATE: &str = "0CREATE0000000001";
pub(crate) const CONTROL: &str = "0CONTROL000000001";
pub(crate) const PAN: &str = "4012000098765439";

pub(crate) const SALE: &str = "59344814-87c2-4a62-9859-9b0f5ecadf1e";
pub(crate) const AUTH: &str = "9d973cf7-4e18-4b5d-879f-04940ce237a5";
pub(crate) const CAPTURE: &str = "cf05ed0a-f9df-4e62-b613-61323a37c14e";
pub(crate) const OTHER: &str = "26613acb-7b7f-4b42-ae3d-1f8eb113729d";

/// A request as the processor received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) call: String,
    pub(crate) token: String,
    pub(crate) text: String,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// What the processor does with a request.
pub(crate) enum Reply {
    Json(u16, String),
    Html(u16),
    Empty(u16),
    /// Reads it, and says nothing.
    Hang,
    /// Reads it, and closes.
    Close,
}

pub(crate) fn ok(body: &Value) -> Reply {
    Reply::Json(200, body.to_string())
}

pub(crate) fn error(status: u16, message: &str) -> Reply {
    Reply::Json(
        status,
        json!({"message": message, "errorId": null}).to_string(),
    )
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// The two ends, and what went between them.
pub(crate) struct World {
    pub(crate) connector: ConnexPay,
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// While one thread's subscriber is the only one, the thread that first reaches a line that logs decides for all whether
/// anybody listens there. With one for the whole process besides, `tracing` asks both.
static LISTENING: LazyLock<()> = LazyLock::new(|| {
    tracing::subscriber::set_global_default(tracing_subscriber::registry()).expect("the only one");
});

impl World {
    pub(crate) async fn new(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(|_| {}, script).await
    }

    pub(crate) async fn with(
        change: impl FnOnce(&mut ConnexPayConfig),
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        LazyLock::force(&LISTENING);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let endpoint = serve(Arc::clone(&seen), Arc::new(script)).await;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = PoolMetrics::register(&mut Registry::default());
        let base = endpoint.parse().unwrap();
        let pool = Pool::new(PoolConfig::new("acme", base), Arc::clone(&clock), &metrics).unwrap();
        let login = Login::new(Credentials {
            username: SecretString::from("api user"),
            password: SecretString::from("p&ss"),
        });
        let timeout = Duration::from_secs(5);
        let source = ConnexPayTokens::new(Arc::clone(&pool), Arc::clone(&login), timeout);
        let tokens = TokenKeeper::new(
            "acme",
            Arc::new(source),
            None,
            Arc::new(LocalLock::new()),
            TokenKey::parse(&"07".repeat(32).into()).unwrap(),
            Arc::clone(&clock),
            TokenOptions {
                lone_pause_max: Duration::ZERO,
                ..TokenOptions::default()
            },
        );
        let breaker = BreakerConfig {
            failure_count_max: 3,
            open_for: Duration::from_mins(1),
        };
        let limit = LimitConfig {
            calls_max: 8,
            waiters_max: 8,
            wait_max: Duration::from_secs(1),
        };
        let mut config = ConnexPayConfig::new(&*endpoint, DEVICE, MERCHANT, usd(0).currency());
        config.timeout = Duration::from_secs(5);
        change(&mut config);
        let parts = ConnexPayParts {
            wire: pool,
            tokens,
            login,
            breaker: Breaker::new("acme", breaker, clock, &metrics),
            limit: Limit::new("acme", limit, &metrics),
        };
        let connector = ConnexPay::new(config, parts).unwrap();
        Self {
            connector,
            endpoint,
            seen,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The calls but those for tokens.
    pub(crate) fn calls(&self) -> Vec<String> {
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.call != "POST /token")
            .map(|seen| seen.call)
            .collect()
    }

    pub(crate) fn subject(&self, verb: Verb, minor: i64) -> Subject {
        Subject {
            operation: OperationId::generate(Timestamp::from_seconds(1_800_000_000), [7; 10]),
            verb,
            account: AccountName::parse("acme").unwrap(),
            endpoint: self.endpoint.clone(),
            reference: UpstreamReference::parse(REFERENCE).unwrap(),
            amount: usd(minor),
            order_reference: None,
            statement_descriptor: Some(StatementDescriptor::parse("Agent Booking 123").unwrap()),
            parent: UpstreamIds::default(),
            parent_reference: Some(UpstreamReference::parse(CREATE).unwrap()),
            prepared: None,
            sends: 1,
            recorded_at: Timestamp::from_seconds(1_800_000_000),
        }
    }

    pub(crate) fn follow_up(&self, verb: Verb, minor: i64, ids: &[(&str, &str)]) -> Subject {
        let parent = ids.iter().fold(UpstreamIds::default(), |ids, (name, id)| {
            ids.with(name, *id)
        });
        Subject {
            parent,
            ..self.subject(verb, minor)
        }
    }
}

pub(crate) fn prepared(subject: Subject, baseline: i64) -> Subject {
    let prepared = Some(Prepared {
        baseline: Some(baseline),
        ..Prepared::default()
    });
    Subject {
        prepared,
        ..subject
    }
}

pub(crate) fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::parse("USD").unwrap()).unwrap()
}

pub(crate) fn payer() -> Payer {
    Payer {
        card: CardSource::Pan {
            number: Pan::parse(PAN).unwrap(),
            cvv: Some(Cvv::parse("099").unwrap()),
            expiry: Expiry::new(2030, 12).unwrap(),
            holder: Some(Sensitive::new("Jané Doe")),
        },
        customer: Some(Customer {
            first_name: Some(Sensitive::new("Jané")),
            phone: Some(Sensitive::new("(917) 756-3007")),
            line1: Some(Sensitive::new("107 7th Av.")),
            state: Some(Sensitive::new("NY")),
            postal_code: Some(Sensitive::new("10007")),
            country: Some(Sensitive::new("US")),
            ..Customer::default()
        }),
        risk: serde_json::from_value(
            json!({"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"}),
        )
        .unwrap(),
        upstream: serde_json::from_value(json!({"expected_payments": 9})).unwrap(),
    }
}

/// Counts how often it was asked, and refuses after so many times.
#[derive(Debug)]
pub(crate) struct Gate {
    asked: Mutex<usize>,
    open_for: usize,
}

impl Gate {
    pub(crate) fn open_for(open_for: usize) -> Self {
        Self {
            asked: Mutex::default(),
            open_for,
        }
    }

    pub(crate) fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

impl SendGate for Gate {
    fn may_send(&self) -> Result<(), NotSent> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        if *asked > self.open_for {
            Err(NotSent::TooLate)
        } else {
            Ok(())
        }
    }
}

async fn serve(seen: Arc<Mutex<Vec<Seen>>>, script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/api/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
            let service =
                service_fn(move |request| answer(request, Arc::clone(&seen), Arc::clone(&script)));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(serving.await) });
        }
    });
    endpoint
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Script,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request
        .uri()
        .path()
        .trim_start_matches("/api/v1")
        .to_owned();
    let token = request
        .headers()
        .get("authorization")
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let call = format!("{} {path}", request.method());
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(std::io::Error::other)?
        .to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let now = Seen { call, token, text };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(now.clone());
        seen.iter()
            .filter(|seen| seen.call == "POST /token")
            .count()
    };
    let reply = match script(&now) {
        // Unless the script has something to say about it.
        Reply::Empty(404) if now.call == "POST /token" => ok(&json!({
            "access_token": format!("token-{number}"), "token_type": "bearer", "expires_in": 86_399
        })),
        reply => reply,
    };
    let (status, content_type, body) = match reply {
        Reply::Json(status, body) => (status, "application/json; charset=utf-8", body),
        Reply::Html(status) => (status, "text/html", "<html>Not for you</html>".to_owned()),
        Reply::Empty(status) => (status, "application/json", String::new()),
        Reply::Hang => match std::future::pending::<Infallible>().await {},
        Reply::Close => return Err(std::io::Error::other("closed by script")),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", content_type);
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
