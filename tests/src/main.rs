//! Runs the simulators, the whole local stack, the drill, the benchmark, or slow clients.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gateway_http::process::forbid_core_dumps;
use sandbox::bench::{self, Bench};
use sandbox::drill::{self, Drill};
use sandbox::local::{self, Local};
#[cfg(feature = "simulation")]
use sandbox::simulation::{self, Simulation};
use sandbox::simulators::command::{self, Simulate};
use sandbox::slow_clients::{self, SlowClients};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the built gateway against what its own ledger can do.
    Bench(Bench),
    /// Kill, pause and cut off gateways and servers under load, then audit what became of the money.
    Drill(Drill),
    /// Run gateway and simulated processors in one process until Ctrl-C.
    Local(Local),
    /// Play whole worlds under seeds, with everything going wrong in them.
    #[cfg(feature = "simulation")]
    Simulation(Simulation),
    /// Serve the simulated processors and their control API until Ctrl-C.
    Simulate(Simulate),
    /// Keep a gateway busy with clients that ask nothing of it, and pay meanwhile.
    SlowClients(SlowClients),
}

fn main() -> ExitCode {
    // Simulators and local stack are given card data as the product is, if only that of tests. Before any thread starts.
    if let Err(error) = forbid_core_dumps() {
        eprintln!("core dumps cannot be turned off: {error}");
        return ExitCode::FAILURE;
    }
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let done: Result<(), Box<dyn Error>> = match Arguments::parse().command {
        Command::Bench(wanted) => bench::run(wanted).await.map_err(Into::into),
        Command::Drill(wanted) => drill::run(wanted).await.map_err(Into::into),
        Command::Local(local) => local::run(local).await.map_err(Into::into),
        #[cfg(feature = "simulation")]
        Command::Simulation(wanted) => {
            return if simulation::run(&wanted) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        Command::Simulate(simulate) => command::run(simulate).await.map_err(Into::into),
        Command::SlowClients(wanted) => slow_clients::run(wanted).await.map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
