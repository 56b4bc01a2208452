//! Whoever died is gone everywhere in bounded time, and stays gone.

use std::collections::BTreeSet;
use std::time::Duration;

use paceline_proto::view::MemberState;

use super::{Fact, Invariant, World};
use crate::sim::HostId;
use crate::sim::beliefs::Belief;

/// Nobody may still believe in a dead member after this long out of every fault's reach. The mark is 5 s; here a run's worst
/// case counts, with suspicions at their longest (3 s times the poorest local health) and the accusers themselves dying.
const BOUND: Duration = Duration::from_secs(40);

/// Who has ended and was not yet seen to be gone everywhere.
#[derive(Default)]
pub struct GoneForGood {
    pending: BTreeSet<HostId>,
}

impl Invariant for GoneForGood {
    fn name(&self) -> &'static str {
        "the dead are gone everywhere, for good"
    }

    fn fact(&mut self, fact: &Fact, world: World<'_>) -> Option<String> {
        match fact {
            Fact::Down { host } => {
                self.pending.insert(*host);
                None
            }
            Fact::Up { host } => {
                self.pending.remove(host);
                None
            }
            Fact::State { observer, subject, from, to: MemberState::Alive | MemberState::Suspect }
                if !matches!(from, Some(MemberState::Alive | MemberState::Suspect)) =>
            {
                let (reader, dead) = (world.beliefs.truth(*observer), world.beliefs.truth(*subject));
                let long_dead = !dead.up && world.now.saturating_sub(dead.since) > BOUND;
                (long_dead && reader.is_settled(BOUND, world.now)).then(|| {
                    format!("host {observer} believes again in host {subject}, which ended at {:?}", dead.since)
                })
            }
            _ => None,
        }
    }

    fn tick(&mut self, world: World<'_>) -> Option<String> {
        let mut found = None;
        self.pending.retain(|subject| {
            let truth = world.beliefs.truth(*subject);
            if world.now.saturating_sub(truth.since) <= BOUND {
                return true;
            }
            let mut all_know = true;
            for observer in world.beliefs.observers() {
                let settled = world.beliefs.truth(observer).is_settled(BOUND, world.now);
                let believes = world.beliefs.of(observer, *subject).belief == Belief::Here;
                all_know &= settled && !believes;
                if settled && believes {
                    found.get_or_insert_with(|| {
                        format!("host {observer} still believes in host {subject}, which ended at {:?}", truth.since)
                    });
                    return false;
                }
            }
            !all_know
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::beliefs::{Cell, Order};
    use crate::sim::invariants::history::History;

    #[test]
    fn whoever_stays_or_comes_back_is_seen() {
        let (mut history, mut invariant) = (History::of(2), GoneForGood::default());
        history.beliefs.set_up(1, false, false, Duration::from_secs(50));
        invariant.fact(&Fact::Down { host: 1 }, history.at(50));
        assert_eq!(invariant.tick(history.at(80)), None, "still within bounds");
        assert!(invariant.tick(history.at(91)).is_some());
        assert_eq!(invariant.tick(history.at(92)), None, "told once");
        let back = Fact::State { observer: 0, subject: 1, from: Some(MemberState::Dead), to: MemberState::Alive };
        assert!(invariant.fact(&back, history.at(120)).is_some());
        history.beliefs.set_up(1, true, false, Duration::from_secs(121));
        assert_eq!(invariant.fact(&back, history.at(122)), None, "it is back");
    }

    #[test]
    fn whoever_is_gone_is_no_violation() {
        let (mut history, mut invariant) = (History::of(2), GoneForGood::default());
        history.beliefs.set_up(1, false, false, Duration::from_secs(50));
        invariant.fact(&Fact::Down { host: 1 }, history.at(50));
        history.beliefs.set(0, 1, Cell { belief: Belief::Dead, order: Order(1) });
        assert!((50..200).all(|s| invariant.tick(history.at(s)).is_none()));
        assert!(invariant.pending.is_empty());
    }
}
