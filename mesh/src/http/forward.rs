//! A client for one HTTP service beside the node: pooled TCP connections on each lane, failures as [`NodeError`]s.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Body, NodeError,
    client::{self, Sender},
    headers::{strip_own, strip_response},
    pool::{Pool, PoolLimits},
};

/// To a connection with the service.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pool of each lane. Servers commonly close a connection that was idle for 5 s: ours goes first, so that a request
/// never meets the close.
const LIMITS: PoolLimits = PoolLimits { idle_max: 1024, idle_age_max: Duration::from_secs(4), open_max: 4096 };

/// How often a request goes out again when its pooled connection turned out closed before anything was sent.
const ATTEMPTS: usize = 3;

/// What is wrong with a service's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UpstreamError(String);

/// One service at `http://host:port/base`. Share it; it holds the pools.
pub struct Upstream {
    authority: Authority,
    host: HeaderValue,
    /// What the service's paths begin with; empty or `/...` without a slash at its end.
    base: String,
    port: u16,
    pools: Vec<Arc<Pool<Sender>>>,
    head_timeout: Option<Duration>,
}

impl Upstream {
    /// A service by its URL, for `lanes` lanes. `head_timeout` bounds the wait for a response head.
    ///
    /// # Errors
    /// Not an `http://` URL, or one with a query or user part.
    pub fn new(url: &Uri, lanes: usize, head_timeout: Option<Duration>) -> Result<Self, UpstreamError> {
        let wrong = |what: &str| UpstreamError(format!("{url}: {what}"));
        if url.scheme_str() != Some("http") {
            return Err(wrong("must begin with http://"));
        }
        let authority = url.authority().cloned().ok_or_else(|| wrong("has no host"))?;
        if authority.host().is_empty() {
            return Err(wrong("has no host"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("user names in URLs are not supported"));
        }
        if url.query().is_some() {
            return Err(wrong("must have no query"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("has no usable host"))?;
        let base = url.path().trim_end_matches('/').to_owned();
        let port = authority.port_u16().unwrap_or(80);
        let pools = (0..lanes.max(1)).map(|_| Pool::new(LIMITS)).collect();
        Ok(Self { authority, host, base, port, pools, head_timeout })
    }

    /// Where it is.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Forwards the request (origin-form URI, hop-by-hop headers gone) and returns the response, fit for the next
    /// hop. A `101` carries hyper's `OnUpgrade` in its extensions. A failure is a response with
    /// [`super::ERROR_HEADER`].
    pub async fn forward(&self, lane: usize, mut request: Request<Body>) -> Response<Body> {
        if let Err(response) = self.address(&mut request) {
            return *response;
        }
        let pool = &self.pools[lane % self.pools.len()];
        for _ in 0..ATTEMPTS {
            let sender = match pool.take() {
                Some(sender) => sender,
                None => match self.connect(pool).await {
                    Ok(sender) => sender,
                    Err((error, reason)) => return error.response(&reason),
                },
            };
            let exchange = client::exchange(pool, sender, request);
            let result = match self.head_timeout {
                None => exchange.await,
                Some(limit) => match timeout(limit, exchange).await {
                    Ok(result) => result,
                    Err(_) => {
                        let reason = format!("{} gave no answer within {} s", self.authority, limit.as_secs_f32());
                        return NodeError::Timeout.response(&reason);
                    }
                },
            };
            match result {
                Ok(mut response) => {
                    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                    strip_response(response.headers_mut(), switched);
                    strip_own(response.headers_mut());
                    // Each hop speaks its own version (RFC 9110, 2.5): a service's HTTP/1.0 must not end the stream.
                    *response.version_mut() = http::Version::HTTP_11;
                    return response;
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return self.broken(&error.into_error()),
                },
            }
        }
        NodeError::ConnectFailed.response(&format!("{} closes every connection", self.authority))
    }

    /// Makes the request the service's: its host, and its base path.
    fn address(&self, request: &mut Request<Body>) -> Result<(), Box<Response<Body>>> {
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(HOST, self.host.clone());
        if !self.base.is_empty() {
            let rest = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let slash = if rest.starts_with('/') { "" } else { "/" };
            match format!("{}{slash}{rest}", self.base).parse::<Uri>() {
                Ok(uri) => *request.uri_mut() = uri,
                Err(error) => {
                    let reason = format!("the path does not fit behind {}: {error}", self.base);
                    return Err(Box::new(NodeError::NoSuchService.response(&reason)));
                }
            }
        }
        Ok(())
    }

    async fn connect(&self, pool: &Arc<Pool<Sender>>) -> Result<Sender, (NodeError, String)> {
        if pool.is_full() {
            return Err((NodeError::Overloaded, format!("too many connections to {}", self.authority)));
        }
        let failed = |reason: &dyn std::fmt::Display| {
            (NodeError::ConnectFailed, format!("cannot connect to {}: {reason}", self.authority))
        };
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, self.port))).await {
            Ok(stream) => stream.map_err(|error| failed(&error))?,
            Err(_) => return Err(failed(&format_args!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        };
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        client::adopt(pool, TokioIo::new(stream)).await.map_err(|error| failed(&error))
    }

    fn broken(&self, error: &hyper::Error) -> Response<Body> {
        use std::error::Error;
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        if error.is_parse() {
            NodeError::BadResponse.response(&format!("what {} answers is not HTTP: {error}{cause}", self.authority))
        } else {
            NodeError::ClosedEarly
                .response(&format!("{} broke the connection before a response: {error}{cause}", self.authority))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(url: &str) -> Result<Upstream, UpstreamError> {
        Upstream::new(&url.parse().expect("a URI"), 1, None)
    }

    #[test]
    fn urls_are_checked() {
        assert_eq!(upstream("http://127.0.0.1:8100").expect("fine").authority().as_str(), "127.0.0.1:8100");
        for bad in ["https://a", "/a", "http://u:p@a", "http://a/?q", "ftp://a"] {
            assert!(upstream(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_base_path_comes_first() {
        for (url, path, want) in [
            ("http://a:1", "/x?y=1", "/x?y=1"),
            ("http://a:1/", "/x", "/x"),
            ("http://a:1/base/", "/x?y=1", "/base/x?y=1"),
            ("http://a:1/base", "/", "/base/"),
        ] {
            let mut request = Request::builder().uri(path).header(HOST, "svc").body(Body::Empty).expect("a request");
            upstream(url).expect("fine").address(&mut request).expect("fits");
            assert_eq!(request.uri().to_string(), want);
            assert_eq!(request.headers()[HOST], "a:1");
        }
    }
}
