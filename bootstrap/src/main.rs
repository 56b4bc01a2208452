//! `paceline-bootstrap`: an entry point alone, for a small machine that everybody can reach.

use std::process::ExitCode;

use clap::Parser;
use paceline_bootstrap::{BootstrapCommand, run};
use paceline_mesh::args::Invocation;

/// Entry point of a Paceline cluster: a small machine with a fixed address, through which others find each other.
#[derive(Parser)]
#[command(name = "paceline-bootstrap", version, after_help = "The same as `paceline bootstrap`.")]
struct Cli {
    #[command(flatten)]
    command: BootstrapCommand,
}

fn main() -> ExitCode {
    let invocation = Invocation::new::<Cli>(std::env::args_os());
    match invocation.start::<Cli>() {
        Ok((cli, loaded)) => run(&cli.command, invocation, loaded),
        Err(fault) => fault.report(),
    }
}
