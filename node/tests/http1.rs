//! What HTTP/1.1 has beside requests and answers: expectations, interim answers, ranges, conditions, bodies of no length
//! and of none. By curl, nginx and Python's httpx, which nobody here wrote, and by hand where the order of bytes counts.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::service::{Head, Service, answer};
use common::{Folder, PATIENCE, Paceline, available};

/// A foreign process, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pair(folder: &Folder, spec: &str, flags: &[&str]) -> (Paceline, Paceline) {
    let up = Paceline::start("up", &folder.path("up"), flags);
    let node =
        Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &up.join_token(), "--service", spec]);
    up.wait_healthy("s", 1);
    (up, node)
}

fn raw(up: &Paceline, head: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(up.runtime["http"].as_str().expect("http")).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(head.as_bytes()).expect("written");
    BufReader::new(stream)
}

/// The next head: its first line, and its fields.
fn head(reader: &mut impl BufRead) -> (String, Vec<String>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).expect("a head") > 0, "ended within {lines:?}");
        if line.trim().is_empty() && !lines.is_empty() {
            return (lines.remove(0), lines);
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
}

#[test]
fn a_body_is_asked_for_before_it_is_sent() {
    let service = Service::http(|head, body, out| {
        let expects = head.headers.iter().any(|(name, _)| name == "expect");
        answer(out, 200, format!("{expects} {}", String::from_utf8_lossy(&body)).as_bytes())
    });
    let folder = Folder::new();
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let request = |name: &str| {
        format!(
            "POST /api/service/{name}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut reader = raw(&up, &request("s"));
    assert!(head(&mut reader).0.starts_with("http/1.1 100 "), "asked for");
    reader.get_mut().write_all(b"body").expect("written");
    assert!(head(&mut reader).0.starts_with("http/1.1 200 "));
    let mut text = [0; 10];
    reader.read_exact(&mut text).expect("a body");
    assert_eq!(&text, b"false body", "each hop asks for itself");
    // Refused before the body: it is not asked for.
    let (status, _) = head(&mut raw(&up, &request("nobody")));
    assert!(status.starts_with("http/1.1 503 "), "{status}");
}

#[test]
fn interim_answers_are_no_answers_and_empty_ones_are() {
    let service = Service::http(|head, body, out| match head.path.as_str() {
        "/hints" => {
            out.write_all(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")?;
            answer(out, 200, b"after hints")
        }
        "/chunked" => out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "/counted" => answer(out, 200, b""),
        "/none" => out.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "/unchanged" => out.write_all(b"HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 99\r\n\r\n"),
        "/to-the-end" => {
            out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil it closes")?;
            Err(std::io::Error::other("closed"))
        }
        _ => {
            let framing = [head.header("content-length"), head.header("transfer-encoding")];
            answer(out, 200, format!("{framing:?} {}", body.len()).as_bytes())
        }
    });
    let folder = Folder::new();
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &[]);
    let ask = |first: &str, rest: &str| {
        let mut reader = raw(&up, &format!("{first} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{rest}"));
        let (status, fields) = head(&mut reader);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("to its end");
        (status, fields, text)
    };
    for (path, status, text) in [
        ("hints", "http/1.1 200", "after hints"),
        ("chunked", "http/1.1 200", "0\r\n\r\n"),
        ("counted", "http/1.1 200", ""),
        ("none", "http/1.1 204", ""),
        ("unchanged", "http/1.1 304", ""),
        ("to-the-end", "http/1.1 200", "F\r\nuntil it closes\r\n0\r\n\r\n"),
    ] {
        let got = ask(&format!("GET /api/service/s/{path}"), "\r\n");
        // A chunked answer that is empty may as well be counted.
        let same = got.2 == text || path == "chunked" && got.2.is_empty();
        assert!(got.0.starts_with(status) && same, "{path}: {got:?}");
    }
    for (method, rest, seen) in [
        ("POST", "Content-Length: 0\r\n\r\n", r#"["0", ""] 0"#),
        ("GET", "\r\n", r#"["", ""] 0"#),
        ("DELETE", "Content-Length: 3\r\n\r\nabc", r#"["3", ""] 3"#),
        ("GET", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", r#"["", "chunked"] 3"#),
    ] {
        let got = ask(&format!("{method} /api/service/s/x"), rest).2;
        assert_eq!(got, seen, "{method} {rest}");
    }
    let got = ask("POST /api/service/s/x", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").2;
    assert!(got.ends_with("] 0"), "{got}");
}

#[test]
fn nginx_ranges_and_conditions() {
    if !available("nginx", &["-v"]) || !available("curl", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let root = folder.with_file("www", "page.html", b"0123456789");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let (conf, tmp) = (folder.path("nginx.conf"), folder.path("tmp"));
    std::fs::create_dir_all(&tmp).expect("folder");
    let tmp = tmp.display();
    let written = format!(
        "daemon off; master_process off; user root; pid {tmp}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {tmp}/a; proxy_temp_path {tmp}/b; fastcgi_temp_path {tmp}/c;\n\
         uwsgi_temp_path {tmp}/d; scgi_temp_path {tmp}/e; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    );
    std::fs::write(&conf, written).expect("conf");
    let conf = conf.to_str().expect("UTF-8");
    let _nginx = Foreign(Command::new("nginx").args(["-c", conf]).stderr(Stdio::null()).spawn().expect("nginx"));
    let (up, _node) = pair(&folder, &format!("s=http://127.0.0.1:{port},health=/page.html"), &[]);
    let url = format!("{}/api/service/s/page.html", up.http());
    for spoken in ["--http1.1", "--http2-prior-knowledge"] {
        let ask = |args: &[&str]| {
            let usual = [spoken, "--silent", "--noproxy", "*", "--max-time", "20", "--include", &url];
            let out = Command::new("curl").args(usual).args(args).output().expect("curl runs");
            String::from_utf8_lossy(&out.stdout).to_ascii_lowercase().replace("\r\n", "\n")
        };
        let whole = ask(&[]);
        assert!(whole.contains(" 200") && whole.ends_with("\n\n0123456789"), "{whole}");
        let part = ask(&["--range", "2-4"]);
        assert!(part.contains(" 206") && part.contains("content-range: bytes 2-4/10\n"), "{part}");
        assert!(part.ends_with("\n\n234"), "{part}");
        let parts = ask(&["--range", "0-1,8-"]);
        assert!(parts.contains(" 206") && parts.contains("multipart/byteranges"), "{parts}");
        assert!(parts.contains("\n01\n") && parts.contains("\n89\n"), "{parts}");
        let beyond = ask(&["--range", "20-"]);
        assert!(beyond.contains(" 416") && beyond.contains("content-range: bytes */10\n"), "{beyond}");
        let etag = whole.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an etag").to_owned();
        let same = ask(&["--header", &format!("If-None-Match: {etag}")]);
        assert!(same.contains(" 304") && same.ends_with("\n\n"), "{same}");
        let changed = ask(&["--header", "If-Range: \"other\"", "--range", "2-4"]);
        assert!(changed.contains(" 200") && changed.ends_with("0123456789"), "{changed}");
    }
}

/// What the service `s` is asked for by httpx, once in each protocol.
const HTTPX: &str = r#"
import asyncio, sys
import httpx

url, ca = sys.argv[1:]

async def ask(http2):
    async def pieces():
        for i in range(64):
            yield bytes([i]) * 65536
    limits = httpx.Limits(max_connections=8)
    async with httpx.AsyncClient(http2=http2, verify=ca, trust_env=False, timeout=20, limits=limits) as client:
        many = await asyncio.gather(*(client.post(f"{url}/n", content=str(i).encode()) for i in range(100)))
        for i, answer in enumerate(many):
            want = ("HTTP/2" if http2 else "HTTP/1.1", 200, f"a POST /n {i}")
            got = (answer.http_version, answer.status_code, answer.text)
            assert got == want, (got, want)
        streamed = await client.post(f"{url}/up", content=pieces())
        assert len(streamed.content) == len(b"a POST /up ") + 64 * 65536, len(streamed.content)
        head = await client.head(f"{url}/h")
        assert head.status_code == 200 and head.content == b"", head
        async with client.stream("GET", f"{url}/left") as left:
            assert left.status_code == 200
        again = await client.get(f"{url}/again", cookies={"a": "1", "b": "2"})
        assert again.text == "a GET /again ", again.text

asyncio.run(ask(False))
asyncio.run(ask(True))
print("fine")
"#;

#[test]
fn httpx_from_pypi() {
    if !available("python3", &["-c", "import httpx, h2"]) {
        return;
    }
    let service = Service::http(|head: &Head, body, out| {
        let text = format!("a {} {} {}", head.method, head.path, String::from_utf8(body).unwrap_or_default());
        match head.method.as_str() {
            "HEAD" => write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len()),
            _ => answer(out, 200, text.as_bytes()),
        }
    });
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (folder.path("tls.crt"), folder.path("tls.key"));
    std::fs::write(&chain, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let (chain, key) = (chain.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let flags = ["--tls-cert", chain, "--tls-key", key];
    let (up, _node) = pair(&folder, &format!("s={},health=none", service.url()), &flags);
    let port = up.runtime["http"].as_str().and_then(|http| http.rsplit(':').next()).expect("a port");
    let url = format!("https://localhost:{port}/api/service/s");
    let out = Command::new("python3").args(["-c", HTTPX, &url, chain]).output().expect("python3");
    let failed = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && out.stdout.starts_with(b"fine"), "{failed}");
}
