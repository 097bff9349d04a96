//! `cargo local`: gateway and simulators in one process, on SQLite, with nothing to install.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use gateway_core::clock::{Clock, SystemClock};
use gateway_http::assemble::{Seams, check_ledger, pieces};
use gateway_http::auth::Scope;
use gateway_http::auth::mint::{SigningKey, Wanted};
use gateway_http::config::Config;
use gateway_http::gateway::{Gateway, StartError};
use gateway_http::{server, sinks};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::simulators::connexpay::{DEVICE_USD, MERCHANT_USD, PASSWORD, USERNAME};
use crate::simulators::{Options, Simulators};
use crate::stack::{Algorithm, TestKey};

/// Options of `local`.
#[derive(Debug, Args)]
pub struct Local {
    /// Where the gateway listens; the simulated processors listen one above, their control API two above.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Ledger, keys, token, configuration and the processors' books. All of it survives a restart.
    #[arg(long, default_value = ".local")]
    dir: PathBuf,
}

/// Why the local stack does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the local configuration is not valid: {0}")]
    Config(String),
    #[error("{0}")]
    Other(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LocalError {
    let what = what.into();
    move |source| LocalError::Io { what, source }
}

/// Runs until Ctrl-C or a termination signal.
pub async fn run(local: Local) -> Result<(), LocalError> {
    let dir = &local.dir;
    fs::create_dir_all(dir).map_err(io_error(format!(
        "cannot make the folder {}",
        dir.display()
    )))?;
    let dir = dir
        .canonicalize()
        .map_err(io_error(format!("cannot enter {}", dir.display())))?;
    let bind = async |port: u16| {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        bound.map_err(io_error(format!(
            "port {port} is taken: choose another with --port"
        )))
    };
    let options = Options {
        control: Some(bind(local.port + 2).await?),
        ..Options::default()
    };
    let simulators = Simulators::start(
        bind(local.port + 1).await?,
        Some(dir.join("books")),
        options,
    )
    .await
    .map_err(io_error("the simulators cannot start"))?;
    let signing = keys(&dir)?;
    let text = configuration(&local, &dir, &simulators.connexpay_url());
    write(&dir.join("config.toml"), &text)?;
    let config = Config::parse(&text).map_err(|error| LocalError::Config(error.to_string()))?;
    let token = token(&config, &signing);
    write(&dir.join("token"), &token)?;
    let sinks =
        sinks::start(&config.telemetry).map_err(|error| LocalError::Other(error.to_string()))?;
    let pieces = pieces(&config, Seams::default()).await?;
    let migrated = pieces.store.migrate().await;
    migrated.map_err(|error| LocalError::Other(format!("the ledger: {error}")))?;
    check_ledger(&*pieces.store).await?;
    let listener = server::bind(config.server.listen).map_err(io_error(format!(
        "port {} is taken: choose another with --port",
        local.port
    )))?;
    let gateway = Gateway::start(config, pieces)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(io_error("signals"))?;
    greet(&local, &dir, &simulators).map_err(io_error("cannot write to the terminal"))?;
    let stop = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    };
    gateway.run(listener, stop).await?;
    simulators.shutdown().await;
    sinks.end().await;
    Ok(())
}

fn greet(local: &Local, dir: &Path, simulators: &Simulators) -> io::Result<()> {
    let port = local.port;
    // As typed, not as resolved: what is printed is pasted.
    let token = local.dir.join("token");
    let mut out = io::stdout().lock();
    writeln!(
        out,
        r#"Quittance is running. Ctrl-C ends it; what it wrote to {dir} survives.

  gateway      http://127.0.0.1:{port}        docs: http://127.0.0.1:{port}/docs
  ConnexPay    {connexpay}  (simulated; control: http://{control}/_sandbox/)
  token        {token} (good for 12 hours)

Charge a card:

  curl -s http://127.0.0.1:{port}/v1/payments \
    -H "Authorization: Bearer $(cat {token})" \
    -H "Idempotency-Key: my-first-charge" -H "Content-Type: application/json" \
    -d '{{"account": "acme-us", "amount": {{"value": 150000, "currency": "USD"}}, "order_reference": "857B2",
         "card": {{"number": "4012000098765439", "expiry_month": 12, "expiry_year": 2030, "cvv": "999"}},
         "risk": {{"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"}}}}'

Then type the same again.
"#,
        dir = dir.display(),
        connexpay = simulators.connexpay_url(),
        control = simulators.control_address(),
        token = token.display(),
    )?;
    out.flush()
}

/// The keys of this folder, made at the first start: a ledger is worth nothing without the keys it was written with.
fn keys(dir: &Path) -> Result<SigningKey, LocalError> {
    for name in ["fingerprint", "token_key"] {
        let path = dir.join(name);
        if !path.exists() {
            let halves: [u128; 2] = rand::random();
            let hex = format!("{:032x}{:032x}", halves[0], halves[1]);
            write(&path, &hex)?;
        }
    }
    write(&dir.join("connexpay_username"), USERNAME)?;
    write(&dir.join("connexpay_password"), PASSWORD)?;
    let private = dir.join("jwt_private.pem");
    if !private.exists() {
        let key = TestKey::generate(Algorithm::EdDsa, "local");
        write(&dir.join("jwt_public.pem"), &key.public_pem())?;
        write(&private, &key.private_pem())?;
    }
    let pem = fs::read_to_string(&private).map_err(io_error("cannot read the signing key"))?;
    SigningKey::from_pem(&pem).map_err(|error| LocalError::Other(error.to_string()))
}

fn token(config: &Config, key: &SigningKey) -> String {
    let wanted = Wanted {
        issuer: config.auth.issuer.clone(),
        audience: config.auth.audience.clone(),
        subject: "shop".to_owned(),
        scopes: Scope::ALL.to_vec(),
        lifetime: config.auth.jwt_lifetime_max,
        accounts: None,
        max_amount: std::collections::BTreeMap::new(),
    };
    key.sign(&wanted, SystemClock.now())
}

/// Scaled for a person who waits: a timeout is reversed within the default wait.
fn configuration(local: &Local, dir: &Path, connexpay: &str) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    format!(
        r#"# Written by `cargo local` at each start. `gateway explain --config` reads it, too.
[server]
listen = "127.0.0.1:{port}"
request_timeout_max = "30s"
drain_timeout = "10s"

[telemetry]
format = "text"
log = "warn"

[auth]
issuer = "local"
audience = "quittance"
key_file = "{public}"
jwt_lifetime_max = "12h"

[clients.shop]
subjects = ["shop"]

[ledger]
url = "sqlite://{ledger}"

[keys]
fingerprint_file = "{fingerprint}"
token_file = "{token_key}"

[resolver]
schedule = ["1s", "2s", "5s", "10s", "20s"]
repeat_every = "10s"

[accounts.acme-us]
upstream = "connexpay"
base_url = "{connexpay}"
currencies = ["USD"]
device_guid = "{DEVICE_USD}"
merchant_guid = "{MERCHANT_USD}"
username_file = "{username}"
password_file = "{password}"
timeout = "3s"
connect_timeout = "1s"
late_arrival_horizon = "40s"
"#,
        port = local.port,
        public = file("jwt_public.pem"),
        ledger = file("ledger.db"),
        fingerprint = file("fingerprint"),
        token_key = file("token_key"),
        username = file("connexpay_username"),
        password = file("connexpay_password"),
    )
}

/// Writes a file that only its owner reads, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), LocalError> {
    let what = || format!("cannot write {}", path.display());
    let half = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&half).map_err(io_error(what()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io_error(what()))?;
    fs::rename(&half, path).map_err(io_error(what()))
}
