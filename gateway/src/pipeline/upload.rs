//! The body of a caller's request: whether it can be framed, when it moved last, and whether it was the caller who
//! broke it off. What the caller does to its own body is never held against a worker.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Request, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use paceline_mesh::{
    args::LimitArgs,
    http::{Body, BoxError},
};
use tokio::time::{Instant, Sleep, sleep};

/// Longest body that is held for a second attempt.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// What a caller did to its own request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Its connection ended in the middle, or the framing is malformed.
    #[error("the request's body broke off: {0}")]
    BrokenOff(String),
    /// Nothing came for so long.
    #[error("nothing more of the request's body came within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It is, or says that it will be, longer than so many bytes.
    #[error("the request's body has more than {0} bytes")]
    TooLong(u64),
    /// Its framing is not ours to pass on.
    #[error("the request's Transfer-Encoding must be exactly 'chunked'")]
    Framing,
}

impl Fault {
    /// What the caller is told.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Fault::BrokenOff(_) | Fault::Framing => StatusCode::BAD_REQUEST,
            Fault::Silent(_) => StatusCode::REQUEST_TIMEOUT,
            Fault::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// Refuses every transfer coding but one `chunked`: a server behind us could see the end of the body elsewhere than
/// we do (RFC 9112, section 11.2). And a body that says that it will be longer than it may.
///
/// # Errors
/// [`Fault::Framing`], [`Fault::TooLong`].
pub(crate) fn check_framing(headers: &HeaderMap, bytes_max: u64) -> Result<(), Fault> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Fault::TooLong(bytes_max));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Fault::Framing),
    }
}

/// How a body fares.
#[derive(Debug)]
pub(crate) struct Upload {
    start: Instant,
    last_ms: AtomicU64,
    answered: AtomicBool,
    fault: OnceLock<Fault>,
}

impl Upload {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            fault: OnceLock::new(),
        }
    }

    /// When it moved last.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Relaxed))
    }

    /// What the caller did to it, if anything.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// The answer has begun: from here on the service says how long it listens.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    fn moved(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Relaxed);
    }
}

/// Watches a streamed body; one at hand stays as it is.
pub(crate) fn watch(request: Request<Body>, limits: &LimitArgs) -> (Request<Body>, Option<Arc<Upload>>) {
    if matches!(request.body(), Body::Empty | Body::Full(_)) {
        return (request, None);
    }
    let upload = Arc::new(Upload::new());
    let watched = upload.clone();
    let (silence_max, bytes_max) = (limits.body_timeout, limits.max_body);
    let watch = |body| Watched {
        body,
        upload: watched,
        silence: None,
        silence_max,
        waiting: false,
        bytes_max,
        bytes_left: bytes_max,
    };
    (request.map(|body| Body::boxed(watch(body))), Some(upload))
}

struct Watched {
    body: Body,
    upload: Arc<Upload>,
    /// Made for the first wait, and set anew for each.
    silence: Option<Pin<Box<Sleep>>>,
    silence_max: Duration,
    waiting: bool,
    bytes_max: u64,
    bytes_left: u64,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            this.upload.moved();
            if let Some(Err(error)) = &frame {
                // The first fault is the one that counts.
                let _ = this.upload.fault.set(Fault::BrokenOff(words(&**error)));
            }
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                match this.bytes_left.checked_sub(data.len() as u64) {
                    Some(left) => this.bytes_left = left,
                    None => {
                        let fault = Fault::TooLong(this.bytes_max);
                        let _ = this.upload.fault.set(fault.clone());
                        return Poll::Ready(Some(Err(fault.into())));
                    }
                }
            }
            return Poll::Ready(frame);
        }
        if this.upload.answered.load(Relaxed) {
            return Poll::Pending;
        }
        let silence_max = this.silence_max;
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(silence_max)));
        if !this.waiting {
            this.waiting = true;
            silence.as_mut().reset(Instant::now() + silence_max);
        }
        ready!(silence.as_mut().poll(cx));
        let fault = Fault::Silent(silence_max);
        let _ = this.upload.fault.set(fault.clone());
        Poll::Ready(Some(Err(fault.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn words(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Holds the body of a request for a second attempt, where its length is told and small.
///
/// # Errors
/// What the caller did to it meanwhile.
pub(crate) async fn collect_small(request: Request<Body>, upload: &Upload) -> Result<Request<Body>, Fault> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length > REPLAY_BYTES_MAX) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    match Limited::new(body, REPLAY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(Request::from_parts(parts, Body::full(collected.to_bytes()))),
        Err(error) => Err(upload.fault().cloned().unwrap_or_else(|| Fault::BrokenOff(words(&*error)))),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_millis(500);

    fn limits() -> LimitArgs {
        LimitArgs { body_timeout: SILENCE_MAX, max_body: 1000, ..LimitArgs::default() }
    }

    type Feed = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

    fn fed() -> (Feed, Body, Arc<Upload>) {
        let (feed, mut food) = mpsc::channel(4);
        let frames = futures::stream::poll_fn(move |cx| food.poll_recv(cx));
        let (request, upload) = watch(Request::new(Body::boxed(StreamBody::new(frames))), &limits());
        (feed, request.into_body(), upload.expect("streamed"))
    }

    #[test]
    fn one_chunked_and_nothing_else() {
        for (lines, fine) in [
            (&[][..], true),
            (&["chunked"][..], true),
            (&["Chunked"][..], true),
            (&["gzip, chunked"][..], false),
            (&["gzip", "chunked"][..], false),
            (&["chunked", "chunked"][..], false),
            (&["chunked,"][..], false),
            (&["identity"][..], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(check_framing(&headers, 1000).is_ok(), fine, "{lines:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_body_but_slowness_and_an_answer_do_not() {
        let (feed, mut body, upload) = fed();
        let begun = Instant::now();
        for _ in 0..5 {
            let pause = sleep(SILENCE_MAX * 9 / 10);
            let (frame, ()) = tokio::join!(body.frame(), async {
                pause.await;
                feed.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.expect("read");
            });
            assert!(frame.expect("a frame").is_ok());
        }
        assert!(begun.elapsed() > SILENCE_MAX * 4 && upload.fault().is_none());
        assert!(upload.last() > begun + SILENCE_MAX * 4, "its movement was noted");
        let silent = Instant::now();
        assert!(body.frame().await.expect("an end").is_err());
        assert_eq!((silent.elapsed(), upload.fault()), (SILENCE_MAX, Some(&Fault::Silent(SILENCE_MAX))));

        let (_feed, mut body, upload) = fed();
        upload.answered();
        assert!(tokio::time::timeout(SILENCE_MAX * 10, body.frame()).await.is_err(), "the service may wait on");
        assert_eq!(upload.fault(), None);
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_may_be_and_no_longer() {
        let (feed, mut body, upload) = fed();
        for bytes in [999, 1, 1] {
            feed.send(Ok(Frame::data(Bytes::from(vec![0; bytes])))).await.expect("open");
        }
        assert!(body.frame().await.expect("a frame").is_ok() && body.frame().await.expect("a frame").is_ok());
        assert!(body.frame().await.expect("an end").is_err());
        assert_eq!(upload.fault(), Some(&Fault::TooLong(1000)));
        let mut headers = HeaderMap::new();
        for (length, fine) in [("1000", true), ("1001", false)] {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            assert_eq!(check_framing(&headers, 1000).is_ok(), fine, "{length}");
        }
    }

    #[tokio::test]
    async fn a_break_is_the_callers() {
        let (feed, mut body, upload) = fed();
        feed.send(Err(std::io::Error::other("gone"))).await.expect("open");
        assert!(body.frame().await.expect("an end").is_err());
        assert_eq!(upload.fault(), Some(&Fault::BrokenOff("gone".into())));
        let (feed, body, upload) = fed();
        feed.send(Err(std::io::Error::other("gone"))).await.expect("open");
        let request = Request::put("/").header(CONTENT_LENGTH, "10").body(body).expect("request");
        let fault = collect_small(request, &upload).await.map(drop).expect_err("broken");
        assert_eq!(fault.to_string(), "the request's body broke off: gone");
    }
}
