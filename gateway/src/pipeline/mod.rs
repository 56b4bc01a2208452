//! The way of a request to a service, plain functions in order: authenticate, look up, select, send, decide on a
//! retry, answer. A step refuses by an answer; nothing here panics on what a caller or a peer says.

pub(crate) mod affinity;
pub(crate) mod answer;
pub(crate) mod attempt;
pub(crate) mod budget;
pub(crate) mod candidates;
pub(crate) mod deliver;
pub(crate) mod eject;
pub(crate) mod find;
pub(crate) mod forwarded;
pub(crate) mod hedge;
pub(crate) mod load;
pub(crate) mod queue;
pub(crate) mod require;
pub(crate) mod retry;
pub(crate) mod select;
pub(crate) mod send;
#[cfg(test)]
mod simulation;
pub(crate) mod suggest;
pub(crate) mod target;
pub(crate) mod terms;
pub(crate) mod upload;
pub(crate) mod wishes;

use std::{net::IpAddr, sync::Arc, time::Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use paceline_mesh::http::{Body, headers};
use paceline_proto::id::ServiceName;

use self::{candidates::Route, deliver::Delivered, target::Target, wishes::Wishes};
use crate::{
    callers::{Admitted, Asked, Needs},
    cluster::Cluster,
    lane::Lane,
    outgoing::Outgoing,
    request_id::RequestId,
};

/// What is known of a request before its headers are looked at.
pub(crate) struct Call {
    pub(crate) id: RequestId,
    pub(crate) peer: IpAddr,
    /// The caller speaks TLS to this gateway.
    pub(crate) encrypted: bool,
    pub(crate) started: Instant,
    pub(crate) target: Target,
}

/// Takes a request through all steps.
pub(crate) async fn run<C: Cluster>(lane: &Arc<Lane<C>>, call: Call, request: Request<Incoming>) -> Response<Outgoing> {
    let house = &lane.shared.house;
    if let Err(fault) = upload::check_framing(request.headers(), house.callers.limits().max_body) {
        return answer::callers_fault(&call.id, &fault);
    }
    let asked = Asked { peer: call.peer, uri: request.uri(), headers: request.headers() };
    let Admitted { caller, place } = match house.admit(asked, Needs::Service(call.target.service())).await {
        Ok(admitted) => admitted,
        Err(denied) => return answer::denied(&call.id, &denied),
    };
    let name = call.target.service();
    let route = match lane.route(name) {
        Some(route) => Some(route),
        None => look_further(lane, name).await,
    };
    let Some(route) = route else {
        let response = answer::unknown(&call.id, name, &lane.shared.cluster.view());
        let now = Instant::now();
        lane.stats.other().answered(response.status(), None, now.saturating_duration_since(call.started), now);
        return response;
    };
    if let Err(denied) = house.callers.enter_service(route.service.as_str()) {
        return answer::denied(&call.id, &denied);
    }
    let mut request = request.map(Body::from);
    let headers = request.headers_mut();
    let Wishes { narrow, mut key } = match Wishes::take(headers) {
        Ok(wishes) => wishes,
        Err(error) => return answered(&route, &call, answer::wrong_wish(&call.id, &error)),
    };
    let route = match narrow {
        None => route,
        Some(wishes) => match answer::narrowed(&call.id, &route, &wishes, &lane.shared.cluster.view()) {
            Ok(narrowed) => Arc::new(narrowed),
            Err(response) => return answered(&route, &call, *response),
        },
    };
    if !route.is_usable() {
        return answered(&route, &call, answer::none_healthy(&call.id, &route, &lane.shared.cluster.view()));
    }
    if let Some(affinity) = route.terms.affinity.as_ref().filter(|_| key.is_none()) {
        key = affinity::key(affinity, headers, call.peer);
    }
    let upgrading = headers::strip_request(headers);
    forwarded::rewrite(headers, &call, &caller, house);
    *request.uri_mut() = call.target.uri();
    let Delivered { response, path, at } = deliver::deliver(lane, &call, &route, request, upgrading, key).await;
    route.stats.answered(response.status(), path, at.saturating_duration_since(call.started), at);
    match place {
        Some(place) => response.map(|body| body.hold_place(place)),
        None => response,
    }
}

/// Counts an answer that was made before anybody was asked.
fn answered(route: &Route, call: &Call, response: Response<Outgoing>) -> Response<Outgoing> {
    let now = Instant::now();
    route.stats.answered(response.status(), None, now.saturating_duration_since(call.started), now);
    response
}

/// A name that the view lacks: the cluster is asked, once for all who wait.
async fn look_further<C: Cluster>(lane: &Lane<C>, name: &str) -> Option<Arc<Route>> {
    let name = ServiceName::new(name).ok()?;
    lane.shared.finder.find(&lane.shared.cluster, &name).await;
    lane.route(name.as_str())
}
