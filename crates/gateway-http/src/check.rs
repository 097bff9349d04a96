//! Everything that is wrong with a configuration and with what it names, found without connecting to anything.

use gateway_core::lock::RedisLock;

use crate::assemble::lock_options;
use crate::config::{self, Config};
use crate::gateway::{StartError, fingerprint_keys, key_source, with_causes};
use crate::ledger;
use crate::tls::Certificate;
use crate::upstreams::{self, token_key};

/// All faults of a configuration whose values are valid by themselves. Empty: `serve` will start with it.
pub fn faults(config: &Config) -> Vec<String> {
    let mut faults = config.unreadable();
    // What cannot be read was said already.
    let unread = |name: &str| faults.iter().any(|fault| fault.starts_with(name));
    let mut made: Vec<Result<(), StartError>> = Vec::new();
    if !unread("keys.fingerprint") {
        made.push(fingerprint_keys(config).map(drop));
    }
    if !unread("keys.token") {
        made.push(token_key(&config.keys).map(drop));
    }
    if !unread("auth.") {
        made.push(key_source(&config.auth).map(drop));
    }
    if let Some(tls) = config.server.tls.as_ref().filter(|_| !unread("server.tls")) {
        made.push(Certificate::load(tls).map(drop).map_err(StartError::Tls));
    }
    if !unread("ledger.") {
        made.push(check_ledger(&config.ledger));
    }
    if !unread("lock.") {
        made.push(check_lock(&config.lock));
    }
    let made = made.into_iter().filter_map(Result::err);
    faults.extend(made.map(|fault| with_causes(&fault)));
    for (name, account) in &config.accounts {
        faults.extend(upstreams::faults(name, account));
    }
    faults
}

fn check_ledger(ledger: &config::Ledger) -> Result<(), StartError> {
    let Some(path) = config::sqlite_path(&ledger.url) else {
        return ledger::postgres(ledger).map(drop);
    };
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(StartError::Unusable {
                what: "ledger.url".to_owned(),
                detail: format!("there is no folder {}", folder.display()),
            })
        }
        _ => Ok(()),
    }
}

fn check_lock(lock: &config::Lock) -> Result<(), StartError> {
    if lock.url == "local" {
        return Ok(());
    }
    RedisLock::check(&lock.url, &lock_options(lock)?)
        .map_err(|error| StartError::because("lock.url", &error))
}
