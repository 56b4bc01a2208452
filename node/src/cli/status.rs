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
    let present = present(&workers);
    if args.json {
        let all = json!({
            "gateway": target.url.to_string(),
            "health": health,
            "cluster": cluster,
            "services": services,
            "workers": { "total": present, "healthy": workers["healthy"] },
        });
        print(&format!("{all:#}\n"))?;
        return Ok(());
    }
    let names: Vec<String> =
        services["services"].as_object().map(|s| s.keys().map(|k| clean(k)).collect()).unwrap_or_default();
    let of = |v: &Value| v.as_u64().unwrap_or(0);
    print(&format!(
        "cluster   {}\nstatus    {}\ngateway   {} (version {}, up {})\nleader    {}\nwrites    {} today\nmembers   {} healthy of {}\n\
         workers   {} healthy of {}\nservices  {}{}{}\n",
        word(&cluster["cluster_id"]),
        word(&health["status"]),
        target.url,
        word(&health["version"]),
        span(of(&health["uptime_s"])),
        leader(&cluster),
        of(&cluster["writes_today"]),
        of(&cluster["healthy"]),
        of(&cluster["members"]),
        of(&workers["healthy"]),
        present,
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
        "cluster   {}\nnode      {} (version {}, up {})\nstatus    {}\nleader    {}\nmembers   {} healthy of {}\nservices  {}\n",
        word(&cluster["cluster_id"]),
        word(&health["worker_id"]),
        word(&health["version"]),
        span(of(&health["uptime"])),
        word(&health["status"]),
        leader(&cluster),
        of(&cluster["healthy"]),
        of(&cluster["members"]),
        if own.is_empty() { "none".to_owned() } else { own.join(", ") },
    ))?;
    Ok(())
}

/// Workers that are not known to be gone.
fn present(workers: &Value) -> usize {
    let here = |worker: &&Value| !matches!(worker["status"].as_str(), Some("dead" | "left"));
    workers["workers"].as_array().map_or(0, |all| all.iter().filter(here).count())
}

fn leader(cluster: &Value) -> String {
    let Some(name) = cluster["leader"].as_str() else { return "none yet".to_owned() };
    let term = cluster["term"].as_u64().unwrap_or(0);
    let heard = match cluster["summary_age_s"].as_f64() {
        Some(age) => format!("heard {age:.1} s ago"),
        None => "not heard yet".to_owned(),
    };
    format!("{} (term {term}, {heard})", clean(name))
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| "unknown".to_owned(), clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_left_is_no_worker_of_the_cluster() {
        let of = |status: &str| json!({ "status": status });
        let workers = json!({ "workers": [of("healthy"), of("suspect"), of("draining"), of("dead"), of("left")] });
        assert_eq!(present(&workers), 3);
        assert_eq!(present(&json!({})), 0);
    }

    #[test]
    fn a_leader_is_told_with_its_term() {
        let cluster = json!({ "leader": "gw", "term": 3, "summary_age_s": 1.25 });
        assert_eq!(leader(&cluster), "gw (term 3, heard 1.2 s ago)");
        assert_eq!(leader(&json!({ "leader": null })), "none yet");
        assert_eq!(leader(&json!({ "leader": "gw", "term": 1, "summary_age_s": null })), "gw (term 1, not heard yet)");
    }
}
