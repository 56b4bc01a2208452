//! `paceline workers`.

use http::Method;
use paceline_mesh::process::Fault;
use serde_json::Value;

use super::{
    api::call,
    print,
    table::{clean, table},
    target::QueryArgs,
};

pub(super) async fn run(args: &QueryArgs) -> Result<(), Fault> {
    let answer = call(&args.target.gateway()?, Method::GET, "/api/admin/workers", None).await?;
    if args.json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = answer["workers"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        print("no worker yet: join one with `paceline node --join TOKEN`\n")?;
    } else {
        print(&table(&["WORKER", "SITE", "TYPE", "STATUS", "PATH", "RTT", "SEEN", "SERVICES"], &rows))?;
    }
    Ok(())
}

fn row(worker: &Value) -> Vec<String> {
    let text = |key: &str| worker[key].as_str().map_or_else(|| "-".to_owned(), clean);
    let services: Vec<String> =
        worker["services"].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    vec![
        text("id"),
        text("site"),
        text("type"),
        text("status"),
        text("path"),
        worker["rtt_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        worker["last_seen_s"].as_f64().map_or_else(|| "-".to_owned(), |s| format!("{s:.0} s ago")),
        services.join(", "),
    ]
}
