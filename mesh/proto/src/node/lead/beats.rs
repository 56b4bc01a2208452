//! Heartbeats: whom this node sends its own to, and what it does with those of others.

use super::Timer;
use crate::Now;
use crate::heartbeat::{Beat, Load, Report};
use crate::id::NodeId;
use crate::message::{Direct, Want};
use crate::node::Node;

impl Node {
    pub(in crate::node) fn load(&mut self, load: Load) {
        self.lead.load = load;
    }

    /// The leader gathers; everybody else tells the leader, or whoever gathers for it.
    pub(super) fn beat(&mut self, now: Now) {
        self.lead.timers.set(Timer::Beat, now.at + self.timing.heartbeat);
        let Some(leader) = self.lead.election.best().map(|best| best.author) else { return };
        if self.lead.is_leading() || !self.own.gossip || !self.is_here(&leader) || leader == self.me {
            return;
        }
        let gatherer = self.gatherer_of(leader);
        let gathers = gatherer == Some(self.me);
        let heard = self.lead.beats.sum(now.at.checked_sub(self.timing.heartbeat * 2));
        if gathers {
            self.lead.beats.beat(self.me, self.lead.load, now.at);
        }
        if gathers || heard.reporting > 0 {
            let report = self.lead.beats.sum(None);
            self.send(leader, &Direct::Report(report));
        }
        self.lead.beats_to = if gathers { Some(leader) } else { gatherer.or(Some(leader)) };
        if !gathers {
            let (incarnation, version) = self.own.manifest.order();
            let beat = Beat { incarnation, version, load: self.lead.load };
            self.send(gatherer.unwrap_or(leader), &Direct::Beat(beat));
        }
    }

    /// A member's heartbeat: its load, and whether this node has its last word.
    pub(in crate::node) fn heard_beat(&mut self, from: NodeId, beat: Beat, now: Now) {
        let Some(row) = self.membership.get(&from).filter(|row| row.is_here()) else { return };
        let lacks = (beat.incarnation, beat.version) > row.manifest.order();
        self.lead.beats.beat(from, beat.load, now.at);
        if lacks {
            self.send(from, &Direct::Pull(vec![Want::Member(from)]));
        }
    }

    pub(in crate::node) fn heard_report(&mut self, from: NodeId, report: Report, now: Now) {
        if self.is_here(&from) && self.lead.is_leading() && !self.lead.beats.report(from, report, now.at) {
            self.refused(from, "report of more heartbeats than there can be".to_owned(), now);
        }
    }

    /// Whoever gathers this node's heartbeat; nobody in a cluster that is small enough for one.
    fn gatherer_of(&self, leader: NodeId) -> Option<NodeId> {
        let ranks = self.cluster_ranks(self.lead.election.best()?.lead);
        let gatherers = self.lead.election.sub_leaders(self.timing.sub_leaders_from);
        if gatherers.contains(&self.me) {
            return Some(self.me);
        }
        gatherers.into_iter().filter(|node| *node != leader).max_by_key(|share| ranks.affinity(&self.me, share))
    }

    pub(super) fn is_here(&self, node: &NodeId) -> bool {
        self.membership.get(node).is_some_and(|row| row.is_here())
    }
}
