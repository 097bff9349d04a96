//! The configuration of a test's gateways, with every span scaled.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::simulators::connexpay::{DEVICE_USD, MERCHANT_USD};
use crate::stack::TestKey;

/// For a horizon of seconds.
const QUICK: &str = r#"schedule = ["200ms", "500ms", "1s", "2s", "4s"]
repeat_every = "1s""#;

/// What tests change of a gateway's configuration. Spans are written as the configuration file writes them.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub ledger_url: String,
    pub lock_url: String,
    /// Worlds share a Redis and the names of accounts, and must not wait for each other's tokens.
    pub lock_prefix: String,
    pub connexpay_url: String,
    pub upstream_timeout: String,
    pub connect_timeout: String,
    pub wait_max: String,
    pub horizon: String,
    pub drain_timeout: String,
    /// How often the resolver looks for work.
    pub scan_every: String,
    /// When it looks at an unknown outcome: lines of its section. The product's defaults if empty.
    pub schedule: String,
    pub permits_max: usize,
    /// Of them, those of one client.
    pub permits_per_client_max: usize,
    /// The product's default unless given.
    pub connections_per_host: Option<usize>,
    /// What the gateway fetches tokens with.
    pub connexpay_password: String,
    pub trust_429: bool,
    pub partial_captures: bool,
    pub resend_identical: bool,
    /// The level of the gateways' log: `info`, `trace`.
    pub log: String,
    /// How it is written: `json`, `text`.
    pub log_format: String,
    /// Where the gateways fetch verification keys, instead of the key file.
    pub jwks_url: Option<String>,
    /// Lines added to the account, to the section of that name, or at the end.
    pub more_account: String,
    pub more_strategy: String,
    pub more_auth: String,
    pub more_ledger: String,
    pub more_lock: String,
    pub more_payments: String,
    pub more_server: String,
    pub more: String,
}

impl WorldConfig {
    pub(super) fn new(ledger_url: &str, lock_url: &str, connexpay_url: &str) -> Self {
        Self {
            ledger_url: ledger_url.to_owned(),
            lock_url: lock_url.to_owned(),
            lock_prefix: format!("world-{:016x}:", rand::random::<u64>()),
            connexpay_url: connexpay_url.to_owned(),
            upstream_timeout: "3s".to_owned(),
            connect_timeout: "900ms".to_owned(),
            wait_max: "6s".to_owned(),
            horizon: "10s".to_owned(),
            drain_timeout: "6s".to_owned(),
            scan_every: "100ms".to_owned(),
            schedule: QUICK.to_owned(),
            permits_max: 10_000,
            permits_per_client_max: 10_000,
            connections_per_host: None,
            connexpay_password: crate::simulators::connexpay::PASSWORD.to_owned(),
            trust_429: false,
            partial_captures: true,
            resend_identical: false,
            log: "info".to_owned(),
            log_format: "json".to_owned(),
            jwks_url: None,
            more_account: String::new(),
            more_strategy: String::new(),
            more_auth: String::new(),
            more_ledger: String::new(),
            more_lock: String::new(),
            more_payments: String::new(),
            more_server: String::new(),
            more: String::new(),
        }
    }

    /// Sets the upstream's timeout, the longest wait and the horizon, which must be each longer than the one before; the
    /// last longer than both together.
    pub fn set_spans(&mut self, upstream_timeout: &str, wait_max: &str, horizon: &str) {
        upstream_timeout.clone_into(&mut self.upstream_timeout);
        wait_max.clone_into(&mut self.wait_max);
        horizon.clone_into(&mut self.horizon);
    }

    /// Writes secrets into `folder`, and returns the text of the configuration file.
    pub(super) fn write(&self, port: u16, key: &TestKey, folder: &Path) -> String {
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            // Another gateway of this world may be reading it.
            if !fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
                fs::write(&path, text).expect("a file in the test's folder");
            }
            path.display().to_string()
        };
        let fingerprint = put("fingerprint", &"5a".repeat(32));
        let token = put("token", &"c3".repeat(32));
        let username = put("username", crate::simulators::connexpay::USERNAME);
        let password = put("password", &self.connexpay_password);
        let verify = match &self.jwks_url {
            Some(url) => format!("jwks_url = \"{url}\""),
            None => format!("key_file = \"{}\"", put("jwt.pem", &key.public_pem())),
        };
        let Self {
            ledger_url,
            lock_url,
            lock_prefix,
            connexpay_url,
            upstream_timeout,
            connect_timeout,
            wait_max,
            horizon,
            scan_every,
            schedule,
            ..
        } = self;
        let (ledger, ledger_password) = split_password(ledger_url);
        let ledger_password = ledger_password
            .map(|password| {
                format!(
                    "password_file = \"{}\"\n",
                    put("ledger_password", &password)
                )
            })
            .unwrap_or_default();
        let connections = self
            .connections_per_host
            .map(|count| format!("connections_per_host = {count}\n"))
            .unwrap_or_default();
        let mut text = format!(
            r#"[server]
listen = "127.0.0.1:{port}"
request_timeout_max = "{wait_max}"
drain_timeout = "{drain_timeout}"
{more_server}
[telemetry]
log = "{log}"
format = "{log_format}"

[auth]
issuer = "https://issuer.test"
audience = "quittance"
{verify}
{more_auth}
[clients.shop]
subjects = ["shop-1", "shop-2"]
rate_per_second = 100000
burst = 100000

[clients.other]
subjects = ["other-1"]

[ledger]
url = "{ledger}"
{ledger_password}{more_ledger}
[lock]
url = "{lock_url}"
prefix = "{lock_prefix}"
{more_lock}
[keys]
fingerprint_file = "{fingerprint}"
token_file = "{token}"

[payments]
permits_max = {permits_max}
permits_per_client_max = {permits_per_client_max}
{more_payments}
[resolver]
{schedule}
scan_every = "{scan_every}"

[accounts.acme-us]
upstream = "connexpay"
base_url = "{connexpay_url}"
currencies = ["USD"]
device_guid = "{DEVICE_USD}"
merchant_guid = "{MERCHANT_USD}"
username_file = "{username}"
password_file = "{password}"
timeout = "{upstream_timeout}"
connect_timeout = "{connect_timeout}"
late_arrival_horizon = "{horizon}"
{connections}{more_account}
[accounts.acme-us.strategy]
trust_429 = {trust_429}
partial_captures = {partial_captures}
resend_identical = {resend_identical}
{more_strategy}

"#,
            drain_timeout = self.drain_timeout,
            more_auth = self.more_auth,
            more_ledger = self.more_ledger,
            more_lock = self.more_lock,
            more_payments = self.more_payments,
            more_server = self.more_server,
            log = self.log,
            log_format = self.log_format,
            permits_max = self.permits_max,
            permits_per_client_max = self.permits_per_client_max.min(self.permits_max),
            more_account = self.more_account,
            trust_429 = self.trust_429,
            partial_captures = self.partial_captures,
            resend_identical = self.resend_identical,
            more_strategy = self.more_strategy,
        );
        let _ = writeln!(text, "{}", self.more);
        text
    }
}

/// A URL without its password, and the password: the configuration takes them apart.
fn split_password(url: &str) -> (String, Option<String>) {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, host) = rest.split_once('@')?;
        let (user, password) = user.split_once(':')?;
        Some((format!("{scheme}://{user}@{host}"), password.to_owned()))
    };
    match parts() {
        Some((url, password)) => (url, Some(password)),
        None => (url.to_owned(), None),
    }
}
