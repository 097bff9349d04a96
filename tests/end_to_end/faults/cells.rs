//! One cell of the matrix of faults and verbs: a payment of its own, struck once, told until it is final, and audited.

use std::fmt;
use std::time::{Duration, Instant};

use sandbox::simulators::connexpay::{ConnexPay, EntryKind, Position, verb};
use sandbox::simulators::{Fault, RequestRecord, Selector, Upstream};
use sandbox::stack::eventually;
use sandbox::world::{Caller, Reply, World, WorldConfig, amount, sale};
use serde_json::{Value, json};

use super::stage::Stage;

/// How long an outcome may take, repeats and the scaled horizon included.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the caller's wait may be exceeded by: two busy cores, not a check or a horizon.
const SLACK: Duration = Duration::from_millis(1_800);

/// What a cell does to its payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Sale,
    Authorize,
    /// Part of an authorization.
    Capture,
    /// A sale that is not settled.
    VoidSale,
    VoidHold,
    /// An authorization of which part is captured.
    VoidCaptured,
    /// Part of a settled sale.
    Refund,
    /// Part of what was captured, and settled.
    RefundCaptured,
    /// A whole sale that is not settled: it is sent as a void.
    RefundUnsettled,
}

impl Act {
    pub(super) const ALL: [Self; 9] = [
        Self::Sale,
        Self::Authorize,
        Self::Capture,
        Self::VoidSale,
        Self::VoidHold,
        Self::VoidCaptured,
        Self::Refund,
        Self::RefundCaptured,
        Self::RefundUnsettled,
    ];

    /// The processor's verb.
    pub(super) const fn verb(self) -> &'static str {
        match self {
            Self::Sale => verb::SALE,
            Self::Authorize => verb::AUTH_ONLY,
            Self::Capture => verb::CAPTURE,
            Self::VoidSale | Self::VoidHold | Self::VoidCaptured | Self::RefundUnsettled => {
                verb::VOID
            }
            Self::Refund | Self::RefundCaptured => verb::RETURN,
        }
    }

    /// What the processor executes at most once for its parent, so that it may be sent again.
    pub(super) const fn is_repeatable(self) -> bool {
        matches!(
            self,
            Self::Capture | Self::VoidSale | Self::VoidHold | Self::VoidCaptured
        )
    }

    /// Follows what is settled.
    pub(super) const fn is_after_settlement(self) -> bool {
        matches!(self, Self::Refund | Self::RefundCaptured)
    }

    /// Follows an authorization of which part was captured.
    const fn is_after_capture(self) -> bool {
        matches!(self, Self::VoidCaptured | Self::RefundCaptured)
    }

    const fn is_create(self) -> bool {
        matches!(self, Self::Sale | Self::Authorize)
    }

    /// Of the payment, minor units.
    const fn whole(self) -> i64 {
        match self {
            Self::Sale => 101_00,
            Self::Authorize => 102_00,
            Self::Capture => 103_00,
            Self::VoidSale => 104_00,
            Self::VoidHold => 105_00,
            Self::VoidCaptured => 106_00,
            Self::Refund => 107_00,
            Self::RefundCaptured => 108_00,
            Self::RefundUnsettled => 109_00,
        }
    }

    /// Of what is captured or refunded.
    const fn part(self) -> i64 {
        match self {
            Self::Capture | Self::VoidCaptured => CAPTURED,
            Self::Refund | Self::RefundCaptured => 40_00,
            _ => self.whole(),
        }
    }
}

/// What is captured of an authorization, minor units.
const CAPTURED: i64 = 60_00;

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
    act: Act,
    /// The fault does not go away: repeats meet it too. Tells two cells of the same verb apart, too.
    pub(super) lasting: bool,
    /// Of the payment, and what of it is captured or refunded; minor units.
    whole: i64,
    part: i64,
    path: String,
    key: String,
    body: Value,
    /// Of the transaction it names at the processor; empty for what begins a payment.
    parent: String,
    /// Under which the books show the payment.
    reference: String,
    first: Option<Reply>,
    took: Duration,
}

impl Cell {
    pub(super) fn name(&self) -> String {
        let lasting = if self.lasting { ", lasting" } else { "" };
        format!("{:?}{lasting}", self.act)
    }

    pub(super) const fn act(&self) -> Act {
        self.act
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The id of the transaction that it names at the processor.
    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    /// Under which the books show its payment.
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// What is at stake while its outcome is open, minor units.
    pub(super) const fn at_risk(&self) -> i64 {
        self.part
    }

    /// Prepares a cell: for a follow-up, the payment that it follows.
    pub(super) async fn prepare(stage: &Stage, act: Act, lasting: bool) -> Self {
        let shop = &stage.shop;
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
            first: None,
            took: Duration::ZERO,
            key,
        };
        if act == Act::Authorize {
            cell.body["capture"] = json!("manual");
        }
        if act.is_create() {
            return cell;
        }
        let parent = approved(async |n| {
            let of = format!("{}-parent-{n}", cell.key);
            match act {
                Act::Capture | Act::VoidHold | Act::VoidCaptured | Act::RefundCaptured => {
                    shop.authorize(&of, whole).await
                }
                _ => shop.pay(&of, &cell.body).await,
            }
        });
        let parent = parent.await;
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
            let path = format!("/v1/payments/{}/captures", parent.payment());
            let captured = shop.until_final(&path, &key, &amount(CAPTURED)).await;
            let capture = text(&captured.expect(201).body["operation"]["upstream_reference"]);
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
        cell.reference = text(&shop.get(&of).await.expect(200).body["reference"]);
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
    pub(super) fn fault(&self, fault: &Fault) -> Fault {
        let fault = fault.clone().when(self.selector());
        if self.lasting { fault } else { fault.first(1) }
    }

    fn is_mine(&self, record: &RequestRecord) -> bool {
        record.verb == self.act.verb()
            && if self.act.is_create() {
                record.amount == Some(self.whole)
            } else {
                record.parent.as_deref() == Some(self.parent.as_str())
            }
    }

    /// The first answer, to a caller that waits so long.
    pub(super) async fn ask(&mut self, shop: &Caller, wait: Duration) {
        let seconds = wait.as_secs().to_string();
        // A machine too busy to vouch for itself says so, and has sent nothing: that is no answer of this cell yet.
        // Were it not true, the sends that are compared in the end would show it.
        for _ in 0..10 {
            let began = Instant::now();
            let reply = shop.post_waiting(&self.path, &self.key, &self.body, &seconds);
            let reply = reply.await;
            self.took = began.elapsed();
            let busy = matches!(reply.problem(), "overloaded" | "ledger-unavailable");
            self.first = Some(reply);
            if !busy {
                return;
            }
        }
    }

    /// Waits until the outcome was looked for, and not found, at least once; or it is final.
    pub(super) async fn until_checked(&self, shop: &Caller) {
        let checked = async || {
            let over = self.detail(shop).await["answer"]["final"] == true;
            (over || self.checks(shop).await > 0).then_some(())
        };
        let what = format!("a check of {}", self.name());
        eventually(PATIENCE, &what, checked)
            .await
            .expect("unknown outcomes are looked for");
    }

    /// Waits until it was asked about in vain twice more: one check may have begun before.
    pub(super) async fn until_checked_again(&self, shop: &Caller) {
        let checked = self.checks(shop).await;
        let what = format!("another check of {}", self.name());
        let again = eventually(PATIENCE, &what, async || {
            (self.checks(shop).await > checked + 1).then_some(())
        });
        again.await.expect("it is asked on");
    }

    /// What `GET /v1/operations` says of it.
    pub(super) async fn detail(&self, shop: &Caller) -> Value {
        shop.operation(&self.key).await.expect(200).body
    }

    /// Waits until callers are told that a person has to look at it.
    pub(super) async fn until_parked(&self, shop: &Caller) {
        let what = format!("{} to be parked", self.name());
        let parked = eventually(PATIENCE, &what, async || {
            let reply = shop.post(&self.path, &self.key, &self.body).await;
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

    /// How often it was asked about in vain.
    pub(super) async fn checks(&self, shop: &Caller) -> usize {
        let detail = self.detail(shop).await;
        let events = detail["timeline"].as_array().expect("a timeline");
        events
            .iter()
            .filter(|event| event["kind"] == "checked")
            .count()
    }

    /// Repeats until final or parked. Then everything is compared; each sentence is a difference.
    pub(super) async fn end(
        &mut self,
        world: &World,
        shop: &Caller,
        wait: Duration,
        expected: Expected,
    ) -> (String, Vec<String>) {
        let mut wrong = Vec::new();
        let first = self.first.take().expect("it was asked");
        if !expected.first.contains(&first.status) {
            wrong.push(format!("first answer {}", shown(&first)));
        }
        if self.took > wait + SLACK {
            wrong.push(format!("the first answer came after {:?}", self.took));
        }
        let what = format!("the end of {}", self.name());
        let may_park = expected.last.iter().any(|(end, _)| *end == Final::Parked);
        let ended = eventually(PATIENCE, &what, async || {
            let reply = shop.post(&self.path, &self.key, &self.body).await;
            Final::of(&reply)
                .filter(|end| *end != Final::Parked || may_park)
                .map(|end| (end, reply))
        });
        let Ok((end, reply)) = ended.await else {
            let last = shop.post(&self.path, &self.key, &self.body).await;
            wrong.push(format!("no end: {}", shown(&last)));
            return (shown(&first), wrong);
        };
        let again = shop.post(&self.path, &self.key, &self.body).await;
        if end != Final::Parked && again.bytes != reply.bytes {
            wrong.push(format!("final, and then {}", shown(&again)));
        }
        if first.is_final() && first.bytes != reply.bytes {
            wrong.push(format!("first {}, then {}", shown(&first), shown(&reply)));
        }
        let connexpay = world.simulators.connexpay();
        let detail = self.detail(shop).await;
        if self.act.is_create() {
            self.reference = text(&detail["reference"]);
        }
        let position = connexpay.books().position(&self.reference);
        let effects = expected.last.iter().filter(|(wanted, _)| *wanted == end);
        let mut effects = effects.map(|(_, effect)| *effect).peekable();
        if effects.peek().is_none() {
            wrong.push(format!("final answer {}", shown(&reply)));
        } else if !effects.any(|effect| self.holds(effect, &position)) {
            wrong.push(format!("answered {end:?}, and the books hold {position:?}"));
        }
        self.compare_sends(connexpay, &world.config, &detail, &mut wrong);
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

    /// Whether the books hold this cell's operation so often, and nothing else of the payment.
    fn holds(&self, effect: Effect, position: &Position) -> bool {
        let times = u64::from(effect != Effect::Nothing);
        let undone = u64::from(effect == Effect::Undone);
        let returned = u64::from(effect == Effect::Returned);
        let kept = effect == Effect::Once;
        let (whole, part) = (self.whole, self.part);
        let of = |yes: bool, minor: i64| if yes { minor } else { 0 };
        let captured = Position {
            authorizations: 1,
            captures: 1,
            sales: 1,
            ..Position::default()
        };
        let wanted = match self.act {
            Act::Sale => Position {
                sales: times,
                voids: undone,
                returns: returned,
                net: of(kept, whole),
                ..Position::default()
            },
            Act::Authorize => Position {
                authorizations: times,
                voids: undone,
                held: of(kept, whole),
                ..Position::default()
            },
            Act::Capture => Position {
                authorizations: 1,
                captures: times,
                sales: times,
                net: of(kept, part),
                held: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidSale | Act::RefundUnsettled => Position {
                sales: 1,
                voids: times,
                net: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidHold => Position {
                authorizations: 1,
                voids: times,
                held: of(!kept, whole),
                ..Position::default()
            },
            Act::VoidCaptured => Position {
                voids: times,
                net: of(!kept, CAPTURED),
                ..captured
            },
            Act::Refund => Position {
                sales: 1,
                returns: times,
                net: whole - of(kept, part),
                ..Position::default()
            },
            Act::RefundCaptured => Position {
                returns: times,
                net: CAPTURED - of(kept, part),
                ..captured
            },
        };
        // A refusal that was recorded moves no money.
        wanted
            == Position {
                declines: 0,
                ..position.clone()
            }
    }

    /// Nothing is sent again on a guess, and what is sent again was counted first.
    fn compare_sends(
        &self,
        connexpay: &Upstream<ConnexPay>,
        config: &WorldConfig,
        detail: &Value,
        wrong: &mut Vec<String>,
    ) {
        let received: Vec<_> = connexpay.requests_of(self.act.verb());
        let mine: Vec<_> = received
            .iter()
            .filter(|record| self.is_mine(record))
            .collect();
        // A refusal that proves "not executed" is no send.
        let proven = |record: &&&RequestRecord| {
            record.status == Some(401) || record.status == Some(429) && config.trust_429
        };
        let sent = mine.len() - mine.iter().filter(proven).count();
        let counted = detail["sends"].as_u64().unwrap_or_default();
        let sends_max = match self.act {
            act if act.is_create() && config.resend_identical => 2,
            act if act.is_repeatable() => usize::MAX,
            _ => 1,
        };
        if sent > sends_max {
            wrong.push(format!("sent {sent} times"));
        }
        if sent as u64 > counted {
            wrong.push(format!("sent {sent} times, and counted {counted}"));
        }
        let mut references: Vec<_> = mine.iter().map(|record| &record.sequence_number).collect();
        references.dedup();
        if references.len() > 1 {
            wrong.push(format!("sent under several references: {references:?}"));
        }
    }
}

/// A payment to begin with, under one key after the other: a busy machine may exceed the scaled timeout by itself.
pub(super) async fn approved(pay: impl AsyncFn(usize) -> Reply) -> Reply {
    for attempt in 0..4 {
        let reply = pay(attempt).await;
        if reply.status == 201 {
            return reply;
        }
    }
    pay(4).await.expect(201)
}

/// The positions of a cell in one line.
fn brief(position: &Position) -> String {
    let Position {
        net,
        held,
        sales,
        authorizations,
        captures,
        voids,
        returns,
        declines,
    } = position;
    format!(
        "net {net} held {held} ({sales} sales, {authorizations} authorizations, {captures} captures, {voids} voids, \
         {returns} returns, {declines} declines)"
    )
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
