//! The data plane between a gateway and a node, over real sockets: what passes, what is refused, and what happens when
//! either side goes.

mod data_support;

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_support::{Authority, Process, Services, Wire, get, now, pair, soon, until};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use paceline_mesh::{
    data::{PathKind, SendError, transport},
    http::{Body, NodeError, upgrade},
};
use paceline_proto::id::Role;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot},
};

const BULK_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: u64 = 61_333;

/// Bytes whose every position shows, streamed in odd chunks; `sent` counts what was asked for.
fn bulk(total: u64, sent: Arc<AtomicU64>) -> Body {
    let pattern: Bytes = (0..CHUNK_BYTES + 251).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    Body::boxed(StreamBody::new(futures::stream::unfold(0, move |at| {
        let (pattern, sent) = (pattern.clone(), sent.clone());
        async move {
            let len = CHUNK_BYTES.min(total - at);
            let start = (at % 251) as usize;
            sent.fetch_add(len, SeqCst);
            (len > 0)
                .then(|| (Ok::<_, std::io::Error>(Frame::data(pattern.slice(start..start + len as usize))), at + len))
        }
    })))
}

/// Reads a body of [`bulk`] to its end and checks each byte.
async fn check_bulk(mut body: Body) -> u64 {
    let expected: Vec<u8> = (0..(1 << 20) + 251).map(|i| (i % 251) as u8).collect();
    let mut at = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.expect("no error").into_data().expect("data");
        for part in data.chunks(1 << 20) {
            let start = (at % 251) as usize;
            assert!(part == &expected[start..start + part.len()], "wrong bytes after {at}");
            at += part.len() as u64;
        }
    }
    at
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.expect("a whole body").to_bytes().to_vec()).expect("text")
}

/// A body that is fed by hand.
fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>, Body) {
    let (tx, mut rx) = mpsc::channel(1);
    (tx, Body::boxed(StreamBody::new(futures::stream::poll_fn(move |cx| rx.poll_recv(cx)))))
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Dropped {
    fn new() -> (Self, oneshot::Receiver<()>) {
        let (tx, rx) = oneshot::channel();
        (Self(Some(tx)), rx)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().map(|tx| tx.send(()));
    }
}

#[tokio::test]
async fn a_request_reaches_its_service_and_the_answer_comes_back() {
    let (gateway, node) = pair(Services::default().with("echo", |request: Request<Body>| async move {
        assert_eq!(request.headers()["x-mine"], "1");
        Response::new(Body::full(format!("{} {}", request.method(), request.uri())))
    }));
    let mut request = get("/a/b?c=d");
    request.headers_mut().insert("x-mine", HeaderValue::from_static("1"));
    assert!(gateway.plane.client(0).path(node.id).is_none());
    let response = soon(gateway.send(node.id, "echo", request)).await.expect("a response");
    assert_eq!(text(response).await, "GET /a/b?c=d");
    let (path, rtt) = gateway.plane.client(0).path(node.id).expect("a path");
    assert_eq!(path, PathKind::Direct);
    assert!(rtt < Duration::from_secs(1));
    let response = soon(gateway.send(node.id, "nothing", get("/"))).await.expect("a response");
    assert_eq!(NodeError::of(response.headers()), Some(NodeError::NoSuchService));
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let (gateway, node) = pair(
        Services::default().with("echo", |request: Request<Body>| async move { Response::new(request.into_body()) }),
    );
    let sent = Arc::new(AtomicU64::new(0));
    let request = Request::builder().method("POST").uri("/").body(bulk(BULK_BYTES, sent)).expect("a request");
    let response = soon(gateway.send(node.id, "echo", request)).await.expect("a response");
    assert_eq!(soon(check_bulk(response.into_body())).await, BULK_BYTES);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (gateway, node) = pair(Services::default().with("sum", |request: Request<Body>| async move {
        let asked = request.headers().get("te").cloned();
        let whole = request.into_body().collect().await.expect("a whole body");
        let mut trailers = whole.trailers().cloned().expect("trailers");
        trailers.insert("x-back", HeaderValue::from_static("2"));
        let frames = [Ok::<_, std::io::Error>(Frame::data(whole.to_bytes())), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(Body::boxed(StreamBody::new(futures::stream::iter(frames))));
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum, x-back"));
        response.headers_mut().insert("x-te", asked.expect("te passes"));
        response
    }));
    let (feed, body) = fed();
    let request = Request::builder()
        .method("POST")
        .uri("/")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .expect("a request");
    let sending = gateway.send(node.id, "sum", request);
    feed.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.expect("taken");
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
    feed.send(Ok(Frame::trailers(trailers))).await.expect("taken");
    drop(feed);
    let response = soon(sending).await.expect("a response");
    assert_eq!(response.headers()["x-te"], "trailers");
    let whole = soon(response.into_body().collect()).await.expect("a whole body");
    assert_eq!(whole.trailers().expect("trailers")["x-sum"], "1");
    assert_eq!(whole.trailers().expect("trailers")["x-back"], "2");
    assert_eq!(whole.to_bytes(), "abc");
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (feed, body) = fed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let (gateway, node) = pair(Services::default().with("sse", move |_| {
        let body = body.lock().expect("unpoisoned").take().expect("one request");
        async move { Response::builder().header("content-type", "text/event-stream").body(body).expect("fine") }
    }));
    let mut events = soon(gateway.send(node.id, "sse", get("/"))).await.expect("a head before any event").into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        feed.send(Ok(Frame::data(event.into()))).await.expect("taken");
        let frame = soon(events.frame()).await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), event);
    }
    drop(feed);
    assert!(soon(events.frame()).await.is_none());
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_and_its_end() {
    let (gateway, node) = pair(Services::default().with("ws", |request: Request<Body>| async move {
        assert_eq!(request.headers()["upgrade"], "echo");
        let requested = upgrade::requested(&request).expect("an upgrade").switched();
        tokio::spawn(async move {
            let mut io = requested.await.expect("switched");
            let mut line = [0; 5];
            io.read_exact(&mut line).await.expect("five bytes");
            io.write_all(&line).await.expect("written");
            assert_eq!(io.read(&mut line).await.expect("the caller's end"), 0);
            io.write_all(b"bye").await.expect("half of it is still open");
            io.shutdown().await.expect("shut down");
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .body(Body::Empty)
            .expect("a response")
    }));
    let request = Request::builder()
        .uri("/")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::Empty)
        .expect("a request");
    let mut response = soon(gateway.send(node.id, "ws", request)).await.expect("a response");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut io = soon(upgrade::answered(&mut response).expect("an upgrade").switched()).await.expect("switched");
    let talk = async {
        io.write_all(b"hello").await.expect("written");
        let mut back = [0; 5];
        io.read_exact(&mut back).await.expect("read");
        assert_eq!(&back, b"hello");
        io.shutdown().await.expect("shut down");
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.expect("a clean end");
        assert_eq!(rest, b"bye");
    };
    soon(talk).await;
}

#[tokio::test]
async fn the_service_sees_within_a_second_that_a_caller_has_gone() {
    let (started, mut starts) = mpsc::channel(64);
    let (gateway, node) = pair(Services::default().with("slow", move |request: Request<Body>| {
        let (dropped, gone) = Dropped::new();
        started.try_send(gone).expect("the test listens");
        async move {
            if request.uri().path() == "/body" {
                // Held by the body, which never ends.
                let endless = futures::stream::unfold(dropped, |dropped| async move {
                    std::future::pending::<()>().await;
                    Some((Ok::<_, std::io::Error>(Frame::data(Bytes::new())), dropped))
                });
                return Response::new(Body::boxed(StreamBody::new(endless)));
            }
            let _dropped = dropped;
            std::future::pending().await
        }
    }));
    let before_head = gateway.send(node.id, "slow", get("/head"));
    let gone = soon(starts.recv()).await.expect("started");
    let since = Instant::now();
    drop(before_head);
    soon(gone).await.expect("dropped");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());

    let response = soon(gateway.send(node.id, "slow", get("/body"))).await.expect("a head");
    let gone = soon(starts.recv()).await.expect("started");
    let since = Instant::now();
    drop(response);
    soon(gone).await.expect("dropped");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_caller_is_missed_also_while_the_service_takes_nothing() {
    let (started, mut starts) = mpsc::channel(64);
    let (gateway, node) = pair(Services::default().with("stalled", move |request: Request<Body>| {
        let (dropped, gone) = Dropped::new();
        started.try_send(gone).expect("the test listens");
        async move {
            let _held = (request, dropped);
            std::future::pending().await
        }
    }));
    let sent = Arc::new(AtomicU64::new(0));
    let request = Request::builder().method("POST").uri("/").body(bulk(BULK_BYTES, sent.clone())).expect("a request");
    let sending = gateway.send(node.id, "stalled", request);
    let gone = soon(starts.recv()).await.expect("started");
    let window = transport::STREAM_WINDOW_BYTES.into_inner();
    until(|| sent.load(SeqCst) >= window).await;
    let since = Instant::now();
    drop(sending);
    soon(gone).await.expect("dropped");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_caller_that_goes_in_the_middle_of_its_body_is_no_complete_request() {
    let (ended, mut ends) = mpsc::channel(64);
    let (gateway, node) = pair(Services::default().with("sink", move |request: Request<Body>| {
        let ended = ended.clone();
        async move {
            let whole = request.into_body().collect().await;
            ended.try_send(whole.is_ok()).expect("the test listens");
            Response::new(Body::Empty)
        }
    }));
    for length in [None, Some("10")] {
        let (feed, body) = fed();
        let mut request = Request::builder().method("POST").uri("/").body(body).expect("a request");
        if let Some(length) = length {
            request.headers_mut().insert("content-length", HeaderValue::from_static(length));
        }
        let sending = gateway.send(node.id, "sink", request);
        feed.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.expect("taken");
        feed.send(Err(std::io::Error::other("the caller went"))).await.expect("taken");
        assert!(soon(sending).await.is_err());
        // Either the handler was dropped with its stream, or it saw an error: never a whole body.
        assert_ne!(ends.try_recv(), Ok(true));
    }
    assert_ne!(ends.try_recv(), Ok(true));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_taken_for_a_whole_one() {
    let (gateway, node) = pair(Services::default().with("broken", |request: Request<Body>| async move {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::other("the service died"))];
        let mut response = Response::new(Body::boxed(StreamBody::new(futures::stream::iter(frames))));
        if request.uri().path() == "/sized" {
            response.headers_mut().insert("content-length", HeaderValue::from_static("8"));
        }
        response
    }));
    for path in ["/sized", "/chunked"] {
        for _ in 0..20 {
            // The head may or may not make it; a whole body never does.
            if let Ok(response) = soon(gateway.send(node.id, "broken", get(path))).await {
                assert!(soon(response.into_body().collect()).await.is_err(), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_before_its_head_is_through_is_not_the_connections_end() {
    let services = Services::default().with("svc", |request: Request<Body>| async move {
        if request.uri().path() == "/fine" {
            return Response::new(Body::full("fine"));
        }
        // It breaks at once: the node gives the stream up with the head still in its buffer.
        let broken: [Result<Frame<Bytes>, _>; 1] = [Err(std::io::Error::other("the service died"))];
        Response::new(Body::boxed(StreamBody::new(futures::stream::iter(broken))))
    });
    let (gateway, node) = pair(services);
    assert_eq!(text(soon(gateway.send(node.id, "svc", get("/fine"))).await.expect("a response")).await, "fine");
    match soon(gateway.send(node.id, "svc", get("/broken"))).await {
        Err(SendError::StreamReset { .. }) => {}
        other => panic!("the stream alone was reset: {other:?}"),
    }
    assert_eq!(text(soon(gateway.send(node.id, "svc", get("/fine"))).await.expect("a response")).await, "fine");
}

#[tokio::test]
async fn a_node_that_nobody_can_dial_dials_back_and_serves() {
    let (mut gateway, node) = pair(Services::default().with("hi", |_| async { Response::new(Body::full("hi")) }));
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    gateway.book.set(node.id, vec![closed.local_addr().expect("bound")]);
    let since = Instant::now();
    let waiting: Vec<_> = (0..8).map(|_| gateway.send(node.id, "hi", get("/"))).collect();
    assert_eq!(soon(gateway.asked.recv()).await, Some(node.id));
    node.plane.dial_back(gateway.id, vec![gateway.address()]);
    for response in waiting {
        assert_eq!(text(soon(response).await.expect("a response")).await, "hi");
    }
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(gateway.plane.client(0).path(node.id).expect("a path").0, PathKind::Reverse);
    assert!(gateway.asked.try_recv().is_err(), "asked once");

    // The other lane uses the same connection, and asks nobody.
    let client = gateway.plane.client(1);
    let (id, service) = (node.id, "hi".parse().expect("a name"));
    let on_lane = gateway.lanes.handle(1).spawn(async move { client.send(id, &service, get("/")).await });
    assert_eq!(text(soon(on_lane).await.expect("no panic").expect("a response")).await, "hi");
    assert!(gateway.asked.try_recv().is_err());
}

#[tokio::test]
async fn the_direct_way_is_taken_again_when_it_works() {
    let (mut gateway, node) = pair(Services::default().with("hi", |_| async { Response::new(Body::full("hi")) }));
    gateway.book.set(node.id, vec![]);
    let waiting = gateway.send(node.id, "hi", get("/"));
    assert_eq!(soon(gateway.asked.recv()).await, Some(node.id));
    gateway.book.set(node.id, vec![node.address()]);
    node.plane.dial_back(gateway.id, vec![gateway.address()]);
    soon(waiting).await.expect("a response");
    soon(async {
        while gateway.plane.client(0).path(node.id).map(|(kind, _)| kind) != Some(PathKind::Direct) {
            soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response");
        }
    })
    .await;
}

#[tokio::test]
async fn without_any_way_the_request_comes_back_unsent() {
    let (gateway, node) = pair(Services::default());
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    gateway.book.set(node.id, vec![closed.local_addr().expect("bound")]);
    let since = Instant::now();
    let mut request = get("/mine");
    request.headers_mut().insert("x-mine", HeaderValue::from_static("1"));
    match soon(gateway.send(node.id, "hi", request)).await {
        Err(SendError::Unreachable { reason, request }) => {
            assert!(reason.contains("did not dial back"), "{reason}");
            assert_eq!(request.uri(), "/mine");
            assert_eq!(request.headers()["x-mine"], "1");
        }
        other => panic!("{other:?}"),
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn only_a_gateway_may_open_streams() {
    let authority = Authority::new();
    let impostor = authority.member(&[Role::Worker], now() + 3600);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let services = Services::default().with("hi", move |_| {
        counted.fetch_add(1, SeqCst);
        async { Response::new(Body::full("hi")) }
    });
    for (role, reason) in [(Role::Worker, "only a gateway may connect"), (Role::Gateway, "only a gateway may open")] {
        let identity = authority.member(&[role], now() + 3600);
        let victim = Process::start(&authority, &identity, role == Role::Gateway, Some(services.clone()), 1);
        // It acts as a gateway, but its certificate does not say so.
        let liar = Process::start(&authority, &impostor, true, None, 1);
        liar.book.set(victim.id, vec![victim.address()]);
        let error = soon(liar.send(victim.id, "hi", get("/"))).await.expect_err("refused").to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test]
async fn a_gateway_of_another_cluster_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let services = Services::default().with("hi", move |_| {
        counted.fetch_add(1, SeqCst);
        async { Response::new(Body::full("hi")) }
    });
    let node = Process::start(&ours, &ours.member(&[Role::Worker], now() + 3600), false, Some(services), 1);
    let stranger = Process::start(&theirs, &theirs.member(&[Role::Gateway], now() + 3600), true, None, 1);
    stranger.book.set(node.id, vec![node.address()]);
    let error = soon(stranger.send(node.id, "hi", get("/"))).await.expect_err("refused").to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_one() {
    let authority = Authority::new();
    let other = Process::start(&authority, &authority.member(&[Role::Worker], now() + 3600), false, None, 1);
    let gateway = Process::start(&authority, &authority.member(&[Role::Gateway], now() + 3600), true, None, 1);
    let wanted = authority.member(&[Role::Worker], now() + 3600).id;
    gateway.book.set(wanted, vec![other.address()]);
    let error = soon(gateway.send(wanted, "hi", get("/"))).await.expect_err("not the one").to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn random_bytes_at_the_port_are_harmless() {
    let (gateway, node) = pair(Services::default().with("hi", |_| async { Response::new(Body::full("hi")) }));
    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000 {
        let packet: Vec<u8> = (0..(round % 1400) + 1)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 56) as u8
            })
            .collect();
        noise.send_to(&packet, node.address()).expect("sent");
        if round == 1000 {
            assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
        }
    }
    assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
}

#[tokio::test]
async fn a_node_that_falls_silent_is_left_within_five_seconds() {
    let (gateway, node) = pair(
        Services::default()
            .with("never", |_| std::future::pending::<Response<Body>>())
            .with("hi", |_| async { Response::new(Body::full("hi")) }),
    );
    let wire = Wire::to(node.address()).await;
    gateway.book.set(node.id, vec![wire.address]);
    soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response");
    let waiting = gateway.send(node.id, "never", get("/"));
    let since = Instant::now();
    wire.go_dark();
    match soon(waiting).await {
        Err(SendError::Broken { reason }) => assert!(reason.contains("silent"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(since.elapsed() < Duration::from_millis(5500), "{:?}", since.elapsed());
    // And it is found again by its other address.
    gateway.book.set(node.id, vec![wire.address, node.address()]);
    assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_only_its_sender() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let (gateway, node) = pair(
        Services::default()
            .with("bulk", move |_| {
                let counted = counted.clone();
                async move { Response::new(bulk(BULK_BYTES, counted)) }
            })
            .with("hi", |_| async { Response::new(Body::full("hi")) }),
    );
    let response = soon(gateway.send(node.id, "bulk", get("/"))).await.expect("a head");
    let window = transport::STREAM_WINDOW_BYTES.into_inner();
    until(|| sent.load(SeqCst) >= window).await;
    // Whoever is not held up would send all of it while these go back and forth.
    for _ in 0..500 {
        assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
    }
    let held = sent.load(SeqCst);
    assert!(held < window + (2 << 20), "{held} bytes are on the way to a reader that reads nothing");
    assert_eq!(soon(check_bulk(response.into_body())).await, BULK_BYTES);
}

/// More of them than the window of the connection once had room for.
#[tokio::test]
async fn however_many_readers_stall_others_are_served() {
    const READERS: u64 = 100;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let (gateway, node) = pair(
        Services::default()
            .with("bulk", move |_| {
                let counted = counted.clone();
                async move { Response::new(bulk(BULK_BYTES, counted)) }
            })
            .with("hi", |_| async { Response::new(Body::full("hi")) }),
    );
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        stalled.push(soon(gateway.send(node.id, "bulk", get("/"))).await.expect("a head"));
    }
    let window = transport::STREAM_WINDOW_BYTES.into_inner();
    until(|| sent.load(SeqCst) >= READERS * window).await;
    for _ in 0..10 {
        assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
    }
    let all = u64::from(transport::STREAMS_MAX) * window;
    assert!(transport::CONNECTION_WINDOW_BYTES.into_inner() >= all, "room for all streams that there can be");
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_own_answer() {
    let (gateway, node) = pair(Services::default().with("echo", |request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        Response::new(Body::full([path.as_bytes(), &body].concat()))
    }));
    for _ in 0..4 {
        let waiting: Vec<_> = (0..256)
            .map(|i| {
                let body = Body::full(format!(" body {i}"));
                let request = Request::builder().method("POST").uri(format!("/{i}")).body(body).expect("a request");
                gateway.send(node.id, "echo", request)
            })
            .collect();
        for (i, response) in waiting.into_iter().enumerate() {
            assert_eq!(text(soon(response).await.expect("a response")).await, format!("/{i} body {i}"));
        }
    }
}

#[tokio::test]
async fn more_requests_than_streams_wait_for_one_to_come_back() {
    let gate = Arc::new(Semaphore::new(0));
    let arrived = Arc::new(AtomicUsize::new(0));
    let (held, counted) = (gate.clone(), arrived.clone());
    let (gateway, node) = pair(Services::default().with("gate", move |_| {
        let held = held.clone();
        counted.fetch_add(1, SeqCst);
        async move {
            held.acquire().await.expect("open").forget();
            Response::new(Body::Empty)
        }
    }));
    let streams = transport::STREAMS_MAX as usize;
    let waiting: Vec<_> = (0..streams + 100).map(|_| gateway.send(node.id, "gate", get("/"))).collect();
    until(|| arrived.load(SeqCst) == streams).await;
    gate.add_permits(streams + 100);
    for response in waiting {
        assert_eq!(soon(response).await.expect("a response").status(), StatusCode::OK);
    }
    assert_eq!(arrived.load(SeqCst), streams + 100);
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let authority = Authority::new();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let short = authority.certify(&key, &[Role::Worker], now() + 3);
    let services = Services::default().with("never", |_| std::future::pending::<Response<Body>>());
    let node = Process::start(&authority, &short, false, Some(services), 1);
    let gateway = Process::start(&authority, &authority.member(&[Role::Gateway], now() + 3600), true, None, 1);
    gateway.book.set(node.id, vec![node.address()]);
    match soon(gateway.send(node.id, "never", get("/"))).await {
        Err(SendError::Broken { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(gateway.plane.client(0).path(node.id).is_none());
    // Its renewed certificate opens the door again.
    let renewed = authority.certify(&key, &[Role::Worker], now() + 3600);
    node.plane.set_security(renewed.security).expect("good certificates");
    let response = soon(gateway.send(node.id, "none", get("/"))).await.expect("a response");
    assert_eq!(NodeError::of(response.headers()), Some(NodeError::NoSuchService));
}

#[tokio::test]
async fn renewal_replaces_connections_without_breaking_requests() {
    let authority = Authority::new();
    let (feed, body) = fed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let services =
        Services::default().with("hi", |_| async { Response::new(Body::full("hi")) }).with("sse", move |_| {
            let body = body.lock().expect("unpoisoned").take().expect("one request");
            async move { Response::new(body) }
        });
    let node = Process::start(&authority, &authority.member(&[Role::Worker], now() + 3600), false, Some(services), 1);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let gateway = Process::start(&authority, &authority.certify(&key, &[Role::Gateway], now() + 3600), true, None, 1);
    let wire = Wire::to(node.address()).await;
    gateway.book.set(node.id, vec![wire.address]);
    let mut events = soon(gateway.send(node.id, "sse", get("/"))).await.expect("a head").into_body();
    gateway.book.set(node.id, vec![node.address()]);
    gateway.plane.set_security(authority.certify(&key, &[Role::Gateway], now() + 7200).security).expect("good");
    // New requests go by the new connection, which does not use the wire; the old one still carries its request.
    soon(async {
        while gateway.plane.links(node.id) < 2 {
            soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response");
        }
    })
    .await;
    feed.send(Ok(Frame::data("data: 1\n\n".into()))).await.expect("taken");
    assert_eq!(soon(events.frame()).await.expect("a frame").expect("data").into_data().expect("data"), "data: 1\n\n");
    drop((events, feed));
    until(|| gateway.plane.links(node.id) == 1).await;
    wire.go_dark();
    assert_eq!(text(soon(gateway.send(node.id, "hi", get("/"))).await.expect("a response")).await, "hi");
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_it_has_begun() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let (started, mut starts) = mpsc::channel(64);
    let (gateway, node) = pair(Services::default().with("gate", move |_| {
        let held = held.clone();
        started.try_send(()).expect("the test listens");
        async move {
            held.acquire().await.expect("open").forget();
            Response::new(Body::full("done"))
        }
    }));
    let begun = gateway.send(node.id, "gate", get("/"));
    soon(starts.recv()).await.expect("started");
    let plane = node.plane.clone();
    let stopping = tokio::spawn(async move { plane.shutdown(Duration::from_secs(20)).await });
    // A later request is told to go elsewhere.
    soon(async {
        loop {
            let (later, opened) = (gateway.send(node.id, "gate", get("/")), starts.recv());
            tokio::select! {
                response = later => {
                    let response = response.expect("a response");
                    assert_eq!(NodeError::of(response.headers()), Some(NodeError::Overloaded));
                    break;
                }
                _ = opened => {}
            }
        }
    })
    .await;
    gate.add_permits(1);
    assert_eq!(text(soon(begun).await.expect("a response")).await, "done");
    soon(stopping).await.expect("no panic");
    assert!(soon(gateway.send(node.id, "gate", get("/"))).await.is_err());
}

#[tokio::test]
async fn a_node_that_is_disconnected_is_cut_at_once() {
    let (gateway, node) = pair(Services::default().with("never", |_| std::future::pending::<Response<Body>>()));
    let waiting = gateway.send(node.id, "never", get("/"));
    until(|| gateway.plane.links(node.id) == 1).await;
    gateway.plane.disconnect(node.id, "revoked");
    assert!(soon(waiting).await.is_err());
}

#[test]
fn an_upgrade_is_joined_only_where_both_sides_have_switched() {
    let mut response = Response::new(Body::Empty);
    assert!(upgrade::accepted(None, &mut response).is_none());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    assert!(upgrade::accepted(None, &mut response).is_none());
}
