//! Bad input from the user: always a clear word, exit code 2, and nothing changed before it.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::service::Service;
use common::{Ended, Folder, PATIENCE, Paceline, eventually, run};

/// `paceline node` in a fresh data directory with everything on loopback.
fn join(dir: &Path, token: &str, more: &[&str]) -> Ended {
    let dir = dir.to_str().expect("UTF-8");
    let mut args =
        vec!["node", "--data-dir", dir, "--no-mdns", "--no-detect", "--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0"];
    args.extend(["--join", token]);
    args.extend(more);
    run(&args)
}

fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code(), 2, "stderr:\n{}", ended.stderr);
    let last = ended.last_line();
    for w in words {
        assert!(last.contains(w), "`{w}` in the last line: {last}");
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

fn create(up: &Paceline, args: &[&str]) -> String {
    let dir = up.data_dir.to_str().expect("UTF-8").to_owned();
    let mut all = vec!["token", "create", "--data-dir", &dir];
    all.extend(args);
    let made = run(&all);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    made.stdout.trim().to_owned()
}

#[test]
fn tokens_that_do_not_open_the_door() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let good = create(&up, &[]);

    // one character changed, at several places
    for at in [0, 12, good.len() / 2, good.len() - 1] {
        let mut changed: Vec<u8> = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        refused(&join(&folder.path("changed"), &changed, &[]), &["token"]);
    }
    refused(&join(&folder.path("empty"), "", &[]), &["token"]);
    refused(&join(&folder.path("nofile"), "@/nowhere/token", &[]), &["/nowhere/token"]);
    assert!(!folder.path("changed").exists(), "nothing was changed on disk");

    // expired
    let expired = create(&up, &["--ttl", "1s"]);
    let dir = folder.path("expired");
    eventually("the token expires", PATIENCE, || {
        let at_most = join_until_refused(&dir, &expired);
        at_most.stderr.contains("expired").then(|| refused(&at_most, &["expired"]))
    });

    // used up
    let once = create(&up, &["--uses", "1"]);
    let first = Paceline::start("node", &folder.path("first"), &["--name", "first", "--join", &once]);
    refused(&join(&folder.path("second"), &once, &["--name", "second"]), &["used up"]);
    assert!(!folder.path("second").join("identity.key").exists(), "nothing was changed on disk");
    drop(first);

    // lacking the role
    let worker = create(&up, &["--role", "worker"]);
    let dir = folder.path("role");
    let d = dir.to_str().expect("UTF-8");
    let ended = run(&[
        "gateway",
        "--data-dir",
        d,
        "--no-mdns",
        "--http",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--data",
        "127.0.0.1:0",
        "--join",
        &worker,
    ]);
    refused(&ended, &["role", "gateway"]);
    let ended = run(&[
        "up",
        "--data-dir",
        d,
        "--no-mdns",
        "--http",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--data",
        "127.0.0.1:0",
        "--join",
        &worker,
    ]);
    refused(&ended, &["role", "gateway"]);

    // bound to other services
    let bound = create(&up, &["--service", "notes"]);
    refused(&join(&folder.path("bound"), &bound, &["--service", "upload=http://127.0.0.1:1"]), &["upload"]);

    // the cluster is as it was
    assert_eq!(up.get("/health").json()["status"], "healthy");
}

/// Joins with a token that may still be good: a process that gets in is ended again.
fn join_until_refused(dir: &Path, token: &str) -> Ended {
    let _ = std::fs::remove_dir_all(dir);
    let d = dir.to_str().expect("UTF-8").to_owned();
    let child = Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args([
            "node",
            "--data-dir",
            &d,
            "--no-mdns",
            "--mesh",
            "127.0.0.1:0",
            "--data",
            "127.0.0.1:0",
            "--join",
            token,
        ])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("paceline starts");
    let id = child.id().to_string();
    let ready = dir.join("runtime.json");
    let watcher = std::thread::spawn(move || {
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if ready.exists() {
                let _ = Command::new("kill").arg(&id).status();
                return;
            }
            if !Path::new(&format!("/proc/{id}/fd")).exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = Command::new("kill").args(["-9", &id]).status();
    });
    let output = child.wait_with_output().expect("ends");
    let _ = watcher.join();
    Ended { status: output.status, stdout: String::new(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

#[test]
fn a_token_of_another_cluster() {
    let folder = Folder::new();
    let ours = Paceline::start("up", &folder.path("ours"), &[]);
    let theirs = Paceline::start("up", &folder.path("theirs"), &[]);
    let token = create(&theirs, &[]);

    // their token, our address: with their cluster gone, only ours answers
    let entry = ours.runtime["mesh"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter_map(|a| a.as_str())
        .find(|a| a.contains("/tcp/"))
        .expect("a TCP address")
        .to_owned();
    let dir = theirs.kill();
    refused(&join(&folder.path("mixed"), &token, &["--entry", &entry]), &["another cluster"]);
    assert!(!folder.path("mixed").join("identity.key").exists());

    // a data directory of another cluster
    let theirs = Paceline::start("up", &dir, &[]);
    let node = Paceline::start("node", &folder.path("n"), &["--join", &create(&ours, &[])]);
    let data = node.data_dir.clone();
    assert!(node.terminate().success());
    let before = std::fs::read(data.join("identity.key")).expect("key");
    refused(&join(&data, &create(&theirs, &[]), &[]), &["cluster"]);
    assert_eq!(before, std::fs::read(data.join("identity.key")).expect("key"), "untouched");
    assert_eq!(ours.get("/health").json()["status"], "healthy");
}

#[test]
fn ports_that_are_taken() {
    let folder = Folder::new();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = tcp.local_addr().expect("address").to_string();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let taken_udp = udp.local_addr().expect("address").to_string();
    let free = "127.0.0.1:0";
    for (flag, address, http, mesh, data) in [
        ("--http", &taken, taken.as_str(), free, free),
        ("--mesh", &taken, free, taken.as_str(), free),
        ("--mesh", &taken_udp, free, taken_udp.as_str(), free),
        ("--data", &taken_udp, free, free, taken_udp.as_str()),
    ] {
        let dir = folder.path("up");
        let d = dir.to_str().expect("UTF-8");
        let ended = run(&["up", "--data-dir", d, "--no-mdns", "--http", http, "--mesh", mesh, "--data", data]);
        refused(&ended, &[flag, address]);
        assert!(!dir.join("identity.key").exists(), "{flag}: nothing was changed on disk");
    }

    // two gateways on one port: SO_REUSEPORT must not let them share it
    let up = Paceline::start("up", &folder.path("first"), &[]);
    let http = up.runtime["http"].as_str().expect("address").to_owned();
    let d = folder.path("second");
    let ended = run(&[
        "up",
        "--data-dir",
        d.to_str().expect("UTF-8"),
        "--no-mdns",
        "--http",
        &http,
        "--mesh",
        free,
        "--data",
        free,
    ]);
    refused(&ended, &["--http", &http]);
}

#[test]
fn data_directories_that_cannot_be_used() {
    let folder = Folder::new();
    // a file where the directory should be
    let file = folder.path("file");
    std::fs::write(&file, b"x").expect("file");
    let free = ["--no-mdns", "--http", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0"];
    let up = |dir: &Path| {
        let mut args = vec!["up", "--data-dir", dir.to_str().expect("UTF-8")];
        args.extend(free);
        run(&args)
    };
    refused(&up(&file), &[file.to_str().expect("UTF-8")]);
    refused(&up(Path::new("/proc/paceline")), &["/proc/paceline"]);

    // in use
    let running = Paceline::start("up", &folder.path("up"), &[]);
    refused(&up(&running.data_dir), &["in use"]);

    // a damaged key
    let dir = running.data_dir.clone();
    assert!(running.terminate().success());
    std::fs::write(dir.join("identity.key"), b"damaged").expect("write");
    refused(&up(&dir), &["identity.key"]);

    // no token and nothing to resume
    let fresh = folder.path("fresh");
    let ended = run(&["node", "--data-dir", fresh.to_str().expect("UTF-8"), "--no-mdns", "--mesh", "127.0.0.1:0"]);
    refused(&ended, &["--join"]);
    assert!(!fresh.join("identity.key").exists());

    // not writable (root may write everywhere, so this needs another user)
    if Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout != b"0\n") {
        let locked = folder.path("locked");
        std::fs::create_dir(&locked).expect("folder");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).expect("mode");
        refused(&up(&locked.join("inner")), &["locked"]);
    }
}

#[test]
fn a_cloned_data_directory_ends_the_later_one() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let token = up.join_token();
    let node = Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &token]);
    eventually("n is a member", PATIENCE, || up.worker("n").filter(|w| w["status"] == "healthy"));
    let copy = folder.path("copy");
    let copied = Command::new("cp").arg("-a").arg(&node.data_dir).arg(&copy).status().expect("cp");
    assert!(copied.success());
    let _ = std::fs::remove_file(copy.join("runtime.json"));
    let later = Paceline::spawn("node", &copy, &["--name", "n"]).expect_error("clone");
    let pid = node.pid();
    later.wait_log("clone");
    assert_eq!(later.wait().code(), Some(2));
    assert_eq!(node.pid(), pid);
    eventually("the first one goes on", PATIENCE, || up.worker("n").filter(|w| w["status"] == "healthy"));
    assert!(node.terminate().success(), "the first one was not ended");
}

#[test]
fn words_that_are_wrong_on_the_command_line() {
    let folder = Folder::new();
    let dir = folder.path("up");
    let d = dir.to_str().expect("UTF-8");
    let many: Vec<String> = (0..65).map(|i| format!("s{i}=http://127.0.0.1:1")).collect();
    let mut too_many = Vec::new();
    for s in &many {
        too_many.extend(["--service", s]);
    }
    let long: Vec<String> =
        (10..70).map(|i| format!("s{i}{:060}=http://h{i}{:050}.{:060}.example:1", 0, 0, 0)).collect();
    let mut too_long = Vec::new();
    for s in &long {
        too_long.extend(["--service", s]);
    }
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["--service", "Bad Name=http://127.0.0.1:1"], "Bad Name"),
        (vec!["--service", "notes"], "notes"),
        (vec!["--service", "notes=ftp://127.0.0.1:1"], "ftp"),
        (vec!["--service", "notes=http://127.0.0.1:1", "--service", "notes=http://127.0.0.1:2"], "notes"),
        (vec!["--serve", "files=/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["--name", "../x"], "../x"),
        (vec!["--site", "a b"], "a b"),
        (vec!["--http", "somewhere"], "somewhere"),
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["--entry", "nonsense"], "nonsense"),
        (vec!["--label", "novalue"], "novalue"),
        (vec!["--http", "0.0.0.0:0"], "--insecure-no-auth"),
        (too_many, "64"),
        (too_long, "bytes"),
    ];
    for (more, words) in cases {
        let mut args = vec!["up", "--data-dir", d, "--no-mdns", "--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0"];
        if !more.contains(&"--http") {
            args.extend(["--http", "127.0.0.1:0"]);
        }
        args.extend(&more);
        let ended = run(&args);
        assert_eq!(ended.code(), 2, "{more:?}:\n{}", ended.stderr);
        assert!(ended.stderr.contains(words), "`{words}` for {more:?}: {}", ended.stderr);
        assert!(!dir.join("identity.key").exists(), "{more:?}: nothing was changed on disk");
    }
}

#[test]
fn a_name_that_is_taken() {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let token = up.join_token();
    let service = Service::echo("a");
    let first = Paceline::start(
        "node",
        &folder.path("a"),
        &["--name", "box", "--join", &token, "--service", &format!("a={}", service.url())],
    );
    up.wait_healthy("a", 1);
    refused(&join(&folder.path("b"), &token, &["--name", "box"]), &["box"]);
    drop(first);
}
