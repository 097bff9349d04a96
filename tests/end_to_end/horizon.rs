//! What is sent again leaves before the moment from which its horizon counts.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use gateway_core::clock::Timestamp;
use gateway_core::connector::{
    Answer, Capabilities, Connector, Control, Fault as FieldFault, LookUp, NotSent, Payer,
    PrepareError, Prepared, ReversalForm, SendGate, Subject, Undo, Undone, Verdict,
};
use gateway_core::draft::Draft;
use gateway_core::operation::Verb;
use gateway_core::token::TokenHealth;
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind};
use sandbox::world::{World, sale};
use tokio::sync::mpsc;

/// Sends nothing again: it asks the gate until it is too late, tells when the last yes was, and stays there.
struct Asking {
    inner: Arc<dyn Connector>,
    told: mpsc::UnboundedSender<(Verb, Timestamp)>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asking").field(&self.inner).finish()
    }
}

impl Asking {
    /// Comes back only from a machine too busy to vouch for itself.
    async fn ask(&self, verb: Verb, gate: &dyn SendGate) -> NotSent {
        let mut last = None;
        loop {
            match gate.may_send() {
                Ok(()) => last = Some(Timestamp::from(SystemTime::now())),
                Err(NotSent::TooLate) => break,
                Err(busy) => return busy,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let last = last.expect("a yes before it is too late");
        self.told.send((verb, last)).expect("a test that listens");
        std::future::pending().await
    }
}

#[async_trait]
impl Connector for Asking {
    fn capabilities(&self, verb: Verb) -> Capabilities {
        self.inner.capabilities(verb)
    }

    fn check(&self, draft: &Draft<'_>) -> Vec<FieldFault> {
        self.inner.check(draft)
    }

    async fn prepare(&self, subject: &Subject) -> Result<Prepared, PrepareError> {
        self.inner.prepare(subject).await
    }

    async fn execute(
        &self,
        subject: &Subject,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
    ) -> Answer {
        if subject.sends == 1 {
            return self.inner.execute(subject, payer, gate).await;
        }
        let verdict = Verdict::NotSent(self.ask(subject.verb, gate).await);
        let evidence = Vec::new();
        Answer { verdict, evidence }
    }

    async fn look_up(&self, subject: &Subject, control: Option<&Control>) -> LookUp {
        self.inner.look_up(subject, control).await
    }

    async fn reverse(&self, _: &Subject, _: &ReversalForm, gate: &dyn SendGate) -> Undo {
        let outcome = Undone::NotSent(self.ask(Verb::Reversal, gate).await);
        let evidence = Vec::new();
        Undo { outcome, evidence }
    }

    fn refuses_now(&self, verb: Verb) -> Option<NotSent> {
        self.inner.refuses_now(verb)
    }

    fn token_health(&self) -> Option<TokenHealth> {
        self.inner.token_health()
    }
}

/// A repeat and a reversal are held until nothing may leave any more; their horizons are counted from then, however short
/// the account's timeout is.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_later_than_its_horizon_counts_with() {
    const HORIZON: Duration = Duration::from_secs(8);
    let mut world = World::new().await;
    world.config.set_spans("1s", "2s", "8s");
    let (told, mut heard) = mpsc::unbounded_channel();
    let seams = Seams {
        wrap_connector: Some(Arc::new(move |inner| {
            let told = told.clone();
            Arc::new(Asking { inner, told }) as _
        })),
        ..Seams::default()
    };
    let gateway = world.gateway_with(seams).await;
    let shop = world.caller(&gateway.url);
    let mut hold = sale(20_00);
    hold["capture"] = "manual".into();
    let hold = shop.pay_surely("hold", &hold).await.payment();
    let silence = |verb| Fault::on(Kind::HangBeforeCommit, verb);
    let faults = vec![silence(verb::SALE), silence(verb::CAPTURE)];
    let connexpay = world.simulators.connexpay();
    connexpay.set_faults(faults, 7).await.expect("faults");
    let lost = sale(10_00);
    let (captured, sold) = tokio::join!(
        shop.capture("capture", &hold, 20_00),
        shop.pay("sale", &lost)
    );
    assert_eq!((captured.status, sold.status), (504, 504));

    let (records, store) = (world.records().await, world.store().await);
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_mins(1), heard.recv());
        let (verb, last_yes) = next.await.expect("a verdict").expect("the gateway lives");
        let sent = match verb {
            Verb::Reversal => {
                let of = records.operation("sale").await.id;
                let reversal = store.reversal_of(of).await.expect("the ledger");
                reversal.expect("a reversal that was counted")
            }
            _ => records.operation("capture").await,
        };
        assert!(
            last_yes + HORIZON <= sent.late_after,
            "{verb:?} may leave at {last_yes:?}, and nothing is expected after {:?}",
            sent.late_after
        );
    }
}
