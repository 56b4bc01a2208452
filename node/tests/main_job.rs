//! The main job with real processes: any HTTP client reaches a service on another machine through one gateway.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::service::Service;
use common::{Folder, PATIENCE, Paceline, eventually, get, run};

/// A node that joins `up` and offers one service.
fn join(up: &Paceline, folder: &Folder, name: &str, service: &str) -> Paceline {
    let token = up.join_token();
    Paceline::spawn("node", &folder.path(name), &["--name", name, "--join", &token, "--service", service])
}

#[test]
fn one_command_serves_a_directory() {
    let folder = Folder::new();
    let docs = folder.with_file("docs", "architecture.md", b"# Architecture\n");
    let up = Paceline::start("up", &folder.path("up"), &["--serve", &format!("files={docs}"), "--name", "front"]);

    let page = up.get("/api/service/files/architecture.md");
    assert_eq!((page.status, page.text().as_str()), (200, "# Architecture\n"));
    assert_eq!(page.header("x-paceline-worker"), "front");
    assert_eq!(page.header("x-paceline-path"), "local", "the local worker is called with no network hop");
    assert!(!page.header("x-request-id").is_empty());

    let missing = up.get("/api/service/files/none.md");
    assert_eq!(missing.status, 404, "the service's own answer");

    let services = up.get("/api/admin/services").json();
    assert_eq!(services["services"]["files"]["healthy_workers"], 1);
    assert_eq!(services["services"]["files"]["total_workers"], 1);
    assert_eq!(services["services"]["files"]["status"], "available");
    assert_eq!(services["services"]["files"]["sites"][0], "default");
    assert_eq!(services["total_services"], 1);

    let health = up.get("/health").json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(up.get("/livez").status, 200);
    assert_eq!(up.get("/readyz").status, 200);
    assert!(up.get("/metrics").text().contains("paceline_"));
    assert_eq!(up.get("/").status, 200);
    assert!(up.terminate().success(), "SIGTERM ends with 0");
}

#[test]
fn runtime_file_and_keys_are_as_promised() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &["--name", "front"]);
    let r = &up.runtime;
    assert_eq!(r["role"], "up");
    assert_eq!(r["worker_id"], "front");
    for field in ["peer_id", "cluster_id", "http", "local_http", "data", "admin_key_file", "join_token_file"] {
        assert!(r[field].as_str().is_some_and(|s| !s.is_empty()), "{field} in {r}");
    }
    let first = r["mesh"][0].as_str().expect("mesh addresses").to_owned();
    assert!(first.contains("/quic-v1"), "QUIC first: {first}");
    for file in ["admin_key_file", "join_token_file"] {
        let path = r[file].as_str().expect("path");
        let mode = std::fs::metadata(path).expect("key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    let dir = up.data_dir.clone();
    let mode = std::fs::metadata(&dir).expect("data dir").permissions().mode();
    assert_eq!(mode & 0o077, 0, "the data directory is its owner's alone");
    let port = first.split('/').nth(4).expect("a port").to_owned();
    let token = std::fs::read_to_string(dir.join("join-token")).expect("token");
    assert!(up.terminate().success());
    assert!(!dir.join("runtime.json").exists(), "gone with the process");

    let up = Paceline::start("up", &dir, &["--mesh", &format!("127.0.0.1:{port}")]);
    assert_eq!(token, std::fs::read_to_string(dir.join("join-token")).expect("token"), "still fresh: kept");
    assert!(up.terminate().success());
}

#[test]
fn a_joiner_is_routable_killed_is_seen_and_comes_back_without_token() {
    let folder = Folder::new();
    let notes = Service::echo("notes");
    let up = Paceline::start("up", &folder.path("up"), &[]);

    let start = Instant::now();
    let node = join(&up, &folder, "n2", &format!("notes={}", notes.url()));
    eventually("notes is routable", PATIENCE, || {
        get(&format!("{}/api/service/notes/hello?x=1", up.http())).ok().filter(|a| a.status == 200)
    });
    let routable = start.elapsed();
    eprintln!("start to routable: {routable:?}");
    assert!(routable < Duration::from_secs(5), "{routable:?}"); // 1 s on a quiet machine; benchmarks measure it
    let node = node.ready();

    let answer = up.get("/api/service/notes/hello?x=1");
    assert_eq!(answer.text(), "notes GET /hello?x=1 ");
    assert_eq!(answer.header("x-paceline-worker"), "n2");
    assert_eq!(answer.header("x-paceline-path"), "direct");
    let worker = up.worker("n2").expect("listed");
    assert_eq!(worker["status"], "healthy", "{worker}");
    assert_eq!(worker["services"].as_array().map(Vec::len), Some(1), "{worker}");

    let start = Instant::now();
    let dir = node.kill();
    up.wait_healthy("notes", 0);
    eprintln!("kill -9 to not healthy: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let gone = up.get("/api/service/notes/hello");
    assert!([502, 503].contains(&gone.status), "{}", gone.text());

    let node = Paceline::start("node", &dir, &["--name", "n2", "--service", &format!("notes={}", notes.url())]);
    up.wait_healthy("notes", 1);
    assert_eq!(up.get("/api/service/notes/again").text(), "notes GET /again ");

    let start = Instant::now();
    assert!(node.terminate().success());
    up.wait_healthy("notes", 0);
    assert!(start.elapsed() < Duration::from_secs(3), "a leave shows at once: {:?}", start.elapsed());
    assert_eq!(up.worker("n2").expect("listed for an hour")["status"], "left");
}

#[test]
fn leave_gives_up_the_membership() {
    let folder = Folder::new();
    let notes = Service::echo("notes");
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let node = join(&up, &folder, "n2", &format!("notes={}", notes.url())).ready();
    up.wait_healthy("notes", 1);
    let dir = node.data_dir.clone();
    let left = run(&["leave", "--data-dir", dir.to_str().expect("UTF-8")]);
    assert_eq!(left.code(), 0, "{}", left.stderr);
    assert!(node.wait().success());
    up.wait_healthy("notes", 0);
    let again = run(&["node", "--data-dir", dir.to_str().expect("UTF-8"), "--mesh", "127.0.0.1:0", "--no-mdns"]);
    assert_eq!(again.code(), 2);
    assert!(again.last_line().contains("--join"), "{}", again.last_line());
}

#[test]
fn two_workers_share_and_one_retry_hides_a_dead_service() {
    let folder = Folder::new();
    let (a, b) = (Service::echo("a"), Service::echo("b"));
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let n1 = join(&up, &folder, "n1", &format!("notes={},health=none", a.url())).ready();
    let n2 = join(&up, &folder, "n2", &format!("notes={},health=none", b.url())).ready();
    up.wait_healthy("notes", 2);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let answer = up.get("/api/service/notes/");
        assert_eq!(answer.status, 200);
        seen.insert(answer.header("x-paceline-worker").to_owned());
    }
    assert_eq!(seen.len(), 2, "both were chosen: {seen:?}");

    drop(b); // the service behind n2 is gone; until the probe sees it, requests to n2 move to n1
    for _ in 0..40 {
        assert_eq!(up.get("/api/service/notes/").status, 200);
    }
    drop((n1, n2));
}

#[test]
fn a_change_of_health_is_told_at_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let folder = Folder::new();
    let sick = Arc::new(AtomicBool::new(false));
    let state = sick.clone();
    let service = Service::raw(move |stream| {
        let mut out = stream.try_clone().expect("clone");
        let mut reader = std::io::BufReader::new(stream);
        while common::service::Head::read(&mut reader).is_some() {
            let status = if state.load(Ordering::SeqCst) { 500 } else { 200 };
            if common::service::answer(&mut out, status, b"{\"version\":\"9.8\"}").is_err() {
                return;
            }
        }
    });
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let _node = join(&up, &folder, "n2", &format!("notes={},health=/ping", service.url())).ready();
    up.wait_healthy("notes", 1);
    let listed = up.get("/api/workers/n2").json();
    assert!(listed.to_string().contains("\"9.8\""), "the version that the service tells: {listed}");
    sick.store(true, Ordering::SeqCst);
    up.wait_healthy("notes", 0);
    sick.store(false, Ordering::SeqCst);
    up.wait_healthy("notes", 1);
}

#[test]
fn commands_print_what_is_there() {
    let folder = Folder::new();
    let docs = folder.with_file("docs", "a.txt", b"a");
    let up = Paceline::start("up", &folder.path("up"), &["--name", "front", "--serve", &format!("files={docs}")]);
    let dir = up.data_dir.to_str().expect("UTF-8").to_owned();
    for command in ["status", "services", "workers"] {
        let text = run(&[command, "--data-dir", &dir]);
        assert_eq!(text.code(), 0, "{command}: {}", text.stderr);
        let json = run(&[command, "--data-dir", &dir, "--json"]);
        let parsed: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert!(parsed.is_object(), "{command}: {}", json.stdout);
    }
    assert!(run(&["services", "--data-dir", &dir]).stdout.contains("files"));
    assert!(run(&["workers", "--gateway", &up.http()]).stdout.contains("front"));

    let created = run(&["token", "create", "--data-dir", &dir, "--ttl", "1h", "--uses", "3"]);
    assert_eq!(created.code(), 0, "{}", created.stderr);
    assert_eq!(created.stdout.trim().lines().count(), 1, "the token alone on stdout");
    let listed = run(&["token", "list", "--data-dir", &dir, "--json"]);
    assert!(listed.stdout.contains("\"uses\""), "{}", listed.stdout);

    let help = run(&["--help"]);
    assert_eq!(help.code(), 0);
    for command in ["up", "node", "gateway", "bootstrap", "token", "status", "services", "workers", "leave"] {
        assert!(help.stdout.contains(command), "{command} in --help");
    }
    let nobody = run(&["status", "--gateway", "http://127.0.0.1:1"]);
    assert_ne!(nobody.code(), 0);
    assert!(nobody.last_line().contains("127.0.0.1:1"), "{}", nobody.last_line());
}

#[test]
fn gateway_and_bootstrap_are_processes_of_their_own() {
    let folder = Folder::new();
    let notes = Service::echo("notes");
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let dir = up.data_dir.to_str().expect("UTF-8").to_owned();
    let token = |role: &str| run(&["token", "create", "--data-dir", &dir, "--role", role]).stdout.trim().to_owned();
    let bootstrap = Paceline::start("bootstrap", &folder.path("boot"), &["--join", &token("bootstrap")]);
    let gateway = Paceline::start("gateway", &folder.path("gw"), &["--join", &token("gateway")]);
    let node = join(&up, &folder, "n2", &format!("notes={}", notes.url())).ready();
    gateway.wait_healthy("notes", 1);
    assert_eq!(gateway.get("/api/service/notes/x").text(), "notes GET /x ");
    for p in [node, gateway, bootstrap, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn errors_are_json_and_name_what_to_do() {
    let folder = Folder::new();
    let docs = folder.with_file("docs", "a.txt", b"a");
    let up = Paceline::start("up", &folder.path("up"), &["--serve", &format!("files={docs}")]);
    let unknown = up.get("/api/service/file/a.txt");
    assert_eq!(unknown.status, 503);
    let body = unknown.json();
    assert_eq!(body["error"], "Service 'file' not available");
    assert_eq!(body["available_services"][0], "files");
    assert!(body["suggestion"].as_str().is_some_and(|s| s.contains("files")), "{body}");
    assert_eq!(body["request_id"], unknown.header("x-request-id"));
    let nowhere = up.get("/nowhere");
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.json()["error"].is_string());
    let bad = up.get("/api/service/Bad_Name/x");
    assert!((400..500).contains(&bad.status) || bad.status == 503, "{}", bad.status);
    assert!(bad.json()["error"].is_string());
}

#[test]
fn a_service_that_misbehaves_is_named_and_the_node_lives() {
    let folder = Folder::new();
    let rubbish = Service::raw(|mut s| {
        use std::io::Write;
        let _ = s.write_all(b"\x00\x01 this is not HTTP\r\n\r\n");
    });
    let early = Service::raw(drop);
    let good = Service::echo("good");
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let token = up.join_token();
    let specs = [
        format!("rubbish={},health=none", rubbish.url()),
        format!("early={},health=none", early.url()),
        format!("good={}", good.url()),
    ];
    let _node = Paceline::start(
        "node",
        &folder.path("n"),
        &["--name", "n", "--join", &token, "--service", &specs[0], "--service", &specs[1], "--service", &specs[2]],
    );
    for service in ["rubbish", "early", "good"] {
        up.wait_healthy(service, 1);
    }
    for service in ["rubbish", "early"] {
        let answer = up.get(&format!("/api/service/{service}/x"));
        assert_eq!(answer.status, 502, "{service}: {}", answer.text());
        let body = answer.json();
        assert_eq!(body["worker"], "n", "{body}");
        assert_eq!(body["hop"], "node-service", "{body}");
        assert!(body["tried"].is_array(), "{body}");
    }
    assert_eq!(up.get("/api/service/good/x").status, 200);
}

#[test]
fn a_health_answer_that_never_ends_is_unhealthy() {
    let folder = Folder::new();
    let endless = Service::raw(|mut s| {
        use std::io::Write;
        let _ = s.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while s.write_all(&chunk).is_ok() {}
    });
    let silent = Service::raw(|s| {
        let _ = common::service::read_to_end(&mut &s);
    });
    let up = Paceline::start(
        "up",
        &folder.path("up"),
        &["--service", &format!("endless={}", endless.url()), "--service", &format!("silent={}", silent.url())],
    );
    eventually("both were probed", PATIENCE, || {
        (endless.connections.load(std::sync::atomic::Ordering::SeqCst) > 1
            && silent.connections.load(std::sync::atomic::Ordering::SeqCst) > 1)
            .then_some(())
    });
    let services = up.get("/api/admin/services").json();
    assert_eq!(services["services"]["silent"]["healthy_workers"], 0, "{services}");
    assert_eq!(up.get("/api/service/silent/x").status, 503);
}
