//! Nobody who is alive and reachable is declared dead, at 0, 5 or 20 % loss.

use std::time::Duration;

use paceline_proto::view::MemberState;

use super::{Fact, Invariant, World};

/// A fault that ended less than this ago may still be the cause: a suspicion at its longest, and the way of the news.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Where packets are lost, so many hosts that others can dial must be there: with fewer there may be no relay to ask, and one
/// stream that stalls for six seconds (every 3,000th message at 20 % loss) is all that one knows of another.
const RELAYED: usize = 5;

/// Stateless: what is true says it all.
pub struct NoFalseDeath;

impl Invariant for NoFalseDeath {
    fn name(&self) -> &'static str {
        "nobody alive and reachable is declared dead"
    }

    fn fact(&mut self, fact: &Fact, world: World<'_>) -> Option<String> {
        let Fact::State { observer, subject, from, to } = fact else { return None };
        // A newcomer may hear of an earlier end of a member before it hears of the member.
        if observer == subject || from.is_none() || !matches!(to, MemberState::Dead | MemberState::Left) {
            return None;
        }
        let settled = |host| world.beliefs.truth(host).is_settled(AFTERMATH, world.now);
        let relays = || world.beliefs.up().filter(|h| world.beliefs.truth(*h).dialable && settled(*h)).count();
        if world.lossy && relays() < RELAYED {
            return None;
        }
        (settled(*observer) && settled(*subject) && world.beliefs.meet(*observer, *subject, AFTERMATH, world.now))
            .then(|| format!("host {observer} takes host {subject} for {to:?}, which is up and reachable"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn a_false_death_is_seen_and_a_true_one_or_an_excused_one_is_none() {
        let mut history = History::of(4);
        let death = Fact::State { observer: 0, subject: 1, from: Some(MemberState::Suspect), to: MemberState::Dead };
        assert!(NoFalseDeath.fact(&death, history.at(60)).is_some());
        assert!(NoFalseDeath.fact(&death, history.at(20)).is_none(), "just started");
        history.beliefs.set_fault(1, true, Duration::from_secs(50));
        assert!(NoFalseDeath.fact(&death, history.at(60)).is_none(), "out of reach");
        history.beliefs.set_fault(1, false, Duration::from_secs(61));
        assert!(NoFalseDeath.fact(&death, history.at(80)).is_none(), "was out of reach");
        assert!(NoFalseDeath.fact(&death, history.at(92)).is_some());
        (0..4).for_each(|host| history.beliefs.set_dialable(host, host == 2));
        assert!(NoFalseDeath.fact(&death, history.at(92)).is_some(), "they meet at a third host");
        history.beliefs.set_fault(2, true, Duration::from_secs(80));
        assert!(NoFalseDeath.fact(&death, history.at(92)).is_none(), "which is out of reach");
        history.beliefs.set_dialable(1, true);
        assert!(NoFalseDeath.fact(&death, history.at(92)).is_some());
        let lossy = super::World { lossy: true, ..history.at(92) };
        assert!(NoFalseDeath.fact(&death, lossy).is_none(), "a stream may stall");
        history.beliefs.set_up(1, false, false, Duration::from_secs(93));
        assert!(NoFalseDeath.fact(&death, history.at(94)).is_none(), "it is so");
    }
}
