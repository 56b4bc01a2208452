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
