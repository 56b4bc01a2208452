//! `/health`, `/livez`, `/readyz`, `/api/admin/stats`, `/api/admin/cluster`.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use paceline_mesh::leadership;
use serde_json::{Value, json};

use super::{
    Ending, refuse,
    services::{Status, summaries},
    workers,
};
use crate::{cluster::Cluster, lane::Shared, metrics, request_id::RequestId};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

pub(super) async fn readyz<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(Ending(ending)): Extension<Ending>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let view = shared.cluster.view();
    if ending {
        refuse(&id, StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    } else if !view.members.contains_key(&view.me) {
        refuse(&id, StatusCode::SERVICE_UNAVAILABLE, "not a member of the cluster yet")
    } else {
        Json(json!({ "status": "ready" })).into_response()
    }
}

pub(super) async fn health<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Json<Value> {
    let view = shared.cluster.view();
    let services = summaries(&view);
    let degraded = services.values().any(|service| service.status != Status::Available);
    let workers = workers::list(&shared);
    Json(json!({
        "status": if degraded { "degraded" } else { "healthy" },
        "services": services.len(),
        "workers": workers.iter().filter(|worker| worker.status == "healthy").count(),
        "leader": leadership::leader(&view),
        "uptime_s": shared.started.elapsed().as_secs(),
        "version": VERSION,
    }))
}

pub(super) async fn stats<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Json<Value> {
    let mut requests = 0;
    let mut errors = 0;
    let mut by_status: BTreeMap<String, u64> = BTreeMap::new();
    let mut services = BTreeMap::new();
    for (name, counts) in metrics::sum(&shared.stats) {
        let mut failed = 0;
        for ((status, _), n) in &counts.answers {
            *by_status.entry(status.to_string()).or_default() += n;
            failed += if *status >= 500 { *n } else { 0 };
        }
        requests += counts.total();
        errors += failed;
        if name != metrics::OTHER {
            let mean_ms = counts.heads_us as f64 / 1000.0 / counts.total().max(1) as f64;
            let row = json!({
                "requests": counts.total(),
                "errors": failed,
                "retries": counts.retries,
                "mean_ms": (mean_ms * 1000.0).round() / 1000.0,
            });
            services.insert(name, row);
        }
    }
    Json(json!({
        "uptime_s": shared.started.elapsed().as_secs(),
        "requests": requests,
        "errors": errors,
        "in_flight": shared.stats.iter().map(|lane| lane.running_count()).sum::<usize>(),
        "connections": shared.stats.iter().map(|lane| lane.connections.load(Relaxed)).sum::<u64>(),
        "lanes": shared.stats.len(),
        "memory_bytes": resident_bytes(),
        "by_status": by_status,
        "services": services,
    }))
}

pub(super) async fn cluster<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Json<Value> {
    Json(leadership::cluster(&shared.cluster.view()))
}

/// Resident memory of this process, where the system tells.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
