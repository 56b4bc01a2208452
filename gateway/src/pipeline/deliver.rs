//! Select, send, and do it once more where that is safe: the loop around the attempts of one request.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use paceline_mesh::{
    data::PathKind,
    http::{Body, headers, upgrade},
};
use tokio::time::timeout_at;

use super::{
    Call, answer,
    answer::Attempt,
    attempt::{Answered, Errand, path_of},
    candidates::{Candidate, Route},
    queue::Called,
    retry,
    select::{self, Ask, Pick},
    send::Limits,
    upload,
};
use crate::{cluster::Cluster, lane::Lane, outgoing::Outgoing};

/// What became of a request.
pub(crate) struct Delivered {
    pub(crate) response: Response<Outgoing>,
    /// How the worker that answered was reached; `None` where the gateway answers itself.
    pub(crate) path: Option<PathKind>,
    /// When the answer was there.
    pub(crate) at: Instant,
}

impl Delivered {
    fn own(response: Response<Outgoing>) -> Self {
        Self { response, path: None, at: Instant::now() }
    }
}

/// Delivers a request, and gives the answer to it, whoever makes it.
pub(crate) async fn deliver<C: Cluster>(
    lane: &Arc<Lane<C>>,
    call: &Call,
    route: &Route,
    request: Request<Body>,
    upgrading: bool,
    key: Option<u64>,
) -> Delivered {
    let idempotent = retry::is_idempotent(request.method());
    let (mut request, upload) = upload::watch(request, lane.shared.house.callers.limits());
    // Whatever the method: it may be asked again of another worker where the first one has enough to do.
    if let Some(upload) = upload.as_deref().filter(|_| route.may_go_on() && !upgrading) {
        request = match upload::collect_small(request, upload).await {
            Ok(request) => request,
            Err(fault) => return Delivered::own(answer::callers_fault(&call.id, &fault)),
        };
    }
    let limits = Limits { first_byte: route.terms.first_byte, until: route.terms.total.map(|t| call.started + t) };
    let errand = Errand { lane, call, route, upload: upload.as_deref(), limits, upgrading };
    let mut tried: Vec<Attempt> = Vec::new();
    let mut made = 0;
    // The head has just been read; a body that was collected took its time.
    let mut now = if upload.is_some() { Instant::now() } else { call.started };
    let mut waiting_since = None;
    loop {
        let ask = Ask { tried: &tried, with: None, now, lane: lane.index, draw: lane.draw(), key };
        // The trial is held until the outcome is noted: others keep away from a worker on trial.
        let (index, _trial) = match select::pick(route, &ask) {
            Pick::One { index, .. } if waiting_since.is_none() && overtakes(route, index) => {
                let since = *waiting_since.insert(now);
                match Box::pin(wait(&errand, &tried, since, None, key)).await {
                    Ok(()) => {}
                    Err(waited) => return Delivered::own(answer::busy(&call.id, route, &tried, waited)),
                }
                now = Instant::now();
                continue;
            }
            Pick::One { index, trial } => (index, trial),
            Pick::AllBusy { left, .. } => {
                let since = *waiting_since.get_or_insert(now);
                match Box::pin(wait(&errand, &tried, since, left, key)).await {
                    Ok(()) => {}
                    Err(waited) => return Delivered::own(answer::busy(&call.id, route, &tried, waited)),
                }
                now = Instant::now();
                continue;
            }
            Pick::AllEjected { index, left } => return Delivered::own(rest(&errand, &tried, index, left)),
            // Those who only had enough to do may be asked again.
            Pick::None if retry::readmit(&mut tried) => continue,
            Pick::None => return Delivered::own(answer::failed(&call.id, route, &tried, "")),
        };
        if !route.candidates[index].outlier.begin_again(now) {
            continue;
        }
        if !tried.is_empty() {
            route.stats.retried();
        }
        let spare = if route.may_go_on() { retry::spare(&request) } else { None };
        let outcome = if route.terms.hedge && idempotent && !upgrading {
            // Boxed, as waiting is: what is seldom done makes no request's future larger.
            Box::pin(errand.hedged(index, request, now, &tried)).await
        } else {
            errand.attempt(index, request, now).await.map_err(|missed| vec![*missed])
        };
        let mut missed = match outcome {
            Ok(answered) => return pass_on(lane, route, answered, errand.limits.until),
            Err(missed) => missed,
        };
        if let Some(fault) = upload.as_ref().and_then(|upload| upload.fault()) {
            tracing::debug!(request = call.id.as_str(), service = %route.service, %fault, "a caller broke off");
            return Delivered::own(answer::callers_fault(&call.id, fault));
        }
        now = Instant::now();
        let hedged = missed.len() > 1;
        made += missed.len();
        let unsent = missed.last_mut().and_then(|last| last.unsent.take());
        missed.into_iter().for_each(|missed| retry::note(&mut tried, missed.attempt));
        let in_time = errand.limits.until.is_none_or(|until| now < until);
        let again = !hedged && in_time && retry::may_go_on(&tried, made, idempotent);
        let Some(left) = unsent.map(|unsent| *unsent).or(spare).filter(|_| again) else {
            return Delivered::own(answer::failed(&call.id, route, &tried, ""));
        };
        let Some(last) = tried.last() else { return Delivered::own(answer::failed(&call.id, route, &tried, "")) };
        if last.kind.is_busy() {
            // Its node has let it wait: that counts.
            waiting_since.get_or_insert(now);
        }
        // What has reached no service costs none.
        if !last.kind.nothing_sent() && !route.stats.withdraw(now) {
            return Delivered::own(answer::failed(&call.id, route, &tried, "; the service's retry budget is used up"));
        }
        request = left;
    }
}

/// Whether a request that comes now would take a place from those who wait for one.
fn overtakes(route: &Route, index: usize) -> bool {
    route.may_go_on() && !route.narrowed && route.candidates[index].outlier.queue().waiting() > 0
}

/// Waits for a place; `Ok` where it is worth looking again.
///
/// # Errors
/// How long it has waited, where that is enough.
async fn wait<C: Cluster>(
    errand: &Errand<'_, C>,
    tried: &[Attempt],
    since: Instant,
    left: Option<Duration>,
    key: Option<u64>,
) -> Result<(), Duration> {
    let (route, lane) = (errand.route, errand.lane);
    let Some(queue) = route.candidates.first().map(|candidate| candidate.outlier.queue()) else { return Ok(()) };
    let now = Instant::now();
    let mut patience = route.terms.queue;
    if let Some(until) = errand.limits.until {
        patience = patience.min(until.saturating_duration_since(since));
    }
    let waited = now.saturating_duration_since(since);
    if waited >= patience {
        return Err(waited);
    }
    let end = since + patience;
    let look = left.map_or(end, |left| end.min(now + left));
    let ask = Ask { tried, with: None, now, lane: lane.index, draw: lane.draw(), key };
    let has_place = || matches!(select::pick(route, &ask), Pick::One { .. });
    let called = if route.narrowed {
        let Some(beside) = queue.beside() else { return Err(waited) };
        let mut call = pin!(beside.called());
        call.as_mut().enable();
        // A place may have come free before it was listened for.
        if has_place() {
            return Ok(());
        }
        timeout_at(look.into(), call).await.map(|()| Called::Place)
    } else {
        let Some(mut ticket) = queue.join(since, patience, now) else { return Err(waited) };
        // Likewise; whoever is first in the line looks.
        if has_place() {
            queue.call();
        }
        timeout_at(look.into(), ticket.called()).await
    };
    match called {
        Ok(Called::Place) => Ok(()),
        Ok(Called::Shed) => Err(since.elapsed()),
        Err(_) if look < end => Ok(()),
        Err(_) => Err(since.elapsed()),
    }
}

/// Every candidate that is left rests after failures: the first attempt's story where there is one, else theirs.
fn rest<C: Cluster>(errand: &Errand<'_, C>, tried: &[Attempt], index: usize, left: Duration) -> Response<Outgoing> {
    let (id, route) = (&errand.call.id, errand.route);
    if !tried.is_empty() {
        return answer::failed(id, route, tried, "");
    }
    let first = &route.candidates[index];
    answer::ejected(id, route, first, path_of(errand.lane, first), left)
}

/// The service's answer, made fit for the client; an upgrade's two sides are joined.
fn pass_on<C: Cluster>(lane: &Lane<C>, route: &Route, answered: Answered, until: Option<Instant>) -> Delivered {
    let Answered { index, mut response, flight, asked, at } = answered;
    let candidate: &Candidate = &route.candidates[index];
    let path = path_of(lane, candidate);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::strip_response(response.headers_mut(), switched);
    headers::strip_own(response.headers_mut());
    *response.version_mut() = http::Version::HTTP_11; // each hop speaks its own (RFC 9110, 7.6.3)
    answer::sign(response.headers_mut(), &candidate.header, path);
    if !switched {
        let response = response.map(|body| Outgoing::of_service(body, flight, until));
        return Delivered { response, path: Some(path), at };
    }
    if let Some(join) = upgrade::accepted(asked, &mut response) {
        lane.life.spawn(async move {
            if let Err(error) = join.await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
            drop(flight);
        });
    }
    Delivered { response: response.map(Outgoing::own), path: Some(path), at }
}
