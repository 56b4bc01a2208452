//! The service behind every row: `/1k`, `/big?n=BYTES`, `POST /upload`, `/sse?n=EVENTS&ms=GAP`, `/health`.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep};

use super::pattern;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Binds a free port of 127.0.0.1, prints `host:port`, and serves until standard input ends.
///
/// # Errors
/// When nothing can be bound.
pub fn run() -> anyhow::Result<()> {
    // The harness holds the other end: when it goes, however that happens, this process goes too.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    tokio::runtime::Runtime::new()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        accept(listener).await
    })
}

async fn accept(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            // Out of files: those that end make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    // A client that goes is nothing to report: the load counts its own errors.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>) -> Response<Answer> {
    let number = |key: &str, default: u64| {
        let pairs = request.uri().query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(k, _)| *k == key).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/1k") => Response::new(Answer::Whole(Some(Bytes::from_static(pattern::small())))),
        (&Method::GET, "/big") => {
            let length = number("n", 64 << 20);
            let mut response = Response::new(Answer::Bulk { sent: 0, length });
            response.headers_mut().insert("content-length", length.into());
            response
        }
        (&Method::GET, "/sse") => {
            let mut response = Response::new(Answer::events(number("n", 100), Duration::from_millis(number("ms", 5))));
            let headers = response.headers_mut();
            headers.insert("content-type", hyper::header::HeaderValue::from_static("text/event-stream"));
            headers.insert("cache-control", hyper::header::HeaderValue::from_static("no-cache"));
            response
        }
        (&Method::POST, "/upload") => text(receive(request.into_body()).await),
        (&Method::GET, "/health") => text("{\"status\":\"ok\",\"service\":\"origin\"}".to_owned()),
        _ => {
            let mut response = text("no such path".to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn text(text: String) -> Response<Answer> {
    Response::new(Answer::Whole(Some(text.into())))
}

/// The length of a body, or a word where it is not the one that was sent.
async fn receive(mut body: Incoming) -> String {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if pattern::fits(&data, length) => length += data.len() as u64,
            Ok(Ok(_)) => return format!("wrong byte near {length}"),
            Ok(Err(_trailers)) => {}
            Err(error) => return format!("{error} after {length} bytes"),
        }
    }
    length.to_string()
}

/// Nanoseconds since 1970: the one clock that two processes share without more code. Delays of microseconds are
/// differences of it within half a second.
pub(super) fn clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

/// The body of an answer.
enum Answer {
    Whole(Option<Bytes>),
    Bulk { sent: u64, length: u64 },
    Events { next: u64, count: u64, start: Instant, gap: Duration, timer: Pin<Box<Sleep>> },
}

impl Answer {
    fn events(count: u64, gap: Duration) -> Self {
        let start = Instant::now();
        Self::Events { next: 0, count, start, gap, timer: Box::pin(tokio::time::sleep_until(start)) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Answer::Whole(bytes) => bytes.take(),
            Answer::Bulk { sent, length } => {
                // Whole blocks from offset 0: each begins at the pattern's start.
                let size = (*length - *sent).min(pattern::PERIOD_BYTES as u64);
                *sent += size;
                (size > 0).then(|| Bytes::from_static(&pattern::block()[..size as usize]))
            }
            Answer::Events { next, count, start, gap, timer } => {
                if next == count {
                    return Poll::Ready(None);
                }
                std::task::ready!(timer.as_mut().poll(cx));
                *next += 1;
                timer.as_mut().reset(*start + *gap * u32::try_from(*next).unwrap_or(u32::MAX));
                Some(Bytes::from(format!("data: {} {}\n\n", clock_ns(), "z".repeat(64))))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Answer::Whole(bytes) => http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Answer::Bulk { sent, length } => http_body::SizeHint::with_exact(length - sent),
            Answer::Events { .. } => http_body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(bytes) => bytes.is_none(),
            Answer::Bulk { sent, length } => sent == length,
            Answer::Events { next, count, .. } => next == count,
        }
    }
}
