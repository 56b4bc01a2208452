//! Whether a failed attempt may be made once more on another worker: only where the service cannot have acted, or may
//! act twice, and only with the body at hand.

use http::{Method, Request, StatusCode};
use paceline_mesh::http::{Body, NodeError};

use super::{answer::Attempt, eject::Weight};

/// Attempts after the first, where an attempt has failed: one more for the worker that broke, one for the case that the
/// next one breaks too.
pub(crate) const RETRIES_MAX: usize = 2;
/// Attempts in all, those that found a worker too busy among them: they cost a round trip, and the service nothing.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The node could not be reached; nothing was sent.
    Unreachable,
    /// The connection with the node broke; the service may have acted.
    Broken,
    /// The node could not hand it to its service.
    Node(NodeError),
    /// No response head in time.
    Slow,
    /// The request's time as a whole was up.
    Expired,
}

impl FailureKind {
    /// Between whom it failed.
    pub(crate) const fn hop(self) -> &'static str {
        match self {
            FailureKind::Unreachable | FailureKind::Broken => "gateway-node",
            // The hop between gateway and node watches itself: a silent service is what remains.
            FailureKind::Node(_) | FailureKind::Slow | FailureKind::Expired => "node-service",
        }
    }

    /// What the caller is told.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            FailureKind::Slow | FailureKind::Expired | FailureKind::Node(NodeError::Timeout) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            FailureKind::Node(NodeError::Overloaded) => StatusCode::TOO_MANY_REQUESTS,
            FailureKind::Node(NodeError::NotStarted) => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Node(NodeError::NotAllowed) => StatusCode::FORBIDDEN,
            FailureKind::Unreachable | FailureKind::Broken | FailureKind::Node(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether the worker only has enough to do.
    pub(crate) const fn is_busy(self) -> bool {
        matches!(self, FailureKind::Node(NodeError::Overloaded))
    }

    /// Whether the worker did not even try: it has enough to do, or the service is not for this gateway.
    pub(crate) const fn is_passed_on(self) -> bool {
        matches!(self, FailureKind::Node(NodeError::Overloaded | NodeError::NotAllowed))
    }

    /// Whether the service has certainly not seen the request.
    pub(crate) const fn nothing_sent(self) -> bool {
        match self {
            FailureKind::Unreachable => true,
            FailureKind::Node(error) => error.nothing_sent(),
            FailureKind::Broken | FailureKind::Slow | FailureKind::Expired => false,
        }
    }

    /// Whether it speaks against the node rather than its service.
    pub(crate) const fn is_of_data_plane(self) -> bool {
        matches!(self, FailureKind::Unreachable | FailureKind::Broken)
    }

    /// What it says of the worker: one that is slow or busy is left in peace.
    pub(crate) const fn weight(self) -> Weight {
        match self {
            FailureKind::Unreachable => Weight::All,
            FailureKind::Slow
            | FailureKind::Expired
            | FailureKind::Node(NodeError::Timeout | NodeError::Overloaded | NodeError::NotAllowed) => Weight::Nothing,
            FailureKind::Broken | FailureKind::Node(_) => Weight::One,
        }
    }
}

/// Methods that may be carried out twice (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Whether a request may go on after the last of these attempts, be it elsewhere or later. `made` is how many there were
/// in all: of those at one busy worker, only the last is among `tried`.
pub(crate) fn may_go_on(tried: &[Attempt], made: usize, idempotent: bool) -> bool {
    let failures = tried.iter().filter(|attempt| !attempt.kind.is_passed_on()).count();
    made < ATTEMPTS_MAX && failures <= RETRIES_MAX && tried.last().is_some_and(|last| may_retry(last.kind, idempotent))
}

/// Adds an attempt, in the place of an earlier one at the same worker.
pub(crate) fn note(tried: &mut Vec<Attempt>, attempt: Attempt) {
    tried.retain(|earlier| earlier.excludes || earlier.node != attempt.node);
    tried.push(attempt);
}

/// Lets those be asked again who only had enough to do; whether there is such a one.
pub(crate) fn readmit(tried: &mut [Attempt]) -> bool {
    let busy = |attempt: &&mut Attempt| attempt.excludes && attempt.kind.is_busy();
    tried.iter_mut().filter(busy).map(|attempt| attempt.excludes = false).count() > 0
}

/// Whether another worker may be asked. A timeout is not tried again: the caller has waited long enough, and the
/// service may still be at it.
fn may_retry(kind: FailureKind, idempotent: bool) -> bool {
    let timed_out = matches!(kind, FailureKind::Slow | FailureKind::Expired | FailureKind::Node(NodeError::Timeout));
    kind.nothing_sent() || (idempotent && !timed_out)
}

/// The request once more, where its body is at hand.
pub(crate) fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let body = match request.body() {
        Body::Empty => Body::Empty,
        Body::Full(bytes) => Body::Full(bytes.clone()),
        _ => return None,
    };
    let mut spare = Request::new(body);
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.headers_mut() = request.headers().clone();
    *spare.extensions_mut() = request.extensions().clone();
    Some(spare)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use paceline_mesh::data::PathKind;

    use super::*;
    use crate::testing::{name, node};

    /// The rule, as a table: (failure, may a POST go on, may a GET go on).
    #[test]
    fn the_retry_rule() {
        use FailureKind::{Broken, Expired, Node, Slow, Unreachable};
        let table = [
            (Unreachable, true, true),
            (Broken, false, true),
            (Slow, false, false),
            (Expired, false, false),
            (Node(NodeError::NoSuchService), true, true),
            (Node(NodeError::ConnectFailed), true, true),
            (Node(NodeError::NotStarted), true, true),
            (Node(NodeError::ClosedEarly), false, true),
            (Node(NodeError::BadResponse), false, true),
            (Node(NodeError::Overloaded), true, true),
            (Node(NodeError::Timeout), false, false),
            (Node(NodeError::NotAllowed), true, true),
        ];
        assert_eq!(table.len(), NodeError::ALL.len() + 4, "every kind of failure");
        for (kind, post, get) in table {
            assert_eq!(may_retry(kind, false), post, "{kind:?}");
            assert_eq!(may_retry(kind, true), get, "{kind:?}");
        }
    }

    fn tried(kinds: &[FailureKind]) -> Vec<Attempt> {
        let one = |(n, kind): (usize, &FailureKind)| Attempt {
            node: node(n as u8),
            worker: name("w"),
            path: PathKind::Direct,
            kind: *kind,
            error: String::new(),
            retry_after: None,
            excludes: true,
        };
        kinds.iter().enumerate().map(one).collect()
    }

    #[test]
    fn a_busy_worker_is_passed_by_more_often_than_a_failed_one() {
        use FailureKind::{Node, Unreachable};
        let busy = Node(NodeError::Overloaded);
        for (kinds, on) in [
            (&[Unreachable][..], true),
            (&[Unreachable, Unreachable], true),
            (&[Unreachable, Unreachable, Unreachable], false),
            (&[busy; 7], true),
            (&[busy; 8], false),
            (&[busy, Unreachable], true),
            (&[Unreachable, busy, Unreachable, Unreachable], false),
        ] {
            assert_eq!(may_go_on(&tried(kinds), kinds.len(), false), on, "{kinds:?}");
        }
    }

    #[test]
    fn only_who_was_busy_is_asked_again_and_stands_once() {
        let mut all = tried(&[FailureKind::Unreachable, FailureKind::Node(NodeError::Overloaded)]);
        assert!(readmit(&mut all) && !readmit(&mut all));
        assert_eq!(all.iter().map(|attempt| attempt.excludes).collect::<Vec<_>>(), [true, false]);
        let mut again = tried(&[FailureKind::Unreachable, FailureKind::Broken]);
        note(&mut all, again.pop().expect("two"));
        let kinds: Vec<_> = all.iter().map(|attempt| attempt.kind).collect();
        assert_eq!(kinds, [FailureKind::Unreachable, FailureKind::Broken]);
    }

    #[test]
    fn only_some_methods_may_act_twice() {
        for (method, idempotent) in [("GET", true), ("PUT", true), ("DELETE", true), ("POST", false), ("PATCH", false)]
        {
            assert_eq!(is_idempotent(&method.parse().expect("method")), idempotent, "{method}");
        }
        assert!(!is_idempotent(&"PURGE".parse().expect("method")));
    }

    #[tokio::test]
    async fn a_spare_is_the_same_request() {
        let request = Request::put("/a?b").header("x", "1").body(Body::full("abc")).expect("request");
        let spare = spare(&request).expect("at hand");
        assert_eq!(
            (spare.method(), spare.uri(), spare.headers()),
            (request.method(), request.uri(), request.headers())
        );
        assert_eq!(spare.into_body().collect().await.expect("body").to_bytes(), "abc");
        let streamed = Request::new(Body::boxed(http_body_util::Full::new(Bytes::from_static(b"x"))));
        assert!(super::spare(&streamed).is_none());
    }
}
