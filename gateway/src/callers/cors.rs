//! Pages of other origins (Fetch, section 3.2): only those that are configured, and never with cookies: a page shows
//! its own key.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use paceline_mesh::http::Body;

use crate::outgoing::Outgoing;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Request-Id, X-Paceline-Worker, X-Paceline-Path, Retry-After");
const HEADERS: HeaderValue = HeaderValue::from_static("Authorization, Content-Type, X-API-Key");
/// How long browsers remember a preflight, in seconds.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("600");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// `--cors-origin`.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
}

impl Cors {
    /// `None` where no page of another origin may call.
    pub(crate) fn new(origins: &[String]) -> Option<Self> {
        let list: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        (!list.is_empty()).then(|| Self { any: origins.iter().any(|origin| origin == "*"), origins: list })
    }

    /// The origin of a request, where its pages may call.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        (self.any || self.origins.contains(origin)).then(|| origin.clone())
    }
}

/// Answers a preflight, which bears no credentials; `None` where it is none.
pub(crate) fn preflight<B>(request: &Request<B>) -> Option<Response<Outgoing>> {
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut response = Response::new(Outgoing::own(Body::Empty));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(HEADERS),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    if request.headers().contains_key(PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    Some(response)
}

/// Lets the page read an answer, whatever the service said of it.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_origins_and_no_others() {
        assert!(Cors::new(&[]).is_none());
        let cors = Cors::new(&["https://app.example".to_owned()]).expect("one");
        let of = |cors: &Cors, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            cors.origin(&headers).is_some()
        };
        assert!(of(&cors, "https://app.example"));
        for other in ["http://app.example", "https://app.example:444", "https://app.example.evil", "null"] {
            assert!(!of(&cors, other), "{other}");
        }
        assert!(of(&Cors::new(&["*".to_owned()]).expect("all"), "null"));
        assert!(cors.origin(&HeaderMap::new()).is_none());
    }
}
