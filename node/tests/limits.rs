//! Limits on requests at once, as real processes: a short wait, then another machine, and only then 429.

mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{
    Folder, PATIENCE, Paceline, eventually, get,
    service::{Service, answer},
};

/// A service that works on each request until it is told to answer, and counts those that it works on.
struct Slow {
    service: Service,
    working: Arc<AtomicUsize>,
    release: Arc<AtomicUsize>,
}

impl Slow {
    fn start() -> Self {
        let (working, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (at_work, released) = (working.clone(), release.clone());
        let service = Service::http(move |_, _, out| {
            at_work.fetch_add(1, SeqCst);
            eventually("a release", PATIENCE, || {
                released.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok().map(drop)
            });
            at_work.fetch_sub(1, SeqCst);
            answer(out, 200, b"done")
        });
        Self { service, working, release }
    }

    fn wait_working(&self, count: usize) {
        eventually(&format!("{count} at work"), PATIENCE, || (self.working.load(SeqCst) == count).then_some(()));
    }

    fn table(&self, max: u32) -> String {
        format!("[[service]]\nname = \"slow\"\nurl = \"{}\"\nmax_concurrency = {max}\n", self.service.url())
    }
}

fn write(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.path(name);
    fs::write(&path, text).expect("config");
    path.to_str().expect("UTF-8").to_owned()
}

fn call(node: &Paceline) -> std::thread::JoinHandle<(u16, String)> {
    let url = format!("{}/api/service/slow/x", node.http());
    std::thread::spawn(move || {
        let answer = get(&url).expect("an answer");
        (answer.status, answer.header("x-paceline-worker").to_owned())
    })
}

#[test]
fn over_the_limit_another_machine_is_asked_before_the_caller_is_turned_away() {
    let folder = Folder::new();
    let (here, there) = (Slow::start(), Slow::start());
    let (one, two) = (write(&folder, "one.toml", &here.table(1)), write(&folder, "two.toml", &there.table(1)));
    let up = Paceline::start("up", &folder.path("up"), &["--config", &one, "--name", "one"]);
    let token = up.join_token();
    let node = Paceline::start("node", &folder.path("node"), &["--config", &two, "--name", "two", "--join", &token]);
    up.wait_healthy("slow", 2);
    let first = call(&up);
    here.wait_working(1);
    let second = call(&up);
    there.wait_working(1);
    let refused = up.get("/api/service/slow/x");
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "{}", refused.text());
    let body = refused.json();
    assert_eq!(body["tried"].as_array().map(Vec::len), Some(2), "{body}");
    assert!(body["request_id"].is_string() && body["error"].as_str().is_some_and(|e| e.contains("too many")), "{body}");
    here.release.store(1, SeqCst);
    there.release.store(1, SeqCst);
    assert_eq!(first.join().expect("no panic"), (200, "one".to_owned()));
    assert_eq!(second.join().expect("no panic"), (200, "two".to_owned()));
    for (process, name) in [(&up, "one"), (&node, "two")] {
        let metrics = get(&format!("{}/metrics", process.local_http())).expect("metrics").text();
        assert!(metrics.contains("paceline_service_max_concurrency{service=\"slow\"} 1\n"), "{name}: {metrics}");
    }
    // Nobody is held against for it.
    here.release.store(10, SeqCst);
    there.release.store(10, SeqCst);
    for _ in 0..6 {
        assert_eq!(up.get("/api/service/slow/x").status, 200);
    }
}

#[test]
fn a_place_that_comes_free_soon_is_waited_for() {
    let folder = Folder::new();
    let quick = Service::http(|_, _, out| {
        std::thread::sleep(Duration::from_millis(5));
        answer(out, 200, b"done")
    });
    let table = format!("[[service]]\nname = \"slow\"\nurl = \"{}\"\nmax_concurrency = 1\n", quick.url());
    let config = write(&folder, "paceline.toml", &table);
    let up = Paceline::start("up", &folder.path("up"), &["--config", &config]);
    up.wait_healthy("slow", 1);
    // 4 calls take 20 ms of the 100 that each may wait: more only where the machine itself has no time.
    let served = || {
        let calls: Vec<_> = (0..4).map(|_| call(&up)).collect();
        calls.into_iter().map(|call| call.join().expect("no panic").0).filter(|status| *status == 200).count()
    };
    assert!((0..10).any(|_| served() == 4), "all of them get their turn");
}

#[test]
fn the_nodes_limit_holds_for_all_services_and_changes_with_the_file() {
    let folder = Folder::new();
    let slow = Slow::start();
    let files = folder.with_file("files", "a.txt", b"hello");
    let text = |max: &str| {
        let service = format!("[[service]]\nname = \"slow\"\nurl = \"{}\"\n", slow.service.url());
        format!("{service}[[service]]\nname = \"files\"\ndir = \"{files}\"\n{max}")
    };
    let config = write(&folder, "paceline.toml", &text("[limits]\nmax_concurrency = 2\n"));
    let up = Paceline::start("up", &folder.path("up"), &["--config", &config]);
    up.wait_healthy("slow", 1);
    let calls: Vec<_> = (0..2).map(|_| call(&up)).collect();
    slow.wait_working(2);
    assert_eq!(up.get("/api/service/slow/x").status, 429);
    assert_eq!(up.get("/api/service/files/a.txt").status, 429, "another service of the same node");
    fs::write(folder.path("paceline.toml"), text("")).expect("config");
    up.signal("-HUP");
    eventually("the limit is gone", PATIENCE, || (up.get("/api/service/files/a.txt").status == 200).then_some(()));
    slow.release.store(2, SeqCst);
    for call in calls {
        assert_eq!(call.join().expect("no panic").0, 200, "who was there stays");
    }
    assert!(up.terminate().success());
}
