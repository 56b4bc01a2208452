//! Services that nobody here wrote, behind the gateway: nginx, Python's `http.server`, a WebSocket echo from PyPI.

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use common::{Folder, PATIENCE, Paceline, available, eventually, get_with};

/// A foreign process, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn pair(folder: &Folder, spec: &str) -> (Paceline, Paceline) {
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let node =
        Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &up.join_token(), "--service", spec]);
    (up, node)
}

#[test]
fn nginx() {
    if !available("nginx", &["-v"]) {
        return;
    }
    let folder = Folder::new();
    let root = folder.with_file("www", "page.html", b"<p>from nginx</p>");
    let port = free_port();
    let conf = folder.path("nginx.conf");
    let tmp = folder.path("tmp");
    std::fs::create_dir_all(&tmp).expect("folder");
    let tmp = tmp.display();
    std::fs::write(
        &conf,
        format!(
            "daemon off; master_process off; user root; pid {tmp}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {tmp}/a; proxy_temp_path {tmp}/b; fastcgi_temp_path {tmp}/c;\n\
             uwsgi_temp_path {tmp}/d; scgi_temp_path {tmp}/e; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        ),
    )
    .expect("conf");
    let conf = conf.to_str().expect("UTF-8").to_owned();
    let _nginx = Foreign(Command::new("nginx").args(["-c", &conf]).stderr(Stdio::null()).spawn().expect("nginx"));
    let (up, _node) = pair(&folder, &format!("web=http://127.0.0.1:{port},health=/page.html"));
    up.wait_healthy("web", 1);
    let page = up.get("/api/service/web/page.html");
    assert_eq!(page.text(), "<p>from nginx</p>");
    assert_eq!(page.header("content-type"), "text/html");
    let url = format!("{}/api/service/web/page.html", up.http());
    let part = get_with(&url, &[("range", "bytes=3-6")]).expect("answer");
    assert_eq!((part.status, part.text().as_str()), (206, "from"));
    let same = get_with(&url, &[("if-none-match", page.header("etag"))]).expect("answer");
    assert_eq!((same.status, same.body.len()), (304, 0));
}

#[test]
fn python_http_server() {
    if !available("python3", &["--version"]) {
        return;
    }
    let folder = Folder::new();
    let root = folder.with_file("www", "a.txt", &vec![b'a'; 300_000]);
    let port = free_port();
    let _python = Foreign(
        Command::new("python3")
            .args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory", &root])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3"),
    );
    let (up, _node) = pair(&folder, &format!("py=http://127.0.0.1:{port},health=/"));
    up.wait_healthy("py", 1);
    assert_eq!(up.get("/api/service/py/a.txt").body.len(), 300_000);
    assert!(up.get("/api/service/py/").text().contains("a.txt"));
    assert_eq!(up.get("/api/service/py/none").status, 404);
}

const ECHO: &str = "
import asyncio, websockets
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
";

const TALK: &str = "
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], max_size=None) as ws:
        for message in ['hello', 'x' * 1_000_000, b'\\x00\\x01' * 50_000]:
            await ws.send(message)
            assert await ws.recv() == message
        pong = await ws.ping()
        await asyncio.wait_for(pong, 5)
    print('talked')
asyncio.run(main())
";

#[test]
fn websocket_echo_from_pypi() {
    if !available("python3", &["-c", "import websockets"]) {
        return;
    }
    let mut child =
        Command::new("python3").args(["-c", ECHO]).stdout(Stdio::piped()).spawn().expect("python3 with websockets");
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("port");
    let _echo = Foreign(child);
    let folder = Folder::new();
    let (up, _node) = pair(&folder, &format!("ws=http://127.0.0.1:{},health=none", port.trim()));
    up.wait_healthy("ws", 1);
    let url = format!("ws://{}/api/service/ws/", up.runtime["http"].as_str().expect("http"));
    let talked = eventually("the client ends", PATIENCE, || {
        Some(Command::new("python3").args(["-c", TALK, &url]).output().expect("python3"))
    });
    assert!(
        talked.status.success() && String::from_utf8_lossy(&talked.stdout).contains("talked"),
        "{}",
        String::from_utf8_lossy(&talked.stderr)
    );
}
