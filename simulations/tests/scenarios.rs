//! Each scenario of the folder, with two seeds, as far as its invariants go; and the same seed twice, to the last byte.

use std::path::Path;

use paceline_simulations::sim::report::Report;
use paceline_simulations::sim::run::simulate;
use paceline_simulations::sim::scenario::Scenario;

/// Seeds that each scenario is run with here; more of them are searched by hand.
const SEEDS: [u64; 2] = [1, 2];
/// Hosts at most: these runs are of a debug build.
const NODES_MAX: usize = 12;

fn all() -> Vec<(String, Scenario)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = folder.read_dir().expect("the folder").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let read = |path: &Path| {
        let mut scenario = Scenario::read(path).unwrap_or_else(|e| panic!("{e:#}"));
        scenario.nodes = scenario.nodes.min(NODES_MAX);
        (path.file_stem().expect("a name").to_string_lossy().into_owned(), scenario)
    };
    files.iter().map(|path| read(path)).collect()
}

#[test]
fn every_invariant_holds_in_every_scenario() {
    let scenarios = all();
    assert!(scenarios.len() >= 12, "{} scenarios", scenarios.len());
    let mut broken = String::new();
    for (name, scenario) in &scenarios {
        for seed in SEEDS {
            let world = simulate(scenario, seed, false).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let report = Report::of(&world, name, seed);
            if !report.violations.is_empty() {
                broken += &report.text();
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn a_seed_gives_the_same_run_and_another_one_another() {
    let (name, scenario) = all().into_iter().find(|(name, _)| name == "churn").expect("churn.toml");
    let traced = |seed| {
        let world = simulate(&scenario, seed, false).expect("runs");
        serde_json::to_string(&Report::of(&world, &name, seed)).expect("JSON")
    };
    assert_eq!(traced(7), traced(7));
    assert_ne!(traced(7), traced(8));
}

#[test]
fn hosts_that_know_a_part_cost_what_hosts_cost_that_know_everybody() {
    let (name, mut scenario) = all().into_iter().find(|(name, _)| name == "large").expect("large.toml");
    (scenario.nodes, scenario.gateways) = (48, 2);
    let mut cost = |whole| {
        scenario.whole = whole;
        let world = simulate(&scenario, 1, false).expect("runs");
        let report = Report::of(&world, &name, 1);
        assert!(report.violations.is_empty(), "{}", report.text());
        assert!(report.news.iter().all(|news| news.heard == news.readers), "{}", report.text());
        let steady = report.steady.expect("a quiet while");
        (steady.wire_bytes_s_node, steady.messages_s_node)
    };
    let (all, part) = (cost(48), cost(12));
    assert!((part.0 / all.0 - 1.0).abs() < 0.1 && (part.1 / all.1 - 1.0).abs() < 0.1, "{all:?} {part:?}");
}
