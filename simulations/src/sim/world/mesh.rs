//! The gossip mesh: whom a host forwards to, and what it still offers to others.

use paceline_proto::carrier::{
    GOSSIP_HEARTBEAT, GOSSIP_NEIGHBOURS, GOSSIP_NEIGHBOURS_MAX, GOSSIP_NEIGHBOURS_MIN, GOSSIP_TOLD, GOSSIP_TOLD_FOR,
    GOSSIP_TOLD_SHARE,
};
use paceline_proto::node::{GossipId, Input, Verdict};

use super::{Event, World};
use crate::sim::HostId;
use crate::sim::gossip::MessageId;
use crate::sim::link::Payload;

/// Ids in one IHAVE.
const OFFERED_MAX: usize = 500;

impl World {
    pub(super) fn publish(&mut self, host: HostId, bytes: Vec<u8>) {
        let message = self.messages.intern(bytes, self.now);
        // Gossipsub refuses to publish what it has seen.
        if !self.messages.see(message, host) {
            return;
        }
        let machine = &mut self.hosts[host as usize];
        machine.recent.push_back((machine.beats, message));
        let mut to: Vec<_> = machine.mesh.iter().copied().collect();
        if to.len() < GOSSIP_NEIGHBOURS {
            let others: Vec<_> = machine.links.keys().filter(|p| !machine.mesh.contains(p)).copied().collect();
            to.extend(self.rng.sample(&others, GOSSIP_NEIGHBOURS - to.len()));
        }
        to.into_iter().for_each(|peer| self.pass_on(host, peer, message));
    }

    pub(super) fn gossip_arrives(&mut self, host: HostId, peer: HostId, message: MessageId, again: bool) {
        let new = self.messages.see(message, host);
        if new {
            self.traffic.firsts += 1;
        } else {
            self.traffic.duplicates += 1;
        }
        if !new && !again {
            return;
        }
        if let Err(passes) = self.asks_node(host, message) {
            if new && passes {
                self.forward(host, peer, message);
            }
            return;
        }
        let Some(bytes) = self.messages.get(message).map(|m| m.bytes.to_vec()) else { return };
        self.gossip_ids += 1;
        let id = GossipId(self.gossip_ids);
        if new {
            self.hosts[host as usize].judging.insert(id, (peer, message));
        }
        let from = self.hosts[peer as usize].node;
        self.input(host, Input::Gossip { from, id, bytes });
    }

    pub(super) fn judged(&mut self, host: HostId, id: GossipId, verdict: Verdict) {
        let machine = &mut self.hosts[host as usize];
        let Some((from, message)) = machine.judging.remove(&id) else { return };
        match verdict {
            Verdict::Accept => self.forward(host, from, message),
            Verdict::Ignore => {}
            Verdict::Reject => {
                let (peer, class) =
                    (self.hosts[from as usize].name.clone(), self.messages.get(message).map(|m| m.class));
                let text = format!("host {host} refuses {class:?} that {peer} passed on");
                self.checker.broken(self.now, "nobody honest is refused", text);
            }
        }
    }

    fn forward(&mut self, host: HostId, from: HostId, message: MessageId) {
        let machine = &mut self.hosts[host as usize];
        machine.recent.push_back((machine.beats, message));
        let to: Vec<_> = machine.mesh.iter().copied().filter(|peer| *peer != from).collect();
        to.into_iter().for_each(|peer| self.pass_on(host, peer, message));
    }

    fn pass_on(&mut self, host: HostId, peer: HostId, message: MessageId) {
        if let Some(link) = self.hosts[host as usize].links.get(&peer).copied() {
            let end = self.links[link as usize].end_of(host);
            self.send(link, end, Payload::Gossip(message, false));
        }
    }

    /// Whoever has few neighbours takes the new one at once.
    pub(super) fn graft_new(&mut self, a: HostId, b: HostId) {
        let few = |world: &Self, host: HostId| world.hosts[host as usize].mesh.len() < GOSSIP_NEIGHBOURS_MIN;
        let room = |world: &Self, host: HostId| world.hosts[host as usize].mesh.len() < GOSSIP_NEIGHBOURS_MAX;
        if (few(self, a) && room(self, b)) || (few(self, b) && room(self, a)) {
            self.graft(a, b);
        }
    }

    fn graft(&mut self, a: HostId, b: HostId) {
        self.hosts[a as usize].mesh.insert(b);
        self.hosts[b as usize].mesh.insert(a);
    }

    pub(super) fn beat(&mut self, host: HostId, life: u32) {
        let machine = &mut self.hosts[host as usize];
        if machine.life != life {
            return;
        }
        if machine.hung {
            return self.plan(GOSSIP_HEARTBEAT, Event::Beat { host, life });
        }
        machine.beats += 1;
        let links = machine.links.len() as u64;
        self.traffic.keep_links(host, links, GOSSIP_HEARTBEAT.as_secs());
        let machine = &mut self.hosts[host as usize];
        let beats = machine.beats;
        while machine.recent.front().is_some_and(|(at, _)| at + (GOSSIP_TOLD_FOR as u64) < beats) {
            machine.recent.pop_front();
        }
        self.tend(host);
        let machine = &self.hosts[host as usize];
        if !machine.recent.is_empty() {
            let others: Vec<_> = machine.links.keys().filter(|p| !machine.mesh.contains(p)).copied().collect();
            let offered: Vec<_> = machine.recent.iter().map(|(_, m)| *m).take(OFFERED_MAX).collect();
            let told = GOSSIP_TOLD.max((others.len() as f64 * GOSSIP_TOLD_SHARE) as usize);
            for peer in self.rng.sample(&others, told) {
                if let Some(link) = self.hosts[host as usize].links.get(&peer).copied() {
                    let end = self.links[link as usize].end_of(host);
                    self.send(link, end, Payload::Have(offered.clone()));
                }
            }
        }
        self.plan(GOSSIP_HEARTBEAT, Event::Beat { host, life });
    }

    /// Keeps the number of neighbours within gossipsub's bounds.
    fn tend(&mut self, host: HostId) {
        let machine = &self.hosts[host as usize];
        if machine.mesh.len() < GOSSIP_NEIGHBOURS_MIN {
            let room =
                |p: &&HostId| !machine.mesh.contains(p) && self.hosts[**p as usize].mesh.len() < GOSSIP_NEIGHBOURS_MAX;
            let others: Vec<_> = machine.links.keys().filter(room).copied().collect();
            let missing = GOSSIP_NEIGHBOURS - machine.mesh.len();
            self.rng.sample(&others, missing).into_iter().for_each(|peer| self.graft(host, peer));
        } else if machine.mesh.len() > GOSSIP_NEIGHBOURS_MAX {
            let mesh: Vec<_> = machine.mesh.iter().copied().collect();
            for peer in self.rng.sample(&mesh, mesh.len() - GOSSIP_NEIGHBOURS) {
                self.hosts[host as usize].mesh.remove(&peer);
                self.hosts[peer as usize].mesh.remove(&host);
            }
        }
    }

    pub(super) fn offered(&mut self, host: HostId, peer: HostId, messages: &[MessageId]) {
        let wanted: Vec<_> = messages.iter().filter(|m| !self.messages.has_seen(**m, host)).copied().collect();
        if !wanted.is_empty()
            && let Some(link) = self.hosts[host as usize].links.get(&peer).copied()
        {
            let end = self.links[link as usize].end_of(host);
            self.send(link, end, Payload::Want(wanted));
        }
    }

    pub(super) fn wanted(&mut self, host: HostId, peer: HostId, messages: &[MessageId]) {
        messages.iter().for_each(|message| self.pass_on(host, peer, *message));
    }
}
