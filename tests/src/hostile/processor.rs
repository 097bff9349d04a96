//! A processor that answers by script, and the connector that asks it: what the targets for its answers share.

use std::cell::OnceCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::card::{CardSource, Cvv, Expiry, Pan, Sensitive};
use gateway_core::clock::{Clock, ManualClock, Timestamp};
use gateway_core::connector::{
    CallEvidence, Customer, Ended, NotSent, Payer, Prepared, Subject, UnknownReason, UpstreamIds,
};
use gateway_core::key::{AccountName, OperationId, UpstreamReference};
use gateway_core::lock::LocalLock;
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use gateway_core::token::{TokenKeeper, TokenKey, TokenOptions};
use gateway_upstream::connexpay::{
    ConnexPay, ConnexPayConfig, ConnexPayParts, ConnexPayTokens, Credentials, Login,
};
use gateway_upstream::pool::{
    Breaker, BreakerConfig, Call, CallFailure, Exchange, Limit, LimitConfig, PoolMetrics, Response,
    Transport,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prometheus_client::registry::Registry;
use secrecy::SecretString;

pub(super) const DEVICE: &str = "8ec1c40b-0c00-4a57-a9c7-7800bd52c308";
pub(super) const MERCHANT: &str = "19344275-985e-4dff-81ee-cb84b8ad356c";
/// Of the operation that is asked about, of its create, and of a transaction that is known to be there.
pub(super) const REFERENCE: &str = "7Q4M0ZK2T9B1XW5RC";
pub(super) const CREATE: &str = "0CREATE0000000001";
pub(super) const CONTROL: &str = "0CONTROL000000001";
/// Ids of theirs: of the payment, and of the known transaction.
pub(super) const SALE: &str = "59344814-87c2-4a62-9859-9b0f5ecadf1e";
pub(super) const AUTHORIZATION: &str = "9d973cf7-4e18-4b5d-879f-04940ce237a5";
pub(super) const CAPTURE: &str = "cf05ed0a-f9df-4e62-b613-61323a37c14e";
pub(super) const KNOWN: &str = "26613acb-7b7f-4b42-ae3d-1f8eb113729d";
/// What no text of ours may repeat.
pub(super) const PAN: &str = "4012000098765439";
pub(super) const TOKEN: &str = "access-token-Zq81";
pub(super) const PASSWORD: &str = "p&ss-word-77";
/// What every operation is about, in cents.
pub(super) const AMOUNT: i64 = 1_550;
pub(super) const ENDPOINT: &str = "https://processor.test/api";
const TIMEOUT: Duration = Duration::from_mins(1);
/// What the clocks show.
pub(super) const NOW: i64 = 1_800_000_000;

/// Answers in a row are parted by this line.
const PARTED_BY: &[u8] = b"\n---\n";
/// More than any check asks for.
const ANSWER_COUNT_MAX: usize = 64;
/// More calls than one question of ours may ever make.
pub(super) const CALL_COUNT_MAX: usize = 64;

/// One answer of the script.
#[derive(Clone, Debug)]
pub(super) enum Scripted {
    Whole {
        status: StatusCode,
        content_type: Option<HeaderValue>,
        body: Bytes,
    },
    Closed,
    Silent,
    Unsent,
}

/// Reads a script. An answer's first line says `200 application/json`, `closed`, `silent` or `unsent`, and the rest is its
/// body; without such a line all of it is the body of a `200`.
pub(super) fn script(data: &[u8]) -> Vec<Scripted> {
    let mut answers = Vec::new();
    let mut rest = Some(data);
    while let Some(text) = rest.take_if(|_| answers.len() < ANSWER_COUNT_MAX) {
        let end = text
            .windows(PARTED_BY.len())
            .position(|part| part == PARTED_BY);
        let (one, after) = match end {
            Some(end) => (&text[..end], Some(&text[end + PARTED_BY.len()..])),
            None => (text, None),
        };
        answers.push(scripted(one));
        rest = after;
    }
    answers
}

fn scripted(text: &[u8]) -> Scripted {
    let end = text.iter().position(|byte| *byte == b'\n');
    let (first, body) = text.split_at(end.unwrap_or(text.len()));
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    match first {
        b"closed" => return Scripted::Closed,
        b"silent" => return Scripted::Silent,
        b"unsent" => return Scripted::Unsent,
        _ => {}
    }
    let (status, content_type) = match first.iter().position(|byte| *byte == b' ') {
        Some(at) => (&first[..at], HeaderValue::from_bytes(&first[at + 1..]).ok()),
        None => (first, None),
    };
    match StatusCode::from_bytes(status) {
        Ok(status) => Scripted::Whole {
            status,
            content_type,
            body,
        },
        Err(_) => Scripted::Whole {
            status: StatusCode::OK,
            content_type: None,
            body: Bytes::copy_from_slice(text),
        },
    }
}

/// A request, and the answer it got.
#[derive(Clone, Debug)]
pub(super) struct Exchanged {
    pub(super) body: Bytes,
    pub(super) answer: Scripted,
}

/// Answers each call with the next of the script, and the last one over and over.
#[derive(Debug)]
pub(super) struct Wire {
    /// Whether calls for tokens are answered by the script, too.
    scripts_tokens: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    script: Vec<Scripted>,
    exchanged: Vec<Exchanged>,
}

impl Wire {
    fn new(scripts_tokens: bool) -> Arc<Self> {
        Arc::new(Self {
            scripts_tokens,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the beginning of this script.
    pub(super) fn play(&self, script: &[Scripted]) {
        let mut state = self.state();
        state.script = script.to_vec();
        state.exchanged.clear();
    }

    /// What was asked since, and answered by the script.
    pub(super) fn exchanged(&self) -> Vec<Exchanged> {
        self.state().exchanged.clone()
    }
}

impl Transport for Wire {
    async fn call(&self, call: Call<'_>) -> Exchange {
        let is_token = call.label == "POST /token";
        let answer = if is_token && !self.scripts_tokens {
            let text =
                format!(r#"{{"access_token":"{TOKEN}","token_type":"bearer","expires_in":86399}}"#);
            Scripted::Whole {
                status: StatusCode::OK,
                content_type: None,
                body: text.into(),
            }
        } else {
            let mut state = self.state();
            let place = state.exchanged.len().min(state.script.len() - 1);
            let answer = state.script[place].clone();
            state.exchanged.push(Exchanged {
                body: call.body.clone(),
                answer: answer.clone(),
            });
            let count = state.exchanged.len();
            assert!(count <= CALL_COUNT_MAX, "one question makes calls for ever");
            answer
        };
        let gated = call.gate.may_send();
        exchange(call.label, answer, gated.err())
    }
}

fn exchange(label: &str, answer: Scripted, gated: Option<NotSent>) -> Exchange {
    let mut evidence = CallEvidence {
        call: label.to_owned(),
        at: Timestamp::from_seconds(NOW),
        address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 443))),
        reused: true,
        tls: None,
        bytes_written: 300,
        first_byte_after: None,
        status: None,
        ended: Ended::Complete,
        took: Duration::from_millis(1),
    };
    let mut failed = |ended, written, failure| {
        evidence.ended = ended;
        evidence.bytes_written = written;
        Err(failure)
    };
    let result = match (gated, answer) {
        (Some(refusal), _) => failed(Ended::Gated, 0, CallFailure::NotSent(refusal)),
        (None, Scripted::Unsent) => {
            let detail = "refused".to_owned();
            let reason = NotSent::Unreachable { detail };
            failed(Ended::NoConnection, 0, CallFailure::NotSent(reason))
        }
        (None, Scripted::Silent) => {
            let reason = UnknownReason::TimedOut;
            failed(Ended::TimedOut, 300, CallFailure::Unknown(reason))
        }
        (None, Scripted::Closed) => {
            let detail = "closed".to_owned();
            let reason = UnknownReason::Closed { detail };
            failed(Ended::Closed, 300, CallFailure::Unknown(reason))
        }
        (
            None,
            Scripted::Whole {
                status,
                content_type,
                body,
            },
        ) => {
            evidence.status = Some(status.as_u16());
            let mut headers = HeaderMap::new();
            if let Some(content_type) = content_type {
                headers.insert(header::CONTENT_TYPE, content_type);
            }
            Ok(Response {
                status,
                headers,
                body,
            })
        }
    };
    Exchange { result, evidence }
}

/// The two ends.
pub(super) struct Stage {
    pub(super) connector: ConnexPay<Wire>,
    pub(super) wire: Arc<Wire>,
    /// Fetches tokens over a wire of its own, whose answers are scripted.
    pub(super) tokens: ConnexPayTokens<Wire>,
    pub(super) token_wire: Arc<Wire>,
    runtime: tokio::runtime::Runtime,
}

thread_local! {
    static STAGE: OnceCell<Stage> = const { OnceCell::new() };
}

/// Works on the stage of this thread: made once, since an execution takes less time than making it.
pub(super) fn on_stage<T>(work: impl FnOnce(&Stage) -> T) -> T {
    STAGE.with(|stage| work(stage.get_or_init(Stage::new)))
}

impl Stage {
    fn new() -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let (connector, wire) = connector();
        let token_wire = Wire::new(true);
        let tokens = ConnexPayTokens::new(Arc::clone(&token_wire), login(), TIMEOUT);
        drop(inside);
        Self {
            connector,
            wire,
            tokens,
            token_wire,
            runtime,
        }
    }

    pub(super) fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }
}

/// One thread, without sockets.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime without sockets")
}

/// The connector of an account, and the wire that it asks over. Inside a runtime.
pub(super) fn connector() -> (ConnexPay<Wire>, Arc<Wire>) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_seconds(NOW)));
    let metrics = PoolMetrics::register(&mut Registry::default());
    let login = login();
    let wire = Wire::new(false);
    let source = ConnexPayTokens::new(Arc::clone(&wire), Arc::clone(&login), TIMEOUT);
    let tokens = TokenKeeper::new(
        "acme",
        Arc::new(source),
        None,
        Arc::new(LocalLock::new()),
        TokenKey::parse(&"07".repeat(32).into()).expect("32 bytes"),
        Arc::clone(&clock),
        // Every execution begins with a token that is taken for good.
        TokenOptions {
            forced_count_max: usize::MAX,
            storm_window: Duration::ZERO,
            ..TokenOptions::default()
        },
    );
    let breaker = BreakerConfig {
        failure_count_max: u32::MAX,
        open_for: Duration::ZERO,
    };
    let limit = LimitConfig {
        calls_max: 8,
        waiters_max: 8,
        wait_max: Duration::from_secs(1),
    };
    let parts = ConnexPayParts {
        wire: Arc::clone(&wire),
        tokens,
        login,
        breaker: Breaker::new("acme", breaker, clock, &metrics),
        limit: Limit::new("acme", limit, &metrics),
    };
    let config = ConnexPayConfig::new(ENDPOINT, DEVICE, MERCHANT, usd(0).currency());
    let connector = ConnexPay::new(config, parts).expect("settings that fit together");
    (connector, wire)
}

fn login() -> Arc<Login> {
    Login::new(Credentials {
        username: SecretString::from("cashier"),
        password: SecretString::from(PASSWORD),
    })
}

pub(super) fn usd(minor: i64) -> Money {
    let currency = Currency::parse("USD").expect("a currency");
    Money::new(minor, currency).expect("not negative")
}

/// An operation of this verb on a payment with these ids.
pub(super) fn subject(verb: Verb, ids: &[(&str, &str)]) -> Subject {
    let minor = if verb == Verb::Verify { 0 } else { AMOUNT };
    let reference = |text| UpstreamReference::parse(text).expect("17 letters and digits");
    let parent = ids.iter().fold(UpstreamIds::default(), |ids, (name, id)| {
        ids.with(name, *id)
    });
    Subject {
        operation: OperationId::generate(Timestamp::from_seconds(NOW), [7; 10]),
        verb,
        account: AccountName::parse("acme").expect("a name"),
        endpoint: String::new(),
        reference: reference(REFERENCE),
        amount: usd(minor),
        order_reference: None,
        statement_descriptor: None,
        parent,
        parent_reference: Some(reference(CREATE)),
        prepared: None,
        sends: 1,
        recorded_at: Timestamp::from_seconds(NOW),
    }
}

/// As it is after `prepare`.
pub(super) fn prepared(subject: Subject, baseline: i64, as_void: bool) -> Subject {
    let prepared = Prepared {
        baseline: Some(baseline),
        as_void,
        ..Prepared::default()
    };
    Subject {
        prepared: Some(prepared),
        ..subject
    }
}

pub(super) fn payer() -> Payer {
    let risk = serde_json::json!({"gender": "F", "product_type": "Flight", "product_item": "7"});
    Payer {
        card: CardSource::Pan {
            number: Pan::parse(PAN).expect("a number that checks"),
            cvv: Some(Cvv::parse("099").expect("three digits")),
            expiry: Expiry::new(2030, 12).expect("a month"),
            holder: Some(Sensitive::new("Jane Doe")),
        },
        customer: Some(Customer {
            email: Some(Sensitive::new("jane@example.com")),
            country: Some(Sensitive::new("US")),
            ..Customer::default()
        }),
        risk: serde_json::from_value(risk).expect("an object"),
        upstream: serde_json::Map::new(),
    }
}

/// Fails where a text that is stored or shown repeats what a request carried.
pub(super) fn assert_keeps_secrets(what: &impl std::fmt::Debug) {
    let text = format!("{what:?}");
    for secret in [PAN, TOKEN, PASSWORD] {
        assert!(!text.contains(secret), "{secret} is repeated");
    }
}
