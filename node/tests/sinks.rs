//! Where the summary is stored, with real processes and a small HTTP store: at the leader's word alone, by members that
//! hold the credential alone, within the budget, and by another one where the writer dies.

mod common;

use std::{
    fs,
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Folder, Paceline, eventually, service::Service};
use serde_json::Value;

/// From a death to the write that tells of it: detection, the gap between two writes, and a loaded machine.
const WRITE_MAX: Duration = Duration::from_secs(40);
/// Most writes of a day.
const BUDGET: usize = 30;

/// What the store was asked.
#[derive(Default)]
struct Seen {
    value: Option<Vec<u8>>,
    /// Credential and value of each write that it took.
    writes: Vec<(String, Value)>,
    /// Requests whose credential is not one of those below.
    strangers: Vec<String>,
}

/// A key-value store with ETags and conditions, which takes the bearers `one` and `two`.
fn store() -> (Service, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = seen.clone();
    let service = Service::http(move |head, body, out| {
        let mut seen = shared.lock().expect("no panic");
        let tag = format!("\"{}\"", seen.writes.len());
        let (status, body) = match (head.header("authorization"), head.method.as_str()) {
            (bearer, method) if !["Bearer one", "Bearer two"].contains(&bearer) => {
                seen.strangers.push(format!("{method} {bearer:?}"));
                (401, Vec::new())
            }
            (_, "GET") => seen.value.clone().map_or((404, Vec::new()), |value| (200, value)),
            (bearer, _) => {
                let fits = match (head.header("if-match"), head.header("if-none-match")) {
                    ("", "*") => seen.value.is_none(),
                    (wanted, _) => wanted == tag,
                };
                if fits {
                    let value = serde_json::from_slice(&body).expect("a summary");
                    seen.writes.push((bearer.to_owned(), value));
                    seen.value = Some(body);
                }
                (if fits { 204 } else { 412 }, Vec::new())
            }
        };
        write!(out, "HTTP/1.1 {status} X\r\netag: {tag}\r\ncontent-length: {}\r\n\r\n", body.len())?;
        out.write_all(&body)
    });
    (service, seen)
}

fn status<'a>(summary: &'a Value, member: &str) -> &'a Value {
    let members = summary["members"].as_array().expect("members");
    members.iter().find(|row| row["id"] == member).map_or(&Value::Null, |row| &row["status"])
}

#[test]
fn the_summary_is_written_at_the_leaders_word_by_those_that_hold_the_credential() {
    let folder = Folder::new();
    let (store, seen) = store();
    let url = format!("{}/values/paceline", store.url());
    let fast = ["--heartbeat", "1s"];
    let founder = Paceline::start("up", &folder.path("founder"), &[&fast[..], &["--name", "founder"]].concat());
    let join = founder.join_token();
    let content = folder.path("content");
    fs::create_dir_all(&content).expect("directory");
    let serve = format!("files={}", content.display());
    let member = |name: &str, sinks: bool| {
        let (token, file) = (folder.path(&format!("{name}.token")), folder.path(&format!("{name}.json")));
        fs::write(&token, format!("{name}\n")).expect("token");
        let (token, file) = (token.display().to_string(), file.display().to_string());
        let mut args = [&fast[..], &["--name", name, "--join", &join, "--serve", &serve]].concat();
        if sinks {
            args.extend(["--sink-url", &url, "--sink-token-file", &token, "--sink-file", &file]);
        }
        Paceline::start("node", &folder.path(name), &args)
    };
    let mut holders = vec![("one", member("one", true)), ("two", member("two", true))];
    let plain = member("plain", false);
    founder.wait_healthy("files", 3);

    let last = || seen.lock().expect("no panic").writes.last().cloned();
    let (writer, _) = eventually("a summary with everybody is stored", WRITE_MAX, || {
        last().filter(|(_, value)| ["founder", "one", "two", "plain"].iter().all(|m| status(value, m) == "alive"))
    });
    let writer = writer.strip_prefix("Bearer ").expect("a bearer").to_owned();
    let at = holders.iter().position(|(name, _)| *name == writer).expect("one of the two");
    let (dead, process) = holders.remove(at);
    process.kill();
    let (other, value) =
        eventually("the death is stored", WRITE_MAX, || last().filter(|(_, value)| status(value, dead) == "dead"));
    let (name, left) = &holders[0];
    assert_eq!(other, format!("Bearer {name}"), "the one that is left");
    assert!(["death", "leader"].contains(&value["reason"].as_str().expect("a reason")), "{value}");
    let file = eventually("its file says the same", WRITE_MAX, || {
        let file: Value = serde_json::from_slice(&fs::read(folder.path(&format!("{name}.json"))).ok()?).ok()?;
        (file["seq"] == value["seq"]).then_some(file)
    });
    assert_eq!((&file["members"], &file["cluster_id"]), (&value["members"], &value["cluster_id"]));

    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.strangers, [] as [String; 0], "nobody writes without the credential");
    assert!(seen.writes.len() <= BUDGET, "{} writes", seen.writes.len());
    for pair in seen.writes.windows(2) {
        let number = |v: &Value, key: &str| v[key].as_u64().expect("a number");
        let place = |v: &Value| (number(v, "term"), number(v, "takeovers"), number(v, "seq"));
        let [(_, a), (_, b)] = pair else { panic!("two") };
        assert!(place(a) < place(b), "the store never goes back: {a} then {b}");
        assert!(number(a, "writes_today") < number(b, "writes_today") || number(b, "writes_today") == 1, "{a} {b}");
    }
    let counted = seen.writes.len() as u64;
    drop(seen);
    let told = founder.get("/api/admin/cluster").json()["writes_today"].as_u64().expect("a number");
    assert!(told >= counted.min(2), "the cluster knows what was written: {told} of {counted}");
    for node in [&plain, left, &founder] {
        assert!(!node.log().contains("ERROR"), "{}", node.log());
    }
}
