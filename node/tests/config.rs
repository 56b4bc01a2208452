//! The configuration file with real processes: checked, shown, edited in every way that editors and people have, and read
//! again without a lost request.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::service::Service;
use common::{Ended, Folder, PATIENCE, Paceline, eventually, get, run};

/// Runs `paceline ARGS` to its end with variables of its own.
fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.args(args).envs(variables.iter().copied());
    let out = command.output().expect("paceline runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: out.status, stdout: text(&out.stdout), stderr: text(&out.stderr) }
}

fn table(name: &str, service: &Service) -> String {
    format!("[[service]]\nname = \"{name}\"\nurl = \"{}\"\n", service.url())
}

fn file(folder: &Folder, text: &str) -> (PathBuf, String) {
    let path = folder.path("paceline.toml");
    std::fs::write(&path, text).expect("written");
    let shown = path.to_str().expect("UTF-8").to_owned();
    (path, shown)
}

/// Replaces a file as editors do: another one takes its name.
fn rename_over(path: &Path, text: &str) {
    let beside = path.with_extension("toml~");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(&beside, path).expect("renamed");
}

fn up(folder: &Folder, config: &str) -> Paceline {
    Paceline::start("up", &folder.path("up"), &["--name", "up", "--config", config])
}

/// What a gateway says of the worker `up`, with its labels.
fn detail(up: &Paceline) -> serde_json::Value {
    up.get("/api/workers/up").json()
}

/// Calls a service for as long as it lives, and counts what did not go well.
struct Caller {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Caller {
    fn start(url: &str, threads: usize) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let call = |_| {
            let (url, stop, calls) = (url.to_owned(), stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match get(&url) {
                        Ok(answer) if answer.status == 200 => drop(calls.fetch_add(1, Ordering::SeqCst)),
                        Ok(answer) => failures.push(format!("{} {}", answer.status, answer.text())),
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                failures
            })
        };
        Self { threads: (0..threads).map(call).collect(), stop, calls }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self.threads.into_iter().flat_map(|t| t.join().expect("a caller")).collect();
        (self.calls.load(Ordering::SeqCst), failures)
    }
}

#[test]
fn ten_reloads_under_requests_lose_none() {
    let (a, b) = (Service::echo("a"), Service::echo("b"));
    let folder = Folder::new();
    let (with, without) = (table("a", &a) + &table("b", &b), table("a", &a));
    let (path, shown) = file(&folder, &without);
    let up = up(&folder, &shown);
    up.wait_healthy("a", 1);
    let callers = Caller::start(&format!("{}/api/service/a/x", up.http()), 4);
    for round in 0..10 {
        let text = format!("{}[labels]\nround = {round}\n", if round % 2 == 0 { &with } else { &without });
        match round % 3 {
            0 => std::fs::write(&path, text).expect("written"),
            _ => rename_over(&path, &text),
        }
        if round % 2 == 1 {
            up.signal("-HUP");
        }
        up.wait_healthy("b", u64::from(round % 2 == 0));
        eventually("the label", PATIENCE, || {
            (detail(&up)["labels"]["round"].as_str()?.parse() == Ok(round)).then_some(())
        });
    }
    let (calls, failures) = callers.end();
    assert_eq!(failures, Vec::<String>::new(), "of {calls}");
    assert!(calls > 100, "only {calls} calls");
    assert_eq!(up.get("/api/service/b/").status, 503, "b is offered no more");
}

#[test]
fn labels_capabilities_and_the_log_level_follow_and_the_rest_is_said() {
    let folder = Folder::new();
    let (path, shown) = file(&folder, "site = \"lab\"\n[labels]\nrack = 7\n[capabilities]\ngpu = true\n");
    let up = up(&folder, &shown);
    let worker = detail(&up);
    assert_eq!((&worker["labels"]["rack"], &worker["capabilities"]["gpu"]), (&"7".into(), &true.into()));
    assert_eq!(worker["tier"], 1, "{worker}");
    rename_over(&path, "site = \"cellar\"\nlog-level = \"debug\"\nterm = \"5m\"\n[labels]\nrow = \"b\"\n");
    eventually("the new labels", PATIENCE, || {
        let worker = detail(&up);
        (worker["labels"] == serde_json::json!({"row": "b"}) && worker["tier"] == 2).then_some(())
    });
    up.wait_log("take effect at the next start");
    let log = up.log();
    let line = log.lines().find(|l| l.contains("take effect at the next start")).expect("said");
    assert!(line.contains("site") && line.contains("term") && !line.contains("log-level"), "{line}");
    assert_eq!(log.matches("take effect at the next start").count(), 1, "said once");
    up.wait_log("DEBUG");
}

#[test]
fn a_file_that_is_wrong_or_half_written_or_gone_leaves_the_old_one_in_force() {
    let (a, b) = (Service::echo("a"), Service::echo("b"));
    let folder = Folder::new();
    let (path, shown) = file(&folder, &table("a", &a));
    let up = up(&folder, &shown).expect_error("is not taken");
    up.wait_healthy("a", 1);
    let whole = table("a", &a) + &table("b", &b);
    std::fs::write(&path, &whole[..whole.len() - 8]).expect("half of it");
    up.wait_log("is not taken");
    assert!(up.log().contains(&format!("{shown}:6: ")), "{}", up.log());
    assert_eq!(up.get("/api/service/a/").status, 200);
    std::fs::write(&path, &whole).expect("all of it");
    up.wait_healthy("b", 1);

    rename_over(&path, &whole.replace("url", "ulr"));
    up.wait_log("did you mean `url`");
    std::fs::remove_file(&path).expect("removed");
    up.wait_log("the configuration file is gone");
    up.signal("-HUP");
    up.wait_log("No such file");
    assert_eq!((up.get("/api/service/a/").status, up.get("/api/service/b/").status), (200, 200));
    std::fs::write(&path, table("b", &b)).expect("back");
    up.wait_healthy("a", 0);
    assert_eq!(up.get("/api/service/b/").status, 200);
}

#[test]
fn a_file_that_is_wrong_at_the_start_is_refused_before_anything_is_changed() {
    let folder = Folder::new();
    for (text, line, said) in [
        ("[[service]]\nname = \"a\"\nulr = \"http://127.0.0.1:1\"\n", 3, "did you mean `url`"),
        ("[labels]\nx = []\n", 2, "[labels] x"),
        ("heartbeat = \"soon\"\n", 1, "--heartbeat"),
        ("[limits]\nmax_concurrency = -1\n", 2, "[limits]"),
        ("[[service]]\nname = \"a\"\nurl = \"http://12", 3, ""),
        ("\u{0}\u{1}\u{2}", 1, ""),
    ] {
        let (_, shown) = file(&folder, text);
        let dir = folder.path("data");
        for args in [
            vec!["up", "--data-dir", dir.to_str().expect("UTF-8"), "--config", &shown],
            vec!["config", "check", &shown],
        ] {
            let ended = run(&args);
            assert_eq!(ended.code(), 2, "{text:?}: {}", ended.stderr);
            let last = ended.last_line();
            assert!(last.contains(&format!("{shown}:{line}: ")) && last.contains(said), "{text:?}: {last}");
        }
        assert!(!dir.exists(), "nothing was changed on disk");
    }
    let (path, shown) = file(&folder, "");
    std::fs::write(&path, [b'#', b'\n', 0xff, 0xfe]).expect("written");
    assert!(run(&["config", "check", &shown]).last_line().contains(&format!("{shown}:2: is not UTF-8")));
    assert_eq!(run(&["config", "check", "/nowhere.toml"]).code(), 2);
    assert_eq!(run(&["config", "check", folder.path("").to_str().expect("UTF-8")]).code(), 2);
}

#[test]
fn a_hangup_ends_no_process() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    up.signal("-HUP");
    up.wait_log("SIGHUP: there is no configuration file");
    let dir = up.data_dir.to_str().expect("UTF-8").to_owned();
    let (_, shown) = file(&folder, "log-level = \"info\"\n");
    for role in ["gateway", "bootstrap"] {
        let made = run(&["token", "create", "--data-dir", &dir, "--role", role]);
        let token = made.stdout.trim();
        let process = Paceline::start(role, &folder.path(role), &["--name", role, "--join", token, "--config", &shown]);
        process.signal("-HUP");
        process.wait_log("the configuration file is as it was");
        assert!(process.terminate().success());
    }
    assert_eq!(up.get("/health").status, 200);
}

#[test]
fn the_example_is_accepted_and_the_schema_is_json() {
    let folder = Folder::new();
    let example = run(&["config", "example"]);
    let (_, shown) = file(&folder, &example.stdout);
    let checked = run(&["config", "check", &shown]);
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
    assert!(
        checked.stdout.contains("fine, with 4 services, of which 1 is started where it fits"),
        "{}",
        checked.stdout
    );
    let schema: serde_json::Value = serde_json::from_str(&run(&["config", "schema"]).stdout).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["no-mdns"]["type"], "boolean");
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let folder = Folder::new();
    let (_, shown) = file(
        &folder,
        "site = \"lab\"\nterm = \"5m\"\nserve = \"files=.\"\n[labels]\nrack = 7\n[limits]\nmax_concurrency = 9\n\
         [[service]]\nname = \"tiny\"\ncommand = \"sleep 9\"\non_demand = true\n",
    );
    let args = ["config", "show", "node", "--config", &shown, "--term", "7m", "--label", "row=b", "--join", "secret"];
    let variables = [("PACELINE_HEARTBEAT", "3s"), ("WORKER_CAPABILITIES", "{\"docker\": true}"), ("WORKER_ID", "w1")];
    let ended = run_with(&args, &variables);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let rows: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        format!("site lab {shown}:1"),
        "term 7m flag".to_owned(),
        "heartbeat 3s variable PACELINE_HEARTBEAT".to_owned(),
        "name w1 variable WORKER_ID".to_owned(),
        "join (hidden) flag".to_owned(),
        "mesh 0.0.0.0:4900 default".to_owned(),
        format!("labels.rack 7 {shown}:5"),
        format!("limits.max_concurrency 9 {shown}:7"),
        "labels.row b flag".to_owned(),
        format!("service.tiny starts sleep 9 (on demand) {shown}:8"),
        "capabilities.docker true variable WORKER_CAPABILITIES".to_owned(),
    ] {
        let expected: Vec<&str> = expected.split(' ').collect();
        assert!(rows.contains(&expected), "{expected:?} in\n{}", ended.stdout);
    }
    assert!(ended.stdout.contains("service.files"), "{}", ended.stdout);
    let json = run(&["config", "show", "--json", "--config", &shown]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    let site = json.as_array().and_then(|rows| rows.iter().find(|row| row["key"] == "site")).expect("a row");
    assert_eq!(site["from"], format!("{shown}:1"));
}

#[test]
fn variables_of_other_systems_work_or_say_what_replaces_them() {
    let folder = Folder::new();
    let dir = folder.path("node");
    let dir = dir.to_str().expect("UTF-8");
    let ended = run_with(
        &["node", "--data-dir", dir, "--no-mdns", "--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0"],
        &[
            ("COORDINATOR_URL", "http://c"),
            ("WORKER_CONTROL_PLANE_URL", "http://c"),
            ("USE_TUNNEL", "true"),
            ("WORKER_TYPE", "llm"),
            ("WORKER_POLL_INTERVAL_SECONDS", "5"),
            ("WORKER_HEARTBEAT_INTERVAL_SECONDS", "15"),
            ("MAX_CONCURRENCY", "4"),
            ("LOG_LEVEL", "INFO"),
        ],
    );
    assert_eq!(ended.code(), 2, "without a token: {}", ended.stderr);
    for variable in ["COORDINATOR_URL", "WORKER_CONTROL_PLANE_URL", "USE_TUNNEL", "WORKER_TYPE=llm"] {
        let lines = ended.stderr.lines().filter(|line| line.contains(&format!("{variable} is not used: "))).count();
        assert_eq!(lines, 1, "{variable} in\n{}", ended.stderr);
    }
    let shown = run_with(
        &["config", "show", "node"],
        &[("WORKER_HEARTBEAT_INTERVAL_SECONDS", "15"), ("MAX_CONCURRENCY", "4"), ("WORKER_TYPE", "edge")],
    );
    for variable in ["WORKER_HEARTBEAT_INTERVAL_SECONDS", "MAX_CONCURRENCY", "WORKER_TYPE"] {
        assert!(shown.stdout.contains(&format!("variable {variable}")), "{}", shown.stdout);
    }
    let bad = run_with(&["config", "show", "node"], &[("WORKER_CAPABILITIES", "gpu=perhaps")]);
    assert_eq!(bad.code(), 2);
    assert!(bad.last_line().contains("(from the variable WORKER_CAPABILITIES)"), "{}", bad.stderr);
}

#[test]
fn a_service_that_the_token_does_not_allow_is_refused_before_joining() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let dir = up.data_dir.to_str().expect("UTF-8").to_owned();
    let token = run(&["token", "create", "--data-dir", &dir, "--service", "notes"]).stdout.trim().to_owned();
    let (_, shown) = file(&folder, "service = [\"upload=http://127.0.0.1:1\"]\n");
    let node = folder.path("node");
    let ended = run(&["node", "--data-dir", node.to_str().expect("UTF-8"), "--join", &token, "--config", &shown]);
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    let last = ended.last_line();
    assert!(last.contains("`upload`") && last.contains("bound to notes"), "{last}");
    assert!(!node.exists(), "it has not joined");
}

#[test]
fn a_newcomer_that_reaches_nobody_says_so_soon() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let token = std::fs::read_to_string(up.data_dir.join("join-token")).expect("a token");
    drop(up.kill());
    let started = std::time::Instant::now();
    let node = Paceline::spawn("node", &folder.path("node"), &["--join", token.trim()]);
    node.wait_log("trying to join");
    assert!(started.elapsed().as_secs() < 8, "not only after 10 s");
    assert!(node.terminate().success());
}

#[test]
fn a_life_of_a_token_that_cannot_be_is_told_in_the_flags_words() {
    for ttl in ["0s", "500ms", "400d"] {
        let ended = run(&["token", "create", "--ttl", ttl]);
        assert_eq!(ended.code(), 2, "{}", ended.stderr);
        let last = ended.last_line();
        assert!(last.contains("--ttl") && !last.contains("ttl_s"), "{last}");
    }
}
