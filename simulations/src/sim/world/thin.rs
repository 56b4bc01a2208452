//! Large clusters: most hosts know only a part of the members, so that ten thousand fit into a machine's memory.
//!
//! All hosts run the real node, and all packets are counted. A **whole** host has the whole table; those that any term of the
//! run asks for are whole: the first of the ranks, which lead, come next, and gather heartbeats. A **thin** host is a plain
//! member: its node is told only of those that it deals with (its neighbours on the ring, its gateways, a few others, the
//! leader), and the world does for it what follows from the whole table: it passes on gossip about others as a node does
//! that has them, and sends its heartbeat to whoever gathers it. It repairs nothing, since its table is none to repair.
//!
//! Everybody starts at once, and knows of everybody at the start: how a cluster forms is seen in smaller ones.

use std::collections::{BTreeMap, BTreeSet};

use paceline_proto::detector::WATCHED_MAX;
use paceline_proto::envelope::{Claim, Kind, Signed};
use paceline_proto::id::NodeId;
use paceline_proto::lead::Ranks;
use paceline_proto::message::{Direct, Gossip};
use paceline_proto::node::{GossipId, Input, Output};
use paceline_proto::wire;
use sha2::{Digest as _, Sha256};

use super::World;
use crate::sim::HostId;
use crate::sim::gossip::{MessageId, class_of_direct};
use crate::sim::traffic::Class;

/// Gateways that a member keeps connections to.
const GATEWAYS: usize = 8;
/// Others, chosen at random: twice as many as it connects to.
const OTHERS: usize = 6;
/// Accusers of one member whose words a node passes on.
const ACCUSERS: usize = 3;

/// What the world knows for the thin hosts.
#[derive(Default)]
pub(super) struct Thin {
    /// Of whom each of them is told; empty for whole hosts.
    windows: Vec<BTreeSet<HostId>>,
    /// What each host said at its start: its chain, its manifest.
    said: Vec<Vec<Vec<u8>>>,
    /// What each host has passed on about members that its node is not told of: accusers, and whether it is dead.
    passed: Vec<BTreeMap<HostId, (usize, bool)>>,
    /// Those who gather, for a leader and a number of members.
    gatherers: (Option<HostId>, usize, Vec<NodeId>),
    /// Whole hosts, the first of the first term's ranks first.
    whole: Vec<HostId>,
}

impl Thin {
    fn is_thin(&self, host: HostId) -> bool {
        self.windows.get(host as usize).is_some_and(|window| !window.is_empty())
    }
}

impl World {
    /// Starts everybody at once.
    pub(super) fn start_formed(&mut self) {
        self.messages.looks_into = self.scenario.whole < self.hosts.len();
        let hosts = self.hosts.len();
        let ranks = Ranks::of(&self.authority.cluster(), 1);
        let mut order: Vec<HostId> = (1..hosts as HostId).collect();
        order.sort_by_key(|host| std::cmp::Reverse(ranks.rank(&self.hosts[*host as usize].node)));
        let mut whole = vec![0];
        whole.extend(order.into_iter().take(self.scenario.whole.saturating_sub(1)));
        let windows = self.windows(&whole);
        for (host, window) in windows.iter().enumerate() {
            self.beliefs.set_blind(host as HostId, !window.is_empty());
        }
        let passed = vec![BTreeMap::new(); hosts];
        self.formed = Some(Thin { windows, passed, whole, said: vec![Vec::new(); hosts], ..Thin::default() });
        (0..hosts as HostId).for_each(|host| self.start(host));
        for host in 0..hosts as HostId {
            let known: Vec<HostId> = match self.formed.as_ref() {
                Some(thin) if thin.is_thin(host) => thin.windows[host as usize].iter().copied().collect(),
                _ => (0..hosts as HostId).collect(),
            };
            for other in known.into_iter().filter(|other| *other != host) {
                self.tell_quietly(host, other);
            }
            self.carry_out(host);
        }
    }

    /// A node that starts is not heard: what it says is kept, and all that shall hear it do when all have started.
    pub(super) fn starts_quietly(&mut self, host: HostId) {
        while let Some(output) = self.hosts[host as usize].process.as_mut().and_then(|p| p.poll_output()) {
            match (output, &mut self.formed) {
                (Output::Publish(bytes), Some(thin)) => thin.said[host as usize].push(bytes),
                (Output::Event(event), _) => self.told(host, event),
                (Output::PersistClaim(claim), _) => self.hosts[host as usize].disk.claim = claim,
                _ => {}
            }
        }
        self.read_lead(host);
    }

    /// What another host said at its start, as if it had come long ago.
    fn tell_quietly(&mut self, host: HostId, other: HostId) {
        let now = self.time(host);
        let from = self.hosts[other as usize].node;
        let said = self.formed.as_ref().map_or(Vec::new(), |thin| thin.said[other as usize].clone());
        for bytes in said {
            if let Some(process) = &mut self.hosts[host as usize].process {
                process.handle_input(Input::Gossip { from, id: GossipId(0), bytes }, now);
            }
            self.hear_quietly(host);
        }
    }

    fn hear_quietly(&mut self, host: HostId) {
        while let Some(output) = self.hosts[host as usize].process.as_mut().and_then(|p| p.poll_output()) {
            match output {
                Output::Event(event) => self.told(host, event),
                Output::PersistClaim(claim) => self.hosts[host as usize].disk.claim = claim,
                _ => {}
            }
        }
        self.read_lead(host);
    }

    /// Of whom each host's node is told; nobody stands for everybody.
    fn windows(&mut self, whole: &[HostId]) -> Vec<BTreeSet<HostId>> {
        let hosts = self.hosts.len();
        let cluster = self.authority.cluster();
        let place = |node: &NodeId| -> [u8; 32] {
            Sha256::new().chain_update(cluster.as_bytes()).chain_update(node.as_bytes()).finalize().into()
        };
        let mut ring: Vec<_> = (0..hosts as HostId).map(|h| (place(&self.hosts[h as usize].node), h)).collect();
        ring.sort_unstable();
        let gateways: Vec<HostId> = (0..hosts as HostId).filter(|h| self.hosts[*h as usize].gateway).collect();
        let all: Vec<HostId> = (0..hosts as HostId).collect();
        let whole: BTreeSet<_> = whole.iter().copied().collect();
        let mut windows = vec![BTreeSet::new(); hosts];
        for (at, (_, host)) in ring.iter().enumerate().filter(|(_, (_, host))| !whole.contains(host)) {
            let near = (1..=WATCHED_MAX).flat_map(|by| [at + by, at + hosts - by % hosts]);
            let window = &mut windows[*host as usize];
            window.extend(near.map(|at| ring[at % hosts].1));
            let me = *self.hosts[*host as usize].node.as_bytes();
            let distance = |gateway: &HostId| {
                let mut distance = *self.hosts[*gateway as usize].node.as_bytes();
                distance.iter_mut().zip(me).for_each(|(byte, mine)| *byte ^= mine);
                distance
            };
            let mut nearest: Vec<_> = gateways.iter().map(|gateway| (distance(gateway), *gateway)).collect();
            nearest.sort_unstable();
            window.extend(nearest.into_iter().map(|(_, gateway)| gateway).filter(|g| g != host).take(GATEWAYS));
            window.extend(self.rng.sample(&all, OTHERS));
            window.insert(0);
            window.remove(host);
        }
        windows
    }

    /// Whether the node of this host is asked about a gossip message; where it is not, whether the host passes it on.
    pub(super) fn asks_node(&mut self, host: HostId, message: MessageId) -> Result<(), bool> {
        let Some(thin) = self.formed.as_mut().filter(|thin| thin.is_thin(host)) else { return Ok(()) };
        let Some(message) = self.messages.get(message) else { return Err(false) };
        let Some((about, by, kind)) = message.about else { return Err(true) };
        let window = &thin.windows[host as usize];
        let (Some(subject), Some(author)) = (self.by_node.get(&about).copied(), self.by_node.get(&by).copied()) else {
            return Err(true);
        };
        match kind {
            Kind::Lead | Kind::Summary => {}
            _ if subject == host || window.contains(&subject) => {}
            Kind::Manifest | Kind::Leave => return Err(true),
            Kind::Suspect | Kind::Death => {
                let (accusers, dead) = thin.passed[host as usize].entry(subject).or_default();
                let death = kind == Kind::Death;
                let news = if death { !*dead } else { !*dead && *accusers < ACCUSERS };
                *dead |= death;
                *accusers += usize::from(!death);
                return Err(news);
            }
        }
        // Its node has to know who speaks.
        if author != host && !window.contains(&author) {
            let chain = thin.said[author as usize].first().cloned();
            let (now, from) = (self.time(host), self.hosts[author as usize].node);
            if let (Some(process), Some(bytes)) = (&mut self.hosts[host as usize].process, chain) {
                process.handle_input(Input::Gossip { from, id: GossipId(0), bytes }, now);
            }
        }
        Ok(())
    }

    /// Whether a direct message reaches a host's node: what compares tables does not reach a thin one's.
    pub(super) fn reaches_node(&self, host: HostId, bytes: &[u8]) -> bool {
        let is_thin = self.formed.as_ref().is_some_and(|thin| thin.is_thin(host));
        !is_thin || !compares(bytes)
    }

    /// To whom a host sends a direct message instead; `None`: to nobody.
    pub(super) fn goes_to(&mut self, host: HostId, to: HostId, bytes: &[u8]) -> Option<HostId> {
        if !self.formed.as_ref().is_some_and(|thin| thin.is_thin(host)) {
            return Some(to);
        }
        match class_of_direct(bytes) {
            Class::Sync if compares(bytes) => None,
            Class::Beat if Some(to) == self.leads.of(host).leader => Some(self.gatherer(host).unwrap_or(to)),
            _ => Some(to),
        }
    }

    /// Who gathers a host's heartbeat, by the whole table.
    fn gatherer(&mut self, host: HostId) -> Option<HostId> {
        let lead = self.leads.of(host);
        let members = self.beliefs.up_count();
        let thin = self.formed.as_mut()?;
        if members < paceline_proto::node::Timing::default().sub_leaders_from {
            return None;
        }
        if (thin.gatherers.0, thin.gatherers.1) != (lead.leader, members) {
            let up = thin.whole.iter().filter(|h| Some(**h) != lead.leader && self.beliefs.truth(**h).up);
            let count = members.saturating_sub(1).isqrt() + 1;
            let mut first: Vec<_> = up.map(|h| self.hosts[*h as usize].node).collect();
            let ranks = Ranks::of(&self.authority.cluster(), lead.term);
            first.sort_by_key(|node| std::cmp::Reverse(ranks.rank(node)));
            first.truncate(count);
            thin.gatherers = (lead.leader, members, first);
        }
        let ranks = Ranks::of(&self.authority.cluster(), lead.term);
        let me = self.hosts[host as usize].node;
        let gatherer = thin.gatherers.2.iter().max_by_key(|share| ranks.affinity(&me, share))?;
        self.by_node.get(gatherer).copied()
    }

    /// A thin host keeps the connection to whoever gathers its heartbeat, though its node does not know.
    pub(super) fn keeps(&mut self, host: HostId, peer: HostId) -> bool {
        self.formed.as_ref().is_some_and(|thin| thin.is_thin(host)) && self.gatherer(host) == Some(peer)
    }
}

/// Whether a direct message is about tables: digests, entries, pulls, and pushes of manifests.
fn compares(bytes: &[u8]) -> bool {
    if class_of_direct(bytes) != Class::Sync {
        return false;
    }
    let of_manifest = |record: &std::sync::Arc<Signed>| record.kind == Kind::Manifest;
    match wire::decode::<Direct>(bytes) {
        Ok(Direct::Push(items)) => items.iter().flat_map(|item| &item.records).any(of_manifest),
        _ => true,
    }
}

/// About whom a gossip message is, by whom, and what it says; `None` for a chain.
pub fn about(bytes: &[u8]) -> Option<(NodeId, NodeId, Kind)> {
    let Ok(Gossip::Record(record)) = wire::decode::<Gossip>(bytes) else { return None };
    let subject = match record.read().ok()? {
        Claim::Suspect(accusation) | Claim::Death(accusation) => accusation.subject,
        _ => record.author,
    };
    Some((subject, record.author, record.kind))
}
