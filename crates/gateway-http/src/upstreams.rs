//! Makes the connector of each configured account, with its pool, tokens, breaker and limit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::Clock;
use gateway_core::connector::Connector;
use gateway_core::key::AccountName;
use gateway_core::lock::Lock;
use gateway_core::store::Store;
use gateway_core::token::{LedgerTokens, TokenKeeper, TokenKey, TokenOptions};
use gateway_upstream::connexpay::{
    ConnexPay, ConnexPayConfig, ConnexPayParts, ConnexPayTokens, CredentialSource, Credentials,
    Login,
};
use gateway_upstream::pool::{
    Breaker, BreakerConfig, Limit, LimitConfig, Pool, PoolConfig, PoolMetrics, Resolve, Roots,
};

use crate::config::{self, SecretRef, UpstreamKind};
use crate::gateway::StartError;

/// One fetch of a token; below the keeper's own bound.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(8);

/// What all connectors share.
#[derive(Debug)]
pub struct Upstreams {
    pub store: Arc<dyn Store>,
    pub lock: Arc<dyn Lock>,
    pub clock: Arc<dyn Clock>,
    pub token_key: TokenKey,
    pub metrics: PoolMetrics,
    /// Asked for the addresses of a processor's host, for each new connection.
    pub resolver: Arc<dyn Resolve>,
}

impl Upstreams {
    pub fn connector(
        &self,
        name: &AccountName,
        account: &config::Account,
    ) -> Result<Arc<dyn Connector>, StartError> {
        match account.upstream {
            UpstreamKind::ConnexPay => self.connexpay(name, account),
        }
    }

    fn connexpay(
        &self,
        name: &AccountName,
        account: &config::Account,
    ) -> Result<Arc<dyn Connector>, StartError> {
        let pool = Pool::new(
            PoolConfig {
                resolver: Arc::clone(&self.resolver),
                ..pool_config(name, account)?
            },
            Arc::clone(&self.clock),
            &self.metrics,
        )
        .map_err(|error| StartError::because(format!("accounts.{name}"), &error))?;
        let login = Login::new(LoginRefs::of(name, account)?);
        let source = ConnexPayTokens::new(
            Arc::clone(&pool),
            Arc::clone(&login),
            TOKEN_TIMEOUT.min(account.timeout),
        );
        let tokens = TokenKeeper::new(
            name.as_str(),
            Arc::new(source),
            Some(Arc::new(LedgerTokens(Arc::clone(&self.store)))),
            Arc::clone(&self.lock),
            self.token_key.clone(),
            Arc::clone(&self.clock),
            TokenOptions::default(),
        );
        let config = connexpay_config(name, account)?;
        let breaker = BreakerConfig {
            failure_count_max: account.breaker.failures_max,
            open_for: account.breaker.open_for,
        };
        let limit = LimitConfig {
            calls_max: account.concurrency_max,
            waiters_max: account.waiters_max,
            wait_max: account.wait_max,
        };
        let parts = ConnexPayParts {
            wire: pool,
            tokens,
            login,
            breaker: Breaker::new(
                name.as_str(),
                breaker,
                Arc::clone(&self.clock),
                &self.metrics,
            ),
            limit: Limit::new(name.as_str(), limit, &self.metrics),
        };
        let connector = ConnexPay::new(config, parts)
            .map_err(|error| StartError::because(format!("accounts.{name}"), &error))?;
        Ok(Arc::new(connector))
    }
}

/// Everything that keeps the connector of an account from being made. Connects to nothing.
pub fn faults(name: &AccountName, account: &config::Account) -> Vec<String> {
    let what = format!("accounts.{name}");
    match account.upstream {
        UpstreamKind::ConnexPay => {
            let pool = pool_config(name, account).and_then(|config| {
                Pool::check(&config).map_err(|error| StartError::because(&what, &error))
            });
            let connector = connexpay_config(name, account).and_then(|config| {
                let faults = config.faults();
                if faults.is_empty() {
                    return Ok(());
                }
                Err(StartError::Unusable {
                    what: what.clone(),
                    detail: faults.join("; "),
                })
            });
            let faults = [pool, connector].into_iter().filter_map(Result::err);
            faults.map(|fault| fault.to_string()).collect()
        }
    }
}

fn connexpay_config(
    name: &AccountName,
    account: &config::Account,
) -> Result<ConnexPayConfig, StartError> {
    let Some(currency) = account.currencies.first().copied() else {
        return Err(StartError::Unusable {
            what: format!("accounts.{name}.currencies"),
            detail: "must name the device's currency".to_owned(),
        });
    };
    Ok(ConnexPayConfig {
        timeout: account.timeout,
        read_timeout: account.timeout,
        trust_401: account.strategy.trust_401,
        trust_429: account.strategy.trust_429,
        timeout_reversal: account.strategy.timeout_reversal,
        record_routes: account.strategy.record_routes,
        resend_identical: account.strategy.resend_identical,
        partial_captures: account.strategy.partial_captures,
        unlisted_code: account.strategy.unlisted_code,
        ..ConnexPayConfig::new(
            &account.base_url,
            &account.device_guid,
            &account.merchant_guid,
            currency,
        )
    })
}

fn pool_config(name: &AccountName, account: &config::Account) -> Result<PoolConfig, StartError> {
    let base = account.base_url.parse().map_err(|_| StartError::Unusable {
        what: format!("accounts.{name}.base_url"),
        detail: "is no URL".to_owned(),
    })?;
    Ok(PoolConfig {
        connect_timeout: account.connect_timeout,
        connections_max: account.connections_per_host,
        waiters_max: account.waiters_max,
        wait_max: account.wait_max,
        age_max: account.connection_age_max,
        age_margin: account.timeout,
        idle_max: account.connection_idle_max,
        keep_alive_headers: account.keep_alive_headers,
        answer_bytes_max: account.answer_bytes_max,
        warm_min: account.warm_min,
        warm_max: account.connections_per_host,
        roots: account
            .ca_file
            .clone()
            .map_or(Roots::System, Roots::PemFile),
        ..PoolConfig::new(name.as_str(), base)
    })
}

/// The key that encrypts upstream tokens in the ledger.
pub fn token_key(keys: &config::Keys) -> Result<TokenKey, StartError> {
    let Some(secret) = keys.token() else {
        let detail = "is required".to_owned();
        return Err(StartError::Unusable {
            what: "keys.token".to_owned(),
            detail,
        });
    };
    let secret = secret
        .read()
        .map_err(|error| StartError::because("keys.token", &error))?;
    TokenKey::parse(&secret).map_err(|error| StartError::because("keys.token", &error))
}

/// User name and password, read again for every token: a rotated secret needs no restart.
struct LoginRefs {
    username: SecretRef,
    password: SecretRef,
}

impl LoginRefs {
    fn of(name: &AccountName, account: &config::Account) -> Result<Self, StartError> {
        let required = |key: &str, secret: Option<SecretRef>| {
            secret.ok_or_else(|| StartError::Unusable {
                what: format!("accounts.{name}.{key}"),
                detail: "a file or an environment variable must be named".to_owned(),
            })
        };
        Ok(Self {
            username: required("username", account.username())?,
            password: required("password", account.password())?,
        })
    }
}

impl fmt::Debug for LoginRefs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} / {})", self.username, self.password)
    }
}

impl CredentialSource for LoginRefs {
    fn credentials(&self) -> Result<Credentials, String> {
        let read = |secret: &SecretRef| secret.read().map_err(|error| error.to_string());
        Ok(Credentials {
            username: read(&self.username)?,
            password: read(&self.password)?,
        })
    }
}
