//! Sending a request to the worker that was selected: to this process by a call, to another node over the data plane,
//! with the deadline for the first byte of the answer.

use std::{future::Future, pin::pin, time::Duration};

use http::{
    HeaderName, Request, Response, StatusCode,
    header::{RETRY_AFTER, UPGRADE},
};
use paceline_mesh::{
    data::SendError,
    http::{Body, ERROR_HEADER, NodeError, ask::START_WAIT_MAX},
};
use paceline_proto::id::ServiceName;
use tokio::time::{Instant, timeout_at};

use super::{candidates::Candidate, retry::FailureKind, upload::Upload};
use crate::{
    ask::{self, Peer},
    cluster::{Cluster, PeerClient},
    lane::Lane,
};

const ERROR: HeaderName = HeaderName::from_static(ERROR_HEADER);

/// Longest time that a caller is told to wait on a node's word, in seconds.
const RETRY_AFTER_MAX: u32 = 300;

/// A failed attempt.
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For the log and the caller.
    pub(crate) reason: String,
    /// The request, where it was not touched.
    pub(crate) unsent: Option<Box<Request<Body>>>,
    /// In how many seconds the node says that it is worth another try.
    pub(crate) retry_after: Option<u32>,
}

impl Failure {
    fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), unsent: None, retry_after: None }
    }
}

/// Until when an answer must have begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// After the last byte that was sent.
    pub(crate) first_byte: Duration,
    /// The end of the whole request.
    pub(crate) until: Option<std::time::Instant>,
}

/// Sends, and waits for the response head. `upload` is how the request's body fares, where it is streamed.
///
/// # Errors
/// [`Failure`], also where the node answered with one of its own.
pub(crate) async fn send<C: Cluster>(
    lane: &Lane<C>,
    candidate: &Candidate,
    service: &ServiceName,
    request: Request<Body>,
    upload: Option<&Upload>,
    limits: &Limits,
) -> Result<Response<Body>, Failure> {
    let upgrading = request.headers().contains_key(UPGRADE);
    let peer = if candidate.is_local() { Peer::Local } else { Peer::Node(candidate.node) };
    // Boxed, for it is rare: a request need not carry its room.
    let starting = || Box::pin(ask::is_starting(&lane.shared, lane.index, peer, service));
    let answered = if candidate.is_local() {
        let Some(local) = &lane.shared.local else {
            return Err(Failure::new(FailureKind::Node(NodeError::NoSuchService), "this gateway has no worker"));
        };
        if let Err(reason) = local.admits(service, &candidate.node) {
            let kind = FailureKind::Node(NodeError::NotAllowed);
            return Err(Failure { kind, reason, unsent: Some(Box::new(request)), retry_after: None });
        }
        let call = local.call(lane.index, service.clone(), request);
        within(limits, upload, starting, async { Ok(call.await) }).await
    } else {
        within(limits, upload, starting, lane.client.send(candidate.node, service, request)).await
    };
    match answered {
        Err(kind) => Err(match kind {
            FailureKind::Expired => Failure::new(kind, "the time for the whole request was up"),
            kind => Failure::new(kind, format!("no answer within {} s", limits.first_byte.as_secs_f64())),
        }),
        Ok(Ok(response)) if is_not_started(&response) => Err(Box::pin(not_started(response)).await),
        Ok(Ok(response)) => judge(response, upgrading),
        Ok(Err(SendError::Unreachable { reason, request })) => {
            Err(Failure { unsent: Some(request), ..Failure::new(FailureKind::Unreachable, reason) })
        }
        Ok(Err(SendError::Broken { reason })) => Err(Failure::new(FailureKind::Broken, reason)),
        Ok(Err(SendError::StreamReset { reason })) => {
            let reason = format!("{} ({reason})", words(NodeError::ClosedEarly));
            Err(Failure::new(FailureKind::Node(NodeError::ClosedEarly), reason))
        }
    }
}

/// Tells a service's answer from its node's.
fn judge(response: Response<Body>, upgrading: bool) -> Result<Response<Body>, Failure> {
    if response.headers().contains_key(ERROR) {
        let error = NodeError::of(response.headers()).unwrap_or(NodeError::BadResponse);
        return Err(Failure::new(FailureKind::Node(error), words(error)));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrading {
        let reason = "the service switched protocols without being asked";
        return Err(Failure::new(FailureKind::Node(NodeError::BadResponse), reason));
    }
    Ok(response)
}

fn is_not_started(response: &Response<Body>) -> bool {
    response.status() == StatusCode::SERVICE_UNAVAILABLE
        && NodeError::of(response.headers()) == Some(NodeError::NotStarted)
}

/// A service on demand that did not come up: only its node knows why, and when it is worth another try.
async fn not_started(response: Response<Body>) -> Failure {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let reason = ask::error_of(response).await.unwrap_or_else(|| words(NodeError::NotStarted).to_owned());
    let retry_after = Some(seconds.unwrap_or(1).clamp(1, RETRY_AFTER_MAX));
    Failure { retry_after, ..Failure::new(FailureKind::Node(NodeError::NotStarted), reason) }
}

const fn words(error: NodeError) -> &'static str {
    match error {
        NodeError::NoSuchService => "the node does not offer the service any more",
        NodeError::ConnectFailed => "the node could not connect to the service",
        NodeError::NotStarted => "the service did not start",
        NodeError::ClosedEarly => "the service closed the connection before it answered",
        NodeError::BadResponse => "what the service answered is not HTTP",
        NodeError::Overloaded => "the node has too many requests for the service at once",
        NodeError::Timeout => "the service did not answer in time",
        NodeError::NotAllowed => "the node does not let this gateway call it",
    }
}

/// Waits for the first byte's time after the start, or after the last byte of the body that went out: a long upload is no
/// silence. Nor is the start of a service on demand, as long as `starting` says so; once it is up, it has at least that
/// time again. Never beyond the end of the whole.
///
/// # Errors
/// Which of the two it was.
async fn within<T, S: Future<Output = bool>>(
    limits: &Limits,
    upload: Option<&Upload>,
    starting: impl Fn() -> S,
    future: impl Future<Output = T>,
) -> Result<T, FailureKind> {
    let mut future = pin!(future);
    let limit = limits.first_byte;
    let until = limits.until.map(Instant::from_std);
    let capped = |deadline: Instant| until.map_or(deadline, |until| deadline.min(until));
    let begun = Instant::now();
    let mut deadline = capped(begun + limit);
    let mut was_starting = false;
    loop {
        if let Ok(done) = timeout_at(deadline, &mut future).await {
            return Ok(done);
        }
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return Err(FailureKind::Expired);
        }
        deadline = upload.map_or(deadline, |upload| capped(upload.last() + limit));
        if deadline > now {
            continue;
        }
        let is_starting = tokio::select! {
            biased;
            done = &mut future => return Ok(done),
            is_starting = starting() => is_starting,
        };
        if !(is_starting || was_starting) || begun.elapsed() > START_WAIT_MAX + limit * 2 {
            return Err(FailureKind::Slow);
        }
        was_starting = is_starting;
        deadline = capped(Instant::now() + limit);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::upload, *};

    #[test]
    fn a_nodes_own_answer_is_a_failure_and_a_services_is_not() {
        for error in NodeError::ALL {
            let kind = judge(error.response("x"), false).err().map(|failure| failure.kind);
            assert_eq!(kind, Some(FailureKind::Node(error)));
        }
        let mut odd = Response::new(Body::Empty);
        odd.headers_mut().insert(ERROR, http::HeaderValue::from_static("never-heard-of"));
        assert!(judge(odd, false).is_err());
        let mut plain = Response::new(Body::Empty);
        *plain.status_mut() = StatusCode::BAD_GATEWAY;
        assert!(judge(plain, false).is_ok(), "a service may well answer 502");
        let mut switched = Response::new(Body::Empty);
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        assert!(judge(switched, false).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moving_body_puts_the_deadline_off() {
        use http_body_util::{BodyExt as _, StreamBody};
        let limit = Duration::from_secs(60);
        let never = || std::future::ready(false);
        let limits = Limits { first_byte: limit, until: None };
        assert_eq!(within(&limits, None, never, std::future::pending::<()>()).await, Err(FailureKind::Slow));
        let late = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(b"x")))
        });
        let (request, upload) = upload::watch(Request::new(Body::boxed(StreamBody::new(late))), &Default::default());
        let begun = Instant::now();
        let sending = async {
            let _sent = request.into_body().collect().await;
            std::future::pending::<()>().await;
        };
        assert_eq!(within(&limits, upload.as_deref(), never, sending).await, Err(FailureKind::Slow));
        assert_eq!(begun.elapsed(), limit + Duration::from_millis(400));
        let begun = Instant::now();
        let limits = Limits { first_byte: limit, until: Some((begun + limit / 2).into_std()) };
        assert_eq!(within(&limits, None, never, std::future::pending::<()>()).await, Err(FailureKind::Expired));
        assert_eq!(begun.elapsed(), limit / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_puts_the_deadline_off_and_what_follows_has_its_time() {
        let limit = Duration::from_secs(60);
        let limits = Limits { first_byte: limit, until: None };
        let begun = Instant::now();
        // Up after 110 s, and silent from then on.
        let starting = || std::future::ready(begun.elapsed() < Duration::from_secs(110));
        assert_eq!(within(&limits, None, starting, std::future::pending::<()>()).await, Err(FailureKind::Slow));
        assert_eq!(begun.elapsed(), limit * 3, "asked after 60 s (starting) and 120 s (up), given up after 180 s");
        let begun = Instant::now();
        let answer = async { tokio::time::sleep(Duration::from_secs(130)).await };
        let starting = || std::future::ready(begun.elapsed() < Duration::from_secs(110));
        assert_eq!(within(&limits, None, starting, answer).await, Ok(()));
        let begun = Instant::now();
        let for_ever = || std::future::ready(true);
        assert_eq!(within(&limits, None, for_ever, std::future::pending::<()>()).await, Err(FailureKind::Slow));
        assert!(begun.elapsed() <= START_WAIT_MAX + limit * 4, "whatever a node says: {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_node_says_why_a_service_did_not_start() {
        let mut response = NodeError::NotStarted.response("`llm` does not start: exited with code 3");
        response.headers_mut().insert(RETRY_AFTER, 7.into());
        assert!(is_not_started(&response));
        let failure = not_started(response).await;
        assert_eq!(
            (failure.retry_after, failure.reason.as_str()),
            (Some(7), "`llm` does not start: exited with code 3")
        );
        let mut response = NodeError::NotStarted.response(&"x".repeat(1 << 20));
        response.headers_mut().insert(RETRY_AFTER, 4_000_000.into());
        let failure = not_started(response).await;
        assert_eq!(
            (failure.retry_after, failure.reason.as_str()),
            (Some(RETRY_AFTER_MAX), words(NodeError::NotStarted))
        );
    }
}
