//! What stands outside of the nodes: Kademlia as an oracle that is late and out of date, and the store of the summary.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use paceline_proto::node::ProviderKey;

use crate::sim::HostId;
use crate::sim::rng::Rng;

/// An answer of Kademlia takes at least this long, and up to so much more.
const ANSWER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(300));
/// Kademlia still names whoever has gone for this long.
const STALE: Duration = Duration::from_secs(9 * 60);
/// It gives so many hints.
const PROVIDERS_MAX: usize = 20;
/// Copies of the summary at different peers, some of them older.
const COPIES: usize = 3;
/// A write takes up to this long.
const WRITE: Duration = Duration::from_millis(300);
/// A store that is down does not answer within this.
const WRITE_GIVEN_UP: Duration = Duration::from_secs(5);

/// Kademlia and the store.
#[derive(Debug)]
pub struct Hints {
    provided: BTreeMap<ProviderKey, BTreeSet<HostId>>,
    withdrawn: BTreeMap<(ProviderKey, HostId), Duration>,
    summaries: Vec<Vec<u8>>,
    has_store: bool,
    down: bool,
    writes: u32,
}

impl Hints {
    /// Nothing is known; `has_store` where some host can write.
    pub fn new(has_store: bool) -> Self {
        Self {
            provided: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            summaries: Vec::new(),
            has_store,
            down: false,
            writes: 0,
        }
    }

    /// A provider record is put.
    pub fn provide(&mut self, key: ProviderKey, host: HostId) {
        self.withdrawn.remove(&(key.clone(), host));
        self.provided.entry(key).or_default().insert(host);
    }

    /// It is taken out, where it is known.
    pub fn unprovide(&mut self, key: &ProviderKey, host: HostId, now: Duration) {
        if self.provided.get_mut(key).is_some_and(|hosts| hosts.remove(&host)) {
            self.withdrawn.insert((key.clone(), host), now);
        }
    }

    /// A process ended: its records age away.
    pub fn gone(&mut self, host: HostId, now: Duration) {
        let keys: Vec<_> = self.provided.iter().filter(|(_, h)| h.contains(&host)).map(|(k, _)| k.clone()).collect();
        keys.iter().for_each(|key| self.unprovide(key, host, now));
    }

    /// Who is said to provide it, whoever has gone lately among them.
    pub fn find(&mut self, key: &ProviderKey, now: Duration) -> Vec<HostId> {
        self.withdrawn.retain(|_, at| *at + STALE > now);
        let stale = self.withdrawn.keys().filter(|(k, _)| k == key).map(|(_, h)| *h);
        let fresh = self.provided.get(key).into_iter().flatten().copied();
        fresh.chain(stale).take(PROVIDERS_MAX).collect()
    }

    /// A summary is put.
    pub fn store(&mut self, bytes: Vec<u8>) {
        self.summaries.insert(0, bytes);
        self.summaries.truncate(COPIES);
    }

    /// One of the copies.
    pub fn stored(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        self.summaries.get(rng.below(self.summaries.len())).cloned()
    }

    /// How long an answer takes.
    pub fn delay(&self, rng: &mut Rng) -> Duration {
        ANSWER.0 + rng.up_to(ANSWER.1)
    }

    /// The store answers nothing (or again).
    pub fn set_down(&mut self, down: bool) {
        self.down = down;
    }

    /// A write: how long it takes, whether it is stored, and how many the store has seen. Runs of more than a day count on.
    pub fn write(&mut self, _now: Duration, rng: &mut Rng) -> (Duration, bool, Option<u32>) {
        if self.down || !self.has_store {
            return (WRITE_GIVEN_UP, false, None);
        }
        self.writes += 1;
        (rng.up_to(WRITE), true, Some(self.writes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_proto::id::Role;

    #[test]
    fn hints_are_out_of_date_for_a_while() {
        let (mut hints, mut rng) = (Hints::new(true), Rng::new(1));
        let (key, s) = (ProviderKey::Role(Role::Gateway), Duration::from_secs);
        hints.provide(key.clone(), 4);
        hints.gone(4, s(10));
        assert_eq!(hints.find(&key, s(20)), [4]);
        assert!(hints.find(&key, s(600)).is_empty());
        assert_eq!(hints.stored(&mut rng), None);
        (0..5).for_each(|n| hints.store(vec![n]));
        assert!(hints.stored(&mut rng).is_some_and(|s| s[0] >= 2));
        assert_eq!(hints.write(s(0), &mut rng).2, Some(1));
        hints.set_down(true);
        assert!(!hints.write(s(0), &mut rng).1);
    }
}
