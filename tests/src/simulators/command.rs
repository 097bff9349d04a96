//! The subcommand `simulate`: the simulators as a program of their own.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, Simulators};

/// Options of `simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The address to listen on. Anyone who can reach it can read the books and order faults.
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Where the processors listen.
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// Where the control API listens as well, so that it can be reached while connections are refused.
    #[arg(long, default_value_t = 8091)]
    control_port: u16,
    /// Where the books are kept; in memory when absent.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Closes connections that idle longer than this many seconds, as real processors do.
    #[arg(long)]
    idle_limit_s: Option<u64>,
}

/// Serves until Ctrl-C or a termination signal.
///
/// # Errors
/// When a port is taken or the books cannot be read.
pub async fn run(simulate: Simulate) -> io::Result<()> {
    let bind = |port| TcpListener::bind((simulate.host, port));
    let listener = bind(simulate.port).await?;
    let options = Options {
        control: Some(bind(simulate.control_port).await?),
        idle_limit: simulate.idle_limit_s.map(Duration::from_secs),
        ..Options::default()
    };
    // As the first process of a container, only a signal that is asked for ends us.
    let mut terminated = signal(SignalKind::terminate())?;
    let simulators = Simulators::start(listener, simulate.dir, options).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "ConnexPay    {}", simulators.connexpay_url())?;
    writeln!(
        out,
        "control API  http://{}/_sandbox/",
        simulators.control_address()
    )?;
    drop(out);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    simulators.shutdown().await;
    Ok(())
}
