//! The `paceline` command.

fn main() -> std::process::ExitCode {
    paceline_node::cli::main()
}
