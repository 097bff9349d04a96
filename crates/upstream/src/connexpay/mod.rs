//! The connector to ConnexPay (Sales API v1).
//!
//! ```text
//! execute   requests (what is sent) → client (token, one repeat after a proven 401) → answers (what it proves)
//! look_up   findings (and returns) over searches: never a row alone, only a record that carries our reference or names our parent
//! reverse   undo: timeout reversal by sequence number, void, return
//! prepare   what stands before a void or a refund: the baseline of a later comparison
//! ```
//!
//! Our reference goes out as `SequenceNumber` (the key of the timeout reversal) and as `OrderNumber` (the one filter of
//! their search that works); the caller's own order reference is not sent. Amounts are major units without a currency:
//! the device decides it, so any other currency is refused before anything is sent.

mod amount;
mod answers;
mod ascii;
mod body;
mod client;
mod codes;
mod findings;
mod login;
mod prepare;
mod requests;
mod returns;
mod risk;
mod searches;
mod token;
mod undo;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::card::{CardSource, StoredCard};
use gateway_core::connector::{
    Answer, CallEvidence, Capabilities, Connector, Control, Decline, DeclineClass, Fault, Finding,
    LookUp, LookedUp, NotSent, Payer, PrepareError, Prepared, Repeat, ReversalForm, SendGate,
    Subject, Undo, UndoBy, Undone, UnknownReason, Verdict, WhenFound,
};
use gateway_core::draft::Draft;
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use gateway_core::token::{TokenHealth, TokenKeeper};
use http::Method;

use self::answers::{Asked, Rules, Shape};
use self::client::{Client, Outcome, Request, reply};
use self::requests::{Missing, Plan};
use self::searches::Asking;
use crate::pool::{Breaker, Health, Limit, Pool, Transport, VerbClass};
use crate::scrub::Scrub;

pub use answers::UnlistedCode;
#[cfg(feature = "contract")]
pub use codes::contract as codes_contract;
pub use login::{CredentialSource, Credentials, Login};
pub use token::ConnexPayTokens;

/// One merchant account.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says how far one sentence of the reference is trusted"
)]
#[derive(Clone, Debug)]
pub struct ConnexPayConfig {
    /// The base URL, as stored with the payments that begin here.
    pub endpoint: String,
    /// The merchant key of every call that moves money.
    pub device_guid: String,
    /// What searches ask for; another id than the device's.
    pub merchant_guid: String,
    /// The device decides it: no message names one.
    pub currency: Currency,
    /// For one call that moves money, its repeat after a 401 included.
    pub timeout: Duration,
    /// For one call that reads.
    pub read_timeout: Duration,
    /// A 401 with the API's own body proves that nothing was executed.
    pub trust_401: bool,
    /// So does a 429 with the API's own body.
    pub trust_429: bool,
    /// `POST /timeoutreversal` exists; the newest documents no longer list it.
    pub timeout_reversal: bool,
    /// So do the routes that read one record. Where they do, nothing is refunded or voided without having been read.
    pub record_routes: bool,
    /// A capture may be of less than was authorized; the newest documents know only whole ones.
    pub partial_captures: bool,
    pub unlisted_code: UnlistedCode,
    /// An identical request with the same sequence number within 30 minutes is answered with the first result. Only the
    /// newest documents say so.
    pub resend_identical: bool,
}

impl ConnexPayConfig {
    /// The settings of an account of the API as its reference describes it.
    pub fn new(
        endpoint: impl Into<String>,
        device_guid: impl Into<String>,
        merchant_guid: impl Into<String>,
        currency: Currency,
    ) -> Self {
        Self {
            endpoint: endpoint.into(),
            device_guid: device_guid.into(),
            merchant_guid: merchant_guid.into(),
            currency,
            timeout: Duration::from_mins(1),
            read_timeout: Duration::from_secs(30),
            trust_401: true,
            trust_429: false,
            timeout_reversal: true,
            record_routes: true,
            partial_captures: true,
            unlisted_code: UnlistedCode::Unknown,
            resend_identical: false,
        }
    }

    /// Everything that is wrong with it, at once.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, guid) in [
            ("device_guid", &self.device_guid),
            ("merchant_guid", &self.merchant_guid),
        ] {
            if wire::guid_of(guid).is_none() {
                faults.push(format!("{name} must be a GUID"));
            }
        }
        if self.currency.exponent() != 2 {
            faults.push(format!(
                "{} does not have two decimals, and this processor writes two",
                self.currency
            ));
        }
        for (name, span) in [
            ("timeout", self.timeout),
            ("read_timeout", self.read_timeout),
        ] {
            if span.is_zero() {
                faults.push(format!("{name} must not be zero"));
            }
        }
        faults
    }
}

/// Settings that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("ConnexPay account: {}", faults.join("; "))]
pub struct ConnexPayFaults {
    pub faults: Vec<String>,
}

/// What a connector works with, all of one account.
#[derive(Debug)]
pub struct ConnexPayParts<W = Pool> {
    /// Leads to the configured endpoint.
    pub wire: Arc<W>,
    /// Fetched by a [`ConnexPayTokens`] over the same wire.
    pub tokens: Arc<TokenKeeper>,
    /// What the tokens are fetched with: a text of theirs that repeats the password must not be kept.
    pub login: Arc<Login>,
    /// Holds back new charges; told what became of each.
    pub breaker: Breaker,
    /// On calls that move money. Reversals are not held back by it.
    pub limit: Limit,
}

/// The connector of one account.
pub struct ConnexPay<W = Pool> {
    config: ConnexPayConfig,
    client: Client<W>,
    login: Arc<Login>,
    breaker: Breaker,
    limit: Limit,
}

impl<W> fmt::Debug for ConnexPay<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnexPay")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<W: Transport> ConnexPay<W> {
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn new(config: ConnexPayConfig, parts: ConnexPayParts<W>) -> Result<Self, ConnexPayFaults> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(ConnexPayFaults { faults });
        }
        let ConnexPayParts {
            wire,
            tokens,
            login,
            breaker,
            limit,
        } = parts;
        Ok(Self {
            client: Client {
                wire,
                tokens,
                trust_401: config.trust_401,
            },
            login,
            breaker,
            limit,
            config,
        })
    }

    /// Why a payment that began elsewhere cannot be served here: its ids mean nothing at another endpoint.
    fn elsewhere(&self, subject: &Subject) -> Option<String> {
        let here = self.config.endpoint.trim_end_matches('/');
        let there = subject.endpoint.trim_end_matches('/');
        (!there.is_empty() && !there.eq_ignore_ascii_case(here)).then(|| {
            format!("the payment began at {there}, and this account is configured for {here}")
        })
    }

    /// Sends one request that moves money, and says what its answer proves.
    async fn money(
        &self,
        subject: &Subject,
        plan: &Plan,
        amount: Money,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
        evidence: &mut Vec<CallEvidence>,
    ) -> Verdict {
        let request = Request {
            method: Method::POST,
            path: plan.path,
            label: plan.label,
            body: plan.body.clone(),
            timeout: self.config.timeout,
        };
        match self.client.send(&request, gate, evidence).await {
            Outcome::Answered(response, token) => {
                let passwords = self.login.passwords();
                let asked = Asked {
                    subject,
                    shape: plan.shape,
                    amount,
                    reference: plan.sequence.as_deref(),
                    device_guid: &self.config.device_guid,
                    parent: plan.parent.as_deref(),
                    rules: Rules {
                        trust_401: self.config.trust_401,
                        trust_429: self.config.trust_429,
                        unlisted_code: self.config.unlisted_code,
                    },
                    scrub: Scrub {
                        payer,
                        token: Some(token.expose()),
                        passwords: &passwords,
                    },
                };
                after_another(answers::classify(&asked, &reply(&response)), evidence)
            }
            Outcome::NotSent(reason) => Verdict::NotSent(reason),
            Outcome::Unknown(reason) => Verdict::Unknown(reason),
        }
    }

    async fn charge_or_follow(
        &self,
        subject: &Subject,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
        evidence: &mut Vec<CallEvidence>,
    ) -> Verdict {
        if let Some(detail) = self.elsewhere(subject) {
            return Verdict::NotSent(NotSent::Unreachable { detail });
        }
        let _turn = match self.limit.acquire().await {
            Ok(turn) => turn,
            Err(reason) => return Verdict::NotSent(reason),
        };
        // Whoever waits for a turn holds neither a body nor what an exchange takes: there may be ten thousand of them.
        let plan = match requests::plan(&self.config, subject, payer) {
            Ok(plan) => plan,
            Err(missing) => return incomplete(&missing),
        };
        // Asked last: its trial must not wait for a turn.
        let admission = match self.breaker.admit(class_of(subject.verb)) {
            Ok(admission) => admission,
            Err(reason) => return Verdict::NotSent(reason),
        };
        let money = self.money(subject, &plan, subject.amount, payer, gate, evidence);
        let verdict = Box::pin(money).await;
        admission.record(health(&verdict));
        with_card(verdict, payer)
    }
}

/// The verdict on a send before which another one of this call left (its answer was a 401). Refused as a duplicate, it may
/// be a duplicate of ours, whatever that 401 said.
fn after_another(verdict: Verdict, evidence: &[CallEvidence]) -> Verdict {
    let left = |call: &&CallEvidence| call.bytes_written > 0;
    let sends = evidence.iter().filter(left).count();
    match verdict {
        Verdict::Declined(decline) | Verdict::Refused(decline)
            if decline.class == DeclineClass::Duplicate && sends > 1 =>
        {
            Verdict::Unknown(UnknownReason::DuplicateOfOurs)
        }
        verdict => verdict,
    }
}

/// Whether charges that end like this should go on.
fn health(verdict: &Verdict) -> Health {
    match verdict {
        Verdict::Approved(_)
        | Verdict::Declined(_)
        | Verdict::Refused(_)
        | Verdict::NotSent(NotSent::RefusedUnprocessed { .. }) => Health::Good,
        Verdict::Unknown(_) | Verdict::NotSent(NotSent::Unreachable { .. }) => Health::Bad,
        // Our own bounds and gates say nothing about them.
        Verdict::NotSent(_) => Health::Silent,
    }
}

fn class_of(verb: Verb) -> VerbClass {
    match verb {
        Verb::Sale | Verb::Authorize | Verb::Verify => VerbClass::NewCharge,
        Verb::Capture | Verb::Void | Verb::Refund | Verb::Reversal => VerbClass::FollowUp,
    }
}

fn incomplete(missing: &Missing) -> Verdict {
    let message = match missing {
        Missing::Card => {
            let detail = "without the card, which is not kept, nothing can be sent".to_owned();
            return Verdict::NotSent(NotSent::RefusedUnprocessed { detail });
        }
        Missing::Id(name) => format!("the payment has no {name} at this processor"),
        Missing::Verb => "this processor has no such verb".to_owned(),
    };
    Verdict::Refused(Decline {
        class: DeclineClass::InvalidRequest,
        code: None,
        message,
    })
}

/// What the answer left out of the card, as far as it may be kept.
fn with_card(verdict: Verdict, payer: Option<&Payer>) -> Verdict {
    let Some(payer) = payer else { return verdict };
    let known = match &payer.card {
        CardSource::Pan { number, expiry, .. } => StoredCard::from_answer(
            None,
            Some(number.brand()),
            Some(number.last_four()),
            Some(*expiry),
        ),
        CardSource::Token { token, expiry, .. } => {
            StoredCard::from_answer(Some(token.as_str()), None, None, *expiry)
        }
    };
    match verdict {
        Verdict::Approved(mut approval) => {
            let told = approval.card.take().unwrap_or_default();
            approval.card = Some(StoredCard {
                token: told.token.or(known.token),
                brand: told.brand.or(known.brand),
                // What was sent is certain; theirs is for a card that came as a token.
                last_four: known.last_four.or(told.last_four),
                expiry: told.expiry.or(known.expiry),
            });
            Verdict::Approved(approval)
        }
        other => other,
    }
}

#[async_trait]
impl<W: Transport> Connector for ConnexPay<W> {
    fn capabilities(&self, verb: Verb) -> Capabilities {
        let none = Capabilities {
            supported: true,
            prepares: false,
            looked_up: LookedUp::Never,
            repeat: Repeat::Never,
            undo: UndoBy::Nothing,
            found: WhenFound::Adopt,
            once_per_payment: false,
            partial: false,
        };
        let repeat_create = if self.config.resend_identical {
            Repeat::ByReference
        } else {
            Repeat::Never
        };
        match verb {
            Verb::Sale => Capabilities {
                looked_up: LookedUp::ByReference,
                undo: if self.config.timeout_reversal {
                    UndoBy::Reference
                } else {
                    UndoBy::Found
                },
                found: WhenFound::Reverse,
                repeat: repeat_create,
                ..none
            },
            // The reversal by sequence number names sales only.
            Verb::Authorize => Capabilities {
                looked_up: LookedUp::ByReference,
                undo: UndoBy::Found,
                repeat: repeat_create,
                ..none
            },
            Verb::Capture => Capabilities {
                looked_up: LookedUp::ByParent,
                repeat: Repeat::OncePerParent,
                once_per_payment: true,
                partial: self.config.partial_captures,
                ..none
            },
            Verb::Void => Capabilities {
                prepares: true,
                looked_up: LookedUp::ByParent,
                repeat: Repeat::OncePerParent,
                once_per_payment: true,
                ..none
            },
            // Two equal returns are both valid: never sent twice.
            Verb::Refund => Capabilities {
                prepares: true,
                looked_up: LookedUp::ByTotals,
                partial: true,
                ..none
            },
            Verb::Verify => none,
            Verb::Reversal => Capabilities {
                supported: false,
                ..none
            },
        }
    }

    fn check(&self, draft: &Draft<'_>) -> Vec<Fault> {
        requests::check(&self.config, draft)
    }

    async fn prepare(&self, subject: &Subject) -> Result<Prepared, PrepareError> {
        if let Some(detail) = self.elsewhere(subject) {
            return Err(PrepareError::CouldNotAsk(NotSent::Unreachable { detail }));
        }
        prepare::prepare(self, subject).await
    }

    async fn execute(
        &self,
        subject: &Subject,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
    ) -> Answer {
        let mut evidence = Vec::new();
        let verdict = self
            .charge_or_follow(subject, payer, gate, &mut evidence)
            .await;
        Answer { verdict, evidence }
    }

    async fn look_up(&self, subject: &Subject, control: Option<&Control>) -> LookUp {
        if let Some(detail) = self.elsewhere(subject) {
            return LookUp {
                finding: Finding::CouldNotAsk { detail },
                evidence: Vec::new(),
            };
        }
        let mut asking = Asking::new(self, subject);
        let finding = match subject.verb {
            Verb::Sale => asking.create(Shape::Sale, control).await,
            Verb::Authorize => asking.create(Shape::AuthOnly, control).await,
            Verb::Capture => asking.capture().await,
            Verb::Void => asking.void().await,
            Verb::Refund => asking.refund().await,
            Verb::Verify | Verb::Reversal => {
                let detail = format!("a {} leaves nothing to look for", subject.verb.as_str());
                Finding::CouldNotAsk { detail }
            }
        };
        LookUp {
            finding,
            evidence: asking.evidence,
        }
    }

    async fn reverse(&self, subject: &Subject, form: &ReversalForm, gate: &dyn SendGate) -> Undo {
        if let Some(detail) = self.elsewhere(subject) {
            return Undo {
                outcome: Undone::NotSent(NotSent::Unreachable { detail }),
                evidence: Vec::new(),
            };
        }
        undo::reverse(self, subject, form, gate).await
    }

    fn refuses_now(&self, verb: Verb) -> Option<NotSent> {
        if !self.client.tokens.is_hopeful() {
            return Some(NotSent::NoToken {
                detail: "no access token, and fetching one has just failed".to_owned(),
            });
        }
        self.breaker
            .refuses(class_of(verb))
            .then_some(NotSent::BreakerOpen)
    }

    fn token_health(&self) -> Option<TokenHealth> {
        Some(self.client.tokens.health())
    }
}
