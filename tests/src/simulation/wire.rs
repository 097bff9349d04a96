//! The simulated wire of one replica: carries calls to the processor's own rules, through every fault, with the pool's proof.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::clock::{Clock, SimulatedClock, Tick};
use gateway_core::connector::{CallEvidence, Ended, NotSent, UnknownReason};
use gateway_upstream::pool::{Call, CallFailure, Exchange, Response, Transport};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::ambush::Moment;
use super::dice::{Dice, SharedDice};
use super::faults::FaultKind;
use super::log::{Heard, Place, Sent, What};
use super::plan::{Trouble, millis};
use super::world::World;
use crate::simulators::connexpay::SequenceRule;
use crate::simulators::site::{Processor, Received, Refusal, Reply, Twist};

/// Connections tried for one call, as in the pool.
const ATTEMPT_COUNT_MAX: u32 = 3;
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

pub(super) struct Wire {
    pub(super) world: Arc<World>,
    pub(super) place: Place,
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) dice: SharedDice,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire of {}", self.place)
    }
}

/// What becomes of one request after its bytes have left.
#[derive(Debug, Default)]
struct Course {
    /// From the first byte until the processor works on it; never, if absent.
    arrives: Option<Duration>,
    refusal: Option<Refusal>,
    twist: Option<Twist>,
    then: Then,
    /// From the processor's work until its answer is there.
    returns: Duration,
    /// It arrives a second time, so long after the first.
    again: Option<Duration>,
}

/// How the answer is delivered.
#[derive(Debug, Default)]
enum Then {
    #[default]
    Whole,
    Hang,
    Reset,
    Instead(Reply),
    InsteadRefusal(Refusal),
}

/// What arrives at the sender.
enum Arrival {
    Whole(Reply),
    Reset,
}

impl Transport for Wire {
    async fn call(&self, call: Call<'_>) -> Exchange {
        let report = Report::new(&*self.clock, call.label);
        let aim = Aim::of(call.label);
        let mut attempts = 1;
        let strike = loop {
            let now = self.world.log.now();
            let away = Trouble::UpstreamAway;
            if self.world.troubles(away, self.place.replica, now).is_some() {
                self.world
                    .struck(FaultKind::RefuseConnection, Some(self.place));
                let connecting = self.dice.with(|dice| dice.millis(0, 600));
                sleep(connecting).await;
                let detail = "connection refused".to_owned();
                return report.not_sent(Ended::NoConnection, NotSent::Unreachable { detail });
            }
            let odds = self.world.odds();
            if self.dice.with(|dice| dice.chance(odds.checkout)) {
                self.world
                    .struck(FaultKind::WaitForConnection, Some(self.place));
                let waiting = self.dice.with(|dice| {
                    let most = dice.pick(&[100, 1_000, 5_000]);
                    dice.millis(1, most)
                });
                sleep(waiting).await;
            }
            self.reached(Moment::BeforeSend, aim).await;
            if let Err(refusal) = call.gate.may_send() {
                self.world.log.note(What::Gated {
                    place: self.place,
                    label: label_of(call.label),
                });
                return report.not_sent(Ended::Gated, refusal);
            }
            let strike = self.strike(call.label);
            if strike != Some(FaultKind::ClosedUnwritten) {
                break strike;
            }
            if attempts == ATTEMPT_COUNT_MAX {
                let detail = "closed before a byte was written".to_owned();
                return report.not_sent(Ended::Closed, NotSent::Unreachable { detail });
            }
            attempts += 1;
        };
        // From here on the bytes are on their way, whatever becomes of this process.
        let (sending, arrival) = self.send(&call, strike);
        self.reached(Moment::Sent, aim).await;
        let heard = if let Some(arrival) = arrival {
            timeout(call.timeout, arrival).await
        } else {
            sleep(call.timeout).await;
            timeout(Duration::ZERO, std::future::pending()).await
        };
        let world = &self.world;
        let written = u64::try_from(call.body.len()).unwrap_or(u64::MAX) + HEAD_BYTES;
        match heard {
            Ok(Ok(Arrival::Whole(reply))) => {
                let status = reply.status.as_u16();
                world.heard(sending, Heard::Answer(status));
                self.reached(Moment::Heard, aim).await;
                report.answered(written, reply)
            }
            Ok(Ok(Arrival::Reset) | Err(_)) => {
                world.heard(sending, Heard::Closed);
                self.reached(Moment::Unheard, aim).await;
                report.unknown(written, Ended::Closed)
            }
            Err(_) => {
                world.heard(sending, Heard::TimedOut);
                self.reached(Moment::Unheard, aim).await;
                report.unknown(written, Ended::TimedOut)
            }
        }
    }
}

/// Of a request's head, about.
const HEAD_BYTES: u64 = 300;

impl Wire {
    async fn reached(&self, moment: Moment, aim: Aim) {
        self.world.reached(moment, aim, self.place).await;
    }

    /// Which fault strikes this request, if any.
    fn strike(&self, label: &str) -> Option<FaultKind> {
        use FaultKind::{
            ClosedUnwritten, CommitLate, CommitThen500, CommitThenCode, CommitThenGarbage,
            CommitThenHang, CommitThenReset, CommitThenStatus, CommitThenTruncate, Decline2xx,
            Decline422, Duplicated, HangBeforeCommit, Http429, Http500, PartialApproval,
            Redirect308, ResetBeforeRead, Route404, SlowDrip, TokenExpired,
        };
        const CREATE: &[(FaultKind, u64)] = &[
            (ClosedUnwritten, 2),
            (ResetBeforeRead, 3),
            (HangBeforeCommit, 3),
            (CommitThenHang, 4),
            (CommitThenReset, 4),
            (CommitThenTruncate, 2),
            (CommitThen500, 3),
            (CommitThenCode, 2),
            (CommitThenGarbage, 2),
            (CommitThenStatus, 2),
            (CommitLate, 6),
            (Http500, 3),
            (Http429, 3),
            (TokenExpired, 4),
            (SlowDrip, 4),
            (Duplicated, 4),
            (Redirect308, 1),
            (PartialApproval, 2),
            (Decline422, 3),
            (Decline2xx, 3),
        ];
        const ASKING: &[(FaultKind, u64)] = &[
            (ClosedUnwritten, 2),
            (ResetBeforeRead, 4),
            (HangBeforeCommit, 4),
            (CommitThenReset, 4),
            (CommitThenTruncate, 3),
            (CommitThenGarbage, 3),
            (Http500, 4),
            (Http429, 3),
            (TokenExpired, 3),
            (SlowDrip, 3),
            (Route404, 1),
        ];
        const REVERSAL: &[(FaultKind, u64)] = &[
            (ClosedUnwritten, 2),
            (ResetBeforeRead, 3),
            (HangBeforeCommit, 3),
            (CommitThenHang, 4),
            (CommitThenReset, 4),
            (CommitThen500, 3),
            (CommitThenGarbage, 2),
            (CommitLate, 5),
            (Http500, 3),
            (Http429, 2),
            (TokenExpired, 3),
            (SlowDrip, 3),
            (Duplicated, 4),
            (Route404, 1),
        ];
        const TOKEN: &[(FaultKind, u64)] = &[
            (ClosedUnwritten, 1),
            (ResetBeforeRead, 2),
            (HangBeforeCommit, 2),
            (CommitThenReset, 2),
            (CommitThenGarbage, 1),
            (Http500, 2),
            (SlowDrip, 3),
        ];
        let odds = self.world.odds();
        let (part, kinds) = match Aim::of(label) {
            Aim::Token => (odds.asking / 2, TOKEN),
            Aim::Ask => (odds.asking, ASKING),
            Aim::Reverse => (odds.asking, REVERSAL),
            Aim::Create | Aim::FollowUp => (odds.money, CREATE),
        };
        let struck = self
            .dice
            .with(|dice| dice.chance(part).then(|| dice.weighted(kinds)))?;
        // A second copy of what the processor does not recognise is a second charge, whoever sends it.
        if struck == Duplicated && !self.is_recognised(label) {
            return None;
        }
        self.world.struck(struck, Some(self.place));
        Some(struck)
    }

    /// Whether the processor executes a request at most once by its own rules.
    fn is_recognised(&self, label: &str) -> bool {
        matches!(
            label,
            "POST /Captures" | "POST /void" | "POST /timeoutreversal"
        ) || self.world.plan.account.sequence != SequenceRule::Free && label != "POST /Verify"
    }

    /// Hands the request to the world, which delivers it whatever becomes of its sender.
    fn send(
        &self,
        call: &Call<'_>,
        strike: Option<FaultKind>,
    ) -> (usize, Option<oneshot::Receiver<Arrival>>) {
        let world = Arc::clone(&self.world);
        let sending = world.next_sending();
        let aim = Aim::of(call.label);
        world.log.note(What::Sent(Sent {
            sending,
            place: self.place,
            label: label_of(call.label),
            moves_money: !matches!(aim, Aim::Token | Aim::Ask) && call.label != "POST /Verify",
            sequence: field(&call.body, br#""SequenceNumber":""#),
            parent: field(&call.body, br#""SaleGuid":""#)
                .or_else(|| field(&call.body, br#""AuthOnlyGuid":""#)),
            committed: world.ledger.committed(),
        }));
        let course = self
            .dice
            .with(|dice| self.course(strike, call.timeout, dice));
        let Some(arrives) = course.arrives else {
            let reset = matches!(course.then, Then::Reset);
            return (sending, reset.then(|| closing(course.returns)));
        };
        let received = Received {
            number: u64::try_from(sending).unwrap_or(u64::MAX),
            method: call.method.clone(),
            path: format!("/api/v1{}", call.path),
            headers: call.headers.clone(),
            body: call.body.clone(),
        };
        let patience = call.timeout;
        let (answer, arrival) = oneshot::channel();
        let on_its_way = world.on_its_way();
        tokio::spawn(async move {
            sleep(arrives).await;
            let books = &world.processor;
            let reply = match course.refusal {
                Some(refusal) => books.refuse(&received, refusal),
                None => books.answer(&received, course.twist.as_ref()),
            };
            let status = reply.status.as_u16();
            world.log.note(What::Delivered {
                sending,
                status,
                late: arrives >= patience,
            });
            let arrival = match course.then {
                Then::Whole => Some(Arrival::Whole(reply)),
                Then::Hang => None,
                Then::Reset => Some(Arrival::Reset),
                Then::Instead(other) => Some(Arrival::Whole(other)),
                Then::InsteadRefusal(refusal) => {
                    Some(Arrival::Whole(books.refuse(&received, refusal)))
                }
            };
            let hanging = if let Some(arrival) = arrival {
                sleep(course.returns).await;
                let _ = answer.send(arrival); // Its sender may be gone.
                None
            } else {
                Some(answer)
            };
            if let Some(again) = course.again
                && (aim == Aim::Reverse || was_executed(&world, received.number))
            {
                sleep(again).await;
                let status = books.answer(&received, None).status.as_u16();
                world.log.note(What::Delivered {
                    sending,
                    status,
                    late: true,
                });
            }
            drop(on_its_way);
            if let Some(answer) = hanging {
                sleep(patience).await; // Neither an answer nor an end, for as long as anybody waits.
                drop(answer);
            }
        });
        (sending, Some(arrival))
    }

    fn course(&self, strike: Option<FaultKind>, patience: Duration, dice: &mut Dice) -> Course {
        let plan = &self.world.plan;
        let usual = Course {
            arrives: Some(dice.millis(1, 80)),
            returns: dice.millis(1, 80),
            ..Course::default()
        };
        let searchable = plan.figures.horizon.saturating_sub(plan.account.search_lag);
        let latest = millis(searchable) - 500;
        let Some(strike) = strike else { return usual };
        match strike {
            FaultKind::ResetBeforeRead => Course {
                arrives: None,
                then: Then::Reset,
                ..usual
            },
            FaultKind::HangBeforeCommit => Course {
                arrives: None,
                ..usual
            },
            FaultKind::CommitThenHang => Course {
                then: Then::Hang,
                ..usual
            },
            FaultKind::CommitThenReset | FaultKind::CommitThenTruncate => Course {
                then: Then::Reset,
                ..usual
            },
            FaultKind::CommitThen500 => Course {
                then: Then::InsteadRefusal(Refusal::ServerError),
                ..usual
            },
            FaultKind::CommitThenCode => Course {
                then: Then::InsteadRefusal(Refusal::Code("E0910".to_owned())),
                ..usual
            },
            FaultKind::CommitThenGarbage => Course {
                then: Then::Instead(Reply::html(StatusCode::OK, "<html>Please wait</html>")),
                ..usual
            },
            FaultKind::CommitThenStatus => Course {
                twist: Some(Twist::Status("Transaction - Processor Error".to_owned())),
                ..usual
            },
            FaultKind::CommitLate => Course {
                arrives: Some(dice.millis(millis(patience).min(latest), latest)),
                then: Then::Hang,
                ..usual
            },
            FaultKind::Http500 => Course {
                refusal: Some(Refusal::ServerError),
                ..usual
            },
            FaultKind::Http429 => Course {
                refusal: Some(Refusal::TooManyRequests),
                ..usual
            },
            FaultKind::TokenExpired => Course {
                refusal: Some(Refusal::TokenExpired),
                ..usual
            },
            FaultKind::Route404 => Course {
                refusal: Some(Refusal::NoRoute),
                ..usual
            },
            FaultKind::SlowDrip => Course {
                returns: dice.millis(millis(patience) / 2, millis(patience) * 2),
                ..usual
            },
            FaultKind::Duplicated => Course {
                again: Some(dice.millis(0, latest - 100)),
                ..usual
            },
            FaultKind::Redirect308 => {
                let mut reply = Reply::empty(StatusCode::PERMANENT_REDIRECT);
                reply.location = Some("https://elsewhere.invalid/".to_owned());
                Course {
                    refusal: Some(Refusal::NoRoute),
                    then: Then::Instead(reply),
                    ..usual
                }
            }
            FaultKind::PartialApproval => Course {
                twist: Some(Twist::HalfApproved),
                ..usual
            },
            FaultKind::Decline422 | FaultKind::Decline2xx => Course {
                twist: Some(Twist::Decline {
                    code: Some(dice.pick(&["D2026", "D2012"]).to_owned()),
                    unprocessable: strike == FaultKind::Decline422,
                }),
                ..usual
            },
            other => unreachable!("BUG: {} is no fault of a request", other.name()),
        }
    }
}

/// Whether the processor did what that request asked. It knows a copy of it again; a copy of what it refused it might
/// execute, which would be a send that nobody made.
fn was_executed(world: &World, request: u64) -> bool {
    let books = world.processor.books();
    let mut entries = books.entries.iter();
    entries.any(|entry| entry.request == request && entry.is_approved())
}

fn closing(after: Duration) -> oneshot::Receiver<Arrival> {
    let (answer, arrival) = oneshot::channel();
    tokio::spawn(async move {
        sleep(after).await;
        let _ = answer.send(Arrival::Reset);
    });
    arrival
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    Token,
    Ask,
    Create,
    FollowUp,
    Reverse,
}

impl Aim {
    fn of(label: &str) -> Self {
        match label {
            "POST /token" => Self::Token,
            "POST /sales" | "POST /AuthOnlys" | "POST /Verify" => Self::Create,
            "POST /Captures" | "POST /void" | "POST /returns" => Self::FollowUp,
            "POST /timeoutreversal" => Self::Reverse,
            _ => Self::Ask,
        }
    }
}

/// The same text, for as long as the program runs.
fn label_of(label: &str) -> &'static str {
    const LABELS: &[&str] = &[
        "POST /token",
        "POST /sales",
        "POST /AuthOnlys",
        "POST /Verify",
        "POST /Captures",
        "POST /void",
        "POST /returns",
        "POST /timeoutreversal",
        "POST /Search/Sales",
        "POST /Search/AuthOnlys",
        "POST /Search/Captures",
        "POST /Search/Returns",
        "GET /sales/{guid}",
        "GET /AuthOnlys/{guid}",
        "GET /Captures/{guid}",
        "GET /returns/{guid}",
    ];
    LABELS
        .iter()
        .find(|known| **known == label)
        .copied()
        .unwrap_or("another call")
}

/// The text behind `name` in a JSON body that our own connector wrote.
fn field(body: &Bytes, name: &[u8]) -> Option<String> {
    let start = body.windows(name.len()).position(|window| window == name)? + name.len();
    let length = body[start..].iter().position(|byte| *byte == b'"')?;
    String::from_utf8(body[start..start + length].to_vec()).ok()
}

/// The evidence of a call, as the pool would give it.
struct Report<'a> {
    clock: &'a dyn Clock,
    started: Tick,
    evidence: CallEvidence,
}

impl<'a> Report<'a> {
    fn new(clock: &'a dyn Clock, label: &str) -> Self {
        Self {
            clock,
            started: clock.tick(),
            evidence: CallEvidence {
                call: label.to_owned(),
                at: clock.now(),
                address: None,
                reused: false,
                tls: None,
                bytes_written: 0,
                first_byte_after: None,
                status: None,
                ended: Ended::NoConnection,
                took: Duration::ZERO,
            },
        }
    }

    fn not_sent(self, ended: Ended, reason: NotSent) -> Exchange {
        self.end(ended, Err(CallFailure::NotSent(reason)))
    }

    fn unknown(mut self, written: u64, ended: Ended) -> Exchange {
        self.evidence.bytes_written = written;
        let reason = if ended == Ended::TimedOut {
            UnknownReason::TimedOut
        } else {
            let detail = "connection closed before message completed".to_owned();
            UnknownReason::Closed { detail }
        };
        self.end(ended, Err(CallFailure::Unknown(reason)))
    }

    fn answered(mut self, written: u64, reply: Reply) -> Exchange {
        self.evidence.bytes_written = written;
        self.evidence.status = Some(reply.status.as_u16());
        self.evidence.first_byte_after = Some(self.clock.tick().since(self.started));
        let mut headers = HeaderMap::new();
        if !reply.body.is_empty() {
            let kind = HeaderValue::from_static(reply.content_type);
            headers.insert(header::CONTENT_TYPE, kind);
        }
        let response = Response {
            status: reply.status,
            headers,
            body: reply.body,
        };
        self.end(Ended::Complete, Ok(response))
    }

    fn end(mut self, ended: Ended, result: Result<Response, CallFailure>) -> Exchange {
        self.evidence.ended = ended;
        if ended != Ended::NoConnection {
            self.evidence.address = Some(ADDRESS);
        }
        self.evidence.took = self.clock.tick().since(self.started);
        Exchange {
            result,
            evidence: self.evidence,
        }
    }
}
