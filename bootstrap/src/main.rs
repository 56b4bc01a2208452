//! `paceline-bootstrap`: an entry point alone, for a small machine that everybody can reach.

use std::process::ExitCode;

use clap::Parser;
use paceline_bootstrap::{BootstrapCommand, run};

/// Entry point of a Paceline cluster: a small machine with a fixed address, through which others find each other.
#[derive(Parser)]
#[command(name = "paceline-bootstrap", version, after_help = "The same as `paceline bootstrap`.")]
struct Cli {
    #[command(flatten)]
    command: BootstrapCommand,
}

fn main() -> ExitCode {
    match paceline_mesh::args::parse::<Cli>(std::env::args_os()) {
        Ok(cli) => run(&cli.command),
        Err(fault) => fault.report(),
    }
}
