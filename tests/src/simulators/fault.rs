//! Faults, named by the business moment at which they strike, with the rule that decides whom they strike.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::echo::Form;

/// What goes wrong. "Commit" is the moment the processor's books change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The listening socket is closed: a connection is refused by the kernel. Open connections go on.
    RefuseConnection,
    /// The connection is accepted and reset at once, before any byte was read.
    ResetOnAccept,
    /// As `refuse_connection`, and every open connection is reset too.
    Outage,
    /// Connections that idle longer than `delay_ms` are closed.
    CloseIdle,
    /// The connection is reset as if nobody had read the request; nothing is committed.
    ResetBeforeRead,
    /// No answer, and no commit ever.
    HangBeforeCommit,
    /// Committed, then no answer.
    CommitThenHang,
    /// Committed, then the connection is reset.
    CommitThenReset,
    /// Committed, then half of the body under a `Content-Length` of all of it, then the end of the stream.
    CommitThenTruncate,
    /// Committed, then a `500`.
    CommitThen500,
    /// Committed, then a `422` with `code`: a time-out behind the processor, E0910, unless another is named.
    CommitThenCode,
    /// Committed, then a `200` with something that is not this API's answer.
    CommitThenGarbage,
    /// Committed, then an approval whose status text is `status` and whose `wasProcessed` is false.
    CommitThenStatus,
    /// No answer; the commit comes `delay_ms` later, or when the test releases it, whoever still waits.
    CommitLate,
    /// `500`, not committed.
    #[serde(rename = "http_500")]
    Http500,
    /// `429` with this API's own error body, not committed.
    #[serde(rename = "http_429")]
    Http429,
    /// `401`, and the token that was presented is dead from now on.
    TokenExpired,
    /// The right answer, byte by byte over `delay_ms`.
    SlowDrip,
    /// `308` to `location`.
    #[serde(rename = "redirect_308")]
    Redirect308,
    /// The route does not exist any more.
    #[serde(rename = "route_404")]
    Route404,
    /// A refusal whose text repeats card number, security code, bearer token and password, as careless upstreams do, in
    /// the given `form`; `status` is what the text begins with.
    EchoCard,
    /// The same text in a `200` whose status is "declined", without a code.
    #[serde(rename = "echo_card_2xx")]
    EchoCard2xx,
    /// Committed, then an approval that repeats them in every text it has.
    CommitThenEcho,
    /// Approved for half of the amount.
    PartialApproval,
    /// Declined with `code`, in the form of a `422`.
    #[serde(rename = "decline_422")]
    Decline422,
    /// Declined with `code`, in the form of a `200`.
    #[serde(rename = "decline_2xx")]
    Decline2xx,
}

impl Kind {
    /// Faults of the connection know no request, so no selector can apply to them.
    pub(crate) const fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::RefuseConnection | Self::ResetOnAccept | Self::Outage | Self::CloseIdle
        )
    }

    /// The name used in the control API.
    pub fn name(self) -> String {
        let quoted = serde_json::to_string(&self).unwrap_or_default();
        quoted.trim_matches('"').to_owned()
    }
}

/// What a request is about, as far as rules and the journal need it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    pub verb: &'static str,
    /// Minor units.
    pub amount: Option<i64>,
    pub last_four: Option<String>,
    pub sequence_number: Option<String>,
    pub order_number: Option<String>,
    /// The transaction that a follow-up or a read names.
    pub parent: Option<String>,
    /// The body with card numbers and secrets masked.
    pub body: serde_json::Value,
}

/// Which requests are meant: all that are given must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// Minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// The last four digits of the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// The sequence number, the order number or the parent's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Selector {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    pub fn verb(verb: &str) -> Self {
        Self {
            verb: Some(verb.to_owned()),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn amount(mut self, minor: i64) -> Self {
        self.amount = Some(minor);
        self
    }

    #[must_use]
    pub fn card(mut self, last_four: &str) -> Self {
        self.card = Some(last_four.to_owned());
        self
    }

    #[must_use]
    pub fn reference(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    pub(crate) fn is_any(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn matches(&self, subject: &Subject) -> bool {
        let names = |text: &String| {
            [
                &subject.sequence_number,
                &subject.order_number,
                &subject.parent,
            ]
            .contains(&&Some(text.clone()))
        };
        self.verb.as_ref().is_none_or(|verb| verb == subject.verb)
            && self
                .amount
                .is_none_or(|amount| subject.amount == Some(amount))
            && self
                .card
                .as_ref()
                .is_none_or(|card| subject.last_four.as_ref() == Some(card))
            && self.reference.as_ref().is_none_or(names)
    }
}

/// One fault with the requests it strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub fault: Kind,
    #[serde(default, skip_serializing_if = "Selector::is_any")]
    pub when: Selector,
    /// How many matches go by unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// How many matches are struck; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Between 0 and 1, drawn per match from the seed of the set; certain when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The code of a decline, or of `commit_then_code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The status text of `commit_then_status`; the beginning of the text of `echo_card`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Where `redirect_308` points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// How the echoes write what they repeat.
    #[serde(default, skip_serializing_if = "Form::is_plain")]
    pub form: Form,
}

impl Fault {
    /// Strikes every request.
    pub fn new(fault: Kind) -> Self {
        Self {
            fault,
            when: Selector::any(),
            skip: 0,
            count: None,
            probability: None,
            delay_ms: None,
            code: None,
            status: None,
            location: None,
            form: Form::Plain,
        }
    }

    /// Strikes requests of one verb.
    pub fn on(fault: Kind, verb: &str) -> Self {
        Self::new(fault).when(Selector::verb(verb))
    }

    #[must_use]
    pub fn when(mut self, selector: Selector) -> Self {
        self.when = selector;
        self
    }

    #[must_use]
    pub fn first(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = Some(probability);
        self
    }

    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    #[must_use]
    pub fn status(mut self, status: &str) -> Self {
        self.status = Some(status.to_owned());
        self
    }

    #[must_use]
    pub fn location(mut self, location: &str) -> Self {
        self.location = Some(location.to_owned());
        self
    }

    #[must_use]
    pub fn form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    pub(crate) fn duration(&self, default: Duration) -> Duration {
        self.delay_ms.map_or(default, Duration::from_millis)
    }

    fn objections(&self, verbs: &[&str]) -> Vec<String> {
        let name = self.fault.name();
        let mut found = Vec::new();
        if let Some(verb) = &self.when.verb
            && !verbs.contains(&verb.as_str())
        {
            found.push(format!(
                "{name}: no verb {verb:?}; there are {}",
                verbs.join(", ")
            ));
        }
        if self.fault.is_of_connection() && !self.when.is_any() {
            found.push(format!(
                "{name} strikes connections, which no request selector describes"
            ));
        }
        let whole = matches!(
            self.fault,
            Kind::RefuseConnection | Kind::Outage | Kind::CloseIdle
        );
        if whole && (self.count.is_some() || self.probability.is_some() || self.skip > 0) {
            found.push(format!(
                "{name} holds until it is lifted; to count connections use reset_on_accept"
            ));
        }
        if self.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            found.push(format!("{name}: probability lies between 0 and 1"));
        }
        if self.fault == Kind::CloseIdle && self.delay_ms.is_none() {
            found.push(format!("{name} needs delay_ms, the idle limit"));
        }
        found
    }
}

/// What to put in force at once, replacing what was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultOrder {
    pub faults: Vec<Fault>,
    /// Of the draws for `probability`: the same seed and order of requests give the same faults.
    #[serde(default)]
    pub seed: u64,
}

/// A fault in force, as `GET /_sandbox/{upstream}/faults` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct InForce {
    #[serde(flatten)]
    pub fault: Fault,
    pub matched: u64,
    pub struck: u64,
}

#[derive(Debug)]
struct Inner {
    /// Part of the processor's own behaviour (magic amounts); no order replaces them.
    standing: Vec<InForce>,
    ordered: Vec<InForce>,
    random: u64,
}

/// The faults in force at one processor.
#[derive(Debug)]
pub(crate) struct FaultSet {
    inner: Mutex<Inner>,
    generation: watch::Sender<u64>,
}

/// A fault that strikes, with the generation of orders it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) generation: u64,
}

impl FaultSet {
    pub(crate) fn new(standing: Vec<Fault>) -> Self {
        let standing = standing.into_iter().map(InForce::from).collect();
        Self {
            inner: Mutex::new(Inner {
                standing,
                ordered: Vec::new(),
                random: 0,
            }),
            generation: watch::Sender::new(0),
        }
    }

    /// Replaces every ordered fault; whoever hangs in one of the old ones is let go.
    pub(crate) fn order(&self, order: FaultOrder, verbs: &[&str]) -> Result<(), Vec<String>> {
        let objections: Vec<String> = order
            .faults
            .iter()
            .flat_map(|fault| fault.objections(verbs))
            .collect();
        if !objections.is_empty() {
            return Err(objections);
        }
        {
            let mut inner = crate::simulators::locked(&self.inner);
            inner.ordered = order.faults.into_iter().map(InForce::from).collect();
            inner.random = order.seed;
        }
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    pub(crate) fn in_force(&self) -> Vec<InForce> {
        crate::simulators::locked(&self.inner).ordered.clone()
    }

    /// The first fault that strikes this request.
    pub(crate) fn strike(&self, subject: &Subject) -> Option<Strike> {
        let generation = *self.generation.borrow();
        let mut inner = crate::simulators::locked(&self.inner);
        let Inner {
            standing,
            ordered,
            random,
        } = &mut *inner;
        ordered
            .iter_mut()
            .chain(standing.iter_mut())
            .filter(|rule| !rule.fault.fault.is_of_connection() && rule.fault.when.matches(subject))
            .find_map(|rule| {
                rule.draw(random).then(|| Strike {
                    fault: rule.fault.clone(),
                    generation,
                })
            })
    }

    /// Whether this new connection is to be reset.
    pub(crate) fn strikes_connection(&self) -> bool {
        let mut inner = crate::simulators::locked(&self.inner);
        let Inner {
            ordered, random, ..
        } = &mut *inner;
        ordered
            .iter_mut()
            .filter(|rule| rule.fault.fault == Kind::ResetOnAccept)
            .any(|rule| rule.draw(random))
    }

    /// The fault of this kind in force, if any.
    pub(crate) fn find(&self, kind: Kind) -> Option<Fault> {
        let inner = crate::simulators::locked(&self.inner);
        inner
            .ordered
            .iter()
            .find(|rule| rule.fault.fault == kind)
            .map(|rule| rule.fault.clone())
    }

    /// Returns when the orders of that generation no longer hold.
    pub(crate) async fn lifted(&self, generation: u64) {
        let mut watched = self.generation.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = watched.wait_for(|now| *now != generation).await;
    }
}

impl From<Fault> for InForce {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            matched: 0,
            struck: 0,
        }
    }
}

impl InForce {
    fn draw(&mut self, random: &mut u64) -> bool {
        self.matched += 1;
        let due = self.matched > self.fault.skip
            && self.fault.count.is_none_or(|count| self.struck < count);
        let strikes = due
            && self
                .fault
                .probability
                .is_none_or(|probability| next_unit(random) < probability);
        self.struck += u64::from(strikes);
        strikes
    }
}

/// Splitmix64, mapped to [0, 1): small, and the same on every machine.
fn next_unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let top = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}
