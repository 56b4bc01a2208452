use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use paceline_proto::{
    id::{ClusterId, WorkerName},
    summary::StoredSummary,
};

use super::*;

fn summary(term: u64, seq: u64) -> StoredSummary {
    StoredSummary {
        cluster_id: ClusterId::from_bytes([7; 32]),
        term,
        takeovers: 0,
        seq,
        leader: WorkerName::new("a").unwrap(),
        written_at_unix: 20_000 * DAY_SECONDS + 5,
        writes_today: 1,
        reason: "routine",
        members: Vec::new(),
    }
}

/// How the store behaves.
#[derive(Clone, Debug, Default)]
struct Manner {
    /// Answers every request with this status and these headers.
    always: Option<(u16, String)>,
    /// Has no ETags and knows no conditions.
    plain: bool,
    /// Before the next write is judged, another writer's value is put there.
    overtaken_by: Vec<Vec<u8>>,
    token: Option<String>,
}

#[derive(Default)]
struct State {
    manner: Manner,
    value: Option<Vec<u8>>,
    version: u32,
    requests: Vec<String>,
}

/// A small key-value store over HTTP, on a socket of its own.
struct Store {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Store {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { manner, ..State::default() }));
        let shared = state.clone();
        // Ends with the test's process.
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(serve(stream, &shared))));
        Self { state, address }
    }

    fn url(&self) -> String {
        format!("http://{}/values/paceline", self.address)
    }

    fn sinks(&self) -> Sinks {
        sinks(&self.url())
    }

    fn value(&self) -> Option<serde_json::Value> {
        self.state.lock().unwrap().value.as_deref().map(|v| serde_json::from_slice(v).unwrap())
    }

    fn put(&self, value: &StoredSummary) {
        self.state.lock().unwrap().value = Some(serde_json::to_vec(value).unwrap());
    }

    fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn sinks(url: &str) -> Sinks {
    Sinks::open(&SinkConfig { url: Some(url.to_owned()), ..SinkConfig::default() }, 30).unwrap()
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let method = line.split(' ').next().unwrap_or_default().to_owned();
    let (mut length, mut condition, mut token) = (0, None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "if-match" | "if-none-match" => condition = Some(value.to_owned()),
            "authorization" => token = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut state = state.lock().unwrap();
    state.requests.push(method.clone());
    let answer = |status: u16, headers: &str, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body))
    };
    if let Some((status, headers)) = &state.manner.always {
        return answer(*status, headers, b"no");
    }
    if state.manner.token.is_some() && token != state.manner.token {
        return answer(401, "", b"");
    }
    if method == "GET" {
        let tag = if state.manner.plain { String::new() } else { format!("etag: \"{}\"\r\n", state.version) };
        return match &state.value {
            Some(value) => answer(200, &tag, value),
            None => answer(404, "", b""),
        };
    }
    if !state.manner.overtaken_by.is_empty() {
        state.value = Some(state.manner.overtaken_by.remove(0));
        state.version += 1;
    }
    let fits = match condition.as_deref() {
        _ if state.manner.plain => true,
        Some("*") => state.value.is_none(),
        Some(tag) => tag == format!("\"{}\"", state.version),
        None => true,
    };
    if !fits {
        return answer(412, "", b"");
    }
    state.value = Some(body);
    state.version += 1;
    answer(204, "", b"")
}

#[test]
fn a_store_gets_rising_summaries_and_counts_their_writes() {
    let store = Store::start(Manner::default());
    let mut sinks = store.sinks();
    assert_eq!(sinks.write(&summary(1, 1)), Written { stored: true, writes_today: Some(1), reason: None });
    assert_eq!(sinks.write(&summary(1, 2)).writes_today, Some(2), "the store's own count goes on");
    assert_eq!(store.value().unwrap()["writes_today"], 2);
    let back = sinks.write(&summary(1, 1));
    assert!(!back.stored && back.reason.as_deref().unwrap().contains("newer summary"), "{back:?}");
    assert_eq!(back.writes_today, Some(2));
    assert_eq!(store.value().unwrap()["seq"], 2, "a reader never goes back");
    let tomorrow = StoredSummary { written_at_unix: 20_001 * DAY_SECONDS, ..summary(1, 3) };
    assert_eq!(sinks.write(&tomorrow).writes_today, Some(1), "a new UTC day");
}

#[test]
fn two_writers_do_not_spend_one_budget_twice() {
    let store = Store::start(Manner::default());
    store.put(&StoredSummary { writes_today: 29, ..summary(1, 1) });
    let (mut one, mut other) = (store.sinks(), store.sinks());
    assert_eq!(one.write(&summary(2, 1)).writes_today, Some(30));
    let spent = other.write(&summary(3, 1));
    assert_eq!((spent.stored, spent.writes_today), (false, Some(30)));
    assert!(spent.reason.as_deref().unwrap().contains("30 writes today already"), "{spent:?}");
    assert_eq!(store.value().unwrap()["term"], 2);
}

#[test]
fn an_overtaken_write_is_judged_anew() {
    let lesser = serde_json::to_vec(&StoredSummary { writes_today: 5, ..summary(1, 7) }).unwrap();
    let store = Store::start(Manner { overtaken_by: vec![lesser], ..Manner::default() });
    assert_eq!(store.sinks().write(&summary(1, 8)).writes_today, Some(6), "the other's write counts");
    let greater = serde_json::to_vec(&summary(2, 1)).unwrap();
    let store = Store::start(Manner { overtaken_by: vec![greater], ..Manner::default() });
    assert!(!store.sinks().write(&summary(1, 8)).stored);
    assert_eq!(store.value().unwrap()["term"], 2, "the greater one stays");
    let many = (0..9).map(|n| serde_json::to_vec(&summary(1, n)).unwrap()).collect();
    let store = Store::start(Manner { overtaken_by: many, ..Manner::default() });
    let written = store.sinks().write(&summary(1, 20));
    assert!(written.reason.unwrap().contains("overtaken"), "it gives up");
    assert_eq!(store.requests().len(), 6, "three rounds of two requests");
}

#[test]
fn a_store_without_conditions_is_written_all_the_same() {
    let store = Store::start(Manner { plain: true, ..Manner::default() });
    assert!(store.sinks().write(&summary(1, 1)).stored);
    store.state.lock().unwrap().value = Some(b"{ cut off".to_vec());
    assert!(store.sinks().write(&summary(1, 1)).stored, "what is no summary is replaced");
}

#[test]
fn another_clusters_summary_is_left_alone() {
    let store = Store::start(Manner::default());
    store.put(&StoredSummary { cluster_id: ClusterId::from_bytes([8; 32]), ..summary(1, 1) });
    let written = store.sinks().write(&summary(9, 9));
    assert!(written.reason.unwrap().contains("another cluster"));
    assert_eq!(store.value().unwrap()["term"], 1);
}

#[test]
fn a_busy_store_is_left_alone_for_as_long_as_it_says() {
    let store = Store::start(Manner { always: Some((429, "retry-after: 600\r\n".into())), ..Manner::default() });
    let mut sinks = store.sinks();
    assert!(sinks.write(&summary(1, 1)).reason.unwrap().contains("429"));
    let again = sinks.write(&summary(1, 2)).reason.unwrap();
    assert!(again.contains("left alone for another"), "{again}");
    assert_eq!(store.requests().len(), 1);
}

#[test]
fn a_store_that_is_down_or_mute_costs_a_bounded_time_and_says_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let written = sinks(&format!("http://{nobody}/v")).write(&summary(1, 1));
    assert!(!written.stored && written.reason.is_some());
    let store =
        Store::start(Manner { always: Some((302, "location: http://127.0.0.1:1/\r\n".into())), ..Manner::default() });
    assert!(store.sinks().write(&summary(1, 1)).reason.unwrap().contains("redirects are not followed"));
    let store = Store::start(Manner { always: Some((500, String::new())), ..Manner::default() });
    assert!(store.sinks().write(&summary(1, 1)).reason.unwrap().contains("500"));
}

#[test]
fn a_store_that_hangs_is_given_up() {
    // Takes connections (the backlog does) and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v", mute.local_addr().unwrap());
    let mut sink = HttpSink::open(&url, None).unwrap().with_timeout(Duration::from_millis(200));
    let started = std::time::Instant::now();
    assert!(matches!(sink.write(&summary(1, 1), 30), Outcome::Kept { .. }));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_token_is_read_anew_and_never_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "wrong\n").unwrap();
    let store = Store::start(Manner { token: Some("Bearer s3cret".into()), ..Manner::default() });
    let config = SinkConfig { url: Some(store.url()), token_file: Some(path.clone()), ..SinkConfig::default() };
    let mut sinks = Sinks::open(&config, 30).unwrap();
    let reason = sinks.write(&summary(1, 1)).reason.unwrap();
    assert!(reason.contains("401") && reason.contains("--sink-token-file") && !reason.contains("wrong\n"), "{reason}");
    std::fs::write(&path, "s3cret\n").unwrap();
    assert!(sinks.write(&summary(1, 1)).stored);
    assert!(!format!("{sinks:?}").contains("s3cret"));
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    let open = |url: Option<&str>, token: Option<&str>, file: Option<&str>| {
        let config =
            SinkConfig { url: url.map(Into::into), token_file: token.map(Into::into), file: file.map(Into::into) };
        Sinks::open(&config, 30).map(drop).unwrap_err()
    };
    assert!(open(Some("ftp://a/b"), None, None).contains("--sink-url"));
    assert!(open(Some("https://me:pw@kv.example/b"), None, None).contains("--sink-token-file"));
    assert!(open(Some("https://kv.example/b"), Some("/nowhere/token"), None).contains("/nowhere/token"));
    assert!(open(None, Some("/nowhere/token"), None).contains("needs --sink-url"));
    assert!(open(None, None, Some("/nowhere/summary.json")).contains("/nowhere/summary.json"));
    assert!(open(None, None, Some("/")).contains("no file's name"));
}

#[test]
fn a_file_is_replaced_as_a_whole_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("summary.json");
    let config = SinkConfig { file: Some(path.clone()), ..SinkConfig::default() };
    let mut sinks = Sinks::open(&config, 2).unwrap();
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(sinks.write(&summary(1, 1)).writes_today, Some(1));
    assert!(!sinks.write(&summary(1, 1)).stored);
    assert_eq!(sinks.write(&summary(1, 2)).writes_today, Some(2));
    assert!(!sinks.write(&summary(1, 3)).stored, "its budget is spent");
    assert_eq!(read()["seq"], 2);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn writes_are_done_one_after_the_other_and_told() {
    let store = Store::start(Manner::default());
    let (send, receive) = mpsc::channel(4);
    for seq in 1..=3 {
        send.send(summary(1, seq)).await.unwrap();
    }
    drop(send);
    let mut told = Vec::new();
    store
        .sinks()
        .run(receive, |written| {
            told.push(written);
            std::future::ready(())
        })
        .await;
    let writes: Vec<_> = told.iter().map(|w| w.writes_today).collect();
    assert_eq!(writes, [Some(1), Some(2), Some(3)]);
}
