//! A small HTTP client for probes and commands: one request a connection, a bounded body.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};

const USER_AGENT: &str = concat!("paceline/", env!("CARGO_PKG_VERSION"));
const ACCEPT: &str = "application/json, */*;q=0.1";

/// The head of an answer, and its body, where that is within a bound.
#[derive(Debug)]
pub(crate) enum Got {
    Whole(Answer),
    /// The body goes on beyond the bound.
    Long(StatusCode),
}

impl Got {
    fn whole(self, limit: usize) -> Result<Answer, String> {
        match self {
            Self::Whole(answer) => Ok(answer),
            Self::Long(_) => Err(format!("the answer has more than {limit} bytes")),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Connects to the host and port of an `http://` URL.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn connect(url: &Uri) -> Result<TcpStream, String> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(80);
    TcpStream::connect((host, port)).await.map_err(|e| format!("cannot connect to {host}:{port}: {e}"))
}

/// `GET`, with at most `limit` bytes of body.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn get(url: &Uri, path: &str, limit: usize) -> Result<Answer, String> {
    send(url, Method::GET, path, None, None, limit).await
}

/// `GET`; a body of more than `limit` bytes is left.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn get_some(url: &Uri, path: &str, limit: usize) -> Result<Got, String> {
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    exchange(connect(url).await?, authority, Method::GET, path, None, None, limit).await
}

/// The same of a service that speaks HTTP/2 in clear.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn get_some_h2(url: &Uri, path: &str, limit: usize) -> Result<Got, String> {
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let request = Request::get(uri.map_err(|e| e.to_string())?)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, ACCEPT)
        .body(Full::<Bytes>::default())
        .map_err(|e| e.to_string())?;
    let stream = TokioIo::new(connect(url).await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(|e| words(&e))?;
    // Ends with this call, whatever the other side does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    bounded(sender.send_request(request).await.map_err(|e| words(&e))?, limit).await
}

/// Any request; `body` is JSON, `key` a bearer token.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn send(
    url: &Uri,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Option<String>,
    limit: usize,
) -> Result<Answer, String> {
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    exchange(connect(url).await?, authority, method, path, key, body, limit).await?.whole(limit)
}

/// `GET` over a connection that is open already.
///
/// # Errors
/// In words; no deadline of its own.
pub(crate) async fn get_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    path: &str,
    limit: usize,
) -> Result<Answer, String> {
    exchange(stream, authority, Method::GET, path, None, None, limit).await?.whole(limit)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Option<String>,
    limit: usize,
) -> Result<Got, String> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, ACCEPT);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| "the key is not printable")?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| words(&e))?;
    // Ends with this call, whatever the other side does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    bounded(sender.send_request(request).await.map_err(|e| words(&e))?, limit).await
}

async fn bounded(response: Response<Incoming>, limit: usize) -> Result<Got, String> {
    let (status, headers) = (response.status(), response.headers().clone());
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(Got::Whole(Answer { status, headers, body: body.to_bytes() })),
        Err(e) if e.is::<LengthLimitError>() => Ok(Got::Long(status)),
        Err(e) => Err(format!("the answer broke off: {e}")),
    }
}

/// hyper's word and its cause: `invalid HTTP version parsed`, `connection closed before message completed`.
fn words(error: &hyper::Error) -> String {
    let what = if error.is_parse() { "the answer is not HTTP: " } else { "" };
    match std::error::Error::source(error) {
        Some(cause) => format!("{what}{error}: {cause}"),
        None => format!("{what}{error}"),
    }
}
