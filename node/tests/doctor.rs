//! `paceline doctor` against real processes, well and unwell.

mod common;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::network::in_own_network;
use common::{Ended, Folder, PATIENCE, Paceline, available, eventually, run};
use serde_json::Value;

fn doctor(data_dir: &Path, more: &[&str]) -> (Ended, Value) {
    let mut args = vec!["doctor", "--json", "--data-dir", data_dir.to_str().expect("UTF-8")];
    args.extend(more);
    let ended = run(&args);
    let said = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended, said)
}

/// State and words of all checks of that name.
fn checks(said: &Value, name: &str) -> Vec<(String, String)> {
    let all = said["checks"].as_array().expect("checks");
    let words = |c: &Value| (c["state"].as_str().unwrap_or("").to_owned(), format!("{} {}", c["found"], c["do"]));
    all.iter().filter(|c| c["check"] == name).map(words).collect()
}

fn has(said: &Value, name: &str, state: &str, words: &str) -> bool {
    checks(said, name).iter().any(|(s, w)| s == state && w.contains(words))
}

#[test]
fn the_doctor_needs_no_running_process() {
    let folder = Folder::new();
    let data = folder.path("fresh");
    let (ended, said) = doctor(&data, &[]);
    assert!(has(&said, "process", "note", "no Paceline process runs here"), "{said:#}");
    assert!(has(&said, "data", "fine", "would be made"), "{said:#}");
    assert!(has(&said, "udp", "fine", "datagrams pass"), "{said:#}");
    for check in ["ports", "clock", "machine", "gpu", "services", "files"] {
        assert!(!checks(&said, check).is_empty(), "{check}: {said:#}");
    }
    let attention = said["checks"].as_array().expect("checks").iter().any(|c| c["state"] == "attention");
    assert_eq!(ended.code(), i32::from(attention), "{said:#}");
    assert_eq!(said["state"] == "attention", attention);
    assert!(!data.exists(), "it makes nothing");
    let usage = run(&["doctor", "--nonsense"]);
    assert_eq!(usage.code(), 2);
    assert!(usage.last_line().contains("--nonsense"), "{usage:?}");
    let people = run(&["doctor", "--data-dir", data.to_str().expect("UTF-8")]);
    assert!(people.stdout.contains("fine       data"), "{}", people.stdout);
}

#[test]
fn the_doctor_asks_running_processes() {
    in_own_network("the_doctor_asks_running_processes", "", || {
        let folder = Folder::new();
        let up = Paceline::start("up", &folder.path("up"), &["--http", "127.0.0.1:8080"]);
        let node = Paceline::start("node", &folder.path("node"), &["--name", "second", "--join", &up.join_token()]);
        eventually("both members see each other", PATIENCE, || {
            (up.get("/api/admin/cluster").json()["healthy"] == 2).then_some(())
        });
        let (ended, said) = doctor(&folder.path("up"), &["--gateway", &up.http()]);
        assert_eq!(ended.code(), 0, "{said:#}");
        assert!(has(&said, "process", "fine", "(up, pid"), "{said:#}");
        assert!(has(&said, "ports", "fine", "8080 TCP (gateway) is used by `"), "{said:#}");
        assert!(has(&said, "ports", "fine", "are free"), "{said:#}");
        assert!(has(&said, "udp", "fine", "other members answer over UDP"), "{said:#}");
        assert!(has(&said, "clock", "fine", "within 5 s"), "{said:#}");
        assert!(has(&said, "certificate", "fine", "more"), "{said:#}");
        assert!(has(&said, "token", "fine", "good for"), "{said:#}");
        assert_eq!(checks(&said, "reachable").len(), 1, "{said:#}");

        if available("nft", &["--version"]) {
            let rules = "table inet t { chain c { type filter hook input priority 0; meta l4proto udp drop\n}\n}\n";
            let file = folder.path("rules");
            std::fs::write(&file, rules).expect("rules");
            let set = Command::new("nft").arg("-f").arg(&file).status().expect("nft");
            assert!(set.success());
            let (ended, said) = doctor(&folder.path("up"), &[]);
            assert_eq!(ended.code(), 1, "{said:#}");
            assert!(has(&said, "udp", "attention", "does not arrive"), "{said:#}");
            assert!(has(&said, "udp", "attention", "over TCP, but not over UDP"), "{said:#}");
        }
        drop((up, node));
    });
}

#[test]
fn the_doctor_sees_what_is_wrong() {
    let folder = Folder::new();
    let data = folder.path("up");
    let up = Paceline::start("up", &data, &[]);
    let key = data.join("admin.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("mode");
    std::fs::write(data.join("join-token"), "rubbish").expect("token");
    let (ended, said) = doctor(&data, &[]);
    assert_eq!(ended.code(), 1);
    assert!(has(&said, "data", "attention", "chmod 600"), "{said:#}");
    assert!(has(&said, "token", "attention", "holds no join token"), "{said:#}");
    let _ = up.kill();
    std::fs::write(data.join("time"), "4000000000").expect("time");
    let (ended, said) = doctor(&data, &[]);
    assert_eq!(ended.code(), 1);
    assert!(has(&said, "process", "attention", "does not answer"), "{said:#}");
    assert!(has(&said, "clock", "attention", "behind"), "{said:#}");
    assert!(has(&said, "certificate", "fine", "good for"), "{said:#}");
}

#[test]
fn the_doctor_names_who_has_a_port_and_what_answers_unclaimed() {
    in_own_network("the_doctor_names_who_has_a_port_and_what_answers_unclaimed", "", || {
        let folder = Folder::new();
        let _gateway = TcpListener::bind("127.0.0.1:8080").expect("bind");
        let stranger = common::service::Service::raw_at("127.0.0.1:8000".parse().expect("address"), |mut stream| {
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let _ = common::service::answer(&mut stream, 404, b"{}");
        });
        let (_, said) = doctor(&folder.path("fresh"), &[]);
        let pid = format!("(pid {})", std::process::id());
        assert!(has(&said, "ports", "note", &pid), "{said:#}");
        assert!(has(&said, "services", "note", "something answers on 8000, not taken for vllm"), "{said:#}");
        drop(stranger);
    });
}
