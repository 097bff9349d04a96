//! A resolver on a ledger in a file, with a processor that says what the test tells it to: one check at a time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use crate::clock::{ManualClock, Timestamp};
use crate::connector::{
    Answer, Approval, Capabilities, Connector, Control, Decline, DeclineClass, Fault, Finding,
    Found, LookUp, LookedUp, NotSent, Payer, PrepareError, Prepared, Repeat, ReversalForm,
    SendGate, Standing, Subject, Undo, UndoBy, Undone, UnknownReason, UpstreamIds, Verdict,
    WhenFound,
};
use crate::draft::Draft;
use crate::engine::{Account, Engine, EngineOptions, Parts};
use crate::key::{OperationId, ReplicaId};
use crate::lock::LocalLock;
use crate::operation::Verb;
use crate::randomness::SystemRandomness;
use crate::resolver::ResolverOptions;
use crate::store::contract::{
    Ledger, account, begin, end, keys, read, replica, sale, unknown, usd,
};
use crate::store::{Event, Intent, Operation, SqliteStore, Store};
use crate::token::TokenHealth;

/// Until the next check, whatever its number: long enough that only the test begins one.
const PAUSE: Duration = Duration::from_hours(1);

/// What the processor answers, until the test says otherwise.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// `None`: the connector has a bug, and panics.
    pub(super) look_up: Option<Finding>,
    pub(super) execute: Verdict,
    pub(super) reverse: Undone,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            look_up: Some(Finding::NotFound { conclusive: true }),
            execute: Verdict::Unknown(UnknownReason::TimedOut),
            reverse: Undone::Unknown(UnknownReason::TimedOut),
        }
    }
}

#[derive(Debug)]
pub(super) struct Processor {
    capabilities: Capabilities,
    said: Mutex<Said>,
    pub(super) look_ups: AtomicU32,
    pub(super) executed: AtomicU32,
    pub(super) reversed: AtomicU32,
}

impl Processor {
    fn said(&self) -> Said {
        self.said.lock().expect("nothing panics under it").clone()
    }
}

#[async_trait]
impl Connector for Processor {
    fn capabilities(&self, _: Verb) -> Capabilities {
        self.capabilities
    }

    fn check(&self, _: &Draft<'_>) -> Vec<Fault> {
        Vec::new()
    }

    async fn prepare(&self, _: &Subject) -> Result<Prepared, PrepareError> {
        Ok(Prepared::default())
    }

    async fn execute(&self, _: &Subject, _: Option<&Payer>, gate: &dyn SendGate) -> Answer {
        let verdict = match gate.may_send() {
            Ok(()) => {
                self.executed.fetch_add(1, Ordering::SeqCst);
                self.said().execute
            }
            Err(not_sent) => Verdict::NotSent(not_sent),
        };
        Answer {
            verdict,
            evidence: Vec::new(),
        }
    }

    async fn look_up(&self, _: &Subject, _: Option<&Control>) -> LookUp {
        self.look_ups.fetch_add(1, Ordering::SeqCst);
        let finding = self.said().look_up;
        LookUp {
            finding: finding.expect("a bug that this look-up wakes"),
            evidence: Vec::new(),
        }
    }

    async fn reverse(&self, _: &Subject, _: &ReversalForm, gate: &dyn SendGate) -> Undo {
        let outcome = match gate.may_send() {
            Ok(()) => {
                self.reversed.fetch_add(1, Ordering::SeqCst);
                self.said().reverse
            }
            Err(not_sent) => Undone::NotSent(not_sent),
        };
        Undo {
            outcome,
            evidence: Vec::new(),
        }
    }

    fn refuses_now(&self, _: Verb) -> Option<NotSent> {
        None
    }

    fn token_health(&self) -> Option<TokenHealth> {
        None
    }
}

/// One account's resolver.
pub(super) struct Stage {
    pub(super) ledger: Ledger,
    pub(super) processor: Arc<Processor>,
    pub(super) engine: Engine,
    folder: PathBuf,
}

/// Found by reference, never repeated, never undone.
pub(super) fn plain() -> Capabilities {
    Capabilities {
        supported: true,
        prepares: false,
        looked_up: LookedUp::ByReference,
        repeat: Repeat::Never,
        undo: UndoBy::Nothing,
        found: WhenFound::Adopt,
        once_per_payment: false,
        partial: true,
    }
}

impl Stage {
    pub(super) async fn new(capabilities: Capabilities) -> Self {
        Self::with(capabilities, EngineOptions::default(), Duration::ZERO).await
    }

    /// That asks again after these spans, and then no more.
    pub(super) async fn asking_after(capabilities: Capabilities, schedule: Vec<Duration>) -> Self {
        let options = EngineOptions::default();
        Self::on_schedule(capabilities, options, Duration::ZERO, schedule).await
    }

    /// With options of the test's own, and an account of this horizon.
    pub(super) async fn with(
        capabilities: Capabilities,
        options: EngineOptions,
        late_arrival_horizon: Duration,
    ) -> Self {
        Self::on_schedule(capabilities, options, late_arrival_horizon, vec![PAUSE]).await
    }

    async fn on_schedule(
        capabilities: Capabilities,
        options: EngineOptions,
        late_arrival_horizon: Duration,
        schedule: Vec<Duration>,
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("quittance-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("may write to the temporary folder");
        let store = SqliteStore::open(&file_in(&folder)).await.expect("opens");
        store.migrate().await.expect("migrations apply");
        let ledger: Ledger = Arc::new(store);
        let processor = Arc::new(Processor {
            capabilities,
            said: Mutex::default(),
            look_ups: AtomicU32::new(0),
            executed: AtomicU32::new(0),
            reversed: AtomicU32::new(0),
        });
        let configured = Account {
            name: account(),
            connector: Arc::clone(&processor) as _,
            endpoint: "https://upstream.test".to_owned(),
            currencies: vec![usd(0).currency()],
            timeout: Duration::from_secs(1),
            late_arrival_horizon,
        };
        let parts = Parts {
            store: Arc::clone(&ledger),
            lock: Arc::new(LocalLock::new()),
            // It stands still: one beat vouches for the whole test, and no send comes too late.
            clock: Arc::new(ManualClock::new(Timestamp::from_seconds(1_795_000_000))),
            randomness: Arc::new(SystemRandomness),
            keys: keys(),
            accounts: HashMap::from([(account(), Arc::new(configured))]),
            metrics: Arc::default(),
            replica: replica(),
        };
        let options = EngineOptions {
            resolver: ResolverOptions {
                schedule,
                repeat_every: PAUSE,
                scan_every: PAUSE,
                checks_max: 8,
            },
            ..options
        };
        let engine = Engine::start(parts, options);
        until("a first beat", async || engine.is_beating().then_some(())).await;
        engine.stop_background();
        Self {
            ledger,
            processor,
            engine,
            folder,
        }
    }

    pub(super) fn me(&self) -> ReplicaId {
        self.engine.replica()
    }

    /// From now on the processor answers like this.
    pub(super) fn says(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.processor.said.lock().expect("nothing panics under it"));
    }

    /// One check of the operation as it stands, and what it left.
    pub(super) async fn check(&self, id: OperationId) -> Operation {
        let operation = read(&self.ledger, id).await;
        self.engine.shared.check(operation).await;
        read(&self.ledger, id).await
    }

    pub(super) async fn reversal_of(&self, id: OperationId) -> Operation {
        let reversal = self.ledger.reversal_of(id).await.expect("readable");
        reversal.expect("a reversal was begun")
    }

    /// The last event of an operation.
    pub(super) async fn last_event(&self, id: OperationId) -> Event {
        let mut events = self.ledger.timeline(id).await.expect("readable");
        events.pop().expect("an event")
    }

    /// Runs a statement past all our code.
    pub(super) async fn execute_sql(&self, sql: &str) {
        let options = SqliteConnectOptions::new().filename(file_in(&self.folder));
        let mut raw = SqliteConnection::connect_with(&options)
            .await
            .expect("connects");
        let statement = sqlx::query(AssertSqlSafe(sql.to_owned()));
        statement.execute(&mut raw).await.expect("done");
        raw.close().await.expect("closes");
    }

    /// Records an intent, and learns nothing of its outcome.
    pub(super) async fn lost(&self, intent: Intent) -> Operation {
        let recorded = begin(&self.ledger, intent).await;
        end(&self.ledger, &recorded, unknown()).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Left to the system where somebody still writes into it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn file_in(folder: &std::path::Path) -> PathBuf {
    folder.join("ledger.sqlite")
}

/// Nothing of it can arrive any more, as soon as it is recorded.
pub(super) fn past_horizon(intent: Intent) -> Intent {
    Intent {
        send_within: Duration::ZERO,
        deadline_after: Duration::ZERO,
        late_arrival_horizon: Duration::ZERO,
        ..intent
    }
}

/// A sale whose outcome is not known, and that cannot arrive any more.
pub(super) fn late_sale(name: &str) -> Intent {
    past_horizon(sale(name, 1_000))
}

/// Found as ours, approved for `minor`, of which all stands unsettled.
pub(super) fn found(minor: i64) -> Finding {
    let approval = Approval {
        ids: UpstreamIds::default().with("sale", "guid-1"),
        upstream_reference: "guid-1".to_owned(),
        authorization_code: None,
        amount: usd(minor),
        card: None,
    };
    let standing = Standing {
        remaining: minor,
        settled: false,
    };
    Finding::Found(Found::Approved { approval, standing })
}

pub(super) fn refusal(class: DeclineClass) -> Decline {
    Decline {
        class,
        code: None,
        message: "no".to_owned(),
    }
}

/// Asks until there is an answer.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), asking).await;
    answer.unwrap_or_else(|_| panic!("not in time: {what}"))
}
