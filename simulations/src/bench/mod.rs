//! The benchmark of the request path: real processes on this machine, row beside row in the same rounds.
//!
//! Shared cores make absolute figures drift, so rows are interleaved (forwards and backwards in alternate rounds),
//! and ratios are taken within a round; CPU per request, summed over all processes of a row, is the steadiest figure.
//! Every response is checked, its bytes too.

mod connection;
pub mod load;
pub mod origin;
pub mod pattern;
pub(crate) mod process;
mod report;
mod rows;
pub mod stats;
mod work;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use process::Process;
use report::Results;
pub use rows::Name;
use rows::{Place, Row};
use work::{Size, WORKLOADS, Workload};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds of each workload; figures are medians over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Workloads whose name begins so, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rows, separated by commas [default: all that can run here]
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Name>,
    /// Connections of the workload `idle`
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// The paceline binary [default: the one beside this program]
    #[arg(long)]
    paceline: Option<PathBuf>,
    /// Writes every figure of every round to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the tables to this file as well
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// How long idle processes are watched.
const WATCH: Duration = Duration::from_secs(3);

/// Runs the benchmark and prints its tables.
///
/// # Errors
/// When it cannot begin, or a row cannot be started; a load that fails is told and left out of its round.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let workloads = chosen(&options.only)?;
    let names = chosen_rows(&options.rows);
    let paceline = paceline_binary(options.paceline.clone(), &names)?;
    let folder = tempfile::tempdir()?;
    let (_origin, origin_address) = start_origin(folder.path())?;
    let place = Place { origin: &origin_address, paceline: &paceline, folder: folder.path() };
    let rows: Vec<Row> = names.iter().map(|name| Row::start(*name, &place)).collect::<anyhow::Result<_>>()?;
    let size = Size { secs: options.secs, idle_connections: options.connections, watch: WATCH };
    let mut results = Results::new();
    for workload in workloads.iter().filter(|workload| !workload.wants_fresh_row()) {
        measure(workload, &names, &rows, &place, &size, options.rounds, &mut results);
    }
    // The others start rows of their own, alone on the machine.
    drop(rows);
    for workload in workloads.iter().filter(|workload| workload.wants_fresh_row()) {
        measure(workload, &names, &[], &place, &size, options.rounds, &mut results);
    }
    let tables = report::markdown(&results, &names);
    println!("{}\n{tables}", machine());
    if let Some(path) = &options.json {
        let all = serde_json::json!({ "machine": machine(), "rounds": options.rounds, "secs": options.secs, "results": results });
        std::fs::write(path, serde_json::to_vec_pretty(&all)?).with_context(|| format!("{}", path.display()))?;
    }
    if let Some(path) = &options.markdown {
        std::fs::write(path, format!("{}\n{tables}", machine())).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

fn measure(
    workload: &Workload,
    names: &[Name],
    rows: &[Row],
    place: &Place<'_>,
    size: &Size,
    rounds: usize,
    results: &mut Results,
) {
    let start = Instant::now();
    let mut of_rows: BTreeMap<&'static str, Vec<_>> = BTreeMap::new();
    for round in 0..rounds {
        let mut order: Vec<Name> = names.iter().copied().filter(|name| workload.applies(*name)).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for name in order {
            let row = rows.iter().find(|row| row.name == name);
            let figures = workload.run(name, row, place, size);
            if let Err(error) = &figures {
                eprintln!("{} on {}, round {round}: {error:#}", workload.name, name.as_str());
            }
            of_rows.entry(name.as_str()).or_default().push(figures.ok());
        }
    }
    eprintln!("{}: {} rounds in {:.0} s", workload.name, rounds, start.elapsed().as_secs_f64());
    if !of_rows.is_empty() {
        results.insert(workload.name, of_rows);
    }
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Workload>> {
    for start in only {
        if !WORKLOADS.iter().any(|workload| workload.name.starts_with(start.as_str())) {
            let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
            bail!("no workload begins with `{start}`; there are {}", names.join(", "));
        }
    }
    let wanted = |w: &&Workload| only.is_empty() || only.iter().any(|start| w.name.starts_with(start.as_str()));
    Ok(WORKLOADS.iter().filter(wanted).collect())
}

fn chosen_rows(rows: &[Name]) -> Vec<Name> {
    if !rows.is_empty() {
        return Name::ALL.into_iter().filter(|name| rows.contains(name)).collect();
    }
    let nginx = rows::nginx_is_there();
    if !nginx {
        eprintln!("nginx is not installed: its rows are left out");
    }
    Name::ALL.into_iter().filter(|name| nginx || !matches!(name, Name::Nginx | Name::Nginx2HopTls)).collect()
}

fn paceline_binary(given: Option<PathBuf>, names: &[Name]) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("paceline"),
    };
    let wanted = names.iter().any(|name| name.is_paceline());
    ensure!(!wanted || path.is_file(), "{} is not there: build it by `cargo build --release` first", path.display());
    Ok(path)
}

fn start_origin(folder: &Path) -> anyhow::Result<(Process, String)> {
    let me = std::env::current_exe()?;
    let line = [me.to_str().context("the path of this program is not UTF-8")?, "origin"];
    let mut origin = Process::start(&line, &folder.join("origin.log"), Stdio::piped(), Stdio::piped())?;
    let output = origin.child().stdout.take().context("the origin has no output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address)?;
    ensure!(!address.is_empty(), "the origin did not start: {}", origin.last_words());
    Ok((origin, address.trim().to_owned()))
}

/// What the figures were taken on, in a line.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} ({cores} cores), Linux {}, paceline {}",
        model.unwrap_or("unknown CPU"),
        kernel.trim(),
        env!("CARGO_PKG_VERSION")
    )
}
