//! Who believes whom to lead, at any time and over the whole run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::HostId;

/// What a host believes of the lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lead {
    /// Who leads.
    pub leader: Option<HostId>,
    /// Of the claim.
    pub term: u64,
    /// Of the claim.
    pub takeovers: u32,
    /// Of the last summary.
    pub seq: u64,
    /// What that summary counts as alive.
    pub alive: u32,
    /// What that summary says of the writes of the day.
    pub writes_today: u32,
}

impl Lead {
    /// What is greater, the newer it is.
    pub fn order(&self) -> (u64, u32, u64) {
        (self.term, self.takeovers, self.seq)
    }

    fn claim(&self) -> Claim {
        (self.leader, self.term, self.takeovers)
    }
}

type Claim = (Option<HostId>, u64, u32);

/// A change of what a host believes; `None` where its process ends.
pub type Change = (Duration, HostId, Option<Lead>);

/// What all hosts that are up believe.
#[derive(Clone, Debug, Default)]
pub struct Leads {
    of: BTreeMap<HostId, Lead>,
    counts: BTreeMap<Claim, u32>,
    leading: BTreeSet<HostId>,
    changes: Vec<Change>,
}

impl Leads {
    /// What a host believes.
    pub fn of(&self, host: HostId) -> Lead {
        self.of.get(&host).copied().unwrap_or_default()
    }

    /// A host believes something else; `None` where its process ends. Says what it believed before.
    pub fn set(&mut self, host: HostId, lead: Option<Lead>, now: Duration) -> Option<Lead> {
        let before = match lead {
            Some(lead) => self.of.insert(host, lead),
            None => self.of.remove(&host),
        };
        if lead.is_some_and(|l| l.leader == Some(host)) {
            self.leading.insert(host);
        } else {
            self.leading.remove(&host);
        }
        if before.map(|l| l.claim()) != lead.map(|l| l.claim()) {
            if let Some(before) = before {
                let claim = before.claim();
                let count = self.counts.entry(claim).or_default();
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&claim);
                }
            }
            if let Some(lead) = lead {
                *self.counts.entry(lead.claim()).or_default() += 1;
            }
            self.changes.push((now, host, lead));
        }
        before
    }

    /// The one leader of all, where there is one.
    pub fn agreed(&self) -> Option<HostId> {
        let mut claims = self.counts.keys();
        claims.next().filter(|_| claims.next().is_none())?.0
    }

    /// Whom most believe to lead.
    pub fn most(&self) -> Option<HostId> {
        self.counts.iter().filter(|((leader, ..), _)| leader.is_some()).max_by_key(|(_, n)| **n)?.0.0
    }

    /// How many different claims are believed.
    pub fn claims(&self) -> usize {
        self.counts.len()
    }

    /// The hosts that believe themselves to lead.
    pub fn leading(&self) -> impl Iterator<Item = HostId> {
        self.leading.iter().copied()
    }

    /// Every change of a claim, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_one_claim_of_all() {
        let lead = |leader, term| Some(Lead { leader: Some(leader), term, ..Lead::default() });
        let at = Duration::from_secs;
        let mut leads = Leads::default();
        leads.set(0, lead(0, 1), at(0));
        leads.set(1, Some(Lead::default()), at(0));
        assert_eq!((leads.agreed(), leads.claims(), leads.most()), (None, 2, Some(0)));
        leads.set(1, lead(0, 1), at(1));
        assert_eq!(leads.agreed(), Some(0));
        leads.set(1, lead(1, 2), at(2));
        assert_eq!(leads.leading().collect::<Vec<_>>(), [0, 1]);
        leads.set(0, None, at(3));
        assert_eq!((leads.agreed(), leads.changes().len()), (Some(1), 5));
        let newer = leads.of(1);
        leads.set(1, Some(Lead { seq: 4, ..newer }), at(4));
        assert_eq!(leads.changes().len(), 5, "a summary is no change of the claim");
    }
}
