//! One merchant account at one processor: where it is, what it can do, and how patient we are with it.

use std::path::PathBuf;
use std::time::Duration;

use gateway_core::money::Currency;
use gateway_upstream::connexpay::UnlistedCode;
use serde::Deserialize;

use super::secret::{self, SecretRef};
use super::span;

/// The processors that have a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    ConnexPay,
}

/// See `config/reference.toml` for each key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub upstream: UpstreamKind,
    /// Of the sales API, with its version: `https://salesapi.connexpay.com/api/v1`.
    pub base_url: String,
    /// The processor does not name currencies in its messages: a device has one.
    pub currencies: Vec<Currency>,
    pub device_guid: String,
    /// What searches ask for.
    pub merchant_guid: String,
    pub username_file: Option<PathBuf>,
    pub username_env: Option<String>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    /// PEM with the certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// For the whole of one call that moves money.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Account::timeout_default"
    )]
    pub timeout: Duration,
    /// For name resolution, TCP and TLS together.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Account::connect_timeout_default"
    )]
    pub connect_timeout: Duration,
    /// From the last send until a late arrival is impossible. No processor publishes one: the operator decides.
    #[serde(deserialize_with = "span::deserialize")]
    pub late_arrival_horizon: Duration,
    /// More than `concurrency_max`: what does not move money for a caller needs connections in a hang, too.
    #[serde(default = "Account::connections_default")]
    pub connections_per_host: usize,
    /// Calls that may wait for a connection.
    #[serde(default = "Account::waiters_default")]
    pub waiters_max: usize,
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Account::wait_default"
    )]
    pub wait_max: Duration,
    /// Every connection is gone by this age.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Account::age_default"
    )]
    pub connection_age_max: Duration,
    /// Below the processor's own limit.
    #[serde(
        deserialize_with = "span::deserialize",
        default = "Account::idle_default"
    )]
    pub connection_idle_max: Duration,
    /// Connections kept open though nobody uses them.
    #[serde(default = "Account::warm_default")]
    pub warm_min: usize,
    #[serde(default)]
    pub keep_alive_headers: bool,
    #[serde(default = "Account::answer_default")]
    pub answer_bytes_max: usize,
    /// Callers' money-moving calls under way at once. Reversals and look-ups come on top.
    #[serde(default = "Account::concurrency_default")]
    pub concurrency_max: usize,
    #[serde(default)]
    pub breaker: Breaker,
    #[serde(default)]
    pub strategy: Strategy,
}

/// What the account's processor is taken at its word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches are what it holds"
)]
pub struct Strategy {
    /// A 401 with the API's own body proves that nothing was executed.
    pub trust_401: bool,
    /// A 429 proves that nothing was executed.
    pub trust_429: bool,
    /// `POST /timeoutreversal` exists; the newest documents no longer list it.
    pub timeout_reversal: bool,
    /// So do the routes that read one record. Where they do, nothing is refunded or voided without having been read.
    pub record_routes: bool,
    /// An identical request within 30 minutes is answered with the first result: a create is repeated once, by the task
    /// that holds the card.
    pub resend_identical: bool,
    /// The account captures less than was authorized.
    pub partial_captures: bool,
    /// What a decline proves whose code no list has.
    pub unlisted_code: UnlistedCode,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            trust_401: true,
            trust_429: false,
            timeout_reversal: true,
            record_routes: true,
            resend_identical: false,
            partial_captures: false,
            unlisted_code: UnlistedCode::Unknown,
        }
    }
}

/// When new charges stop. Look-ups, voids and reversals always go on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// How long it stays open before one call is tried.
    #[serde(deserialize_with = "span::deserialize")]
    pub open_for: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures_max: 20,
            open_for: Duration::from_secs(5),
        }
    }
}

impl Account {
    fn timeout_default() -> Duration {
        Duration::from_mins(1)
    }
    fn connect_timeout_default() -> Duration {
        Duration::from_secs(5)
    }
    fn connections_default() -> usize {
        80
    }
    fn waiters_default() -> usize {
        1_024
    }
    fn wait_default() -> Duration {
        Duration::from_secs(5)
    }
    fn age_default() -> Duration {
        Duration::from_mins(5)
    }
    fn idle_default() -> Duration {
        Duration::from_secs(50)
    }
    fn warm_default() -> usize {
        2
    }
    fn answer_default() -> usize {
        256 * 1024
    }
    fn concurrency_default() -> usize {
        64
    }

    pub fn username(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.username_file.as_ref(),
            self.username_env.as_ref(),
            &mut Vec::new(),
        )
    }

    pub fn password(&self) -> Option<SecretRef> {
        secret::pick(
            "",
            self.password_file.as_ref(),
            self.password_env.as_ref(),
            &mut Vec::new(),
        )
    }
}
