//! `paceline root export | import`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use paceline_mesh::{
    args::ProcessRole,
    process::Fault,
    trust::root::{export, import},
};

use super::print;

#[derive(Subcommand)]
pub(super) enum RootCommand {
    /// Move the root key out of the data directory of the stopped gateway that founded the cluster, into a file that
    /// only you can read; the gateway goes on admitting members, but makes no other issuers
    Export(FileArgs),
    /// Put the root key back into the data directory of a stopped issuer
    Import(FileArgs),
}

#[derive(Args)]
pub(super) struct FileArgs {
    /// The file of the root key; an export overwrites none
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The data directory [default: that of up]
    #[arg(long, value_name = "DIR", env = "PACELINE_DATA_DIR", hide_env = true)]
    data_dir: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &RootCommand) -> Result<(), Fault> {
    let (RootCommand::Export(args) | RootCommand::Import(args)) = command;
    let directory = args.data_dir.clone().or_else(|| ProcessRole::Up.default_data_dir());
    let directory = directory.ok_or_else(|| Fault::user("there is no home directory: give --data-dir"))?;
    let cluster = match command {
        RootCommand::Export(_) => export(&directory, &args.file),
        RootCommand::Import(_) => import(&directory, &args.file),
    };
    let cluster = cluster.map_err(Fault::user)?;
    let file = args.file.display();
    let text = if args.json {
        format!("{:#}\n", serde_json::json!({ "cluster_id": cluster.to_string(), "file": file.to_string() }))
    } else if matches!(command, RootCommand::Export(_)) {
        format!(
            "the root key of cluster {} is in {file}, and nowhere else: keep it offline, and a copy\n",
            cluster.short()
        )
    } else {
        format!("the root key of cluster {} is in {} again\n", cluster.short(), directory.display())
    };
    print(&text)?;
    Ok(())
}
