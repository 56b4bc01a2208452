//! One attempt: the request to one worker, and all that is learned from how it ends. Two of them at once where a service
//! allows hedging.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Request, Response, StatusCode, header::RETRY_AFTER};
use paceline_mesh::{
    data::PathKind,
    http::{Body, upgrade},
};
use tokio::time::timeout;

use super::{
    Call,
    answer::Attempt,
    candidates::{Candidate, Route},
    eject::Trial,
    retry,
    select::{self, Ask, Pick},
    send::{self, Limits},
    upload::Upload,
};
use crate::{
    cluster::{Cluster, PeerClient as _},
    lane::Lane,
    metrics::{Flight, Running},
};

/// A `Retry-After` that cannot be read counts as this.
const RETRY_AFTER_ODD: Duration = Duration::from_secs(1);

/// What all attempts of a request share.
pub(crate) struct Errand<'a, C: Cluster> {
    pub(crate) lane: &'a Arc<Lane<C>>,
    pub(crate) call: &'a Call,
    pub(crate) route: &'a Route,
    pub(crate) upload: Option<&'a Upload>,
    pub(crate) limits: Limits,
    pub(crate) upgrading: bool,
}

/// A service has answered.
pub(crate) struct Answered {
    pub(crate) index: usize,
    pub(crate) response: Response<Body>,
    pub(crate) flight: Flight,
    pub(crate) asked: Option<upgrade::Switch>,
    /// When its head came.
    pub(crate) at: Instant,
}

/// An attempt has failed.
pub(crate) struct Missed {
    pub(crate) attempt: Attempt,
    /// The request, where it was not touched.
    pub(crate) unsent: Option<Box<Request<Body>>>,
}

/// How a worker is reached.
pub(crate) fn path_of<C: Cluster>(lane: &Lane<C>, candidate: &Candidate) -> PathKind {
    if candidate.is_local() {
        return PathKind::Local;
    }
    lane.client.path(candidate.node).map_or(PathKind::Direct, |(path, _)| path)
}

impl<C: Cluster> Errand<'_, C> {
    /// Sends to a candidate, and notes how it did.
    ///
    /// # Errors
    /// [`Missed`].
    pub(crate) async fn attempt(
        &self,
        index: usize,
        request: Request<Body>,
        now: Instant,
    ) -> Result<Answered, Box<Missed>> {
        let (lane, route) = (self.lane, self.route);
        let candidate = &route.candidates[index];
        let outlier = &candidate.outlier;
        let running = Running {
            request_id: self.call.id.value(),
            service: route.service.clone(),
            method: request.method().clone(),
            node: candidate.node,
            since: self.call.started,
        };
        let mut flight = lane.stats.take_off(lane.index, outlier, running, now);
        let asked = if self.upgrading { upgrade::requested(&request) } else { None };
        let sent = send::send(lane, candidate, &route.service, request, self.upload, &self.limits).await;
        let at = Instant::now();
        // A long upload is the caller's time, not the worker's.
        let begun = self.upload.map_or(now, |upload| now.max(upload.last().into_std()));
        let took_us = at.saturating_duration_since(begun).as_micros() as f64;
        let typical = &route.stats.typical;
        let failure = match sent {
            Ok(response) => {
                if let Some(upload) = self.upload {
                    upload.answered();
                }
                outlier.succeeded();
                if response.status().is_server_error() {
                    flight.failed(at, took_us, typical.us());
                } else {
                    typical.learn(took_us);
                    flight.heard(at, took_us);
                    if route.terms.hedge {
                        route.stats.slowest.learn(took_us);
                    }
                }
                if let Some(wait) = later(&response) {
                    outlier.shy(at, wait);
                }
                if outlier.was_busy() {
                    outlier.has_place();
                }
                return Ok(Answered { index, response, flight, asked, at });
            }
            Err(failure) => failure,
        };
        // Whatever the worker made of it: the caller's own doing says nothing of any worker.
        if self.upload.is_none_or(|upload| upload.fault().is_none()) {
            if failure.kind.is_busy() {
                outlier.busy(at);
                flight.refused();
            } else {
                flight.failed(at, took_us, typical.us());
            }
            outlier.failed(failure.kind.weight(), at);
            outlier.note(failure.kind.hop(), &failure.reason);
            if failure.kind.is_of_data_plane() && !candidate.is_local() {
                lane.shared.cluster.request_failed(candidate.node);
            }
            tracing::debug!(request = self.call.id.as_str(), service = %route.service, worker = %candidate.name(),
                hop = failure.kind.hop(), reason = %failure.reason, "an attempt failed");
        }
        drop(flight);
        let attempt = Attempt {
            node: candidate.node,
            worker: candidate.name().clone(),
            path: path_of(lane, candidate),
            kind: failure.kind,
            error: failure.reason,
            retry_after: failure.retry_after,
            excludes: true,
        };
        Err(Box::new(Missed { attempt, unsent: failure.unsent }))
    }

    /// The same, with a second attempt beside it once the first is slow, where there is somebody to ask and the budget
    /// allows it. The first answer counts, and the other attempt is cancelled.
    ///
    /// # Errors
    /// One or both of them, the later one last.
    pub(crate) async fn hedged(
        &self,
        index: usize,
        request: Request<Body>,
        now: Instant,
        tried: &[Attempt],
    ) -> Result<Answered, Vec<Missed>> {
        let one = |missed: Box<Missed>| vec![*missed];
        let after = self.route.stats.slowest.after().filter(|_| self.route.candidates.len() > tried.len() + 1);
        let (Some(after), Some(spare)) = (after, retry::spare(&request)) else {
            return self.attempt(index, request, now).await.map_err(one);
        };
        let mut first = pin!(self.attempt(index, request, now));
        if let Ok(done) = timeout(after, first.as_mut()).await {
            return done.map_err(one);
        }
        let now = Instant::now();
        let Some((second, _trial)) = self.second(index, tried, now) else { return first.await.map_err(one) };
        let mut second = pin!(self.attempt(second, spare, now));
        let (missed, other) = tokio::select! {
            done = first.as_mut() => match done {
                Ok(answered) => return Ok(answered),
                Err(missed) => (missed, second.await),
            },
            done = second.as_mut() => match done {
                Ok(answered) => return Ok(answered),
                Err(missed) => (missed, first.await),
            },
        };
        other.map_err(|last| vec![*missed, *last])
    }

    /// Who else is to be asked, if anybody may be, at the expense of the budget.
    fn second(&self, first: usize, tried: &[Attempt], now: Instant) -> Option<(usize, Option<Trial>)> {
        let with = Some(self.route.candidates[first].node);
        let (lane, draw) = (self.lane.index, self.lane.draw());
        let Pick::One { index, trial } = select::pick(self.route, &Ask { tried, with, now, lane, draw, key: None })
        else {
            return None;
        };
        self.route.stats.withdraw(now).then(|| {
            self.route.stats.hedged();
            (index, trial)
        })
    }
}

/// For how long a service wants not to be asked: with a 503 (RFC 9110, 10.2.3) or a 429 (RFC 6585).
fn later(response: &Response<Body>) -> Option<Duration> {
    if ![StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&response.status()) {
        return None;
    }
    retry_after(response.headers(), SystemTime::now())
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok().map(str::trim);
    let wait = text.and_then(|text| match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    });
    Some(wait.unwrap_or(RETRY_AFTER_ODD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, wait) in [
            ("120", 120),
            (" 0 ", 0),
            ("Sun, 06 Nov 1994 08:49:47 GMT", 10),
            ("Sun, 06 Nov 1994 08:49:27 GMT", 0),
            ("soon", 1),
            ("-1", 1),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("value"))]);
            assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(wait)), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
