//! The life of client connections: parked while idle, bounded heads, the order of the end.

use std::time::Duration;

use http::{Response, StatusCode};
use paceline_mesh::http::Body;
use paceline_proto::manifest::Health;

use super::harness::{Options, PATIENCE, Running, local, mirror, shared, signal, start, text};
use crate::testing::{FakeCluster, view};

const GET: &str = "GET /api/service/files/ HTTP/1.1\r\nHost: HOST\r\n\r\n";

fn gateway(options: &Options) -> Running {
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    start(cluster, local(|_, request| mirror(request)), options)
}

async fn until_parked(gateway: &Running, count: u64) {
    let wanted = format!("paceline_gateway_connections_parked {count}");
    tokio::time::timeout(PATIENCE, async {
        // Each look is a request of its own, and there is no event to wait for instead.
        while !text(&gateway.get("/metrics").await).lines().any(|line| line == wanted) {}
    })
    .await
    .expect("parked in time");
}

#[tokio::test]
async fn a_connection_outlives_its_parking() {
    let gateway = gateway(&Options::default());
    let mut client = gateway.raw("").await;
    for _ in 0..5 {
        until_parked(&gateway, 1).await;
        client.say(GET).await;
        let heard = client.hear("GET /").await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        assert!(!heard.to_lowercase().contains("connection: close"), "{heard}");
    }
}

#[tokio::test]
async fn two_requests_in_one_packet_are_both_answered() {
    let gateway = gateway(&Options::default());
    let twice = format!("{GET}{}", GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    let heard = gateway.raw(&twice).await.ended().await;
    assert_eq!(heard.matches("HTTP/1.1 200").count(), 2, "{heard}");
}

#[tokio::test]
async fn rubbish_and_heads_without_end_are_refused_and_the_gateway_lives_on() {
    let gateway = gateway(&Options::default());
    for (words, status) in [
        ("\u{1}\u{2}\u{3} rubbish\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\nHost: HOST\r\n\r\n", "a".repeat(200_000)), "4"),
        (format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}\r\n", "X-A: b\r\n".repeat(200)), "431"),
        ("PRI * HTTP/2.0\r\n\r\nno preface\r\n\r\n".to_owned(), "4"),
        ("PRI * HTTP/2.0\r\nHost: HOST\r\n\r\n".to_owned(), "4"),
    ] {
        let mut client = gateway.raw("").await;
        // The gateway may refuse and close before it has read everything.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, words.as_bytes()).await;
        let heard = client.ended().await;
        assert!(heard.is_empty() || heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
    }
    assert_eq!(gateway.get("/api/service/files/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_end_waits_for_requests_and_not_for_idlers() {
    let (tell_begun, begun) = signal();
    let (go_on, may_go_on) = signal();
    let once = shared(Some((tell_begun, may_go_on)));
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let handler = local(move |_, _| {
        let (begin, wait) = once.lock().expect("lock").take().expect("asked once");
        async move {
            begin();
            wait.await.expect("told");
            Response::new(Body::full("done"))
        }
    });
    let gateway = start(cluster, handler, &Options { lanes: 2, ..Options::default() });
    let address = gateway.address;
    let mut idle = gateway.raw("").await;
    let mut client = gateway.raw(GET).await;
    tokio::time::timeout(PATIENCE, begun).await.expect("in time").expect("begun");
    let end = tokio::spawn(gateway.gateway.shutdown(PATIENCE));
    assert_eq!(idle.ended().await, "", "an idle connection is closed at once");
    go_on();
    assert!(client.ended().await.ends_with("done"), "a running request is finished");
    tokio::time::timeout(PATIENCE, end).await.expect("in time").expect("ended");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let one = view(|v| {
        v.offer(0, "files", Health::Healthy);
    });
    let cluster = FakeCluster::new(one, |_, _| async { unreachable!() });
    let gateway = start(cluster, local(|_, _| std::future::pending()), &Options::default());
    let mut client = gateway.raw(GET).await;
    let begun = std::time::Instant::now();
    gateway.gateway.shutdown(Duration::from_millis(100)).await;
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(client.ended().await, "");
}
