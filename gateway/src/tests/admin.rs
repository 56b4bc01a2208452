//! Everything that is not a service request.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use paceline_mesh::http::{Body, ask::Ask};
use paceline_proto::{manifest::Health, view::MemberState};
use serde_json::{Value, json as j};

use super::harness::{KEY, Options, Running, json, local, mirror, shared, start, text};
use crate::testing::{FakeCluster, node, view};

fn gateway(options: &Options) -> Running {
    let all = view(|v| {
        v.offer(0, "files", Health::Healthy).offer(1, "files", Health::Healthy).offer(2, "notes", Health::Healthy);
        v.state(2, MemberState::Suspect).state(3, MemberState::Dead);
    });
    let cluster = FakeCluster::new(all, |_, request| async { Ok(mirror(request).await) });
    start(cluster, local(|_, request| mirror(request)), options)
}

async fn call(
    gateway: &Running,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    body: &str,
) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(path).body(Full::from(body.to_owned())).expect("request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("value"));
    }
    gateway.send(request).await
}

#[tokio::test]
async fn the_contracts_shapes() {
    let gateway = gateway(&Options::default());
    let services = json(&gateway.get("/api/admin/services").await);
    let files = j!({"total_workers": 2, "healthy_workers": 2, "status": "available", "sites": ["default"]});
    assert_eq!(services["services"]["files"], files);
    assert_eq!((&services["total_services"], &services["services"]["notes"]["status"]), (&j!(2), &j!("degraded")));
    let workers = json(&gateway.get("/api/admin/workers").await);
    assert_eq!((&workers["total"], &workers["healthy"]), (&j!(4), &j!(2)));
    let keys = |v: &Value| v.as_object().expect("object").keys().cloned().collect::<Vec<_>>();
    let mut wanted = [
        "id",
        "peer_id",
        "site",
        "type",
        "tier",
        "status",
        "services",
        "capabilities",
        "hardware",
        "path",
        "rtt_ms",
        "last_seen_s",
        "leader",
    ];
    wanted.sort_unstable();
    assert_eq!(keys(&workers["workers"][0]), wanted);
    assert_eq!((&workers["workers"][0]["path"], &workers["workers"][1]["path"]), (&j!("local"), &j!("reverse")));
    assert_eq!(workers["workers"][1]["rtt_ms"], 1.5);
    let health = json(&gateway.get("/health").await);
    assert_eq!(keys(&health), ["leader", "services", "status", "uptime_s", "version", "workers"]);
    assert_eq!(health["status"], "degraded");
    let cluster = json(&gateway.get("/api/admin/cluster").await);
    let wanted = ["cluster_id", "healthy", "leader", "members", "seq", "summary_age_s", "term", "writes_today"];
    assert_eq!(keys(&cluster), wanted);
    assert_eq!((&cluster["members"], &cluster["healthy"]), (&j!(3), &j!(2)));
    assert_eq!(json(&gateway.get("/api/workers/w2").await)["status"], "suspect");
    assert_eq!(json(&gateway.get("/api/workers/status").await)["counts"]["dead"], 1);
    let tasks = json(&gateway.get("/api/workers/w1/tasks").await);
    assert_eq!(tasks, j!({"worker": "w1", "total": 0, "requests": [], "jobs": []}));
    let answer = gateway.get("/api/workers/nobody").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(json(&answer)["error"].to_string().contains("w0, w1"));
    for path in ["/livez", "/readyz"] {
        assert_eq!(call(&gateway, "GET", path, &[("host", "10.0.0.1")], "").await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let gateway = gateway(&Options::default());
    for _ in 0..3 {
        gateway.get("/api/service/files/x").await;
    }
    gateway.get("/api/service/nothing/x").await;
    let metrics = text(&gateway.get("/metrics").await);
    for line in [
        "paceline_gateway_requests_total{service=\"files\",status=\"200\",path=\"local\"} 3",
        "paceline_gateway_requests_total{service=\"\",status=\"503\",path=\"none\"} 1",
        "paceline_gateway_request_duration_seconds_count{service=\"files\"} 3",
        "paceline_gateway_in_flight 0",
        "paceline_members{state=\"suspect\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    let stats = json(&gateway.get("/api/admin/stats").await);
    assert_eq!((&stats["requests"], &stats["errors"]), (&j!(4), &j!(1)));
    assert_eq!((&stats["services"]["files"]["requests"], &stats["by_status"]["503"]), (&j!(3), &j!(1)));
}

#[tokio::test]
async fn tokens_need_the_key_always() {
    for insecure_no_auth in [false, true] {
        let gateway = gateway(&Options { insecure_no_auth, ..Options::default() });
        let key = format!("Bearer {KEY}");
        let json_body = ("content-type", "application/json");
        for method in ["GET", "POST"] {
            let answer = call(&gateway, method, "/api/admin/tokens", &[json_body], "{}").await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            assert!(json(&answer)["error"].is_string() && answer.headers().contains_key("www-authenticate"));
            let answer = call(&gateway, method, "/api/admin/tokens", &[("authorization", "Bearer no")], "{}").await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        }
        let made = call(&gateway, "POST", "/api/admin/tokens", &[json_body, ("authorization", &key)], "{}").await;
        assert_eq!(json(&made), j!({"id": "0101010101010101", "token": "paceline1.test"}));
        let listed = call(&gateway, "GET", "/api/admin/tokens", &[("authorization", &key)], "").await;
        assert_eq!(json(&listed)["tokens"][0]["id"], "0101010101010101");
        for (body, status) in
            [("{", 400), (r#"{"ttl_s": 0}"#, 400), (r#"{"roles": 1}"#, 422), (r#"{"issuer": true}"#, 409)]
        {
            let answer = call(&gateway, "POST", "/api/admin/tokens", &[json_body, ("authorization", &key)], body).await;
            assert_eq!(answer.status(), status, "{body}");
            let body = json(&answer);
            assert!(body["error"].is_string() && body["request_id"].is_string(), "{body}");
        }
    }
}

#[tokio::test]
async fn callers_from_beyond_need_the_key() {
    let gateway = gateway(&Options::default());
    for path in ["/", "/health", "/metrics", "/api/admin/workers", "/api/service/files/", "/nowhere"] {
        let answer = call(&gateway, "GET", path, &[("host", "gateway.example")], "").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(json(&answer)["error"].to_string().contains("Host"), "{path}");
        let key = format!("Bearer {KEY}");
        let with_key = [("host", "gateway.example"), ("authorization", key.as_str())];
        assert_ne!(call(&gateway, "GET", path, &with_key, "").await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_taken() {
    let gateway = gateway(&Options::default());
    for path in ["/nowhere", "/api/service", "/api/service/", "/api/jobs"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(json(&answer)["endpoints"].as_array().is_some_and(|all| all.contains(&j!("/api/admin/services"))));
    }
    let key = format!("Bearer {KEY}");
    let answer = call(&gateway, "DELETE", "/api/admin/workers", &[], "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "whatever may change something needs more");
    let answer = call(&gateway, "DELETE", "/api/admin/workers", &[("authorization", &key)], "").await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "GET,HEAD");
    assert!(json(&answer)["error"].to_string().contains("DELETE"));
}

#[tokio::test]
async fn the_page_shows_what_is_here() {
    let gateway = gateway(&Options::default());
    let answer = gateway.get("/").await;
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = text(&answer);
    for part in ["/api/service/files/", "<td>w1<td class=healthy>healthy", "<td>w3<td class=dead>dead", "notes"] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[tokio::test]
async fn machines_are_asked_at_once_and_a_dark_one_delays_nobody() {
    const DARK: u8 = 20;
    let all = view(|v| {
        v.offer(0, "files", Health::Healthy).offer(1, "files", Health::Healthy).state(2, MemberState::Dead);
        for n in 3..3 + DARK {
            v.offer(n, "files", Health::Healthy);
        }
    });
    let asked = shared(Vec::new());
    let log = asked.clone();
    let tells = |words: &'static str| Ok(Response::new(Body::full(words)));
    let cluster = FakeCluster::new(all, move |to, request| {
        log.lock().expect("lock").push((to, Ask::of(request.headers())));
        async move {
            match to {
                to if to == node(1) => tells(r#"{"cpu": {"cores": 64}}"#),
                // Not JSON, no object, too much.
                to if to == node(3) => tells("<html>"),
                to if to == node(4) => tells("[1]"),
                to if to == node(5) => Ok(Response::new(Body::full(format!("{{\"a\": \"{}\"}}", "x".repeat(40_000))))),
                _ => std::future::pending().await,
            }
        }
    });
    let own = local(|_, _| async { Response::new(Body::full(r#"{"cpu": {"cores": 2}}"#)) });
    let gateway = start(cluster, own, &Options::default());
    let begun = std::time::Instant::now();
    let first = json(&gateway.get("/api/admin/workers").await);
    assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    let said = |list: &Value, n: usize| list["workers"].as_array().expect("list")[n]["hardware"].clone();
    let place = |list: &Value, id: &str| {
        list["workers"].as_array().expect("list").iter().position(|w| w["id"] == id).expect("a worker")
    };
    for (id, cores) in [("w0", 2), ("w1", 64)] {
        assert_eq!(said(&first, place(&first, id)), j!({ "cpu": { "cores": cores } }), "{id}");
    }
    for id in ["w2", "w3", "w4", "w5", "w9"] {
        assert_eq!(said(&first, place(&first, id)), j!({}), "{id}");
    }
    let one = json(&gateway.get("/api/workers/w1").await);
    assert_eq!(one["hardware"]["cpu"]["cores"], 64);
    let asked = asked.lock().expect("lock");
    let of = |n: u8| asked.iter().filter(|(to, ask)| *to == node(n) && *ask == Some(Ask::Hardware)).count();
    assert_eq!((of(0), of(1), of(2)), (0, 1, 0), "asked once in ten seconds; itself by no hop; the dead not at all");
}
