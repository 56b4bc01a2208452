//! Sending a request to the worker that was selected: to this process by a call, to another node over the data plane,
//! with the deadline for the first byte of the answer.

use std::{future::Future, pin::pin, time::Duration};

use http::{HeaderName, Request, Response, StatusCode, header::UPGRADE};
use paceline_mesh::{
    data::SendError,
    http::{Body, ERROR_HEADER, NodeError},
};
use paceline_proto::id::ServiceName;
use tokio::time::{Instant, timeout_at};

use super::{candidates::Candidate, retry::FailureKind, upload::Upload};
use crate::{
    cluster::{Cluster, PeerClient},
    lane::Lane,
};

const ERROR: HeaderName = HeaderName::from_static(ERROR_HEADER);

/// A failed attempt.
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For the log and the caller.
    pub(crate) reason: String,
    /// The request, where it was not touched.
    pub(crate) unsent: Option<Box<Request<Body>>>,
}

impl Failure {
    fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), unsent: None }
    }
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
) -> Result<Response<Body>, Failure> {
    let upgrading = request.headers().contains_key(UPGRADE);
    let limit = lane.shared.first_byte_timeout;
    let answered = if candidate.local {
        let Some(local) = &lane.shared.local else {
            return Err(Failure::new(FailureKind::Node(NodeError::NoSuchService), "this gateway has no worker"));
        };
        let call = local.call(lane.index, service.clone(), request);
        within(limit, upload, async { Ok(call.await) }).await
    } else {
        within(limit, upload, lane.client.send(candidate.node, service, request)).await
    };
    match answered {
        None => Err(Failure::new(FailureKind::Slow, format!("no answer within {} s", limit.as_secs_f64()))),
        Some(Ok(response)) => judge(response, upgrading),
        Some(Err(SendError::Unreachable { reason, request })) => {
            Err(Failure { kind: FailureKind::Unreachable, reason, unsent: Some(request) })
        }
        Some(Err(SendError::Broken { reason })) => Err(Failure::new(FailureKind::Broken, reason)),
        Some(Err(SendError::StreamReset { reason })) => {
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

const fn words(error: NodeError) -> &'static str {
    match error {
        NodeError::NoSuchService => "the node does not offer the service any more, or not to this gateway",
        NodeError::ConnectFailed => "the node could not connect to the service",
        NodeError::ClosedEarly => "the service closed the connection before it answered",
        NodeError::BadResponse => "what the service answered is not HTTP",
        NodeError::Overloaded => "the node has too many requests for the service at once",
        NodeError::Timeout => "the service did not answer in time",
    }
}

/// Waits for `limit` after the start, or after the last byte of the body that went out: a long upload is no silence.
async fn within<T>(limit: Duration, upload: Option<&Upload>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(done) = timeout_at(deadline, &mut future).await {
            return Some(done);
        }
        deadline = upload.map_or(deadline, |upload| upload.last() + limit);
        if deadline <= Instant::now() {
            return None;
        }
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
        assert_eq!(within(limit, None, std::future::pending::<()>()).await, None);
        let late = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok::<_, std::io::Error>(http_body::Frame::data(bytes::Bytes::from_static(b"x")))
        });
        let (request, upload) = upload::watch(Request::new(Body::boxed(StreamBody::new(late))));
        let begun = Instant::now();
        let sending = async {
            let _sent = request.into_body().collect().await;
            std::future::pending::<()>().await;
        };
        assert_eq!(within(limit, upload.as_deref(), sending).await, None);
        assert_eq!(begun.elapsed(), limit + Duration::from_millis(400));
    }
}
