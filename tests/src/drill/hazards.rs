//! What goes wrong while the load comes: each hazard on its own, now and then, under the seed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::sleep;

use super::notes::Notes;
use super::rig::{BATCH_EVERY, Rig};
use crate::stack::{Doing, StackError};

/// However short the drill, each hazard strikes about so often.
const TIMES_MIN: u32 = 4;

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hazard {
    /// SIGKILL of one gateway, sometimes of both; started again at once.
    Kill,
    /// SIGSTOP of a gateway for longer than it takes to be called silent.
    Pause,
    /// Redis is killed, or forgets everything.
    Redis,
    /// Postgres is stopped as a crash would, and started again.
    Postgres,
    /// The processor cannot be reached.
    Blackout,
    /// The processor forgets the access tokens it gave.
    Tokens,
    /// The ledger's primary is gone for good, its standby takes over. Once.
    FailOver,
    /// Not a fault: what was sold until now is settled.
    BatchClose,
}

impl Hazard {
    /// What strikes, and how often on average.
    const OF_A_DRILL: &[(Self, Duration)] = &[
        (Self::Kill, Duration::ZERO), // As asked for.
        (Self::Pause, Duration::from_mins(1)),
        (Self::Redis, Duration::from_secs(30)),
        (Self::Postgres, Duration::from_secs(75)),
        (Self::Blackout, Duration::from_secs(45)),
        (Self::Tokens, Duration::from_mins(1)),
        (Self::BatchClose, BATCH_EVERY),
    ];
    /// With nothing besides the processor's faults: what is measured is the one thing.
    const OF_A_FAIL_OVER: &[(Self, Duration)] = &[
        (Self::FailOver, Duration::ZERO), // In the middle.
        (Self::BatchClose, BATCH_EVERY),
    ];

    async fn strike(
        self,
        rig: &Rig,
        notes: &Notes,
        dice: &mut StdRng,
        count: &Counts,
    ) -> Result<(), StackError> {
        let millis = |range| Duration::from_millis(range);
        match self {
            Self::Kill => {
                let both = dice.random_ratio(1, 10);
                let first = dice.random_range(0..rig.gateways.len());
                let mut killed = Vec::new();
                for (number, gateway) in rig.gateways.iter().enumerate() {
                    if both || number == first {
                        let mut gateway = gateway.lock().await;
                        gateway.kill9()?;
                        count.kills.fetch_add(1, Ordering::Relaxed);
                        killed.push(gateway);
                    }
                }
                for gateway in &mut killed {
                    rig.revive(gateway).await?;
                }
            }
            Self::Pause => {
                let number = dice.random_range(0..rig.gateways.len());
                let mut gateway = rig.gateways[number].lock().await;
                gateway.sigstop().await?;
                sleep(millis(dice.random_range(6_000..12_000))).await;
                gateway.sigcont().await?;
                count.pauses.fetch_add(1, Ordering::Relaxed);
            }
            Self::Redis => {
                let mut redis = rig.redis.lock().await;
                if dice.random_bool(0.5) {
                    redis.flush().await?;
                } else {
                    redis.stop()?;
                    sleep(millis(dice.random_range(0..3_000))).await;
                    redis.start().await?;
                }
                count.redis.fetch_add(1, Ordering::Relaxed);
            }
            Self::Postgres => {
                let mut postgres = rig.postgres.lock().await;
                postgres.stop_immediate().await?;
                sleep(millis(dice.random_range(0..2_000))).await;
                postgres.start().await?;
                count.postgres.fetch_add(1, Ordering::Relaxed);
            }
            Self::Blackout => {
                rig.blackout().await?;
                sleep(millis(dice.random_range(1_000..8_000))).await;
                rig.weather(dice.random()).await?;
                count.blackouts.fetch_add(1, Ordering::Relaxed);
            }
            Self::Tokens => {
                let connexpay = rig.world.simulators.connexpay();
                connexpay
                    .revoke_tokens()
                    .doing(|| "forgetting tokens".to_owned())?;
                count.tokens.fetch_add(1, Ordering::Relaxed);
            }
            Self::FailOver => {
                let unnoticed = millis(dice.random_range(1_000..3_000));
                let served = rig.fail_over(unnoticed, notes).await?;
                let served = u64::try_from(served.as_millis()).unwrap_or(u64::MAX);
                count.serving_again_ms.store(served, Ordering::Relaxed);
            }
            Self::BatchClose => {
                rig.close_batch()?;
            }
        }
        Ok(())
    }
}

/// How often each struck.
#[derive(Debug, Default)]
struct Counts {
    kills: AtomicU64,
    pauses: AtomicU64,
    redis: AtomicU64,
    postgres: AtomicU64,
    blackouts: AtomicU64,
    tokens: AtomicU64,
    serving_again_ms: AtomicU64,
}

/// The same, in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Struck {
    kills: u64,
    pauses: u64,
    redis: u64,
    postgres: u64,
    blackouts: u64,
    tokens: u64,
    /// From the promotion of a standby.
    pub(super) serving_again: Duration,
}

impl Counts {
    fn read(&self) -> Struck {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Struck {
            kills: read(&self.kills),
            pauses: read(&self.pauses),
            redis: read(&self.redis),
            postgres: read(&self.postgres),
            blackouts: read(&self.blackouts),
            tokens: read(&self.tokens),
            serving_again: Duration::from_millis(read(&self.serving_again_ms)),
        }
    }
}

impl Struck {
    pub(super) fn each(&self) -> [(&'static str, u64); 6] {
        [
            ("kills", self.kills),
            ("pauses", self.pauses),
            ("redis_lost", self.redis),
            ("postgres_crashes", self.postgres),
            ("blackouts", self.blackouts),
            ("tokens_lost", self.tokens),
        ]
    }

    /// What did not happen once.
    pub(super) fn never(&self) -> Vec<&'static str> {
        let never = self.each().into_iter().filter(|(_, count)| *count == 0);
        never.map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.each().map(|(name, count)| format!("{name}={count}"));
        f.write_str(&each.join(" "))
    }
}

/// Which hazards there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Everything { kill_every: Duration },
    FailOver,
}

/// What goes wrong for as long as the load lasts.
#[derive(Debug)]
pub(super) struct Hazards {
    rig: Arc<Rig>,
    notes: Arc<Notes>,
    seed: u64,
    counts: Counts,
    stop: watch::Sender<bool>,
}

impl Hazards {
    pub(super) fn new(rig: &Arc<Rig>, notes: &Arc<Notes>, seed: u64) -> Self {
        Self {
            rig: Arc::clone(rig),
            notes: Arc::clone(notes),
            seed,
            counts: Counts::default(),
            stop: watch::Sender::new(false),
        }
    }

    pub(super) fn in_words(&self) -> String {
        self.counts.read().to_string()
    }

    pub(super) fn struck(&self) -> Struck {
        self.counts.read()
    }

    /// Until [`Self::stop`], for a load that lasts `span`; each then makes good what it broke.
    pub(super) async fn strike(&self, span: Duration, what: What) -> Result<(), StackError> {
        let mut dice = StdRng::seed_from_u64(self.seed ^ 1);
        let hazards = match what {
            What::Everything { .. } => Hazard::OF_A_DRILL,
            What::FailOver => Hazard::OF_A_FAIL_OVER,
        };
        let hazards = hazards.iter().map(|&(hazard, every)| {
            let every = match (hazard, what) {
                (Hazard::Kill, What::Everything { kill_every }) => kill_every,
                (Hazard::FailOver, _) => span / 2,
                _ => every.min(span / TIMES_MIN),
            };
            self.go_on(hazard, every, StdRng::seed_from_u64(dice.random()))
        });
        try_join_all(hazards).await?;
        self.rig.calm().await
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn go_on(
        &self,
        hazard: Hazard,
        every: Duration,
        mut dice: StdRng,
    ) -> Result<(), StackError> {
        let mut stopping = self.stop.subscribe();
        loop {
            let pause = every.mul_f64(dice.random_range(0.5..1.5));
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            }
            let struck = hazard.strike(&self.rig, &self.notes, &mut dice, &self.counts);
            struck.await.doing(|| format!("{hazard:?}"))?;
            if hazard == Hazard::FailOver {
                return Ok(()); // There is no second standby.
            }
        }
    }
}
