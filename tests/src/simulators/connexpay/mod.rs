//! ConnexPay's Sales API v1, simulated: its routes and rules over books that remember.
//!
//! Amounts that play a part, for trying things out by hand (sales and authorizations only, exact to the cent):
//!
//! | amount | what happens |
//! |---|---|
//! | 6600.01 | declined, D2026 *Do not honor* |
//! | 6600.02 | declined, D2012 *Insufficient Funds* |
//! | 6600.03 | approved for half of it |
//! | 6600.04 | charged, but the answer never comes: the gateway has to reverse it |
//! | 6600.05 | not charged, and the answer never comes |
//! | 6600.06 | charged, then the connection is reset |
//! | 6600.07 | charged ten seconds later, with no answer |
//! | 6600.08 | a `500`, not charged |
//! | 6600.09 | charged, then a page of HTML instead of the answer |

mod answer;
mod batch;
mod books;
mod card;
mod careless;
mod create;
mod follow_up;
mod refusal;
mod route;
mod rules;
mod search;
mod surroundings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::Value;

pub use books::{Batch, Books, Entry, EntryKind, EntryState, Position};
pub use card::{CardOnFile, RISK_DECLINE_EMAIL, SANDBOX_CARDS};
pub use route::verb;
pub use rules::{
    DEVICE_EUR, DEVICE_GBP, DEVICE_USD, DeclineForm, Device, Envelope, MERCHANT_EUR, MERCHANT_GBP,
    MERCHANT_USD, PASSWORD, Rules, SequenceRule, USERNAME,
};

use self::books::{Change, Ledger};
use self::refusal::{DENIED, Problem, SERVER, error};
use self::route::Route;
pub(crate) use self::surroundings::Surroundings;
use super::echo::Form;
use super::fault::{Fault, Kind, Selector, Subject};
use super::json::{Fields, Object};
use super::site::{Processor, Received, Refusal, Reply, Twist};
use super::{digest, locked};

/// The processor's name in paths.
pub const NAME: &str = "connexpay";

/// Simulated ConnexPay.
pub struct ConnexPay {
    ledger: Mutex<Ledger>,
    rules: Mutex<Arc<Rules>>,
    clock_ms: Box<dyn Fn() -> i64 + Send + Sync>,
    /// How far it is ahead of that clock.
    ahead_ms: AtomicI64,
}

/// What one request works with.
struct Desk<'a> {
    ledger: &'a mut Ledger,
    rules: &'a Rules,
    now_ms: i64,
    request: u64,
}

/// The amounts that play a part, as faults that no order replaces.
pub(super) fn magic_faults() -> Vec<Fault> {
    let table = [
        (1, Fault::new(Kind::Decline422).code("D2026")),
        (2, Fault::new(Kind::Decline422).code("D2012")),
        (3, Fault::new(Kind::PartialApproval)),
        (4, Fault::new(Kind::CommitThenHang)),
        (5, Fault::new(Kind::HangBeforeCommit)),
        (6, Fault::new(Kind::CommitThenReset)),
        (
            7,
            Fault::new(Kind::CommitLate).delay(Duration::from_secs(10)),
        ),
        (8, Fault::new(Kind::Http500)),
        (9, Fault::new(Kind::CommitThenGarbage)),
    ];
    let both = |(cents, fault): (i64, Fault)| {
        [verb::SALE, verb::AUTH_ONLY].map(|verb| {
            fault
                .clone()
                .when(Selector::verb(verb).amount(660_000 + cents))
        })
    };
    table.into_iter().flat_map(both).collect()
}

impl ConnexPay {
    pub(crate) fn open(dir: Option<&Path>, rules: Rules) -> io::Result<Self> {
        Self::open_in(dir, rules, Surroundings::real())
    }

    pub(crate) fn open_in(
        dir: Option<&Path>,
        rules: Rules,
        surroundings: Surroundings,
    ) -> io::Result<Self> {
        let (clock_ms, chance) = surroundings.split();
        Ok(Self {
            ledger: Mutex::new(Ledger::open(dir, chance)?),
            rules: Mutex::new(Arc::new(rules)),
            clock_ms,
            ahead_ms: AtomicI64::new(0),
        })
    }

    /// The omniscient truth at this moment.
    pub fn books(&self) -> Books {
        locked(&self.ledger).books()
    }

    pub fn rules(&self) -> Rules {
        Rules::clone(&locked(&self.rules))
    }

    /// Changes rules from the next request on.
    pub fn change_rules(&self, change: impl FnOnce(&mut Rules)) {
        change(Arc::make_mut(&mut locked(&self.rules)));
    }

    /// Moves this processor's clock: tokens expire, batches close and sales grow old without anybody waiting.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Kills every access token.
    ///
    /// # Errors
    /// When the books cannot be written.
    pub fn revoke_tokens(&self) -> io::Result<()> {
        let mut ledger = locked(&self.ledger);
        let dead = ledger
            .tokens
            .keys()
            .map(|digest| Change::TokenDead {
                digest: digest.clone(),
            })
            .collect();
        ledger.commit(dead)
    }

    /// Closes the open batch of every device: what is in it is settled.
    ///
    /// # Errors
    /// When the books cannot be written.
    pub fn settle(&self) -> io::Result<()> {
        let now_ms = self.now_ms();
        let mut ledger = locked(&self.ledger);
        let closed = ledger
            .batches
            .iter()
            .filter(|batch| batch.closed_ms.is_none());
        let closed = closed
            .map(|batch| {
                Change::Batch(Batch {
                    closed_ms: Some(now_ms),
                    ..batch.clone()
                })
            })
            .collect();
        ledger.commit(closed)
    }

    fn now_ms(&self) -> i64 {
        (self.clock_ms)().saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Works on a request with the books held, so that each is decided as if alone.
    fn at_desk<T>(&self, request: u64, work: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let rules = Arc::clone(&locked(&self.rules));
        let mut ledger = locked(&self.ledger);
        work(&mut Desk {
            ledger: &mut ledger,
            rules: &rules,
            now_ms: self.now_ms(),
            request,
        })
    }
}

impl fmt::Debug for ConnexPay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnexPay")
            .field("ledger", &self.ledger)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Desk<'_> {
    fn answer(
        &mut self,
        request: &Received,
        route: Route,
        twist: Option<&Twist>,
    ) -> Result<Reply, Problem> {
        self.close_due_batches()?;
        if route == Route::Token {
            return self.issue_token(&request.body);
        }
        if route == Route::Unknown {
            return Ok(no_route(&request.path));
        }
        if !self.is_authorized(request) {
            return Ok(error(StatusCode::UNAUTHORIZED, DENIED));
        }
        let body = || Fields::parse(&request.body).map_err(|_| Problem::Unreadable);
        match route {
            Route::Create(kind @ (EntryKind::Sale | EntryKind::AuthOnly | EntryKind::Verify)) => {
                self.create(kind, &body()?, twist)
            }
            Route::Create(EntryKind::Capture) => self.capture(&body()?, twist),
            Route::Create(EntryKind::Void) => self.void(&body()?, twist),
            Route::Create(EntryKind::Return) => self.refund(&body()?, twist),
            Route::TimeoutReversal => self.reverse(&body()?, twist),
            Route::Read(kind, guid) => self.read(kind, &guid),
            Route::List(kind) => Ok(self.list(|entry| entry.kind == kind)),
            Route::SalesOfBatch(batch) => Ok(self.list(|entry| {
                entry.kind == EntryKind::Sale && entry.batch.as_ref() == Some(&batch)
            })),
            Route::Search {
                kind,
                export,
                page,
                size,
            } => self.search(kind, export, page, size, &body()?),
            Route::SearchNothing => Ok(Reply::empty(StatusCode::NO_CONTENT)),
            Route::BatchClose => self.close_batch(&body()?),
            Route::BatchSearch => self.search_batches(&body()?),
            Route::BatchTransactions(guid) => self.batch_transactions(&guid),
            Route::Devices => Ok(self.devices()),
            Route::User(id) => Ok(self.user(&id)),
            Route::SearchUsers => Ok(self.users()),
            Route::Token | Route::Unknown => Ok(no_route(&request.path)),
        }
    }

    fn issue_token(&mut self, body: &[u8]) -> Result<Reply, Problem> {
        let form = form_fields(body);
        let field = |name: &str| {
            form.iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        let is = |name: &str, expected: &str| field(name).is_some_and(|value| value == expected);
        let refused = |kind: &str, text: &str| {
            let body = Object::new()
                .text("error", kind)
                .text("error_description", text);
            Ok(Reply::json(StatusCode::BAD_REQUEST, body.finish()))
        };
        if !is("grant_type", "password") {
            return refused("unsupported_grant_type", "grant_type must be password");
        }
        if !is("username", &self.rules.username) || !is("password", &self.rules.password) {
            return refused("invalid_grant", "The user name or password is incorrect.");
        }
        let mut changes = Vec::new();
        if self.rules.single_token {
            changes.extend(self.ledger.tokens.keys().map(|digest| Change::TokenDead {
                digest: digest.clone(),
            }));
        }
        let random = [self.ledger.chance.uuid(), self.ledger.chance.uuid()];
        let random = random.map(|part| part.simple().to_string()).concat();
        let token = format!("{}{random}", self.rules.token_prefix);
        let lifetime = i64::try_from(self.rules.token_lifetime_s).unwrap_or(i64::MAX / 1000);
        changes.push(Change::Token {
            digest: digest(token.as_bytes()),
            expires_ms: self.now_ms.saturating_add(lifetime.saturating_mul(1000)),
        });
        self.ledger.commit(changes)?;
        let claimed = self
            .rules
            .token_expires_in_s
            .unwrap_or(self.rules.token_lifetime_s);
        let body = Object::new()
            .text("access_token", &token)
            .text("token_type", "bearer")
            .raw("expires_in", &claimed.to_string());
        Ok(Reply::json(StatusCode::OK, body.finish()))
    }

    fn is_authorized(&self, request: &Received) -> bool {
        presented_token(request)
            .and_then(|token| self.ledger.tokens.get(&digest(token.as_bytes())))
            .is_some_and(|expires_ms| *expires_ms > self.now_ms)
    }

    fn devices(&self) -> Reply {
        let rows = self.rules.devices.iter().map(|device| {
            Object::new()
                .text("guid", &device.guid)
                .text("name", &device.name)
                .text("merchantProcessorAccountGuid", &device.merchant_guid)
                .text("status", "Device - Active")
                .text("statementDescription", "Sandbox Shop")
                .text("processorId", "88800000284901")
                .text("processorOperatingUserId", "TA5232401")
                .text("processorStatusCode", "A0000")
                .text("transactionType", "Card")
                .flag("wasProcessed", true)
                .finish()
        });
        Reply::json(StatusCode::OK, search::counted(rows.collect()))
    }

    fn user(&self, id: &str) -> Reply {
        if id != "myself" && id != USER_GUID {
            return Problem::NoEntity("User").reply();
        }
        let body = Object::new()
            .text("userName", &self.rules.username)
            .text("userGuid", USER_GUID)
            .raw("roles", r#"[{"name":"Merchant Admin"}]"#);
        Reply::json(StatusCode::OK, body.finish())
    }

    fn users(&self) -> Reply {
        let row = Object::new()
            .text("guid", USER_GUID)
            .text("userName", &self.rules.username)
            .text("isoNumber", "1000")
            .text("status", "User - Active")
            .text("accountNumber", "17091897")
            .raw("roles", "[]");
        Reply::json(StatusCode::OK, search::counted(vec![row.finish()]))
    }
}

const USER_GUID: &str = "2182dba6-3f4b-4b0c-9a3e-5d9f0a5b7c11";

impl Processor for ConnexPay {
    fn verbs(&self) -> &'static [&'static str] {
        verb::ALL
    }

    fn subject(&self, request: &Received) -> Subject {
        let route = Route::of(&request.method, &request.path);
        let mut subject = Subject {
            verb: route.verb(),
            ..Subject::default()
        };
        if let Route::Read(_, guid) = &route {
            subject.parent = Some(guid.clone());
        }
        let Ok(body) = Fields::parse(&request.body) else {
            return subject;
        };
        let text = |name| body.text(name).ok().flatten();
        subject.amount = ["Amount", "NewAmount"]
            .iter()
            .find_map(|name| body.amount(name).ok().flatten());
        subject.sequence_number = text("SequenceNumber");
        subject.order_number = text("OrderNumber");
        subject.parent = subject.parent.or_else(|| {
            ["SaleGuid", "AuthOnlyGuid", "ReturnGuid"]
                .iter()
                .find_map(|name| text(name))
        });
        let number = body
            .object("Card")
            .ok()
            .flatten()
            .and_then(|card| card.text("CardNumber").ok().flatten());
        subject.last_four = number.and_then(|number| last_four(&number).map(str::to_owned));
        subject.body = serde_json::from_slice(&request.body)
            .map(masked)
            .unwrap_or_default();
        subject
    }

    fn answer(&self, request: &Received, twist: Option<&Twist>) -> Reply {
        let route = Route::of(&request.method, &request.path);
        let answer = self.at_desk(request.number, |desk| desk.answer(request, route, twist));
        answer.unwrap_or_else(|problem| problem.reply())
    }

    fn refuse(&self, request: &Received, refusal: Refusal) -> Reply {
        let echo = |request, form| careless::echo(request, &Self::rules(self).password, form);
        match refusal {
            Refusal::TokenExpired => {
                if let Some(token) = presented_token(request) {
                    let dead = vec![Change::TokenDead {
                        digest: digest(token.as_bytes()),
                    }];
                    if let Err(error) = locked(&self.ledger).commit(dead) {
                        return Problem::from(error).reply();
                    }
                }
                error(StatusCode::UNAUTHORIZED, DENIED)
            }
            Refusal::TooManyRequests => error(
                StatusCode::TOO_MANY_REQUESTS,
                "API calls quota exceeded. Please try again later.",
            ),
            Refusal::ServerError => error(StatusCode::INTERNAL_SERVER_ERROR, SERVER),
            Refusal::Code(code) => error(
                StatusCode::UNPROCESSABLE_ENTITY,
                &refusal::decline_text(&code),
            ),
            Refusal::NoRoute => no_route(&request.path),
            Refusal::EchoCard(lead, form) => {
                let lead = lead.unwrap_or_else(|| refusal::decline_text("D2020"));
                let message = format!("{lead} {}", echo(request, form));
                error(StatusCode::UNPROCESSABLE_ENTITY, &message)
            }
            Refusal::EchoDecline(form) => {
                let body = Object::new()
                    .text("status", "Transaction - Declined")
                    .text("processorResponseMessage", &echo(request, form))
                    .flag("wasProcessed", false);
                Reply::json(StatusCode::OK, body.finish())
            }
        }
    }

    fn repeat_in(&self, request: &Received, reply: Reply, form: Form) -> Reply {
        careless::repeated_in(reply, request, &Self::rules(self).password, form)
    }

    fn books(&self) -> String {
        serde_json::to_string(&Self::books(self)).unwrap_or_default()
    }

    fn close_batch(&self) -> io::Result<()> {
        self.settle()
    }

    fn rules(&self) -> String {
        serde_json::to_string(&Self::rules(self)).unwrap_or_default()
    }

    fn set_rules(&self, json: &[u8]) -> Result<(), String> {
        let changed = Self::rules(self).changed(json)?;
        *locked(&self.rules) = Arc::new(changed);
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        self.ahead_ms.store(0, Ordering::Relaxed);
        locked(&self.ledger).empty()
    }
}

fn no_route(path: &str) -> Reply {
    let body = Object::new().text(
        "message",
        &format!("No HTTP resource was found that matches the request URI '{path}'."),
    );
    Reply::json(StatusCode::NOT_FOUND, body.finish())
}

fn presented_token(request: &Received) -> Option<&str> {
    let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn last_four(number: &str) -> Option<&str> {
    number.get(number.len().checked_sub(4)?..)
}

/// The body as the journal may keep it.
fn masked(value: Value) -> Value {
    let mask = |name: String, value: Value| {
        let shown = match name.to_ascii_lowercase().as_str() {
            "cardnumber" => {
                let last = value.as_str().and_then(last_four).unwrap_or_default();
                Value::from(format!("****{last}"))
            }
            "cvv2" | "password" | "track1data" | "track2data" | "emvtags" | "ssn4" => {
                Value::from("***")
            }
            _ => masked(value),
        };
        (name, shown)
    };
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| mask(name, value))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(masked).collect()),
        other => other,
    }
}

/// The fields of `application/x-www-form-urlencoded`; what is not valid UTF-8 is replaced.
fn form_fields(body: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(body);
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}
