//! Makes the pieces that a configuration names: ledger, lock, keys, and each account's connector.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use gateway_core::clock::{Clock, SystemClock};
use gateway_core::connector::Connector;
use gateway_core::engine;
use gateway_core::key::AccountName;
use gateway_core::lock::{LocalLock, Lock, RedisLock, RedisLockOptions};
use gateway_core::store::Store;
use gateway_upstream::pool::{PoolMetrics, Resolve, SystemResolver};
use prometheus_client::registry::Registry;

use crate::config::{self, Config};
use crate::gateway::{Pieces, StartError, fingerprint_keys};
use crate::ledger;
use crate::upstreams::{Upstreams, token_key};

/// What tests put around the pieces; nothing in production.
#[derive(Clone)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    /// Replaces each connector by one around it.
    pub wrap_connector: Option<Wrap<dyn Connector>>,
    pub wrap_store: Option<Wrap<dyn Store>>,
    /// Where processors' host names lead.
    pub resolver: Arc<dyn Resolve>,
}

/// A decorator of one piece.
pub type Wrap<T> = Arc<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

impl Default for Seams {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            wrap_connector: None,
            wrap_store: None,
            resolver: Arc::new(SystemResolver),
        }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams")
            .field("clock", &self.clock)
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}

/// Everything that the configuration names. Neither ledger, lock nor processor need to be there yet: `/readyz` tells.
/// Runs inside a tokio runtime.
pub async fn pieces(config: &Config, seams: Seams) -> Result<Pieces, StartError> {
    let Seams {
        clock,
        wrap_connector,
        wrap_store,
        resolver,
    } = seams;
    let mut registry = Registry::default();
    let mut store = ledger::open(&config.ledger).await?;
    if let Some(wrap) = wrap_store {
        store = wrap(store);
    }
    let lock = open_lock(&config.lock)?;
    let upstreams = Upstreams {
        store: Arc::clone(&store),
        lock: Arc::clone(&lock),
        clock: Arc::clone(&clock),
        token_key: token_key(&config.keys)?,
        metrics: PoolMetrics::register(&mut registry),
        resolver,
    };
    let mut accounts = HashMap::new();
    for (name, account) in &config.accounts {
        let mut connector = upstreams.connector(name, account)?;
        if let Some(wrap) = &wrap_connector {
            connector = wrap(connector);
        }
        accounts.insert(
            name.clone(),
            Arc::new(engine_account(name, account, connector)),
        );
    }
    Ok(Pieces {
        clock,
        store,
        lock,
        keys: Arc::new(fingerprint_keys(config)?),
        accounts,
        registry,
    })
}

fn engine_account(
    name: &AccountName,
    account: &config::Account,
    connector: Arc<dyn Connector>,
) -> engine::Account {
    engine::Account {
        name: name.clone(),
        connector,
        endpoint: account.base_url.clone(),
        currencies: account.currencies.clone(),
        timeout: account.timeout,
        late_arrival_horizon: account.late_arrival_horizon,
    }
}

/// Refuses a ledger that would forget, or whose schema is older. One that cannot be asked is no fault: it may come back.
pub async fn check_ledger(store: &dyn Store) -> Result<(), StartError> {
    match store.faults().await {
        Ok(faults) if faults.is_empty() => Ok(()),
        Ok(faults) => Err(StartError::Unusable {
            what: "the ledger cannot be trusted with payments".to_owned(),
            detail: faults.join("; "),
        }),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the ledger cannot be checked yet"
            );
            Ok(())
        }
    }
}

fn open_lock(config: &config::Lock) -> Result<Arc<dyn Lock>, StartError> {
    if config.url == "local" {
        return Ok(Arc::new(LocalLock::new()));
    }
    let options = lock_options(config)?;
    let lock = RedisLock::new(&config.url, options)
        .map_err(|error| StartError::because("lock.url", &error))?;
    Ok(Arc::new(lock))
}

pub(crate) fn lock_options(config: &config::Lock) -> Result<RedisLockOptions, StartError> {
    Ok(RedisLockOptions {
        password: ledger::readable("lock.password", config.password())?,
        prefix: config.prefix.clone(),
        command_timeout: config.command_timeout,
        ..RedisLockOptions::default()
    })
}
