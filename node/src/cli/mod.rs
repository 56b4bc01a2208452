//! The `paceline` command: a file for each subcommand, and what those that ask a running process share.

mod api;
mod config;
mod doctor;
mod key;
mod leave;
mod logs;
mod node;
mod revoke;
mod root;
mod services;
mod status;
mod table;
mod target;
mod token;
mod up;
mod workers;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use paceline_bootstrap::BootstrapCommand;
use paceline_gateway::run::GatewayCommand;
use paceline_mesh::{args::Invocation, process::Fault};

use crate::supervise;

const EXAMPLES: &str = "\
Examples:
  paceline up --serve files=./docs
      Start a cluster of one. Then: curl http://127.0.0.1:8080/api/service/files/

  paceline node --join @join-token --service notes=http://127.0.0.1:8100
      On another machine: join with a token, and offer a service that runs there.
      It is called at the first machine: http://127.0.0.1:8080/api/service/notes/...

  paceline token create --ttl 1h --uses 1
      Print a join token for one more machine.

  paceline config example > paceline.toml, and then: paceline up --config paceline.toml
      Name services in a file, and have the node start them: the same file on every machine.

  paceline key create --name phone --scope service:notes --rate 60/min
      Print an API key for a caller from beyond this machine.

  paceline status
      See how the cluster on this machine is; `paceline doctor` says what is wrong.

`paceline COMMAND --help` tells more.";

const PROCESS_HELP: &str = "\
Every flag can also be set as a variable: --data-dir as PACELINE_DATA_DIR, several values parted
by `;`. The file that --config names is TOML with the flags as its keys, and with tables for
services, labels and limits; `paceline config example` prints one. A flag comes before its
variable, a variable before the file. The file is read again when it changes and on SIGHUP.

SIGTERM and Ctrl-C end it gracefully: it says goodbye, and running requests have 10 s to end.";

/// Any HTTP client that reaches one gateway reaches the services of every machine in the cluster.
#[derive(Parser)]
#[command(name = "paceline", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster with this machine as its first gateway and worker (or go on with it)
    #[command(after_help = PROCESS_HELP)]
    Up(Box<up::UpCommand>),
    /// Join a cluster as a worker and offer services
    #[command(after_help = PROCESS_HELP)]
    Node(Box<node::NodeCommand>),
    /// Join a cluster as a further gateway
    #[command(after_help = PROCESS_HELP)]
    Gateway(Box<GatewayCommand>),
    /// Join a cluster as an entry point for others
    #[command(after_help = PROCESS_HELP)]
    Bootstrap(Box<BootstrapCommand>),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Throw a machine out of the cluster for good
    Revoke(revoke::RevokeArgs),
    /// Keep the cluster's root key away from its machines
    #[command(subcommand)]
    Root(root::RootCommand),
    /// Make, list and revoke the API keys that callers of a gateway show
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show how the cluster is
    Status(target::QueryArgs),
    /// List the services that can be called, and those that this machine's node starts
    Services(target::QueryArgs),
    /// List the machines that offer services
    Workers(target::QueryArgs),
    /// Show the output of a service that this machine's node starts
    Logs(logs::LogsArgs),
    /// Take no new work, and let running requests end
    Drain(leave::DrainArgs),
    /// Give up this machine's membership for good, and stop its process
    Leave(leave::LeaveArgs),
    /// Check, show and explain the configuration file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look for what is wrong on this machine, and say what to do
    #[command(after_help = doctor::HELP)]
    Doctor(target::QueryArgs),
}

/// The whole program.
pub fn main() -> ExitCode {
    supervise::child(std::env::args_os()).unwrap_or_else(|| run(std::env::args_os()))
}

/// The whole program, for a command line.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = Invocation::new::<Cli>(argv).judged_by(crate::config::judge);
    let (cli, loaded) = match invocation.start::<Cli>() {
        Ok(started) => started,
        Err(fault) => return fault.report(),
    };
    let result = match cli.command {
        Command::Up(command) => return up::run(&command, invocation, loaded),
        Command::Node(command) => return node::run(&command, invocation, loaded),
        Command::Gateway(command) => return paceline_gateway::run::run(&command, invocation, loaded),
        Command::Bootstrap(command) => return paceline_bootstrap::run(&command, invocation, loaded),
        Command::Token(command) => ask(token::run(&command)),
        Command::Revoke(args) => ask(revoke::run(&args)),
        Command::Root(command) => root::run(&command),
        Command::Key(command) => ask(key::run(&command)),
        Command::Status(args) => ask(status::run(&args)),
        Command::Services(args) => ask(services::run(&args)),
        Command::Workers(args) => ask(workers::run(&args)),
        Command::Logs(args) => ask(logs::run(&args)),
        Command::Leave(args) => ask(leave::leave(&args)),
        Command::Config(command) => config::run(&command),
        Command::Drain(args) => ask(leave::drain(&args)),
        Command::Doctor(args) => ask(doctor::run(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(),
    }
}

/// Runs a command that asks a running process.
fn ask(command: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::failed(format!("cannot start the runtime: {e}")))?;
    let result = runtime.block_on(command);
    // A question to the system's resolver cannot be taken back, and is not waited for.
    runtime.shutdown_background();
    result
}

/// Writes to stdout; a closed pipe (`| head`) is no failure.
fn print(text: &str) -> Result<(), Fault> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fault::failed(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_each_command_and_no_other() {
        let command = Cli::command();
        let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        let contract = [
            "up",
            "node",
            "gateway",
            "bootstrap",
            "token",
            "revoke",
            "root",
            "key",
            "status",
            "services",
            "workers",
            "logs",
            "drain",
            "leave",
            "config",
            "doctor",
        ];
        assert_eq!(names, contract);
    }
}
