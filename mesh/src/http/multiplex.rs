//! HTTP/2 in clear, by prior knowledge, to a service that speaks it (gRPC servers do): few connections on each lane,
//! which all requests share, each as a stream of its own. A connection that has ended, or that the service is about to
//! end, takes no new stream.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE},
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{Builder, SendRequest},
    },
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, sync::Semaphore};

use super::{Body, NodeError, client::HEAD_BYTES_MAX};

/// Streams of a connection before another one is opened: servers commonly take 100, and one more would wait for a free
/// one, behind event streams perhaps for ever.
const STREAMS_USUAL: usize = 64;
/// Most connections of a lane; beyond, their streams become more.
const CONNECTIONS_MAX: usize = 16;
/// What a service may send of one response before it is read, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all responses of a connection: so much that readers who stand still do not hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_USUAL as u32;
/// What waits to be sent of one request, in bytes.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// The kernel asks a service that says nothing for so long whether it is there. Not a PING of HTTP/2: gRPC servers end a
/// connection that has sent three of them within minutes.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The connections of one lane.
pub(super) struct Links {
    open: Mutex<Vec<Link>>,
    /// Held by whoever connects: a burst of requests makes one connection, not one each.
    pub(super) turn: Semaphore,
}

struct Link {
    sender: SendRequest<Body>,
    streams: Arc<AtomicUsize>,
}

/// A stream that is to be, on the connection that has the fewest.
pub(super) struct Slot {
    sender: SendRequest<Body>,
    stream: Counted,
}

/// One of a connection's streams, until it is dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Link {
    fn slot(&self) -> Slot {
        self.streams.fetch_add(1, Relaxed);
        Slot { sender: self.sender.clone(), stream: Counted(self.streams.clone()) }
    }
}

impl Links {
    pub(super) fn new() -> Self {
        Self { open: Mutex::default(), turn: Semaphore::new(1) }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Link>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection; `None` where there should be another connection first.
    pub(super) fn slot(&self) -> Option<Slot> {
        let mut open = self.open();
        open.retain(|link| !link.sender.is_closed());
        let link = open.iter().min_by_key(|link| link.streams.load(Relaxed))?;
        let has_room = link.streams.load(Relaxed) < STREAMS_USUAL || open.len() >= CONNECTIONS_MAX;
        has_room.then(|| link.slot())
    }

    /// Takes up a new connection, and gives a place on it.
    ///
    /// # Errors
    /// The connection broke at once.
    pub(super) async fn adopt(&self, stream: TcpStream) -> Result<Slot, hyper::Error> {
        let alive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        // Where the system refuses, a service that is gone is noticed by whoever waits for it.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&alive);
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends when nobody has a sender any more and the last stream has ended.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a shared connection ended");
            }
        });
        let link = Link { sender, streams: Arc::default() };
        let slot = link.slot();
        self.open().push(link);
        Ok(slot)
    }
}

/// Sends the request as a stream, and waits for the response's head. Dropped before that, or with the response's body,
/// the stream is reset, and the service knows.
///
/// # Errors
/// hyper's, with the request where nothing of it was sent.
pub(super) async fn exchange(
    slot: Slot,
    request: Request<Body>,
) -> Result<Response<Body>, TrySendError<Request<Body>>> {
    let Slot { mut sender, stream } = slot;
    let response = sender.try_send_request(request).await?;
    Ok(response.map(|incoming| match incoming.is_end_stream() {
        true => Body::Empty,
        false => Body::boxed(Streamed { incoming, _stream: stream }),
    }))
}

/// Takes out what has no place in HTTP/2: an upgrade too, so that the service answers without it (RFC 9110, 7.8).
pub(super) fn strip(request: &mut Request<Body>) {
    let headers = request.headers_mut();
    for name in [HOST, CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
}

/// What became of a request that got no response, and the reason in words.
pub(super) fn judge(error: &hyper::Error) -> (NodeError, String) {
    use std::error::Error;
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let words = |what: &str| match cause {
        Some(cause) => format!("{what}: {cause}"),
        None => format!("{what}: {error}"),
    };
    match cause {
        // The service has not looked at it (RFC 9113, 8.7).
        Some(cause) if cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            (NodeError::Overloaded, words("takes no further request"))
        }
        // One that it has looked at would have been answered on the old connection (RFC 9113, 6.8).
        Some(cause) if cause.is_go_away() && cause.is_remote() => {
            (NodeError::ConnectFailed, words("closed the connection before the request"))
        }
        Some(cause) if cause.is_library() => (NodeError::BadResponse, words("does not speak HTTP/2")),
        _ => (NodeError::ClosedEarly, words("broke off before a response")),
    }
}

/// A response's body, whose stream counts until its end.
struct Streamed {
    incoming: Incoming,
    _stream: Counted,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::StatusCode;
    use http_body_util::BodyExt;
    use hyper::{server::conn::http2, service::service_fn};
    use tokio::{net::TcpListener, sync::Barrier, task::JoinSet, time::timeout};

    use super::*;
    use crate::http::{ERROR_HEADER, Protocol, Upstream};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn listen() -> (TcpListener, Arc<Upstream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}/base", listener.local_addr().expect("address")).parse().expect("a URL");
        (listener, Arc::new(Upstream::speaking(Protocol::Http2, &url, 1, None).expect("an upstream")))
    }

    fn get() -> Request<Body> {
        Request::get("/x")
            .header(HOST, "svc")
            .header(TRANSFER_ENCODING, "chunked")
            .body(Body::Empty)
            .expect("a request")
    }

    async fn text(response: Response<Body>) -> String {
        let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("whole");
        String::from_utf8_lossy(&body.to_bytes()).into_owned()
    }

    #[tokio::test]
    async fn many_requests_share_few_connections() {
        const REQUESTS: usize = 3 * STREAMS_USUAL;
        let (listener, upstream) = listen().await;
        let connections = Arc::new(AtomicUsize::new(0));
        // Answered only when all are there.
        let (count, all) = (connections.clone(), Arc::new(Barrier::new(REQUESTS)));
        let server = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let all = all.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let all = all.clone();
                    async move {
                        all.wait().await;
                        Ok::<_, Infallible>(Response::new(Body::full(request.uri().to_string())))
                    }
                });
                let http = http2::Builder::new(TokioExecutor::new());
                serving.spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        let mut asking = JoinSet::new();
        for _ in 0..REQUESTS {
            let upstream = upstream.clone();
            asking.spawn(async move { text(upstream.forward(0, get()).await).await });
        }
        while let Some(answer) = timeout(PATIENCE, asking.join_next()).await.expect("in time") {
            assert_eq!(answer.expect("answered"), format!("http://{}/base/x", upstream.authority()));
        }
        assert_eq!(connections.load(Relaxed), 3);
        server.abort();
    }

    /// Serves one connection: `refused` streams are refused, the next is answered, and then it ends.
    async fn one(listener: &TcpListener, refused: usize) {
        let (stream, _) = listener.accept().await.expect("accept");
        let mut connection = h2::server::handshake(stream).await.expect("handshake");
        for _ in 0..refused {
            let (_, mut respond) = connection.accept().await.expect("a stream").expect("a request");
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
        let (_, mut respond) = connection.accept().await.expect("a stream").expect("a request");
        let response = Response::builder().header(ERROR_HEADER, "timeout").body(()).expect("a head");
        let mut body = respond.send_response(response, false).expect("sent");
        body.send_data(Bytes::from_static(b"served"), false).expect("sent");
        body.send_trailers(http::HeaderMap::from_iter([("x-sum".parse().expect("a name"), 1.into())])).expect("sent");
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_is_replaced_and_a_refusal_is_told() {
        let (listener, upstream) = listen().await;
        let server = tokio::spawn(async move {
            one(&listener, 1).await;
            one(&listener, 0).await;
        });
        let refused = upstream.forward(0, get()).await;
        assert_eq!(NodeError::of(refused.headers()), Some(NodeError::Overloaded), "nothing of it was looked at");
        for _ in 0..2 {
            let response = upstream.forward(0, get()).await;
            assert_eq!(
                (response.status(), NodeError::of(response.headers())),
                (StatusCode::OK, None),
                "no word of ours"
            );
            let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("whole");
            assert_eq!(body.trailers().map(|trailers| trailers["x-sum"].clone()), Some(1.into()));
            assert_eq!(body.to_bytes(), "served");
        }
        timeout(PATIENCE, server).await.expect("in time").expect("served");
        let gone = upstream.forward(0, get()).await;
        assert_eq!(NodeError::of(gone.headers()), Some(NodeError::ConnectFailed));
    }

    #[tokio::test]
    async fn whoever_goes_is_seen_by_the_service() {
        let (listener, upstream) = listen().await;
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut connection = h2::server::handshake(stream).await.expect("handshake");
            let (one, mut first) = connection.accept().await.expect("a stream").expect("a request");
            let (_, mut second) = connection.accept().await.expect("a stream").expect("a request");
            if one.method() == http::Method::PUT {
                std::mem::swap(&mut first, &mut second);
            }
            let mut body = second.send_response(Response::new(()), false).expect("sent");
            let driven = tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let reasons = (
                std::future::poll_fn(|cx| first.poll_reset(cx)).await.expect("a reset"),
                std::future::poll_fn(|cx| body.poll_reset(cx)).await.expect("a reset"),
            );
            driven.abort();
            reasons
        });
        let waiting = tokio::spawn({
            let upstream = upstream.clone();
            async move { upstream.forward(0, get()).await }
        });
        let mut put = get();
        *put.method_mut() = http::Method::PUT;
        let begun = timeout(PATIENCE, upstream.forward(0, put)).await.expect("in time");
        assert_eq!(begun.status(), StatusCode::OK);
        drop(begun);
        waiting.abort();
        let reasons = timeout(PATIENCE, server).await.expect("in time").expect("served");
        assert_eq!(reasons, (h2::Reason::CANCEL, h2::Reason::CANCEL));
    }

    #[tokio::test]
    async fn what_is_not_http2_is_called_so() {
        use tokio::io::AsyncWriteExt;
        let (listener, upstream) = listen().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.expect("written");
            stream
        });
        let answer = timeout(PATIENCE, upstream.forward(0, get())).await.expect("in time");
        assert_eq!(NodeError::of(answer.headers()), Some(NodeError::BadResponse));
        assert!(text(answer).await.contains("does not speak HTTP/2"));
        drop(server.await);
    }
}
