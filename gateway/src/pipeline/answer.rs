//! Answers of the gateway's own: JSON with `error` and `request_id`, and what helps to find the culprit.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use paceline_mesh::{data::PathKind, http::Body};
use paceline_proto::{
    id::{NodeId, WorkerName},
    view::{ClusterView, MemberState},
};
use serde_json::{Value, json};

use super::{
    candidates::{Candidate, Refused, Route, class},
    retry::FailureKind,
    suggest::suggest,
    upload::Fault,
    wishes::{Narrow, WishError},
};
use crate::{callers::Denied, outgoing::Outgoing, request_id::RequestId};

const WORKER: HeaderName = HeaderName::from_static("x-paceline-worker");
const PATH: HeaderName = HeaderName::from_static("x-paceline-path");

/// Most service or worker names that an answer lists.
const LISTED_MAX: usize = 256;

/// An attempt that failed.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) node: NodeId,
    pub(crate) worker: WorkerName,
    pub(crate) path: PathKind,
    pub(crate) kind: FailureKind,
    pub(crate) error: String,
    /// In how many seconds the node says that it is worth another try.
    pub(crate) retry_after: Option<u32>,
    /// Its worker is not asked again.
    pub(crate) excludes: bool,
}

/// JSON with a status; `request_id` is added.
pub(crate) fn json(status: StatusCode, id: &RequestId, mut body: Value) -> Response<Outgoing> {
    body["request_id"] = id.as_str().into();
    let mut response = Response::new(Outgoing::own(Body::full(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Who answered, and how they were reached.
pub(crate) fn sign(headers: &mut HeaderMap, worker: &HeaderValue, path: PathKind) {
    headers.insert(WORKER, worker.clone());
    headers.insert(PATH, HeaderValue::from_static(path_word(path)));
}

/// The word for a path.
pub(crate) const fn path_word(path: PathKind) -> &'static str {
    match path {
        PathKind::Local => "local",
        PathKind::Direct => "direct",
        PathKind::Reverse => "reverse",
        PathKind::Relayed => "relayed",
    }
}

/// 401 for missing credentials and wrong ones alike (RFC 9110, 15.5.2): who calls is not known. 403 for a caller who may
/// not, 429 for one who may no more for now.
pub(crate) fn denied(id: &RequestId, denied: &Denied) -> Response<Outgoing> {
    let mut response = json(denied.status(), id, json!({ "error": denied.words() }));
    let headers = response.headers_mut();
    if let Some(challenge) = denied.challenge().and_then(|c| HeaderValue::from_str(&c).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = denied.retry_after_s() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if denied.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// 400 or 408: what the caller sends cannot be passed on. Where its next request would begin is not known either.
pub(crate) fn callers_fault(id: &RequestId, fault: &Fault) -> Response<Outgoing> {
    let mut response = json(fault.status(), id, json!({ "error": fault.to_string() }));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 503: nobody offers the service.
pub(crate) fn unknown(id: &RequestId, wanted: &str, view: &ClusterView) -> Response<Outgoing> {
    let body = json!({
        "error": format!("Service '{wanted}' not available"),
        "available_services": available(view),
        "suggestion": suggest(wanted, view.services.keys().map(|name| name.as_str())),
    });
    json(StatusCode::SERVICE_UNAVAILABLE, id, body)
}

/// 503: the service is known, but nobody who offers it may be asked.
pub(crate) fn none_healthy(id: &RequestId, route: &Route, view: &ClusterView) -> Response<Outgoing> {
    let service = route.service.as_str();
    let count = |why: Refused| Some(route.count(why)).filter(|n| *n > 0).map(|n| format!("{n} {}", why.word()));
    let why: Vec<_> = [count(Refused::Unhealthy), count(Refused::Draining)].into_iter().flatten().collect();
    let body = json!({
        "error": format!("Service '{service}' not available: no healthy worker offers it ({})", why.join(", ")),
        "available_services": available(view),
        "suggestion": format!("See whether '{service}' runs and answers its health check on its workers: GET /api/admin/workers"),
    });
    json(StatusCode::SERVICE_UNAVAILABLE, id, body)
}

/// 400: a header of ours that cannot be read.
pub(crate) fn wrong_wish(id: &RequestId, error: &WishError) -> Response<Outgoing> {
    json(StatusCode::BAD_REQUEST, id, json!({ "error": error.to_string() }))
}

/// The workers that a caller's wishes leave, at least one of them.
///
/// # Errors
/// 404 where the worker that is asked for does not offer the service, 503 where it does but may not be asked, and where
/// nobody fits the other wishes.
pub(crate) fn narrowed(
    id: &RequestId,
    route: &Route,
    wishes: &Narrow,
    view: &ClusterView,
) -> Result<Route, Box<Response<Outgoing>>> {
    let service = route.service.as_str();
    let fits = wishes.fits();
    let Some(worker) = wishes.worker.as_deref() else {
        let narrowed = route.narrow(fits);
        if narrowed.is_usable() {
            return Ok(narrowed);
        }
        let why = match narrowed.refused.len() {
            0 => "no worker that offers it fits".to_owned(),
            n => format!("{n} that fit may not be asked now (unhealthy or draining), and no other worker fits"),
        };
        let error = format!("Service '{service}' not available with {}: {why}", wishes.words());
        let body = json!({ "error": error, "workers": workers(route) });
        return Err(Box::new(json(StatusCode::SERVICE_UNAVAILABLE, id, body)));
    };
    let refuse = |status, why: &str| {
        let error = format!("Worker '{worker}' {why}");
        Err(Box::new(json(status, id, json!({ "error": error, "worker": worker, "workers": workers(route) }))))
    };
    if let Some(candidate) = route.candidates.iter().find(|candidate| candidate.name().as_str() == worker) {
        if !fits(&candidate.provider) {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("does not fit {}", wishes.words()));
        }
        return Ok(route.narrow(|provider| provider.node == candidate.node));
    }
    if let Some((_, why)) = route.refused.iter().find(|(provider, _)| provider.member.name.as_str() == worker) {
        let what = match why {
            Refused::Draining => "is draining and takes no new work".to_owned(),
            Refused::Unhealthy => format!("offers '{service}', but it is not healthy there"),
        };
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &what);
    }
    match view.members.values().find(|member| member.name.as_str() == worker) {
        Some(member) if matches!(member.state, MemberState::Dead | MemberState::Left) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "is gone")
        }
        Some(_) => refuse(StatusCode::NOT_FOUND, &format!("does not offer '{service}'")),
        None => refuse(StatusCode::NOT_FOUND, "is not known"),
    }
}

/// The names of those who may be asked, a bounded number of them.
fn workers(route: &Route) -> Vec<&str> {
    route.candidates.iter().map(|candidate| candidate.name().as_str()).take(LISTED_MAX).collect()
}

/// What became of each attempt.
fn story(tried: &[Attempt]) -> Vec<Value> {
    let one = |attempt: &Attempt| {
        json!({
            "worker": attempt.worker,
            "path": path_word(attempt.path),
            "hop": attempt.kind.hop(),
            "error": attempt.error,
        })
    };
    tried.iter().map(one).collect()
}

/// 429, 502, 503 or 504: the last attempt's failure, and all that were made. Where nothing reached a service and somebody only
/// had enough to do, that is what the caller can act on. `more` is said behind the failure.
pub(crate) fn failed(id: &RequestId, route: &Route, tried: &[Attempt], more: &str) -> Response<Outgoing> {
    let nothing_sent = tried.last().is_some_and(|last| last.kind.nothing_sent());
    let busy = tried.iter().rfind(|attempt| nothing_sent && attempt.kind.is_busy());
    let Some(last) = busy.or(tried.last()) else {
        let body = json!({ "error": format!("Service '{}' has nobody left to ask", route.service), "tried": [] });
        return json(StatusCode::SERVICE_UNAVAILABLE, id, body);
    };
    let body = json!({
        "error": format!("Service '{}' on worker '{}' failed: {}{more}", route.service, last.worker, last.error),
        "worker": last.worker,
        "hop": last.kind.hop(),
        "tried": story(tried),
    });
    let mut response = json(last.kind.status(), id, body);
    if let Ok(worker) = HeaderValue::from_str(last.worker.as_str()) {
        sign(response.headers_mut(), &worker, last.path);
    }
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        // Whole seconds are the least that it can say.
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    } else if let Some(seconds) = last.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// 429: everybody has enough to do, and the line was too long, or the wait.
pub(crate) fn busy(id: &RequestId, route: &Route, tried: &[Attempt], waited: Duration) -> Response<Outgoing> {
    let mut all = story(tried);
    let asked = |node: NodeId| tried.iter().any(|attempt| attempt.node == node);
    let known = route.candidates.iter().filter(|candidate| !asked(candidate.node)).take(LISTED_MAX);
    all.extend(known.map(|candidate| {
        json!({
            "worker": candidate.name(),
            "hop": "gateway-node",
            "error": "not asked: it has as many requests as it takes at once",
        })
    }));
    let error = format!(
        "Service '{}' has too many requests: all of its workers ({}) have enough to do, and did for the {:.1} s that this \
         one has waited",
        route.service,
        route.candidates.len(),
        waited.as_secs_f64()
    );
    let worker = tried.last().map(|last| &last.worker).or(route.candidates.first().map(Candidate::name));
    let mut response =
        json(StatusCode::TOO_MANY_REQUESTS, id, json!({ "error": error, "worker": worker, "tried": all }));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if let Some(worker) = worker.and_then(|worker| HeaderValue::from_str(worker.as_str()).ok()) {
        response.headers_mut().insert(WORKER, worker);
    }
    response
}

/// 502 without an attempt: everybody who could be asked has failed too often, and rests.
pub(crate) fn ejected(
    id: &RequestId,
    route: &Route,
    first: &Candidate,
    path: PathKind,
    left: Duration,
) -> Response<Outgoing> {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let (hop, reason) = first.outlier.last_failure();
    let all = match route.candidates.len() {
        1 => String::new(),
        n => format!(" (the first to be asked again of {n} workers)"),
    };
    let body = json!({
        "error": format!(
            "Service '{}' on worker '{}' failed repeatedly ({reason}) and is not asked again for {:.1} s{all}",
            route.service, first.name(), left.as_secs_f64()
        ),
        "worker": first.name(),
        "hop": hop,
        "tried": [],
    });
    let mut response = json(StatusCode::BAD_GATEWAY, id, body);
    sign(response.headers_mut(), &first.header, path);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The services that somebody may be asked for, a bounded number of them.
fn available(view: &ClusterView) -> Vec<&str> {
    view.services
        .iter()
        .filter(|(_, providers)| providers.iter().any(|provider| class(provider).is_ok()))
        .map(|(name, _)| name.as_str())
        .take(LISTED_MAX)
        .collect()
}
