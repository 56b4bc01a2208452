//! HTTP/2 (RFC 9113) from a client: over TLS where ALPN says so, in clear by prior knowledge. Each stream is a request
//! like any other; what HTTP/1.1 says in another way is said in its way before the request goes on.
//!
//! Every connection is bounded: in streams, heads, windows and what waits to be sent; a client that opens and resets
//! streams in a loop (CVE-2023-44487) is cut off, and a stream whose client takes nothing of its answer is reset.
//! There are no upgrades and no CONNECT, and so no WebSocket (RFC 8441): clients open an HTTP/1.1 connection for it.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use paceline_mesh::http::BoxError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{CLOSE, HEAD_BYTES_MAX, LINGER, Life, note_end};
use crate::{
    callers::{Denied, Peer},
    cluster::Cluster,
    front,
    lane::Lane,
    outgoing::Outgoing,
    pipeline::answer,
    request_id::RequestId,
    socket::Socket,
};

/// Streams of a connection at once.
const STREAMS_MAX: u32 = 128;
/// Streams that were reset before they were looked at; one more ends the connection.
const RESETS_MAX: usize = 20;
/// What a client may send of one request before it is read, in bytes: enough for 5 MB/s at 50 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// What waits to be sent of one answer, in bytes.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// A client that says nothing is asked whether it is there,
const PING_EVERY: Duration = Duration::from_secs(20);
/// and is gone if it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How often an idle connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks within the time that an answer may wait for its client.
const STALL_LOOKS: u32 = 4;

tokio::task_local! {
    /// The stream whose task this is.
    static STREAM: Arc<Taken>;
}

/// Serves a connection until its end.
pub(super) async fn serve<C: Cluster>(lane: Arc<Lane<C>>, socket: Socket, peer: Peer, life: &Life) {
    let limits = lane.shared.house.callers.limits();
    let (header_timeout, idle_timeout) = (limits.header_timeout, limits.idle_timeout);
    let http = settings(Streams { life: life.clone(), stall_max: limits.write_timeout });
    let activity = socket.activity();
    let notes = activity.clone();
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let pending = notes.begin(&request);
        let (lane, notes) = (lane.clone(), notes.clone());
        async move {
            let mut response = match translate(&mut request) {
                Ok(()) => front::serve(&lane, peer, request).await,
                Err(words) => {
                    let id = RequestId::of(request.headers(), || lane.draw());
                    answer::denied(&id, &Denied::Head(words))
                }
            };
            if response.headers_mut().remove(CONNECTION) == Some(CLOSE) {
                notes.tell_close();
            }
            let taken = STREAM.try_with(Arc::clone).ok();
            Ok::<_, Infallible>(response.map(|body| Answer { body: body.hold(pending), taken }))
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(life.stop.cancelled());
    let (mut served, mut busy_at) = (0, Instant::now());
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return drop(note_end(ended)),
            () = &mut stop => break,
            _ = look.tick() => {}
        }
        if activity.is_busy() || activity.served() != served {
            (served, busy_at) = (activity.served(), Instant::now());
        }
        let patience = if served == 0 { header_timeout } else { idle_timeout };
        if busy_at.elapsed() >= patience {
            connection.as_mut().graceful_shutdown();
            drop(timeout(LINGER, connection.as_mut()).await.map(note_end));
            return;
        }
        if activity.was_told() {
            break;
        }
    }
    // Says so to the client; what is on its way is still answered (RFC 9113, 6.8).
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => drop(note_end(ended)),
        () = life.kill.cancelled() => {}
    }
}

fn settings(streams: Streams) -> http2::Builder<Streams> {
    let mut http = http2::Builder::new(streams);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// Says in HTTP/1.1's way what a request says in HTTP/2's, so that all that follows need know one of them; what could be
/// read in two ways then is refused. Fields of the connection are no part of HTTP/2, and were refused before.
///
/// # Errors
/// In words for the caller.
fn translate<B: Body>(request: &mut Request<B>) -> Result<(), &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT is not served here");
    }
    let host = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let bodiless = request.body().is_end_stream();
    let headers = request.headers_mut();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err("the request has more than one Content-Length header");
    }
    if bodiless && length.is_some_and(|length| length != "0") {
        return Err("the request ends before the end of its Content-Length");
    }
    if !bodiless && length.is_none() {
        // Else a body of a GET would be taken for none.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    match host {
        Some(Ok(host)) if !headers.contains_key(HOST) => drop(headers.insert(HOST, host)),
        None if !headers.contains_key(HOST) => return Err("the request names no host"),
        _ => {}
    }
    join_cookies(headers);
    Ok(())
}

/// Cookies may come in pieces, which others do not know (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (pieces.next(), pieces.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for piece in headers.get_all(COOKIE).iter().skip(1) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(piece.as_bytes());
    }
    // Made of header values: one itself.
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
        headers.insert(COOKIE, joined);
    }
}

/// Runs the streams of a connection, each a task of the gateway's.
#[derive(Clone, Debug)]
struct Streams {
    life: Life,
    stall_max: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (taken, max) = (Arc::new(Taken::new()), self.stall_max);
        self.life.spawn(async move {
            let watched = taken.clone();
            // Dropped, the stream is reset; the others of its connection go on.
            tokio::select! {
                biased;
                () = STREAM.scope(taken, stream) => {}
                () = watched.stalls(max) => tracing::debug!("a client takes nothing of an answer: its stream is reset"),
            }
        });
    }
}

/// Whether the client takes what a stream has for it. A piece that was given out is taken once the next one is asked
/// for; a stream that has nothing to send is never timed.
#[derive(Debug)]
struct Taken {
    start: Instant,
    /// When the piece that is not taken yet was given out, in ms after the start, plus one; 0 where there is none.
    given_ms: AtomicU64,
}

impl Taken {
    fn new() -> Self {
        Self { start: Instant::now(), given_ms: AtomicU64::new(0) }
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn asked(&self) {
        self.given_ms.store(0, Relaxed);
    }

    fn given(&self) {
        self.given_ms.store(self.ms().saturating_add(1), Relaxed);
    }

    /// Resolves when a piece has not been taken for so long.
    async fn stalls(&self, max: Duration) {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        loop {
            sleep(max / STALL_LOOKS).await;
            let given = self.given_ms.load(Relaxed);
            if given > 0 && self.ms().saturating_sub(given) >= max_ms {
                return;
            }
        }
    }
}

/// An answer's body, with the note of when it was taken.
struct Answer {
    body: Outgoing,
    taken: Option<Arc<Taken>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(taken) = &self.taken {
            taken.asked();
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(taken) = &self.taken {
            taken.given();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
        let mut request = Request::post(uri).version(http::Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(Bytes::from_static(body.as_bytes()))).expect("a request")
    }

    #[test]
    fn what_is_said_in_http2s_way_is_said_in_http1s() {
        let mut whole = request("https://a:1/x", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], "body");
        translate(&mut whole).expect("fine");
        assert_eq!(whole.headers()[HOST], "a:1");
        assert_eq!(whole.headers()[TRANSFER_ENCODING], "chunked");
        assert_eq!(whole.headers().get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        let mut told = request("https://a:1/x", &[("content-length", "4"), ("host", "b"), ("cookie", "a=1")], "body");
        translate(&mut told).expect("fine");
        assert!(!told.headers().contains_key(TRANSFER_ENCODING));
        assert_eq!(
            (&told.headers()[HOST], &told.headers()[COOKIE]),
            (&"b".parse().expect("value"), &"a=1".parse().expect("value"))
        );
        let mut none = request("https://a:1/x", &[], "");
        translate(&mut none).expect("fine");
        assert!(!none.headers().contains_key(TRANSFER_ENCODING), "no body");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (uri, headers, body) in [
            ("https://a/x", &[("content-length", "4"), ("content-length", "5")][..], "body"),
            ("https://a/x", &[("content-length", "4")][..], ""),
            ("/x", &[][..], ""),
        ] {
            assert!(translate(&mut request(uri, headers, body)).is_err(), "{uri} {headers:?}");
        }
        let mut connect = request("https://a/x", &[], "");
        *connect.method_mut() = Method::CONNECT;
        assert!(translate(&mut connect).is_err());
        assert!(translate(&mut request("https://a/x", &[("content-length", "0")], "")).is_ok());
        assert!(translate(&mut request("/x", &[("host", "a")], "")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_that_is_not_taken_stalls() {
        let max = Duration::from_secs(60);
        let taken = Taken::new();
        assert!(timeout(max * 10, taken.stalls(max)).await.is_err(), "nothing to send: silent for long");
        taken.given();
        assert!(timeout(max / 2, taken.stalls(max)).await.is_err());
        taken.asked();
        assert!(timeout(max * 10, taken.stalls(max)).await.is_err(), "it was taken");
        taken.given();
        let begun = Instant::now();
        taken.stalls(max).await;
        assert!(begun.elapsed() >= max && begun.elapsed() <= max * 2, "{:?}", begun.elapsed());
    }
}
