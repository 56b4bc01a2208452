//! The way of a request to a service, plain functions in order: authenticate, look up, select, send, decide on a
//! retry, answer. A step refuses by an answer; nothing here panics on what a caller or a peer says.

pub(crate) mod answer;
pub(crate) mod candidates;
pub(crate) mod eject;
pub(crate) mod find;
pub(crate) mod forwarded;
pub(crate) mod retry;
pub(crate) mod select;
pub(crate) mod send;
pub(crate) mod suggest;
pub(crate) mod target;
pub(crate) mod upload;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use paceline_mesh::{
    data::PathKind,
    http::{Body, headers, upgrade},
};
use paceline_proto::id::{NodeId, ServiceName};

use self::{
    answer::Attempt,
    candidates::{Candidate, Route},
    select::Pick,
    target::Target,
};
use crate::{
    callers::{Admitted, Asked, Needs},
    cluster::Cluster,
    lane::Lane,
    metrics::Running,
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
        lane.stats.other().answered(response.status(), None, call.started.elapsed());
        return response;
    };
    if let Err(denied) = house.callers.enter_service(route.service.as_str()) {
        return answer::denied(&call.id, &denied);
    }
    let mut request = request.map(Body::from);
    let upgrading = headers::strip_request(request.headers_mut());
    forwarded::rewrite(request.headers_mut(), &call, &caller, house);
    *request.uri_mut() = call.target.uri();
    let (response, path) = deliver(lane, &call, &route, request, upgrading).await;
    route.stats.answered(response.status(), path, call.started.elapsed());
    match place {
        Some(place) => response.map(|body| body.hold_place(place)),
        None => response,
    }
}

/// A name that the view lacks: the cluster is asked, once for all who wait.
async fn look_further<C: Cluster>(lane: &Lane<C>, name: &str) -> Option<Arc<Route>> {
    let name = ServiceName::new(name).ok()?;
    lane.shared.finder.find(&lane.shared.cluster, &name).await;
    lane.route(name.as_str())
}

/// Selects, sends, and does it once more where that is safe.
async fn deliver<C: Cluster>(
    lane: &Arc<Lane<C>>,
    call: &Call,
    route: &Arc<Route>,
    mut request: Request<Body>,
    upgrading: bool,
) -> (Response<Outgoing>, Option<PathKind>) {
    if !route.is_usable() {
        return (answer::none_healthy(&call.id, route, &lane.shared.cluster.view()), None);
    }
    let idempotent = retry::is_idempotent(request.method());
    let upload;
    (request, upload) = upload::watch(request, lane.shared.house.callers.limits());
    // Whatever the method: it may be asked again of another worker where the first one has enough to do.
    if let Some(upload) = upload.as_deref().filter(|_| route.candidates.len() > 1 && !upgrading) {
        request = match upload::collect_small(request, upload).await {
            Ok(request) => request,
            Err(fault) => return (answer::callers_fault(&call.id, &fault), None),
        };
    }
    let mut tried: Vec<Attempt> = Vec::new();
    loop {
        let pick = select::pick(&route.candidates, &tried, Instant::now(), lane.index, lane.draw());
        // Held until the outcome is noted: others keep away from a worker on trial.
        let (candidate, _trial) = match pick {
            Pick::One { index, trial } => (&route.candidates[index], trial),
            Pick::AllEjected { index, left } => return (rest(call, route, tried, index, left), None),
            Pick::None => return (answer::failed(&call.id, route, &tried), None),
        };
        let others = route.candidates.len() > tried.len() + 1;
        let spare = if others { retry::spare(&request) } else { None };
        let running = Running {
            request_id: call.id.value(),
            service: route.service.clone(),
            method: request.method().clone(),
            node: candidate.node,
            since: call.started,
        };
        let flight = lane.stats.take_off(lane.index, &candidate.outlier, running);
        let asked = if upgrading { upgrade::requested(&request) } else { None };
        let failure = match send::send(lane, candidate, &route.service, request, upload.as_deref()).await {
            Ok(response) => {
                if let Some(upload) = &upload {
                    upload.answered();
                }
                candidate.outlier.succeeded();
                let path = path_of(lane, candidate);
                return (pass_on(lane, candidate, path, response, asked, flight), Some(path));
            }
            Err(failure) => failure,
        };
        drop(flight);
        // Whatever the worker made of it: the caller's own doing says nothing of any worker.
        if let Some(fault) = upload.as_ref().and_then(|upload| upload.fault()) {
            tracing::debug!(request = call.id.as_str(), service = %route.service, %fault, "a caller broke off");
            return (answer::callers_fault(&call.id, fault), None);
        }
        if failure.kind.is_busy() {
            candidate.outlier.busy(Instant::now());
        }
        candidate.outlier.failed(failure.kind.weight(), Instant::now());
        candidate.outlier.note(failure.kind.hop(), &failure.reason);
        if failure.kind.is_of_data_plane() && !candidate.local {
            lane.shared.cluster.request_failed(candidate.node);
        }
        tracing::debug!(request = call.id.as_str(), service = %route.service, worker = %candidate.name,
            hop = failure.kind.hop(), reason = %failure.reason, "an attempt failed");
        let again = retry::may_retry(failure.kind, idempotent);
        tried.push(Attempt {
            node: candidate.node,
            worker: candidate.name.clone(),
            kind: failure.kind,
            error: failure.reason,
            retry_after: failure.retry_after,
        });
        match failure.unsent.map(|unsent| *unsent).or(spare) {
            Some(left) if again && others && retry::attempts_left(tried.iter().map(|attempt| attempt.kind)) => {
                route.stats.retried();
                request = left;
            }
            _ => return (answer::failed(&call.id, route, &tried), None),
        }
    }
}

/// Every candidate that is left rests after failures: the first attempt's story where there is one, else theirs.
fn rest(call: &Call, route: &Route, tried: Vec<Attempt>, index: usize, left: Duration) -> Response<Outgoing> {
    if tried.is_empty() {
        answer::ejected(&call.id, route, &route.candidates[index], left)
    } else {
        answer::failed(&call.id, route, &tried)
    }
}

fn path_of<C: Cluster>(lane: &Lane<C>, candidate: &Candidate) -> PathKind {
    if candidate.local {
        return PathKind::Local;
    }
    use crate::cluster::PeerClient as _;
    lane.client.path(candidate.node).map_or(PathKind::Direct, |(path, _)| path)
}

/// The service's answer, made fit for the client; an upgrade's two sides are joined.
fn pass_on<C: Cluster>(
    lane: &Lane<C>,
    candidate: &Candidate,
    path: PathKind,
    mut response: Response<Body>,
    asked: Option<upgrade::Switch>,
    flight: crate::metrics::Flight,
) -> Response<Outgoing> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::strip_response(response.headers_mut(), switched);
    headers::strip_own(response.headers_mut());
    *response.version_mut() = http::Version::HTTP_11; // each hop speaks its own (RFC 9110, 7.6.3)
    answer::sign(response.headers_mut(), &candidate.header, path);
    if !switched {
        let (parts, body) = response.into_parts();
        return Response::from_parts(parts, Outgoing::of_service(body, flight));
    }
    if let Some(join) = upgrade::accepted(asked, &mut response) {
        lane.life.spawn(async move {
            if let Err(error) = join.await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
            drop(flight);
        });
    }
    response.map(Outgoing::own)
}

/// Whether a node was tried already.
pub(crate) fn was_tried(tried: &[Attempt], node: NodeId) -> bool {
    tried.iter().any(|attempt| attempt.node == node)
}
