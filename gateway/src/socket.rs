//! A client's connection that can be parked: while it idles, hyper's buffers are given back, and the socket waits
//! alone. Thousands of idle keep-alive clients then cost a task each, not two 8 KiB buffers and a timer.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{
    Request, Version,
    header::{CONNECTION, UPGRADE},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::callers::{Agreed, Stream};

/// Bytes that are read before hyper has a buffer: most requests without a body are shorter.
const FIRST_BYTES: usize = 2048;

/// What a client that speaks HTTP/2 says first (RFC 9113, section 3.4); no request of HTTP/1.1 begins like this.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection's task and its requests tell each other; all on one lane.
///
/// Parking must never hide how hyper's connection ended: a client that was told (or told us) to close, a cut body, a
/// body that nobody read, all need the socket closed. So a connection is parked only where every exchange since it
/// was active is known to leave it as it was: HTTP/1.1, no `Connection: close`, no request body, and a response that
/// hyper has taken to its end.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose response hyper has not taken to its end.
    pending: AtomicU32,
    /// Requests so far.
    served: AtomicU32,
    /// `served` at the last look.
    seen: AtomicU32,
    /// The socket is to outlive hyper's connection.
    parking: AtomicBool,
    /// An exchange may end the connection, so it is not parked.
    ending: AtomicBool,
    /// An answer told the client that the connection closes.
    told: AtomicBool,
    /// Looks since that answer's end.
    overdue: AtomicU32,
}

/// A request until its response's body has ended or is dropped.
#[derive(Debug)]
pub(crate) struct Pending(Arc<Activity>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

/// Whether an exchange that begins like this leaves the connection open for the next, whatever becomes of it.
fn keeps_alive<B: http_body::Body>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && !request.headers().contains_key(UPGRADE)
        && request
            .headers()
            .get_all(CONNECTION)
            .iter()
            .all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}

impl Activity {
    pub(crate) fn begin<B: http_body::Body>(self: &Arc<Self>, request: &Request<B>) -> Pending {
        self.served.fetch_add(1, Relaxed);
        self.pending.fetch_add(1, Relaxed);
        // One that was about to be parked tells the client of this request that it closes, and then it must.
        if self.parking.swap(false, Relaxed) || !keeps_alive(request) {
            self.ending.store(true, Relaxed);
        }
        Pending(self.clone())
    }

    /// Called now and then: whether the connection has idled since the last call, at least one request being done.
    /// If so, its end leaves the socket open. A connection that has not sent a whole request yet is never parked:
    /// hyper's timeout for it would start anew.
    pub(crate) fn idled(&self) -> bool {
        let served = self.served.load(Relaxed);
        let idle = served > 0
            && self.seen.swap(served, Relaxed) == served
            && self.pending.load(Relaxed) == 0
            && !self.ending.load(Relaxed);
        self.parking.store(idle, Relaxed);
        idle
    }

    /// The client was told that the connection closes after this answer.
    pub(crate) fn tell_close(&self) {
        self.told.store(true, Relaxed);
    }

    /// Called at each look: whether the connection should have ended that many looks ago. hyper waits for the rest of
    /// a request that was answered early, and a client that says nothing more would hold its place for ever.
    pub(crate) fn overstays(&self, looks_max: u32) -> bool {
        let over = self.told.load(Relaxed) && self.pending.load(Relaxed) == 0;
        over && self.overdue.fetch_add(1, Relaxed) >= looks_max
    }

    /// Whether the client was told that the connection closes.
    pub(crate) fn was_told(&self) -> bool {
        self.told.load(Relaxed)
    }

    /// Whether a request runs.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending.load(Relaxed) > 0
    }

    /// Requests so far.
    pub(crate) fn served(&self) -> u32 {
        self.served.load(Relaxed)
    }

    pub(crate) fn is_parking(&self) -> bool {
        self.parking.load(Relaxed)
    }

    pub(crate) fn unpark(&self) {
        self.parking.store(false, Relaxed);
    }
}

/// The socket, as hyper gets it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    /// Read before, not yet understood.
    prefix: Bytes,
    activity: Arc<Activity>,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, prefix: Bytes::new(), activity: Arc::default() }
    }

    /// For the next stretch of activity, with what the last one had read too much.
    pub(crate) fn again(self, prefix: Bytes) -> Self {
        Self { stream: self.stream, prefix, activity: Arc::default() }
    }

    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

    /// Waits for the client's first bytes, and keeps them for hyper; whether there are any, or the client has gone.
    pub(crate) async fn hears(&mut self) -> bool {
        !self.prefix.is_empty() || poll_fn(|cx| self.poll_first(cx)).await.is_ok_and(|n| n > 0)
    }

    /// Whether what was heard so far can be HTTP/2.
    pub(crate) fn may_speak_h2(&self) -> bool {
        match self.stream.agreed() {
            Agreed::Http2 => true,
            Agreed::Http1 => false,
            Agreed::Nothing => PREFACE.starts_with(&self.prefix[..self.prefix.len().min(PREFACE.len())]),
        }
    }

    /// Whether the client speaks HTTP/2, judged by its first bytes: over TLS as it was agreed on, in clear by the preface,
    /// more of which is waited for where these few could be its beginning.
    pub(crate) async fn speaks_h2(&mut self) -> bool {
        let agreed = self.stream.agreed();
        while agreed == Agreed::Nothing && self.prefix.len() < PREFACE.len() && self.may_speak_h2() {
            if !poll_fn(|cx| self.poll_more(cx)).await.is_ok_and(|n| n > 0) {
                return false;
            }
        }
        self.may_speak_h2()
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let before = std::mem::take(&mut self.prefix);
        let more = self.poll_first(cx);
        self.prefix = if self.prefix.is_empty() { before } else { [before, self.prefix.clone()].concat().into() };
        more
    }

    /// Not a part of [`Socket::hears`], so that the buffer is on the stack and not in every parked task.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [0u8; FIRST_BYTES];
        let mut read = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.prefix = Bytes::copy_from_slice(read.filled());
        Poll::Ready(Ok(self.prefix.len()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_parking() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use paceline_mesh::http::Body;

    use super::*;

    fn request(version: Version, headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_empty() { Body::Empty } else { Body::full(body) };
        request.body(body).expect("a request")
    }

    fn get() -> Request<Body> {
        request(Version::HTTP_11, &[], "")
    }

    #[test]
    fn only_a_connection_that_has_served_and_rests_is_parked() {
        let a = Arc::new(Activity::default());
        assert!(!a.idled() && !a.idled(), "no request yet");
        let running = a.begin(&get());
        assert!(!a.idled() && !a.idled(), "a request runs");
        drop(running);
        assert!(a.idled(), "nothing since the last look");
        a.unpark();
        drop(a.begin(&get()));
        assert!(!a.idled(), "a request since the last look");
        assert!(a.idled());
    }

    #[test]
    fn a_client_that_was_told_to_go_does_not_stay() {
        let a = Arc::new(Activity::default());
        let running = a.begin(&get());
        a.tell_close();
        assert!(!a.overstays(1) && !a.overstays(1), "the answer is not out yet");
        drop(running);
        assert!(!a.overstays(1), "it has a moment");
        assert!(a.overstays(1));
    }

    #[test]
    fn an_exchange_that_may_end_the_connection_is_never_parked_after() {
        for ending in [
            request(Version::HTTP_10, &[], ""),
            request(Version::HTTP_10, &[("connection", "keep-alive")], ""),
            request(Version::HTTP_11, &[("connection", "close")], ""),
            request(Version::HTTP_11, &[("connection", "keep-alive, close")], ""),
            request(Version::HTTP_11, &[("upgrade", "x")], ""),
            request(Version::HTTP_11, &[], "a body that nobody may read"),
        ] {
            let a = Arc::new(Activity::default());
            drop(a.begin(&ending));
            assert!(!a.idled() && !a.idled(), "{ending:?}");
            drop(a.begin(&get()));
            assert!(!a.idled() && !a.idled(), "{ending:?}, then another");
        }
        let a = Arc::new(Activity::default());
        drop(a.begin(&get()));
        assert!(!a.idled() && a.idled());
        drop(a.begin(&get()));
        assert!(!a.is_parking() && !a.idled() && !a.idled(), "it was told to close while a request came");
    }
}
