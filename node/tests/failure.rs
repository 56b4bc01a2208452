//! Workers that are killed, hang, are slow or cannot take more, under load, as real processes.

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{
    Folder, PATIENCE, Paceline, eventually, get,
    service::{Head, Service, answer},
};

/// Client connections that work at once.
const CONNECTIONS: usize = 64;

/// A gateway, and two nodes that offer `service` as `s`.
struct Trio {
    up: Paceline,
    one: Paceline,
    two: Paceline,
    _folder: Folder,
}

fn trio(service: &Service) -> Trio {
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let node = |name: &str| {
        let offer = format!("s={},health=none", service.url());
        let token = up.join_token();
        Paceline::start("node", &folder.path(name), &["--name", name, "--join", &token, "--service", &offer])
    };
    let (one, two) = (node("one"), node("two"));
    up.wait_healthy("s", 2);
    Trio { up, one, two, _folder: folder }
}

/// What a client connection has seen.
#[derive(Default)]
struct Seen {
    good: usize,
    bad: Vec<String>,
    slowest: Duration,
    workers: std::collections::BTreeMap<String, usize>,
}

/// Clients that each send one GET after another on one connection, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    fn start(up: &Paceline) -> Self {
        let address = up.runtime["http"].as_str().expect("http").to_owned();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (address, stop, answered) = (address.clone(), stop.clone(), answered.clone());
            std::thread::spawn(move || client(&address, &stop, &answered))
        };
        let clients = (0..CONNECTIONS).map(client).collect();
        Self { stop, answered, clients }
    }

    fn wait_answers(&self, more: usize) {
        let before = self.answered.load(SeqCst);
        eventually("answers under load", PATIENCE, || (self.answered.load(SeqCst) > before + more).then_some(()));
    }

    fn end(self) -> Seen {
        self.stop.store(true, SeqCst);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("no panic");
            all.good += seen.good;
            all.bad.extend(seen.bad);
            all.slowest = all.slowest.max(seen.slowest);
            for (worker, n) in seen.workers {
                *all.workers.entry(worker).or_default() += n;
            }
        }
        all
    }
}

fn client(address: &str, stop: &AtomicBool, answered: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    while !stop.load(SeqCst) {
        let begun = Instant::now();
        stream.write_all(b"GET /api/service/s/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("write");
        // A response's first line reads like a request's: version, status, reason.
        let head = Head::read(&mut reader).expect("a response");
        let body = head.body(&mut reader).expect("a whole body");
        seen.slowest = seen.slowest.max(begun.elapsed());
        answered.fetch_add(1, SeqCst);
        match head.path.as_str() {
            "200" => {
                seen.good += 1;
                *seen.workers.entry(head.header("x-paceline-worker").to_owned()).or_default() += 1;
            }
            status => seen.bad.push(format!("{status} {}", String::from_utf8_lossy(&body))),
        }
    }
    seen
}

/// Answers after a moment, so that requests are under way whenever something happens.
fn brief() -> Service {
    Service::http(|_, _, out| {
        std::thread::sleep(Duration::from_millis(2)); // the work that is interrupted
        answer(out, 200, b"here")
    })
}

#[test]
fn a_worker_killed_under_load_costs_no_idempotent_request() {
    let service = brief();
    let Trio { up, one, two, _folder } = trio(&service);
    let load = Load::start(&up);
    load.wait_answers(2_000);
    drop(one.kill());
    load.wait_answers(4_000);
    let seen = load.end();
    eprintln!("{} answers, the slowest after {:?}, {:?}", seen.good, seen.slowest, seen.workers);
    assert!(seen.bad.is_empty(), "{} of {}: {:?}", seen.bad.len(), seen.good, seen.bad.first());
    assert!(seen.workers.len() == 2 && seen.workers["one"] > 100, "{:?}", seen.workers);
    drop(two);
}

#[test]
fn a_worker_that_hangs_under_load_costs_none_and_holds_few_for_seconds() {
    let service = brief();
    let Trio { up, one, two, _folder } = trio(&service);
    let load = Load::start(&up);
    load.wait_answers(2_000);
    one.signal("-STOP");
    let begun = Instant::now();
    // Longer than a hung hop takes to show itself.
    while begun.elapsed() < Duration::from_secs(6) {
        load.wait_answers(500);
    }
    let seen = load.end();
    one.signal("-CONT");
    eprintln!("{} answers, the slowest after {:?}, {:?}", seen.good, seen.slowest, seen.workers);
    assert!(seen.bad.is_empty(), "{} of {}: {:?}", seen.bad.len(), seen.good, seen.bad.first());
    assert!(seen.slowest < Duration::from_millis(5_500), "{:?}", seen.slowest);
    drop(two);
}

#[test]
fn a_service_that_is_merely_slow_is_left_in_peace() {
    let service = Service::http(|head, _, out| {
        if head.path.contains("slow") {
            std::thread::sleep(Duration::from_secs(6)); // longer than anything that watches the hop
        }
        answer(out, 200, b"here")
    });
    let Trio { up, one, two, _folder } = trio(&service);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let url = format!("{}/api/service/s/slow", up.http());
            std::thread::spawn(move || get(&url).expect("answer"))
        })
        .collect();
    let mut workers: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let answer = call.join().expect("no panic");
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.header("x-paceline-worker").to_owned()
        })
        .collect();
    workers.sort();
    assert_eq!(workers, ["one", "one", "two", "two"], "each as many, slow or not");
    for _ in 0..10 {
        assert_eq!(up.get("/api/service/s/x").status, 200);
    }
    drop((one, two));
}

fn resident_kib(p: &Paceline) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", p.pid())).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("number")
}

/// 200 clients that take 64 MiB each, a little at a time.
#[test]
#[ignore = "not met: the windows and buffers of the hop hold some 450 MiB for them, 64 is wanted"]
fn two_hundred_slow_readers_fill_no_memory() {
    const READERS: usize = 200;
    const LENGTH: usize = 64 << 20;
    let service = Service::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        while let Some(_head) = Head::read(&mut reader) {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
            let chunk = vec![7; 1 << 16];
            for _ in 0..LENGTH >> 16 {
                if stream.write_all(&chunk).is_err() {
                    return;
                }
            }
        }
    });
    let folder = Folder::new();
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let offer = format!("s={},health=none", service.url());
    let token = up.join_token();
    let node = Paceline::start("node", &folder.path("n"), &["--name", "n", "--join", &token, "--service", &offer]);
    up.wait_healthy("s", 1);
    let before = resident_kib(&up) + resident_kib(&node);
    let address = up.runtime["http"].as_str().expect("http");
    let mut readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            stream.write_all(b"GET /api/service/s/big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("write");
            stream
        })
        .collect();
    let mut most = 0;
    let mut chunk = vec![0; 32 << 10];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        for reader in &mut readers {
            reader.read_exact(&mut chunk).expect("more of it, if slowly");
        }
        most = most.max(resident_kib(&up) + resident_kib(&node));
    }
    let grown = most.saturating_sub(before) / 1024;
    eprintln!(
        "{READERS} slow readers: {grown} MiB more in both processes ({} + {} KiB)",
        resident_kib(&up),
        resident_kib(&node)
    );
    assert!(grown < 64, "{grown} MiB");
    // Somebody who reads is not held up by those who do not.
    let mut quick = BufReader::new(TcpStream::connect(address).expect("connect"));
    quick.get_mut().set_read_timeout(Some(PATIENCE)).expect("timeout");
    quick.get_mut().write_all(b"GET /api/service/s/big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("write");
    let mut line = String::new();
    quick.read_line(&mut line).expect("an answer");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    let mut head = vec![0; 4 << 20];
    quick.read_exact(&mut head).expect("megabytes, quickly");
}
