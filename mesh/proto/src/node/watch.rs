//! Between the detector, the member table and the connections: who is watched, and what silence and answers mean there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Node, Output};
use crate::Now;
use crate::connect::Candidate;
use crate::detector::{self, Probe, Standing};
use crate::envelope::Signed;
use crate::id::{Incarnation, NodeId, Role};
use crate::membership;
use crate::message::Direct;
use crate::view::MemberState;

/// What it costs to ask for a ping, in the records that a peer may ask for; anything else of a probe costs one.
const PING_FOR_COST: u32 = 16;
/// For so long after its start a node accuses nobody on a mere silence: where many start at once, all are slow.
pub(super) const YOUNG: Duration = Duration::from_secs(10);
/// While many newcomers come, it is as young as on its first day, for so long at most.
pub(super) const YOUNG_MAX: Duration = Duration::from_secs(60);
/// Accusations of this node on a mere silence or a broken connection, at once and a second: whoever misses more members than
/// that is most likely the sick one, and waits for what the others say.
pub(super) const ACCUSATIONS: (u32, u32) = (4, 1);
/// Whoever was told that a connection is needed no more has so long to close it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Members, besides its neighbours on the ring, that tell an accused what is said of it, on average.
const TELLERS: usize = 8;

/// So many newcomers, each within [`ARRIVALS_END`] of the one before, are many at once.
const ARRIVALS_MANY: u32 = 3;
const ARRIVALS_END: Duration = Duration::from_millis(500);
/// For so long at most they keep this node from having connections to its neighbours on the ring.
const ARRIVALS_MAX: Duration = Duration::from_secs(3);

/// Newcomers of late. While many come, each of them moves somebody's place on the ring, and connections to who is next there
/// now would be of no use a moment later.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    since: Option<Instant>,
    last: Option<Instant>,
    count: u32,
}

impl Arrivals {
    pub(super) fn one_more(&mut self, now: Instant) {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > ARRIVALS_END) {
            (self.since, self.count) = (Some(now), 0);
        }
        (self.last, self.count) = (Some(now), self.count.saturating_add(1));
    }

    /// Whether many have come of late, and may still come.
    pub(super) fn go_on(&self, now: Instant) -> bool {
        let within = |at: Option<Instant>, most| at.is_some_and(|at| now.saturating_duration_since(at) <= most);
        self.count > ARRIVALS_MANY && within(self.last, ARRIVALS_END * 2) && within(self.since, YOUNG)
    }

    pub(super) fn are_many(&self, now: Instant) -> bool {
        let within = |at: Option<Instant>, most| at.is_some_and(|at| now.saturating_duration_since(at) <= most);
        self.count > ARRIVALS_MANY && within(self.last, ARRIVALS_END) && within(self.since, ARRIVALS_MAX)
    }
}

/// What a probe costs the peer that sends it.
pub(super) fn cost(probe: &Probe) -> u32 {
    if matches!(probe, Probe::PingFor { .. }) { PING_FOR_COST } else { 1 }
}

impl Node {
    /// To be called before anything else is done: a process that slept must know it.
    pub(super) fn wake(&mut self, now: Now) {
        self.detector.wake(now.at);
        self.watch(now);
    }

    /// Carries out what the detector says; whether it said anything.
    pub(super) fn watch(&mut self, now: Now) -> bool {
        let mut said = false;
        while let Some(output) = self.detector.poll_output() {
            said = true;
            let input = match output {
                detector::Output::Send { to, probe } => {
                    self.send(to, &Direct::Probe(probe));
                    continue;
                }
                detector::Output::Answered(node) => membership::Input::Answered(node),
                detector::Output::Missed(node) => membership::Input::Missed(node),
                detector::Output::Doubted(node) => membership::Input::Doubted(node),
                detector::Output::Awake => membership::Input::Awake,
                detector::Output::Trusted => membership::Input::Trusted,
            };
            self.membership.handle_input(membership::Input::Health(self.detector.health()), now.at);
            if let membership::Input::Missed(node) = input {
                self.be_cautious(&node, now);
            }
            self.membership.handle_input(input, now.at);
            // What a silence confirms may be over by now.
            self.membership.handle_timeout(now.at);
        }
        said
    }

    /// Before this node accuses a member: not too many at once.
    pub(super) fn be_cautious(&mut self, node: &NodeId, now: Now) {
        let more = self.membership.get(node).is_some_and(|row| row.state == MemberState::Alive);
        let cautious = more && !self.accusations.take(1, now.at);
        self.membership.handle_input(membership::Input::Cautious(cautious), now.at);
    }

    /// A member is new here. Where many are, all are busy, and none of them is to be judged yet.
    pub(super) fn newcomer(&mut self, now: Now) {
        self.arrivals.one_more(now.at);
        if self.arrivals.are_many(now.at) {
            let settled = (now.at + YOUNG).min(self.born + YOUNG_MAX);
            self.membership.stay_young(settled);
            self.detector.stay_young(settled);
        }
    }

    /// Tells the detector and the connections what a member's row says now.
    pub(super) fn stand(&mut self, node: NodeId, now: Now) {
        if node == self.me {
            return;
        }
        let row = self.membership.get(&node);
        let gateway = |row: &membership::Row| row.manifest.roles.contains(Role::Gateway);
        let standing = row.filter(|row| row.is_here()).map(|row| Standing {
            gateway: gateway(row),
            dialable: row.manifest.dialable,
            suspect: row.state == MemberState::Suspect,
        });
        let candidate = row
            .filter(|row| row.state != MemberState::Left)
            .map(|row| Candidate { gateway: gateway(row), dead: row.state == MemberState::Dead });
        self.detector.handle_input(detector::Input::Member { node, standing }, now.at);
        self.connect.member(node, candidate);
    }

    /// A connection on which nothing comes is of no use, and keeps its other end from coming back.
    pub(super) fn close_silent(&mut self, node: NodeId) {
        if self.membership.get(&node).is_some_and(|row| row.linked) {
            self.outputs.push_back(Output::Close { peer: node, reason: "it does not answer any more".to_owned() });
        }
    }

    pub(super) fn watch_link(&mut self, peer: NodeId, up: bool, now: Now) {
        let input = if up { detector::Input::LinkUp(peer) } else { detector::Input::LinkDown(peer) };
        self.detector.handle_input(input, now.at);
    }

    pub(super) fn probed(&mut self, from: NodeId, probe: Probe, now: Now) {
        self.detector.handle_input(detector::Input::Probe { from, probe }, now.at);
    }

    pub(super) fn question(&mut self, node: NodeId, now: Now) {
        self.detector.handle_input(detector::Input::Suspected(node), now.at);
    }

    pub(super) fn miss_link(&mut self, node: NodeId, now: Now) {
        self.detector.handle_input(detector::Input::Lost(node), now.at);
    }

    pub(super) fn request_failed(&mut self, peer: NodeId, now: Now) {
        if !self.detector.is_sceptical() {
            self.membership.handle_input(membership::Input::RequestFailed(peer), now.at);
        }
    }

    pub(super) fn refute(&mut self, incarnation: Incarnation, now: Now) {
        self.detector.handle_input(detector::Input::Accused, now.at);
        self.raise_above(incarnation, now);
    }

    /// Tells a member what is said of it; where many could, a few do.
    pub(super) fn tell_accused(&mut self, accused: NodeId, record: Arc<Signed>, now: Now) {
        let here = self.membership.get(&accused).is_some_and(membership::Row::is_here);
        let few = self.detector.is_neighbour(&accused) || self.rng.below(self.roster.members().len()) < TELLERS;
        if !here || few {
            self.tell(accused, record, now);
        }
    }

    /// Members that this node needs connections to: those that it watches, and where nobody can dial it, those that watch it.
    pub(super) fn wanted(&mut self, now: Now) -> Vec<NodeId> {
        if self.arrivals.are_many(now.at) {
            return Vec::new();
        }
        let mut wanted = self.detector.watched().to_vec();
        if !self.own.manifest.dialable {
            wanted.extend_from_slice(self.detector.watchers());
        }
        wanted
    }

    /// A peer needs the connection no more, and neither does this node, or it dials.
    pub(super) fn farewell(&mut self, peer: NodeId) {
        if self.membership.links().contains(&peer) {
            self.released.insert(peer, self.born);
            self.outputs.push_back(Output::Close { peer, reason: "the peer needs it no more".to_owned() });
        }
    }

    /// Parts from those whom neither side needs, if there are too many connections; whether it is about to.
    pub(super) fn let_go(&mut self, now: Now) -> bool {
        let roles = self.own.manifest.roles;
        let hub = roles.contains(Role::Gateway) || roles.contains(Role::Bootstrap);
        let mut needed = self.detector.watched().to_vec();
        needed.extend_from_slice(self.detector.watchers());
        let lead = &self.lead;
        let needed = |node: &NodeId| needed.contains(node) || lead.beats_with(node);
        let surplus = self.connect.surplus(hub, &mut self.rng, now.at, needed);
        for peer in &surplus {
            // Its end would look like that of a process.
            if !self.released.contains_key(peer) {
                self.released.insert(*peer, now.at);
                self.send(*peer, &Direct::Farewell);
            }
        }
        let overdue = self.released.iter().filter(|(_, at)| now.at.saturating_duration_since(**at) > FAREWELL);
        let overdue: Vec<_> = overdue.map(|(peer, _)| *peer).collect();
        for peer in overdue {
            self.outputs.push_back(Output::Close { peer, reason: "too many connections".to_owned() });
        }
        !self.released.is_empty() || !surplus.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_newcomers_hold_a_node_back_for_a_while_and_few_do_not() {
        let (mut arrivals, t0) = (Arrivals::default(), Instant::now());
        for _ in 0..ARRIVALS_MANY {
            arrivals.one_more(t0);
            assert!(!arrivals.are_many(t0));
        }
        arrivals.one_more(t0);
        assert!(arrivals.are_many(t0) && arrivals.go_on(t0));
        assert!(!arrivals.are_many(t0 + ARRIVALS_END * 2), "that was all");
        let mut now = t0;
        while now < t0 + ARRIVALS_MAX * 2 {
            now += ARRIVALS_END / 2;
            arrivals.one_more(now);
        }
        assert!(!arrivals.are_many(now), "not for ever");
        assert!(arrivals.go_on(now) && !arrivals.go_on(now + YOUNG));
        arrivals.one_more(now + YOUNG);
        assert!(!arrivals.are_many(now + YOUNG), "one by itself");
    }
}
