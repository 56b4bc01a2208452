//! Everything but service requests: health, metrics, the admin API, the status page. Axum routes; who may call is
//! decided before, in one place.

mod hardware;
mod health;
mod keys;
mod metrics;
mod page;
mod peer_id;
mod revocations;
mod services;
mod tokens;
mod workers;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::DefaultBodyLimit,
    http::Uri,
    response::IntoResponse,
    routing::{delete, get, post},
};
use http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::body::Incoming;
use paceline_mesh::http::Body;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    callers::{Admitted, Asked, Peer, needs},
    cluster::Cluster,
    lane::{Lane, Shared},
    outgoing::Outgoing,
    pipeline::{answer, upload},
    request_id::RequestId,
};

pub(crate) use hardware::Hardware;

/// Most bytes of a request's body here.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What exists, for those who asked for something that does not.
const ENDPOINTS: [&str; 17] = [
    "/api/service/{name}/{path}",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/api/admin/services",
    "/api/admin/workers",
    "/api/admin/stats",
    "/api/admin/cluster",
    "/api/admin/tokens",
    "/api/admin/revocations",
    "/api/admin/keys",
    "/api/workers",
    "/api/workers/{id}",
    "/api/workers/{id}/tasks",
    "/api/workers/status",
    "/",
];

/// The routes over what all lanes share.
pub(crate) fn router<C: Cluster>(shared: Arc<Shared<C>>) -> Router {
    Router::new()
        .route("/", get(page::page::<C>))
        .route("/health", get(health::health::<C>))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz::<C>))
        .route("/metrics", get(metrics::metrics::<C>))
        .route("/api/admin/services", get(services::services::<C>))
        .route("/api/admin/workers", get(workers::workers::<C>))
        .route("/api/admin/stats", get(health::stats::<C>))
        .route("/api/admin/cluster", get(health::cluster::<C>))
        .route("/api/admin/tokens", post(tokens::create::<C>).get(tokens::list::<C>))
        .route("/api/admin/revocations", post(revocations::revoke::<C>).get(revocations::list::<C>))
        .route("/api/admin/keys", post(keys::create::<C>).get(keys::list::<C>))
        .route("/api/admin/keys/{id}", delete(keys::revoke::<C>))
        .route("/api/workers", get(workers::workers::<C>))
        .route("/api/workers/status", get(workers::status::<C>))
        .route("/api/workers/{id}", get(workers::worker::<C>))
        .route("/api/workers/{id}/tasks", get(workers::tasks::<C>))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Answers a request that is not for a service.
pub(crate) async fn serve<C: Cluster>(
    lane: &Lane<C>,
    id: &RequestId,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Response<Outgoing> {
    let house = &lane.shared.house;
    if let Err(fault) = upload::check_framing(request.headers(), house.callers.limits().max_body) {
        return answer::callers_fault(id, &fault);
    }
    let asked = Asked { peer: peer.ip, uri: request.uri(), headers: request.headers() };
    let Admitted { caller, place } = match house.admit(asked, needs(request.method(), request.uri().path())).await {
        Ok(admitted) => admitted,
        Err(denied) => return answer::denied(id, &denied),
    };
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(Ending(lane.life.is_ending()));
    request.extensions_mut().insert(hardware::Here { lane: lane.index, life: lane.life.clone() });
    let (request, upload) = upload::watch(request.map(Body::from), house.callers.limits());
    let routed = lane.router.clone().oneshot(request.map(axum::body::Body::new)).await;
    let Ok(response) = routed;
    if let Some(fault) = upload.as_ref().and_then(|upload| upload.fault()) {
        return answer::callers_fault(id, fault);
    }
    let rejected = response.status().is_client_error()
        && response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/json");
    if rejected {
        return as_json(id, response).await;
    }
    response.map(|body| {
        let body = Outgoing::own(Body::boxed(body));
        match place {
            Some(place) => body.hold_place(place),
            None => body,
        }
    })
}

/// Whether the gateway takes no new work.
#[derive(Clone, Copy)]
struct Ending(bool);

/// Words of axum's own refusals (a body that is not JSON, a wrong content type), in our form.
async fn as_json(id: &RequestId, response: axum::response::Response) -> Response<Outgoing> {
    let (parts, body) = response.into_parts();
    let words = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let error = if words.is_empty() { parts.status.canonical_reason().unwrap_or("refused").into() } else { words };
    let mut answer = answer::json(parts.status, id, json!({ "error": error }));
    if let Some(allow) = parts.headers.get(ALLOW) {
        answer.headers_mut().insert(ALLOW, allow.clone());
    }
    answer
}

/// An error in the form that all errors have.
fn refuse(id: &RequestId, status: StatusCode, error: impl Into<String>) -> axum::response::Response {
    let body: Value = json!({ "error": error.into(), "request_id": id.as_str() });
    (status, Json(body)).into_response()
}

async fn not_found(Extension(id): Extension<RequestId>, uri: Uri) -> axum::response::Response {
    let error = format!("there is nothing at {}", uri.path());
    let body = json!({ "error": error, "endpoints": ENDPOINTS, "request_id": id.as_str() });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn not_allowed(Extension(id): Extension<RequestId>, method: Method, uri: Uri) -> axum::response::Response {
    refuse(&id, StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}
