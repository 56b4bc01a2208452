//! `paceline leave` and `paceline drain`: to the local API of a process on this machine.

use std::time::Duration;

use clap::Args;
use http::Method;
use paceline_mesh::process::{Fault, GRACE, Runtime};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{api::call, print, target::LocalArgs};

/// How often is looked whether the process has ended.
const LOOK: Duration = Duration::from_millis(50);
/// Beside [`GRACE`], for closing.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct LeaveArgs {
    /// Leave even where nobody else can admit new members
    #[arg(long)]
    force: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Args)]
pub(super) struct DrainArgs {
    /// Take new work again
    #[arg(long)]
    undo: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    local: LocalArgs,
}

pub(super) async fn leave(args: &LeaveArgs) -> Result<(), Fault> {
    let (target, runtime) = args.local.find()?;
    let answer = call(&target, Method::POST, "/leave", Some(&json!({ "force": args.force }))).await?;
    let ended = ends(&runtime).await;
    if args.json {
        print(&format!("{:#}\n", json!({ "left": answer["leaving"], "stopped": ended })))?;
    } else if ended {
        print(&format!("{} has left the cluster; coming back needs a join token\n", runtime.worker_id))?;
    } else {
        return Err(Fault::failed(format!("{} was told to leave, but still runs", runtime.worker_id)));
    }
    Ok(())
}

pub(super) async fn drain(args: &DrainArgs) -> Result<(), Fault> {
    let (target, runtime) = args.local.find()?;
    let answer = call(&target, Method::POST, "/drain", Some(&json!({ "draining": !args.undo }))).await?;
    if args.json {
        print(&format!("{answer:#}\n"))?;
    } else if args.undo {
        print(&format!("{} takes work again\n", runtime.worker_id))?;
    } else {
        let name = &runtime.worker_id;
        let directory = runtime.admin_key_file.parent().unwrap_or(std::path::Path::new(".")).display();
        print(&format!("{name} takes no new work; `paceline drain --undo --data-dir {directory}` takes that back\n"))?;
    }
    Ok(())
}

/// Waits until the process has taken its `runtime.json` away, or another one has put its own there.
async fn ends(runtime: &Runtime) -> bool {
    let Some(directory) = runtime.admin_key_file.parent() else { return false };
    let until = Instant::now() + GRACE + CLOSING;
    while Instant::now() < until {
        match Runtime::read(directory) {
            Ok(Some(now)) if now.pid == runtime.pid => sleep(LOOK).await,
            _ => return true,
        }
    }
    false
}
