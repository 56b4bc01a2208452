//! `paceline services`: what the cluster offers, and what this machine's node starts or does not, and why.

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
    let here = if args.target.gateway.is_some() { Vec::new() } else { here(args).await };
    let answer = match args.target.gateway() {
        Ok(target) => Some(call(&target, Method::GET, "/api/admin/services", None).await?),
        // A machine that is a worker only still knows what it starts itself.
        Err(fault) if here.is_empty() => return Err(fault),
        Err(_) => None,
    };
    if args.json {
        let mut all = answer.unwrap_or_else(|| serde_json::json!({}));
        all["here"] = Value::Array(here);
        return print(&format!("{all:#}\n"));
    }
    if let Some(answer) = answer {
        let rows: Vec<Vec<String>> = answer["services"]
            .as_object()
            .map(|services| services.iter().map(|(name, service)| row(name, service)).collect())
            .unwrap_or_default();
        if rows.is_empty() {
            print("no service is offered yet: start a process with --service NAME=URL or --serve NAME=DIR\n")?;
        } else {
            print(&table(&["SERVICE", "STATUS", "HEALTHY", "SITES"], &rows))?;
        }
        if !here.is_empty() {
            print("\n")?;
        }
    }
    if !here.is_empty() {
        let rows: Vec<Vec<String>> = here.iter().map(own).collect();
        print(&table(&["STARTED HERE", "STATE", "PORT", "STARTS", "WHY"], &rows))?;
    }
    Ok(())
}

/// What the nodes of this machine start themselves. One that does not answer, or starts nothing, has nothing to say.
async fn here(args: &QueryArgs) -> Vec<Value> {
    let mut all = Vec::new();
    for target in args.target.local.all() {
        if let Ok(mut answer) = call(&target, Method::GET, "/services", None).await
            && let Some(services) = answer["services"].as_array_mut()
        {
            all.append(services);
        }
    }
    all
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

fn own(service: &Value) -> Vec<String> {
    let text = |key: &str| service[key].as_str().map(clean);
    let number = |key: &str| service[key].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    let next = service["next_start_s"].as_f64().map(|s| format!("; started again in {s:.0} s"));
    let why = text("reason").unwrap_or_default() + &next.unwrap_or_default();
    vec![
        text("name").unwrap_or_default(),
        text("state").unwrap_or_default(),
        number("port"),
        number("starts"),
        why.trim_start_matches("; ").to_owned(),
    ]
}
