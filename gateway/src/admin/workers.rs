//! `/api/admin/workers` and `/api/workers/...`: who serves, how they are reached, and what they have in hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use paceline_mesh::data::PathKind;
use paceline_proto::{
    id::{NodeId, Role},
    manifest::Service,
    view::{ClusterView, Member, MemberState},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    hardware::{self, Here},
    peer_id::peer_id,
    refuse,
};
use crate::{
    cluster::{Cluster, PeerClient},
    lane::Shared,
    request_id::RequestId,
};

/// A worker, as the contract shows it.
#[derive(Serialize)]
pub(super) struct Worker {
    pub(super) id: String,
    peer_id: String,
    pub(super) site: String,
    r#type: Value,
    tier: u8,
    pub(super) status: &'static str,
    pub(super) services: Vec<String>,
    capabilities: BTreeMap<String, bool>,
    /// Empty where the worker did not say in time.
    hardware: Value,
    /// Null where no connection is open yet.
    pub(super) path: Option<PathKind>,
    rtt_ms: Option<f64>,
    last_seen_s: f64,
    leader: bool,
}

/// A worker asked for by name: with what its manifest says of each service.
#[derive(Serialize)]
struct Detailed {
    #[serde(flatten)]
    worker: Worker,
    software: String,
    labels: BTreeMap<String, String>,
    offers: Vec<Service>,
}

#[derive(Serialize)]
pub(super) struct List {
    workers: Vec<Worker>,
    total: usize,
    healthy: usize,
}

pub(super) async fn workers<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(here): Extension<Here>,
) -> Json<List> {
    let view = shared.cluster.view();
    let mut said = hardware::of(&shared, &here, members(&view)).await;
    let mut workers: Vec<_> = members(&view)
        .map(|(node, member)| Worker {
            hardware: said.remove(&node).unwrap_or_else(|| json!({})),
            ..describe(&shared, &view, node, member)
        })
        .collect();
    workers.sort_by(|a, b| a.id.cmp(&b.id));
    let healthy = workers.iter().filter(|worker| worker.status == "healthy").count();
    Json(List { total: workers.len(), healthy, workers })
}

pub(super) async fn worker<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Extension(here): Extension<Here>,
    Path(wanted): Path<String>,
) -> Response {
    let view = shared.cluster.view();
    let Some((node, member)) = find(&view, &wanted) else { return unknown(&id, &view, &wanted) };
    let said = hardware::of(&shared, &here, std::iter::once((node, member))).await.remove(&node);
    Json(Detailed {
        worker: Worker { hardware: said.unwrap_or_else(|| json!({})), ..describe(&shared, &view, node, member) },
        software: member.manifest.software.clone(),
        labels: member.manifest.labels.clone(),
        offers: member.manifest.services.clone(),
    })
    .into_response()
}

pub(super) async fn tasks<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Path(wanted): Path<String>,
) -> Response {
    let view = shared.cluster.view();
    let Some((node, member)) = find(&view, &wanted) else { return unknown(&id, &view, &wanted) };
    let requests: Vec<Value> = shared
        .stats
        .iter()
        .flat_map(|lane| lane.running())
        .filter(|running| running.node == node)
        .map(|running| {
            json!({
                "request_id": running.request_id.to_str().unwrap_or_default(),
                "service": running.service,
                "method": running.method.as_str(),
                "running_ms": u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    Json(json!({ "worker": member.name, "total": requests.len(), "requests": requests, "jobs": [] })).into_response()
}

pub(super) async fn status<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Json<Value> {
    let view = shared.cluster.view();
    let workers: BTreeMap<&str, &str> = members(&view).map(|(_, m)| (m.name.as_str(), status_of(m))).collect();
    let mut counts = BTreeMap::from(STATUSES.map(|status| (status, 0usize)));
    for status in workers.values() {
        *counts.entry(*status).or_default() += 1;
    }
    Json(json!({ "total": workers.len(), "counts": counts, "workers": workers }))
}

pub(super) const STATUSES: [&str; 5] = ["healthy", "draining", "suspect", "dead", "left"];

/// The word for a member's state.
pub(super) fn status_of(member: &Member) -> &'static str {
    match member.state {
        MemberState::Alive if member.manifest.draining => "draining",
        MemberState::Alive => "healthy",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
    }
}

/// All workers, by name, without what only they know.
pub(super) fn list<C: Cluster>(shared: &Shared<C>) -> Vec<Worker> {
    let view = shared.cluster.view();
    let mut list: Vec<_> = members(&view).map(|(node, member)| describe(shared, &view, node, member)).collect();
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list
}

fn members(view: &ClusterView) -> impl Iterator<Item = (NodeId, &Member)> {
    view.members
        .iter()
        .filter(|(_, member)| member.manifest.roles.contains(Role::Worker))
        .map(|(node, member)| (*node, member.as_ref()))
}

/// By name, node id or PeerId.
fn find<'a>(view: &'a ClusterView, wanted: &str) -> Option<(NodeId, &'a Member)> {
    members(view)
        .find(|(_, member)| member.name.as_str() == wanted)
        .or_else(|| members(view).find(|(node, _)| node.to_string() == wanted || peer_id(*node) == wanted))
}

fn describe<C: Cluster>(shared: &Shared<C>, view: &ClusterView, node: NodeId, member: &Member) -> Worker {
    let manifest = &member.manifest;
    let (path, rtt) = if node == view.me {
        (Some(PathKind::Local), Some(Duration::ZERO))
    } else {
        // Each lane has a connection of its own, or none yet: the best of them is the answer.
        match shared.clients.iter().filter_map(|client| client.path(node)).min() {
            Some((path, rtt)) => (Some(path), Some(rtt)),
            None => (None, None),
        }
    };
    let last_seen = if node == view.me { Duration::ZERO } else { member.last_seen.elapsed() };
    Worker {
        id: member.name.to_string(),
        peer_id: peer_id(node),
        site: manifest.site.to_string(),
        r#type: json!(manifest.worker_type),
        tier: manifest.worker_type.tier(),
        status: status_of(member),
        services: manifest.services.iter().map(|service| service.name.to_string()).collect(),
        capabilities: manifest.capabilities.clone(),
        hardware: json!({}),
        path,
        rtt_ms: rtt.map(|rtt| thousandths(rtt.as_secs_f64() * 1000.0)),
        last_seen_s: thousandths(last_seen.as_secs_f64()),
        leader: view.leadership.leader == Some(node),
    }
}

/// Rounded to three digits behind the point: more is noise.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn unknown(id: &RequestId, view: &ClusterView, wanted: &str) -> Response {
    let names: Vec<&str> = members(view).map(|(_, member)| member.name.as_str()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    refuse(id, StatusCode::NOT_FOUND, format!("no worker '{wanted}'; known workers: {known}"))
}
