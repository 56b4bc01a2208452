//! From a gateway through a node to a service on TCP: services that behave, and services that do not.

mod data_support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_support::{Process, Services, get, pair, soon};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use paceline_mesh::http::{Body, NodeError, Upstream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A service on TCP: `serve` has each connection, with its number.
async fn service<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// A gateway and a node that forwards `svc` to the address.
fn chain(address: SocketAddr, head_timeout: Option<Duration>) -> (Process, Process) {
    let url = format!("http://{address}").parse().expect("a URL");
    let upstream = Arc::new(Upstream::new(&url, 2, head_timeout).expect("fine"));
    pair(Services::default().with("svc", move |request| {
        let upstream = upstream.clone();
        async move { upstream.forward(0, request).await }
    }))
}

/// Reads a request's head; `None` where the connection ended before.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).expect("text"))
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.expect("a whole body").to_bytes().to_vec()).expect("text")
}

/// Sends a request whose answer must be the node's own.
async fn error_of(gateway: &Process, node: &Process) -> (NodeError, String) {
    let response = soon(gateway.send(node.id, "svc", get("/"))).await.expect("a response");
    let error = NodeError::of(response.headers()).expect("the node's own answer");
    assert_eq!(response.status(), error.status());
    let body: serde_json::Value = serde_json::from_str(&text(response).await).expect("JSON");
    (error, body["error"].as_str().expect("a reason").to_owned())
}

#[tokio::test]
async fn a_service_gets_requests_as_its_own_and_its_connection_is_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let address = service(move |mut stream, _| {
        counted.fetch_add(1, SeqCst);
        async move {
            while let Some(head) = head(&mut stream).await {
                let answer = format!("HTTP/1.1 200 OK\r\nx-paceline-error: timeout\r\nconnection: x-hop\r\nx-hop: 1\r\nx-own: 2\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    for _ in 0..20 {
        let response = soon(gateway.send(node.id, "svc", get("/a?b"))).await.expect("a response");
        assert_eq!(NodeError::of(response.headers()), None, "a service cannot speak for the node");
        assert!(!response.headers().contains_key("x-hop"));
        assert_eq!(response.headers()["x-own"], "2");
        let seen = text(response).await.to_lowercase();
        assert!(seen.starts_with("get /a?b http/1.1\r\n"), "{seen}");
        assert!(seen.contains(&format!("host: {address}\r\n")), "{seen}");
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_head_request_keeps_the_length_of_what_it_asks_about() {
    let address = service(|mut stream, _| async move {
        while let Some(head) = head(&mut stream).await {
            assert!(head.starts_with("HEAD "));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n").await.expect("written");
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    for _ in 0..3 {
        let request = Request::builder().method("HEAD").uri("/").body(Body::Empty).expect("a request");
        let response = soon(gateway.send(node.id, "svc", request)).await.expect("a response");
        assert_eq!(response.headers()["content-length"], "1234");
        assert!(text(response).await.is_empty());
    }
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_is_passed_whole() {
    let address = service(|mut stream, _| async move {
        let head = head(&mut stream).await.expect("a head");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await.expect("a chunked body"));
        }
        assert_eq!(body, b"3\r\nabc\r\n0\r\n\r\n");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
    })
    .await;
    let (gateway, node) = chain(address, None);
    let frames = [Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"abc")))];
    let body = Body::boxed(StreamBody::new(futures::stream::iter(frames)));
    let request = Request::builder().uri("/").header("transfer-encoding", "chunked").body(body).expect("a request");
    assert_eq!(soon(gateway.send(node.id, "svc", request)).await.expect("a response").status(), 204);
}

#[tokio::test]
async fn a_length_that_means_nothing_does_no_harm() {
    let odd = service(|mut stream, _| async move {
        let wanted = head(&mut stream).await.expect("a request");
        let answer: &[u8] = if wanted.starts_with("GET /none ") {
            b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        };
        stream.write_all(answer).await.expect("written");
    })
    .await;
    let (gateway, node) = chain(odd, None);
    let response = soon(gateway.send(node.id, "svc", get("/none"))).await.expect("a response");
    assert_eq!((response.status(), response.headers().get("content-length")), (http::StatusCode::NO_CONTENT, None));
    assert_eq!(text(response).await, "");
    let response = soon(gateway.send(node.id, "svc", get("/both"))).await.expect("a response");
    assert_eq!(response.headers().get("content-length"), None);
    assert_eq!(text(response).await, "hi");
}

#[tokio::test]
async fn a_body_whose_length_is_known_and_whose_end_comes_later_spoils_no_stream() {
    use futures::StreamExt;
    let address = service(|mut stream, _| async move {
        while let Some(head) = head(&mut stream).await {
            assert!(head.to_ascii_lowercase().contains("content-length: 3\r\n"), "{head}");
            let mut body = [0; 3];
            stream.read_exact(&mut body).await.expect("a body");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").await.expect("written");
            stream.write_all(&body).await.expect("written");
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    for i in 100..200 {
        // As HTTP/2 has it: the bytes, and some time after them the end.
        let parts = [Bytes::from(i.to_string()), Bytes::new()];
        let parts = futures::stream::iter(parts).then(|part| async move {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(Frame::data(part))
        });
        let body = Body::boxed(StreamBody::new(parts));
        let request = Request::put("/").header("content-length", "3").body(body).expect("a request");
        let response = soon(gateway.send(node.id, "svc", request)).await.expect("a response");
        assert_eq!(response.status(), 200, "request {i}");
        assert_eq!(text(response).await, i.to_string());
    }
}

#[tokio::test]
async fn services_that_do_not_behave_are_named() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port").local_addr().expect("bound");
    let (gateway, node) = chain(closed, None);
    let (error, reason) = error_of(&gateway, &node).await;
    assert_eq!(error, NodeError::ConnectFailed);
    assert!(reason.contains(&closed.to_string()), "{reason}");

    let rubbish = service(|mut stream, _| async move {
        head(&mut stream).await;
        stream.write_all(b"\x00\x01 this is no HTTP at all\r\n\r\n").await.expect("written");
    })
    .await;
    let (gateway, node) = chain(rubbish, None);
    assert_eq!(error_of(&gateway, &node).await.0, NodeError::BadResponse);

    let early = service(|mut stream, _| async move {
        head(&mut stream).await;
    })
    .await;
    let (gateway, node) = chain(early, None);
    assert_eq!(error_of(&gateway, &node).await.0, NodeError::ClosedEarly);

    let huge = service(|mut stream, _| async move {
        head(&mut stream).await;
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes()).await;
    })
    .await;
    let (gateway, node) = chain(huge, None);
    assert_eq!(error_of(&gateway, &node).await.0, NodeError::BadResponse);

    let never = service(|mut stream, _| async move {
        head(&mut stream).await;
        std::future::pending().await
    })
    .await;
    let (gateway, node) = chain(never, Some(Duration::from_millis(200)));
    assert_eq!(error_of(&gateway, &node).await.0, NodeError::Timeout);
}

#[tokio::test]
async fn a_service_that_dies_in_the_middle_never_shows_a_whole_body() {
    let address = service(|mut stream, number| async move {
        head(&mut stream).await;
        let start = if number % 2 == 0 {
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
        } else {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        };
        stream.write_all(start.as_bytes()).await.expect("written");
        if number % 4 >= 2 {
            // By a reset rather than an end.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    let mut heads = 0;
    for _ in 0..40 {
        // The break may overtake the head; a whole body never comes.
        let Ok(response) = soon(gateway.send(node.id, "svc", get("/"))).await else { continue };
        if NodeError::of(response.headers()).is_none() {
            heads += 1;
            assert!(soon(response.into_body().collect()).await.is_err());
        }
    }
    assert!(heads > 0, "not one body was seen to break");
}

#[tokio::test]
async fn the_service_sees_within_a_second_that_a_caller_has_gone() {
    let (seen, mut sees) = mpsc::channel(64);
    let address = service(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let Some(head) = head(&mut stream).await else { return };
            if head.starts_with("GET /body") {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n").await.expect("written");
            }
            seen.try_send("begun").expect("the test listens");
            let _ = stream.read(&mut [0; 1]).await;
            seen.try_send("gone").expect("the test listens");
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    let waiting = gateway.send(node.id, "svc", get("/head"));
    assert_eq!(soon(sees.recv()).await, Some("begun"));
    let since = Instant::now();
    drop(waiting);
    assert_eq!(soon(sees.recv()).await, Some("gone"));
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());

    let mut response = soon(gateway.send(node.id, "svc", get("/body"))).await.expect("a head");
    assert_eq!(soon(sees.recv()).await, Some("begun"));
    soon(response.body_mut().frame()).await.expect("a frame").expect("no error");
    let since = Instant::now();
    drop(response);
    assert_eq!(soon(sees.recv()).await, Some("gone"));
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn an_upgrade_passes_to_a_service_on_tcp() {
    let address = service(|mut stream, _| async move {
        let head = head(&mut stream).await.expect("a head").to_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: echo\r\n"), "{head}");
        // The first bytes come with the answer.
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\nwelcome")
            .await
            .expect("written");
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.expect("copied");
    })
    .await;
    let (gateway, node) = chain(address, None);
    let mut request = get("/");
    request.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    request.headers_mut().insert("upgrade", HeaderValue::from_static("echo"));
    let mut response = soon(gateway.send(node.id, "svc", request)).await.expect("a response");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "echo");
    let mut io = soon(paceline_mesh::http::upgrade::answered(&mut response).expect("an upgrade").switched())
        .await
        .expect("switched");
    let talk = async {
        io.write_all(b" and goodbye").await.expect("written");
        io.shutdown().await.expect("shut down");
        let mut all = String::new();
        io.read_to_string(&mut all).await.expect("a clean end");
        assert_eq!(all, "welcome and goodbye");
    };
    soon(talk).await;
}

#[tokio::test]
async fn an_early_answer_does_not_spoil_the_connection() {
    let address = service(|mut stream, _| async move {
        while let Some(head) = head(&mut stream).await {
            if head.starts_with("POST") {
                stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.expect("written");
                let mut rest = [0; 6];
                stream.read_exact(&mut rest).await.expect("the rest of the body");
            } else {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes").await.expect("written");
            }
        }
    })
    .await;
    let (gateway, node) = chain(address, None);
    for _ in 0..5 {
        let (feed, mut rx) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
        let body = Body::boxed(StreamBody::new(futures::stream::poll_fn(move |cx| rx.poll_recv(cx))));
        let request =
            Request::builder().method("POST").uri("/").header("content-length", "6").body(body).expect("a request");
        let sending = gateway.send(node.id, "svc", request);
        feed.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.expect("taken");
        let response = soon(sending).await.expect("a response");
        assert_eq!(response.status(), 413);
        assert_eq!(text(response).await, "no");
        let _ = feed.send(Ok(Frame::data(Bytes::from_static(b"def")))).await;
        drop(feed);
        let response = soon(gateway.send(node.id, "svc", get("/"))).await.expect("a response");
        assert_eq!(text(response).await, "yes");
    }
}
