//! `paceline services`.

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
    let answer = call(&args.target.gateway()?, Method::GET, "/api/admin/services", None).await?;
    if args.json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = answer["services"]
        .as_object()
        .map(|services| services.iter().map(|(name, service)| row(name, service)).collect())
        .unwrap_or_default();
    if rows.is_empty() {
        print("no service is offered yet: start a process with --service NAME=URL or --serve NAME=DIR\n")?;
    } else {
        print(&table(&["SERVICE", "STATUS", "HEALTHY", "SITES"], &rows))?;
    }
    Ok(())
}

fn row(name: &str, service: &Value) -> Vec<String> {
    let sites: Vec<String> =
        service["sites"].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    vec![
        clean(name),
        clean(service["status"].as_str().unwrap_or("-")),
        format!("{} of {}", service["healthy_workers"], service["total_workers"]),
        sites.join(", "),
    ]
}
