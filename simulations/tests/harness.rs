//! The benchmark itself, as a program: the row without any proxy, for a moment.

use std::process::Command;

fn bench(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_paceline-simulations")).arg("bench").args(arguments).output();
    let output = output.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_load_runs_straight_to_the_origin_without_errors() {
    let folder = tempfile::tempdir().expect("folder");
    let json = folder.path().join("figures.json");
    let json_text = json.to_str().expect("UTF-8");
    let (ok, out, err) = bench(&["--rows", "direct", "--rounds", "1", "--secs", "0.1", "--json", json_text]);
    assert!(ok, "{err}");
    assert!(out.contains("### GET 1 KiB, keep-alive, 32 connections"), "{out}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).expect("file")).expect("JSON");
    for (load, figure) in [
        ("get-1k-1", "p99_us"),
        ("get-1k-256", "req_s"),
        ("get-64m-4", "mb_s"),
        ("post-64m-1", "mb_s"),
        ("sse-32", "delay_p50_us"),
        ("connect-16", "req_s"),
    ] {
        let run = &figures["results"][load]["direct"][0];
        assert!(run[figure].as_f64().is_some_and(|value| value > 0.0), "{load}: {run}\n{err}");
        assert_eq!(run["errors"].as_f64(), Some(0.0), "{load}: {err}");
    }
}

#[test]
fn what_cannot_be_run_is_said() {
    let (ok, _, err) = bench(&["--only", "nonsense", "--rows", "direct"]);
    assert!(!ok && err.contains("no workload begins with `nonsense`; there are get-1k-1"), "{err}");
    let (ok, _, err) = bench(&["--rows", "paceline", "--paceline", "/nowhere/paceline"]);
    assert!(!ok && err.contains("/nowhere/paceline is not there: build it"), "{err}");
}
