//! `cargo run --release -p paceline-simulations -- --help`: the simulator, and the benchmarks.

use clap::{Parser, Subcommand};
use paceline_simulations::bench::{self, load, origin};
use paceline_simulations::fuzz::long;
use paceline_simulations::members;
use paceline_simulations::sim::{run, search};

#[derive(Parser)]
#[command(
    about = "Paceline under test: clusters simulated in virtual time, and benchmarks with real processes on this machine"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The request path, row beside row: straight to the service, through Paceline, through nginx where it is installed
    Bench(bench::Options),
    /// One simulated cluster in virtual time: prints what was seen, fails where an invariant does not hold
    Run(run::Options),
    /// Random scenarios until the time is over: what fails is made small and printed
    Search(search::Options),
    /// The targets of cargo-fuzz over random inputs for a while
    Fuzz(long::Options),
    /// The membership of real processes: joins, changes, crashes, and what an idle cluster costs
    #[command(subcommand)]
    Members(members::Command),
    /// The service that the benchmark asks; ends with its standard input
    #[command(hide = true)]
    Origin,
    /// One load on one row; prints one JSON object
    #[command(hide = true)]
    Load(load::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Search(options) => search::search(&options),
        Command::Fuzz(options) => long::run(&options),
        Command::Members(command) => members::run(&command),
        Command::Origin => origin::run(),
        Command::Load(options) => load::run(&options),
    }
}
