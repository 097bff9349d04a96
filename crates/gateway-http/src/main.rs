//! The product's own binary.

use std::process::ExitCode;

use clap::Parser;
use gateway_http::cli::Cli;
use gateway_http::process::forbid_core_dumps;

fn main() -> ExitCode {
    // Before anything is read: from here on this process may hold secrets and card data.
    if let Err(error) = forbid_core_dumps() {
        eprintln!("core dumps cannot be turned off: {error}");
        return ExitCode::FAILURE;
    }
    Cli::parse().run()
}
