//! What the keeper promises, in a world of paused time: an upstream that issues tokens and refuses old ones, a ledger
//! that can be away, and keepers that share both.

mod one;
mod replicas;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::clock::{SimulatedClock, Timestamp};
use crate::lock::{Acquired, LocalLock, Lock, LockError};

const LIFE: Duration = Duration::from_secs(1000);

#[derive(Clone, Debug)]
enum Endpoint {
    Up,
    Fails(TokenError),
    Silent,
    Panics,
}

/// An upstream that honours only the newest token, as the worst of them do.
#[derive(Debug)]
struct Upstream {
    endpoint: Mutex<Endpoint>,
    asked: AtomicUsize,
    issued: AtomicUsize,
    honoured: Mutex<String>,
    life: Mutex<Duration>,
    latency: Mutex<Duration>,
    gate: Semaphore,
}

impl Upstream {
    fn set(&self, endpoint: Endpoint) {
        *self.endpoint.lock().expect("no panic holds it") = endpoint;
    }

    fn down(&self) {
        self.set(Endpoint::Fails(unreachable_endpoint()));
    }

    fn slow(&self) {
        *self.latency.lock().expect("no panic holds it") = Duration::from_millis(300);
    }

    /// The next fetches wait until [`Self::open`].
    fn close(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.gate.add_permits(1_000_000);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn honours(&self, token: &Token) -> bool {
        *self.honoured.lock().expect("no panic holds it") == token.expose()
    }

    fn kill_all(&self) {
        self.honoured.lock().expect("no panic holds it").clear();
    }
}

#[async_trait]
impl TokenSource for Upstream {
    async fn fetch(&self) -> Result<FetchedToken, TokenError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let passage = self.gate.acquire().await.expect("never closed for good");
        drop(passage);
        let latency = *self.latency.lock().expect("no panic holds it");
        sleep(latency).await;
        let endpoint = self.endpoint.lock().expect("no panic holds it").clone();
        match endpoint {
            Endpoint::Fails(error) => return Err(error),
            Endpoint::Silent => std::future::pending().await,
            Endpoint::Panics => panic!("a bug in the connector"),
            Endpoint::Up => {}
        }
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let value = format!("canary-{number}");
        self.honoured
            .lock()
            .expect("no panic holds it")
            .clone_from(&value);
        let expires_in = *self.life.lock().expect("no panic holds it");
        Ok(FetchedToken {
            value: value.into(),
            expires_in,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    row: Mutex<Option<TokenRow>>,
    away: AtomicBool,
    loses_acknowledgements: AtomicBool,
}

impl Ledger {
    fn row(&self) -> Option<TokenRow> {
        self.row
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl TokenStore for Ledger {
    async fn load(&self, _name: &str) -> Result<Option<TokenRow>, TokenStoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err("the ledger is away".into());
        }
        Ok(self.row())
    }

    async fn store_if(
        &self,
        _name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, TokenStoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err("the ledger is away".into());
        }
        {
            let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
            if row.as_ref().map_or(0, |row| row.generation) != expected_generation {
                return Ok(false);
            }
            *row = Some(new.clone());
        }
        if self.loses_acknowledgements.load(Ordering::SeqCst) {
            return Err("the connection broke".into());
        }
        Ok(true)
    }
}

/// A Redis that is gone.
#[derive(Debug)]
struct NoLock;

#[async_trait]
impl Lock for NoLock {
    async fn acquire(&self, _name: &str, _lease: Duration, _wait: Duration) -> Acquired {
        Acquired::Unavailable(LockError::Down)
    }

    fn is_up(&self) -> bool {
        false
    }
}

struct World {
    upstream: Arc<Upstream>,
    ledger: Arc<Ledger>,
    lock: Arc<dyn Lock>,
    clock: Arc<SimulatedClock>,
}

impl World {
    fn new() -> Self {
        let upstream = Upstream {
            endpoint: Mutex::new(Endpoint::Up),
            asked: AtomicUsize::new(0),
            issued: AtomicUsize::new(0),
            honoured: Mutex::default(),
            life: Mutex::new(LIFE),
            latency: Mutex::default(),
            gate: Semaphore::new(0),
        };
        upstream.open();
        Self {
            upstream: Arc::new(upstream),
            ledger: Arc::default(),
            lock: Arc::new(LocalLock::new()),
            clock: Arc::new(SimulatedClock::new(Timestamp::from_seconds(1_800_000_000))),
        }
    }

    fn without_lock() -> Self {
        Self {
            lock: Arc::new(NoLock),
            ..Self::new()
        }
    }

    fn keeper(&self) -> Arc<TokenKeeper> {
        self.keeper_with(&"07".repeat(32))
    }

    fn keeper_with(&self, secret: &str) -> Arc<TokenKeeper> {
        TokenKeeper::new(
            "acme-us",
            self.upstream.clone(),
            Some(self.ledger.clone()),
            self.lock.clone(),
            TokenKey::parse(&secret.into()).expect("long enough"),
            self.clock.clone(),
            TokenOptions::default(),
        )
    }

    /// One call as a connector makes it: with a `401`, another token and one repeat. Whether it got through.
    async fn call(&self, keeper: &Arc<TokenKeeper>) -> bool {
        let token = keeper.current().await.expect("a token");
        if self.upstream.honours(&token) {
            return true;
        }
        let other = keeper.replace(token.generation()).await.expect("a token");
        self.upstream.honours(&other)
    }
}

fn unreachable_endpoint() -> TokenError {
    TokenError::Unreachable {
        detail: "connection refused".to_owned(),
    }
}
