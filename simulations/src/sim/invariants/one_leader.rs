//! Never two leaders within reach of each other for longer than one interval.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Invariant, World};
use crate::sim::HostId;

/// After a fault, both of its sides need this long to meet again before two leaders are too many.
const MEET: Duration = Duration::from_secs(30);

/// Since when each of them has believed itself to lead.
#[derive(Default)]
pub struct OneLeader {
    since: BTreeMap<HostId, Duration>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "never two leaders for longer than an interval"
    }

    fn tick(&mut self, world: World<'_>) -> Option<String> {
        let settled = |host: &HostId| world.beliefs.truth(*host).is_settled(MEET, world.now);
        let leading: Vec<_> = world.leads.leading().filter(settled).collect();
        self.since.retain(|host, _| leading.contains(host));
        leading.iter().for_each(|host| _ = self.since.entry(*host).or_insert(world.now));
        let bound = world.heartbeat + Duration::from_secs(1);
        let long = self.since.iter().filter(|(_, since)| world.now.saturating_sub(**since) > bound);
        let long: Vec<_> = long.map(|(host, _)| *host).collect();
        let meet = |a: &HostId| long.iter().any(|b| a < b && world.beliefs.meet(*a, *b, MEET, world.now));
        if !long.iter().any(meet) {
            return None;
        }
        self.since.clear();
        Some(format!("hosts {leading:?} all believe to lead, for more than {bound:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;
    use crate::sim::leads::Lead;

    #[test]
    fn two_for_longer_than_an_interval_are_seen() {
        let (mut history, mut invariant) = (History::of(3), OneLeader::default());
        let lead = |leader, term| Some(Lead { leader: Some(leader), term, ..Lead::default() });
        history.leads.set(0, lead(0, 1), Duration::ZERO);
        assert!((31..90).all(|s| invariant.tick(history.at(s)).is_none()));
        history.leads.set(1, lead(1, 2), Duration::ZERO);
        assert!((90..=101).all(|s| invariant.tick(history.at(s)).is_none()), "an interval is allowed");
        assert!(invariant.tick(history.at(102)).is_some());
    }
}
