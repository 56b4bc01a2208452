//! The membership of real processes, measured: how soon all know a change, a crash, a newcomer, and what it costs.

mod board;
pub mod fleet;
pub mod host;
pub mod model;
mod net;
pub mod run;

use std::path::PathBuf;

use anyhow::ensure;

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Runs a cluster through all phases and prints a table
    Run(run::Options),
    /// What a member sends while nothing happens, by the number of members: models of four systems beside Paceline's
    Model(model::Options),
    /// Hosts nodes for a benchmark that compares several systems: commands on standard input, events on standard output
    Host(host::Options),
}

/// Does it.
///
/// # Errors
/// When it cannot begin, or a phase cannot be carried out.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Run(options) => run::run(options),
        Command::Model(options) => model::run(options),
        Command::Host(options) => host::run(options),
    }
}

fn binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("paceline"),
    };
    ensure!(path.is_file(), "{} is not there: build it by `cargo build --release` first", path.display());
    Ok(path)
}
