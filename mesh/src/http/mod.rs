//! HTTP on a hop: the body type, the pool of connections, and what a hop may not pass on.

pub mod ask;
pub mod body;
pub mod client;
pub mod forward;
pub mod headers;
mod multiplex;
pub mod pool;
pub mod upgrade;

pub use body::{Body, BoxError};
pub use forward::{Protocol, Upstream};

use ::http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use futures::future::BoxFuture;
use paceline_proto::id::{NodeId, ServiceName};

/// A response header that a node sets where the answer is its own, not the service's: one of [`NodeError`]'s words.
/// A node removes every `x-paceline-*` header from what services answer, a gateway from what callers send.
pub const ERROR_HEADER: &str = "x-paceline-error";

/// Why a node could not hand a request to its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// It does not offer the service (any more). Nothing was sent: safe to retry.
    NoSuchService,
    /// The service could not be connected to. Nothing was sent: safe to retry.
    ConnectFailed,
    /// It sleeps until it is called, and did not come up in time. Nothing was sent: safe to retry, and `Retry-After` of the
    /// node's answer says when it is worth it here.
    NotStarted,
    /// The service closed or broke the connection before a response. It may have acted.
    ClosedEarly,
    /// What the service answered is not HTTP.
    BadResponse,
    /// Too many requests at once. Nothing was sent: safe to retry.
    Overloaded,
    /// The service gave no response head in time.
    Timeout,
    /// The service is not for this gateway. Nothing was sent: safe to retry.
    NotAllowed,
}

impl NodeError {
    /// All of them.
    pub const ALL: [NodeError; 8] = [
        NodeError::NoSuchService,
        NodeError::ConnectFailed,
        NodeError::NotStarted,
        NodeError::ClosedEarly,
        NodeError::BadResponse,
        NodeError::Overloaded,
        NodeError::Timeout,
        NodeError::NotAllowed,
    ];

    /// The word in [`ERROR_HEADER`].
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeError::NoSuchService => "no-such-service",
            NodeError::ConnectFailed => "connect-failed",
            NodeError::NotStarted => "not-started",
            NodeError::ClosedEarly => "closed-early",
            NodeError::BadResponse => "bad-response",
            NodeError::Overloaded => "overloaded",
            NodeError::Timeout => "timeout",
            NodeError::NotAllowed => "not-allowed",
        }
    }

    /// The status that goes with it.
    pub const fn status(self) -> StatusCode {
        match self {
            NodeError::NoSuchService | NodeError::NotStarted | NodeError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            NodeError::ConnectFailed | NodeError::ClosedEarly | NodeError::BadResponse => StatusCode::BAD_GATEWAY,
            NodeError::Timeout => StatusCode::GATEWAY_TIMEOUT,
            NodeError::NotAllowed => StatusCode::FORBIDDEN,
        }
    }

    /// The node's own answer: [`ERROR_HEADER`], and a body `{"error": reason}`.
    pub fn response(self, reason: &str) -> Response<Body> {
        let mut response = Response::new(Body::full(serde_json::json!({ "error": reason }).to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(ERROR_HEADER), HeaderValue::from_static(self.as_str()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Which of them a node's response states, if any.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let word = headers.get(ERROR_HEADER)?;
        NodeError::ALL.into_iter().find(|error| word == error.as_str())
    }

    /// Whether the service has certainly not seen the request.
    pub const fn nothing_sent(self) -> bool {
        match self {
            NodeError::NoSuchService
            | NodeError::ConnectFailed
            | NodeError::NotStarted
            | NodeError::Overloaded
            | NodeError::NotAllowed => true,
            NodeError::ClosedEarly | NodeError::BadResponse | NodeError::Timeout => false,
        }
    }
}

/// Serves requests for this process's own services: called by the data plane for streams that gateways open, and by
/// the gateway of the same process without any network hop.
///
/// The request's URI is in origin form, as the service is to see it; hop-by-hop headers are gone, `Upgrade` and
/// `Connection: upgrade` of an upgrade request apart. The request's extensions may hold hyper's `OnUpgrade`; a `101`
/// answer carries its own `OnUpgrade` in the response's extensions, and the caller joins the two.
pub trait ServiceHandler: Send + Sync + 'static {
    /// Serves one request on the lane (runtime) that calls; a failure is a response with [`ERROR_HEADER`].
    fn call(
        &self,
        lane: usize,
        service: ServiceName,
        request: ::http::Request<Body>,
    ) -> BoxFuture<'static, ::http::Response<Body>>;

    /// Whether a gateway may call a service; asked before each request.
    ///
    /// # Errors
    /// It may not, in words for its caller.
    fn admits(&self, _service: &ServiceName, _gateway: &NodeId) -> Result<(), String> {
        Ok(())
    }

    /// Requests under way on all lanes; the node's heartbeats say so.
    fn in_flight(&self) -> u32 {
        0
    }
}
