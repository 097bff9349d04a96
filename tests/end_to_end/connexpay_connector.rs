//! The connector against the simulated processor, with no gateway between: what it finds is what the books say.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::card::{CardSource, Cvv, Expiry, Pan};
use gateway_core::clock::{Clock, SystemClock};
use gateway_core::connector::{
    AlwaysOpen, Answer, Approval, Connector, Control, DeclineClass, Finding, Found, Payer,
    PrepareError, ReversalForm, Standing, Subject, Undone, UpstreamIds, Verdict,
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
    Breaker, BreakerConfig, Limit, LimitConfig, Pool, PoolConfig, PoolMetrics,
};
use prometheus_client::registry::Registry;
use sandbox::simulators::connexpay::{
    DEVICE_USD, DeclineForm, Envelope, MERCHANT_USD, PASSWORD, Rules, USERNAME, verb,
};
use sandbox::simulators::{Fault, Kind, Options, Simulators};
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;

struct Bench {
    simulators: Simulators,
    connector: ConnexPay,
}

impl Bench {
    async fn new(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let options = Options {
            connexpay: rules,
            ..Options::default()
        };
        let simulators = Simulators::start(listener, None, options)
            .await
            .expect("simulators");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = PoolMetrics::register(&mut Registry::default());
        let url = simulators.connexpay_url();
        let config = PoolConfig::new("acme", url.parse().expect("a URL"));
        let pool = Pool::new(config, Arc::clone(&clock), &metrics).expect("a pool");
        let login = Login::new(Credentials {
            username: SecretString::from(USERNAME),
            password: SecretString::from(PASSWORD),
        });
        let timeout = Duration::from_secs(5);
        let source = ConnexPayTokens::new(Arc::clone(&pool), Arc::clone(&login), timeout);
        let tokens = TokenKeeper::new(
            "acme",
            Arc::new(source),
            None,
            Arc::new(LocalLock::new()),
            TokenKey::parse(&"07".repeat(32).into()).expect("32 bytes"),
            Arc::clone(&clock),
            TokenOptions {
                lone_pause_max: Duration::ZERO,
                ..TokenOptions::default()
            },
        );
        let breaker = BreakerConfig {
            failure_count_max: 100,
            open_for: Duration::from_secs(1),
        };
        let limit = LimitConfig {
            calls_max: 8,
            waiters_max: 8,
            wait_max: Duration::from_secs(1),
        };
        let parts = ConnexPayParts {
            wire: pool,
            tokens,
            login,
            breaker: Breaker::new("acme", breaker, clock, &metrics),
            limit: Limit::new("acme", limit, &metrics),
        };
        let mut config = ConnexPayConfig::new(url, DEVICE_USD, MERCHANT_USD, usd(0).currency());
        config.timeout = Duration::from_millis(800);
        let connector = ConnexPay::new(config, parts).expect("a connector");
        Self {
            simulators,
            connector,
        }
    }

    fn subject(&self, verb: Verb, number: u32, minor: i64) -> Subject {
        Subject {
            operation: OperationId::generate(SystemClock.now(), rand::random()),
            verb,
            account: AccountName::parse("acme").expect("a name"),
            endpoint: self.simulators.connexpay_url(),
            reference: reference(number),
            amount: usd(minor),
            order_reference: None,
            statement_descriptor: None,
            parent: UpstreamIds::default(),
            parent_reference: None,
            prepared: None,
            sends: 1,
            recorded_at: SystemClock.now(),
        }
    }

    fn follow_up(
        &self,
        verb: Verb,
        number: u32,
        minor: i64,
        create: &Subject,
        ids: &UpstreamIds,
    ) -> Subject {
        Subject {
            parent: ids.clone(),
            parent_reference: Some(create.reference.clone()),
            ..self.subject(verb, number, minor)
        }
    }

    async fn prepared(&self, subject: Subject) -> Result<Subject, PrepareError> {
        let prepared = self.connector.prepare(&subject).await?;
        Ok(Subject {
            prepared: Some(prepared),
            ..subject
        })
    }

    async fn send(&self, subject: &Subject) -> Answer {
        let payer = subject.verb.is_create().then(payer);
        self.connector
            .execute(subject, payer.as_ref(), &AlwaysOpen)
            .await
    }

    async fn approved(&self, subject: &Subject) -> Approval {
        let answer = self.send(subject).await;
        match answer.verdict {
            Verdict::Approved(approval) => approval,
            other => panic!("{:?} was not approved: {other:?}", subject.verb),
        }
    }

    async fn find(&self, subject: &Subject) -> Finding {
        self.connector.look_up(subject, None).await.finding
    }

    /// Sends it while its answer is lost, and returns what the look-up says.
    async fn lost(&self, verb: &str, subject: &Subject) -> Finding {
        let connexpay = self.simulators.connexpay();
        connexpay
            .set_fault(Fault::on(Kind::CommitThenReset, verb).first(1))
            .await
            .expect("a fault");
        let answer = self.send(subject).await;
        assert!(matches!(answer.verdict, Verdict::Unknown(_)), "{answer:?}");
        connexpay.lift_faults().await.expect("no fault");
        self.find(subject).await
    }

    fn net(&self, create: &Subject) -> i64 {
        self.simulators
            .connexpay()
            .books()
            .position(create.reference.as_str())
            .net
    }

    fn settle(&self) {
        self.simulators
            .connexpay()
            .settle()
            .expect("a settled batch");
    }
}

fn reference(number: u32) -> UpstreamReference {
    UpstreamReference::parse(&format!("R{number:016}")).expect("17 characters")
}

fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::parse("USD").expect("a currency")).expect("not negative")
}

fn payer() -> Payer {
    let risk = json!({"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"});
    Payer {
        card: CardSource::Pan {
            number: Pan::parse("4012000098765439").expect("a card"),
            cvv: Some(Cvv::parse("999").expect("a code")),
            expiry: Expiry::new(2039, 12).expect("a month"),
            holder: None,
        },
        customer: None,
        risk: risk.as_object().cloned().unwrap_or_default(),
        upstream: serde_json::Map::new(),
    }
}

fn standing(finding: &Finding) -> Option<(i64, bool)> {
    match finding {
        Finding::Found(Found::Approved {
            standing: Standing { remaining, settled },
            ..
        }) => Some((*remaining, *settled)),
        _ => None,
    }
}

fn both_forms() -> [Rules; 2] {
    let newer = Rules {
        decline_form: DeclineForm::Success,
        search_envelope: Envelope::Pages,
        ..Rules::default()
    };
    [Rules::default(), newer]
}

#[tokio::test]
async fn a_sale_whose_answer_was_lost_is_found_and_reversed() {
    for rules in both_forms() {
        let bench = Bench::new(rules).await;
        let sale = bench.subject(Verb::Sale, 1, 150_000);
        assert_eq!(
            standing(&bench.lost(verb::SALE, &sale).await),
            Some((150_000, false))
        );
        assert_eq!(bench.net(&sale), 150_000);
        let undo = bench
            .connector
            .reverse(&sale, &ReversalForm::ByReference, &AlwaysOpen)
            .await;
        assert_eq!(
            undo.outcome,
            Undone::Done {
                upstream_reference: None
            }
        );
        assert_eq!(bench.net(&sale), 0);
        assert_eq!(standing(&bench.find(&sale).await), Some((0, false)));
        let again = bench
            .connector
            .reverse(&sale, &ReversalForm::ByReference, &AlwaysOpen)
            .await;
        assert_eq!(again.outcome, Undone::NothingFound { conclusive: true });
    }
}

#[tokio::test]
async fn a_settled_sale_is_reversed_by_a_return() {
    let bench = Bench::new(Rules::default()).await;
    let sale = bench.subject(Verb::Sale, 1, 150_000);
    let ids = bench.approved(&sale).await.ids;
    bench.settle();
    let by_reference = bench
        .connector
        .reverse(&sale, &ReversalForm::ByReference, &AlwaysOpen)
        .await;
    assert_eq!(by_reference.outcome, Undone::Settled);
    let void = ReversalForm::Void { ids: ids.clone() };
    assert_eq!(
        bench
            .connector
            .reverse(&sale, &void, &AlwaysOpen)
            .await
            .outcome,
        Undone::Settled
    );
    assert_eq!(standing(&bench.find(&sale).await), Some((150_000, true)));
    let refund = ReversalForm::Refund {
        ids,
        amount: 150_000,
    };
    let undone = bench
        .connector
        .reverse(&sale, &refund, &AlwaysOpen)
        .await
        .outcome;
    assert!(
        matches!(
            undone,
            Undone::Done {
                upstream_reference: Some(_)
            }
        ),
        "{undone:?}"
    );
    assert_eq!(bench.net(&sale), 0);
}

#[tokio::test]
async fn what_never_arrived_is_not_found_and_a_control_makes_that_conclusive() {
    for rules in both_forms() {
        let bench = Bench::new(rules).await;
        let known = bench.subject(Verb::Sale, 1, 5_000);
        let ids = bench.approved(&known).await.ids;
        let never = bench.subject(Verb::Sale, 2, 5_000);
        assert_eq!(
            bench.find(&never).await,
            Finding::NotFound { conclusive: false }
        );
        let control = Control {
            reference: known.reference.clone(),
            ids,
        };
        let found = bench.connector.look_up(&never, Some(&control)).await;
        assert_eq!(found.finding, Finding::NotFound { conclusive: true });
        let missing = Control {
            reference: reference(3),
            ..control
        };
        let found = bench.connector.look_up(&never, Some(&missing)).await;
        assert_eq!(found.finding, Finding::NotFound { conclusive: false });
        let undo = bench
            .connector
            .reverse(&never, &ReversalForm::ByReference, &AlwaysOpen)
            .await;
        assert_eq!(undo.outcome, Undone::NothingFound { conclusive: true });
    }
}

#[tokio::test]
async fn declines_are_answers_in_either_form() {
    for rules in both_forms() {
        let bench = Bench::new(rules).await;
        let answer = bench.send(&bench.subject(Verb::Sale, 1, 660_002)).await;
        let Verdict::Declined(decline) = answer.verdict else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (decline.class, decline.code.as_deref()),
            (DeclineClass::Soft, Some("D2012"))
        );
        let partial = bench
            .approved(&bench.subject(Verb::Authorize, 2, 660_003))
            .await;
        assert_eq!(partial.amount, usd(330_001));
    }
}

#[tokio::test]
async fn an_authorization_is_found_captured_and_what_is_left_follows_its_sale() {
    for rules in both_forms() {
        let bench = Bench::new(rules).await;
        let authorization = bench.subject(Verb::Authorize, 1, 10_000);
        let Finding::Found(Found::Approved { approval, .. }) =
            bench.lost(verb::AUTH_ONLY, &authorization).await
        else {
            panic!("not found")
        };
        let mut ids = approval.ids;
        let capture = bench.follow_up(Verb::Capture, 2, 6_000, &authorization, &ids);
        assert_eq!(
            bench.find(&capture).await,
            Finding::NotFound { conclusive: true }
        );
        let found = bench.lost(verb::CAPTURE, &capture).await;
        let Finding::Found(Found::Approved { approval, .. }) = found else {
            panic!("{found:?}")
        };
        ids.extend(&approval.ids);
        assert!(ids.get("sale").is_some(), "{ids:?}");
        let again = bench.send(&capture).await.verdict;
        assert!(
            matches!(&again, Verdict::Declined(decline) if decline.class == DeclineClass::Duplicate),
            "{again:?}"
        );
        assert_eq!(
            standing(&bench.find(&authorization).await),
            Some((6_000, false))
        );
        assert_eq!(bench.net(&authorization), 6_000);

        let void = bench
            .prepared(bench.follow_up(Verb::Void, 3, 6_000, &authorization, &ids))
            .await
            .expect("not settled");
        assert_eq!(
            bench.find(&void).await,
            Finding::NotFound { conclusive: true }
        );
        assert_eq!(
            standing(&bench.lost(verb::VOID, &void).await),
            Some((0, false))
        );
        let again = bench.send(&void).await.verdict;
        assert!(!matches!(again, Verdict::Approved(_)), "{again:?}");
        assert_eq!(bench.net(&authorization), 0);
    }
}

#[tokio::test]
async fn a_held_authorization_is_voided() {
    let bench = Bench::new(Rules::default()).await;
    let authorization = bench.subject(Verb::Authorize, 1, 10_000);
    let ids = bench.approved(&authorization).await.ids;
    let void = bench
        .prepared(bench.follow_up(Verb::Void, 2, 10_000, &authorization, &ids))
        .await
        .expect("held");
    assert_eq!(
        bench.find(&void).await,
        Finding::NotFound { conclusive: true }
    );
    bench.approved(&void).await;
    assert_eq!(standing(&bench.find(&void).await), Some((0, false)));
    assert_eq!(
        standing(&bench.find(&authorization).await),
        Some((0, false))
    );
}

#[tokio::test]
async fn refunds_are_found_by_exactly_their_change() {
    for rules in both_forms() {
        let bench = Bench::new(rules).await;
        let sale = bench.subject(Verb::Sale, 1, 10_000);
        let ids = bench.approved(&sale).await.ids;
        let part = bench.follow_up(Verb::Refund, 2, 2_500, &sale, &ids);
        assert_eq!(
            bench.prepared(part.clone()).await.err(),
            Some(PrepareError::NotSettled)
        );
        bench.settle();
        let part = bench.prepared(part).await.expect("settled");
        assert_eq!(
            bench.find(&part).await,
            Finding::NotFound { conclusive: true }
        );
        let found = bench.lost(verb::RETURN, &part).await;
        assert_eq!(standing(&found), Some((7_500, true)));
        let Finding::Found(Found::Approved { approval, .. }) = found else {
            panic!("found")
        };
        let returned = bench.simulators.connexpay().books();
        assert!(
            returned
                .entry(&approval.upstream_reference)
                .is_some_and(|entry| entry.amount == 2_500)
        );

        let rest = bench
            .prepared(bench.follow_up(Verb::Refund, 3, 7_500, &sale, &ids))
            .await
            .expect("some left");
        bench.approved(&rest).await;
        assert_eq!(bench.net(&sale), 0);
        let more = bench
            .prepared(bench.follow_up(Verb::Refund, 4, 50, &sale, &ids))
            .await;
        assert!(
            matches!(more, Err(PrepareError::NothingLeft { .. })),
            "{more:?}"
        );
    }
}

#[tokio::test]
async fn a_whole_refund_before_settlement_is_a_void() {
    let bench = Bench::new(Rules::default()).await;
    let sale = bench.subject(Verb::Sale, 1, 10_000);
    let ids = bench.approved(&sale).await.ids;
    let whole = bench
        .prepared(bench.follow_up(Verb::Refund, 2, 10_000, &sale, &ids))
        .await
        .expect("all of it");
    assert!(
        whole
            .prepared
            .as_ref()
            .is_some_and(|prepared| prepared.as_void)
    );
    assert_eq!(
        standing(&bench.lost(verb::VOID, &whole).await),
        Some((0, false))
    );
    assert_eq!(bench.net(&sale), 0);
}

#[tokio::test]
async fn a_dead_token_costs_one_repeat_and_an_echo_is_not_kept() {
    let bench = Bench::new(Rules::default()).await;
    bench.approved(&bench.subject(Verb::Sale, 1, 5_000)).await;
    let connexpay = bench.simulators.connexpay();
    connexpay.revoke_tokens().expect("revoked");
    let sale = bench.subject(Verb::Sale, 2, 6_000);
    let answer = bench.send(&sale).await;
    assert!(matches!(answer.verdict, Verdict::Approved(_)), "{answer:?}");
    assert_eq!(answer.evidence.len(), 2);
    assert_eq!(bench.net(&sale), 6_000);

    connexpay
        .set_fault(Fault::on(Kind::EchoCard, verb::SALE))
        .await
        .expect("a fault");
    let told = format!(
        "{:?}",
        bench.send(&bench.subject(Verb::Sale, 3, 7_000)).await
    );
    assert!(told.contains("CVV2 verification failed"), "{told}");
    assert!(!told.contains("4012000098765439"), "{told}");
    for token in told.split(|c: char| !c.is_ascii_alphanumeric()) {
        assert!(token.len() < 40, "{told}");
    }
}

#[tokio::test]
async fn whatever_the_processor_does_to_a_sale_no_verdict_contradicts_its_books() {
    let kinds = [
        Kind::HangBeforeCommit,
        Kind::CommitThenHang,
        Kind::CommitThenReset,
        Kind::CommitThenTruncate,
        Kind::CommitThen500,
        Kind::CommitThenCode,
        Kind::CommitThenGarbage,
        Kind::CommitThenStatus,
        Kind::ResetBeforeRead,
        Kind::Http500,
        Kind::Http429,
        Kind::Redirect308,
        Kind::Route404,
        Kind::PartialApproval,
        Kind::Decline422,
        Kind::Decline2xx,
        Kind::EchoCard,
    ];
    let bench = Bench::new(Rules::default()).await;
    for (number, kind) in (1..).zip(kinds) {
        let connexpay = bench.simulators.connexpay();
        connexpay
            .set_fault(Fault::on(kind, verb::SALE).first(1))
            .await
            .expect("a fault");
        let sale = bench.subject(Verb::Sale, number, 10_000 + i64::from(number));
        let verdict = bench.send(&sale).await.verdict;
        connexpay.lift_faults().await.expect("no fault");
        let net = bench.net(&sale);
        let agrees = match &verdict {
            Verdict::Approved(approval) => net == approval.amount.minor(),
            Verdict::Declined(_) | Verdict::Refused(_) | Verdict::NotSent(_) => net == 0,
            Verdict::Unknown(_) => true,
        };
        assert!(agrees, "{kind:?}: {verdict:?}, and the books say {net}");
        let found = bench.find(&sale).await;
        match standing(&found) {
            Some((remaining, _)) => assert_eq!(remaining, net, "{kind:?}"),
            None => assert_eq!(net, 0, "{kind:?}: {found:?}"),
        }
    }
}
