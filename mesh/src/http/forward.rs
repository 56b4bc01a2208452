//! A client for one HTTP service beside the node: pooled TCP connections on each lane, or shared ones where the service
//! speaks HTTP/2; failures as [`NodeError`]s.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Body, NodeError,
    client::{self, Sender},
    headers::{strip_own, strip_response},
    multiplex::{self, Links, Slot},
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

/// What a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// HTTP/1.1, as nearly all do.
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2 in clear, by prior knowledge: gRPC servers.
    #[serde(rename = "h2")]
    Http2,
}

/// The connections, for each lane.
enum Connections {
    Pools(Vec<Arc<Pool<Sender>>>),
    Shared(Vec<Links>),
}

/// One service at `http://host:port/base`. Share it; it holds the pools.
pub struct Upstream {
    authority: Authority,
    host: HeaderValue,
    /// What the service's paths begin with; empty or `/...` without a slash at its end.
    base: String,
    port: u16,
    connections: Connections,
    head_timeout: Option<Duration>,
}

impl Upstream {
    /// A service by its URL, for `lanes` lanes, that speaks HTTP/1.1. `head_timeout` bounds the wait for a response head.
    ///
    /// # Errors
    /// Not an `http://` URL, or one with a query or user part.
    pub fn new(url: &Uri, lanes: usize, head_timeout: Option<Duration>) -> Result<Self, UpstreamError> {
        Self::speaking(Protocol::Http1, url, lanes, head_timeout)
    }

    /// The same for a service that speaks `protocol`.
    ///
    /// # Errors
    /// Likewise.
    pub fn speaking(
        protocol: Protocol,
        url: &Uri,
        lanes: usize,
        head_timeout: Option<Duration>,
    ) -> Result<Self, UpstreamError> {
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
        let each = 0..lanes.max(1);
        let connections = match protocol {
            Protocol::Http1 => Connections::Pools(each.map(|_| Pool::new(LIMITS)).collect()),
            Protocol::Http2 => Connections::Shared(each.map(|_| Links::new()).collect()),
        };
        Ok(Self { authority, host, base, port, connections, head_timeout })
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
        let pool = match &self.connections {
            Connections::Pools(pools) => &pools[lane % pools.len()],
            Connections::Shared(links) => return Box::pin(self.multiplex(&links[lane % links.len()], request)).await,
        };
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
                    Err(_) => return self.late(limit),
                },
            };
            match result {
                Ok(mut response) => {
                    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                    strip_response(response.headers_mut(), switched);
                    strip_own(response.headers_mut());
                    if response.status() == StatusCode::NO_CONTENT {
                        // It has no body, whatever it says (RFC 9110, 8.6).
                        response.headers_mut().remove(CONTENT_LENGTH);
                    }
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

    /// The same over a shared connection.
    async fn multiplex(&self, links: &Links, mut request: Request<Body>) -> Response<Body> {
        multiplex::strip(&mut request);
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(self.authority.clone()));
        match Uri::from_parts(uri) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return NodeError::BadResponse.response(&format!("no path for {}: {error}", self.authority)),
        }
        *request.version_mut() = Version::HTTP_2;
        for _ in 0..ATTEMPTS {
            let slot = match self.slot(links).await {
                Ok(slot) => slot,
                Err((error, reason)) => return error.response(&reason),
            };
            let exchange = multiplex::exchange(slot, request);
            let result = match self.head_timeout {
                None => exchange.await,
                Some(limit) => match timeout(limit, exchange).await {
                    Ok(result) => result,
                    Err(_) => return self.late(limit),
                },
            };
            match result {
                Ok(mut response) => {
                    strip_response(response.headers_mut(), false);
                    strip_own(response.headers_mut());
                    *response.version_mut() = Version::HTTP_11;
                    return response;
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => {
                        let (error, reason) = multiplex::judge(&error.into_error());
                        return error.response(&format!("{} {reason}", self.authority));
                    }
                },
            }
        }
        NodeError::ConnectFailed.response(&format!("{} closes every connection", self.authority))
    }

    /// A place on a shared connection, which is made where there is none.
    async fn slot(&self, links: &Links) -> Result<Slot, (NodeError, String)> {
        if let Some(slot) = links.slot() {
            return Ok(slot);
        }
        // Whoever waits for its turn longer than a connection may take has waited for one that failed.
        let Ok(_turn) = timeout(CONNECT_TIMEOUT, links.turn.acquire()).await else {
            return Err(self.unconnected(&format_args!("no answer within {} s", CONNECT_TIMEOUT.as_secs())));
        };
        if let Some(slot) = links.slot() {
            return Ok(slot);
        }
        links.adopt(self.dial().await?).await.map_err(|error| self.unconnected(&error))
    }

    fn late(&self, limit: Duration) -> Response<Body> {
        let reason = format!("{} gave no answer within {} s", self.authority, limit.as_secs_f32());
        NodeError::Timeout.response(&reason)
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
        let stream = self.dial().await?;
        client::adopt(pool, TokioIo::new(stream)).await.map_err(|error| self.unconnected(&error))
    }

    async fn dial(&self) -> Result<TcpStream, (NodeError, String)> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, self.port))).await {
            Ok(stream) => stream.map_err(|error| self.unconnected(&error))?,
            Err(_) => {
                return Err(self.unconnected(&format_args!("no answer within {} s", CONNECT_TIMEOUT.as_secs())));
            }
        };
        stream.set_nodelay(true).map_err(|error| self.unconnected(&error))?;
        Ok(stream)
    }

    fn unconnected(&self, reason: &dyn std::fmt::Display) -> (NodeError, String) {
        (NodeError::ConnectFailed, format!("cannot connect to {}: {reason}", self.authority))
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
