//! The configuration: whatever is accepted can be used, and is the same when it is read again.

use gateway_http::config::{Config, ConfigError};
use gateway_http::gateway::engine_options;
use gateway_http::upstreams;

/// The text of a configuration file.
pub(super) fn configurations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text) {
        Ok(config) => {
            assert_eq!(Config::parse(text).ok(), Some(config.clone()));
            assert!(config.validate().is_empty());
            let options = engine_options(&config);
            assert!(options.permits_max > 0 && options.journal.writers > 0);
            config.secrets();
            for (name, account) in &config.accounts {
                assert!(account.late_arrival_horizon > account.timeout);
                // With TLS it looks at files.
                if account.base_url.starts_with("http://") {
                    let faults = upstreams::faults(name, account);
                    assert!(faults.iter().all(|fault| fault.starts_with("accounts.")));
                }
            }
        }
        Err(ConfigError::Form { line, message }) => {
            assert!(line <= text.matches('\n').count() + 1);
            assert!(!message.is_empty());
        }
        Err(ConfigError::Faults(faults)) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty()));
        }
        Err(ConfigError::Read(..)) => panic!("no file was asked for"),
    }
}
