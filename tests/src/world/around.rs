//! Connectors with something around the send: where a test holds a payment, or lets its task panic.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use gateway_core::connector::{
    Answer, Capabilities, Connector, Control, Fault, LookUp, NotSent, Payer, PrepareError,
    Prepared, ReversalForm, SendGate, Subject, Undo,
};
use gateway_core::draft::Draft;
use gateway_core::operation::Verb;
use gateway_core::token::TokenHealth;
use gateway_http::assemble::{Seams, Wrap};
use tokio::sync::watch;

/// Runs where it was put, for each operation that comes by.
pub type Hook = Arc<dyn Fn(Subject) -> BoxFuture<'static, ()> + Send + Sync>;

/// Around every `execute`: `before` once the operation is recorded and nothing of it is sent; `after` once the processor has
/// answered and nothing of that is written down.
#[derive(Clone)]
pub struct Around {
    pub before: Hook,
    pub after: Hook,
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}

impl Default for Around {
    fn default() -> Self {
        let nothing: Hook = Arc::new(|_| Box::pin(std::future::ready(())));
        Self {
            before: Arc::clone(&nothing),
            after: nothing,
        }
    }
}

impl Around {
    pub fn before(hook: Hook) -> Self {
        Self {
            before: hook,
            ..Self::default()
        }
    }

    pub fn after(hook: Hook) -> Self {
        Self {
            after: hook,
            ..Self::default()
        }
    }

    pub fn seams(self) -> Seams {
        let wrap: Wrap<dyn Connector> = Arc::new(move |inner| {
            let around = self.clone();
            Arc::new(Surrounded { inner, around })
        });
        Seams {
            wrap_connector: Some(wrap),
            ..Seams::default()
        }
    }
}

/// Holds whoever comes until it is opened.
#[derive(Clone, Debug)]
pub struct Turnstile {
    arrived: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
}

impl Turnstile {
    pub fn closed() -> Self {
        Self {
            arrived: Arc::default(),
            open: Arc::default(),
        }
    }

    pub fn hook(&self) -> Hook {
        let turnstile = self.clone();
        Arc::new(move |_| {
            let turnstile = turnstile.clone();
            Box::pin(async move {
                turnstile.arrived.send_modify(|arrived| *arrived += 1);
                // The sender lives in `turnstile`.
                let _ = turnstile.open.subscribe().wait_for(|open| *open).await;
            })
        })
    }

    /// Waits until `count` operations in all have come.
    pub async fn reached(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let reached = arrived.wait_for(|arrived| *arrived >= count);
        tokio::time::timeout(crate::simulators::WAIT_MAX, reached)
            .await
            .expect("operations at the turnstile")
            .expect("the sender lives in self");
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

struct Surrounded {
    inner: Arc<dyn Connector>,
    around: Around,
}

impl fmt::Debug for Surrounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Surrounded").field(&self.inner).finish()
    }
}

#[async_trait]
impl Connector for Surrounded {
    fn capabilities(&self, verb: Verb) -> Capabilities {
        self.inner.capabilities(verb)
    }

    fn check(&self, draft: &Draft<'_>) -> Vec<Fault> {
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
        (self.around.before)(subject.clone()).await;
        let answer = self.inner.execute(subject, payer, gate).await;
        (self.around.after)(subject.clone()).await;
        answer
    }

    async fn look_up(&self, subject: &Subject, control: Option<&Control>) -> LookUp {
        self.inner.look_up(subject, control).await
    }

    async fn reverse(&self, subject: &Subject, form: &ReversalForm, gate: &dyn SendGate) -> Undo {
        self.inner.reverse(subject, form, gate).await
    }

    fn refuses_now(&self, verb: Verb) -> Option<NotSent> {
        self.inner.refuses_now(verb)
    }

    fn token_health(&self) -> Option<TokenHealth> {
        self.inner.token_health()
    }
}
