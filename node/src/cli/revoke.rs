//! `paceline revoke WORKER`.

use clap::Args;
use http::Method;
use paceline_mesh::process::Fault;
use serde_json::json;

use super::{api::call, print, table::clean, target::QueryArgs};

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// Its name, its node id, or its peer id; it may be away
    #[arg(value_name = "WORKER")]
    worker: String,

    /// Leave the join token alone that it came in by: the machine could come back with it, as a new member
    #[arg(long)]
    keep_token: bool,

    #[command(flatten)]
    query: QueryArgs,
}

pub(super) async fn run(args: &RevokeArgs) -> Result<(), Fault> {
    let wanted = json!({ "worker": args.worker, "keep_token": args.keep_token });
    let target = args.query.target.gateway()?;
    let answer = call(&target, Method::POST, "/api/admin/revocations", Some(&wanted)).await?;
    if args.query.json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let name = answer["worker"].as_str().or(answer["node_id"].as_str()).map_or_else(|| args.worker.clone(), clean);
    let mut text = format!("{name} is thrown out for good\n");
    for id in answer["tokens"].as_array().into_iter().flatten().filter_map(|id| id.as_str()) {
        let id = clean(id);
        text.push_str(&format!("join token {id}, by which it came in, lets nobody in any more; members stay\n"));
    }
    if let Some(spared) = answer["spared"].as_u64().filter(|n| *n > 0) {
        text.push_str(&format!("{spared} members that it let in or renewed stay\n"));
    }
    print(&text)?;
    Ok(())
}
