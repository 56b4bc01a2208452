//! HTTP/2 from clients, and gRPC through, by clients and servers that nobody here wrote: curl, nginx, grpcio from PyPI.
//! And by hand, what none of them does.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::service::{Service, answer};
use common::{Folder, PATIENCE, Paceline, available, eventually};

/// A foreign process, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// curl, if it is one that speaks HTTP/2.
fn has_curl() -> bool {
    available("sh", &["-c", "curl --version | grep -q HTTP2"])
}

fn curl(args: &[&str]) -> Output {
    let usual = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"];
    Command::new("curl").args(usual).args(args).output().expect("curl runs")
}

fn text(out: &Output) -> String {
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A gateway with `flags`, and a node that offers `spec`.
fn pair(folder: &Folder, spec: &str, flags: &[&str]) -> (Paceline, Paceline) {
    let up = Paceline::start("up", &folder.path("up"), flags);
    let node =
        Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &up.join_token(), "--service", spec]);
    up.wait_healthy("s", 1);
    (up, node)
}

/// Bytes that nobody produces by accident.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31) ^ (i >> 9)) as u8).collect()
}

/// The files of a certificate for `localhost`, and of its key.
fn certificate(folder: &Folder) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (folder.path("tls.crt"), folder.path("tls.key"));
    std::fs::write(&chain, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (chain.to_str().expect("UTF-8").to_owned(), key.to_str().expect("UTF-8").to_owned())
}

fn port_of(up: &Paceline) -> String {
    up.runtime["http"].as_str().and_then(|http| http.rsplit(':').next()).expect("a port").to_owned()
}

fn has(list: &str, what: &str) -> bool {
    list.lines().any(|line| line.trim() == what)
}

#[test]
fn curl_in_clear_and_a_service_that_speaks_http1() {
    const LENGTH: usize = 32 << 20;
    if !has_curl() {
        return;
    }
    let service = Service::http(|head, body, out| match head.path.as_str() {
        "/big" => answer(out, 200, if body == pattern(LENGTH) { b"same" } else { b"different" }),
        "/down" => answer(out, 200, &pattern(LENGTH)),
        "/trailers" => {
            out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")?;
            out.write_all(b"4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n")
        }
        "/head" => out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"),
        "/none" => out.write_all(b"HTTP/1.1 204 No Content\r\nx-one: 1\r\nx-one: 2\r\n\r\n"),
        _ => {
            let seen: String = head.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let body = String::from_utf8_lossy(&body).into_owned();
            answer(out, 200, format!("{} {}\n{seen}\n{body}", head.method, head.path).as_bytes())
        }
    });
    let folder = Folder::new();
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let url = |path: &str| format!("{}/api/service/s{path}", up.http());
    let h2 = "--http2-prior-knowledge";

    let out = text(&curl(&[h2, "--include", "--cookie", "a=1; b=2", "--header", "TE: trailers", &url("/x?y=%20z")]));
    assert!(out.starts_with("HTTP/2 200"), "{out}");
    let host = up.runtime["http"].as_str().expect("http");
    let service_host = format!("host: {}", service.address);
    for line in
        ["GET /x?y=%20z", "te: trailers", "cookie: a=1; b=2", &format!("x-forwarded-host: {host}"), &service_host]
    {
        assert!(has(&out, line), "{line}: {out}");
    }
    for method in ["DELETE", "OPTIONS", "PATCH", "PUT", "PROPFIND", "M-SEARCH"] {
        let out = text(&curl(&[h2, "--request", method, "--data", "a body", &url("/m")]));
        assert!(out.starts_with(&format!("{method} /m\n")) && out.ends_with("\na body"), "{out}");
    }
    // Without a length: the service must see the body all the same, also that of a GET.
    let mut piped = Command::new("curl")
        .args(["--silent", "--noproxy", "*", h2, "--request", "GET", "--upload-file", "-", &url("/get")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs");
    piped.stdin.take().expect("piped").write_all(b"in a pipe").expect("written");
    let out = text(&piped.wait_with_output().expect("its end"));
    assert!(out.starts_with("GET /get\n") && out.ends_with("\nin a pipe"), "{out}");

    let file = folder.path("big");
    std::fs::write(&file, pattern(LENGTH)).expect("written");
    let data = format!("@{}", file.display());
    assert_eq!(text(&curl(&[h2, "--data-binary", &data, &url("/big")])), "same");
    assert_eq!(text(&curl(&[h2, "--upload-file", file.to_str().expect("UTF-8"), &url("/big")])), "same");
    let out = curl(&[h2, &url("/down")]);
    assert!(out.status.success() && out.stdout == pattern(LENGTH), "every byte as it was sent");

    let out = text(&curl(&[h2, "--head", &url("/head")]));
    assert!(out.starts_with("HTTP/2 200") && has(&out, "content-length: 12345"), "{out}");
    let out = text(&curl(&[h2, "--include", &url("/none")]));
    assert!(out.starts_with("HTTP/2 204") && has(&out, "x-one: 1") && has(&out, "x-one: 2"), "{out}");
    assert!(!out.contains("content-length"), "{out}");
    // curl writes trailers among the headers.
    let out = text(&curl(&[h2, "--dump-header", "-", &url("/trailers")]));
    assert!(out.contains("body") && out.contains("x-sum: 7"), "{out}");
    let out = text(&curl(&[h2, "--include", &format!("{}/api/service/none/x", up.http())]));
    assert!(out.starts_with("HTTP/2 503") && out.contains("\"error\""), "{out}");
    let out = text(&curl(&[h2, "--include", &format!("{}/health", up.http())]));
    assert!(out.starts_with("HTTP/2 200"), "the admin API too: {out}");
    // Asked for in HTTP/1.1's way, it is not: the answer is as if nobody had asked.
    assert!(text(&curl(&["--http2", "--include", &url("/x")])).starts_with("HTTP/1.1 200"));
}

#[test]
fn many_streams_on_one_connection() {
    if !has_curl() {
        return;
    }
    // An answer is begun only when all have come: one after the other, they would never.
    const AT_ONCE: usize = 100;
    let waiting = Arc::new((Mutex::new(0usize), std::sync::Condvar::new()));
    let service = Service::http(move |head, _, out| {
        let (count, all) = &*waiting;
        let mut count = count.lock().expect("count");
        *count += 1;
        all.notify_all();
        let (count, late) = all.wait_timeout_while(count, PATIENCE, |n| *n < AT_ONCE).expect("count");
        drop(count);
        answer(out, if late.timed_out() { 500 } else { 200 }, head.path.as_bytes())
    });
    let folder = Folder::new();
    let (chain, key) = certificate(&folder);
    // Over TLS: curl before 8.0 gets in its own way where it knows beforehand what is spoken.
    let spec = format!("s={},health=none", service.url());
    let (up, _node) = pair(&folder, &spec, &["--tls-cert", &chain, "--tls-key", &key]);
    let (port, max, to) = (port_of(&up), AT_ONCE.to_string(), folder.path("answer-#1"));
    let (resolve, to) = (format!("localhost:{port}:127.0.0.1"), to.to_str().expect("UTF-8"));
    let url = format!("https://localhost:{port}/api/service/s/[1-{AT_ONCE}]");
    let write = "%{http_code} %{http_version} %{local_port}\\n";
    let known = ["--http2", "--cacert", &chain, "--resolve", &resolve];
    let many = ["--parallel", "--parallel-max", &max, "--write-out", write, &url, "-o", to];
    let out = text(&curl(&[&known[..], &many].concat()));
    let mut lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), AT_ONCE, "{out}");
    assert!(lines.iter().all(|line| line.starts_with("200 2 ")), "{out}");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 1, "one connection carries them all: {out}");
    for i in 1..=AT_ONCE {
        let got = std::fs::read_to_string(folder.path(&format!("answer-{i}"))).expect("an answer");
        assert_eq!(got, format!("/{i}"), "no answer goes to another's stream");
    }
}

#[test]
fn tls_agrees_on_what_is_spoken() {
    if !has_curl() {
        return;
    }
    let folder = Folder::new();
    let service = Service::echo("a");
    let (chain, key) = certificate(&folder);
    let spec = format!("s={},health=none", service.url());
    let (up, _node) = pair(&folder, &spec, &["--tls-cert", &chain, "--tls-key", &key]);
    let port = port_of(&up);
    let (resolve, url) = (format!("localhost:{port}:127.0.0.1"), format!("https://localhost:{port}/api/service/s/x"));
    for (flag, spoken) in [
        ("--http2", "2"),
        ("--http1.1", "1.1"),
        // Without a word of ALPN: the first bytes decide.
        ("--no-alpn", "1.1"),
    ] {
        let args =
            [flag, "--resolve", &resolve, "--cacert", &chain, "--data", "b", "--write-out", " %{http_version}", &url];
        assert_eq!(text(&curl(&args)), format!("a POST /x b {spoken}"), "{flag}");
    }
    let over = format!("http://localhost:{port}/api/service/s/x");
    let args = ["--http2-prior-knowledge", "--resolve", &resolve, "--write-out", "%{http_version}", &over];
    assert_eq!(text(&curl(&args)), "a GET /x 2", "this machine itself needs no certificate");
}

#[test]
fn nginx_speaks_http2_as_a_service() {
    if !available("nginx", &["-v"]) || !has_curl() {
        return;
    }
    let folder = Folder::new();
    let root = folder.with_file("www", "page.html", b"<p>from nginx</p>");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let (conf, tmp) = (folder.path("nginx.conf"), folder.path("tmp"));
    std::fs::create_dir_all(&tmp).expect("folder");
    let tmp = tmp.display();
    let written = format!(
        "daemon off; master_process off; user root; pid {tmp}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {tmp}/a; proxy_temp_path {tmp}/b; fastcgi_temp_path {tmp}/c;\n\
         uwsgi_temp_path {tmp}/d; scgi_temp_path {tmp}/e; client_max_body_size 0; keepalive_requests 5;\n\
         server {{ listen 127.0.0.1:{port} http2; root {root};\n\
         location /proto {{ return 200 \"$server_protocol $http_host$http_te\"; }} }} }}\n"
    );
    std::fs::write(&conf, written).expect("conf");
    let conf = conf.to_str().expect("UTF-8");
    let _nginx = Foreign(Command::new("nginx").args(["-c", conf]).stderr(Stdio::null()).spawn().expect("nginx"));
    let spec = format!("s=http://127.0.0.1:{port},protocol=h2,health=/page.html");
    let (up, _node) = pair(&folder, &spec, &[]);
    let page = up.get("/api/service/s/page.html");
    assert_eq!((page.status, page.text().as_str()), (200, "<p>from nginx</p>"), "by HTTP/1.1");
    assert_eq!(page.header("content-type"), "text/html");
    let url = format!("{}/api/service/s/page.html", up.http());
    let out = text(&curl(&["--http2-prior-knowledge", "--include", "--range", "3-6", &url]));
    assert!(out.starts_with("HTTP/2 206") && out.ends_with("from"), "{out}");
    let out = text(&curl(&["--http2-prior-knowledge", "--head", &url]));
    assert!(has(&out, "content-length: 17"), "{out}");
    assert_eq!(up.get("/api/service/s/proto").text(), format!("HTTP/2.0 127.0.0.1:{port}"));
    assert_eq!(up.get("/api/service/s/missing").status, 404);
    // It ends its connections after five requests each: nobody notices.
    for i in 0..40 {
        assert_eq!(up.get("/api/service/s/page.html").status, 200, "request {i}");
    }
}

#[test]
fn a_service_that_does_not_speak_http2_is_said_to() {
    let folder = Folder::new();
    let service = Service::echo("a");
    let (up, _node) = pair(&folder, &format!("s={},protocol=h2", service.url()), &[]);
    let answer = up.get("/api/service/s/x");
    assert_eq!((answer.status, answer.json()["hop"].as_str()), (502, Some("node-service")), "{}", answer.text());
    assert!(service.connections.load(Ordering::SeqCst) > 0);
}

#[test]
fn grpc_from_pypi() {
    if !available("python3", &["-c", "import grpc"]) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http2/grpc_service.py");
    let python = || {
        let mut command = Command::new("python3");
        // Proxies are not meant for this machine; its gRPC would ask them.
        command.arg(script).env("no_proxy", "*").env("no_grpc_proxy", "*");
        command
    };
    let server = python().arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    let mut server = Foreign(server);
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut port).expect("its port");
    let folder = Folder::new();
    let spec = format!("s=http://127.0.0.1:{},protocol=h2", port.trim());
    let (up, _node) = pair(&folder, &spec, &[]);
    // And one that is worker and gateway in one: no hop between them.
    let alone = Paceline::start("up", &folder.path("alone"), &["--service", &spec]);
    alone.wait_healthy("s", 1);
    for (what, gateway) in [("through a node", &up), ("in one process", &alone)] {
        let target = gateway.runtime["http"].as_str().expect("http");
        let out = python().args(["call", target, "s"]).output().expect("python3");
        let (said, failed) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{what}: {said}\n{failed}");
        eprintln!("{what}:\n{said}");
    }
    // A server that dies is one that is not available.
    drop(server);
    let out = python().args(["call", up.runtime["http"].as_str().expect("http"), "s"]).output().expect("python3");
    assert!(String::from_utf8_lossy(&out.stderr).contains("UNAVAILABLE"), "{}", String::from_utf8_lossy(&out.stderr));
}

/// A connection in HTTP/2's own words.
struct Raw(TcpStream);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut all = vec![length[1], length[2], length[3], kind, flags];
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// A header block: the static table's names, values as they are.
fn block(method: &str, path: &str, authority: &str, more: &[(&str, &str)]) -> Vec<u8> {
    fn word(out: &mut Vec<u8>, text: &str) {
        out.push(u8::try_from(text.len()).expect("short"));
        out.extend(text.as_bytes());
    }
    let mut out = vec![0x86]; // :scheme http
    for (index, value) in [(2, method), (4, path), (1, authority)] {
        out.push(index); // literal, never indexed here
        word(&mut out, value);
    }
    for (name, value) in more {
        out.push(0);
        word(&mut out, name);
        word(&mut out, value);
    }
    out
}

impl Raw {
    fn connect(up: &Paceline) -> Self {
        let stream = TcpStream::connect(up.runtime["http"].as_str().expect("http")).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Raw(stream)
    }

    fn greet(up: &Paceline) -> Self {
        let mut raw = Self::connect(up);
        raw.send(PREFACE);
        raw.send(&frame(SETTINGS, 0, 0, &[]));
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("written");
    }

    /// The next frame; `None` at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither a frame nor the end"),
            Err(_) => return None,
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    fn until(&mut self, kind: u8) -> (u8, u32, Vec<u8>) {
        loop {
            match self.next() {
                Some((got, flags, stream, payload)) if got == kind => return (flags, stream, payload),
                Some(_) => {}
                None => panic!("the connection ended before a frame of kind {kind}"),
            }
        }
    }

    /// Whether it ends with a GOAWAY, and its error code.
    fn goes_away(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().expect("four")));
            }
        }
        code
    }
}

#[test]
fn the_preface_may_come_in_pieces_and_is_the_first_word_only() {
    let folder = Folder::new();
    let files = folder.with_file("files", "a.txt", b"hello");
    let up = Paceline::start("up", &folder.path("up"), &["--serve", &format!("s={files}")]);
    up.wait_healthy("s", 1);
    let mut raw = Raw::connect(&up);
    for byte in PREFACE {
        raw.send(&[*byte]);
    }
    raw.send(&frame(SETTINGS, 0, 0, &[]));
    raw.until(SETTINGS);
    let host = up.runtime["http"].as_str().expect("http").to_owned();
    let get = block("GET", "/api/service/s/a.txt", &host, &[]);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get));
    assert_eq!(raw.until(DATA).2, b"hello");

    // After a request of HTTP/1.1 it is none: whoever smuggles it in gets no second protocol.
    let mut raw = Raw::connect(&up);
    let request = format!("GET /api/service/s/a.txt HTTP/1.1\r\nHost: {host}\r\n\r\n");
    raw.send(request.as_bytes());
    let mut reader = BufReader::new(raw.0.try_clone().expect("clone"));
    let mut line = String::new();
    while line.trim() != "" || line.is_empty() {
        line.clear();
        reader.read_line(&mut line).expect("a head");
    }
    reader.read_exact(&mut [0; 5]).expect("the body");
    raw.send(PREFACE);
    raw.send(&frame(SETTINGS, 0, 0, &[]));
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.1 400") || rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    // And PROPFIND is no preface.
    let mut raw = Raw::connect(&up);
    raw.send(b"PR");
    raw.send(format!("OPFIND /api/service/s/a.txt HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    let mut line = String::new();
    BufReader::new(raw.0).read_line(&mut line).expect("a head");
    assert!(line.starts_with("HTTP/1.1 "), "{line}");
}

#[test]
fn what_http2_must_not_smuggle_is_refused() {
    let folder = Folder::new();
    let service = Service::echo("a");
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let host = up.runtime["http"].as_str().expect("http").to_owned();
    let before = service.connections.load(Ordering::SeqCst);
    let path = "/api/service/s/x";
    type Fields = &'static [(&'static str, &'static str)];
    let cases: [(&str, Fields, &str); 7] = [
        ("two lengths", &[("content-length", "1"), ("content-length", "2")], "POST"),
        ("a length without a body", &[("content-length", "5")], "POST"),
        ("chunked", &[("transfer-encoding", "chunked")], "POST"),
        ("a connection's field", &[("connection", "x-forwarded-for")], "GET"),
        ("an upgrade", &[("upgrade", "websocket")], "GET"),
        ("another host", &[("host", "elsewhere")], "GET"),
        ("an extended CONNECT", &[(":protocol", "websocket")], "CONNECT"),
    ];
    for (what, more, method) in cases {
        let mut raw = Raw::greet(&up);
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(method, path, &host, more)));
        let refused = loop {
            match raw.next() {
                Some((RST_STREAM | GOAWAY, ..)) | None => break true,
                // The status comes first; 200 is one byte.
                Some((HEADERS, _, _, payload)) => break payload.first() != Some(&0x88),
                Some(_) => {}
            }
        };
        assert!(refused, "{what}");
    }
    assert_eq!(service.connections.load(Ordering::SeqCst), before, "nothing of it reached the service");
}

#[test]
fn streams_that_are_reset_at_once_end_their_connection() {
    let folder = Folder::new();
    let service = Service::echo("a");
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let host = up.runtime["http"].as_str().expect("http").to_owned();
    let mut raw = Raw::greet(&up);
    let get = block("GET", "/api/service/s/x", &host, &[]);
    let mut flood = Vec::new();
    for stream in (1..4000).step_by(2) {
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &get));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // It may well be cut off before it has said everything.
    let _ = raw.0.write_all(&flood);
    let code = raw.goes_away();
    assert!(matches!(code, None | Some(11)), "ENHANCE_YOUR_CALM: {code:?}");
    assert_eq!(up.get("/api/service/s/x").status, 200, "others are served");
}

#[test]
fn a_connection_without_requests_is_closed_in_good_order() {
    let folder = Folder::new();
    let files = folder.with_file("files", "a.txt", b"hello");
    let serve = format!("s={files}");
    let limits = ["--serve", &serve, "--idle-timeout", "1s", "--header-timeout", "1s"];
    let up = Paceline::start("up", &folder.path("up"), &limits);
    up.wait_healthy("s", 1);
    let host = up.runtime["http"].as_str().expect("http").to_owned();
    let began = Instant::now();
    assert_eq!(Raw::greet(&up).goes_away(), Some(0), "one that says nothing");
    let mut raw = Raw::greet(&up);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block("GET", "/api/service/s/a.txt", &host, &[])));
    raw.until(DATA);
    assert_eq!(raw.goes_away(), Some(0), "one that has said what it wanted");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn an_answer_that_nobody_takes_is_reset_and_its_neighbours_are_not() {
    let folder = Folder::new();
    let service = Service::http(|_, _, out| answer(out, 200, &vec![7; 8 << 20]));
    let spec = format!("s={},health=none", service.url());
    let (up, _node) = pair(&folder, &spec, &["--write-timeout", "1s"]);
    let host = up.runtime["http"].as_str().expect("http").to_owned();
    // No room is ever given beyond the first 64 KiB.
    let mut raw = Raw::greet(&up);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block("GET", "/api/service/s/x", &host, &[])));
    let (_, stream, _) = raw.until(RST_STREAM);
    assert_eq!(stream, 1);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &block("GET", "/health", &host, &[])));
    assert_eq!(raw.until(HEADERS).1, 3, "the connection goes on");
}

#[test]
fn streams_on_their_way_when_the_gateway_stops_are_answered() {
    if !has_curl() {
        return;
    }
    let (begun, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (begun, wait) = (Mutex::new(begun), Mutex::new(wait));
    let service = Service::http(move |_, _, out| {
        let _ = begun.lock().expect("channel").send(());
        let _ = wait.lock().expect("channel").recv_timeout(PATIENCE);
        answer(out, 200, b"late")
    });
    let folder = Folder::new();
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let url = format!("{}/api/service/s/x", up.http());
    let curl = std::thread::spawn(move || text(&curl(&["--http2-prior-knowledge", &url])));
    told.recv_timeout(PATIENCE).expect("the request is there");
    let address = up.runtime["http"].as_str().expect("http").to_owned();
    up.signal("-TERM");
    eventually("no new connection is taken", PATIENCE, || TcpStream::connect(&address).is_err().then_some(()));
    go.send(()).expect("the service lives");
    assert_eq!(curl.join().expect("curl"), "late");
    assert!(up.wait().success());
}
