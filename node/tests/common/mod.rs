//! Real `paceline` processes for tests: started with everything on loopback and port 0, waited for by what they
//! write and answer, ended by their own pid. A test fails when a process logs an ERROR line that it did not expect.

// Each test file is a crate of its own and uses a part of this module.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod network;
pub mod service;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a loaded machine before a test calls it never.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` gives something, looking every 10 ms.
///
/// # Panics
/// After `patience`, naming `what`.
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A test that needs something from outside cargo: `false` says loudly that it is skipped; in CI it fails instead.
pub fn available(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "`{program} {}` does not work here, and CI must have it",
            args.join(" ")
        );
        eprintln!("SKIPPED: `{program} {}` does not work here; the README names what to install", args.join(" "));
    }
    found
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .build()
        .into()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
    let mut response = response?;
    let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
}

/// One GET over a new connection.
pub fn get(url: &str) -> Result<Answer, ureq::Error> {
    answer(agent().get(url).call())
}

/// One POST over a new connection.
pub fn post(url: &str, body: &[u8], headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let mut request = agent().post(url);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    answer(request.send(body))
}

/// One GET with headers.
pub fn get_with(url: &str, headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let mut request = agent().get(url);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    answer(request.call())
}

/// What a process that was meant to end has left behind.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn last_line(&self) -> &str {
        self.stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("")
    }
}

fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_paceline"));
    c.args(args).stdin(Stdio::null());
    for (k, _) in std::env::vars_os() {
        if k.to_string_lossy().starts_with("PACELINE_") || k.to_string_lossy().starts_with("WORKER_") {
            c.env_remove(k);
        }
    }
    c
}

/// Runs `paceline ARGS` to its end.
pub fn run(args: &[&str]) -> Ended {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("paceline starts");
    let drain = |r: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut s = String::new();
            if let Some(mut r) = r {
                let _ = r.read_to_string(&mut s);
            }
            s
        })
    };
    let out = drain(child.stdout.take().map(|r| Box::new(r) as Box<dyn std::io::Read + Send>));
    let err = drain(child.stderr.take().map(|r| Box::new(r) as Box<dyn std::io::Read + Send>));
    let start = Instant::now();
    let status = loop {
        if let Some(s) = child.try_wait().expect("wait") {
            break s;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`paceline {}` did not end; stderr:\n{}", args.join(" "), err.join().unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ended { status, stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() }
}

/// A running `paceline`, ended with the test.
pub struct Paceline {
    child: Child,
    pub data_dir: PathBuf,
    pub runtime: Value,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    expected_errors: Vec<&'static str>,
}

impl Paceline {
    /// Starts a process without waiting for it.
    pub fn spawn(subcommand: &str, data_dir: &Path, args: &[&str]) -> Self {
        Self::spawn_with(subcommand, data_dir, args, false)
    }

    fn spawn_with(subcommand: &str, data_dir: &Path, args: &[&str], detect: bool) -> Self {
        let dir = data_dir.to_str().expect("test paths are UTF-8");
        let mut all = vec![subcommand, "--data-dir", dir, "--no-mdns"];
        if ["up", "node"].contains(&subcommand) && !detect {
            all.push("--no-detect");
        }
        let defaults: &[(&str, &str)] = match subcommand {
            "up" | "gateway" => &[("--http", "127.0.0.1:0"), ("--mesh", "127.0.0.1:0"), ("--data", "127.0.0.1:0")],
            "bootstrap" => &[("--mesh", "127.0.0.1:0")],
            _ => &[("--mesh", "127.0.0.1:0"), ("--data", "127.0.0.1:0")],
        };
        for (flag, value) in defaults {
            if !args.contains(flag) {
                all.extend([*flag, *value]);
            }
        }
        all.extend(args);
        let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("paceline starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (log.clone(), child.stderr.take().expect("piped"));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("log").push(line);
            }
        });
        Self {
            child,
            data_dir: data_dir.to_owned(),
            runtime: Value::Null,
            log,
            reader: Some(reader),
            expected_errors: Vec::new(),
        }
    }

    /// Waits until `runtime.json` names this process.
    #[must_use]
    pub fn ready(mut self) -> Self {
        let start = Instant::now();
        loop {
            let text = std::fs::read(self.data_dir.join("runtime.json")).unwrap_or_default();
            if let Ok(v) = serde_json::from_slice::<Value>(&text)
                && v["pid"] == self.child.id()
            {
                self.runtime = v;
                return self;
            }
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("ended with {status} before it was ready:\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn start(subcommand: &str, data_dir: &Path, args: &[&str]) -> Self {
        Self::spawn(subcommand, data_dir, args).ready()
    }

    /// One that looks for known services: only where nothing else listens on their ports.
    pub fn start_detecting(subcommand: &str, data_dir: &Path, args: &[&str]) -> Self {
        Self::spawn_with(subcommand, data_dir, args, true).ready()
    }

    /// Words of an ERROR line that this test provokes.
    #[must_use]
    pub fn expect_error(mut self, words: &'static str) -> Self {
        self.expected_errors.push(words);
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("log").join("\n")
    }

    pub fn wait_log(&self, words: &str) {
        eventually(&format!("log line with `{words}`; log:\n{}", self.log()), PATIENCE, || {
            self.log().contains(words).then_some(())
        });
    }

    /// `http://host:port` of the gateway.
    pub fn http(&self) -> String {
        format!("http://{}", self.runtime["http"].as_str().expect("a gateway"))
    }

    pub fn local_http(&self) -> String {
        format!("http://{}", self.runtime["local_http"].as_str().expect("a node"))
    }

    pub fn get(&self, path: &str) -> Answer {
        get(&format!("{}{path}", self.http())).unwrap_or_else(|e| panic!("GET {path}: {e}\n{}", self.log()))
    }

    pub fn join_token(&self) -> String {
        format!("@{}", self.runtime["join_token_file"].as_str().expect("a founder"))
    }

    pub fn admin_key(&self) -> String {
        let file = self.runtime["admin_key_file"].as_str().expect("a key file");
        std::fs::read_to_string(file).expect("admin key").trim().to_owned()
    }

    /// What `/api/admin/workers` says of one worker.
    pub fn worker(&self, name: &str) -> Option<Value> {
        let all = self.get("/api/admin/workers").json();
        all["workers"].as_array()?.iter().find(|w| w["id"] == name).cloned()
    }

    /// Waits until a service has that many healthy workers.
    pub fn wait_healthy(&self, service: &str, count: u64) {
        let mut last;
        let start = Instant::now();
        loop {
            last = match self.get("/api/admin/services").json()["services"][service].clone() {
                v if v["healthy_workers"].as_u64().unwrap_or(0) == count => return,
                v => v,
            };
            assert!(
                start.elapsed() < PATIENCE,
                "`{service}` has not {count} healthy workers but {last}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// `kill -9`, reaped.
    pub fn kill(mut self) -> PathBuf {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.data_dir.clone()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(s) = self.child.try_wait().expect("wait") {
                return s;
            }
            assert!(start.elapsed() < PATIENCE, "did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, and gives what it has logged.
    pub fn ended(mut self) -> Ended {
        let status = eventually("its end", PATIENCE, || self.child.try_wait().expect("wait"));
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ended { status, stdout: String::new(), stderr: self.log() }
    }

    /// SIGTERM, and its end.
    pub fn terminate(self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }
}

impl Drop for Paceline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(r) = self.reader.take() {
            let _ = r.join();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{log}", self.data_dir.display());
            return;
        }
        let unexpected: Vec<_> = log
            .lines()
            .filter(|l| {
                (l.contains("ERROR") || l.contains("panicked")) && !self.expected_errors.iter().any(|w| l.contains(w))
            })
            .collect();
        assert!(unexpected.is_empty(), "unexpected errors of {}:\n{}", self.data_dir.display(), unexpected.join("\n"));
    }
}

/// A fresh folder for a test; each process gets a subfolder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("temp dir"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A folder with one file, to serve.
    pub fn with_file(&self, folder: &str, file: &str, content: &[u8]) -> String {
        let dir = self.path(folder);
        std::fs::create_dir_all(&dir).expect("folder");
        std::fs::write(dir.join(file), content).expect("file");
        dir.to_str().expect("UTF-8").to_owned()
    }
}
