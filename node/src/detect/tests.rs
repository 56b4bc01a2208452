use super::*;
use std::{net::SocketAddr, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{Instant, timeout},
};

const OPENAI: &str = r#"{"object":"list","data":[{"id":"m"}]}"#;
const SOON: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// What others have named.
type Named = Arc<Mutex<Vec<(ServiceName, Option<Uri>)>>>;

/// What the desk would be told.
struct Told {
    sets: mpsc::Sender<Vec<Found>>,
    named: Named,
}

impl Sink for Told {
    fn named(&self) -> Vec<(ServiceName, Option<Uri>)> {
        self.named.lock().unwrap().clone()
    }
    fn set(&self, found: Vec<Found>) {
        self.sets.try_send(found).unwrap();
    }
}

fn told() -> (Told, mpsc::Receiver<Vec<Found>>) {
    let (sets, receive) = mpsc::channel(64);
    (Told { sets, named: Arc::default() }, receive)
}

/// Serves each GET from `answer(path)` until the set is dropped: status and body, or `None` to hang.
fn serve(listener: TcpListener, answer: fn(&str) -> Option<(u16, &'static str)>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    set.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&head[..n]).into_owned();
                let Some((status, body)) = answer(head.split(' ').nth(1).unwrap_or_default()) else {
                    return std::future::pending().await;
                };
                let length = body.len();
                let _ = stream
                    .write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
                    .await;
            });
        }
    });
    set
}

async fn bind() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn known(name: &str, port: u16, fingerprint: known::Fingerprint) -> Known {
    let mut known = Known::new(ServiceName::new(name).unwrap(), port);
    known.hosts.clear();
    known.fingerprint = fingerprint;
    known
}

fn options(known: Vec<Known>) -> Options {
    Options { known, interval: SOON, engines: Vec::new(), resolve: Some(Arc::new(|_| Vec::new())) }
}

async fn next(sets: &mut mpsc::Receiver<Vec<Found>>) -> Vec<String> {
    let set = timeout(PATIENCE, sets.recv()).await.expect("told in time").expect("told");
    set.iter().map(|found| format!("{} {}", found.name, found.url)).collect()
}

/// Each test's own services listen in the test's process, whose ports are never taken: so they are taken by the host
/// name of a container here, and by fingerprint in the tests with processes of their own.
fn container(name: &str, port: u16) -> Options {
    let mut known = known(name, port, known::Fingerprint::OpenAi);
    known.hosts = vec!["box".to_owned()];
    let resolve: Resolve = Arc::new(|host| if host == "box" { vec![[127, 0, 0, 1].into()] } else { Vec::new() });
    Options { resolve: Some(resolve), ..options(vec![known]) }
}

#[tokio::test]
async fn a_container_appears_and_goes() {
    let (listener, port) = bind().await;
    let server = serve(listener, |_| Some((500, "")));
    let (sink, mut sets) = told();
    let task = start(container("vllm", port), sink);
    assert_eq!(next(&mut sets).await, [format!("vllm http://box:{port}/")]);
    drop(server);
    assert_eq!(next(&mut sets).await, [""; 0], "nobody listens any more");
    let again = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let _server = serve(again, |_| Some((200, OPENAI)));
    assert_eq!(next(&mut sets).await.len(), 1, "it came back");
    drop(task);
    assert!(timeout(PATIENCE, sets.recv()).await.expect("ends").is_none(), "the looks end with their set");
}

#[tokio::test]
async fn what_is_named_already_is_not_taken_twice() {
    let (listener, port) = bind().await;
    let _server = serve(listener, |_| Some((200, OPENAI)));
    let (sink, mut sets) = told();
    let named = sink.named.clone();
    *named.lock().unwrap() =
        vec![(ServiceName::new("llm").unwrap(), Some(format!("http://box:{port}/base").parse().unwrap()))];
    let _task = start(container("vllm", port), sink);
    assert!(timeout(SOON * 10, sets.recv()).await.is_err(), "the same place under another name");
    *named.lock().unwrap() = vec![(ServiceName::new("vllm").unwrap(), None)];
    assert!(timeout(SOON * 10, sets.recv()).await.is_err(), "the same name at another place");
    named.lock().unwrap().clear();
    assert_eq!(next(&mut sets).await, [format!("vllm http://box:{port}/")], "taken once nobody names it");
    *named.lock().unwrap() = vec![(ServiceName::new("vllm").unwrap(), None)];
    assert_eq!(next(&mut sets).await, [""; 0], "and given up for who names it");
}

#[tokio::test]
async fn a_port_of_this_process_is_never_taken() {
    let (listener, port) = bind().await;
    let _server = serve(listener, |_| Some((200, OPENAI)));
    let (sink, mut sets) = told();
    let _task = start(options(vec![known("vllm", port, known::Fingerprint::OpenAi)]), sink);
    assert!(timeout(SOON * 20, sets.recv()).await.is_err());
}

#[tokio::test]
async fn one_that_hangs_delays_no_other() {
    let (hanging, hangs) = bind().await;
    let _hanging = serve(hanging, |_| None);
    let (listener, port) = bind().await;
    let _server = serve(listener, |_| Some((200, OPENAI)));
    let mut options = container("vllm", port);
    for i in 0..LOOKS_MAX - 1 {
        options.known.insert(0, known(&format!("h{i}"), hangs, known::Fingerprint::Named));
    }
    let started = Instant::now();
    let (sink, mut sets) = told();
    let _task = start(options, sink);
    assert_eq!(next(&mut sets).await.len(), 1);
    assert!(started.elapsed() < look::TIMEOUT);
}

#[tokio::test]
async fn a_look_costs_little_whatever_answers() {
    for body in [None, Some("x".repeat(1024 * 1024))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
                let Some(body) = &body else { return std::future::pending().await };
                while stream.write_all(body.as_bytes()).await.is_ok() {}
            }
        });
        let place = Place { host: "127.0.0.1".into(), addresses: vec![([127, 0, 0, 1], port).into()], proof: false };
        let started = Instant::now();
        let verdict = look(&known("vllm", port, known::Fingerprint::OpenAi), &place).await;
        assert!(matches!(verdict, Verdict::Unclear(_)), "{verdict:?}");
        assert!(started.elapsed() < look::TIMEOUT + Duration::from_secs(1));
    }
}

#[test]
fn loopback_is_one_place() {
    let place = |url: &str| place_of(&url.parse().unwrap());
    assert_eq!(place("http://localhost:8000"), place("http://127.0.0.1:8000/v1"));
    assert_eq!(place("http://[::1]:8000"), place("http://127.0.0.1:8000"));
    assert_ne!(place("http://127.0.0.1:8000"), place("http://127.0.0.1:8001"));
    assert_ne!(place("http://vllm:8000"), place("http://127.0.0.1:8000"));
    assert_eq!(place("http://a"), ("a".to_owned(), 80));
}
