//! Everything that runs in a drill: two gateways and their servers as processes, and the simulated processor.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use super::notes::Notes;
use crate::simulators::{Fault, Kind, Options};
use crate::stack::{Doing, GatewayProcess, PostgresServer, RedisServer, StackError, eventually};
use crate::world::{World, migrate, weather};

const GATEWAYS: usize = 2;
const DATABASE: &str = "quittance";
/// Far beyond what is promised: how long it really takes is measured.
const SERVING_WAIT: Duration = Duration::from_mins(2);
/// Who starts a gateway again does so until it stays: one that finds no ledger gives up, as it should.
const STARTS_MAX: u32 = 50;
/// How often the processor settles.
pub(super) const BATCH_EVERY: Duration = Duration::from_secs(10);
/// After the last answer the processor may still commit what it holds back.
const AFTER_HORIZON: Duration = Duration::from_secs(30);

/// The spans that decide how long an outcome can stay unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    pub(super) timeout: Duration,
    wait: Duration,
    pub(super) horizon: Duration,
}

impl Spans {
    pub(super) const SCALED: Self = Self {
        timeout: Duration::from_secs(4),
        wait: Duration::from_secs(9),
        horizon: Duration::from_secs(20),
    };
    /// As in `config/production.toml`.
    pub(super) const PRODUCTION: Self = Self {
        timeout: Duration::from_mins(1),
        wait: Duration::from_mins(2),
        horizon: Duration::from_mins(30),
    };

    /// What cannot be looked up must be certain by then, counted from the last send.
    pub(super) fn certain_within(self) -> Duration {
        self.horizon + AFTER_HORIZON
    }

    /// What is with a person for lack of answers is asked about again: 10 minutes, for a horizon of 30.
    fn repeat_every(self) -> Duration {
        self.horizon / 3
    }

    pub(super) fn in_words(self) -> String {
        format!(
            "upstream timeout {:?}, longest wait {:?}, horizon {:?}",
            self.timeout, self.wait, self.horizon
        )
    }
}

/// The running processes.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) gateways: Vec<Mutex<GatewayProcess>>, // Before what they use.
    urls: Vec<String>,
    pub(super) world: World,
    pub(super) redis: Mutex<RedisServer>,
    pub(super) postgres: Mutex<PostgresServer>,
    standby: Mutex<Option<PostgresServer>>,
    /// Of the server that takes writes.
    ledger_url: std::sync::Mutex<String>,
    spans: Spans,
    weather: f64,
}

impl Rig {
    /// With a synchronous standby of the ledger, if it is to fail over.
    pub(super) async fn new(
        spans: Spans,
        weather: f64,
        with_standby: bool,
    ) -> Result<Self, StackError> {
        let postgres = PostgresServer::start_new().await?;
        let url = create_database(&postgres).await?;
        migrate(&url).await?;
        let redis = RedisServer::start_new().await?;
        let mut world = World::at(Options::default(), &url, &redis.url()).await;
        let config = &mut world.config;
        let [timeout, wait, horizon] =
            [spans.timeout, spans.wait, spans.horizon].map(|span| format!("{}s", span.as_secs()));
        config.set_spans(&timeout, &wait, &horizon);
        // When it asks, and how often: as the product does by itself, and as often beside the horizon.
        config.schedule = format!("repeat_every = \"{}s\"", spans.repeat_every().as_secs());
        "250ms".clone_into(&mut config.scan_every);
        "warn".clone_into(&mut config.log);
        let standby = if with_standby {
            Some(attach_standby(&postgres, &mut world).await?)
        } else {
            None
        };
        let mut gateways = Vec::new();
        for number in 1..=GATEWAYS {
            let options = world.process_options(&format!("gateway-{number}"));
            gateways.push(GatewayProcess::start_new(options).await?);
        }
        Ok(Self {
            urls: gateways
                .iter()
                .map(|gateway| gateway.base_url().to_owned())
                .collect(),
            gateways: gateways.into_iter().map(Mutex::new).collect(),
            world,
            redis: Mutex::new(redis),
            postgres: Mutex::new(postgres),
            standby: Mutex::new(standby),
            ledger_url: std::sync::Mutex::new(url),
            spans,
            weather,
        })
    }

    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The processor's faults by chance, from now on.
    pub(super) async fn weather(&self, seed: u64) -> Result<(), StackError> {
        let faults = weather(self.weather, self.spans.timeout);
        self.faults(faults, seed).await
    }

    /// The processor is gone, with whatever it had not answered.
    pub(super) async fn blackout(&self) -> Result<(), StackError> {
        self.faults(vec![Fault::new(Kind::Outage)], 0).await
    }

    /// Nothing goes wrong any more, and what the processor held back is done.
    pub(super) async fn calm(&self) -> Result<(), StackError> {
        self.faults(Vec::new(), 0).await?;
        self.world.simulators.connexpay().release_late();
        Ok(())
    }

    async fn faults(&self, faults: Vec<Fault>, seed: u64) -> Result<(), StackError> {
        let set = self.world.simulators.connexpay().set_faults(faults, seed);
        set.await.map_err(|wrong| StackError::new(wrong.join("; ")))
    }

    /// Settles again and again what was sold meanwhile; until it is dropped, or fails.
    pub(super) async fn close_batches(&self) -> Result<(), StackError> {
        loop {
            self.close_batch()?;
            tokio::time::sleep(BATCH_EVERY).await;
        }
    }

    pub(super) fn close_batch(&self) -> Result<(), StackError> {
        let closed = self.world.simulators.connexpay().settle();
        closed.doing(|| "closing the batch".to_owned())
    }

    /// Starts a gateway again that was killed.
    pub(super) async fn revive(&self, gateway: &mut GatewayProcess) -> Result<(), StackError> {
        let mut failure = None;
        for _ in 0..STARTS_MAX {
            match gateway.start_again().await {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
            // It may run and not be ready: then it is ended, for a new one to try.
            gateway.kill9()?;
        }
        Err(failure.unwrap_or_else(|| StackError::new("no gateway was started")))
    }

    /// The primary is gone, and a while later its standby takes over: how long it then takes until both gateways are
    /// ready, and callers are told something.
    pub(super) async fn fail_over(
        &self,
        unnoticed: Duration,
        notes: &Notes,
    ) -> Result<Duration, StackError> {
        self.postgres.lock().await.stop_immediate().await?;
        tokio::time::sleep(unnoticed).await;
        let standby = self.standby.lock().await;
        let standby = standby
            .as_ref()
            .ok_or_else(|| StackError::new("no standby to promote"))?;
        standby.promote().await?;
        let promoted = Instant::now();
        self.write_at(standby.url(DATABASE));
        let told = notes.told_count();
        eventually(SERVING_WAIT, "an answer after the promotion", async || {
            (notes.told_count() > told).then_some(())
        })
        .await?;
        for gateway in &self.gateways {
            gateway.lock().await.ready().await?;
        }
        Ok(promoted.elapsed())
    }

    fn write_at(&self, url: String) {
        *self
            .ledger_url
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// Of the server that takes writes.
    pub(super) fn ledger_url(&self) -> String {
        let url = self.ledger_url.lock();
        url.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn ledger(&self) -> Result<PgConnection, StackError> {
        PgConnection::connect(&self.ledger_url())
            .await
            .doing(|| "connecting to the ledger".to_owned())
    }

    /// Waits until every operation has ended or is with a person, or `within` has passed: the audit says what is left.
    pub(super) async fn until_nothing_is_open(&self, within: Duration) -> Result<(), StackError> {
        let mut ledger = self.ledger().await?;
        let _ = eventually(within, "every operation to end", async || {
            // A row that differs from its operation is void.
            let open: i64 = sqlx::query_scalar(
                "select count(*) from due d
                 join operation o on o.id = d.operation and o.owner = d.owner and o.due_at = d.due_at
                 where o.state <> 'parked'
                   and not exists (select from operation r where r.reverses = o.id and r.state = 'parked')",
            )
            .fetch_one(&mut ledger)
            .await
            .ok()?;
            (open == 0).then_some(())
        })
        .await;
        Ok(())
    }

    /// What the gateways themselves called a bug of theirs.
    pub(super) async fn complaints(&self) -> Result<Vec<String>, StackError> {
        let mut complaints = Vec::new();
        for gateway in &self.gateways {
            let output = gateway.lock().await.output()?;
            let bugs = output
                .lines()
                .filter(|line| line.contains("BUG") || line.contains("panicked"));
            complaints.extend(bugs.map(|line| format!("a gateway said: {line}")));
        }
        complaints.sort();
        complaints.dedup();
        Ok(complaints)
    }
}

async fn create_database(postgres: &PostgresServer) -> Result<String, StackError> {
    let mut connection = PgConnection::connect(&postgres.admin_url())
        .await
        .doing(|| "connecting to Postgres".to_owned())?;
    let create = sqlx::AssertSqlSafe(format!("create database {DATABASE}"));
    sqlx::query(create)
        .execute(&mut connection)
        .await
        .doing(|| "creating the ledger's database".to_owned())?;
    Ok(postgres.url(DATABASE))
}

/// Gives the ledger a standby. While nobody waits for that one, no gateway may start; then each is told of both.
async fn attach_standby(
    primary: &PostgresServer,
    world: &mut World,
) -> Result<PostgresServer, StackError> {
    let standby = primary.start_standby().await?;
    let mut refused = GatewayProcess::spawn(world.process_options("refused"))?;
    let ended = refused.ended(SERVING_WAIT).await?;
    let said = refused.output()?;
    if ended.success() || !said.contains("none is synchronous") {
        let what = format!("a ledger whose standby is asynchronous was not refused: {said}");
        return Err(StackError::new(what));
    }
    primary.wait_for_standby().await?;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let alone = format!("127.0.0.1:{}", primary.port());
    world.config.ledger_url = world.config.ledger_url.replace(&alone, &hosts);
    Ok(standby)
}
