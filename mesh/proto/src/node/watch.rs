//! Between the detector, the member table and the connections: who is watched, and what silence and answers mean there.

use std::sync::Arc;
use std::time::Duration;

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
/// Accusations of this node on a mere silence or a broken connection, at once and a second: whoever misses more members than
/// that is most likely the sick one, and waits for what the others say.
pub(super) const ACCUSATIONS: (u32, u32) = (4, 1);
/// Members, besides its neighbours on the ring, that tell an accused what is said of it, on average.
const TELLERS: usize = 8;

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
    pub(super) fn wanted(&mut self) -> Vec<NodeId> {
        let mut wanted = self.detector.watched().to_vec();
        if !self.own.manifest.dialable {
            wanted.extend_from_slice(self.detector.watchers());
        }
        wanted
    }

    /// Closes connections that neither side needs, if there are too many.
    pub(super) fn let_go(&mut self, now: Now) {
        let roles = self.own.manifest.roles;
        let hub = roles.contains(Role::Gateway) || roles.contains(Role::Bootstrap);
        let mut needed = self.detector.watched().to_vec();
        needed.extend_from_slice(self.detector.watchers());
        let lead = &self.lead;
        let needed = |node: &NodeId| needed.contains(node) || lead.beats_with(node);
        for peer in self.connect.surplus(hub, &mut self.rng, now.at, needed) {
            self.outputs.push_back(Output::Close { peer, reason: "too many connections".to_owned() });
        }
    }
}
