//! Which way a request goes: to a service, straight into the pipeline; anything else, to the admin API's router.

use std::{sync::Arc, time::Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::{
    admin,
    callers::{Callers, Denied, Peer, check_host},
    cluster::Cluster,
    lane::Lane,
    outgoing::Outgoing,
    pipeline::{self, Call, answer, target},
    request_id::{RequestId, X_REQUEST_ID},
};

/// Answers one request; never fails, an error is an answer.
pub(crate) async fn serve<C: Cluster>(
    lane: &Arc<Lane<C>>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let started = Instant::now();
    let id = RequestId::of(request.headers(), || lane.draw());
    let origin = lane.shared.house.callers.origin(request.headers());
    let preflight = if origin.is_some() { Callers::preflight(&request) } else { None };
    let mut response = if let Err(words) = check_host(request.version(), request.uri(), request.headers()) {
        answer::denied(&id, &Denied::Head(words))
    } else if request.method() == Method::CONNECT {
        answer::json(
            StatusCode::NOT_IMPLEMENTED,
            &id,
            json!({ "error": "this is no proxy: CONNECT is not served here" }),
        )
    } else if let Some(answer) = preflight {
        answer
    } else if let Some(target) = target::of(request.uri()).or_else(|| target::of_grpc(&request)) {
        let call = Call { id: id.clone(), peer: peer.ip, encrypted: peer.encrypted, started, target };
        pipeline::run(lane, call, request).await
    } else {
        admin::serve(lane, &id, peer, request).await
    };
    if let Some(origin) = origin {
        Callers::expose(response.headers_mut(), origin);
    }
    response.headers_mut().insert(X_REQUEST_ID, id.value());
    response
}
