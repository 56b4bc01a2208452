//! No reader goes back: what a node believes of the lead only rises, and a restart does not fall below the claim on disk.

use std::collections::BTreeMap;

use super::{Fact, Invariant, World};
use crate::sim::HostId;

/// The newest that each host has believed.
#[derive(Default)]
pub struct NoWayBack {
    // The claim survives a restart; the number of the summary does not.
    seen: BTreeMap<HostId, (u64, u32, u64)>,
}

impl Invariant for NoWayBack {
    fn name(&self) -> &'static str {
        "no reader goes back"
    }

    fn fact(&mut self, fact: &Fact, _: World<'_>) -> Option<String> {
        match fact {
            Fact::Up { host } => {
                if let Some(seen) = self.seen.get_mut(host) {
                    seen.2 = 0;
                }
                None
            }
            Fact::Lead { observer, lead } if lead.leader.is_some() => {
                let seen = self.seen.entry(*observer).or_default();
                let (before, now) = (*seen, lead.order());
                // 0: the first summary of this leader has not come yet.
                let back = if now.2 == 0 { (before.0, before.1) > (now.0, now.1) } else { before > now };
                *seen = before.max(now);
                back.then(|| format!("host {observer} went from (term, takeovers, seq) {before:?} to {now:?}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;
    use crate::sim::leads::Lead;

    #[test]
    fn a_step_back_is_seen_also_across_a_restart() {
        let (mut history, mut invariant) = (History::of(2), NoWayBack::default());
        let lead = |term, seq| Lead { leader: Some(1), term, seq, ..Lead::default() };
        let mut tell = |fact| invariant.fact(&fact, history.at(1));
        let believes = |term, seq| Fact::Lead { observer: 0, lead: lead(term, seq) };
        assert_eq!(tell(believes(2, 5)), None);
        assert_eq!(tell(believes(2, 5)), None);
        assert!(tell(believes(2, 4)).is_some());
        assert_eq!(tell(believes(3, 0)), None);
        assert_eq!(tell(Fact::Up { host: 0 }), None);
        assert_eq!(tell(believes(3, 0)), None);
        assert!(tell(believes(2, 9)).is_some(), "below the claim on its disk");
    }
}
