//! No two accepted summaries with the same (term, takeovers, seq) differ.

use std::collections::BTreeMap;

use super::{Fact, Invariant, World};
use crate::sim::leads::Lead;

/// What each number stood for when it was accepted first.
#[derive(Default)]
pub struct OneSummary {
    accepted: BTreeMap<(u64, u32, u64), Lead>,
}

impl Invariant for OneSummary {
    fn name(&self) -> &'static str {
        "one summary for each number"
    }

    fn fact(&mut self, fact: &Fact, _: World<'_>) -> Option<String> {
        let Fact::Lead { observer, lead } = fact else { return None };
        // Sequence 0 is a claim whose first summary has not come.
        if lead.leader.is_none() || lead.seq == 0 {
            return None;
        }
        let first = *self.accepted.entry(lead.order()).or_insert(*lead);
        (first != *lead).then(|| format!("host {observer} accepted {lead:?}, another accepted {first:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn two_leaders_with_one_number_are_seen() {
        let (mut history, mut invariant) = (History::of(3), OneSummary::default());
        let lead = |leader, seq| Lead { leader: Some(leader), term: 3, takeovers: 0, seq, alive: 3, writes_today: 0 };
        let mut tell = |observer, lead| invariant.fact(&Fact::Lead { observer, lead }, history.at(1));
        assert_eq!(tell(0, lead(1, 4)), None);
        assert_eq!(tell(2, lead(1, 4)), None);
        assert_eq!(tell(2, lead(0, 0)), None, "a claim alone");
        assert!(tell(2, lead(0, 4)).is_some());
        assert!(tell(2, Lead { alive: 2, ..lead(1, 4) }).is_some(), "the same leader, another content");
    }
}
