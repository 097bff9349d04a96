//! The product's commands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use gateway_core::by_hand::{Decider, Decision};
use gateway_core::clock::{Clock, SystemClock};
use gateway_core::connector::UpstreamIds;
use gateway_core::key::OperationId;

use crate::auth::Scope;
use crate::auth::mint::{SigningKey, Wanted};
use crate::config::{Config, span};
use crate::gateway::{StartError, with_causes};
use crate::{check, commands};

/// A payment gateway: one intent, at most one effect, and every outcome known.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C; then finish what is under way.
    Serve(ConfigFile),
    /// Bring the ledger's schema up to this release.
    Migrate(ConfigFile),
    /// End a parked operation by a person's decision.
    Resolve(ResolveArgs),
    /// Tell what happened to an operation, with the proof.
    Explain(ExplainArgs),
    /// Say everything that is wrong with a configuration and the files it names.
    CheckConfig(ConfigFile),
    /// Make a token from a private key, for a developer's machine.
    Token(TokenArgs),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, as documented in config/reference.toml.
    #[arg(long, env = "GATEWAY_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct ResolveArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// `op_…`
    operation: OperationId,
    /// What became of it at the processor.
    #[arg(long = "as", value_enum)]
    finding: Finding,
    /// Who decided. Kept for ever.
    #[arg(long)]
    who: String,
    /// How it was found out. Kept for ever.
    #[arg(long)]
    why: String,
    /// With `--as approved`: the processor's id of the transaction.
    #[arg(long, required_if_eq("finding", "approved"))]
    upstream_reference: Option<String>,
    /// With `--as approved`: the processor's ids that follow-ups need, as in sale=GUID. Repeatable.
    #[arg(long = "id", value_parser = named_id)]
    ids: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Finding {
    /// The processor executed it.
    Approved,
    /// It did not happen and no longer can.
    Failed,
    /// It happened and was undone by hand.
    Reversed,
}

fn named_id(text: &str) -> Result<(String, String), &'static str> {
    let (name, id) = text
        .split_once('=')
        .ok_or("a name and an id, as in sale=GUID")?;
    Ok((name.to_owned(), id.to_owned()))
}

#[derive(Debug, Args)]
struct ExplainArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// `op_…`
    operation: OperationId,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TokenArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// A private Ed25519, P-256 or RSA key in PEM (PKCS #8), whose public half the configuration names.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The token's `sub`: one that the configuration maps to a client.
    #[arg(long)]
    subject: String,
    /// How long it is valid; the configured `jwt_lifetime_max` unless given.
    #[arg(long, value_parser = span::parse)]
    lifetime: Option<Duration>,
    /// Repeatable; all of them unless given.
    #[arg(long = "scope", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Repeatable; all accounts unless given.
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// The largest amount in minor units, as in USD=150000. Repeatable; any amount unless given.
    #[arg(long, value_parser = amount)]
    max_amount: Vec<(String, i64)>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let known = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
    known.ok_or_else(|| format!("one of {}", Scope::ALL.map(Scope::as_str).join(", ")))
}

fn amount(text: &str) -> Result<(String, i64), &'static str> {
    let (currency, minor) = text
        .split_once('=')
        .ok_or("a currency and an amount, as in USD=150000")?;
    Ok((
        currency.to_owned(),
        minor
            .parse()
            .map_err(|_| "the amount is a whole number of minor units")?,
    ))
}

/// What a command could not do, in words for a terminal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl Failed {
    /// With every cause behind the first.
    fn because(error: &dyn std::error::Error) -> Self {
        Self(with_causes(error))
    }
}

impl Cli {
    /// Does what was asked for. What goes wrong is written to standard error.
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Serve(file) => file
                .load()
                .and_then(|config| wait_for(commands::serve(config))),
            Command::Migrate(file) => migrate(&file),
            Command::Resolve(args) => resolve(args),
            Command::Explain(args) => explain(&args),
            Command::CheckConfig(file) => check_config(&file),
            Command::Token(wanted) => token(&wanted),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                eprintln!("{failed}");
                ExitCode::FAILURE
            }
        }
    }
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Failed> {
        Config::load(&self.config).map_err(|error| Failed::because(&error))
    }
}

/// Runs what needs a runtime.
fn wait_for<T>(work: impl Future<Output = Result<T, StartError>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::because(&error))?;
    runtime
        .block_on(work)
        .map_err(|error| Failed::because(&error))
}

fn migrate(file: &ConfigFile) -> Result<(), Failed> {
    let config = file.load()?;
    wait_for(commands::migrate(&config))?;
    println!("the ledger has this release's schema");
    Ok(())
}

fn resolve(args: ResolveArgs) -> Result<(), Failed> {
    let config = args.file.load()?;
    let decision = match args.finding {
        Finding::Approved => Decision::Approved {
            upstream_reference: args.upstream_reference.unwrap_or_default(),
            ids: UpstreamIds(args.ids.into_iter().collect()),
            authorization_code: None,
        },
        Finding::Failed => Decision::Failed,
        Finding::Reversed => Decision::Reversed,
    };
    let decider = Decider {
        who: args.who,
        why: args.why,
    };
    let done = wait_for(commands::resolve(
        &config,
        args.operation,
        decision,
        &decider,
    ))?;
    println!("{done}");
    Ok(())
}

fn explain(args: &ExplainArgs) -> Result<(), Failed> {
    let config = args.file.load()?;
    println!(
        "{}",
        wait_for(commands::explain(&config, args.operation, args.json))?
    );
    Ok(())
}

fn check_config(file: &ConfigFile) -> Result<(), Failed> {
    let config = file.load()?;
    let faults = check::faults(&config);
    if !faults.is_empty() {
        return Err(Failed(faults.join("\n")));
    }
    println!("{} can be used", file.config.display());
    Ok(())
}

fn token(args: &TokenArgs) -> Result<(), Failed> {
    let config = args.file.load()?;
    let shown = args.key.display();
    let pem = std::fs::read_to_string(&args.key)
        .map_err(|error| Failed(format!("{shown} cannot be read: {error}")))?;
    let key = SigningKey::from_pem(&pem).map_err(|error| Failed(format!("{shown} {error}")))?;
    if !config
        .clients
        .values()
        .any(|client| client.subjects.contains(&args.subject))
    {
        return Err(Failed(format!(
            "no client of {} has the subject {}",
            args.file.config.display(),
            args.subject
        )));
    }
    let wanted = Wanted {
        issuer: config.auth.issuer,
        audience: config.auth.audience,
        subject: args.subject.clone(),
        scopes: if args.scopes.is_empty() {
            Scope::ALL.to_vec()
        } else {
            args.scopes.clone()
        },
        lifetime: args.lifetime.unwrap_or(config.auth.jwt_lifetime_max),
        accounts: (!args.accounts.is_empty()).then(|| args.accounts.clone()),
        max_amount: args.max_amount.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    println!("{}", key.sign(&wanted, SystemClock.now()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn scopes_and_amounts_are_read() {
        assert_eq!(scope("refunds:write"), Ok(Scope::RefundsWrite));
        assert!(scope("everything").is_err());
        assert_eq!(amount("USD=150000"), Ok(("USD".into(), 150_000)));
        assert!(amount("USD").is_err() && amount("USD=1.5").is_err());
    }
}
