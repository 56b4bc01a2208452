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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
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
/// A service that says nothing while requests wait is asked whether it is there,
const PING_EVERY: Duration = Duration::from_secs(20);
/// and is gone if it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

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
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
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
