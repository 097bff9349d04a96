//! Where cells are played: a gateway with scaled spans, the control transactions, and the comparison in the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway_core::connector::NotSent;
use gateway_core::operation::State;
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::ConnexPay;
use sandbox::simulators::{Fault, Kind, Upstream};
use sandbox::stack::{Stalls, eventually, unix_ms};
use sandbox::world::{Caller, Records, Reply, Running, Tolerance, World, WorldConfig, sale};
use tokio::sync::Mutex;

use super::act::Act;
use super::cells::{Cell, Expected, Final};

/// How long an outcome may take, repeats and the scaled horizon included.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

/// How often a machine that stood still may cost one key its beat.
const STOOD_STILL_MAX: usize = 2;
/// What the machine must have stood still at once to excuse a lost beat,
const STALL_MIN: Duration = Duration::from_millis(500);
/// and how long before the request: no more than this may lie between two beats that count.
const BEAT_GAP: Duration = Duration::from_secs(3);

/// How the spans are scaled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Seconds: the upstream timeout, the caller's wait, the late-arrival horizon.
    pub(super) timeout: u64,
    pub(super) wait: u64,
    horizon: u64,
}

impl Pace {
    /// What a test begins with is not what it is about: a time-out there is a failure.
    const UNHURRIED: Self = Self {
        timeout: 30,
        wait: 40,
        horizon: 80,
    };
    /// No timeout is meant to pass, on a busy machine either.
    pub(super) const PATIENT: Self = Self {
        timeout: 8,
        wait: 10,
        horizon: 20,
    };
    /// Timeouts and the horizon are what the test is about.
    pub(super) const QUICK: Self = Self {
        timeout: 1,
        wait: 2,
        horizon: 4,
    };
    /// As `QUICK`, with time for a second send within the caller's wait.
    pub(super) const RESENT: Self = Self {
        timeout: 1,
        wait: 4,
        horizon: 6,
    };
    /// As `QUICK`, with time to bring about an outage before the first check.
    pub(super) const STEADY: Self = Self {
        timeout: 3,
        wait: 4,
        horizon: 8,
    };

    fn put_into(self, config: &mut WorldConfig) {
        let seconds = |count: u64| format!("{count}s");
        let Self {
            timeout,
            wait,
            horizon,
        } = self;
        config.set_spans(&seconds(timeout), &seconds(wait), &seconds(horizon));
    }
}

/// An answer, and the time that it took.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) took: Duration,
    /// The longest that the machine gave this process no turn meanwhile.
    pub(super) stood_still: Duration,
}

/// One world with one gateway, and one more while payments are prepared.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) shop: Caller,
    pub(super) records: Records,
    pub(super) pace: Pace,
    stalls: Stalls,
    gateway: Running,
    /// Makes what tests begin with, until something is about to go wrong.
    unhurried: Mutex<Option<Arc<Running>>>,
}

impl Stage {
    /// With a sale and an authorization that are known to be there, for look-ups that must show that they would have
    /// found something.
    pub(super) async fn with_controls(world: World, pace: Pace) -> Self {
        let stage = Self::bare(world, pace).await;
        let sold = async |shop: &Caller, key: &str| shop.pay(key, &sale(150_00)).await;
        stage.approved("control-sale", sold).await;
        let held = async |shop: &Caller, key: &str| shop.authorize(key, 151_00).await;
        stage.approved("control-hold", held).await;
        stage
    }

    /// The account's books are empty.
    pub(super) async fn bare(mut world: World, pace: Pace) -> Self {
        pace.put_into(&mut world.config);
        let gateway = world.gateway().await;
        Self {
            shop: world.caller(&gateway.url),
            records: world.records().await,
            pace,
            stalls: Stalls::watch(),
            gateway,
            unhurried: Mutex::default(),
            world,
        }
    }

    /// The answer to one key.
    pub(super) async fn answer(&self, key: &str, ask: impl AsyncFn() -> Reply) -> Answer {
        self.answer_of(&self.gateway, key, ask).await
    }

    /// The answer of a gateway. A process that cannot beat in time, because the machine stands still, says so and sends nothing:
    /// the record must show it, and once it beats again the same key is asked anew.
    async fn answer_of(
        &self,
        gateway: &Running,
        key: &str,
        ask: impl AsyncFn() -> Reply,
    ) -> Answer {
        for _ in 0..=STOOD_STILL_MAX {
            let beating = async || gateway.engine.is_beating().then_some(());
            let beating = eventually(PATIENCE, "a beat", beating).await;
            beating.expect("a process that beats");
            let (from, began) = (unix_ms(), Instant::now());
            let reply = ask().await;
            let took = began.elapsed();
            if reply.problem() != "ledger-unavailable" {
                let stood_still = self.stalls.longest(from, unix_ms());
                return Answer {
                    reply,
                    took,
                    stood_still,
                };
            }
            let gap = u64::try_from(BEAT_GAP.as_millis()).expect("short");
            let stall = self.stalls.longest(from - gap, unix_ms());
            assert!(
                stall >= STALL_MIN,
                "{key} was given back for want of a beat, and the machine stood still for {stall:?} at most"
            );
            let not_sent = NotSent::HeartbeatLost;
            let record = self.records.operation(key).await;
            assert_eq!(record.state, State::NotSent { not_sent }, "{key}");
        }
        panic!("{key} was given back for want of a beat more than {STOOD_STILL_MAX} times")
    }

    /// What a test begins with, by a gateway that is in no hurry: nothing but success will do.
    pub(super) async fn approved(
        &self,
        key: &str,
        pay: impl AsyncFn(&Caller, &str) -> Reply,
    ) -> Reply {
        let gateway = self.unhurried().await;
        let shop = self.shop.at(&gateway.url);
        let answer = self.answer_of(&gateway, key, async || pay(&shop, key).await);
        answer.await.reply.expect(201)
    }

    async fn unhurried(&self) -> Arc<Running> {
        let mut unhurried = self.unhurried.lock().await;
        if let Some(gateway) = &*unhurried {
            return Arc::clone(gateway);
        }
        let mut config = self.world.config.clone();
        Pace::UNHURRIED.put_into(&mut config);
        let gateway = self.world.gateway_of(&config, Seams::default()).await;
        Arc::clone(unhurried.insert(Arc::new(gateway)))
    }

    pub(super) fn connexpay(&self) -> &Upstream<ConnexPay> {
        self.world.simulators.connexpay()
    }

    /// A cell for each; what the refunds follow is settled.
    pub(super) async fn cells(&self, acts: &[(Act, bool)]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for first in [true, false] {
            for (act, lasting) in acts {
                if act.is_after_settlement() == first {
                    cells.push(Cell::prepare(self, *act, *lasting).await);
                }
            }
            if first {
                self.connexpay().settle().expect("the books to be written");
            }
        }
        cells
    }

    pub(super) async fn strike(&self, faults: Vec<Fault>) {
        self.strike_seeded(faults, 7).await;
    }

    /// Ends the one that is in no hurry, if there is one: its resolver would help.
    pub(super) async fn one_gateway(&self) {
        if let Some(unhurried) = self.unhurried.lock().await.take() {
            let gateway = Arc::into_inner(unhurried).expect("nobody pays by it any more");
            gateway.stopped().await;
        }
    }

    /// From here on there is one gateway.
    pub(super) async fn strike_seeded(&self, faults: Vec<Fault>, seed: u64) {
        self.one_gateway().await;
        let struck = self.connexpay().set_faults(faults, seed).await;
        struck.expect("faults that make sense");
    }

    /// The processor is gone, with whatever it had not answered.
    pub(super) async fn outage(&self) {
        self.strike(vec![Fault::new(Kind::Outage)]).await;
    }

    pub(super) async fn lift(&self) {
        self.connexpay().lift_faults().await.expect("lifted");
    }

    pub(super) async fn ask(&self, cells: &mut [Cell]) {
        join_all(cells.iter_mut().map(|cell| cell.ask(self))).await;
    }

    /// Waits for the end of every cell and compares; then audits the whole.
    pub(super) async fn end(
        &self,
        name: &str,
        cells: &mut [Cell],
        expected: impl Fn(&Cell) -> Expected,
    ) {
        let may_park = |cell: &Cell| expected(cell).ends().any(|end| end == Final::Parked);
        let parks = cells.iter().any(may_park);
        let ends = cells.iter_mut().map(async |cell| {
            let expected = expected(cell);
            let (seen, wrong) = cell.end(self, expected).await;
            let mut report = format!("| {name} | {} | {expected} | {seen} |", cell.name());
            for difference in &wrong {
                report.push_str("\n  WRONG: ");
                report.push_str(difference);
            }
            (report, wrong.is_empty())
        });
        let ends = join_all(ends).await;
        let report: Vec<&str> = ends.iter().map(|(report, _)| report.as_str()).collect();
        let report = report.join("\n");
        println!("{report}");
        assert!(ends.iter().all(|(_, right)| *right), "\n{report}");
        if parks {
            self.world.audit_with(Tolerance::Parked).await;
        } else {
            self.world.settle_and_audit(Duration::from_secs(20)).await;
        }
    }
}
