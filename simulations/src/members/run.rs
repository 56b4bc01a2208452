//! A cluster of real processes through all phases, and a table of what was measured.
//!
//! All together join, one changes its manifest, nothing happens, one is killed and comes back, one goes dark, the
//! leader is killed. Times are those that the observers' processes noted; one figure an observer.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::board::{Board, now_us, seconds};
use super::fleet::{Believes, Fleet, NODES_MAX, Plan};
use super::net::{self, Network, Sent};
use crate::bench::process::{Cpu, memory_mib};

/// Events that wait to be looked at.
const EVENTS_MAX: usize = 1 << 20;
/// How long each phase may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a change or a crash is waited for.
const PATIENCE_EACH: Duration = Duration::from_secs(60);
/// Between two measurements: what the one before has set off ends in it.
const PAUSE: Duration = Duration::from_secs(2);
/// After all have joined: connections are still being made and closed.
const SETTLE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Processes
    #[arg(long, default_value_t = 8)]
    nodes: usize,
    /// Seconds between two starts at the beginning
    #[arg(long, default_value_t = 0.0)]
    gap: f64,
    /// Seconds for which the idle cluster is watched
    #[arg(long, default_value_t = 60.0)]
    steady: f64,
    /// Changes of a manifest
    #[arg(long, default_value_t = 5)]
    changes: usize,
    /// Nodes that are killed, and nodes that go dark
    #[arg(long, default_value_t = 2)]
    kills: usize,
    /// Percent of packets to lose, each for --fp seconds, separated by commas [default: none]
    #[arg(long, value_delimiter = ',')]
    loss: Vec<u8>,
    /// Seconds for which wrong verdicts are waited for at each loss
    #[arg(long, default_value_t = 60.0)]
    fp: f64,
    /// The paceline binary [default: the one beside this program]
    #[arg(long)]
    paceline: Option<PathBuf>,
    /// Keeps data directories and logs here [default: a temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Writes every figure to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// A further argument of each node (repeatable)
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Seconds until each observer knew, sorted, and how many never did.
#[derive(Clone, Debug, Default, Serialize)]
struct Times {
    seconds: Vec<f64>,
    missed: usize,
}

impl Times {
    fn add(&mut self, other: Times) {
        self.seconds.extend(other.seconds);
        self.seconds.sort_by(f64::total_cmp);
        self.missed += other.missed;
    }

    fn cell(&self) -> String {
        let (Some(first), Some(last)) = (self.seconds.first(), self.seconds.last()) else { return "-".to_owned() };
        let median = self.seconds[self.seconds.len() / 2];
        let missed = if self.missed > 0 { format!(" ({} never)", self.missed) } else { String::new() };
        format!("{first:.2} / {median:.2} / {last:.2} s{missed}")
    }
}

/// An idle cluster; each figure for one node and one second.
#[derive(Clone, Debug, Serialize)]
struct Steady {
    seconds: f64,
    loss_percent: u8,
    udp_bytes: Option<f64>,
    tcp_bytes: Option<f64>,
    packets: Option<f64>,
    cpu_ms: f64,
    resident_mib: f64,
    /// Verdicts on nodes that were alive, by pairs of observer and subject.
    wrong_deaths: usize,
    suspicions: usize,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Results {
    nodes: usize,
    join_s: Option<f64>,
    join_missing: usize,
    join_bytes: Option<f64>,
    change: Times,
    steady: Vec<Steady>,
    kill: Times,
    joiner_s: Option<f64>,
    dark: Option<Times>,
    leader: Option<Times>,
}

/// Runs all phases and prints the table.
///
/// # Errors
/// When the cluster cannot be started, or a phase cannot be carried out.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let gone = options.kills * 2 + 1;
    ensure!(options.nodes <= NODES_MAX && options.nodes > gone + 1, "at least {} nodes, at most {NODES_MAX}", gone + 2);
    if let Some(code) = net::enter()? {
        std::process::exit(code);
    }
    let temporary = tempfile::tempdir()?;
    let folder = options.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let network = Network::new(options.nodes)?;
    match &network {
        None => eprintln!("no network namespace (unshare and nft): bytes are not counted, nobody goes dark"),
        Some(network) if !network.cuts => eprintln!("not root: nobody goes dark"),
        Some(_) => {}
    }
    let (send, events) = sync_channel(EVENTS_MAX);
    let plan = Plan {
        paceline: super::binary(options.paceline.clone())?,
        folder,
        nodes: options.nodes,
        identities: network.as_ref().is_some_and(|network| network.cuts),
        arguments: options.arguments.clone(),
    };
    let mut bench = Bench { fleet: Fleet::new(plan, send)?, board: Board::new(events), network, version: 0 };
    let results = bench.phases(options)?;
    println!("{}", table(&results));
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&results)?).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

struct Bench {
    fleet: Fleet,
    board: Board,
    network: Option<Network>,
    version: i64,
}

impl Bench {
    fn phases(&mut self, options: &Options) -> anyhow::Result<Results> {
        let count = options.nodes;
        let mut results = Results { nodes: count, ..Results::default() };
        for node in 0..count {
            self.start(node);
            self.board.settle(Duration::from_secs_f64(options.gap));
        }
        let from = now_us();
        results.join_s = self.board.all_see_all(PATIENCE).map(|at| seconds(from, at));
        results.join_missing = self.board.missing();
        results.join_bytes = self.sent()?.map(|sent| (sent.udp_bytes + sent.tcp_bytes) as f64 / count as f64);
        eprintln!("joined: {:?} s, {} pairs missing", results.join_s, results.join_missing);
        self.board.settle(SETTLE);
        for change in 0..options.changes {
            // Never node 0: what it does beside is the founder's.
            let times = self.change(1 + change % (count - 1))?;
            results.change.add(times);
            self.board.settle(PAUSE);
        }
        eprintln!("changes: {}", results.change.cell());
        self.board.settle(PAUSE);
        results.steady.push(self.steady(options.steady, 0)?);
        eprintln!("idle: {:?}", results.steady);
        let mut victim = count;
        for _ in 0..options.kills {
            victim -= 1;
            let times = self.crash(victim, false)?;
            results.kill.add(times);
            self.board.settle(PAUSE);
        }
        eprintln!("kills: {}", results.kill.cell());
        let from = now_us();
        self.start(victim);
        results.joiner_s = self.board.all_see_all(PATIENCE).map(|at| seconds(from, at));
        eprintln!("one joiner: {:?} s", results.joiner_s);
        if self.network.as_ref().is_some_and(|network| network.cuts) {
            let mut dark = Times::default();
            for _ in 0..options.kills {
                self.board.settle(PAUSE);
                let times = self.crash(victim, true)?;
                dark.add(times);
                victim -= 1;
            }
            eprintln!("dark: {}", dark.cell());
            results.dark = Some(dark);
        }
        for percent in options.loss.iter().copied() {
            let Some(network) = &self.network else { break };
            network.lose(percent)?;
            self.board.settle(PAUSE);
            results.steady.push(self.steady(options.fp, percent)?);
            if let Some(network) = &self.network {
                network.lose(0)?;
            }
        }
        self.board.settle(PAUSE);
        results.leader = self.leader_crash()?;
        Ok(results)
    }

    fn sent(&self) -> anyhow::Result<Option<Sent>> {
        self.network.as_ref().map(Network::sent).transpose()
    }

    fn start(&mut self, node: usize) {
        self.board.started(node);
        self.fleet.start(node, |_| {});
    }

    /// One node changes its manifest: until each other one has it.
    fn change(&mut self, node: usize) -> anyhow::Result<Times> {
        self.version += 1;
        let version = self.version;
        let from = now_us();
        self.fleet.change(node, version)?;
        Ok(self.until(node, from, |believes| believes == Believes::Manifest { version }))
    }

    /// One node ends without a word, or with its network: until each other one takes it for dead.
    fn crash(&mut self, node: usize, dark: bool) -> anyhow::Result<Times> {
        if let Some(network) = self.network.as_ref().filter(|_| dark) {
            network.cut(node)?;
        }
        let from = now_us();
        self.fleet.kill(node);
        self.board.killed(node);
        Ok(self.until(node, from, |believes| believes == Believes::Dead))
    }

    /// The leader is killed: until each other one follows the next. `None` where nobody leads.
    fn leader_crash(&mut self) -> anyhow::Result<Option<Times>> {
        let Some(leader) = self.board.leader() else { return Ok(None) };
        let from = now_us();
        self.fleet.kill(leader);
        self.board.killed(leader);
        let mut last = std::collections::BTreeMap::new();
        let agreed = self.board.watch(PATIENCE_EACH, |board, seen| {
            if let Some(seen) = seen.filter(|seen| matches!(seen.believes, Believes::Leads { .. }))
                && board.running().contains(&seen.observer)
            {
                last.insert(seen.observer, seen.at_us);
            }
            board.leader().is_some_and(|next| next != leader)
        });
        let times = last.values().map(|at| seconds(from, *at)).collect();
        let mut all = Times::default();
        all.add(Times { seconds: times, missed: if agreed { 0 } else { self.board.running().len() - last.len() } });
        eprintln!("the leader, node {leader}, killed: {}", all.cell());
        Ok(Some(all))
    }

    /// When each other running node first believed this of the subject.
    fn until(&mut self, subject: usize, from: u64, wanted: impl Fn(Believes) -> bool) -> Times {
        let mut first = std::collections::BTreeMap::new();
        let others = self.board.running().iter().filter(|node| **node != subject).count();
        self.board.watch(PATIENCE_EACH, |board, seen| {
            if let Some(seen) = seen
                && seen.subject == subject
                && seen.observer != subject
                && board.running().contains(&seen.observer)
                && wanted(seen.believes)
            {
                first.entry(seen.observer).or_insert(seen.at_us);
            }
            first.len() == others
        });
        let mut times = Times::default();
        let seconds = first.values().map(|at| seconds(from, *at)).collect();
        times.add(Times { seconds, missed: others - first.len() });
        times
    }

    fn steady(&mut self, time: f64, loss_percent: u8) -> anyhow::Result<Steady> {
        let pids: Vec<u32> = self.fleet.pids().into_values().collect();
        let (sent, cpu, from) = (self.sent()?, Cpu::of(&pids), now_us());
        let (mut wrong_deaths, mut suspicions) = (0, 0);
        self.board.watch(Duration::from_secs_f64(time), |board, seen| {
            let both = |seen: &&super::fleet::Seen| {
                board.running().contains(&seen.observer) && board.running().contains(&seen.subject)
            };
            match seen.filter(both).map(|seen| seen.believes) {
                Some(Believes::Dead) => wrong_deaths += 1,
                Some(Believes::Suspect) => suspicions += 1,
                _ => {}
            }
            false
        });
        let seconds = seconds(from, now_us());
        let (cpu, nodes) = (Cpu::of(&pids).since(cpu), pids.len() as f64);
        let sent = match (sent, self.sent()?) {
            (Some(before), Some(after)) => Some(after.since(before)),
            _ => None,
        };
        let each = |count: u64| count as f64 / nodes / seconds;
        Ok(Steady {
            seconds,
            loss_percent,
            udp_bytes: sent.map(|sent| each(sent.udp_bytes)),
            tcp_bytes: sent.map(|sent| each(sent.tcp_bytes)),
            packets: sent.map(|sent| each(sent.udp_packets + sent.tcp_packets)),
            cpu_ms: cpu * 1000.0 / nodes / seconds,
            resident_mib: memory_mib(&pids).0 / nodes,
            wrong_deaths,
            suspicions,
        })
    }
}

fn table(results: &Results) -> String {
    let or_never = |s: Option<f64>| s.map_or_else(|| "never".to_owned(), |s| format!("{s:.2} s"));
    let mut rows = vec![
        (format!("{} processes join, the last start until all see all", results.nodes), or_never(results.join_s)),
        ("a manifest changes: each other node has it (first / median / last)".to_owned(), results.change.cell()),
        ("kill -9: each survivor declares it dead".to_owned(), results.kill.cell()),
        ("it comes back: all see all".to_owned(), or_never(results.joiner_s)),
    ];
    if let Some(bytes) = results.join_bytes {
        rows.insert(1, ("bytes sent for that, each node".to_owned(), format!("{bytes:.0}")));
    }
    if let Some(dark) = &results.dark {
        rows.push(("gone dark, then killed: each survivor declares it dead".to_owned(), dark.cell()));
    }
    if let Some(leader) = &results.leader {
        rows.push(("kill -9 of the leader: each survivor follows the next".to_owned(), leader.cell()));
    }
    for steady in &results.steady {
        let when = match steady.loss_percent {
            0 => "idle".to_owned(),
            percent => format!("{percent} % of packets lost"),
        };
        if let (Some(udp), Some(tcp), Some(packets)) = (steady.udp_bytes, steady.tcp_bytes, steady.packets) {
            let bytes = format!("{:.0} B in {packets:.1} packets ({tcp:.0} B TCP, {udp:.0} B UDP)", udp + tcp);
            rows.push((format!("{when}: sent by a node each second"), bytes));
        }
        rows.push((format!("{when}: CPU of a node each second"), format!("{:.2} ms", steady.cpu_ms)));
        rows.push((format!("{when}: memory of a node"), format!("{:.1} MiB", steady.resident_mib)));
        rows.push((
            format!("{when}: wrong deaths (suspicions) in {:.0} s", steady.seconds),
            format!("{} ({})", steady.wrong_deaths, steady.suspicions),
        ));
    }
    let mut out = "| phase | measured |\n|---|---|\n".to_owned();
    for (what, figure) in rows {
        out.push_str(&format!("| {what} | {figure} |\n"));
    }
    out
}
