//! Who may call a gateway, with real processes: one row of `docs/security.md` after another, as a caller through a
//! tunnel sees it. Nothing but a 401, 403 or 429, one line in the log saying why, and no secret in it.

mod common;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::service::{Head, Service, answer};
use common::{Answer, Ended, Folder, PATIENCE, Paceline, available, eventually, get_with, post, run};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "a secret of more than thirty-two bytes";
/// What a tunnel adds: the request comes from beyond this machine.
const TUNNEL: (&str, &str) = ("cf-ray", "8f1a2b3c4d5e6f70-FRA");

/// A service that tells the headers it was asked with.
fn teller() -> Service {
    Service::http(|head, _, out| {
        let lines: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        answer(out, 200, format!("{} {}\n{}", head.method, head.path, lines.join("\n")).as_bytes())
    })
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

fn jwt(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signed")
}

fn claims() -> Value {
    json!({ "sub": "alice", "aud": "paceline", "exp": now_s() + 600, "scope": "service:a" })
}

fn key(directory: &std::path::Path, args: &[&str]) -> Ended {
    let mut all = vec!["key"];
    all.extend(args);
    all.extend(["--data-dir", directory.to_str().expect("UTF-8")]);
    run(&all)
}

fn create(directory: &std::path::Path, args: &[&str]) -> String {
    let mut all = vec!["create"];
    all.extend(args);
    let ended = key(directory, &all);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    ended.stdout.trim().to_owned()
}

fn id(key: &str) -> &str {
    key.split('_').nth(1).expect("pk_ID_SECRET")
}

fn call(up: &Paceline, path: &str, headers: &[(&str, &str)]) -> Answer {
    get_with(&format!("{}{path}", up.http()), headers).expect("an answer")
}

fn with(up: &Paceline, path: &str, token: &str) -> Answer {
    call(up, path, &[TUNNEL, ("authorization", &format!("Bearer {token}"))])
}

#[test]
fn each_credential_opens_what_it_may_and_nothing_else() {
    let folder = Folder::new();
    let (a, b) = (teller(), teller());
    let secret = folder.path("secret");
    fs::write(&secret, SECRET).expect("written");
    let services = [format!("a={}", a.url()), format!("b={}", b.url())];
    let up = Paceline::start(
        "up",
        &folder.path("up"),
        &[
            "--service",
            &services[0],
            "--service",
            &services[1],
            "--jwt-secret-file",
            secret.to_str().expect("UTF-8"),
            "--jwt-audience",
            "paceline",
        ],
    );
    up.wait_healthy("a", 1);
    up.wait_healthy("b", 1);
    let dir = &up.data_dir;
    let narrow = create(dir, &["--name", "phone", "--scope", "service:a"]);
    let wide = create(dir, &["--scope", "service:*", "--scope", "read"]);
    let admin = create(dir, &["--scope", "admin"]);
    let revoked = create(dir, &[]);
    assert_eq!(with(&up, "/api/service/a/x", &revoked).status, 200, "in force at once");
    assert_eq!(key(dir, &["revoke", id(&revoked)]).code(), 0);
    let brief = create(dir, &["--ttl", "1s"]);
    let strange = format!("pk_{}_{}", id(&narrow), "0".repeat(52));
    let mut refused = vec![revoked, strange, "nonsense".to_owned()];
    for (claim, value) in [("exp", json!(now_s() - 600)), ("aud", json!("another")), ("nbf", json!(now_s() + 600))] {
        let mut claims = claims();
        claims[claim] = value;
        refused.push(jwt(&claims));
    }
    let signed = jwt(&claims());
    let body = signed.split('.').nth(1).expect("a body");
    refused.push(format!("eyJhbGciOiJub25lIn0.{body}."));
    refused.push(format!("{}A", &signed[..signed.len() - 3]));

    let none = call(&up, "/api/service/a/x", &[TUNNEL]);
    assert_eq!((none.status, none.header("www-authenticate")), (401, "Bearer realm=\"paceline\""));
    up.wait_log("a caller was refused");
    for token in &refused {
        let answer = with(&up, "/api/service/a/x", token);
        assert_eq!(answer.status, 401, "{token}: {}", answer.text());
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{token}");
        assert!(answer.json()["error"].is_string() && answer.json()["request_id"].is_string());
    }
    eventually("the brief key ends", PATIENCE, || (with(&up, "/api/service/a/x", &brief).status == 401).then_some(()));

    for (token, path, status) in [
        (&narrow, "/api/service/a/x", 200),
        (&narrow, "/api/service/b/x", 403),
        (&narrow, "/api/admin/workers", 403),
        (&narrow, "/health", 200),
        (&narrow, "/api/admin/keys", 403),
        (&wide, "/api/service/b/x", 200),
        (&wide, "/metrics", 200),
        (&wide, "/api/admin/tokens", 403),
        (&admin, "/api/admin/tokens", 200),
        (&admin, "/api/service/a/x", 200),
        (&signed, "/api/service/a/x", 200),
        (&signed, "/api/service/b/x", 403),
        (&up.admin_key(), "/api/admin/keys", 200),
    ] {
        let answer = with(&up, path, token);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        if status == 403 {
            assert!(answer.header("www-authenticate").contains("insufficient_scope"), "{path}");
        }
    }
    // Making keys and tokens is not for who shows nothing, wherever from.
    for path in ["/api/admin/keys", "/api/admin/tokens"] {
        assert_eq!(call(&up, path, &[]).status, 401);
        let answer = post(&format!("{}{path}", up.http()), b"{}", &[("content-type", "application/json")]);
        assert_eq!(answer.expect("an answer").status, 401);
    }
    // What was shown to the gateway is not the service's; what is the service's own arrives.
    let told =
        call(&up, "/api/service/a/x", &[TUNNEL, ("x-api-key", &narrow), ("authorization", "Bearer theirs")]).text();
    assert!(told.contains(&format!("x-paceline-caller: key:{}", id(&narrow))), "{told}");
    assert!(told.contains("authorization: Bearer theirs") && !told.contains("x-api-key"), "{told}");
    let told = with(&up, "/api/service/a/x", &signed).text();
    assert!(told.contains("x-paceline-caller: jwt:alice") && !told.contains("authorization"), "{told}");

    let listed = key(dir, &["list"]).stdout;
    assert!(listed.contains("phone") && listed.contains("service:a") && listed.contains(id(&narrow)), "{listed}");
    let log = up.log();
    let kept = fs::read_to_string(dir.join("api-keys.json")).expect("the file");
    for secret in refused.iter().chain([&narrow, &wide, &admin, &signed, &up.admin_key()]) {
        let tail = secret.rsplit(['_', '.']).next().unwrap_or(secret);
        assert!(tail.len() < 20 || !log.contains(tail), "a secret in the log");
        assert!(tail.len() < 20 || !kept.contains(tail) && !listed.contains(tail), "a secret on disk");
    }
}

#[test]
fn rates_hold_for_a_key_and_for_a_service() {
    let folder = Folder::new();
    let (a, b) = (teller(), teller());
    let services = [format!("a={}", a.url()), format!("b={}", b.url())];
    let up = Paceline::start(
        "up",
        &folder.path("up"),
        &["--service", &services[0], "--service", &services[1], "--service-rate", "b=3/h", "--key-concurrency", "2"],
    );
    up.wait_healthy("a", 1);
    up.wait_healthy("b", 1);
    let slow = create(&up.data_dir, &["--rate", "5/h"]);
    let free = create(&up.data_dir, &[]);
    let statuses =
        |path: &str, token: &str, n: usize| (0..n).map(|_| with(&up, path, token).status).collect::<Vec<_>>();
    assert_eq!(statuses("/api/service/a/", &slow, 7), [200, 200, 200, 200, 200, 429, 429]);
    let refused = with(&up, "/api/service/a/", &slow);
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((600..=720).contains(&wait), "{wait}");
    assert!(refused.json()["error"].as_str().expect("words").contains("rate"));
    assert_eq!(statuses("/api/service/a/", &free, 8), [200; 8], "another key");
    assert_eq!(statuses("/api/service/b/", &free, 4), [200, 200, 200, 429]);
    assert_eq!(up.get("/api/service/b/").status, 429, "a service's rate is everybody's");
    assert_eq!(up.get("/api/service/a/").status, 200);
}

#[test]
fn off_loopback_there_is_something_to_show_before_it_starts() {
    let folder = Folder::new();
    let dir = folder.path("up");
    let files = folder.with_file("files", "a.txt", b"hello");
    let serve = format!("files={files}");
    let args = ["--http", "0.0.0.0:0", "--serve", &serve];
    let d = dir.to_str().expect("UTF-8");
    let mut command =
        vec!["up", "--data-dir", d, "--no-mdns", "--no-detect", "--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0"];
    command.extend(args);
    let refused = run(&command);
    assert_eq!(refused.code(), 2);
    assert!(refused.last_line().contains("paceline key create"), "{}", refused.stderr);
    let made = create(&dir, &["--scope", "service:files"]);
    let mode = fs::metadata(dir.join("api-keys.json")).expect("made offline").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(key(&dir, &["list", "--json"]).stdout.contains(id(&made)));
    let up = Paceline::start("up", &dir, &args);
    let port = up.runtime["http"].as_str().expect("a gateway").rsplit(':').next().expect("a port").to_owned();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let status = |path: &str, headers: &[(&str, &str)]| get_with(&url(path), headers).expect("an answer").status;
    let bearer = format!("Bearer {made}");
    let file = "/api/service/files/a.txt";
    eventually("served", PATIENCE, || (status(file, &[("authorization", &bearer)]) == 200).then_some(()));
    assert_eq!((status(file, &[]), status("/health", &[]), status("/livez", &[])), (401, 401, 200));
    assert_eq!(key(&dir, &["revoke", id(&made)]).code(), 0);
    assert_eq!(status(file, &[("authorization", &bearer)]), 401);
    assert_eq!(key(&dir, &["revoke", id(&made)]).code(), 2, "there is none any more");
    assert!(up.terminate().success());
}

/// Sends bytes, and hears all that comes until the end, or for so long.
fn raw(up: &Paceline, words: &str, patience: Duration) -> String {
    let host = up.runtime["http"].as_str().expect("a gateway").to_owned();
    let mut stream = TcpStream::connect(&host).expect("connect");
    stream.set_read_timeout(Some(patience)).expect("set");
    // The gateway may have answered and closed before all of it is written.
    let _ = stream.write_all(words.replace("HOST", &host).as_bytes());
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn no_two_servers_read_a_request_in_two_ways() {
    let folder = Folder::new();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = seen.clone();
    let origin = Service::raw(move |stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = BufReader::new(stream);
        while let Some(head) = Head::read(&mut reader) {
            let body = head.body(&mut reader).unwrap_or_default();
            if head.path != "/health" {
                let lines: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                let text = format!(
                    "{} {}\n{}\n\n{}",
                    head.method,
                    head.path,
                    lines.join("\n"),
                    String::from_utf8_lossy(&body)
                );
                record.lock().expect("lock").push(text);
            }
            if answer(&mut out, 200, b"{}").is_err() {
                return;
            }
        }
    });
    let service = format!("a={}", origin.url());
    let up = Paceline::start("up", &folder.path("up"), &["--service", &service]);
    up.wait_healthy("a", 1);
    let hidden = "GET /api/service/a/hidden HTTP/1.1\r\nHost: HOST\r\n\r\n";
    let post = "POST /api/service/a/x HTTP/1.1\r\nHost: HOST\r\n";
    let long = hidden.len();
    // (the words, whether they must be refused)
    let cases = [
        (format!("{post}Content-Length: 4\r\nContent-Length: {long}\r\n\r\n{hidden}"), true),
        (format!("{post}Content-Length: 4, 4\r\n\r\nabcd"), true),
        (format!("{post}Content-Length: +4\r\n\r\nabcd"), true),
        (format!("{post}Content-Length: 0x4\r\n\r\nabcd"), true),
        (format!("{post}Content-Length: -1\r\n\r\nabcd"), true),
        (format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), true),
        (format!("{post}X-A: b\r\n folded: c\r\nContent-Length: 0\r\n\r\n"), true),
        (format!("{post}X-A: b\rX-Injected: c\r\nContent-Length: 0\r\n\r\n"), true),
        (format!("{post}X-A: b\0c\r\nContent-Length: 0\r\n\r\n"), true),
        (format!("{post} Content-Length: 4\r\n\r\nabcd"), true),
        ("POST /api/service/a/x HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n".to_owned(), true),
        ("GET /api/service/a/x HTTP/1.1\r\n\r\n".to_owned(), true),
        ("GET http://127.0.0.1:1/api/service/a/x HTTP/1.1\r\nHost: HOST\r\n\r\n".to_owned(), true),
        ("GET /api/service/a/x\tHTTP/1.1\r\nHost: HOST\r\n\r\n".to_owned(), true),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n4;\nx\r\nabcd\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabcd\r\n0\r\n\r\n"), true),
        // Both: the coding counts (RFC 9112, 6.3), and the service gets one framing, not two.
        (format!("{post}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}", long + 5), false),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"), false),
    ];
    for (words, must_refuse) in &cases {
        seen.lock().expect("lock").clear();
        let heard = raw(&up, words, Duration::from_secs(2));
        let statuses: Vec<_> =
            heard.match_indices("HTTP/1.1 ").map(|(at, _)| heard[at + 9..].get(..3).unwrap_or("")).collect();
        let reached = seen.lock().expect("lock").clone();
        if *must_refuse {
            assert!(statuses.iter().all(|status| ["400", "408", "413"].contains(status)), "{words:?}: {heard}");
            assert!(reached.is_empty() || !statuses.is_empty(), "{words:?} reached the service: {reached:?}");
        }
        for one in &reached {
            let head = one.split("\n\n").next().unwrap_or("");
            let framings = ["content-length:", "transfer-encoding:"].map(|name| head.matches(name).count());
            assert!(framings.iter().sum::<usize>() <= 1, "{words:?}: {one}");
            assert!(!one.contains("x-injected"), "{words:?}: {one}");
        }
        // Each request that the service saw was answered as one: none was hidden in another's body.
        assert!(reached.len() <= statuses.len(), "{words:?}: {reached:?} {heard}");
    }
    seen.lock().expect("lock").clear();
    assert_eq!(up.get("/api/service/a/x").status, 200);
    assert_eq!(seen.lock().expect("lock").len(), 1, "nothing was left over");
}

#[test]
fn what_a_proxy_says_is_believed_where_it_is_configured() {
    let folder = Folder::new();
    let service = teller();
    let named = format!("a={}", service.url());
    for (more, believed) in [(&[][..], false), (&["--trusted-proxy", "127.0.0.0/8"][..], true)] {
        let mut args = vec!["--service", &named];
        args.extend(more);
        let up = Paceline::start("up", &folder.path(if believed { "yes" } else { "no" }), &args);
        up.wait_healthy("a", 1);
        let token = create(&up.data_dir, &[]);
        let said = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-paceline-caller", "jwt:root"),
            ("authorization", &format!("Bearer {token}")),
        ];
        let told = call(&up, "/api/service/a/", &said).text();
        let wanted = if believed { "x-forwarded-for: 203.0.113.9, 127.0.0.1" } else { "x-forwarded-for: 127.0.0.1" };
        assert!(told.lines().any(|line| line == wanted), "{told}");
        assert_eq!(told.contains("x-forwarded-proto: https"), believed, "{told}");
        assert!(!told.contains("jwt:root"), "{told}");
        // Guesses through the proxy count for the address that it tells, and for the proxy where it is not believed.
        for _ in 0..30 {
            let guess = [said[0], ("authorization", "Bearer guess")];
            assert!([401, 429].contains(&call(&up, "/api/admin/keys", &guess).status));
        }
        let admin = format!("Bearer {}", up.admin_key());
        let other = [("x-forwarded-for", "203.0.113.10"), ("authorization", admin.as_str())];
        assert_eq!(call(&up, "/api/admin/keys", &other).status, if believed { 200 } else { 429 });
        assert_eq!(
            call(&up, "/api/admin/keys", &[("authorization", &admin)]).status,
            200,
            "the operator at the machine"
        );
        assert_eq!(call(&up, "/api/service/a/", &said).status, 200, "a key cannot be guessed, and passes");
    }
}

#[test]
fn slow_and_greedy_clients_are_let_go() {
    let folder = Folder::new();
    let service = Service::http(|head, _, out| match head.path.as_str() {
        "/flood" => {
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 30)?;
            let chunk = vec![b'x'; 1 << 20];
            (0..1024).try_for_each(|_| out.write_all(&chunk))
        }
        "/events" => {
            out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
            out.write_all(b"b\r\ndata: one\n\n\r\n")?;
            std::thread::sleep(Duration::from_millis(1500));
            out.write_all(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")
        }
        _ => answer(out, 200, b"{}"),
    });
    let named = format!("a={}", service.url());
    let up = Paceline::start(
        "up",
        &folder.path("up"),
        &[
            "--service",
            &named,
            "--max-body",
            "64KiB",
            "--header-timeout",
            "400ms",
            "--body-timeout",
            "400ms",
            "--write-timeout",
            "500ms",
            "--idle-timeout",
            "600ms",
        ],
    );
    up.wait_healthy("a", 1);
    let begun = Instant::now();
    let heard = raw(&up, "GET /api/service/a/ HTTP/1.1\r\nHost: HO", PATIENCE);
    assert!(heard.is_empty() || heard.contains(" 408 "), "a head without end: {heard}");
    let heard = raw(&up, "POST /api/service/a/ HTTP/1.1\r\nHost: HOST\r\nContent-Length: 9\r\n\r\nx", PATIENCE);
    assert!(heard.contains(" 408 "), "a body without end: {heard}");
    assert_eq!(raw(&up, "", PATIENCE), "", "nothing at all");
    assert!(begun.elapsed() < PATIENCE, "none of them kept its place");
    let url = format!("{}/api/service/a/", up.http());
    assert_eq!(post(&url, &vec![0; 64 * 1024], &[]).expect("an answer").status, 200);
    assert_eq!(post(&url, &vec![0; 64 * 1024 + 1], &[]).map_or(413, |a| a.status), 413);
    let chunk = format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(0x10001));
    let heard = raw(
        &up,
        &format!("POST /api/service/a/ HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
        PATIENCE,
    );
    assert!(heard.is_empty() || heard.contains(" 413 "), "{heard}");
    // An event stream may be silent for longer than any of these times.
    let events = up.get("/api/service/a/events");
    assert!(events.text().contains("one") && events.text().contains("two"), "{}", events.text());
    // One who asks for much and reads nothing is cut off, and the service with it.
    let host = up.runtime["http"].as_str().expect("a gateway").to_owned();
    let mut greedy = TcpStream::connect(&host).expect("connect");
    write!(greedy, "GET /api/service/a/flood HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("asked");
    let open = |metric: &str| {
        let text = up.get("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<u64>().ok()).unwrap_or(u64::MAX)
    };
    eventually("it is in flight", PATIENCE, || (open("paceline_gateway_in_flight ") == 1).then_some(()));
    eventually("it is cut off", PATIENCE, || (open("paceline_gateway_in_flight ") == 0).then_some(()));
    drop(greedy);
}

#[test]
fn pages_of_configured_origins_may_call_with_a_key() {
    let folder = Folder::new();
    let service = teller();
    let named = format!("a={}", service.url());
    let up = Paceline::start("up", &folder.path("up"), &["--service", &named, "--cors-origin", "https://app.example"]);
    up.wait_healthy("a", 1);
    let token = format!("Bearer {}", create(&up.data_dir, &[]));
    let preflight = |origin: &str| {
        let words = format!(
            "OPTIONS /api/service/a/ HTTP/1.1\r\nHost: HOST\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization\r\nConnection: close\r\n\r\n"
        );
        raw(&up, &words, PATIENCE).to_ascii_lowercase()
    };
    let allowed = preflight("https://app.example");
    assert!(
        allowed.starts_with("http/1.1 204") && allowed.contains("access-control-allow-origin: https://app.example")
    );
    assert!(allowed.contains("access-control-allow-headers: authorization"), "{allowed}");
    let refused = preflight("https://evil.example");
    assert!(refused.starts_with("http/1.1 401") && !refused.contains("access-control-"), "{refused}");
    let from = ("origin", "https://app.example");
    let answer = call(&up, "/api/service/a/", &[from, ("authorization", &token)]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://app.example"));
    assert_eq!(call(&up, "/api/service/a/", &[from]).status, 401, "a page shows its key, on this machine too");
}

fn certificate(folder: &Folder, name: &str) -> (Vec<u8>, Vec<u8>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    let path = folder.path(&format!("{name}.ca.pem"));
    fs::write(&path, &chain).expect("written");
    (chain, key, path.to_str().expect("UTF-8").to_owned())
}

#[test]
fn https_with_a_certificate_that_is_replaced_while_it_runs() {
    if !available("curl", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let files = folder.with_file("files", "a.txt", b"hello");
    let (first, second) = (certificate(&folder, "first"), certificate(&folder, "second"));
    let (chain, secret) = (folder.path("tls.crt"), folder.path("tls.key"));
    fs::write(&chain, &first.0).expect("written");
    fs::write(&secret, &first.1).expect("written");
    let (c, s, serve) = (chain.to_str().expect("UTF-8"), secret.to_str().expect("UTF-8"), format!("files={files}"));
    let up = Paceline::start("up", &folder.path("up"), &["--serve", &serve, "--tls-cert", c, "--tls-key", s]);
    up.wait_healthy("files", 1); // over plain HTTP: this machine itself needs no certificate
    let port = up.runtime["http"].as_str().expect("a gateway").rsplit(':').next().expect("a port").to_owned();
    let resolve = format!("localhost:{port}:127.0.0.1");
    let url = format!("https://localhost:{port}/api/service/files/a.txt");
    let curl = |ca: &str| {
        let args = ["--silent", "--noproxy", "*", "--max-time", "10", "--resolve", &resolve, "--cacert", ca, &url];
        let out = Command::new("curl").args(args).output().expect("curl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!((curl(&first.2).as_str(), curl(&second.2).as_str()), ("hello", ""));
    fs::write(&chain, b"rubbish").expect("written");
    up.wait_log("the changed certificate cannot be used");
    assert_eq!(curl(&first.2), "hello", "the old one stays");
    fs::write(&secret, &second.1).expect("written");
    fs::write(&chain, &second.0).expect("written");
    eventually("the new one is in force", PATIENCE, || (curl(&second.2) == "hello").then_some(()));
    assert_eq!(curl(&first.2), "");
}
