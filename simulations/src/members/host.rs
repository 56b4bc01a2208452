//! The host of a benchmark that drives several systems by one line protocol: commands on standard input, events on
//! standard output.
//!
//! ```text
//! start I | kill I | meta I VERSION | quit
//! <unix us> <observer> U|M|D|L <subject> <version, or the term after L>
//! P <node> <pid>
//! ```

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::fleet::{Believes, Fleet, Plan, Seen};
use super::net;

/// Events that wait to be written.
const EVENTS_MAX: usize = 65_536;

/// How to host.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many nodes there may be
    nodes: usize,
    /// The paceline binary [default: the one beside this program]
    #[arg(long)]
    paceline: Option<PathBuf>,
    /// Keeps data directories and logs here [default: a temporary folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// This network namespace is the benchmark's own: each node's connections get its address as their source, and odd
    /// nodes run as nobody (needs root and nft)
    #[arg(long)]
    namespace: bool,
    /// A further argument of each node (repeatable)
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Hosts until `quit`, or the end of its input.
///
/// # Errors
/// When it cannot begin.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let temporary;
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path().to_owned()
        }
    };
    if options.namespace {
        net::give_sources(options.nodes)?;
    }
    let (send, events) = sync_channel(EVENTS_MAX);
    let plan = Plan {
        paceline: super::binary(options.paceline.clone())?,
        folder,
        nodes: options.nodes,
        identities: options.namespace,
        arguments: options.arguments.clone(),
    };
    let mut fleet = Fleet::new(plan, send)?;
    let output = Arc::new(Mutex::new(std::io::stdout()));
    let say = move |line: String| {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        // A driver that reads no more has ended, and with it our input.
        let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
    };
    let say_events = say.clone();
    std::thread::spawn(move || {
        while let Ok(seen) = events.recv() {
            // What is there already goes out at once.
            let lines = std::iter::once(seen).chain(events.try_iter()).filter_map(line);
            say_events(lines.collect());
        }
    });
    for command in std::io::stdin().lock().lines() {
        let command = command?;
        let words: Vec<&str> = command.split_whitespace().collect();
        let node = words.get(1).and_then(|word| word.parse::<usize>().ok());
        match (words.first().copied(), node) {
            (Some("start"), Some(node)) => {
                let say = say.clone();
                fleet.start(node, move |pid| say(format!("P {node} {pid}\n")));
            }
            (Some("kill"), Some(node)) => fleet.kill(node),
            (Some("meta"), Some(node)) => {
                let version = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(0);
                if let Err(error) = fleet.change(node, version) {
                    eprintln!("node {node} was not changed: {error:#}");
                }
            }
            (Some("quit"), _) => break,
            _ => eprintln!("what is `{command}`?"),
        }
    }
    Ok(())
}

fn line(seen: Seen) -> Option<String> {
    let Seen { at_us, observer, subject, believes } = seen;
    let (word, value) = match believes {
        Believes::Up { version } => ('U', version),
        Believes::Manifest { version } => ('M', version),
        Believes::Dead => ('D', -1),
        Believes::Leads { term } => ('L', i64::try_from(term).unwrap_or(i64::MAX)),
        Believes::Suspect => return None,
    };
    Some(format!("{at_us} {observer} {word} {subject} {value}\n"))
}
