//! Which worker gets a request, how long it may take, and what happens when one fails or has enough to do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use paceline_mesh::{
    data::SendError,
    http::{Body, NodeError},
};
use paceline_proto::{id::NodeId, manifest::Health, view::ClusterView};
use tokio::sync::{Notify, Semaphore};

use super::harness::{Options, PATIENCE, Running, json, local, mirror, shared, start, text};
use crate::testing::{FakeCluster, ViewBuilder, node, view};

const PATH: &str = "/api/service/files/x";

fn get(headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(PATH).body(Full::default()).expect("request");
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).expect("value"));
    }
    request
}

fn offers(count: u8, more: impl FnOnce(&mut ViewBuilder)) -> ClusterView {
    view(|v| {
        for n in 1..=count {
            v.offer(n, "files", Health::Healthy);
        }
        more(v);
    })
}

fn mirrored(view: ClusterView) -> FakeCluster {
    FakeCluster::new(view, |_, request| async move { Ok(mirror(request).await) })
}

fn worker(answer: &Response<Bytes>) -> &str {
    answer.headers()["x-paceline-worker"].to_str().expect("ascii")
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let looking = async {
        while !probe() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn wishes_choose_the_worker_and_do_not_reach_it() {
    let cluster = mirrored(offers(3, |v| {
        v.site(1, "berlin").label(2, "vram", "24 GiB").label(2, "rack", "7").site(3, "berlin").drain(3);
        v.offer(4, "other", Health::Healthy).offer(5, "files", Health::Unhealthy);
    }));
    let gateway = start(cluster, None, &Options::default());
    for _ in 0..8 {
        let answer = gateway.send(get(&[("x-paceline-site", "berlin")])).await;
        assert_eq!((answer.status(), worker(&answer)), (StatusCode::OK, "w1"));
        assert!(!text(&answer).contains("x-paceline"), "{}", text(&answer));
        let answer = gateway.send(get(&[("x-paceline-require", "vram>=16GiB, rack=7, site!=berlin")])).await;
        assert_eq!(worker(&answer), "w2");
        assert_eq!(worker(&gateway.send(get(&[("x-paceline-worker", "w1")])).await), "w1");
    }
    for (headers, status, words) in [
        (&[("x-paceline-require", "vram>=")][..], 400, "X-Paceline-Require, at character 7: a value is missing"),
        (
            &[("x-paceline-require", "vram>=48GiB")],
            503,
            "X-Paceline-Require 'vram>=48GiB': no worker that offers it fits",
        ),
        (&[("x-paceline-site", "paris")], 503, "with X-Paceline-Site 'paris'"),
        (&[("x-paceline-worker", "w9")], 404, "Worker 'w9' is not known"),
        (&[("x-paceline-worker", "w4")], 404, "Worker 'w4' does not offer 'files'"),
        (&[("x-paceline-worker", "w3")], 503, "Worker 'w3' is draining"),
        (&[("x-paceline-worker", "w5")], 503, "it is not healthy there"),
        (&[("x-paceline-worker", "w1"), ("x-paceline-site", "paris")], 503, "does not fit X-Paceline-Site 'paris'"),
    ] {
        let answer = gateway.send(get(headers)).await;
        let body = json(&answer);
        assert_eq!(answer.status().as_u16(), status, "{body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(words)), "{words}: {body}");
        if status != 400 {
            assert_eq!(body["workers"], serde_json::json!(["w2", "w1"]), "the own site first: {body}");
        }
    }
}

#[tokio::test]
async fn requests_with_one_key_go_to_one_worker() {
    let cluster = mirrored(offers(8, |v| {
        for n in 1..=8 {
            v.term(n, "paceline.affinity", "cookie:sid");
        }
    }));
    let gateway = start(cluster, None, &Options::default());
    let mut seen = std::collections::BTreeSet::new();
    for key in 0..12 {
        for headers in [[("cookie", format!("a=b; sid={key}"))], [("x-paceline-affinity", format!("{key}"))]] {
            let headers = [(headers[0].0, headers[0].1.as_str())];
            let first = gateway.send(get(&headers)).await;
            for _ in 0..4 {
                assert_eq!(worker(&gateway.send(get(&headers)).await), worker(&first), "{headers:?}");
            }
            seen.insert(worker(&first).to_owned());
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[tokio::test]
async fn the_own_worker_first_and_others_when_it_is_loaded() {
    let release = Arc::new(Semaphore::new(0));
    let held = release.clone();
    let working = Arc::new(AtomicUsize::new(0));
    let count = working.clone();
    let cluster = mirrored(offers(1, |v| {
        v.offer(0, "files", Health::Healthy);
    }));
    let handler = local(move |_, request| {
        let (held, count) = (held.clone(), count.clone());
        async move {
            if request.uri() == "/hold" {
                count.fetch_add(1, SeqCst);
                held.acquire().await.expect("open").forget();
            }
            mirror(request).await
        }
    });
    let gateway = Arc::new(start(cluster, handler, &Options::default()));
    for _ in 0..8 {
        assert_eq!(worker(&gateway.get(PATH).await), "w0");
    }
    let mut held = Vec::new();
    for n in 1.. {
        let gateway = gateway.clone();
        held.push(tokio::spawn(async move { gateway.get("/api/service/files/hold").await }));
        until("it is held or answered", || working.load(SeqCst) == n || held[n - 1].is_finished()).await;
        if held[n - 1].is_finished() {
            break;
        }
    }
    assert!(held.len() < 30, "spilled over after {}", held.len());
    release.add_permits(held.len());
    for (n, call) in held.into_iter().enumerate().rev() {
        let answer = call.await.expect("no panic");
        assert!(n == 0 || answer.status() == StatusCode::OK);
    }
    assert_eq!(worker(&gateway.get(PATH).await), "w0", "and back");
}

/// A worker that holds requests until they are released, and counts them.
struct Holding {
    gateway: Arc<Running>,
    working: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    release: Arc<Semaphore>,
}

fn holding(max: u32, queue: &str) -> Holding {
    let (working, most, release) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (now, peak, held) = (working.clone(), most.clone(), release.clone());
    let one = offers(1, |v| {
        v.admit(1, max).term(1, "paceline.queue_timeout", queue);
    });
    let cluster = FakeCluster::new(one, move |_, request| {
        let (now, peak, held) = (now.clone(), peak.clone(), held.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            held.acquire().await.expect("open").forget();
            now.fetch_sub(1, SeqCst);
            Ok(mirror(request).await)
        }
    });
    Holding { gateway: Arc::new(start(cluster, None, &Options::default())), working, most, release }
}

impl Holding {
    fn call(&self) -> tokio::task::JoinHandle<Response<Bytes>> {
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.get(PATH).await })
    }

    async fn waiting(&self, count: u64) {
        let line = format!("paceline_gateway_waiting{{service=\"files\"}} {count}");
        for _ in 0..2_000 {
            if text(&self.gateway.get("/metrics").await).lines().any(|l| l == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("never: {line}");
    }
}

#[tokio::test]
async fn a_full_worker_is_waited_for_and_never_gets_more_than_it_takes() {
    let holding = holding(2, "60");
    let calls: Vec<_> = (0..6).map(|_| holding.call()).collect();
    until("two at work", || holding.working.load(SeqCst) == 2).await;
    holding.waiting(4).await;
    for _ in 0..6 {
        holding.release.add_permits(1);
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic").status(), StatusCode::OK);
    }
    assert_eq!(holding.most.load(SeqCst), 2);
    holding.waiting(0).await;
}

#[tokio::test]
async fn who_waits_for_one_worker_takes_no_turn_from_those_who_wait_for_any() {
    let holding = holding(1, "60");
    let first = holding.call();
    until("it is full", || holding.working.load(SeqCst) == 1).await;
    let gateway = holding.gateway.clone();
    let picky = tokio::spawn(async move { gateway.send(get(&[("x-paceline-worker", "w1")])).await });
    let any = holding.call();
    holding.waiting(1).await;
    holding.release.add_permits(3);
    for call in [first, picky, any] {
        assert_eq!(call.await.expect("no panic").status(), StatusCode::OK);
    }
    assert_eq!(holding.most.load(SeqCst), 1);
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_so() {
    let holding = holding(1, "0.1");
    let first = holding.call();
    until("it is full", || holding.working.load(SeqCst) == 1).await;
    let refused = holding.gateway.get(PATH).await;
    assert_eq!(
        (refused.status(), refused.headers()["retry-after"].to_str().expect("ascii")),
        (StatusCode::TOO_MANY_REQUESTS, "1")
    );
    let body = json(&refused);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("too many requests")), "{body}");
    assert_eq!(body["tried"][0]["worker"], "w1");
    holding.release.add_permits(1);
    assert_eq!(first.await.expect("no panic").status(), StatusCode::OK);
    holding.release.add_permits(1);
    assert_eq!(holding.gateway.get(PATH).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_line() {
    let holding = holding(1, "60");
    let first = holding.call();
    until("it is full", || holding.working.load(SeqCst) == 1).await;
    let gone = holding.gateway.raw("GET /api/service/files/x HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    holding.waiting(1).await;
    drop(gone);
    holding.waiting(0).await;
    holding.release.add_permits(1);
    assert_eq!(first.await.expect("no panic").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_worker_that_others_keep_busy_is_asked_again_until_it_has_a_place() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let one = offers(1, |v| {
        v.admit(1, 4).term(1, "paceline.queue_timeout", "30");
    });
    let cluster = FakeCluster::new(one, move |_, request| {
        let busy = count.fetch_add(1, SeqCst) < 2;
        async move { Ok(if busy { NodeError::Overloaded.response("enough") } else { mirror(request).await }) }
    });
    let gateway = start(cluster, None, &Options::default());
    let post = Request::post(PATH).body(Full::from("kept")).expect("request");
    let answer = gateway.send(post).await;
    assert_eq!((answer.status(), asked.load(SeqCst)), (StatusCode::OK, 3));
    assert!(text(&answer).ends_with("kept"));
}

#[tokio::test]
async fn a_service_that_asks_for_time_gets_it_while_others_are_there() {
    let asked = shared(Vec::<NodeId>::new());
    let log = asked.clone();
    let cluster = FakeCluster::new(offers(2, |_| ()), move |node_id, request| {
        log.lock().expect("lock").push(node_id);
        async move {
            let mut response = mirror(request).await;
            if node_id == node(1) {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", HeaderValue::from_static("30"));
            }
            Ok(response)
        }
    });
    let gateway = start(cluster, None, &Options::default());
    for _ in 0..30 {
        gateway.get(PATH).await;
    }
    let first = asked.lock().expect("lock").iter().filter(|n| **n == node(1)).count();
    assert_eq!(first, 1, "its answer is passed on, and it is left alone");
    let only = gateway.send(get(&[("x-paceline-worker", "w1")])).await;
    assert_eq!(
        (only.status(), only.headers()["retry-after"].to_str().expect("ascii")),
        (StatusCode::SERVICE_UNAVAILABLE, "30")
    );
}

#[tokio::test]
async fn every_deadline_is_the_services_own() {
    let terms = |key: &'static str, value: &'static str| {
        offers(2, move |v| {
            v.term(1, key, value).term(2, key, value);
        })
    };
    let silent = FakeCluster::new(terms("paceline.first_byte_timeout", "0.05"), |_, _| std::future::pending());
    let answer = start(silent, None, &Options::default()).get(PATH).await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    let body = json(&answer);
    assert_eq!(
        (body["hop"].as_str(), body["tried"].as_array().map(Vec::len)),
        (Some("node-service"), Some(1)),
        "{body}"
    );
    assert!(body["error"].as_str().is_some_and(|error| error.contains("no answer within 0.05 s")), "{body}");
    assert_eq!(answer.headers()["x-paceline-path"], "reverse");
    assert_eq!(body["tried"][0]["path"], "reverse");

    let silent = FakeCluster::new(terms("paceline.total_timeout", "0.05"), |_, _| std::future::pending());
    let answer = start(silent, None, &Options::default()).get(PATH).await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(&answer).contains("the time for the whole request was up"), "{}", text(&answer));

    // A body that has begun is broken off: it must not look whole.
    let endless = FakeCluster::new(terms("paceline.total_timeout", "0.2"), |_, _| async {
        let one = futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"begun")))]);
        let frames = futures::StreamExt::chain(one, futures::stream::pending());
        Ok(Response::new(Body::boxed(StreamBody::new(frames))))
    });
    let gateway = start(endless, None, &Options::default());
    let mut client = gateway.raw("GET /api/service/files/ HTTP/1.1\r\nHost: HOST\r\n\r\n").await;
    client.hear("begun").await;
    let heard = client.ended().await;
    assert!(!heard.contains("0\r\n\r\n"), "{heard}");
}

#[tokio::test]
async fn a_slow_request_is_hedged_where_the_service_allows_it() {
    let slow = Arc::new(AtomicBool::new(false));
    let (stuck, cancelled) = (slow.clone(), Arc::new(Notify::new()));
    let noticed = cancelled.clone();
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let both = offers(2, |v| {
        v.term(1, "paceline.hedge", "true").term(2, "paceline.hedge", "true");
    });
    let cluster = FakeCluster::new(both, move |_, request| {
        let (stuck, cancelled) = (stuck.clone(), cancelled.clone());
        async move {
            if stuck.swap(false, SeqCst) {
                let _dropped = OnDrop(cancelled);
                std::future::pending::<()>().await;
            }
            Ok(mirror(request).await)
        }
    });
    let gateway = start(cluster, None, &Options::default());
    for _ in 0..40 {
        assert_eq!(gateway.get(PATH).await.status(), StatusCode::OK);
    }
    slow.store(true, SeqCst);
    assert_eq!(gateway.get(PATH).await.status(), StatusCode::OK, "the second worker answers");
    tokio::time::timeout(PATIENCE, noticed.notified()).await.expect("the first attempt is cancelled");
    let metrics = text(&gateway.get("/metrics").await);
    let hedges = metrics.lines().find_map(|l| l.strip_prefix("paceline_gateway_hedges_total{service=\"files\"} "));
    assert!(hedges.is_some_and(|n| n.parse::<u64>().expect("number") >= 1), "{metrics}");
}

#[tokio::test]
async fn the_retry_budget_ends_a_storm() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Breaks for each request, but not so often in a row that anybody is left alone.
    let cluster = FakeCluster::new(offers(2, |_| ()), move |_, request| {
        let broken = !count.fetch_add(1, SeqCst).is_multiple_of(3);
        async move {
            request.into_body().collect().await.expect("body");
            if broken { Err(SendError::Broken { reason: "cut".into() }) } else { Ok(Response::new(Body::Empty)) }
        }
    });
    let gateway = start(cluster, None, &Options::default());
    let mut spent = None;
    for n in 0..600 {
        let answer = gateway.get(PATH).await;
        if answer.status() != StatusCode::OK && text(&answer).contains("retry budget is used up") {
            spent = Some(n);
            break;
        }
    }
    let spent = spent.expect("it is bounded");
    // Ten a second for ten seconds, and a fifth of the requests.
    assert!((40..300).contains(&spent), "after {spent}");
}

#[tokio::test]
async fn a_failure_on_the_way_is_told_worker_by_worker() {
    let cluster = FakeCluster::new(offers(3, |_| ()), |node_id, request| async move {
        Err(match node_id == node(2) {
            true => SendError::Unreachable { reason: "no route".into(), request: Box::new(request) },
            false => SendError::Broken { reason: "cut".into() },
        })
    });
    let gateway = start(cluster, None, &Options::default());
    let answer = gateway.get(PATH).await;
    let body = json(&answer);
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let tried = body["tried"].as_array().expect("attempts");
    assert_eq!(tried.len(), 3, "{body}");
    let mut workers: Vec<_> = tried.iter().map(|t| t["worker"].as_str().expect("worker")).collect();
    assert_eq!(answer.headers()["x-paceline-worker"], *workers.last().expect("three"));
    workers.sort_unstable();
    assert_eq!(workers, ["w1", "w2", "w3"]);
    assert!(tried.iter().all(|t| ["no route", "cut"].contains(&t["error"].as_str().expect("words"))), "{body}");
}
