//! Makes a scenario that fails smaller: fewer faults, fewer hosts, shorter, as long as the same invariant does not hold.

use super::draw::{LOSS_OF_FEW, RELAYED};
use super::scenario::{Network, Scenario, Timing};

/// Most runs that one shrinking takes.
const RUNS_MAX: usize = 200;

/// The smallest scenario found that still `fails`.
pub fn shrink(scenario: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let mut best = scenario.clone();
    let mut runs = 0;
    loop {
        let smaller = candidates(&best).into_iter().find(|candidate| {
            runs += 1;
            runs <= RUNS_MAX && candidate.validate().is_ok() && fails(candidate)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// All that is one step smaller, the greatest step first.
fn candidates(of: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = of.clone();
        change(&mut candidate);
        if candidate != *of {
            all.push(candidate);
        }
    };
    let count = of.fault.len();
    if count > 1 {
        with(&|s| _ = s.fault.drain(..count / 2));
        with(&|s| s.fault.truncate(count / 2));
    }
    (0..count).for_each(|at| with(&|s| _ = s.fault.remove(at)));
    // With much loss, few hosts fail for want of relays, which is another failure.
    let fewest = if of.network.loss_percent > LOSS_OF_FEW { of.nodes.min(RELAYED) } else { of.nodes.min(2) };
    for nodes in [of.nodes / 2, of.nodes - 1] {
        let nodes = nodes.max(fewest);
        with(&|s| (s.nodes, s.gateways) = (nodes, s.gateways.min(nodes)));
    }
    with(&|s| s.network = Network::default());
    with(&|s| s.network.loss_percent = 0.0);
    with(&|s| (s.network.duplicate_percent, s.network.reorder_percent) = (0.0, 0.0));
    with(&|s| s.timing = Timing { heartbeat_s: s.timing.heartbeat_s, ..Timing::default() });
    with(&|s| s.nat_percent = 0.0);
    with(&|s| s.gateways = 1);
    with(&|s| s.sinks = 0);
    with(&|s| s.join_s = 0.0);
    for at in 0..count {
        with(&|s| s.fault[at].for_s = s.fault[at].for_s.map(|f| (f / 2.0).ceil()));
        with(&|s| {
            if let super::scenario::Hosts::Numbers(numbers) = &mut s.fault[at].hosts {
                numbers.truncate(1);
            }
        });
    }
    let ends = of.fault.iter().map(|f| f.end_s().unwrap_or(f.at_s)).fold(1.0, f64::max);
    with(&|s| s.heal_s = s.heal_s.min(ends + 1.0));
    all
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Kind;
    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let (seed, big) =
            (0..).map(|s| (s, super::super::draw::scenario(s))).find(|(_, s)| s.fault.len() == 6).expect("one");
        let kind = big.fault[3].kind;
        let small = shrink(&big, |s| s.nodes >= 2 && s.fault.iter().any(|f| f.kind == kind));
        assert_eq!((small.fault.len(), small.fault[0].kind), (1, kind), "seed {seed}");
        assert!(small.nodes <= 2 && small.network == Network::default() && small.heal_s <= big.heal_s);
        assert_eq!(shrink(&big, |_| false), big, "nothing smaller fails");
        assert_ne!(Kind::Kill.name(), Kind::Leave.name());
    }
}
