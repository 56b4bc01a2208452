//! Which way a request goes: to a service, straight into the pipeline; anything else, to the admin API's router.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{Request, Response};
use hyper::body::Incoming;

use crate::{
    admin,
    cluster::Cluster,
    lane::Lane,
    outgoing::Outgoing,
    pipeline::{self, Call, target},
    request_id::{RequestId, X_REQUEST_ID},
};

/// Answers one request; never fails, an error is an answer.
pub(crate) async fn serve<C: Cluster>(
    lane: &Arc<Lane<C>>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let started = Instant::now();
    let id = RequestId::of(request.headers(), || lane.draw());
    let mut response = match target::of(request.uri()) {
        Some(target) => {
            let call = Call { id: id.clone(), peer: peer.ip(), started, target };
            pipeline::run(lane, call, request).await
        }
        None => admin::serve(lane, &id, request).await,
    };
    response.headers_mut().insert(X_REQUEST_ID, id.value());
    response
}
