//! One cell of the matrix of faults and verbs: a payment of its own, struck once and told until it is final.

use std::fmt;

use gateway_core::store::Operation;
use sandbox::simulators::connexpay::EntryKind;
use sandbox::simulators::{Fault, RequestRecord, Selector};
use sandbox::stack::eventually;
use sandbox::world::{Caller, Reply, amount, sale};
use serde_json::{Value, json};

use super::act::{Act, CAPTURED};
use super::compare::brief;
use super::stage::{Answer, PATIENCE, Stage};

/// What the final answer to a key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Final {
    Approved,
    Declined,
    /// It was, or may have been, approved; nothing of it stands.
    Reversed,
    /// It did not happen.
    Failed,
    /// No machine can tell: a person has to.
    Parked,
}

impl Final {
    fn of(reply: &Reply) -> Option<Self> {
        Some(match (reply.status, reply.problem()) {
            (201, _) => Self::Approved,
            (402, "declined") => Self::Declined,
            (402, "reversed") => Self::Reversed,
            (402, "failed") => Self::Failed,
            (504, "needs-review") => Self::Parked,
            _ => return None,
        })
    }
}

/// What the processor's books hold in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The operation, once.
    Once,
    /// The operation, once, for half of what was asked.
    Half,
    /// Nothing of it, ever.
    Nothing,
    /// The operation, once, and once the void that undid it.
    Undone,
    /// The operation, once, and once the return that undid it.
    Returned,
}

/// What must come of one cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Statuses of the first answer.
    pub(super) first: &'static [u16],
    /// The final answer, each with what the books then hold.
    pub(super) last: &'static [(Final, Effect)],
    /// How often it may be sent: once, unless what did not arrive may be repeated.
    pub(super) sends_max: usize,
}

/// The first send and the resolver's repeats.
pub(super) const REPEATED: usize = 4;

impl Expected {
    pub(super) fn ends(&self) -> impl Iterator<Item = Final> {
        self.last.iter().map(|(end, _)| *end)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<String> = self.first.iter().map(ToString::to_string).collect();
        let last: Vec<String> = self
            .last
            .iter()
            .map(|(end, effect)| format!("{end:?}, {effect:?}"))
            .collect();
        write!(f, "{} · {}", first.join("/"), last.join(" or "))
    }
}

/// One cell under way.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) act: Act,
    /// The fault does not go away: repeats meet it too. Tells two cells of the same verb apart, too.
    pub(super) lasting: bool,
    /// Of the payment, and what of it is captured or refunded; minor units.
    pub(super) whole: i64,
    pub(super) part: i64,
    path: String,
    pub(super) key: String,
    body: Value,
    /// Of the transaction it names at the processor; empty for what begins a payment.
    parent: String,
    /// Under which the books show the payment.
    pub(super) reference: String,
    /// What strikes its own requests.
    pub(super) fault: Option<Fault>,
    first: Option<Answer>,
    /// The record as a first answer of `503` left it, if it left one.
    pub(super) given_back: Option<Operation>,
}

impl Cell {
    pub(super) fn name(&self) -> String {
        let lasting = if self.lasting { ", lasting" } else { "" };
        format!("{:?}{lasting}", self.act)
    }

    /// The id of the transaction that it names at the processor.
    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    /// What is at stake while its outcome is open, minor units.
    pub(super) const fn at_risk(&self) -> i64 {
        self.part
    }

    /// Prepares a cell: for a follow-up, the payment that it follows.
    pub(super) async fn prepare(stage: &Stage, act: Act, lasting: bool) -> Self {
        let key = format!("{act:?}-{lasting}");
        let apart = if lasting { 10_00 } else { 0 };
        let (whole, part) = (act.whole() + apart, act.part());
        let mut cell = Self {
            act,
            lasting,
            whole,
            part: if part == act.whole() { whole } else { part },
            path: "/v1/payments".to_owned(),
            body: sale(whole),
            parent: String::new(),
            reference: String::new(),
            fault: None,
            first: None,
            given_back: None,
            key,
        };
        if act == Act::Authorize {
            cell.body["capture"] = json!("manual");
        }
        if act.is_create() {
            return cell;
        }
        let pay = async |shop: &Caller, key: &str| match act {
            Act::Capture | Act::VoidHold | Act::VoidCaptured | Act::RefundCaptured => {
                shop.authorize(key, whole).await
            }
            _ => shop.pay(key, &cell.body).await,
        };
        let parent = stage.approved(&format!("{}-parent", cell.key), pay).await;
        let (verb, body) = match act {
            Act::Capture => ("captures", amount(cell.part)),
            Act::Refund | Act::RefundCaptured | Act::RefundUnsettled => {
                ("refunds", amount(cell.part))
            }
            _ => ("voids", json!({})),
        };
        cell.path = format!("/v1/payments/{}/{verb}", parent.payment());
        cell.body = body;
        cell.parent = text(&parent.body["operation"]["upstream_reference"]);
        if act.is_after_capture() {
            let key = format!("{}-captured", cell.key);
            let payment = parent.payment();
            let capture =
                async |shop: &Caller, key: &str| shop.capture(key, &payment, CAPTURED).await;
            let captured = stage.approved(&key, capture).await;
            let capture = text(&captured.body["operation"]["upstream_reference"]);
            // What is voided or returned is the sale that the capture made.
            let books = stage.connexpay().books();
            let sales = books.of(EntryKind::Sale);
            let mut sales = sales
                .iter()
                .filter(|sale| sale.parent.as_ref() == Some(&capture));
            let sale = sales.next().expect("a capture makes a sale");
            cell.parent.clone_from(&sale.guid);
        }
        let of = format!("/v1/operations/{}", parent.operation());
        cell.reference = text(&stage.shop.get(&of).await.expect(200).body["reference"]);
        cell
    }

    /// Which requests at the processor are this cell's own.
    pub(super) fn selector(&self) -> Selector {
        let selector = Selector::verb(self.act.verb());
        if self.act.is_create() {
            selector.amount(self.whole)
        } else {
            selector.reference(&self.parent)
        }
    }

    /// The fault as it strikes this cell: its first request, or all of them.
    pub(super) fn struck_by(&mut self, fault: &Fault) -> Fault {
        let fault = fault.clone().when(self.selector());
        let fault = if self.lasting { fault } else { fault.first(1) };
        self.fault = Some(fault.clone());
        fault
    }

    pub(super) fn is_mine(&self, record: &RequestRecord) -> bool {
        record.verb == self.act.verb()
            && if self.act.is_create() {
                record.amount == Some(self.whole)
            } else {
                record.parent.as_deref() == Some(self.parent.as_str())
            }
    }

    /// The first answer, to a caller that waits as long as this stage lets it.
    pub(super) async fn ask(&mut self, stage: &Stage) {
        let seconds = stage.pace.wait.to_string();
        let (shop, path, key, body) = (&stage.shop, &self.path, &self.key, &self.body);
        let ask = async || shop.post_waiting(path, key, body, &seconds).await;
        let first = stage.answer(key, ask).await;
        if first.reply.status == 503 {
            self.given_back = stage.records.find(key).await;
        }
        self.first = Some(first);
    }

    /// Waits until the outcome was looked for, and not found, at least once; or it is final.
    pub(super) async fn until_checked(&self, stage: &Stage) {
        let checked = async || {
            let over = self.detail(stage).await["answer"]["final"] == true;
            (over || self.checks(stage).await > 0).then_some(())
        };
        let what = format!("a check of {}", self.name());
        eventually(PATIENCE, &what, checked)
            .await
            .expect("unknown outcomes are looked for");
    }

    /// What `GET /v1/operations` says of it.
    pub(super) async fn detail(&self, stage: &Stage) -> Value {
        stage.shop.operation(&self.key).await.expect(200).body
    }

    async fn post(&self, stage: &Stage) -> Reply {
        stage.shop.post(&self.path, &self.key, &self.body).await
    }

    /// Waits until callers are told that a person has to look at it.
    pub(super) async fn until_parked(&self, stage: &Stage) {
        let what = format!("{} to be parked", self.name());
        let parked = eventually(PATIENCE, &what, async || {
            let reply = self.post(stage).await;
            assert!(
                !reply.is_final(),
                "{} ended: {}",
                self.name(),
                shown(&reply)
            );
            (Final::of(&reply) == Some(Final::Parked)).then_some(())
        });
        parked.await.expect("what nobody can tell is parked");
    }

    /// Waits until it was asked about twice more, in vain: it is parked still.
    pub(super) async fn stays_parked(&self, stage: &Stage) {
        let before = self.checks(stage).await;
        let what = format!("two more checks of {}", self.name());
        let asked = eventually(PATIENCE, &what, async || {
            (self.checks(stage).await > before + 1).then_some(())
        });
        asked.await.expect("what is parked is asked on");
        let reply = self.post(stage).await;
        let name = self.name();
        assert_eq!(Final::of(&reply), Some(Final::Parked), "{name}: {reply:?}");
    }

    /// How often it was asked about in vain.
    pub(super) async fn checks(&self, stage: &Stage) -> usize {
        let detail = self.detail(stage).await;
        let events = detail["timeline"].as_array().expect("a timeline");
        events
            .iter()
            .filter(|event| event["kind"] == "checked")
            .count()
    }

    /// The first answer.
    pub(super) fn first(&self) -> &Answer {
        self.first.as_ref().expect("it was asked")
    }

    /// Repeats until final or parked. Then everything is compared; each sentence is a difference.
    pub(super) async fn end(&mut self, stage: &Stage, expected: Expected) -> (String, Vec<String>) {
        let mut wrong = Vec::new();
        let first = self.first().reply.clone();
        if !expected.first.contains(&first.status) {
            wrong.push(format!("first answer {}", shown(&first)));
        }
        let what = format!("the end of {}", self.name());
        let may_park = expected.ends().any(|end| end == Final::Parked);
        let ended = eventually(PATIENCE, &what, async || {
            let reply = self.post(stage).await;
            Final::of(&reply)
                .filter(|end| *end != Final::Parked || may_park)
                .map(|end| (end, reply))
        });
        let Ok((end, reply)) = ended.await else {
            let last = self.post(stage).await;
            wrong.push(format!("no end: {}", shown(&last)));
            return (shown(&first), wrong);
        };
        let again = self.post(stage).await;
        if end != Final::Parked && again.bytes != reply.bytes {
            wrong.push(format!("final, and then {}", shown(&again)));
        }
        if first.is_final() && first.bytes != reply.bytes {
            wrong.push(format!("first {}, then {}", shown(&first), shown(&reply)));
        }
        let record = stage.records.operation(&self.key).await;
        if self.act.is_create() {
            self.reference = record.reference.to_string();
        }
        let position = stage.connexpay().books().position(&self.reference);
        if expected.ends().all(|wanted| wanted != end) {
            wrong.push(format!("final answer {}", shown(&reply)));
        } else {
            let mut effects = expected.last.iter().filter(|(wanted, _)| *wanted == end);
            if !effects.any(|(_, effect)| self.holds(*effect, end, &position)) {
                wrong.push(format!("answered {end:?}, and the books hold {position:?}"));
            }
        }
        let timeline = stage.records.timeline(&self.key).await;
        self.compare_strike(stage, &timeline, &mut wrong);
        self.compare_time(stage, &record, &timeline, &mut wrong);
        self.compare_attempts(&record, &timeline, &mut wrong);
        self.compare_sends(stage, &record, expected.sends_max, &mut wrong);
        (
            format!(
                "{} · {} · {}",
                first.status,
                shown(&reply),
                brief(&position)
            ),
            wrong,
        )
    }
}

fn shown(reply: &Reply) -> String {
    format!("{} {}", reply.status, reply.problem())
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("a text, not {value}"))
        .to_owned()
}
