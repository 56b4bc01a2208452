//! The workloads: what is asked of each row, and which figures come of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::load::{Kind, Outcome};
use super::process::{Cpu, Process, memory_mib, wait_for};
use super::rows::{Name, PATIENCE, Place, Row, Up, get, start_node};

/// Figures of one run, by name.
pub(super) type Figures = BTreeMap<String, f64>;

/// A column of a table.
pub(super) struct Column {
    /// Name of the figure.
    pub(super) figure: &'static str,
    /// Head of the column, with its unit.
    pub(super) title: &'static str,
}

/// One workload.
pub(super) struct Workload {
    /// On the command line and in the JSON.
    pub(super) name: &'static str,
    /// Above its table.
    pub(super) title: &'static str,
    /// The first one is compared with the other rows.
    pub(super) columns: &'static [Column],
    what: What,
}

enum What {
    Load { kind: Kind, connections: usize },
    Idle,
    Start,
}

const fn column(figure: &'static str, title: &'static str) -> Column {
    Column { figure, title }
}

const LATENCY: &[Column] =
    &[column("p50_us", "p50 us"), column("p99_us", "p99 us"), column("req_s", "req/s"), column("cpu_us", "CPU us/req")];
const THROUGHPUT: &[Column] =
    &[column("req_s", "req/s"), column("p50_us", "p50 us"), column("p99_us", "p99 us"), column("cpu_us", "CPU us/req")];
const BULK: &[Column] = &[column("mb_s", "MB/s"), column("cpu_ms_mb", "CPU ms/MB")];
const EVENTS: &[Column] = &[
    column("delay_p50_us", "chunk delay p50 us"),
    column("delay_p99_us", "p99 us"),
    column("p50_us", "first byte p50 us"),
];
const IDLE: &[Column] = &[
    column("pss_mib", "PSS MiB, held"),
    column("pss_before_mib", "PSS MiB, before"),
    column("rss_mib", "RSS MiB, held"),
    column("rss_before_mib", "RSS MiB, before"),
    column("kib_connection", "KiB a connection"),
    column("cpu_held_ms_s", "CPU ms/s, held"),
    column("req_s", "opened/s"),
];
const START: &[Column] = &[
    column("ready_ms", "`up`: start to ready, ms"),
    column("routable_ms", "`node`: start to routable, ms"),
    column("killed_ms", "kill -9 to off the list, ms"),
    column("again_ms", "same directory: start to routable, ms"),
    column("up_rss_mib", "`up` idle RSS MiB"),
    column("node_rss_mib", "`node` idle RSS MiB"),
    column("up_cpu_ms_s", "`up` idle CPU ms/s"),
    column("node_cpu_ms_s", "`node` idle CPU ms/s"),
];

const fn load(
    name: &'static str,
    title: &'static str,
    columns: &'static [Column],
    kind: Kind,
    connections: usize,
) -> Workload {
    Workload { name, title, columns, what: What::Load { kind, connections } }
}

/// All of them, in the order of the report.
pub(super) const WORKLOADS: &[Workload] = &[
    load("get-1k-1", "GET 1 KiB, keep-alive, 1 connection", LATENCY, Kind::Get, 1),
    load("get-1k-32", "GET 1 KiB, keep-alive, 32 connections", THROUGHPUT, Kind::Get, 32),
    load("get-1k-256", "GET 1 KiB, keep-alive, 256 connections", THROUGHPUT, Kind::Get, 256),
    load("get-64m-1", "GET 64 MiB, 1 connection", BULK, Kind::Download, 1),
    load("get-64m-4", "GET 64 MiB, 4 connections", BULK, Kind::Download, 4),
    load("post-64m-1", "POST 64 MiB, 1 connection", BULK, Kind::Upload, 1),
    load("sse-32", "Server-sent events, 32 streams of 100 chunks, 5 ms apart", EVENTS, Kind::Events, 32),
    load("connect-16", "GET 1 KiB, a new connection each, 16 at once", THROUGHPUT, Kind::Connect, 16),
    Workload {
        name: "idle",
        title: "Idle client connections, held after one request each",
        columns: IDLE,
        what: What::Idle,
    },
    Workload {
        name: "start",
        title: "Start, join, kill, return; both processes idle",
        columns: START,
        what: What::Start,
    },
];

/// How long and how many.
pub(super) struct Size {
    pub(super) secs: f64,
    pub(super) idle_connections: usize,
    /// How long idle processes are watched.
    pub(super) watch: Duration,
}

impl Workload {
    /// Whether it can be asked of the row.
    pub(super) fn applies(&self, row: Name) -> bool {
        match self.what {
            What::Start => row == Name::Paceline,
            What::Idle => row != Name::Direct,
            What::Load { .. } => true,
        }
    }

    /// Whether it starts and ends its own processes.
    pub(super) fn wants_fresh_row(&self) -> bool {
        matches!(self.what, What::Start | What::Idle)
    }

    /// Runs it on a running row, or on one of its own.
    pub(super) fn run(&self, name: Name, row: Option<&Row>, place: &Place<'_>, size: &Size) -> anyhow::Result<Figures> {
        match (&self.what, row) {
            (What::Load { kind, connections }, Some(row)) => loaded(row, *kind, *connections, size),
            (What::Load { .. }, None) => anyhow::bail!("the row is not running"),
            (What::Idle, _) => idle(&Row::start(name, place)?, size),
            (What::Start, _) => start(place, size),
        }
    }
}

struct Load {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(row: &Row, kind: Kind, connections: usize, secs: f64) -> anyhow::Result<Self> {
        let me = std::env::current_exe()?;
        let kind = clap::ValueEnum::to_possible_value(&kind).context("a kind without a name")?;
        let (connections, secs) = (connections.to_string(), secs.to_string());
        let line = [
            me.to_str().context("the path of this program is not UTF-8")?,
            "load",
            kind.get_name(),
            &row.address,
            "--prefix",
            row.prefix,
            "--connections",
            &connections,
            "--secs",
            &secs,
        ];
        let log = std::env::temp_dir().join(format!("paceline-load-{}.log", std::process::id()));
        let mut process = Process::start(&line, &log, Stdio::piped(), Stdio::piped())?;
        let output = process.child().stdout.take().context("the load has no output")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    fn outcome(&mut self) -> anyhow::Result<Outcome> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the load said `{line}`: {}", self.process.last_words()))
    }
}

fn loaded(row: &Row, kind: Kind, connections: usize, size: &Size) -> anyhow::Result<Figures> {
    let pids = row.pids();
    let before = Cpu::of(&pids);
    let outcome = Load::start(row, kind, connections, size.secs)?.outcome()?;
    let cpu_s = Cpu::of(&pids).since(before);
    let mut figures = checked(row, &outcome)?;
    if !pids.is_empty() {
        figures.insert("cpu_us".to_owned(), cpu_s * 1e6 / outcome.requests as f64);
        if let Some(megabytes) = outcome.figures.get("mb") {
            figures.insert("cpu_ms_mb".to_owned(), cpu_s * 1e3 / megabytes);
        }
    }
    Ok(figures)
}

fn checked(row: &Row, outcome: &Outcome) -> anyhow::Result<Figures> {
    if outcome.errors > 0 {
        eprintln!("{}: {} errors, the first: {}", row.name.as_str(), outcome.errors, outcome.error);
    }
    anyhow::ensure!(outcome.requests > 0, "no request ended well: {}", outcome.error);
    let mut figures = outcome.figures.clone();
    figures.insert("errors".to_owned(), outcome.errors as f64);
    Ok(figures)
}

fn idle(row: &Row, size: &Size) -> anyhow::Result<Figures> {
    let pids = row.pids();
    let (rss_before, pss_before) = memory_mib(&pids);
    let mut load = Load::start(row, Kind::Idle, size.idle_connections, 0.0)?;
    let opened = load.outcome()?;
    let mut figures = checked(row, &opened)?;
    let (before, since) = (Cpu::of(&pids), Instant::now());
    std::thread::sleep(size.watch);
    let cpu_ms_s = Cpu::of(&pids).since(before) * 1e3 / since.elapsed().as_secs_f64();
    let (rss, pss) = memory_mib(&pids);
    let input = load.process.child().stdin.take();
    input.context("the load has no input")?.write_all(b"\n")?;
    let asked = load.outcome()?;
    let errors = checked(row, &asked)?["errors"] + figures["errors"];
    figures.extend([
        ("errors".to_owned(), errors),
        ("rss_before_mib".to_owned(), rss_before),
        ("pss_before_mib".to_owned(), pss_before),
        ("rss_mib".to_owned(), rss),
        ("pss_mib".to_owned(), pss),
        ("kib_connection".to_owned(), (pss - pss_before) * 1024.0 / opened.requests as f64),
        ("cpu_held_ms_s".to_owned(), cpu_ms_s),
    ]);
    Ok(figures)
}

fn start(place: &Place<'_>, size: &Size) -> anyhow::Result<Figures> {
    let folder = place.folder.join("start");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let up = Up::start(place, &folder, None)?;
    let (mut node, routable) = join(place, &folder, &up)?;
    let watched = [up.process.pid(), node.pid()];
    // What starting left to do is done by then.
    std::thread::sleep(size.watch);
    let (before, since) = (watched.map(|pid| Cpu::of(&[pid])), Instant::now());
    std::thread::sleep(size.watch);
    let elapsed_s = since.elapsed().as_secs_f64();
    let cpu_ms_s: Vec<f64> =
        watched.iter().zip(before).map(|(pid, before)| Cpu::of(&[*pid]).since(before) * 1e3 / elapsed_s).collect();
    let [up_memory, node_memory] = watched.map(|pid| memory_mib(&[pid]));
    node.kill();
    let (_, killed) = wait_for("the killed worker leaves the list", PATIENCE, || {
        let (_, body) = get(&up.address, "/api/admin/services").ok()?;
        let answer: serde_json::Value = serde_json::from_str(body.trim()).ok()?;
        let healthy = answer["services"]["origin"]["healthy_workers"].as_u64().unwrap_or(0);
        (healthy == 0).then_some(())
    })?;
    let (_node, again) = join(place, &folder, &up)?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let figures = [
        ("ready_ms", ms(up.ready)),
        ("routable_ms", ms(routable)),
        ("killed_ms", ms(killed)),
        ("again_ms", ms(again)),
        ("up_rss_mib", up_memory.0),
        ("node_rss_mib", node_memory.0),
        ("up_cpu_ms_s", cpu_ms_s[0]),
        ("node_cpu_ms_s", cpu_ms_s[1]),
        ("errors", 0.0),
    ];
    Ok(figures.map(|(name, value)| (name.to_owned(), value)).into())
}

fn join(place: &Place<'_>, folder: &Path, up: &Up) -> anyhow::Result<(Process, Duration)> {
    let since = Instant::now();
    let node = start_node(place, folder, &up.join)?;
    wait_for("the joiner is routable", PATIENCE, || {
        (get(&up.address, "/api/service/origin/1k").ok()?.0 == 200).then_some(())
    })
    .with_context(|| node.last_words())?;
    Ok((node, since.elapsed()))
}
