//! `paceline status`.

use http::Method;
use paceline_mesh::process::Fault;
use serde_json::{Value, json};

use super::{
    api::call,
    print,
    table::{clean, span},
    target::QueryArgs,
};

pub(super) async fn run(args: &QueryArgs) -> Result<(), Fault> {
    let target = match args.target.gateway() {
        Ok(target) => target,
        // A machine that is a worker only can still say what it believes.
        Err(fault) => match args.target.local.find() {
            Ok((target, _)) => return node(args, &target).await,
            Err(_) => return Err(fault),
        },
    };
    let health = call(&target, Method::GET, "/health", None).await?;
    let cluster = call(&target, Method::GET, "/api/admin/cluster", None).await?;
    let workers = call(&target, Method::GET, "/api/admin/workers", None).await?;
    let services = call(&target, Method::GET, "/api/admin/services", None).await?;
    if args.json {
        let all = json!({
            "gateway": target.url.to_string(),
            "health": health,
            "cluster": cluster,
            "services": services,
            "workers": { "total": workers["total"], "healthy": workers["healthy"] },
        });
        print(&format!("{all:#}\n"))?;
        return Ok(());
    }
    let leader = cluster["leader"].as_str().map_or_else(|| "none yet".to_owned(), clean);
    let names: Vec<String> =
        services["services"].as_object().map(|s| s.keys().map(|k| clean(k)).collect()).unwrap_or_default();
    let of = |v: &Value| v.as_u64().unwrap_or(0);
    print(&format!(
        "cluster   {}\nstatus    {}\ngateway   {} (version {}, up {})\nleader    {leader}\nmembers   {} healthy of {}\n\
         workers   {} healthy of {}\nservices  {}{}{}\n",
        word(&cluster["cluster_id"]),
        word(&health["status"]),
        target.url,
        word(&health["version"]),
        span(of(&health["uptime_s"])),
        of(&cluster["healthy"]),
        of(&cluster["members"]),
        of(&workers["healthy"]),
        of(&workers["total"]),
        names.len(),
        if names.is_empty() { "" } else { ": " },
        names.join(", "),
    ))?;
    Ok(())
}

async fn node(args: &QueryArgs, target: &super::target::Target) -> Result<(), Fault> {
    let health = call(target, Method::GET, "/health", None).await?;
    let cluster = call(target, Method::GET, "/cluster", None).await?;
    if args.json {
        print(&format!("{:#}\n", json!({ "node": target.url.to_string(), "health": health, "cluster": cluster })))?;
        return Ok(());
    }
    let own: Vec<String> = health["services"]
        .as_object()
        .map(|s| s.iter().map(|(name, health)| format!("{} ({})", clean(name), word(health))).collect())
        .unwrap_or_default();
    let of = |v: &Value| v.as_u64().unwrap_or(0);
    print(&format!(
        "cluster   {}\nnode      {} (version {}, up {})\nstatus    {}\nmembers   {} healthy of {}\nservices  {}\n",
        word(&cluster["cluster_id"]),
        word(&health["worker_id"]),
        word(&health["version"]),
        span(of(&health["uptime"])),
        word(&health["status"]),
        of(&cluster["healthy"]),
        of(&cluster["members"]),
        if own.is_empty() { "none".to_owned() } else { own.join(", ") },
    ))?;
    Ok(())
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| "unknown".to_owned(), clean)
}
