//! Opens the ledger that the configuration names.

use std::sync::Arc;

use gateway_core::secret::Secret;
use gateway_core::store::{PostgresOptions, PostgresStore, SqliteStore, Store};

use crate::config::{self, SecretRef};
use crate::gateway::StartError;

/// The ledger of a configuration. To Postgres nothing is connected yet; SQLite is opened.
pub async fn open(config: &config::Ledger) -> Result<Arc<dyn Store>, StartError> {
    if config::sqlite_path(&config.url).is_some() {
        return at(&config.url).await;
    }
    Ok(Arc::new(postgres(config)?))
}

/// The ledger in Postgres. Nothing is connected yet.
pub fn postgres(config: &config::Ledger) -> Result<PostgresStore, StartError> {
    let options = PostgresOptions {
        password: readable("ledger.password", config.password())?,
        journal_connections: config.writers,
        work_connections: config.work_connections,
        read_connections: config.read_connections,
        connect_timeout: config.connect_timeout,
        acquire_timeout: config.acquire_timeout,
        statement_timeout: config.statement_timeout,
        lock_timeout: config.lock_timeout,
        ..PostgresOptions::new(config.url.clone().into())
    };
    PostgresStore::new(&options).map_err(|error| StartError::because("ledger.url", &error))
}

/// A password that is read anew for each connection. One that cannot be read now is a fault of the configuration.
pub(crate) fn readable(
    name: &str,
    secret: Option<SecretRef>,
) -> Result<Option<Secret>, StartError> {
    let Some(secret) = secret else {
        return Ok(None);
    };
    secret
        .read()
        .map_err(|error| StartError::because(name, &error))?;
    Ok(Some(secret.into()))
}

/// The ledger at a URL, with the defaults for everything else.
pub async fn at(url: &str) -> Result<Arc<dyn Store>, StartError> {
    let unusable = |error| StartError::because("ledger.url", &error);
    if let Some(path) = config::sqlite_path(url) {
        return Ok(Arc::new(SqliteStore::open(path).await.map_err(unusable)?));
    }
    let options = PostgresOptions::new(url.to_owned().into());
    Ok(Arc::new(PostgresStore::new(&options).map_err(unusable)?))
}
