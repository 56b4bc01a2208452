//! What tests ask of the nodes and their connections.

use super::{Machine, Net, pair};
use crate::id::NodeId;
use crate::node::{GossipId, Verdict};
use crate::view::{ClusterView, MemberState};

impl Net {
    pub(crate) fn verdict(&self, at: NodeId, id: GossipId) -> Option<Verdict> {
        self.machines[&at].verdicts.get(&id).copied()
    }

    pub(crate) fn linked(&self, a: NodeId, b: NodeId) -> bool {
        self.links.contains_key(&pair(a, b))
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        self.links.keys().copied()
    }

    pub(crate) fn link_count(&self, a: NodeId) -> usize {
        self.links_of(a).len()
    }

    pub(crate) fn view(&self, id: NodeId) -> ClusterView {
        self.machines[&id].process.as_ref().expect("runs").view()
    }

    pub(crate) fn state(&self, at: NodeId, of: NodeId) -> Option<MemberState> {
        self.view(at).members.get(&of).map(|m| m.state)
    }

    pub(crate) fn running(&self) -> Vec<NodeId> {
        let runs = |m: &Machine| !m.hung && m.process.as_ref().is_some_and(|p| p.poll_timeout().is_some());
        self.machines.iter().filter(|(_, m)| runs(m)).map(|(n, _)| *n).collect()
    }

    /// Whether all that run see each other alive, and nobody else.
    pub(crate) fn agree(&self) -> bool {
        let running = self.running();
        running.iter().all(|at| {
            let view = self.view(*at);
            let alive = view.members.iter().filter(|(_, m)| m.is_alive()).map(|(n, _)| *n);
            alive.eq(running.iter().copied())
        })
    }

    /// Who sees whom, for a test that fails.
    pub(crate) fn picture(&self) -> String {
        let mut text = format!("at {:?}\n", self.now);
        for at in self.running() {
            let view = self.view(at);
            let others =
                view.members.iter().map(|(n, m)| format!("{}:{:?}/{}", n.short(), m.state, m.manifest.incarnation.0));
            text += &format!("{} sees {}\n", at.short(), others.collect::<Vec<_>>().join(" "));
            let l = &view.leadership;
            let leader = l.leader.map(|n| n.short()).unwrap_or_default();
            text += &format!("         and follows {leader} as {}.{}, number {}\n", l.term, l.takeovers, l.seq);
        }
        text
    }
}
