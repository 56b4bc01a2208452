//! What is wrong with the network now: from it follows how one host's packets reach another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::HostId;
use super::scenario::{Network, millis};

/// A fault of the network.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Nothing goes in or out of them, not even among them.
    Dark(BTreeSet<HostId>),
    /// They reach one another, and nobody else reaches them.
    Apart(BTreeSet<HostId>),
    /// What the first send to the second is lost; `None` is everybody.
    OneWay(BTreeSet<HostId>, Option<BTreeSet<HostId>>),
    /// Percent of what they send or get; `None` is everybody.
    Loss(Option<BTreeSet<HostId>>, f64),
    /// So much more on what they send or get, and up to as much again.
    Delay(Option<BTreeSet<HostId>>, Duration),
    /// Percent of gossip messages.
    Duplicate(f64),
    /// Percent of gossip messages.
    Reorder(f64),
}

/// How packets get from one host to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Nothing arrives.
    pub blocked: bool,
    /// Of each transmission.
    pub loss_percent: f64,
    /// At least.
    pub delay: Duration,
    /// And up to so much more.
    pub jitter: Duration,
}

/// The network as it is now.
#[derive(Debug)]
pub struct Conditions {
    base: Path,
    duplicate_percent: f64,
    reorder_percent: f64,
    // By the number of the fault.
    now: BTreeMap<usize, Condition>,
}

fn meets(hosts: &Option<BTreeSet<HostId>>, a: HostId, b: HostId) -> bool {
    hosts.as_ref().is_none_or(|set| set.contains(&a) || set.contains(&b))
}

impl Conditions {
    /// A network in good order.
    pub fn new(network: &Network) -> Self {
        let base = Path {
            blocked: false,
            loss_percent: network.loss_percent,
            delay: millis(network.delay_ms),
            jitter: millis(network.jitter_ms),
        };
        let (duplicate_percent, reorder_percent) = (network.duplicate_percent, network.reorder_percent);
        Self { base, duplicate_percent, reorder_percent, now: BTreeMap::new() }
    }

    /// A fault begins.
    pub fn begin(&mut self, number: usize, condition: Condition) {
        self.now.insert(number, condition);
    }

    /// It is over.
    pub fn end(&mut self, number: usize) -> Option<Condition> {
        self.now.remove(&number)
    }

    /// All faults that are there.
    pub fn numbers(&self) -> Vec<usize> {
        self.now.keys().copied().collect()
    }

    /// How packets get from one to the other.
    pub fn path(&self, from: HostId, to: HostId) -> Path {
        let mut path = self.base;
        for condition in self.now.values() {
            match condition {
                Condition::Dark(hosts) => path.blocked |= hosts.contains(&from) || hosts.contains(&to),
                Condition::Apart(hosts) => path.blocked |= hosts.contains(&from) != hosts.contains(&to),
                Condition::OneWay(a, b) => {
                    let there = b.as_ref().map_or(!a.contains(&to), |b| b.contains(&to));
                    path.blocked |= a.contains(&from) && there;
                }
                Condition::Loss(hosts, percent) if meets(hosts, from, to) => {
                    let kept = (100.0 - path.loss_percent) * (100.0 - percent) / 100.0;
                    path.loss_percent = 100.0 - kept;
                }
                Condition::Delay(hosts, more) if meets(hosts, from, to) => {
                    path.delay += *more;
                    path.jitter += *more;
                }
                _ => {}
            }
        }
        path
    }

    /// The most that is lost anywhere, in percent, where one fault alone counts.
    pub fn worst_loss(&self) -> f64 {
        let faults = self.now.values().map(|condition| match condition {
            Condition::Loss(_, percent) => self.base.loss_percent + percent,
            _ => 0.0,
        });
        faults.fold(self.base.loss_percent, f64::max)
    }

    /// Percent of gossip messages that come twice, and that come late.
    pub fn gossip(&self) -> (f64, f64) {
        let mut percents = (self.duplicate_percent, self.reorder_percent);
        for condition in self.now.values() {
            match condition {
                Condition::Duplicate(percent) => percents.0 = percents.0.max(*percent),
                Condition::Reorder(percent) => percents.1 = percents.1.max(*percent),
                _ => {}
            }
        }
        percents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_add_up_and_end() {
        let mut c = Conditions::new(&Network::default());
        let calm = c.path(0, 1);
        let set = |hosts: &[HostId]| hosts.iter().copied().collect::<BTreeSet<_>>();
        c.begin(0, Condition::Apart(set(&[0, 2])));
        assert!(c.path(0, 1).blocked && c.path(1, 2).blocked && !c.path(0, 2).blocked && !c.path(1, 3).blocked);
        c.begin(1, Condition::OneWay(set(&[0]), None));
        assert!(c.path(0, 2).blocked && !c.path(2, 0).blocked);
        c.end(0);
        c.begin(2, Condition::Loss(Some(set(&[3])), 50.0));
        c.begin(3, Condition::Loss(None, 20.0));
        assert!((c.path(3, 1).loss_percent - 60.0).abs() < 1e-9);
        assert!((c.path(1, 2).loss_percent - 20.0).abs() < 1e-9);
        c.begin(4, Condition::Dark(set(&[1])));
        assert!(c.path(1, 3).blocked && c.path(3, 1).blocked);
        c.numbers().into_iter().for_each(|n| _ = c.end(n));
        assert_eq!(c.path(0, 1), calm);
    }
}
