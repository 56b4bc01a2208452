//! `paceline-gateway`: a gateway alone, for machines that need nothing else.

use std::process::ExitCode;

use clap::Parser;
use paceline_gateway::run::{GatewayCommand, run};

/// The HTTP entry of a Paceline cluster: any client that reaches it reaches every service of the cluster.
#[derive(Parser)]
#[command(name = "paceline-gateway", version, after_help = "The same as `paceline gateway`.")]
struct Cli {
    #[command(flatten)]
    command: GatewayCommand,
}

fn main() -> ExitCode {
    match paceline_mesh::args::parse::<Cli>(std::env::args_os()) {
        Ok(cli) => run(&cli.command),
        Err(fault) => fault.report(),
    }
}
