//! What a gateway says of the machines behind it: asked of each when somebody wants to know, and never waited for.

mod common;

use std::time::{Duration, Instant};

use common::{Folder, PATIENCE, Paceline, eventually, get};
use serde_json::{Value, json};

/// The answer's own bound is 500 ms; the rest is for a loaded machine. Without it, a hung node takes 3 s and more.
const ANSWER_MAX: Duration = Duration::from_millis(1500);

fn timed(up: &Paceline, path: &str) -> (Value, Duration) {
    let begun = Instant::now();
    let answer = up.get(path).json();
    (answer, begun.elapsed())
}

fn hardware<'a>(list: &'a Value, name: &str) -> &'a Value {
    let workers = list["workers"].as_array().expect("workers");
    workers.iter().find(|worker| worker["id"] == name).map_or(&Value::Null, |worker| &worker["hardware"])
}

#[test]
fn machines_tell_their_hardware_and_a_dark_one_delays_nobody() {
    let folder = Folder::new();
    let content = folder.path("content");
    std::fs::create_dir_all(&content).expect("directory");
    let serve = format!("files={}", content.display());
    let up = Paceline::start("up", &folder.path("up"), &["--name", "local", "--serve", &serve]);
    let token = up.join_token();
    let join =
        |name| Paceline::start("node", &folder.path(name), &["--name", name, "--join", &token, "--serve", &serve]);
    let (bright, dark) = (join("bright"), join("dark"));
    up.wait_healthy("files", 3);
    // Nobody has asked it anything yet.
    dark.signal("-STOP");
    let (first, took) = timed(&up, "/api/admin/workers");
    assert!(took < ANSWER_MAX, "{took:?}");
    let (second, took) = timed(&up, "/api/workers");
    assert!(took < ANSWER_MAX, "{took:?}");
    let (one, took) = timed(&up, "/api/workers/dark");
    assert!(took < ANSWER_MAX, "{took:?}");
    dark.signal("-CONT");
    for list in [&first, &second] {
        assert_eq!(list["total"], 3);
        assert_eq!(hardware(list, "dark"), &json!({}), "{list}");
    }
    assert_eq!(one["hardware"], json!({}));
    let list = eventually("both others tell", PATIENCE, || {
        let list = up.get("/api/admin/workers").json();
        ["local", "bright"].iter().all(|name| hardware(&list, name)["cpu"]["cores"].is_u64()).then_some(list)
    });
    let own = get(&format!("{}/hardware", bright.local_http())).expect("GET /hardware").json();
    let told = hardware(&list, "bright");
    for (a, b) in
        [(&told["cpu"]["model"], &own["cpu"]["model"]), (&told["memory"]["total_bytes"], &own["memory"]["total_bytes"])]
    {
        assert_eq!(a, b, "what it says itself");
    }
    let one = up.get("/api/workers/bright").json();
    assert_eq!((&one["hardware"]["cpu"]["model"], one["capabilities"].is_object()), (&own["cpu"]["model"], true));
    // No caller gets there: the question's header is a gateway's own.
    let url = format!("{}/api/service/paceline-node/", up.http());
    let answer = common::get_with(&url, &[("x-paceline-ask", "hardware")]).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
}
