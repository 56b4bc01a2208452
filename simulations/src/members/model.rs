//! What a member costs its network by the number of members: ours and three others, on paper, as tables and as a plot.
//!
//! All figures are bytes that a member sends in a second, headers of IP and TCP or UDP included, while nothing happens.
//! The others are modelled as generously as their papers and defaults allow, and so that the model meets what was
//! measured (docs/scale.md names where it does not).

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use paceline_proto::carrier::{CONNECTIONS_OF_HUBS, GOSSIP_NEIGHBOURS};
use serde::Deserialize;

/// IP and TCP headers with timestamps; a segment without data is as long.
const TCP: f64 = 52.0;
/// Noise (18) and Yamux (12) around a message.
const FRAMES: f64 = 30.0;

/// Seconds between two heartbeats, and between two summaries.
const HEARTBEAT_S: f64 = 10.0;
/// Every so many summaries one carries a bit for each member.
const CHECKPOINT_EVERY: f64 = 30.0;
/// Links of a member which is no gateway: its neighbours on the ring on both sides, gateways, and some others, as the
/// simulator counts them.
const LINKS: f64 = 18.0;
/// Links that a gateway keeps at most.
const LINKS_OF_HUBS: f64 = CONNECTIONS_OF_HUBS as f64 * 0.75;
/// Yamux measures each link's round-trip time this often.
const YAMUX_S: f64 = 10.0;
/// Gossipsub's mesh by its defaults: each message is sent on to all but the neighbour that it came from.
const MESH: f64 = 6.0;
/// From here on members report to sub-leaders.
const SUB_LEADERS_FROM: f64 = 128.0;

/// What to print.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measured figures to put beside the models: a JSON array of {"system", "nodes", "bytes_s"}
    #[arg(long)]
    measured: Option<PathBuf>,
    /// Writes the plot to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
struct Measured {
    system: String,
    nodes: f64,
    bytes_s: f64,
    /// Not with real processes.
    #[serde(default)]
    simulated: bool,
}

/// A system and its model.
struct System {
    name: &'static str,
    colour: &'static str,
    bytes_s: fn(f64) -> f64,
}

const SYSTEMS: &[System] = &[
    System { name: "heartbeats by gossip", colour: "#b03a2e", bytes_s: heartbeats },
    System { name: "chitchat", colour: "#b9770e", bytes_s: chitchat },
    System { name: "serf", colour: "#2471a3", bytes_s: serf },
    System { name: "foca", colour: "#717d7e", bytes_s: foca },
    System { name: "paceline", colour: "#1e8449", bytes_s: paceline },
];

/// Every member gossips a heartbeat of 120 bytes each second to everybody (gossipsub, D = 6): five copies of each, and
/// each id offered to six more in three rounds.
fn heartbeats(n: f64) -> f64 {
    let message = 320.0;
    n * ((MESH - 1.0) * message + 3.0 * 6.0 * 58.0)
}

/// Three exchanges of digests a second, each with an entry for every member (Apache Cassandra's design).
fn chitchat(n: f64) -> f64 {
    870.0 + 6.0 * 7.5 * n
}

/// SWIM's probe (one ping and one ack a second), and memberlist's exchange of whole states every 30 s, which it does
/// more rarely from 32 members on.
fn serf(n: f64) -> f64 {
    let rarer = (n / 32.0).log2().ceil().max(0.0) + 1.0;
    267.0 + 2.0 * 560.0 * n / (30.0 * rarer)
}

/// SWIM's probe alone: no metadata, no repair.
fn foca(n: f64) -> f64 {
    80.0 + 0.06 * n
}

/// Probe and ack with an acknowledgement, heartbeats, summaries, and what a link costs.
fn paceline(n: f64) -> f64 {
    let probe = 2.0 * (TCP + FRAMES + 13.0) + TCP;
    let reports = if n >= SUB_LEADERS_FROM { 1.0 / n.sqrt() } else { 0.0 };
    let beat = (1.0 + reports) * (TCP + FRAMES + 20.0 + TCP) / HEARTBEAT_S;
    let copies = (GOSSIP_NEIGHBOURS as f64).min(n - 2.0).max(0.0);
    let summary = copies * (TCP + 145.0 + FRAMES + TCP / 2.0) / HEARTBEAT_S;
    let checkpoint = copies * (n / 8.0) / (HEARTBEAT_S * CHECKPOINT_EVERY);
    let links = LINKS.min(n - 1.0) * (2.0 * (TCP + FRAMES) + TCP) / YAMUX_S;
    probe + beat + summary + checkpoint + links
}

/// A gateway keeps a link to everybody who comes, up to its bound; and so does the leader as long as there are no sub-leaders.
fn gateway(n: f64) -> f64 {
    paceline(n) + ((n - 1.0).min(LINKS_OF_HUBS) - LINKS).max(0.0) * (2.0 * (TCP + FRAMES) + TCP) / YAMUX_S
}

/// Prints the tables, and writes the plot.
///
/// # Errors
/// A file cannot be read or written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let measured: Vec<Measured> = match &options.measured {
        Some(path) => serde_json::from_slice(&std::fs::read(path).with_context(|| format!("{}", path.display()))?)
            .with_context(|| format!("{}", path.display()))?,
        None => Vec::new(),
    };
    print!("{}", table(&measured));
    if let Some(path) = &options.svg {
        std::fs::write(path, svg(&measured)).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

fn amount(bytes: f64) -> String {
    match bytes {
        b if b < 9_950.0 => format!("{b:.0} B"),
        b if b < 999_500.0 => format!("{:.0} kB", b / 1e3),
        b => format!("{:.1} MB", b / 1e6),
    }
}

fn table(measured: &[Measured]) -> String {
    let sizes = [8.0, 32.0, 100.0, 1_000.0, 10_000.0];
    let mut out = "| bytes a member sends in a second |".to_owned();
    for n in sizes {
        let _ = write!(out, " N = {n} |");
    }
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(sizes.len()));
    let mut row = |name: &str, cell: &dyn Fn(f64) -> String| {
        let _ = write!(out, "| {name} |");
        for n in sizes {
            let _ = write!(out, " {} |", cell(n));
        }
        out.push('\n');
    };
    for system in SYSTEMS {
        row(system.name, &|n| amount((system.bytes_s)(n)));
        for (simulated, how) in [(false, "measured"), (true, "simulated")] {
            let here = |m: &&Measured| m.system == system.name && m.simulated == simulated;
            let of = |n: f64| measured.iter().filter(here).find(|m| m.nodes == n);
            if sizes.iter().any(|n| of(*n).is_some()) {
                row(&format!("{}, {how}", system.name), &|n| of(n).map_or_else(String::new, |m| amount(m.bytes_s)));
            }
        }
    }
    row("paceline, a gateway", &|n| amount(gateway(n)));
    out
}

/// Both axes logarithmic: members from 4 to 10,000, bytes from 50 to 50 million.
fn svg(measured: &[Measured]) -> String {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 20.0;
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 380.0;
    let x = |n: f64| LEFT + WIDTH * (n / 4.0).log10() / 2_500.0_f64.log10();
    let y = |b: f64| TOP + HEIGHT * (1.0 - (b / 50.0).log10() / 1e6_f64.log10());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 150.0,
        TOP + HEIGHT + 50.0
    );
    for b in [100.0, 1e3, 1e4, 1e5, 1e6, 1e7] {
        let at = y(b);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            if b < 1e3 {
                format!("{b:.0} B")
            } else if b < 1e6 {
                format!("{:.0} kB", b / 1e3)
            } else {
                format!("{:.0} MB", b / 1e6)
            },
        );
    }
    for n in [10.0, 100.0, 1_000.0, 10_000.0] {
        let at = x(n);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}v{HEIGHT}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>",
            TOP + HEIGHT + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">members; bytes that one sends in a second while nothing happens \
         (lines: models, dots: measured, rings: simulated)</text>",
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 40.0
    );
    let mut labels: Vec<(f64, &System)> = Vec::new();
    for system in SYSTEMS {
        let points = (0..=60).map(|i| 4.0 * 2_500.0_f64.powf(f64::from(i) / 60.0));
        let line: Vec<String> = points.map(|n| format!("{:.1},{:.1}", x(n), y((system.bytes_s)(n)))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"/>",
            line.join(" "),
            system.colour,
            if system.name == "paceline" { 3 } else { 1 }
        );
        for m in measured.iter().filter(|m| m.system == system.name) {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" stroke=\"{}\" fill=\"{}\"/>",
                x(m.nodes),
                y(m.bytes_s),
                system.colour,
                if m.simulated { "white" } else { system.colour }
            );
        }
        labels.push((y((system.bytes_s)(10_000.0)), system));
    }
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = f64::NEG_INFINITY;
    for (at, system) in labels {
        last = at.max(last + 14.0);
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            LEFT + WIDTH + 8.0,
            last + 4.0,
            system.colour,
            system.name
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_member_hardly_grows() {
        assert!(paceline(10_000.0) < 1.1 * paceline(100.0));
        assert!(serf(10_000.0) > 10.0 * serf(100.0));
        assert!(heartbeats(10_000.0) > 1e7);
    }

    #[test]
    fn measured_figures_stand_beside_the_models() {
        let of = |nodes, simulated| Measured { system: "paceline".to_owned(), nodes, bytes_s: 701.0, simulated };
        let measured = [of(8.0, false), of(100.0, true)];
        let table = table(&measured);
        assert!(table.contains("| paceline, simulated |  |  | 701 B |"), "{table}");
        assert!(table.contains("| paceline, measured | 701 B |"), "{table}");
        let svg = svg(&measured);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("<polyline").count(), SYSTEMS.len());
    }
}
