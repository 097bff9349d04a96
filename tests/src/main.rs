//! Runs the simulators, or the whole local stack.

use clap::{Parser, Subcommand};
use sandbox::simulators::command::{self, Simulate};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the simulated processors and their control API until Ctrl-C.
    Simulate(Simulate),
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    match Arguments::parse().command {
        Command::Simulate(simulate) => command::run(simulate).await,
    }
}
