//! `run`: one scenario with one seed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;

use super::report::Report;
use super::scenario::Scenario;
use super::world::World;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A file, or the name of one in simulations/scenarios
    scenario: String,
    /// From which everything follows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hosts, instead of what the scenario says
    #[arg(long)]
    nodes: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print what each node tells, and when, to standard error
    #[arg(long)]
    log: bool,
    /// And every message between them
    #[arg(long, requires = "log")]
    messages: bool,
    /// Draw who led when, and what each believed
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The scenario of a name or a path.
///
/// # Errors
/// One line: where, and what is wrong.
pub fn scenario(name: &str) -> anyhow::Result<Scenario> {
    let path = PathBuf::from(name);
    if path.is_file() {
        return Scenario::read(&path);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    Scenario::read(&PathBuf::from(folder).join(name).with_extension("toml"))
}

/// Runs a scenario to its end.
///
/// # Errors
/// A scenario that breaks a bound.
pub fn simulate(scenario: &Scenario, seed: u64, impatient: bool) -> anyhow::Result<World> {
    scenario.validate()?;
    let mut world = World::new(scenario, seed)?;
    world.run(impatient);
    Ok(world)
}

/// Runs it and prints the report.
///
/// # Errors
/// A scenario that cannot be read, a drawing that cannot be written, or a violation.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut scenario = scenario(&options.scenario)?;
    scenario.nodes = options.nodes.unwrap_or(scenario.nodes);
    let started = Instant::now();
    scenario.validate()?;
    let mut world = World::new(&scenario, options.seed)?;
    (world.log, world.log_messages) = (options.log, options.messages);
    world.run(false);
    let name = PathBuf::from(&options.scenario);
    let name = name.file_stem().map_or(options.scenario.clone(), |n| n.to_string_lossy().into_owned());
    let report = Report::of(&world, &name, options.seed);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
        eprintln!("  took {:.1} s", started.elapsed().as_secs_f64());
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, super::svg::draw(&world, &report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let violated = report.violations.len();
    anyhow::ensure!(violated == 0, "{violated} invariants were violated");
    Ok(())
}
