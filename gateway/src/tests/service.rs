//! Requests to services.

use std::{
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use paceline_mesh::{
    data::SendError,
    http::{Body, NodeError, ask},
};
use paceline_proto::{manifest::Health, view::MemberState};
use tokio::sync::mpsc;

use super::harness::{KEY, Options, PATIENCE, json, local, mirror, shared, signal, start, text};
use crate::testing::{FakeCluster, node, view};

fn request(method: &str, path: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).body(Full::default()).expect("request")
}

/// A body fed by hand; [`BREAK`] breaks it.
fn fed() -> (mpsc::Sender<&'static str>, Body) {
    let (feed, mut food) = mpsc::channel::<&'static str>(4);
    let frame = |text: &'static str| match text {
        BREAK => Err(std::io::Error::other("gone")),
        text => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
    };
    let frames = futures::stream::poll_fn(move |cx| food.poll_recv(cx).map(|text| text.map(frame)));
    (feed, Body::boxed(StreamBody::new(frames)))
}

const BREAK: &str = "break";

#[tokio::test]
async fn the_local_worker_answers_without_a_hop() {
    let cluster = FakeCluster::new(
        view(|v| {
            v.offer(0, "files", Health::Healthy);
        }),
        |_, _| async { panic!("nobody else is asked") },
    );
    let gateway = start(cluster, local(|_, request| mirror(request)), &Options::default());
    let mut put = request("PUT", "/api/service/files/a%2Fb/..?x=%20");
    *put.body_mut() = Full::from("hello");
    put.headers_mut().insert("x-paceline-error", HeaderValue::from_static("forged"));
    put.headers_mut().insert("x-request-id", HeaderValue::from_static("mine-1"));
    let answer = gateway.send(put).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["x-paceline-worker"], "w0");
    assert_eq!(answer.headers()["x-paceline-path"], "local");
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let seen = text(&answer);
    assert!(seen.starts_with("PUT /a%2Fb/..?x=%20\n"), "{seen}");
    assert!(seen.ends_with("\n\nhello"), "{seen}");
    assert!(!seen.contains("forged"), "{seen}");
    assert!(seen.contains("x-forwarded-prefix: /api/service/files\n"), "{seen}");
    assert!(seen.contains("x-request-id: mine-1\n"), "{seen}");
}

#[tokio::test]
async fn a_remote_worker_answers_and_the_admin_key_stays_here() {
    let cluster = FakeCluster::new(
        view(|v| {
            v.offer(1, "files", Health::Healthy);
        }),
        |asked, request| async move {
            assert_eq!(asked, node(1));
            Ok(mirror(request).await)
        },
    );
    let gateway = start(cluster, None, &Options::default());
    let mut get = request("GET", "/api/service/files");
    get.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {KEY}")).expect("value"));
    get.headers_mut().insert("cf-ray", HeaderValue::from_static("1"));
    let answer = gateway.send(get).await;
    assert_eq!(answer.headers()["x-paceline-path"], "reverse");
    assert!(text(&answer).starts_with("GET /\n") && !text(&answer).contains(KEY), "{}", text(&answer));
    let mut tunnelled = request("GET", "/api/service/files");
    tunnelled.headers_mut().insert("cf-ray", HeaderValue::from_static("1"));
    let answer = gateway.send(tunnelled).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(json(&answer)["error"].as_str().expect("words").contains("Authorization: Bearer"));
}

#[tokio::test]
async fn an_unknown_service_is_looked_for_then_refused_with_help() {
    let offered = |v: &mut crate::testing::ViewBuilder| {
        v.offer(0, "files", Health::Healthy);
    };
    let cluster = FakeCluster::new(view(offered), |_, _| async { unreachable!() });
    let gateway = start(cluster.clone(), local(|_, request| mirror(request)), &Options::default());
    let path = "/api/service/fils/x";
    let (a, b) = tokio::join!(gateway.get(path), gateway.get(path));
    for answer in [a, b] {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = json(&answer);
        assert_eq!(body["error"], "Service 'fils' not available");
        assert_eq!(body["available_services"], serde_json::json!(["files"]));
        assert_eq!(body["suggestion"], "Did you mean 'files'?");
        assert_eq!(body["request_id"], answer.headers()["x-request-id"].to_str().expect("ascii"));
    }
    assert_eq!(cluster.searches.load(SeqCst), 1, "one search for all who wait, and none soon after");
    let hidden = view(|v| {
        offered(v);
        v.offer(1, "late", Health::Healthy).generation(1);
    });
    *cluster.hidden.lock().expect("lock") = Some(hidden);
    let peers = FakeCluster::new(view(offered), |_, request| async { Ok(mirror(request).await) });
    let with_peers = FakeCluster { hidden: cluster.hidden.clone(), ..peers };
    let gateway = start(with_peers, None, &Options::default());
    assert_eq!(gateway.get("/api/service/late/x").await.status(), StatusCode::OK, "found by searching");
    assert_eq!(gateway.get("/api/service/NoName").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_service_without_a_healthy_worker_says_so() {
    let down = view(|v| {
        v.offer(1, "files", Health::Unhealthy).offer(2, "files", Health::Healthy).drain(2);
    });
    let gateway = start(FakeCluster::new(down, |_, _| async { unreachable!() }), None, &Options::default());
    let answer = gateway.get("/api/service/files/").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let error = json(&answer)["error"].to_string();
    assert!(error.contains("1 unhealthy, 1 draining"), "{error}");
}

#[tokio::test]
async fn a_failed_attempt_is_made_once_more_where_that_is_safe() {
    let both = || {
        view(|v| {
            v.offer(1, "files", Health::Healthy).offer(2, "files", Health::Healthy);
        })
    };
    let first = Arc::new(AtomicUsize::new(0));
    let count = first.clone();
    let cluster = FakeCluster::new(both(), move |_, request| {
        let broken = count.fetch_add(1, SeqCst).is_multiple_of(2);
        async move { if broken { Err(SendError::Broken { reason: "cut".into() }) } else { Ok(mirror(request).await) } }
    });
    let gateway = start(cluster.clone(), None, &Options::default());
    let mut put = request("PUT", "/api/service/files/x");
    *put.body_mut() = Full::from("again");
    let answer = gateway.send(put).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(text(&answer).ends_with("again"));
    assert_eq!(cluster.reported.lock().expect("lock").len(), 1);
    first.store(0, SeqCst);
    let mut post = request("POST", "/api/service/files/x");
    *post.body_mut() = Full::from("once");
    let answer = gateway.send(post).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "a POST may have acted");
    let body = json(&answer);
    assert_eq!((body["hop"].as_str(), body["tried"].as_array().map(Vec::len)), (Some("gateway-node"), Some(1)));
    assert_eq!(body["worker"], answer.headers()["x-paceline-worker"].to_str().expect("ascii"));
}

#[tokio::test]
async fn an_unsent_request_goes_elsewhere_with_its_body_and_the_culprit_rests() {
    let asked = shared(Vec::new());
    let log = asked.clone();
    let both = view(|v| {
        v.offer(1, "files", Health::Healthy).offer(2, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(both, move |node_id, request| {
        log.lock().expect("lock").push(node_id);
        async move {
            if node_id == node(1) {
                return Err(SendError::Unreachable { reason: "no route".into(), request: Box::new(request) });
            }
            Ok(mirror(request).await)
        }
    });
    let gateway = start(cluster, None, &Options::default());
    for _ in 0..20 {
        let mut post = request("POST", "/api/service/files/x");
        *post.body_mut() = Full::from("kept");
        let answer = gateway.send(post).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(text(&answer).ends_with("kept"));
    }
    let to_the_dead = asked.lock().expect("lock").iter().filter(|n| **n == node(1)).count();
    assert!(to_the_dead <= 1, "asked {to_the_dead} times within its rest");
}

#[tokio::test]
async fn a_single_worker_that_cannot_be_reached_fails_fast_and_says_so() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let one = view(|v| {
        v.offer(1, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, move |_, request| {
        count.fetch_add(1, SeqCst);
        async move { Err(SendError::Unreachable { reason: "no route".into(), request: Box::new(request) }) }
    });
    let gateway = start(cluster, None, &Options::default());
    for expected in [1, 1, 1] {
        let answer = gateway.get("/api/service/files/x").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(&answer);
        assert_eq!((body["worker"].as_str(), body["hop"].as_str()), (Some("w1"), Some("gateway-node")));
        assert!(body["error"].to_string().contains("no route"), "{body}");
        assert_eq!(asked.load(SeqCst), expected);
    }
}

#[tokio::test]
async fn each_of_a_nodes_failures_has_its_status() {
    for error in NodeError::ALL {
        let one = view(|v| {
            v.offer(0, "files", Health::Healthy);
        });
        let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
        let gateway = start(cluster, local(move |_, _| async move { error.response("x") }), &Options::default());
        let answer = gateway.get("/api/service/files/x").await;
        let wanted = match error {
            NodeError::Timeout => 504,
            NodeError::Overloaded => 429,
            NodeError::NotStarted => 503,
            NodeError::NotAllowed => 403,
            _ => 502,
        };
        assert_eq!(answer.status(), wanted, "{error:?}");
        let body = json(&answer);
        assert_eq!((body["hop"].as_str(), body["tried"][0]["worker"].as_str()), (Some("node-service"), Some("w0")));
        assert!(!answer.headers().contains_key("x-paceline-error"));
    }
}

#[tokio::test]
async fn a_busy_worker_is_passed_by_for_any_other_before_the_caller_is_told() {
    let asked = shared(Vec::new());
    let log = asked.clone();
    let four = view(|v| {
        for node in 1..=4 {
            v.offer(node, "files", Health::Healthy);
        }
    });
    let free = Arc::new(AtomicUsize::new(3));
    let one = free.clone();
    let cluster = FakeCluster::new(four, move |node_id, request| {
        let mut asked = log.lock().expect("lock");
        asked.push(node_id);
        let busy = asked.len() <= one.load(SeqCst);
        async move { Ok(if busy { NodeError::Overloaded.response("enough") } else { mirror(request).await }) }
    });
    let gateway = start(cluster, None, &Options::default());
    let post = || Request::post("/api/service/files/x").body(Full::from("small")).expect("request");
    let answer = gateway.send(post()).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", text(&answer));
    let mut nodes = std::mem::take(&mut *asked.lock().expect("lock"));
    assert_eq!(nodes.len(), 4);
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 4, "each once");
    free.store(usize::MAX, SeqCst);
    let answer = gateway.get("/api/service/files/x").await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert_eq!(json(&answer)["tried"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_service_that_never_answers_is_a_504() {
    let one = view(|v| {
        v.offer(1, "slow", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| std::future::pending());
    let options = Options { first_byte_timeout: Duration::from_millis(50), ..Options::default() };
    let gateway = start(cluster, None, &options);
    let answer = gateway.get("/api/service/slow/x").await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(json(&answer)["hop"], "node-service");
}

#[tokio::test]
async fn a_service_that_starts_on_demand_is_waited_for_as_long_as_its_node_says_so() {
    let two = view(|v| {
        v.offer(0, "here", Health::Healthy).offer(1, "there", Health::Healthy);
    });
    let up = Arc::new(tokio::sync::Notify::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = move |request: http::Request<Body>| {
        let (up, asked) = (up.clone(), asked.clone());
        async move {
            match ask::Ask::of(request.headers()) {
                // Up when it was asked for the third time: after three times the bound for a first byte.
                Some(ask::Ask::Starting(_)) => {
                    if asked.fetch_add(1, SeqCst) % 3 == 2 {
                        up.notify_one();
                    }
                    http::Response::new(Body::full(r#"{"starting": true}"#))
                }
                _ => {
                    up.notified().await;
                    mirror(request).await
                }
            }
        }
    };
    let remote = answer.clone();
    let cluster = FakeCluster::new(two, move |_, request| {
        let answered = remote(request);
        async move { Ok(answered.await) }
    });
    let options = Options { first_byte_timeout: Duration::from_millis(50), ..Options::default() };
    let gateway = start(cluster, local(move |_, request| answer(request)), &options);
    for service in ["here", "there"] {
        let begun = std::time::Instant::now();
        let got = gateway.get(&format!("/api/service/{service}/x")).await;
        assert_eq!(got.status(), StatusCode::OK, "{}", text(&got));
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_service_that_did_not_start_is_a_503_with_the_nodes_words() {
    let one = view(|v| {
        v.offer(1, "llm", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async {
        let mut response = NodeError::NotStarted.response("`llm` does not start: exited with code 3");
        response.headers_mut().insert("retry-after", 7.into());
        Ok(response)
    });
    let gateway = start(cluster, None, &Options::default());
    let got = gateway.get("/api/service/llm/x").await;
    assert_eq!((got.status(), &got.headers()["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &"7".parse().unwrap()));
    let body = json(&got);
    assert!(body["error"].as_str().is_some_and(|e| e.contains("exited with code 3")), "{body}");
    assert_eq!((&body["worker"], &body["hop"]), (&"w1".into(), &"node-service".into()));
}

#[tokio::test]
async fn a_suspect_is_asked_only_when_nobody_better_is_there() {
    let asked = shared(Vec::new());
    let log = asked.clone();
    let both = |first: MemberState| {
        view(|v| {
            v.offer(1, "files", Health::Healthy).offer(2, "files", Health::Healthy).state(1, MemberState::Suspect);
            v.state(2, first).generation(u64::from(first == MemberState::Dead));
        })
    };
    let cluster = FakeCluster::new(both(MemberState::Alive), move |node_id, request| {
        log.lock().expect("lock").push(node_id);
        async move { Ok(mirror(request).await) }
    });
    let gateway = start(cluster.clone(), None, &Options::default());
    for _ in 0..8 {
        gateway.get("/api/service/files/").await;
    }
    assert_eq!(*asked.lock().expect("lock"), [node(2); 8]);
    cluster.view.store(Arc::new(both(MemberState::Dead)));
    assert_eq!(gateway.get("/api/service/files/").await.headers()["x-paceline-worker"], "w1");
}

#[tokio::test]
async fn bytes_pass_as_they_come_and_a_client_that_goes_is_noticed() {
    let (feed, body) = fed();
    let body = shared(Some(body));
    let one = view(|v| {
        v.offer(0, "sse", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let handler = local(move |_, _| {
        let body = body.lock().expect("lock").take().expect("asked once");
        async move {
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            response
        }
    });
    let gateway = start(cluster, handler, &Options::default());
    let mut client = gateway.raw("GET /api/service/sse/ HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    feed.send("data: 1\n\n").await.expect("open");
    client.hear("data: 1").await;
    feed.send("data: 2\n\n").await.expect("open");
    client.hear("data: 2").await;
    drop(client);
    tokio::time::timeout(PATIENCE, feed.closed()).await.expect("the service sees that the client has gone");
}

#[tokio::test]
async fn a_request_whose_client_goes_is_cancelled() {
    let (tell_begun, begun) = signal();
    let (tell_gone, gone) = signal();
    struct OnDrop<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            if let Some(f) = self.0.take() {
                f();
            }
        }
    }
    let once = shared(Some((tell_begun, OnDrop(Some(tell_gone)))));
    let one = view(|v| {
        v.offer(1, "slow", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, move |_, _| {
        let (begin, guard) = once.lock().expect("lock").take().expect("asked once");
        async move {
            begin();
            let _guard = guard;
            std::future::pending().await
        }
    });
    let gateway = start(cluster, None, &Options::default());
    let client = gateway.raw("GET /api/service/slow/ HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    tokio::time::timeout(PATIENCE, begun).await.expect("in time").expect("begun");
    drop(client);
    tokio::time::timeout(PATIENCE, gone).await.expect("in time").expect("cancelled");
}

#[tokio::test]
async fn a_body_that_breaks_is_never_complete() {
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let (feed, body) = fed();
    let body = shared(Some(body));
    let handler = local(move |_, _| {
        let body = body.lock().expect("lock").take().expect("asked once");
        async move { Response::new(body) }
    });
    let gateway = start(cluster, handler, &Options::default());
    let mut client = gateway.raw("GET /api/service/files/ HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    feed.send("half").await.expect("open");
    client.hear("half").await;
    feed.send(BREAK).await.expect("open");
    let heard = client.ended().await;
    assert!(!heard.contains("0\r\n\r\n"), "{heard}");
}

#[tokio::test]
async fn trailers_and_expectations_and_head_pass() {
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let gateway = start(cluster, local(|_, request| mirror(request)), &Options::default());
    let mut client = gateway
        .raw(
            "POST /api/service/files/ HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\
             Connection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n",
        )
        .await;
    assert!(client.ended().await.contains("x-sum: 42\n"));
    let mut client = gateway
        .raw(
            "PUT /api/service/files/ HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n",
        )
        .await;
    client.hear("100 Continue").await;
    client.say("later").await;
    let heard = client.ended().await;
    assert!(heard.ends_with("later") && !heard.contains("expect:"), "{heard}");
    let answer = gateway.send(request("HEAD", "/api/service/files/")).await;
    assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 0));
    assert!(answer.headers().contains_key("content-length"));
}

#[tokio::test]
async fn an_upgrade_is_joined() {
    // The service's side of the upgrade is made by a real hyper server, as on a node.
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let service_at = service.local_addr().expect("address");
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = service.accept().await.expect("accept");
        let mut head = [0u8; 4096];
        let n = stream.read(&mut head).await.expect("read");
        let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
        assert!(head.contains("connection: upgrade") && head.contains("upgrade: echo"), "{head}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(answer).await.expect("write");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let one = view(|v| {
        v.offer(1, "echo", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, move |_, mut request: Request<Body>| async move {
        let stream = tokio::net::TcpStream::connect(service_at).await.expect("connect");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
        tokio::spawn(connection.with_upgrades());
        request.headers_mut().insert("host", HeaderValue::from_static("echo"));
        Ok(sender.send_request(request).await.expect("response").map(Body::from))
    });
    let gateway = start(cluster, None, &Options::default());
    let mut client = gateway
        .raw("GET /api/service/echo/ HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    let head = client.hear("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: echo"), "{head}");
    assert!(head.contains("x-paceline-worker: w1"), "{head}");
    client.say("ping").await;
    assert_eq!(client.hear("ping").await, "ping");
    let workers = gateway.get("/api/workers/w1/tasks").await;
    assert_eq!(json(&workers)["total"], 1, "in flight as long as it is open");
    gateway.gateway.shutdown(Duration::from_millis(50)).await;
    assert_eq!(client.ended().await, "", "closed after the grace period");
}

/// A worker that reads its requests' bodies, and speaks of a broken connection when one does not end well.
fn reader(views: paceline_proto::view::ClusterView) -> FakeCluster {
    FakeCluster::new(views, |_, request| async move {
        match http_body_util::BodyExt::collect(request.into_body()).await {
            Ok(_) => Ok(Response::new(Body::Empty)),
            Err(error) => Err(SendError::Broken { reason: error.to_string() }),
        }
    })
}

#[tokio::test]
async fn what_a_caller_does_to_its_own_body_is_no_workers_fault() {
    let cluster = reader(view(|v| {
        v.offer(1, "files", Health::Healthy);
    }));
    let remote = start(cluster.clone(), None, &Options::default());
    let own = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let handler = local(|_, request| async move {
        match http_body_util::BodyExt::collect(request.into_body()).await {
            Ok(_) => Response::new(Body::Empty),
            Err(_) => NodeError::ClosedEarly.response("x"),
        }
    });
    let local = start(FakeCluster::new(own, |_, _| async { unreachable!() }), handler, &Options::default());
    let head = "POST /api/service/files/ HTTP/1.1\r\nHost: HOST\r\n";
    for gateway in [&remote, &local] {
        for _ in 0..10 {
            let malformed = format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
            let heard = gateway.raw(&malformed).await.ended().await;
            assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("the request's body broke off: "), "{heard}");
            let mut client = gateway.raw(&format!("{head}Content-Length: 10\r\n\r\n12")).await;
            tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("half closed");
            let heard = client.ended().await;
            assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 400 "), "{heard}");
        }
        assert_eq!(gateway.get("/api/service/files/").await.status(), StatusCode::OK, "nobody rests");
    }
    assert_eq!(*cluster.reported.lock().expect("lock"), []);
}

#[tokio::test]
async fn a_body_that_stands_still_is_a_408() {
    let cluster = reader(view(|v| {
        v.offer(1, "one", Health::Healthy);
        v.offer(1, "two", Health::Healthy).offer(2, "two", Health::Healthy);
    }));
    let gateway = start(cluster.clone(), None, &Options::default());
    for (line, more) in [
        ("PUT /api/service/two/", ""),
        ("PUT /api/service/one/", ""),
        ("POST /api/service/one/", ""),
        ("POST /api/admin/tokens", "Authorization: Bearer the-admin-key\r\nContent-Type: application/json\r\n"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: HOST\r\n{more}Content-Length: 10\r\n\r\n12");
        let heard = gateway.raw(&head).await.hear("request_id").await;
        assert!(heard.starts_with("HTTP/1.1 408 "), "{line}: {heard}");
        assert!(heard.contains("{\"error\":\"nothing more of the request's body came"), "{line}: {heard}");
    }
    assert_eq!(*cluster.reported.lock().expect("lock"), []);
}

#[tokio::test]
async fn a_request_has_one_transfer_coding() {
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let gateway = start(cluster, local(|_, request| mirror(request)), &Options::default());
    for path in ["/api/service/files/", "/health"] {
        for coding in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: chunked"] {
            let words = format!("POST {path} HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
            let heard = gateway.raw(&words).await.ended().await;
            assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("{\"error\":"), "{coding}: {heard}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_a_living_node_resets_is_its_services_doing() {
    let cluster = FakeCluster::new(
        view(|v| {
            v.offer(1, "files", Health::Healthy).offer(2, "files", Health::Healthy);
        }),
        |_, _| async { Err(SendError::StreamReset { reason: "reset".into() }) },
    );
    let gateway = start(cluster.clone(), None, &Options::default());
    for (method, attempts) in [("POST", 1), ("GET", 2)] {
        let answer = gateway.send(request(method, "/api/service/files/")).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(&answer);
        assert_eq!(
            (body["hop"].as_str(), body["tried"].as_array().map(Vec::len)),
            (Some("node-service"), Some(attempts))
        );
    }
    assert_eq!(*cluster.reported.lock().expect("lock"), []);
}
