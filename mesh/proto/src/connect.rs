//! Whom to be connected to: every gateway (up to [`GATEWAYS_MAX`]) and [`OTHERS_MIN`] other members, chosen at random.
//!
//! Dead members are tried too, one now and then: after a partition nobody else would.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::id::NodeId;
use crate::rng::Rng;

/// Most gateways that a node keeps connections to for the sake of their role.
pub(crate) const GATEWAYS_MAX: usize = 8;
/// Fewest other members that a node keeps connections to, where there are as many.
pub(crate) const OTHERS_MIN: usize = 3;
/// Most dials under way at once.
const DIALS_MAX: usize = 8;
/// A dial without an answer is given up after this long.
const DIAL_GIVEN_UP: Duration = Duration::from_secs(15);
/// Wait after the first failure; doubled at each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Between two dials of dead members, while there are other connections.
const DEAD_EVERY: Duration = Duration::from_secs(5);

/// A member that might be dialled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) gateway: bool,
    /// Dead, and not departed.
    pub(crate) dead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    failures: u32,
    /// Under way, or not to be tried again, until then.
    until: Instant,
    under_way: bool,
}

/// Whom to be connected to.
#[derive(Debug)]
pub(crate) struct Connect {
    me: NodeId,
    attempts: BTreeMap<NodeId, Attempt>,
    next_dead: Option<Instant>,
}

impl Connect {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, attempts: BTreeMap::new(), next_dead: None }
    }

    /// The peer is connected.
    pub(crate) fn linked(&mut self, peer: &NodeId) {
        self.attempts.remove(peer);
    }

    /// A dial of the peer failed.
    pub(crate) fn failed(&mut self, peer: NodeId, rng: &mut Rng, now: Instant) {
        let failures = self.attempts.get(&peer).map_or(0, |a| a.failures).saturating_add(1);
        let wait = BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(6)).min(BACKOFF_MAX);
        self.attempts.insert(peer, Attempt { failures, until: now + rng.around(wait), under_way: false });
    }

    /// Whether a dial of the peer is under way already; if not, it is from now on.
    pub(crate) fn start(&mut self, peer: NodeId, now: Instant) -> bool {
        let attempt = self.attempts.entry(peer).or_insert(Attempt { failures: 0, until: now, under_way: false });
        if attempt.under_way && attempt.until > now {
            return false;
        }
        (attempt.under_way, attempt.until) = (true, now + DIAL_GIVEN_UP);
        true
    }

    /// Whom to dial now; each of them counts as being dialled.
    pub(crate) fn plan(
        &mut self,
        candidates: &[Candidate],
        links: &BTreeSet<NodeId>,
        rng: &mut Rng,
        now: Instant,
    ) -> Vec<NodeId> {
        let known: BTreeSet<_> = candidates.iter().map(|c| c.node).collect();
        self.attempts.retain(|node, a| known.contains(node) || a.until > now);
        let mut gateways: Vec<_> = candidates.iter().filter(|c| c.gateway && !c.dead).map(|c| c.node).collect();
        gateways.sort_by_key(|node| self.distance(node));
        gateways.truncate(GATEWAYS_MAX);
        let others: Vec<_> =
            candidates.iter().filter(|c| !c.dead && !gateways.contains(&c.node)).map(|c| c.node).collect();

        let under_way = self.attempts.values().filter(|a| a.under_way && a.until > now).count();
        let mut room = DIALS_MAX.saturating_sub(under_way);
        let mut chosen = Vec::new();
        for gateway in gateways.into_iter().filter(|g| !links.contains(g)) {
            if room > 0 && self.may_dial(&gateway, now) {
                chosen.push(gateway);
                room -= 1;
            }
        }
        let pending = |node: &&NodeId| self.attempts.get(node).is_some_and(|a| a.under_way && a.until > now);
        let have = others.iter().filter(|n| links.contains(n) || pending(n)).count();
        let mut free: Vec<_> = others.into_iter().filter(|n| !links.contains(n) && self.may_dial(n, now)).collect();
        for _ in have..OTHERS_MIN {
            if room == 0 || free.is_empty() {
                break;
            }
            chosen.push(free.swap_remove(rng.below(free.len())));
            room -= 1;
        }
        if room > 0 && (links.is_empty() || self.next_dead.is_none_or(|at| at <= now)) {
            let dead: Vec<_> = candidates
                .iter()
                .filter(|c| c.dead && !links.contains(&c.node) && self.may_dial(&c.node, now))
                .collect();
            if let Some(candidate) = rng.pick(&dead) {
                chosen.push(candidate.node);
                self.next_dead = Some(now + rng.around(DEAD_EVERY));
            }
        }
        for node in &chosen {
            self.start(*node, now);
        }
        chosen
    }

    fn may_dial(&self, node: &NodeId, now: Instant) -> bool {
        self.attempts.get(node).is_none_or(|a| a.until <= now)
    }

    /// Each node prefers other gateways, and the same ones each time.
    fn distance(&self, node: &NodeId) -> [u8; 32] {
        let mut distance = *node.as_bytes();
        for (byte, mine) in distance.iter_mut().zip(self.me.as_bytes()) {
            *byte ^= mine;
        }
        distance
    }
}

#[cfg(test)]
mod tests;
