//! What a gateway asks a node itself, not one of its services: over the same streams, under a host that no caller can
//! name together with the header, because a gateway takes every `x-paceline-*` header from what callers send.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use paceline_proto::id::ServiceName;

use super::Body;

/// The service name that stands for the node itself. A service that bears it is called by its callers; questions are
/// answered only where there is none.
pub const NODE: &str = "paceline-node";
/// The question, in [`Ask`]'s words.
pub const ASK_HEADER: &str = "x-paceline-ask";
/// Most bytes of an answer that a gateway reads.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Longest that a request waits for a service that starts on demand, and so the most that a `start_timeout` may be.
pub const START_WAIT_MAX: Duration = Duration::from_secs(3600);

/// A question to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Processor, memory, disk and GPUs, as the node read them last: a JSON object.
    Hardware,
    /// Whether a service on demand is still on its way up: `{"starting": bool}`. Asked where a request has had no answer
    /// for so long that the service would be given up.
    Starting(ServiceName),
}

impl Ask {
    const HARDWARE: &'static str = "hardware";
    const STARTING: &'static str = "starting";

    /// The question that a request's headers hold; `None` where there is none, or one of a newer gateway.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let words = headers.get(ASK_HEADER)?.to_str().ok()?;
        match words.split_once(' ') {
            None if words == Self::HARDWARE => Some(Self::Hardware),
            Some((Self::STARTING, name)) => ServiceName::new(name).ok().map(Self::Starting),
            _ => None,
        }
    }

    /// The request that asks, for the service [`NODE`].
    pub fn request(&self) -> Request<Body> {
        let words = match self {
            Self::Hardware => Ok(HeaderValue::from_static(Self::HARDWARE)),
            Self::Starting(name) => HeaderValue::try_from(format!("{} {name}", Self::STARTING)),
        };
        let mut request = Request::new(Body::Empty);
        // Names of services are plain ASCII; a question that could not be said would be answered as none.
        if let Ok(words) = words {
            request.headers_mut().insert(HeaderName::from_static(ASK_HEADER), words);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_and_nothing_else() {
        for ask in [Ask::Hardware, Ask::Starting(ServiceName::new("llm").unwrap())] {
            assert_eq!(Ask::of(ask.request().headers()), Some(ask));
        }
        assert!(ServiceName::new(NODE).is_ok(), "it can stand as a host");
        for words in ["", "hardware x", "starting", "starting ", "starting a b", "starting UP", "more"] {
            let mut headers = HeaderMap::new();
            headers.insert(ASK_HEADER, words.parse().unwrap());
            assert_eq!(Ask::of(&headers), None, "{words:?}");
        }
        assert_eq!(Ask::of(&HeaderMap::new()), None);
    }
}
