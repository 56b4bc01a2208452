//! Real nodes on this machine: one process of the release binary each, their events read from `/events`.
//!
//! Node `i` has 127.10.(i/250).(i%250+1) for both planes and 127.20.(i/250).(i%250+1) for its local API, so that the
//! traffic between nodes can be told from everything else by address. Node 0 founds the cluster.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// Most nodes: each has its own address in two /16 networks, 250 a third byte.
pub const NODES_MAX: usize = 10_000;
/// Ports of the control plane, the data plane, the local API and the gateway.
const MESH: u16 = 4900;
const DATA: u16 = 4901;
const LOCAL: u16 = 4902;
const HTTP: u16 = 8080;
/// Between two looks at something that another process is about to make.
const LOOK: Duration = Duration::from_millis(10);
/// How long the founder may take until others can join, and a node until it answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest line of `/events`.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Labels that make a manifest about as long as those of the systems that it is compared with: 1 KiB.
const PAD: (usize, usize) = (8, 120);
/// Odd nodes run as this user: who sends is told apart by it where addresses cannot.
const NOBODY: u32 = 65_534;
/// Node `i` runs in the group of this number plus `i`: its connections get their source address by it.
pub const GROUPS: u32 = 2_000_000;

/// Address of a node's planes.
pub fn address(node: usize) -> Ipv4Addr {
    address_in(10, node)
}

fn local(node: usize) -> SocketAddrV4 {
    SocketAddrV4::new(address_in(20, node), LOCAL)
}

fn address_in(net: u8, node: usize) -> Ipv4Addr {
    // At most NODES_MAX: neither byte overflows.
    Ipv4Addr::new(127, net, (node / 250) as u8, (node % 250 + 1) as u8)
}

/// What a node was seen to believe of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believes {
    /// It is there, with this version of its manifest.
    Up {
        /// See [`Fleet::change`].
        version: i64,
    },
    /// It has this version of its manifest.
    Manifest {
        /// See [`Fleet::change`].
        version: i64,
    },
    /// It is suspected.
    Suspect,
    /// It is gone, with or without a word.
    Dead,
    /// It leads in this term.
    Leads {
        /// The term.
        term: u64,
    },
}

/// One event of one node.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Microseconds since 1970, as the observer's process noted them.
    pub at_us: u64,
    /// Whose belief it is.
    pub observer: usize,
    /// Whom it is about.
    pub subject: usize,
    /// What it is.
    pub believes: Believes,
}

/// How nodes are run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary.
    pub paceline: PathBuf,
    /// For data directories and logs.
    pub folder: PathBuf,
    /// How many there may be.
    pub nodes: usize,
    /// Whether each node gets user and group of its own (needs root).
    pub identities: bool,
    /// Further arguments of each node.
    pub arguments: Vec<String>,
}

/// The manifest of a node, as the fleet changed it.
#[derive(Clone, Copy, Debug)]
struct Change {
    version: i64,
    draining: bool,
    /// Manifests up to this one are older.
    after: (u64, u64),
}

/// What is known of the nodes' manifests: which of them carries which version.
#[derive(Debug, Default)]
struct Versions {
    changes: BTreeMap<usize, Change>,
    newest: BTreeMap<usize, (u64, u64)>,
}

impl Versions {
    /// The version that a manifest carries; `None` where it is older than the last change.
    fn of(&mut self, node: usize, order: (u64, u64), draining: bool) -> Option<i64> {
        let newest = self.newest.entry(node).or_default();
        *newest = order.max(*newest);
        match self.changes.get(&node) {
            None => Some(0),
            Some(change) => (order > change.after && draining == change.draining).then_some(change.version),
        }
    }

    /// A change is about to be asked for: whether the node is to drain.
    fn change(&mut self, node: usize, version: i64) -> bool {
        let draining = !self.changes.get(&node).is_some_and(|change| change.draining);
        let after = self.newest.get(&node).copied().unwrap_or_default();
        self.changes.insert(node, Change { version, draining, after });
        draining
    }

    /// The process is another one: it does not drain, whatever the one before did.
    fn restarted(&mut self, node: usize) {
        if let Some(change) = self.changes.get_mut(&node) {
            change.draining = false;
        }
    }
}

struct Node {
    process: Arc<Mutex<Running>>,
}

/// Between the thread that starts a process and the one that kills it.
#[derive(Default)]
struct Running {
    killed: bool,
    child: Option<Child>,
    events: Option<TcpStream>,
}

/// The nodes; all are killed with this value.
pub struct Fleet {
    plan: Arc<Plan>,
    nodes: BTreeMap<usize, Node>,
    versions: Arc<Mutex<Versions>>,
    seen: SyncSender<Seen>,
    pids: Arc<Mutex<BTreeMap<usize, u32>>>,
    /// Set at the end, so that threads that wait for something stop waiting.
    over: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// No node yet. Events go to `seen`.
    ///
    /// # Errors
    /// The binary is not there, or the folder cannot be made.
    pub fn new(mut plan: Plan, seen: SyncSender<Seen>) -> anyhow::Result<Self> {
        ensure!(plan.nodes <= NODES_MAX, "at most {NODES_MAX} nodes");
        ensure!(
            plan.paceline.is_file(),
            "{} is not there: build it by `cargo build --release` first",
            plan.paceline.display()
        );
        fs::create_dir_all(&plan.folder).with_context(|| format!("{}", plan.folder.display()))?;
        if plan.identities {
            // Another user may not read where the binary was built.
            fs::set_permissions(&plan.folder, fs::Permissions::from_mode(0o755))?;
            let copy = plan.folder.join("paceline");
            fs::copy(&plan.paceline, &copy).with_context(|| format!("{}", copy.display()))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
            plan.paceline = copy;
        }
        Ok(Self {
            plan: Arc::new(plan),
            nodes: BTreeMap::new(),
            versions: Arc::default(),
            seen,
            pids: Arc::default(),
            over: Arc::default(),
        })
    }

    /// Starts a node (again); it joins as soon as the founder has written a token. `started` is told its process id.
    pub fn start(&mut self, node: usize, started: impl FnOnce(u32) + Send + 'static) {
        if node >= self.plan.nodes {
            eprintln!("there is no node {node}");
            return;
        }
        lock(&self.versions).restarted(node);
        let process = Arc::<Mutex<Running>>::default();
        let (plan, seen, over) = (Arc::clone(&self.plan), self.seen.clone(), Arc::clone(&self.over));
        let (versions, pids, mine) = (Arc::clone(&self.versions), Arc::clone(&self.pids), Arc::clone(&process));
        if let Some(before) = self.nodes.insert(node, Node { process }) {
            end(&before);
        }
        thread::spawn(move || {
            let run = || -> anyhow::Result<()> {
                let token = if node == 0 { None } else { Some(token(&plan, &over)?) };
                {
                    let mut running = lock(&mine);
                    if running.killed {
                        return Ok(());
                    }
                    let child = spawn(&plan, node, token.as_deref())?;
                    lock(&pids).insert(node, child.id());
                    started(child.id());
                    running.child = Some(child);
                }
                follow(node, &mine, &versions, &seen)
            };
            if let Err(error) = run()
                && !lock(&mine).killed
            {
                eprintln!("node {node}: {error:#}; its log ends with\n{}", last_words(&plan, node));
            }
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        lock(&self.pids).remove(&node);
        if let Some(node) = self.nodes.remove(&node) {
            end(&node);
        }
    }

    /// Has a node change its manifest: it begins or ends to drain, which it advertises at once. From now on `version`
    /// is what events call that manifest.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn change(&self, node: usize, version: i64) -> anyhow::Result<()> {
        let draining = lock(&self.versions).change(node, version);
        let key = fs::read_to_string(folder(&self.plan, node).join("admin.key"))?;
        let body = format!("{{\"draining\":{draining}}}");
        let mut stream = TcpStream::connect(local(node))?;
        write!(
            stream,
            "POST /drain HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            key.trim(),
            body.len()
        )?;
        let mut answer = String::new();
        stream.take(LINE_BYTES_MAX).read_to_string(&mut answer)?;
        ensure!(answer.split(' ').nth(1) == Some("200"), "{}", answer.lines().next().unwrap_or("no answer"));
        Ok(())
    }

    /// The processes that run, by node.
    pub fn pids(&self) -> BTreeMap<usize, u32> {
        lock(&self.pids).clone()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.nodes.values().for_each(end);
    }
}

fn end(node: &Node) {
    let mut running = lock(&node.process);
    running.killed = true;
    if let Some(child) = &mut running.child {
        let _ = child.kill();
        let _ = child.wait();
    }
    if let Some(events) = &running.events {
        let _ = events.shutdown(Shutdown::Both);
    }
}

fn folder(plan: &Plan, node: usize) -> PathBuf {
    plan.folder.join(format!("n{node}"))
}

/// What the founder wrote, as soon as it has.
fn token(plan: &Plan, over: &AtomicBool) -> anyhow::Result<String> {
    let path = folder(plan, 0).join("join-token");
    let start = Instant::now();
    loop {
        if let Ok(token) = fs::read_to_string(&path) {
            return Ok(token);
        }
        ensure!(!over.load(Ordering::Relaxed) && start.elapsed() < PATIENCE, "node 0 has written no join token");
        thread::sleep(LOOK);
    }
}

fn spawn(plan: &Plan, node: usize, token: Option<&str>) -> anyhow::Result<Child> {
    let data = folder(plan, node);
    fs::create_dir_all(&data).with_context(|| format!("{}", data.display()))?;
    let log = OpenOptions::new().create(true).append(true).open(plan.folder.join(format!("n{node}.log")))?;
    let ip = address(node);
    let mut command = Command::new(&plan.paceline);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PACELINE_")) {
        command.env_remove(name);
    }
    command.arg(if token.is_some() { "node" } else { "up" }).args(["--no-mdns", "--no-detect", "--name"]);
    command.arg(format!("n{node}")).arg("--data-dir").arg(&data);
    for (flag, port) in [("--mesh", MESH), ("--data", DATA)] {
        command.arg(flag).arg(format!("{ip}:{port}"));
    }
    command.arg("--local-http").arg(local(node).to_string());
    for pad in 0..PAD.0 {
        let text: String = (0..PAD.1).map(|at| char::from(b'a' + ((node * 7 + pad * 13 + at) % 26) as u8)).collect();
        command.arg("--label").arg(format!("pad{pad}={text}"));
    }
    match token {
        // By the environment: a process list shows arguments.
        Some(token) => command.env("PACELINE_JOIN", token),
        None => command.arg("--http").arg(SocketAddrV4::new(address_in(20, node), HTTP).to_string()),
    };
    command.args(&plan.arguments);
    if plan.identities {
        let user = if node % 2 == 1 { NOBODY } else { 0 };
        let group = GROUPS + u32::try_from(node)?;
        chown(&data, Some(user), Some(group))?;
        command.uid(user).gid(group);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("start {}", plan.paceline.display()))
}

/// One line of `/events`, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    at_us: u64,
    event: String,
    name: Option<String>,
    incarnation: Option<u64>,
    version: Option<u64>,
    draining: Option<bool>,
    term: Option<u64>,
    reason: Option<String>,
}

/// Reads a node's events until it ends.
fn follow(
    node: usize,
    process: &Mutex<Running>,
    versions: &Mutex<Versions>,
    seen: &SyncSender<Seen>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(local(node)) {
            Ok(stream) => break stream,
            Err(error) => {
                let mut running = lock(process);
                if running.killed {
                    return Ok(());
                }
                if let Some(Ok(Some(status))) = running.child.as_mut().map(Child::try_wait) {
                    anyhow::bail!("it ended: {status}");
                }
                drop(running);
                ensure!(start.elapsed() < PATIENCE, "its local API does not answer: {error}");
                thread::sleep(LOOK);
            }
        }
    };
    // Of version 1.0, so that the answer is the plain stream.
    stream.write_all(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    {
        let mut running = lock(process);
        if running.killed {
            return Ok(());
        }
        running.events = Some(stream.try_clone()?);
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        ensure!(read > 0, "its events have ended");
        let Some(json) = line.strip_prefix("data: ") else {
            ensure!(!line.starts_with("HTTP/") || line.contains(" 200 "), "/events: {}", line.trim());
            continue;
        };
        let event: Line = serde_json::from_str(json).with_context(|| json.trim().to_owned())?;
        if event.event == "end" {
            anyhow::bail!("its events have ended: {}", event.reason.unwrap_or_default());
        }
        if let Some(event) = event.seen_by(node, versions)
            && seen.send(event).is_err()
        {
            return Ok(());
        }
    }
}

impl Line {
    fn seen_by(&self, observer: usize, versions: &Mutex<Versions>) -> Option<Seen> {
        let subject = self.name.as_deref()?.strip_prefix('n')?.parse().ok()?;
        let order = (self.incarnation.unwrap_or(0), self.version.unwrap_or(0));
        let version = lock(versions).of(subject, order, self.draining.unwrap_or(false));
        let believes = match self.event.as_str() {
            "alive" => Believes::Up { version: version.unwrap_or(0) },
            "manifest" => Believes::Manifest { version: version? },
            "suspect" => Believes::Suspect,
            "dead" | "left" | "forgotten" => Believes::Dead,
            "leader" => Believes::Leads { term: self.term.unwrap_or(0) },
            _ => return None,
        };
        Some(Seen { at_us: self.at_us, observer, subject, believes })
    }
}

fn last_words(plan: &Plan, node: usize) -> String {
    let mut text = String::new();
    let path: &Path = &plan.folder.join(format!("n{node}.log"));
    // A log of a few megabytes at most: nodes say little at the default level.
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_rows() {
        assert_eq!(address(0), Ipv4Addr::new(127, 10, 0, 1));
        assert_eq!(address(249), Ipv4Addr::new(127, 10, 0, 250));
        assert_eq!(address(250), Ipv4Addr::new(127, 10, 1, 1));
    }

    fn line(json: &str) -> Line {
        serde_json::from_str(json).expect("a line of /events")
    }

    #[test]
    fn a_change_is_known_by_the_manifest_that_carries_it() {
        let versions = Mutex::new(Versions::default());
        let told = |versions: &Mutex<Versions>, version: u64, draining: bool| {
            let json = format!(
                r#"{{"at_us":1,"event":"manifest","name":"n3","incarnation":1,"version":{version},"draining":{draining}}}"#
            );
            line(&json).seen_by(0, versions).map(|seen| seen.believes)
        };
        assert_eq!(told(&versions, 2, false), Some(Believes::Manifest { version: 0 }));
        assert!(lock(&versions).change(3, 7));
        assert_eq!(told(&versions, 2, false), None, "an old one, heard late");
        assert_eq!(told(&versions, 3, true), Some(Believes::Manifest { version: 7 }));
        assert!(!lock(&versions).change(3, 8));
        assert_eq!(told(&versions, 3, true), None);
        assert_eq!(told(&versions, 4, false), Some(Believes::Manifest { version: 8 }));
    }

    #[test]
    fn lines_about_nobody_are_left_out() {
        let versions = Mutex::new(Versions::default());
        assert!(line(r#"{"at_us":1,"event":"live"}"#).seen_by(0, &versions).is_none());
        let dead = line(r#"{"at_us":5,"event":"left","name":"n12","incarnation":1,"version":1,"draining":false}"#);
        let seen = dead.seen_by(1, &versions).expect("an event");
        assert_eq!((seen.at_us, seen.observer, seen.subject, seen.believes), (5, 1, 12, Believes::Dead));
    }
}
