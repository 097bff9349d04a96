//! The subcommand `simulate`: the simulators as a program of their own.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::{Options, Simulators};

/// Options of `simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// Where the processors listen, on loopback.
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// Where the control API listens as well, so that it can be reached while connections are refused.
    #[arg(long, default_value_t = 8091)]
    control_port: u16,
    /// Where the books are kept; in memory when absent.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Serves until Ctrl-C.
///
/// # Errors
/// When a port is taken or the books cannot be read.
pub async fn run(simulate: Simulate) -> io::Result<()> {
    let listener = bind(simulate.port).await?;
    let options = Options {
        control: Some(bind(simulate.control_port).await?),
        ..Options::default()
    };
    let simulators = Simulators::start(listener, simulate.dir, options).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "connexpay   {}", simulators.connexpay_url())?;
    writeln!(
        out,
        "control     http://{}/_sandbox/",
        simulators.control_address()
    )?;
    drop(out);
    tokio::signal::ctrl_c().await?;
    simulators.shutdown().await;
    Ok(())
}

async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}
