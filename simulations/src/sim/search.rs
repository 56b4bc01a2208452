//! `search`: scenarios from random seeds, every invariant checked, and what fails made small and printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::invariants::Violation;
use super::run::simulate;
use super::scenario::Scenario;
use super::{draw, shrink};

/// Failures after which a search ends.
const FAILURES_MAX: usize = 10;
/// Most threads.
const THREADS_MAX: usize = 64;

/// How long to search, and where to begin.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// For so long
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The first seed; the others follow it. Left out, it is drawn from the time
    #[arg(long)]
    seed: Option<u64>,
    /// At most so many seeds
    #[arg(long)]
    count: Option<u64>,
    /// Runs at once
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Do not make smaller what fails
    #[arg(long)]
    no_shrink: bool,
}

/// What a scenario and a seed come to: the first violation, a panic included.
///
/// # Errors
/// The scenario breaks a bound.
pub fn judge(scenario: &Scenario, seed: u64) -> anyhow::Result<Option<Violation>> {
    scenario.validate()?;
    let run = catch_unwind(AssertUnwindSafe(|| simulate(scenario, seed, true)));
    match run {
        Ok(world) => Ok(world?.checker.violations.first().cloned()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let text = text.unwrap_or_else(|| "a panic".to_owned());
            Ok(Some(Violation { at_s: 0.0, invariant: "nothing panics", text }))
        }
    }
}

/// Searches, and prints what it found.
///
/// # Errors
/// A violation was found.
pub fn search(options: &Options) -> anyhow::Result<()> {
    let first = options.seed.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |d| d.as_secs() % 1_000_000 * 1_000_000)
    });
    let end = Instant::now() + Duration::from_secs_f64((options.minutes * 60.0).clamp(0.0, 86_400.0));
    let last = options.count.map_or(u64::MAX, |count| first.saturating_add(count));
    let (next, found) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let virtual_s = AtomicU64::new(0);
    println!("searching from seed {first}");
    std::thread::scope(|scope| {
        for _ in 0..options.threads.clamp(1, THREADS_MAX) {
            scope.spawn(|| {
                while Instant::now() < end && lock(&found).len() < FAILURES_MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let scenario = draw::scenario(seed);
                    virtual_s.fetch_add((scenario.heal_s + scenario.converge_s) as u64, Ordering::Relaxed);
                    if let Ok(Some(violation)) = judge(&scenario, seed) {
                        let text = told(&scenario, seed, &violation, options.no_shrink);
                        println!("{text}");
                        lock(&found).push(seed);
                    }
                }
            });
        }
    });
    let (searched, hours) = (next.into_inner().min(last) - first, virtual_s.into_inner() as f64 / 3_600.0);
    let found = found.into_inner().unwrap_or_default();
    println!("searched {searched} seeds from {first}, {hours:.1} h of virtual time: {} failed {found:?}", found.len());
    anyhow::ensure!(found.is_empty(), "invariants were violated");
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A failure as it can be kept: the seed, what was violated, and the smallest scenario.
fn told(scenario: &Scenario, seed: u64, violation: &Violation, whole: bool) -> String {
    let same = |s: &Scenario| judge(s, seed).ok().flatten().is_some_and(|v| v.invariant == violation.invariant);
    let small = if whole { scenario.clone() } else { shrink::shrink(scenario, same) };
    let again = judge(&small, seed).ok().flatten().unwrap_or_else(|| violation.clone());
    format!(
        "# seed {seed} at {:.3} s: {}\n# {}\n{}",
        again.at_s,
        again.invariant,
        again.text.replace('\n', " "),
        small.to_toml()
    )
}
