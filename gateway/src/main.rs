//! `paceline-gateway`: a gateway alone, for machines that need nothing else.

use std::process::ExitCode;

use clap::Parser;
use paceline_gateway::run::{GatewayCommand, run};
use paceline_mesh::args::Invocation;

/// The HTTP entry of a Paceline cluster: any client that reaches it reaches every service of the cluster.
#[derive(Parser)]
#[command(name = "paceline-gateway", version, after_help = "The same as `paceline gateway`.")]
struct Cli {
    #[command(flatten)]
    command: GatewayCommand,
}

fn main() -> ExitCode {
    let invocation = Invocation::new::<Cli>(std::env::args_os());
    match invocation.start::<Cli>() {
        Ok((cli, loaded)) => run(&cli.command, invocation, loaded),
        Err(fault) => fault.report(),
    }
}
