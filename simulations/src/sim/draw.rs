//! Scenarios drawn from a seed: small clusters, quick heartbeats and short terms, so that much happens in little time.

use super::rng::Rng;
use super::scenario::{Fault, HONEST_LOSS_PERCENT, Hosts, Kind, Network, Scenario, Timing};

/// Hosts of a drawn scenario.
const NODES: (u64, u64) = (2, 14);
/// Faults of a drawn scenario, at most.
const FAULTS_MAX: usize = 6;
/// The first fault comes when the cluster stands.
const FIRST_S: u64 = 12;
/// The last fault begins so long after the first one can.
const SPAN_S: u64 = 60;
/// A fault lasts at most so long.
const FAULT_S_MAX: u64 = 45;
/// All must agree within so long after the heal: suspicions at their longest, dead members tried every five seconds, and a
/// digest exchange on top.
const CONVERGE_S: f64 = 75.0;

/// With fewer hosts there may be no relay to ask, and one stream that stalls for six seconds (every 3,000th message at 20 %
/// loss) is all that one knows of another.
pub const RELAYED: usize = 5;
/// What fewer hosts than that must bear, in percent.
pub const LOSS_OF_FEW: f64 = 5.0;

const KINDS: [Kind; 15] = [
    Kind::Kill,
    Kind::Leave,
    Kind::Hang,
    Kind::Dark,
    Kind::Partition,
    Kind::OneWay,
    Kind::Loss,
    Kind::Delay,
    Kind::Duplicate,
    Kind::Reorder,
    Kind::ClockJump,
    Kind::Churn,
    Kind::Change,
    Kind::Join,
    Kind::StoreDown,
];

fn one_of(rng: &mut Rng, of: &[f64]) -> f64 {
    of[rng.below(of.len())]
}

/// The scenario of a seed.
pub fn scenario(seed: u64) -> Scenario {
    // Another stream than that of the run itself.
    let rng = &mut Rng::new(seed ^ 0x5ce7_a210_0000_0000);
    let nodes = rng.between(NODES.0, NODES.1) as usize;
    let network = Network {
        delay_ms: rng.between(1, 40) as f64 / 2.0,
        jitter_ms: rng.between(0, 40) as f64 / 2.0,
        loss_percent: one_of(
            rng,
            &[0.0, 0.0, 1.0, 5.0, if nodes < RELAYED { LOSS_OF_FEW } else { HONEST_LOSS_PERCENT }],
        ),
        duplicate_percent: one_of(rng, &[0.0, 0.0, 10.0]),
        reorder_percent: one_of(rng, &[0.0, 0.0, 10.0]),
    };
    let timing =
        Timing { heartbeat_s: one_of(rng, &[1.0, 2.0, 5.0, 10.0]), term_s: one_of(rng, &[10.0, 20.0, 45.0, 600.0]) };
    let count = rng.below(FAULTS_MAX + 1);
    let fault: Vec<_> = (0..count).map(|_| self::fault(rng, nodes)).collect();
    let ends = fault.iter().map(|f| f.end_s().unwrap_or(f.at_s)).fold(FIRST_S as f64, f64::max);
    Scenario {
        about: format!("drawn from seed {seed}"),
        nodes,
        gateways: rng.between(1, 3.min(nodes as u64)) as usize,
        whole: 0,
        nat_percent: one_of(rng, &[0.0, 0.0, 30.0]),
        sinks: rng.below(3),
        hub_links: Scenario::default().hub_links,
        join_s: rng.between(0, 5) as f64,
        heal_s: ends + 1.0,
        converge_s: CONVERGE_S,
        network,
        timing,
        fault,
    }
}

fn fault(rng: &mut Rng, nodes: usize) -> Fault {
    let kind = KINDS[rng.below(KINDS.len())];
    let mut fault = Fault::new((FIRST_S + rng.between(0, SPAN_S)) as f64, kind);
    let lasting = rng.between(1, FAULT_S_MAX) as f64;
    let numbers: Vec<_> = (0..nodes).collect();
    let some = |rng: &mut Rng, most: usize| {
        let count = 1 + rng.below(most.max(1));
        Hosts::Numbers(rng.sample(&numbers, count))
    };
    // Whoever leads is where most is to be found.
    let whom = |rng: &mut Rng| if rng.below(3) == 0 { Hosts::Named("leader".to_owned()) } else { some(rng, nodes / 3) };
    match kind {
        Kind::Kill => {
            fault.hosts = whom(rng);
            fault.for_s = (rng.below(4) > 0).then_some(lasting);
            fault.disk = rng.below(4) > 0;
        }
        Kind::Leave => {
            fault.hosts = whom(rng);
            fault.for_s = (rng.below(2) > 0).then_some(lasting);
        }
        Kind::Hang | Kind::Dark => (fault.hosts, fault.for_s) = (whom(rng), Some(lasting)),
        Kind::Partition => (fault.hosts, fault.for_s) = (some(rng, nodes / 2), Some(lasting)),
        Kind::OneWay => {
            (fault.hosts, fault.for_s) = (whom(rng), Some(lasting));
            if rng.below(2) == 0 {
                fault.to = some(rng, nodes / 2);
            }
        }
        Kind::Loss => (fault.percent, fault.for_s) = (Some(rng.between(5, 60) as f64), Some(lasting)),
        Kind::Delay => (fault.delay_ms, fault.for_s) = (Some(rng.between(20, 1_500) as f64), Some(lasting)),
        Kind::Duplicate | Kind::Reorder => {
            (fault.percent, fault.for_s) = (Some(rng.between(5, 50) as f64), Some(lasting));
        }
        Kind::ClockJump => {
            (fault.hosts, fault.for_s) = (whom(rng), Some(lasting));
            let by = [30, 3_600, 86_400, 400 * 86_400][rng.below(4)];
            fault.by_s = Some(if rng.below(2) == 0 { by } else { -by });
            // Certificates are valid from a day before the start.
            fault.by_s = fault.by_s.map(|by| by.max(-43_200));
        }
        Kind::Churn => (fault.per_minute, fault.for_s) = (Some(rng.between(2, 20) as f64), Some(lasting)),
        Kind::Change => fault.hosts = whom(rng),
        Kind::Join => fault.count = Some(1 + rng.below(3)),
        Kind::StoreDown => fault.for_s = Some(lasting),
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_a_scenario_and_the_same_again() {
        for seed in 0..500 {
            let drawn = scenario(seed);
            drawn.validate().unwrap_or_else(|e| panic!("seed {seed}: {e:#}"));
            assert_eq!(drawn, scenario(seed));
            assert_eq!(Scenario::parse(&drawn.to_toml()).expect("its own text"), drawn);
        }
    }
}
