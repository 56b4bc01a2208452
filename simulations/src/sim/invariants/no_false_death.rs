//! Nobody who is alive and reachable is declared dead, at 0, 5 or 20 % loss.

use std::time::Duration;

use paceline_proto::view::MemberState;

use super::{Fact, Invariant, World};

/// A fault that ended less than this ago may still be the cause: a suspicion at its longest, and the way of the news.
const AFTERMATH: Duration = Duration::from_secs(30);

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
        (settled(*observer) && settled(*subject))
            .then(|| format!("host {observer} takes host {subject} for {to:?}, which is up and reachable"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn a_false_death_is_seen_and_a_true_one_or_an_excused_one_is_none() {
        let mut history = History::of(3);
        let death = Fact::State { observer: 0, subject: 1, from: Some(MemberState::Suspect), to: MemberState::Dead };
        assert!(NoFalseDeath.fact(&death, history.at(60)).is_some());
        assert!(NoFalseDeath.fact(&death, history.at(20)).is_none(), "just started");
        history.beliefs.set_fault(1, true, Duration::from_secs(50));
        assert!(NoFalseDeath.fact(&death, history.at(60)).is_none(), "out of reach");
        history.beliefs.set_fault(1, false, Duration::from_secs(61));
        assert!(NoFalseDeath.fact(&death, history.at(80)).is_none(), "was out of reach");
        assert!(NoFalseDeath.fact(&death, history.at(92)).is_some());
        history.beliefs.set_up(1, false, false, Duration::from_secs(93));
        assert!(NoFalseDeath.fact(&death, history.at(94)).is_none(), "it is so");
    }
}
