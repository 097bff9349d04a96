//! Gateways that are measured: processes of the built binary, configured as for production but for what a scene changes.

use std::fs;
use std::net::SocketAddr;

use crate::simulators::connexpay::{DEVICE_USD, MERCHANT_USD, PASSWORD, USERNAME};
use crate::stack::{
    Doing, GatewayOptions, GatewayProcess, StackError, TempDir, TestKey, reserve_port,
};

/// Lines of the configuration that differ from the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes<'a> {
    /// Whole sections.
    pub(super) sections: &'a str,
    /// Of the account.
    pub(super) account: &'a str,
}

/// A gateway that runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) process: GatewayProcess,
    pub(super) address: SocketAddr,
}

impl Gateway {
    /// Starts one on this ledger and upstream. The folder holds its secrets.
    pub(super) async fn start(
        ledger: &str,
        upstream: SocketAddr,
        key: &TestKey,
        folder: &TempDir,
        changes: Changes<'_>,
    ) -> Result<Self, StackError> {
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
            Ok::<_, StackError>(path.display().to_string())
        };
        let address = SocketAddr::from(([127, 0, 0, 1], reserve_port()?));
        let config = format!(
            r#"[server]
listen = "{address}"

[telemetry]
log = "info"

[auth]
issuer = "https://issuer.test"
audience = "quittance"
key_file = "{key}"

[clients.shop]
subjects = ["shop-1"]
rate_per_second = 1000000
burst = 1000000

[ledger]
url = "{ledger}"

[keys]
fingerprint_file = "{fingerprint}"
token_file = "{token}"

{sections}

[accounts.acme-us]
upstream = "connexpay"
base_url = "http://{upstream}/api/v1"
currencies = ["USD"]
device_guid = "{DEVICE_USD}"
merchant_guid = "{MERCHANT_USD}"
username_file = "{username}"
password_file = "{password}"
late_arrival_horizon = "30m"
{account}
"#,
            key = put("jwt.pem", &key.public_pem())?,
            fingerprint = put("fingerprint", &"5a".repeat(32))?,
            token = put("token", &"c3".repeat(32))?,
            username = put("username", USERNAME)?,
            password = put("password", PASSWORD)?,
            sections = changes.sections,
            account = changes.account,
        );
        let options = GatewayOptions {
            name: "gateway".to_owned(),
            config,
            base_url: format!("http://{address}"),
            environment: Vec::new(),
        };
        let process = GatewayProcess::start_new(options).await?;
        Ok(Self { process, address })
    }
}
