//! Bodies, events and upgrades through gateway and node: streamed both ways, bounded, cancelled, never falsely whole.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::service::{Head, Service, answer};
use common::{Answer, Folder, PATIENCE, Paceline, available, eventually, get, post};

/// A gateway, and a node that offers `service` as `s`.
struct Pair {
    up: Paceline,
    node: Paceline,
    _folder: Folder,
}

fn pair(service: &Service) -> Pair {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let node = Paceline::start(
        "node",
        &folder.path("n"),
        &["--name", "n", "--join", &up.join_token(), "--service", &format!("s={},health=none", service.url())],
    );
    up.wait_healthy("s", 1);
    Pair { up, node, _folder: folder }
}

impl Pair {
    fn url(&self, path: &str) -> String {
        format!("{}/api/service/s{path}", self.up.http())
    }

    /// A raw connection to the gateway, with a request's head on it.
    fn raw(&self, head: &str) -> TcpStream {
        let address = self.up.runtime["http"].as_str().expect("http");
        let mut s = TcpStream::connect(address).expect("connect");
        s.set_read_timeout(Some(PATIENCE)).expect("timeout");
        s.write_all(head.as_bytes()).expect("write");
        s
    }
}

/// Bytes that nobody produces by accident.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31) ^ (i >> 9)) as u8).collect()
}

fn resident_kib(p: &Paceline) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", p.pid())).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("number")
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    const LENGTH: usize = 64 << 20;
    let service = Service::http(|head, body, out| match head.method.as_str() {
        "GET" => answer(out, 200, &pattern(LENGTH)),
        _ => answer(out, 200, if body == pattern(LENGTH) { b"same" } else { b"different" }),
    });
    let pair = pair(&service);
    let down = get(&pair.url("/big")).expect("answer");
    assert_eq!(down.body.len(), LENGTH);
    assert!(down.body == pattern(LENGTH), "every byte as it was sent");
    let up = post(&pair.url("/big"), &pattern(LENGTH), &[]).expect("answer");
    assert_eq!(up.text(), "same");
}

#[test]
fn a_slow_reader_does_not_fill_memory() {
    let written = Arc::new(Mutex::new(0usize));
    let count = written.clone();
    let service = Service::http(move |_, _, out| {
        write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1usize << 30)?;
        let chunk = vec![7; 1 << 16];
        for _ in 0..(1 << 14) {
            out.write_all(&chunk)?;
            *count.lock().expect("count") += chunk.len();
        }
        Ok(())
    });
    let pair = pair(&service);
    let before = resident_kib(&pair.up) + resident_kib(&pair.node);
    let mut stalled: Vec<TcpStream> =
        (0..8).map(|_| pair.raw("GET /api/service/s/big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).collect();
    for s in &mut stalled {
        s.read_exact(&mut [0; 16]).expect("the answer has begun");
    }
    // the sender is blocked when what it has written no longer grows
    let mut last = (0, Instant::now());
    eventually("back-pressure reaches the service", PATIENCE, || {
        let now = *written.lock().expect("count");
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(700)).then_some(())
    });
    let grown = (resident_kib(&pair.up) + resident_kib(&pair.node)).saturating_sub(before) / 1024;
    eprintln!("8 stalled readers: {grown} MiB more in both processes, {} MiB left the service", last.0 >> 20);
    assert!(grown < 128, "{grown} MiB");
    assert!(last.0 < 512 << 20, "{} MiB were taken from the service", last.0 >> 20);
}

#[test]
fn events_are_not_held_back() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let service = Service::http(move |_, _, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for i in 0..5 {
            let event = format!("data: {i}\n\n");
            write!(out, "{:x}\r\n{event}\r\n", event.len())?;
            out.flush()?;
            // the next event is made only when the client has seen this one
            let _ = wait.lock().expect("channel").recv_timeout(PATIENCE);
        }
        out.write_all(b"0\r\n\r\n")
    });
    let pair = pair(&service);
    let mut reader = BufReader::new(pair.raw("GET /api/service/s/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
    let head = Head::read(&mut reader).expect("head");
    assert_eq!(head.header("content-type"), "text/event-stream");
    for i in 0..5 {
        let mut line = String::new();
        while !line.starts_with("data:") {
            line.clear();
            assert!(reader.read_line(&mut line).expect("an event within the time") > 0, "ended early");
        }
        assert_eq!(line.trim(), format!("data: {i}"));
        go.send(()).expect("service lives");
    }
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let service = Service::raw(|stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        let Some(head) = Head::read(&mut reader) else { return };
        assert_eq!(head.header("upgrade"), "shout");
        let _ = out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n");
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            if out.write_all(line.to_uppercase().as_bytes()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let pair = pair(&service);
    let stream = pair
        .raw("GET /api/service/s/shout HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n");
    let mut out = stream.try_clone().expect("clone");
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).expect("status");
    assert!(status.starts_with("HTTP/1.1 101"), "{status}");
    while !status.trim().is_empty() {
        status.clear();
        reader.read_line(&mut status).expect("head");
    }
    for word in ["hello", "again"] {
        writeln!(out, "{word}").expect("write");
        let mut line = String::new();
        reader.read_line(&mut line).expect("echo");
        assert_eq!(line.trim(), word.to_uppercase());
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (tell, told) = mpsc::channel();
    let service = Service::raw(move |stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        while let Some(head) = Head::read(&mut reader) {
            let mut all = String::new();
            if head.method == "POST" {
                // chunked, by hand, to see the trailers
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("chunk");
                    all.push_str(&line);
                    if line.trim().is_empty() && all.contains("\n0\r\n") {
                        break;
                    }
                }
            }
            let _ = tell.send(all);
            let te = head.header("te").to_owned();
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\nx-te: {te}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"
            );
        }
    });
    let pair = pair(&service);
    let mut stream = pair.raw(
        "POST /api/service/s/t HTTP/1.1\r\nHost: 127.0.0.1\r\nTE: trailers\r\nConnection: TE, close\r\nTrailer: x-up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-up: 7\r\n\r\n",
    );
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("answer");
    assert!(all.to_lowercase().contains("x-sum: 42"), "trailers come back:\n{all}");
    let seen = told.recv_timeout(PATIENCE).expect("request");
    assert!(seen.to_lowercase().contains("x-up: 7"), "trailers go up:\n{seen}");
}

#[test]
fn a_client_that_goes_is_seen_by_the_service_within_a_second() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let service = Service::raw(move |stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        let Some(head) = Head::read(&mut reader) else { return };
        let _ = tell.lock().expect("channel").send(("request", Instant::now()));
        if head.path.contains("body") {
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n");
        }
        let _ = reader.read(&mut [0; 1]); // returns when the connection ends
        let _ = tell.lock().expect("channel").send(("gone", Instant::now()));
    });
    let pair = pair(&service);
    for path in ["/head", "/body"] {
        let mut stream = pair.raw(&format!("GET /api/service/s{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
        assert_eq!(told.recv_timeout(PATIENCE).expect("request").0, "request");
        if path == "/body" {
            stream.read_exact(&mut [0; 12]).expect("the answer has begun");
        }
        let left = Instant::now();
        drop(stream);
        let (what, when) = told.recv_timeout(PATIENCE).expect("the service hears of it");
        assert_eq!(what, "gone");
        assert!(when - left < Duration::from_secs(1), "{path}: {:?}", when - left);
    }
}

#[test]
fn a_service_that_dies_mid_body_never_looks_complete() {
    let service = Service::raw(|stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        let Some(head) = Head::read(&mut reader) else { return };
        let _ = match head.path.as_str() {
            "/counted" => out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"),
            _ => out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        };
    });
    let pair = pair(&service);
    for path in ["/counted", "/chunked"] {
        // the end of the stream may overtake the head of the answer: then the gateway says so itself
        let cut = get(&pair.url(path));
        assert!(
            cut.as_ref().is_err() || cut.as_ref().is_ok_and(|a| a.status == 502),
            "{path}: taken for complete: {cut:?}"
        );
        let mut raw = pair.raw(&format!("GET /api/service/s{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
        let mut all = Vec::new();
        let _ = raw.read_to_end(&mut all);
        assert!(!all.ends_with(b"0\r\n\r\n"), "{path}: a last chunk was made up");
    }
}

/// Answers slowly: a head, then a byte every 100 ms for a second and a half.
fn dripping(cut: bool) -> Service {
    Service::raw(move |stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        while Head::read(&mut reader).is_some() {
            let length = if cut { 100 } else { 15 };
            if write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").is_err() {
                return;
            }
            for _ in 0..15 {
                std::thread::sleep(Duration::from_millis(100)); // the slowness that is under test
                if out.write_all(b"x").is_err() {
                    return;
                }
            }
            if cut {
                return;
            }
        }
    })
}

#[test]
fn a_slow_answer_ends_its_connection_as_a_quick_one_does() {
    let slow = dripping(false);
    let whole = pair(&slow);
    let start = Instant::now();
    let closing = whole.raw("GET /api/service/s/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    let old = whole.raw("GET /api/service/s/x HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    // the body of a request that the service never reads is not a request
    let hidden = "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let unread = whole.raw(&format!(
        "POST /api/service/s/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{hidden}{hidden}"
    ));
    for mut connection in [closing, old] {
        let mut all = String::new();
        connection.read_to_string(&mut all).expect("the end of the connection");
        assert!(all.ends_with(&"x".repeat(15)), "{all}");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    let mut answers = String::new();
    let mut unread = unread;
    unread.set_read_timeout(Some(Duration::from_secs(4))).expect("timeout");
    let mut chunk = [0; 1024];
    while let Ok(n) = unread.read(&mut chunk) {
        if n == 0 {
            break;
        }
        answers.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    assert_eq!(answers.matches("HTTP/1.1").count(), 1, "one request, one answer:\n{answers}");

    let dying = dripping(true);
    let cut = pair(&dying);
    let mut connection = cut.raw("GET /api/service/s/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let start = Instant::now();
    let mut all = Vec::new();
    let _ = connection.read_to_end(&mut all);
    assert!(start.elapsed() < Duration::from_secs(5), "the cut shows at once: {:?}", start.elapsed());
}

#[test]
fn requests_on_their_way_when_the_gateway_stops_are_answered() {
    let service = Service::echo("s");
    let pair = pair(&service);
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        let mut s = pair.raw("GET /api/service/s/first HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        s.read_exact(&mut [0; 12]).expect("the answer has begun");
        idle.push(s);
    }
    pair.up.signal("-TERM");
    pair.up.wait_log("stopping");
    for s in &mut idle {
        s.write_all(b"GET /api/service/s/last HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("still open");
    }
    for mut s in idle {
        let mut all = String::new();
        s.read_to_string(&mut all).expect("answers, then the end");
        assert!(all.contains("s GET /last") || all.contains("HTTP/1.1 50"), "an answer to the last request: {all}");
        assert!(all.to_ascii_lowercase().contains("connection: close"), "{all}");
    }
}

#[test]
fn heads_and_methods_pass_as_they_are() {
    let service = Service::http(|head, body, out| {
        let text = serde_json::json!({
            "method": head.method, "path": head.path, "headers": head.headers, "body": String::from_utf8_lossy(&body),
        })
        .to_string();
        if head.method == "HEAD" {
            return write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
        }
        write!(
            out,
            "HTTP/1.1 201 Made\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-paceline-error: forged\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
    });
    let pair = pair(&service);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let body = if ["POST", "PUT", "PATCH"].contains(&method) { "payload" } else { "" };
        let mut stream = pair.raw(&format!(
            "{method} /api/service/s/a%2Fb/../c?q=%20x&y HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Own: kept\r\nX-Paceline-Error: forged\r\nX-Dup: 1\r\nX-Dup: 2\r\nKeep-Alive: 5\r\nConnection: close, X-Hop\r\nX-Hop: gone\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("answer");
        let (head, text) = all.split_once("\r\n\r\n").expect("head and body");
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
        assert_eq!(head.matches("set-cookie").count(), 2, "{head}");
        assert!(!head.contains("forged"), "{head}");
        let seen: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(seen["method"], method);
        assert_eq!(seen["path"], "/a%2Fb/../c?q=%20x&y", "untouched");
        assert_eq!(seen["body"], body);
        let headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).expect("pairs");
        let all_of =
            |name: &str| headers.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(all_of("x-own"), ["kept"]);
        assert_eq!(all_of("x-dup").join(","), "1,2".to_owned(), "{headers:?}");
        assert!(all_of("x-hop").is_empty() && all_of("keep-alive").is_empty(), "{headers:?}");
        assert!(all_of("x-paceline-error").is_empty(), "{headers:?}");
        assert_eq!(all_of("host"), [service.address.to_string()]);
        assert_eq!(all_of("x-forwarded-host"), ["127.0.0.1"]);
        assert_eq!(all_of("x-forwarded-prefix"), ["/api/service/s"]);
        assert_eq!(all_of("x-request-id").len(), 1);
    }
    let mut stream = pair.raw("HEAD /api/service/s/h HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("answer");
    assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("\r\n\r\n"), "a head alone: {all}");
}

#[test]
fn a_hung_node_is_left_within_seconds_and_a_slow_service_in_peace() {
    let service = Service::http(|head, _, out| {
        if head.path.contains("slow") {
            std::thread::sleep(Duration::from_secs(7)); // the slowness that is under test
        }
        answer(out, 200, b"here")
    });
    let pair = pair(&service);
    let url = pair.url("/slow");
    let slow = std::thread::spawn(move || get(&url));
    let answer: Answer = slow.join().expect("thread").expect("answer");
    assert_eq!(answer.status, 200, "a slow service may take its time: {}", answer.text());

    pair.node.signal("-STOP");
    let start = Instant::now();
    let hung = get(&pair.url("/now")).expect("answer");
    let took = start.elapsed();
    pair.node.signal("-CONT");
    assert!([502, 503, 504].contains(&hung.status), "{}", hung.status);
    assert!(took < Duration::from_secs(7), "{took:?}");
    eventually("it comes back", PATIENCE, || get(&pair.url("/now")).ok().filter(|a| a.status == 200));
}

/// Re-runs one test of this file inside a network namespace of its own, with loopback up.
fn in_namespace(test: &str) -> bool {
    if std::env::var_os("PACELINE_TEST_NAMESPACE").is_some() {
        return true;
    }
    if !available("unshare", &["-rn", "sh", "-c", "ip link set lo up && nft list ruleset"]) {
        return false;
    }
    let me = std::env::current_exe().expect("test binary");
    let script = format!("ip link set lo up && exec '{}' --exact {test} --nocapture", me.display());
    let output = std::process::Command::new("unshare")
        .args(["-rn", "sh", "-c", &script])
        .env("PACELINE_TEST_NAMESPACE", "1")
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    eprintln!("{text}");
    false
}

#[test]
fn a_node_whose_data_port_is_blocked_serves_through_its_own_connection() {
    if !in_namespace("a_node_whose_data_port_is_blocked_serves_through_its_own_connection") {
        return;
    }
    let service = Service::echo("s");
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let free = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("port").port();
    for rule in [
        "add table inet t".to_owned(),
        "add chain inet t in { type filter hook input priority 0; }".to_owned(),
        // nobody can dial the node's data port; answers to what the node itself sends pass
        format!("add rule inet t in udp dport {free} ct state new drop"),
    ] {
        let done = std::process::Command::new("nft").arg(&rule).status().expect("nft");
        assert!(done.success(), "{rule}");
    }
    let data = format!("127.0.0.1:{free}");
    let node = Paceline::start(
        "node",
        &folder.path("n"),
        &["--name", "n", "--data", &data, "--join", &up.join_token(), "--service", &format!("s={}", service.url())],
    );
    up.wait_healthy("s", 1);
    let answer = up.get("/api/service/s/x");
    assert_eq!(answer.text(), "s GET /x ");
    assert_eq!(answer.header("x-paceline-path"), "reverse");
    assert_eq!(up.worker("n").expect("listed")["path"], "reverse");
    drop(node);
}
