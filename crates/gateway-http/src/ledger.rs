//! Opens the ledger that the configuration names.

use std::sync::Arc;

use gateway_core::store::{PostgresOptions, PostgresStore, Store};

use crate::config;
use crate::gateway::StartError;

/// The ledger of a configuration. Nothing is connected yet.
pub fn open(config: &config::Ledger) -> Result<Arc<dyn Store>, StartError> {
    if config.url.starts_with("sqlite:") {
        return at(&config.url);
    }
    let password = config.password().map(|secret| secret.read()).transpose();
    let password = password.map_err(|error| StartError::because("ledger.password", &error))?;
    let options = PostgresOptions {
        password,
        journal_connections: config.writers,
        work_connections: config.work_connections,
        read_connections: config.read_connections,
        statement_timeout: config.statement_timeout,
        lock_timeout: config.lock_timeout,
        ..PostgresOptions::new(config.url.clone().into())
    };
    let store =
        PostgresStore::new(&options).map_err(|error| StartError::because("ledger.url", &error))?;
    Ok(Arc::new(store))
}

/// The ledger at a URL, with the defaults for everything else.
pub fn at(url: &str) -> Result<Arc<dyn Store>, StartError> {
    let unusable = |error| StartError::because("ledger.url", &error);
    if url.starts_with("sqlite:") {
        return Err(StartError::Unusable {
            what: "ledger.url".to_owned(),
            detail: "SQLite is not built in yet".to_owned(),
        });
    }
    let options = PostgresOptions::new(url.to_owned().into());
    Ok(Arc::new(PostgresStore::new(&options).map_err(unusable)?))
}
