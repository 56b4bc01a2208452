//! Whom to be connected to: whom this node watches on the ring, every gateway (up to [`GATEWAYS_MAX`]), whoever else is asked
//! for, and [`OTHERS_MIN`] more members, chosen at random: a ring alone would be a long way round for gossip.
//!
//! Dead members are tried too, one now and then: after a partition nobody else would. Of connections that neither side needs, a
//! node keeps [`OTHERS_KEEP`] for gossip; a hub keeps them up to [`HUB_KEEPS`], so that newcomers always find room. Whom a
//! gateway lets go finds others, and comes back much later.
//!
//! Members are told of as they change; what is done each second does not grow with their number.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use crate::id::NodeId;
use crate::rng::Rng;

/// Most gateways that a node keeps connections to for the sake of their role.
pub(crate) const GATEWAYS_MAX: usize = 8;
/// Fewest further members that a node keeps connections to, where there are as many.
pub(crate) const OTHERS_MIN: usize = 3;
/// Connections that neither side needs, but gossip, which a node keeps, whoever made them: those to its three neighbours on
/// each side of the ring, to gateways and to the leader come on top, 14 or so in all.
pub(crate) const OTHERS_KEEP: usize = 2 * OTHERS_MIN;
/// Connections that a gateway or an entry point keeps: three quarters of what it may have at most, the rest is for newcomers.
pub(crate) const HUB_KEEPS: usize = 192;
/// A connection younger than this is not let go.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// A hub that has no more room lets newcomers go after this long: they have heard of all others by then.
const KEPT_BY_HUB: Duration = Duration::from_secs(10);
/// Connections that a hub lets go at once.
const SHED_MAX: usize = 8;
/// Whom a gateway has let go does not come back sooner, unless it has to.
const TURNED_AWAY: Duration = Duration::from_secs(120);
/// Nor does a node that has no other gateway: it may have been taken for dead, and have answered since.
const TURNED_AWAY_BY_ALL: Duration = Duration::from_secs(30);
/// Members that are looked at to find one at random that will do.
const LOOKED_AT: usize = 32;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
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
    candidates: BTreeMap<NodeId, Candidate>,
    /// The living ones among them, the preferred ones first.
    gateways: BTreeSet<([u8; 32], NodeId)>,
    alive: BTreeSet<NodeId>,
    dead: BTreeSet<NodeId>,
    /// Since when there is a connection.
    linked: BTreeMap<NodeId, Instant>,
    attempts: BTreeMap<NodeId, Attempt>,
    next_dead: Option<Instant>,
    /// At the last look, somebody was missing, or it will soon be time to try somebody.
    short: bool,
}

impl Connect {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            candidates: BTreeMap::new(),
            gateways: BTreeSet::new(),
            alive: BTreeSet::new(),
            dead: BTreeSet::new(),
            linked: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next_dead: None,
            short: false,
        }
    }

    /// What a member is now; `None`: departed, or forgotten.
    pub(crate) fn member(&mut self, node: NodeId, candidate: Option<Candidate>) {
        if node == self.me || self.candidates.get(&node).copied() == candidate {
            return;
        }
        self.gateways.remove(&(self.distance(&node), node));
        self.alive.remove(&node);
        self.dead.remove(&node);
        let Some(candidate) = candidate else {
            self.candidates.remove(&node);
            return;
        };
        self.candidates.insert(node, candidate);
        if candidate.dead {
            self.dead.insert(node);
            return;
        }
        self.alive.insert(node);
        if candidate.gateway {
            self.gateways.insert((self.distance(&node), node));
        }
    }

    /// Whether connections were missing at the last [`Connect::plan`], so that there is reason to look again soon.
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Whether any gateway is alive.
    pub(crate) fn knows_a_gateway(&self) -> bool {
        !self.gateways.is_empty()
    }

    /// The peer is connected.
    pub(crate) fn linked(&mut self, peer: NodeId, now: Instant) {
        self.attempts.remove(&peer);
        self.linked.insert(peer, now);
    }

    /// It is not any more.
    pub(crate) fn unlinked(&mut self, peer: &NodeId) {
        self.linked.remove(peer);
    }

    /// A dial of the peer failed.
    pub(crate) fn failed(&mut self, peer: NodeId, rng: &mut Rng, now: Instant) {
        let failures = self.attempts.get(&peer).map_or(0, |a| a.failures).saturating_add(1);
        let wait = BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(6)).min(BACKOFF_MAX);
        self.attempts.insert(peer, Attempt { failures, until: now + rng.around(wait), under_way: false });
    }

    /// The peer has closed the connection in good order: a gateway has others to care for.
    pub(crate) fn turned_away(&mut self, peer: NodeId, rng: &mut Rng, now: Instant) {
        let gateway = |node: &NodeId| self.candidates.get(node).is_some_and(|c| c.gateway && !c.dead);
        if gateway(&peer) && !self.linked.is_empty() {
            let wait = if self.linked.keys().any(gateway) { TURNED_AWAY } else { TURNED_AWAY_BY_ALL };
            let until = now + rng.around(wait);
            self.attempts.insert(peer, Attempt { failures: 0, until, under_way: false });
        }
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

    /// Whom to dial now; each of them counts as being dialled. `wanted` are those that this node needs by its own reasons.
    pub(crate) fn plan(&mut self, wanted: &[NodeId], rng: &mut Rng, now: Instant) -> Vec<NodeId> {
        let candidates = &self.candidates;
        self.attempts.retain(|node, a| candidates.contains_key(node) || a.until > now);
        let under_way = self.attempts.values().filter(|a| a.under_way && a.until > now).count();
        let mut room = DIALS_MAX.saturating_sub(under_way);
        let gateways = self.gateways.iter().take(GATEWAYS_MAX).map(|(_, node)| *node);
        let living = wanted.iter().copied().filter(|node| self.alive.contains(node));
        let first: Vec<_> = living.chain(gateways).collect();

        let mut chosen: Vec<NodeId> = Vec::new();
        for node in &first {
            // Whom it needs, it does not leave alone.
            let may = self.may_dial(node, now) || wanted.contains(node) && self.is_turned_away(node);
            if room > 0 && !chosen.contains(node) && may {
                chosen.push(*node);
                room -= 1;
            }
        }
        let other = |node: &NodeId| !first.contains(node) && self.alive.contains(node);
        let pending = self.attempts.iter().filter(|(_, a)| a.under_way && a.until > now).map(|(node, _)| node);
        let have = self.linked.keys().chain(pending).filter(|node| other(node)).take(OTHERS_MIN).count();
        self.short = !self.dead.is_empty() || first.iter().any(|node| !self.linked.contains_key(node));
        for _ in have..OTHERS_MIN {
            let will_do = |node: &NodeId| other(node) && !chosen.contains(node) && self.may_dial(node, now);
            let Some(node) = at_random(&self.alive, rng, will_do).filter(|_| room > 0) else { break };
            chosen.push(node);
            room -= 1;
        }
        // Whoever is being dialled may not answer, and whoever failed is tried again.
        self.short |= self.attempts.values().any(|a| a.under_way || a.until > now) || !chosen.is_empty();
        if room > 0
            && (self.linked.is_empty() || self.next_dead.is_none_or(|at| at <= now))
            && let Some(node) = at_random(&self.dead, rng, |node| self.may_dial(node, now))
        {
            chosen.push(node);
            self.next_dead = Some(now + rng.around(DEAD_EVERY));
        }
        for node in &chosen {
            self.start(*node, now);
        }
        chosen
    }

    /// Connections to let go, if there are too many: old ones that neither side `needs`, between gateways none.
    pub(crate) fn surplus(
        &self,
        hub: bool,
        rng: &mut Rng,
        now: Instant,
        needs: impl Fn(&NodeId) -> bool,
    ) -> Vec<NodeId> {
        let gateway = |node: &NodeId| self.candidates.get(node).is_some_and(|c| c.gateway);
        let needless = || self.linked.iter().filter(|(node, _)| !gateway(node) && !needs(node));
        let (surplus, kept_for, most) = match hub {
            true => (self.linked.len().saturating_sub(HUB_KEEPS), KEPT_BY_HUB, SHED_MAX),
            false if self.linked.len() <= OTHERS_KEEP => return Vec::new(),
            false => (needless().count().saturating_sub(OTHERS_KEEP), KEPT_FOR, 1),
        };
        if surplus == 0 {
            return Vec::new();
        }
        let old = needless().filter(|(_, since)| now.saturating_duration_since(**since) >= kept_for);
        let mut old: Vec<_> = old.map(|(node, _)| *node).collect();
        let mut chosen = Vec::new();
        while chosen.len() < surplus.min(most) && !old.is_empty() {
            chosen.push(old.swap_remove(rng.below(old.len())));
        }
        chosen
    }

    fn may_dial(&self, node: &NodeId, now: Instant) -> bool {
        !self.linked.contains_key(node) && self.attempts.get(node).is_none_or(|a| a.until <= now)
    }

    fn is_turned_away(&self, node: &NodeId) -> bool {
        let idle = |a: &Attempt| a.failures == 0 && !a.under_way;
        !self.linked.contains_key(node) && self.attempts.get(node).is_some_and(idle)
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

/// Any that will do of [`LOOKED_AT`] neighbours in the order.
fn at_random(of: &BTreeSet<NodeId>, rng: &mut Rng, will_do: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
    let mut place = [0; 32];
    for (byte, random) in place.iter_mut().zip(rng.next_u64().to_be_bytes()) {
        *byte = random;
    }
    let place = NodeId::from_bytes(place);
    let around = of.range((Excluded(place), Unbounded)).chain(of.range(..=place));
    let found: Vec<_> = around.take(LOOKED_AT).filter(|node| will_do(node)).copied().collect();
    rng.pick(&found)
}

#[cfg(test)]
mod tests;
