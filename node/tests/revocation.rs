//! Who is thrown out stays out: under the same key, with the same token, and wherever the news had not come yet.

mod common;

use std::time::{Duration, Instant};

use common::service::Service;
use common::{Folder, PATIENCE, Paceline, eventually, get, run};
use serde_json::Value;

/// The bound of the design, for the whole cluster and both planes.
const SPREAD: Duration = Duration::from_secs(2);

fn data_dir(of: &Paceline) -> &str {
    of.data_dir.to_str().expect("UTF-8")
}

/// Runs a command against a gateway, which must do it; its answer.
fn administer(gateway: &Paceline, args: &[&str]) -> Value {
    let done = run(&[args, &["--data-dir", data_dir(gateway), "--json"]].concat());
    assert_eq!(done.code(), 0, "{args:?}: {}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout))
}

/// How many members a node sees, by its local API.
fn members(node: &Paceline) -> u64 {
    let answer = get(&format!("{}/cluster", node.local_http())).expect("answer").json();
    answer["members"].as_u64().unwrap_or_default()
}

fn node(gateway: &Paceline, folder: &Folder, name: &str, service: &Service) -> Paceline {
    let service = format!("{name}={}", service.url());
    Paceline::start(
        "node",
        &folder.path(name),
        &["--name", name, "--join", &gateway.join_token(), "--service", &service],
    )
}

fn token_text(gateway: &Paceline) -> String {
    std::fs::read_to_string(&gateway.join_token()[1..]).expect("token")
}

#[test]
fn whoever_is_revoked_is_out_on_both_planes_and_does_not_come_back() {
    let folder = Folder::new();
    let (bad, good) = (Service::echo("bad"), Service::echo("good"));
    let up = Paceline::start("up", &folder.path("up"), &["--name", "up"]);
    let thrown = node(&up, &folder, "bad", &bad).expect_error("cannot go on");
    let stays = node(&up, &folder, "good", &good);
    up.wait_healthy("bad", 1);
    up.wait_healthy("good", 1);
    eventually("the node sees all", PATIENCE, || (members(&stays) == 3).then_some(()));
    assert_eq!(up.get("/api/service/bad/x").status, 200, "the data plane is up");
    let old_token = token_text(&up);

    let start = Instant::now();
    let answer = administer(&up, &["revoke", "bad"]);
    assert_eq!((&answer["worker"], answer["tokens"].as_array().map(Vec::len)), (&Value::from("bad"), Some(1)));
    eventually("the gateway has forgotten it", SPREAD, || up.worker("bad").is_none().then_some(()));
    eventually("the other node has forgotten it", SPREAD, || (members(&stays) == 2).then_some(()));
    assert!(start.elapsed() < SPREAD + Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(up.get("/api/service/bad/x").status, 503);
    up.wait_log("closing the data connections of a member");
    let ended = thrown.ended();
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    assert!(ended.last_line().contains("this worker's key is revoked"), "{}", ended.last_line());

    // It knows by itself.
    let again = Paceline::spawn("node", &folder.path("bad"), &["--name", "bad"]).ended();
    assert_eq!(again.code(), 2);
    assert!(again.last_line().contains("this worker's key is revoked"), "{}", again.last_line());
    // A copy of its disk that knows nothing is told at the door, and is told why.
    std::fs::remove_file(folder.path("bad").join("revoked")).expect("there");
    let again = Paceline::spawn("node", &folder.path("bad"), &["--name", "bad"]).expect_error("cannot go on").ended();
    assert_eq!(again.code(), 2);
    assert!(again.last_line().contains("this worker's key is revoked"), "{}", again.last_line());
    // A new key does not help: its token is gone too.
    let again = Paceline::spawn("node", &folder.path("new"), &["--name", "new", "--join", old_token.trim()]).ended();
    assert_eq!(again.code(), 2);
    assert!(again.last_line().contains("is revoked"), "{}", again.last_line());

    // Others are let in, by the token that took its place.
    eventually("another join token", PATIENCE, || (token_text(&up) != old_token).then_some(()));
    let late = Service::echo("late");
    let newcomer = node(&up, &folder, "late", &late);
    up.wait_healthy("late", 1);
    assert_eq!(up.get("/api/service/good/x").status, 200);
    for p in [newcomer, stays, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn whoever_was_away_learns_of_it_first() {
    let folder = Folder::new();
    let (bad, good) = (Service::echo("bad"), Service::echo("good"));
    let up = Paceline::start("up", &folder.path("up"), &["--name", "up"]);
    let thrown = node(&up, &folder, "bad", &bad);
    let stays = node(&up, &folder, "good", &good);
    up.wait_healthy("bad", 1);
    up.wait_healthy("good", 1);
    let (thrown, stays) = (thrown.kill(), stays.kill());

    // One that is away is revoked by its name.
    administer(&up, &["revoke", "bad"]);
    eventually("the gateway has forgotten it", SPREAD, || up.worker("bad").is_none().then_some(()));
    let back = Paceline::spawn("node", &thrown, &["--name", "bad"]).expect_error("cannot go on").ended();
    assert_eq!(back.code(), 2, "{}", back.stderr);
    assert!(back.last_line().contains("this worker's key is revoked"), "{}", back.last_line());

    // The one that was away and comes back knows it as soon as it has its first connection, on disk.
    let stays = Paceline::start("node", &stays, &["--name", "good"]);
    let list = std::fs::read(folder.path("up").join("revoked")).expect("the gateway's list");
    eventually("the list on disk", PATIENCE, || {
        (std::fs::read(folder.path("good").join("revoked")).ok()? == list).then_some(())
    });
    eventually("both see each other", PATIENCE, || (members(&stays) == 2).then_some(()));
    for p in [stays, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn a_revoked_token_lets_nobody_in_and_throws_nobody_out() {
    let folder = Folder::new();
    let good = Service::echo("good");
    let up = Paceline::start("up", &folder.path("up"), &["--name", "up"]);
    let token = administer(&up, &["token", "create", "--service", "good"]);
    let (id, text) = (token["id"].as_str().expect("an id"), token["token"].as_str().expect("a token"));
    let service = format!("good={}", good.url());
    let member =
        Paceline::start("node", &folder.path("good"), &["--name", "good", "--join", text, "--service", &service]);
    up.wait_healthy("good", 1);
    administer(&up, &["token", "revoke", id]);
    let listed = administer(&up, &["token", "list"]);
    let state = |id: &str| listed["tokens"].as_array()?.iter().find(|t| t["id"] == id)?["state"].as_str();
    assert_eq!(state(id), Some("revoked"), "{listed}");

    let late = Paceline::spawn("node", &folder.path("late"), &["--name", "late", "--join", text]).ended();
    assert_eq!(late.code(), 2);
    assert!(late.last_line().contains(&format!("join token {id} is revoked")), "{}", late.last_line());
    assert!(!folder.path("late").exists(), "nothing is left of it");
    // The member stays, also over a restart.
    assert_eq!(up.get("/api/service/good/x").status, 200);
    assert!(member.terminate().success());
    let member = Paceline::start("node", &folder.path("good"), &["--name", "good", "--service", &service]);
    up.wait_healthy("good", 1);
    for p in [member, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn no_role_is_taken_that_was_not_given() {
    let folder = Folder::new();
    let (good, hijack) = (Service::echo("good"), Service::echo("hijack"));
    let up = Paceline::start("up", &folder.path("up"), &["--name", "up"]);
    // A worker's token makes no gateway, and no issuer.
    let gateway = Paceline::spawn("gateway", &folder.path("g"), &["--join", &up.join_token()]).ended();
    assert_eq!(gateway.code(), 2);
    assert!(gateway.last_line().contains("does not grant the role gateway"), "{}", gateway.last_line());
    // A token for one service lets its holder offer no other.
    let bound = administer(&up, &["token", "create", "--service", "mine"]);
    let other = format!("good={}", hijack.url());
    let text = bound["token"].as_str().expect("a token");
    let intruder = Paceline::spawn("node", &folder.path("m"), &["--name", "m", "--join", text, "--service", &other]);
    let honest = node(&up, &folder, "good", &good);
    up.wait_healthy("good", 1);
    for _ in 0..20 {
        assert_eq!(up.get("/api/service/good/x").text(), "good GET /x ");
    }
    drop(intruder);
    // A gateway that is not an issuer says who is.
    let token = administer(&up, &["token", "create", "--role", "gateway"]);
    let text = token["token"].as_str().expect("a token");
    let second = Paceline::start("gateway", &folder.path("g2"), &["--name", "g2", "--join", text]);
    eventually("it sees all", PATIENCE, || second.worker("good").map(drop));
    let refused = run(&["revoke", "good", "--data-dir", data_dir(&second)]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.last_line().contains("not an issuer: ask up"), "{}", refused.last_line());
    let refused = run(&["revoke", "nobody", "--data-dir", data_dir(&up)]);
    assert!(refused.code() == 2 && refused.last_line().contains("`nobody`"), "{}", refused.last_line());
    for p in [second, honest, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn a_service_answers_the_gateways_that_it_is_for() {
    let folder = Folder::new();
    let notes = Service::echo("notes");
    let up = Paceline::start("up", &folder.path("up"), &["--name", "up"]);
    let token = administer(&up, &["token", "create", "--role", "gateway"]);
    let text = token["token"].as_str().expect("a token");
    let other = Paceline::start("gateway", &folder.path("g"), &["--name", "g", "--join", text]);
    let file = folder.path("node.toml");
    let table = format!("[[service]]\nname = \"notes\"\nurl = \"{}\"\nallow = [\"gateway:up\"]\n", notes.url());
    std::fs::write(&file, &table).expect("written");
    let config = file.to_str().expect("UTF-8");
    let node =
        Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &up.join_token(), "--config", config]);
    up.wait_healthy("notes", 1);
    other.wait_healthy("notes", 1);
    assert_eq!(up.get("/api/service/notes/x").text(), "notes GET /x ");
    let refused = other.get("/api/service/notes/x");
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.json()["error"].as_str().is_some_and(|e| e.contains("'notes'")), "{}", refused.text());
    // Taken over while it runs.
    std::fs::write(&file, table.replace("gateway:up", "gateway:g")).expect("written");
    eventually("the other way round", PATIENCE, || (other.get("/api/service/notes/x").status == 200).then_some(()));
    assert_eq!(up.get("/api/service/notes/x").status, 403);
    for p in [node, other, up] {
        assert!(p.terminate().success());
    }
}
