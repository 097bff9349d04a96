//! Where cells are played: a gateway with scaled spans, the control transactions, and the comparison in the end.

use std::time::Duration;

use futures_util::future::join_all;
use sandbox::simulators::connexpay::ConnexPay;
use sandbox::simulators::{Fault, Kind, Upstream};
use sandbox::world::{Caller, Running, World, sale};

use super::cells::{Act, Cell, Expected, approved};

/// How the spans are scaled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Seconds: the upstream timeout, the caller's wait, the late-arrival horizon.
    timeout: u64,
    wait: u64,
    horizon: u64,
}

impl Pace {
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
}

/// One world with one gateway.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) shop: Caller,
    pub(super) wait: Duration,
    _gateway: Running,
}

impl Stage {
    /// With a sale and an authorization that are known to be there, for look-ups that must show that they would have
    /// found something.
    pub(super) async fn with_controls(world: World, pace: Pace) -> Self {
        let stage = Self::bare(world, pace).await;
        let shop = &stage.shop;
        approved(async |n| shop.pay(&format!("control-sale-{n}"), &sale(150_00)).await).await;
        approved(async |n| shop.authorize(&format!("control-hold-{n}"), 151_00).await).await;
        stage
    }

    /// The account's books are empty.
    pub(super) async fn bare(mut world: World, pace: Pace) -> Self {
        world.config.upstream_timeout = format!("{}s", pace.timeout);
        world.config.wait_max = format!("{}s", pace.wait);
        world.config.horizon = format!("{}s", pace.horizon);
        let gateway = world.gateway().await;
        Self {
            shop: world.caller(&gateway.url),
            wait: Duration::from_secs(pace.wait),
            _gateway: gateway,
            world,
        }
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
        let struck = self.connexpay().set_faults(faults, 7).await;
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
        let asked = cells.iter_mut().map(|cell| cell.ask(&self.shop, self.wait));
        join_all(asked).await;
    }

    /// Waits for the end of every cell and compares; then audits the whole.
    pub(super) async fn end(
        &self,
        name: &str,
        cells: &mut [Cell],
        expected: impl Fn(&Cell) -> Expected,
    ) {
        let ends = cells.iter_mut().map(async |cell| {
            let expected = expected(cell);
            let (seen, wrong) = cell.end(&self.world, &self.shop, self.wait, expected).await;
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
        self.world.settle_and_audit(Duration::from_secs(20)).await;
    }
}
