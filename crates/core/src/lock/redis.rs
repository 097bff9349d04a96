//! The lock of many replicas: one key a name in Redis, with an owner token and an expiry.
//!
//! One task keeps the connection: it connects in the background, proves it with a write, and replaces it when it
//! fails. Whoever meets the failure pays at most one command timeout; from then on everybody is told at once that the
//! lock is down, until the task has a proven connection again. Start-up therefore needs no Redis.

mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisResult, Script, Value};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use self::target::{Target, Wire};
use super::names::{InUse, Names};
use super::{Acquired, Guard, Hold, Lock, LockError};
use crate::secret::Secret;

/// Deletes the key only while it carries our token: after our lease ended it may be somebody else's.
const GIVE_BACK: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// How long a connection must last before its end is taken for an accident: the next one is then made at once.
const STEADY: Duration = Duration::from_secs(5);

/// How the lock talks to Redis.
#[derive(Clone, Debug)]
pub struct RedisLockOptions {
    /// Takes the place of a password in the address. Read for each new connection.
    pub password: Option<Secret>,
    /// Written before each name, so that several services can share one Redis.
    pub prefix: String,
    /// The most that a Redis which does not answer costs a caller, once.
    pub command_timeout: Duration,
    /// The same for the background's connecting: TCP, TLS, greeting.
    pub connect_timeout: Duration,
    /// The longest pause between two attempts to connect; the first is a twentieth of it, doubled each time.
    pub reconnect_pause_max: Duration,
    /// How often an idle connection is proven.
    pub probe_every: Duration,
    /// The longest pause between two questions of one waiter; the first is a tenth of it.
    pub poll_pause_max: Duration,
}

impl Default for RedisLockOptions {
    fn default() -> Self {
        Self {
            password: None,
            prefix: "quittance:lock:".to_owned(),
            command_timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(2),
            reconnect_pause_max: Duration::from_secs(1),
            probe_every: Duration::from_secs(1),
            poll_pause_max: Duration::from_millis(40),
        }
    }
}

/// A [`Lock`] among all processes that share a Redis. Clones are the same lock.
#[derive(Clone, Debug)]
pub struct RedisLock {
    shared: Arc<Shared>,
}

impl RedisLock {
    /// Starts to connect in the background and returns at once. Must be called inside a tokio runtime.
    ///
    /// `address` is `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS with the system's roots,
    /// `redis+unix:///path`, or a cluster by some of its nodes: `redis+cluster://[user:password@]host:port,host:port`
    /// and `rediss+cluster://…`.
    ///
    /// # Errors
    /// [`LockError::Address`] if that cannot be read.
    pub fn new(address: &str, options: RedisLockOptions) -> Result<Self, LockError> {
        let target = Target::parse(address, &options)?;
        let link = Arc::new(watch::Sender::new(Link::Connecting));
        let keeper = Keeper {
            target,
            link: Arc::clone(&link),
            options: options.clone(),
        };
        let keeper = tokio::spawn(keeper.run()).abort_handle();
        let script = Script::new(GIVE_BACK);
        Ok(Self {
            shared: Arc::new(Shared {
                names: Names::new(),
                link,
                options,
                script,
                keeper,
            }),
        })
    }

    /// Whether [`RedisLock::new`] would take this address. Touches no network.
    ///
    /// # Errors
    /// [`LockError::Address`].
    pub fn check(address: &str, options: &RedisLockOptions) -> Result<(), LockError> {
        Target::parse(address, options).map(drop)
    }
}

#[async_trait]
impl Lock for RedisLock {
    async fn acquire(&self, name: &str, lease: Duration, wait: Duration) -> Acquired {
        let until = Instant::now() + wait;
        let slot = self.shared.names.enter(name);
        let key = format!("{}{name}", self.shared.options.prefix);
        let mut hold = RedisHold {
            shared: Arc::clone(&self.shared),
            slot,
            key,
            owner: Uuid::new_v4().to_string(),
            armed: false,
        };
        match hold.ask(lease).await {
            Ok(false) => {}
            answer => return hold.into_acquired(answer),
        }
        let granted = {
            // A clone of the claim on the slot, because the head's place borrows it while `hold` asks.
            let slot = self.shared.names.enter(name);
            let Ok(_head) = timeout_at(until, slot.queue.lock()).await else {
                return Acquired::Busy;
            };
            let mut pause = self.shared.options.poll_pause_max / 10;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Acquired::Busy;
                }
                let nap = jittered(pause).min(left);
                let _ = timeout(nap, slot.freed.notified()).await;
                match hold.ask(lease).await {
                    Ok(false) => pause = (pause * 2).min(self.shared.options.poll_pause_max),
                    answer => break answer,
                }
            }
        };
        hold.into_acquired(granted)
    }

    fn is_up(&self) -> bool {
        matches!(&*self.shared.link.borrow(), Link::Up(_))
    }
}

struct Shared {
    names: Names<()>,
    link: Arc<watch::Sender<Link>>,
    options: RedisLockOptions,
    script: Script,
    keeper: AbortHandle,
}

impl Shared {
    /// The proven connection; before the first one was tried, waits for it as long as for a command.
    async fn connection(&self) -> Result<Connection, LockError> {
        let mut link = self.link.subscribe();
        let known = link.wait_for(|link| !matches!(link, Link::Connecting));
        match timeout(self.options.command_timeout, known).await {
            Ok(Ok(link)) => match &*link {
                Link::Up(connection) => Ok(connection.clone()),
                Link::Connecting | Link::Down => Err(LockError::Down),
            },
            Ok(Err(_)) | Err(_) => Err(LockError::Down),
        }
    }

    /// `SET NX PX`: whether the key is now ours.
    async fn take(&self, key: &str, owner: &str, lease: Duration) -> Result<bool, LockError> {
        let Connection { serial, mut wire } = self.connection().await?;
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = ::redis::cmd("SET");
        command.arg(key).arg(owner).arg("NX").arg("PX").arg(lease);
        let answer = timeout(
            self.options.command_timeout,
            command.query_async::<Value>(&mut wire),
        )
        .await;
        self.judge(serial, answer.ok())
            .map(|value| value != Value::Nil)
    }

    async fn give_back(&self, key: &str, owner: &str) -> Result<bool, LockError> {
        let Connection { serial, mut wire } = self.connection().await?;
        let mut call = self.script.key(key);
        let question = call.arg(owner).invoke_async::<bool>(&mut wire);
        let answer = timeout(self.options.command_timeout, question).await;
        self.judge(serial, answer.ok())
    }

    /// Any failure condemns the connection: a Redis that answers with errors (read-only after a failover, out of
    /// memory) grants no locks either, and the next connection is proven by a write.
    fn judge<T>(&self, serial: u64, answer: Option<RedisResult<T>>) -> Result<T, LockError> {
        let error = match answer {
            Some(Ok(value)) => return Ok(value),
            // The library keeps the same time as we do; either may be the first to notice.
            Some(Err(error)) if !error.is_timeout() => LockError::Failed(error),
            Some(Err(_)) | None => LockError::Silent {
                waited: self.options.command_timeout,
            },
        };
        condemn(&self.link, serial);
        Err(error)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLock")
            .field("link", &*self.link.borrow())
            .finish_non_exhaustive()
    }
}

/// A grant, or the attempt at one: from the moment the question may be on its way, dropping it gives back.
struct RedisHold {
    shared: Arc<Shared>,
    slot: InUse<()>,
    key: String,
    owner: String,
    armed: bool,
}

impl RedisHold {
    async fn ask(&mut self, lease: Duration) -> Result<bool, LockError> {
        // Until an answer says otherwise, the key may be ours: after a timeout, or if this future is dropped.
        self.armed = true;
        let answer = self.shared.take(&self.key, &self.owner, lease).await;
        if matches!(answer, Ok(false) | Err(LockError::Down)) {
            self.armed = false;
        }
        answer
    }

    fn into_acquired(self, answer: Result<bool, LockError>) -> Acquired {
        match answer {
            Ok(true) => Acquired::Held(Guard::new(self)),
            Ok(false) => Acquired::Busy,
            Err(error) => Acquired::Unavailable(error),
        }
    }

    async fn give_back(shared: &Shared, slot: &InUse<()>, key: &str, owner: &str) {
        if let Err(error) = shared.give_back(key, owner).await {
            // The lease ends it; until then the name looks busy, which costs waiting and nothing else.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a lock is left to its lease"
            );
        }
        slot.freed.notify_one();
    }
}

impl Hold for RedisHold {
    fn release(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            Self::give_back(&self.shared, &self.slot, &self.key, &self.owner).await;
            self.armed = false;
        })
    }
}

impl Drop for RedisHold {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return; // The process is ending; the lease does the rest.
        };
        let shared = Arc::clone(&self.shared);
        let slot = self.shared.names.again(&self.slot);
        let (key, owner) = (
            std::mem::take(&mut self.key),
            std::mem::take(&mut self.owner),
        );
        runtime.spawn(async move { Self::give_back(&shared, &slot, &key, &owner).await });
    }
}

impl fmt::Debug for RedisHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHold")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What is known of the connection.
#[derive(Debug)]
enum Link {
    /// Nothing yet: the first attempt is under way.
    Connecting,
    Up(Connection),
    Down,
}

#[derive(Clone, Debug)]
struct Connection {
    /// So that a late failure of an old connection does not condemn its successor.
    serial: u64,
    wire: Wire,
}

fn condemn(link: &watch::Sender<Link>, serial: u64) {
    link.send_if_modified(|link| {
        let condemned = matches!(link, Link::Up(connection) if connection.serial == serial);
        if condemned {
            *link = Link::Down;
        }
        condemned
    });
}

/// Between half of it and the whole, so that several replicas do not ask in step for ever.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// The background task that keeps one proven connection.
struct Keeper {
    target: Target,
    link: Arc<watch::Sender<Link>>,
    options: RedisLockOptions,
}

impl Keeper {
    async fn run(self) {
        let pause_min = self.options.reconnect_pause_max / 20;
        let mut pause = pause_min;
        let mut announced_down = false;
        for serial in 0.. {
            let failure = match self.connect().await {
                Ok(wire) => {
                    let since = Instant::now();
                    if announced_down {
                        tracing::info!("the lock is up again");
                        announced_down = false;
                    }
                    self.link.send_replace(Link::Up(Connection {
                        serial,
                        wire: wire.clone(),
                    }));
                    let failure = self.watch(serial, wire).await;
                    if since.elapsed() > STEADY {
                        pause = pause_min;
                    }
                    failure
                }
                Err(failure) => Some(failure),
            };
            self.link.send_replace(Link::Down);
            if !announced_down {
                let failure = failure
                    .as_ref()
                    .map(|failure| failure as &dyn std::error::Error);
                tracing::warn!(error = failure, "the lock is down; work goes on without it");
                announced_down = true;
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(self.options.reconnect_pause_max);
        }
    }

    /// A connection that has taken a write: one that only greets may be read-only or out of memory.
    async fn connect(&self) -> Result<Wire, LockError> {
        let silent = |_| LockError::Silent {
            waited: self.options.connect_timeout,
        };
        let connecting = self.target.connect(&self.options);
        let mut wire = timeout(self.options.connect_timeout, connecting)
            .await
            .map_err(silent)??;
        self.probe(&mut wire).await?;
        Ok(wire)
    }

    async fn probe(&self, wire: &mut Wire) -> Result<(), LockError> {
        let mut command = ::redis::cmd("SET");
        command
            .arg(format!("{}probe", self.options.prefix))
            .arg(1)
            .arg("PX")
            .arg(1000);
        match timeout(
            self.options.command_timeout,
            command.query_async::<()>(wire),
        )
        .await
        {
            Ok(answer) => answer.map_err(LockError::Failed),
            Err(_) => Err(LockError::Silent {
                waited: self.options.command_timeout,
            }),
        }
    }

    /// Returns when the connection has failed: by its own probe, with the reason, or by somebody's command.
    async fn watch(&self, serial: u64, mut wire: Wire) -> Option<LockError> {
        let mut link = self.link.subscribe();
        let condemned =
            |link: &Link| !matches!(link, Link::Up(connection) if connection.serial == serial);
        loop {
            // The keeper holds a sender itself, so an end of the wait is a condemnation.
            if timeout(self.options.probe_every, link.wait_for(condemned))
                .await
                .is_ok()
            {
                return None;
            }
            if let Err(failure) = self.probe(&mut wire).await {
                return Some(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests;
