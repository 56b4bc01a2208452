//! Markdown tables, and the figures beside the marks that the project set itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::rows::Name;
use super::stats::{median, ratio};
use super::work::{Figures, WORKLOADS, Workload};

/// Figures by workload, row and round; a round that failed holds `None`.
pub(super) type Results = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Option<Figures>>>>;

/// A figure of one row, and the most or the least that it may be as a multiple of another row's.
struct Mark {
    workload: &'static str,
    figure: &'static str,
    row: Name,
    base: Option<Name>,
    limit: Limit,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

use Limit::{AtLeast, AtMost};

const fn mark(workload: &'static str, figure: &'static str, base: Name, limit: Limit) -> Mark {
    Mark { workload, figure, row: Name::Paceline, base: Some(base), limit }
}

const fn absolute(workload: &'static str, figure: &'static str, limit: Limit) -> Mark {
    Mark { workload, figure, row: Name::Paceline, base: None, limit }
}

/// The marks for the request path. Those for bulk are set against a bare QUIC forwarder, which is not run here: it
/// moved 0.51 (one download), 0.42 (four) and 0.57 (one upload) times what nginx-2hop-tls did when it was measured.
const MARKS: &[Mark] = &[
    mark("get-1k-1", "p50_us", Name::Nginx2HopTls, AtMost(1.15)),
    mark("get-1k-1", "cpu_us", Name::Nginx2HopTls, AtMost(1.15)),
    mark("get-1k-32", "req_s", Name::Nginx2HopTls, AtLeast(1.1)),
    mark("get-1k-256", "req_s", Name::Nginx2HopTls, AtLeast(1.1)),
    mark("get-1k-256", "cpu_us", Name::Nginx2HopTls, AtMost(0.9)),
    mark("get-1k-256", "p99_us", Name::Nginx2HopTls, AtMost(1.0)),
    mark("get-64m-1", "mb_s", Name::Nginx2HopTls, AtLeast(0.51)),
    mark("get-64m-4", "mb_s", Name::Nginx2HopTls, AtLeast(0.42)),
    mark("get-64m-4", "cpu_ms_mb", Name::Nginx2HopTls, AtMost(2.1)),
    mark("post-64m-1", "mb_s", Name::Nginx2HopTls, AtLeast(0.57)),
    mark("sse-32", "delay_p50_us", Name::Nginx2HopTls, AtMost(1.15)),
    mark("sse-32", "delay_p99_us", Name::Nginx2HopTls, AtMost(0.6)),
    mark("connect-16", "req_s", Name::Nginx2HopTls, AtLeast(1.0)),
    absolute("idle", "pss_mib", AtMost(80.0)),
    Mark {
        workload: "get-1k-256",
        figure: "cpu_us",
        row: Name::PacelineLocal,
        base: Some(Name::Nginx),
        limit: AtMost(1.8),
    },
    absolute("start", "ready_ms", AtMost(1000.0)),
    absolute("start", "routable_ms", AtMost(1000.0)),
    absolute("start", "up_rss_mib", AtMost(25.0)),
    absolute("start", "node_rss_mib", AtMost(25.0)),
    absolute("start", "up_cpu_ms_s", AtMost(5.0)),
    absolute("start", "node_cpu_ms_s", AtMost(5.0)),
];

/// One figure of a row, round by round.
fn rounds(results: &Results, workload: &str, row: Name, figure: &str) -> Vec<Option<f64>> {
    let runs = results.get(workload).and_then(|rows| rows.get(row.as_str()));
    runs.into_iter().flatten().map(|run| run.as_ref()?.get(figure).copied()).collect()
}

fn typical(results: &Results, workload: &str, row: Name, figure: &str) -> Option<f64> {
    median(&rounds(results, workload, row, figure).into_iter().flatten().collect::<Vec<_>>())
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 1000.0 => thousands(value.round() as u64),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or("")).collect();
    groups.join(",")
}

fn quotient(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}x"))
}

fn line(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn table(out: &mut String, results: &Results, workload: &Workload, rows: &[Name]) {
    let ratios = [Name::Direct, Name::Nginx2HopTls].map(|base| (base, rows.contains(&base)));
    let bases = || ratios.iter().filter(|(base, there)| *there && workload.applies(*base)).map(|(base, _)| *base);
    let _ = writeln!(out, "\n### {}\n", workload.title);
    let head = &workload.columns[0];
    let mut cells = vec!["row".to_owned(), head.title.to_owned(), "least - most".to_owned()];
    cells.extend(bases().map(|base| format!("x {}", base.as_str())));
    cells.extend(workload.columns[1..].iter().map(|column| column.title.to_owned()));
    cells.push("errors".to_owned());
    line(out, &cells);
    line(out, &vec!["---".to_owned(); cells.len()]);
    for row in rows.iter().copied().filter(|row| workload.applies(*row)) {
        let heads = rounds(results, workload.name, row, head.figure);
        let known: Vec<f64> = heads.iter().flatten().copied().collect();
        let (least, most) = (known.iter().copied().reduce(f64::min), known.iter().copied().reduce(f64::max));
        let mut cells = vec![row.as_str().to_owned(), number(median(&known))];
        cells.push(format!("{} - {}", number(least), number(most)));
        let against = |base| quotient(ratio(&heads, &rounds(results, workload.name, base, head.figure)));
        cells.extend(bases().map(against));
        cells.extend(workload.columns[1..].iter().map(|c| number(typical(results, workload.name, row, c.figure))));
        // An empty sum of floats is -0.
        let errors = rounds(results, workload.name, row, "errors").into_iter().flatten().sum::<f64>() + 0.0;
        let failed = heads.iter().filter(|round| round.is_none()).count();
        cells.push(if failed > 0 { format!("{errors}, {failed} rounds failed") } else { errors.to_string() });
        line(out, &cells);
    }
}

fn marks(out: &mut String, results: &Results, rows: &[Name]) {
    let _ = writeln!(out, "\n### Against the marks\n");
    let cells = ["workload", "figure", "row", "measured", "mark", "met", "times the mark (1 or less is met)"];
    line(out, &cells.map(str::to_owned));
    line(out, &["---"; 7].map(str::to_owned));
    for mark in MARKS {
        let measured = match mark.base {
            Some(base) if rows.contains(&base) => ratio(
                &rounds(results, mark.workload, mark.row, mark.figure),
                &rounds(results, mark.workload, base, mark.figure),
            ),
            Some(_) => None,
            None => typical(results, mark.workload, mark.row, mark.figure),
        };
        let Some(measured) = measured else { continue };
        let (sign, limit, times) = match mark.limit {
            AtMost(limit) => ("<=", limit, measured / limit),
            AtLeast(limit) => (">=", limit, limit / measured),
        };
        let unit = mark.base.map_or(String::new(), |base| format!("x {}", base.as_str()));
        let cells = [
            mark.workload.to_owned(),
            mark.figure.to_owned(),
            mark.row.as_str().to_owned(),
            format!("{} {unit}", number(Some(measured))),
            format!("{sign} {} {unit}", number(Some(limit))),
            if times <= 1.0 { "yes" } else { "no" }.to_owned(),
            format!("{times:.2}"),
        ];
        line(out, &cells);
    }
}

/// The whole report.
pub(super) fn markdown(results: &Results, rows: &[Name]) -> String {
    let mut out = String::new();
    for workload in WORKLOADS.iter().filter(|workload| results.contains_key(workload.name)) {
        table(&mut out, results, workload, rows);
    }
    if rows.contains(&Name::Paceline) {
        marks(&mut out, results, rows);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(req_s: f64) -> Option<Figures> {
        Some([("req_s", req_s), ("errors", 1.0)].map(|(name, value)| (name.to_owned(), value)).into())
    }

    #[test]
    fn tables_hold_medians_ratios_and_failures() {
        let rows = [Name::Direct, Name::Paceline, Name::Nginx2HopTls];
        let of = |runs: [Option<Figures>; 3]| runs.to_vec();
        let results = Results::from([(
            "get-1k-32",
            BTreeMap::from([
                ("direct", of([run(2000.0), run(1000.0), run(4000.0)])),
                ("paceline", of([run(1000.0), run(500.0), None])),
                ("nginx-2hop-tls", of([run(500.0), run(250.0), run(100.0)])),
            ]),
        )]);
        let text = markdown(&results, &rows);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect("a line").to_owned();
        assert!(line("| direct ").contains("| 2,000 | 1,000 - 4,000 | 1.00x | 4.00x |"), "{text}");
        assert!(line("| paceline ").contains("| 750 | 500 - 1,000 | 0.50x | 2.00x |"), "{text}");
        assert!(line("| paceline ").contains("2, 1 rounds failed"), "{text}");
        assert!(
            line("| get-1k-32 ").contains("| 2.00 x nginx-2hop-tls | >= 1.10 x nginx-2hop-tls | yes | 0.55 |"),
            "{text}"
        );
    }

    #[test]
    fn marks_name_workloads_that_are_there() {
        for mark in MARKS {
            let workload = WORKLOADS.iter().find(|workload| workload.name == mark.workload).expect(mark.workload);
            let known = workload.columns.iter().any(|column| column.figure == mark.figure);
            assert!(known && workload.applies(mark.row), "{} {}", mark.workload, mark.figure);
        }
    }
}
