//! Services that nobody named, found by real processes: each test runs in a network namespace of its own, where the
//! table's ports are free and `/etc/hosts` is the test's.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::network::in_own_network;
use common::service::{Service, answer};
use common::{Folder, PATIENCE, Paceline, available, eventually};
use serde_json::Value;

/// A change may be seen by the next look only.
const LOOK: Duration = Duration::from_secs(10);

/// A Python program, ended with the test.
struct Python(Child);

impl Python {
    /// Waits until it says that it serves.
    fn start(script: &str, args: &[&str]) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-c", script])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "serves");
        Self(child)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// vLLM's real endpoints: an empty `/health`, `/v1/models`, `/version`, and a completion. Its models stand in a file.
const VLLM: &str = r#"
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def reply(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/health": return self.reply(200)
        if self.path == "/version": return self.reply(200, {"version": "0.11.0"})
        if self.path == "/v1/models":
            names = open(sys.argv[2]).read().split()
            return self.reply(200, {"object": "list", "data": [
                {"id": n, "object": "model", "created": 1, "owned_by": "vllm", "root": n, "parent": None,
                 "max_model_len": 4096, "permission": []} for n in names]})
        self.reply(404, {"detail": "Not Found"})
    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(200, {"object": "chat.completion", "model": ask["model"], "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]})
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H)
print("serves")
server.serve_forever()
"#;

/// A worker as Flask or FastAPI would answer: its health body tells its name.
const NER: &str = r#"
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class H(BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        body = json.dumps({"status": "healthy", "service": sys.argv[2], "version": "2.1"}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), H)
print("serves")
server.serve_forever()
"#;

/// `python3 -m http.server` with its line.
const FILES: &str = r#"
import sys
from http.server import SimpleHTTPRequestHandler, HTTPServer
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler)
print("serves")
server.serve_forever()
"#;

/// `paceline up` that detects, on free ports unless told.
fn up(folder: &Folder, data: &str, args: &[&str]) -> Paceline {
    Paceline::start_detecting("up", &folder.path(data), args)
}

fn offers(paceline: &Paceline) -> Vec<(String, Value)> {
    let id = paceline.runtime["worker_id"].as_str().expect("id").to_owned();
    let worker = paceline.get(&format!("/api/workers/{id}")).json();
    let list = worker["offers"].as_array().cloned().unwrap_or_default();
    list.into_iter().map(|s| (s["name"].as_str().unwrap_or_default().to_owned(), s)).collect()
}

fn names(paceline: &Paceline) -> Vec<String> {
    offers(paceline).into_iter().map(|(name, _)| name).collect()
}

fn wait_names(paceline: &Paceline, expected: &[&str], patience: Duration) -> Duration {
    let start = Instant::now();
    eventually(&format!("{expected:?} offered; log:\n{}", paceline.log()), patience, || {
        (names(paceline) == expected).then_some(())
    });
    start.elapsed()
}

#[test]
fn known_services_are_found_and_strangers_left_alone() {
    in_own_network("known_services_are_found_and_strangers_left_alone", "", || {
        if !available("python3", &["--version"]) {
            return;
        }
        let folder = Folder::new();
        let models = folder.path("models");
        std::fs::write(&models, "llama-3 qwen-3").expect("models");
        let _vllm = Python::start(VLLM, &["8000", models.to_str().expect("UTF-8")]);
        let ner = Python::start(NER, &["8101", "ner-service"]);
        let _files = Python::start(FILES, &["8100"]);
        let _grafana = Python::start(NER, &["3001", "grafana"]);
        let at = |port: u16| format!("127.0.0.1:{port}").parse().expect("address");
        let _hangs = Service::raw_at(at(8102), |stream| {
            let mut byte = [0];
            while std::io::Read::read(&mut &stream, &mut byte).is_ok_and(|n| n > 0) {}
        });
        let endless = |head: &'static str| {
            move |mut stream: TcpStream| {
                let _ = stream.write_all(head.as_bytes());
                while stream.write_all(&[b'x'; 65536]).is_ok() {}
            }
        };
        let _streams = Service::raw_at(at(8103), endless("HTTP/1.1 200 OK\r\n\r\n"));
        let _huge = Service::raw_at(at(8104), endless("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n"));
        let _ssh = Service::raw_at(at(8105), |mut stream| drop(stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n")));
        let other = Paceline::start("up", &folder.path("other"), &["--http", "127.0.0.1:8106"]);

        let paceline = up(&folder, "data", &["--http", "127.0.0.1:8001"]);
        wait_names(&paceline, &["ner", "vllm"], PATIENCE);
        paceline.wait_healthy("vllm", 1);
        paceline.wait_healthy("ner", 1);
        for (port, name) in [
            (8100, "notes"),
            (3001, "assistant"),
            (8102, "rag"),
            (8103, "upload"),
            (8104, "ocr"),
            (8105, "doc-processor"),
            (8106, "client-rag"),
        ] {
            paceline.wait_log(&format!("something answers on {port}, not taken for {name}"));
        }
        paceline.wait_log("it calls itself `grafana`");
        paceline.wait_log("it is a Paceline process");
        paceline.wait_log("looked for and not found here");
        let said = paceline.log();
        assert!(!said.contains("something answers on 8001"), "its own port is no news:\n{said}");
        assert!(!said.contains("not taken for agent-tool"), "nobody listens there:\n{said}");

        let vllm = offers(&paceline).into_iter().find(|(name, _)| name == "vllm").expect("vllm").1;
        assert_eq!((&vllm["kind"], &vllm["host"]), (&"openai".into(), &"127.0.0.1".into()), "{vllm}");
        assert_eq!(vllm["models"], serde_json::json!(["llama-3", "qwen-3"]));
        let body = br#"{"model":"qwen-3","messages":[{"role":"user","content":"hi"}]}"#;
        let url = format!("{}/api/service/vllm/v1/chat/completions", paceline.http());
        let said = common::post(&url, body, &[("content-type", "application/json")]).expect("answer").json();
        assert_eq!(said["choices"][0]["message"]["content"], "hello");

        std::fs::write(&models, "qwen-3 llama-3 mistral").expect("models");
        eventually("a new model is told", LOOK + PATIENCE, || {
            let (_, vllm) = offers(&paceline).into_iter().find(|(name, _)| name == "vllm")?;
            (vllm["models"] == serde_json::json!(["llama-3", "mistral", "qwen-3"])).then_some(())
        });
        let _upload = {
            drop(_streams);
            Service::raw_at(at(8103), |mut stream| {
                let _ = BufReader::new(&stream).read_line(&mut String::new());
                let _ = answer(&mut stream, 200, br#"{"workerType":"UPLOAD"}"#);
            })
        };
        let found = wait_names(&paceline, &["ner", "upload", "vllm"], LOOK + PATIENCE);
        println!("a service that appears is offered after {found:?}");
        drop(ner);
        let gone = wait_names(&paceline, &["upload", "vllm"], LOOK * 4 + PATIENCE);
        println!("a service that goes is offered no more after {gone:?}");

        let once = paceline.log().matches("something answers on 8100, not taken for notes").count();
        assert_eq!(once, 1, "each change is said once");
        let health = common::get(&format!("{}/health", paceline.local_http())).expect("health").json();
        let rss = health["memory"]["rss_bytes"].as_u64().expect("memory");
        assert!(rss < 200 * 1024 * 1024, "{rss} bytes of memory after a health body of 1 GiB");
        drop(other);
    });
}

#[test]
fn a_container_host_name_is_proof_enough() {
    let hosts = "127.0.0.2 upload-service\n93.184.215.14 notes-service";
    in_own_network("a_container_host_name_is_proof_enough", hosts, || {
        if !available("nginx", &["-v"]) {
            return;
        }
        let folder = Folder::new();
        let dir = folder.path("nginx");
        std::fs::create_dir_all(&dir).expect("folder");
        let path = dir.to_str().expect("UTF-8");
        let config = format!(
            "user root; daemon off; master_process off; pid {path}/pid; error_log stderr; worker_processes 1; events {{}}\n\
             http {{ access_log off; client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path};\n\
             uwsgi_temp_path {path}; scgi_temp_path {path};\n\
             server {{ listen 127.0.0.2:8103; location / {{ return 200 \"plain\"; }} }} }}"
        );
        std::fs::write(dir.join("conf"), config).expect("config");
        let mut nginx = Command::new("nginx")
            .args(["-p", path, "-c", "conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx");
        eventually("nginx listens", PATIENCE, || TcpStream::connect("127.0.0.2:8103").ok());

        let paceline = up(&folder, "data", &[]);
        wait_names(&paceline, &["upload"], LOOK + PATIENCE);
        paceline.wait_healthy("upload", 1);
        let upload = offers(&paceline).remove(0).1;
        assert_eq!((&upload["host"], &upload["port"]), (&"upload-service".into(), &8103.into()));
        assert_eq!(paceline.get("/api/service/upload/x").text(), "plain");
        let _ = nginx.kill();
        let _ = nginx.wait();
    });
}

#[test]
fn what_is_configured_is_not_taken_twice_and_no_detect_finds_nothing() {
    in_own_network("what_is_configured_is_not_taken_twice_and_no_detect_finds_nothing", "", || {
        if !available("python3", &["--version"]) {
            return;
        }
        let folder = Folder::new();
        let models = folder.path("models");
        std::fs::write(&models, "m").expect("models");
        let _vllm = Python::start(VLLM, &["8000", models.to_str().expect("UTF-8")]);
        let _ner = Python::start(NER, &["8101", "ner"]);
        let llm = ["--service", "llm=http://localhost:8000", "--service", "ner=http://127.0.0.1:8000"];
        let paceline = up(&folder, "data", &llm);
        paceline.wait_log("looked for and not found here");
        paceline.wait_log("is offered already, as `llm`");
        paceline.wait_log("is offered already, as `ner`");
        assert_eq!(names(&paceline), ["llm", "ner"]);
        drop(paceline);

        let file = folder.path("paceline.toml");
        std::fs::write(&file, "[detect]\nner = false\n").expect("file");
        let paceline = up(&folder, "file", &["--config", file.to_str().expect("UTF-8")]);
        wait_names(&paceline, &["vllm"], PATIENCE);
        std::fs::write(&file, "[detect]\nvllm = false\n[detect.words]\nport = 8101\naliases = [\"ner\"]\n")
            .expect("file");
        wait_names(&paceline, &["ner"], PATIENCE);
        std::fs::write(
            &file,
            "[detect]\nvllm = false\nner = false\n[detect.words]\nport = 8101\naliases = [\"ner\"]\n",
        )
        .expect("file");
        wait_names(&paceline, &["words"], PATIENCE);
        std::fs::write(&file, "no-detect = true\n").expect("file");
        wait_names(&paceline, &[], PATIENCE);
        drop(paceline);

        let quiet = Paceline::start("up", &folder.path("quiet"), &[]);
        assert!(names(&quiet).is_empty() && !quiet.log().contains("looked for"), "{}", quiet.log());
    });
}

#[test]
fn a_node_tells_its_hardware_type_and_capabilities() {
    let folder = Folder::new();
    let args = ["--capability", "docker=false", "--capability", "robot"];
    let paceline = Paceline::start("up", &folder.path("data"), &args);
    let hardware = common::get(&format!("{}/hardware", paceline.local_http())).expect("hardware").json();
    assert!(hardware["cpu"]["cores"].as_u64().is_some_and(|n| n > 0), "{hardware}");
    assert!(hardware["memory"]["total_bytes"].as_u64().is_some_and(|n| n > 0), "{hardware}");
    assert!(hardware["disk"]["free_bytes"].is_u64(), "{hardware}");
    let has_gpu = hardware["gpus"].as_array().is_some_and(|gpus| !gpus.is_empty());
    assert_eq!(hardware["no_gpu"].is_null(), has_gpu, "{hardware}");
    let worker = paceline.worker(paceline.runtime["worker_id"].as_str().expect("id")).expect("this worker");
    let capabilities = &worker["capabilities"];
    assert_eq!((&capabilities["docker"], &capabilities["robot"]), (&false.into(), &true.into()));
    assert_eq!(capabilities["gpu"], has_gpu);
    assert!(capabilities["network_access"].is_boolean() && capabilities["privileged"].is_boolean());
    paceline.wait_log("this machine: ");
    paceline.wait_log("worker type");
    assert_eq!(worker["tier"] == 1, has_gpu, "{worker}");
    if !has_gpu {
        assert_eq!(paceline.log().matches("no GPU: ").count(), 1, "one line:\n{}", paceline.log());
    }
}
