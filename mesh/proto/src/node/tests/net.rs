//! Many nodes in virtual time: a queue of what is under way, with delays and losses from a seed.
//!
//! It stands in for the driver: connections, gossip among connected nodes, direct messages that dial first, and one table
//! of provider records for all. A seed gives the same run again.

mod look;
mod sides;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};

use crate::Now;
use crate::credential::Chain;
use crate::id::{CredentialHash, Incarnation, ManifestVersion, NodeId, Role, Site, UnixSeconds, WorkerName};
use crate::manifest::{Health, Manifest, Service, ServiceKind, WorkerType};
use crate::message::Direct;
use crate::node::{
    Config, DialFailure, Event, Fatal, GossipId, Input, LinkLoss, Node, Output, ProviderKey, Timing, Verdict,
};
use crate::rng::Rng;
use crate::summary::StoredSummary;
use crate::testing::{self, LeafSpec, START, TestCluster};
use crate::wire;

/// After this long, the transport itself gives up a connection on which nothing comes through.
pub(crate) const SILENCE: Duration = Duration::from_secs(15);
/// A dial that nobody answers fails after this long.
const NO_ANSWER: Duration = Duration::from_secs(2);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub(crate) fn service(name: &str) -> Service {
    Service {
        name: testing::service_name(name),
        host: "127.0.0.1".to_owned(),
        port: 8_000,
        health: Health::Healthy,
        version: None,
        kind: ServiceKind::Http,
        models: Vec::new(),
        max_concurrency: 16,
        labels: BTreeMap::new(),
    }
}

pub(crate) fn manifest(node: NodeId, name: &str, roles: &[Role], services: &[&str]) -> Manifest {
    Manifest {
        node,
        name: WorkerName::new(name).expect("a name"),
        site: Site::default(),
        roles: roles.iter().copied().collect(),
        worker_type: WorkerType::Cpu,
        incarnation: Incarnation(1),
        version: ManifestVersion(1),
        instance: 1,
        started_unix_ms: START.0 * 1_000,
        mesh_addresses: vec!["/ip4/127.0.0.1/tcp/4900".to_owned()],
        data_addresses: vec!["127.0.0.1:4901".parse().expect("an address")],
        services: services.iter().map(|s| service(s)).collect(),
        labels: BTreeMap::new(),
        capabilities: BTreeMap::new(),
        credential: CredentialHash::from_bytes([0; 32]),
        draining: false,
        dialable: true,
        sink: false,
        software: "test".to_owned(),
    }
}

/// One machine: its disk survives its process.
pub(crate) struct Machine {
    pub(crate) key: SigningKey,
    pub(crate) chain: Chain,
    pub(crate) manifest: Manifest,
    pub(crate) gossip_own: bool,
    pub(crate) process: Option<Node>,
    /// The process is there and does nothing.
    pub(crate) hung: bool,
    /// It waits for its next slice of a processor.
    starved: bool,
    /// What has come for it meanwhile.
    backlog: Vec<Input>,
    /// Which side of a partition it is on.
    pub(crate) side: u8,
    pub(crate) incarnation: Incarnation,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) verdicts: BTreeMap<GossipId, Verdict>,
    pub(crate) published: Vec<Vec<u8>>,
    pub(crate) fatal: Option<Fatal>,
    /// Whom it cut off; the links stay.
    pub(crate) barred: Vec<NodeId>,
    pub(crate) sent_bytes: usize,
    /// The greatest claim, as on disk.
    pub(crate) claim: Vec<u8>,
    pub(crate) persisted: usize,
    pub(crate) sink: bool,
    pub(crate) writes: Vec<(Duration, StoredSummary)>,
    life: u32,
    gossip_seen: BTreeSet<[u8; 32]>,
    gossip_pending: BTreeMap<GossipId, (NodeId, Vec<u8>)>,
}

#[derive(Debug)]
enum Under {
    Gossip {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Direct {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Dial {
        from: NodeId,
        to: NodeId,
        then: Option<Vec<u8>>,
    },
    DialFailed {
        from: NodeId,
        to: NodeId,
        failure: DialFailure,
    },
    /// The link that was made as the given one is lost, unless it is gone already.
    Lose {
        a: NodeId,
        b: NodeId,
        link: u64,
        loss: LinkLoss,
    },
    Down {
        at: NodeId,
        life: u32,
        peer: NodeId,
        loss: LinkLoss,
    },
    Providers {
        to: NodeId,
        key: ProviderKey,
    },
    Stored {
        to: NodeId,
    },
    Written {
        to: NodeId,
    },
    /// Entries are dialled for ever by whoever is alone.
    Entry {
        id: NodeId,
        life: u32,
        to: NodeId,
    },
    End {
        id: NodeId,
        life: u32,
    },
    /// It gets a processor for a moment.
    Slice {
        id: NodeId,
        life: u32,
    },
}

pub(crate) struct Net {
    pub(crate) cluster: TestCluster,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) now: Duration,
    /// Percent of messages that are lost.
    pub(crate) loss: usize,
    /// Percent of messages that a stream has to send again, which takes longer each time; what follows waits.
    pub(crate) resent: usize,
    /// Ways, from and to, on which nothing comes through.
    pub(crate) blocked: BTreeSet<(NodeId, NodeId)>,
    /// When the last message on each way arrives.
    streams: BTreeMap<(NodeId, NodeId), Duration>,
    /// Shortest and longest time between two slices of a processor that a process gets; between them it does nothing.
    pub(crate) starvation: Option<(Duration, Duration)>,
    /// Longest delay of a message.
    pub(crate) delay: Duration,
    pub(crate) rng: Rng,
    pub(crate) timing: Timing,
    /// Heartbeats that each has received.
    pub(crate) beats: BTreeMap<NodeId, usize>,
    /// What Kademlia has under the key of the summary.
    pub(crate) stored: Option<Vec<u8>>,
    /// For every delivered message, so that two runs can be compared.
    pub(crate) trace: Sha256,
    links: BTreeMap<(NodeId, NodeId), u64>,
    providers: BTreeMap<ProviderKey, BTreeSet<NodeId>>,
    queue: BTreeMap<(Duration, u64), Under>,
    sequence: u64,
    zero: Instant,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            cluster: TestCluster::new(1),
            machines: BTreeMap::new(),
            now: Duration::ZERO,
            loss: 0,
            resent: 0,
            blocked: BTreeSet::new(),
            streams: BTreeMap::new(),
            starvation: None,
            delay: ms(20),
            rng: Rng::new(seed),
            timing: Timing::default(),
            beats: BTreeMap::new(),
            stored: None,
            trace: Sha256::new(),
            links: BTreeMap::new(),
            providers: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            zero: Instant::now(),
        }
    }

    pub(crate) fn at(&self) -> Now {
        Now { at: self.zero + self.now, unix: UnixSeconds(START.0 + self.now.as_secs()) }
    }

    /// Sets up a machine, not started yet.
    pub(crate) fn machine(&mut self, seed: u64, roles: &[Role], services: &[&str], spec: &LeafSpec) -> NodeId {
        let key = testing::key(seed);
        let node = testing::node_id(&key);
        let machine = Machine {
            chain: self.cluster.chain(&node, spec),
            manifest: manifest(node, &format!("n{seed}"), roles, services),
            key,
            gossip_own: true,
            process: None,
            hung: false,
            starved: false,
            backlog: Vec::new(),
            side: 0,
            incarnation: Incarnation(0),
            events: Vec::new(),
            verdicts: BTreeMap::new(),
            published: Vec::new(),
            fatal: None,
            barred: Vec::new(),
            sent_bytes: 0,
            claim: Vec::new(),
            persisted: 0,
            sink: false,
            writes: Vec::new(),
            life: 0,
            gossip_seen: BTreeSet::new(),
            gossip_pending: BTreeMap::new(),
        };
        self.machines.insert(node, machine);
        node
    }

    /// A worker, started, that knows one entry.
    pub(crate) fn worker(&mut self, seed: u64, services: &[&str], entry: Option<NodeId>) -> NodeId {
        let node = self.machine(seed, &[Role::Worker], services, &LeafSpec::worker());
        self.start(node, entry);
        node
    }

    /// A gateway, started, that knows one entry.
    pub(crate) fn gateway(&mut self, seed: u64, entry: Option<NodeId>) -> NodeId {
        // Whoever knows nobody founds the cluster.
        let spec = LeafSpec { issuer: entry.is_none(), ..LeafSpec::roles(&[Role::Gateway]) };
        let node = self.machine(seed, &[Role::Gateway], &[], &spec);
        self.start(node, entry);
        node
    }

    /// Starts a machine's process, with a higher incarnation than before.
    pub(crate) fn start(&mut self, id: NodeId, entry: Option<NodeId>) {
        let (now, seed, instance) = (self.at(), self.rng.next_u64(), self.rng.next_u64());
        let started_unix_ms = START.0 * 1_000 + self.now.as_millis() as u64;
        let root = self.cluster.root.clone();
        let m = self.machines.get_mut(&id).expect("a machine");
        assert!(m.process.is_none(), "runs already");
        m.incarnation.0 += 1;
        m.life += 1;
        m.hung = false;
        m.starved = false;
        m.backlog.clear();
        m.gossip_seen.clear();
        m.gossip_pending.clear();
        let manifest = Manifest { incarnation: m.incarnation, instance, started_unix_ms, ..m.manifest.clone() };
        let config = Config {
            root,
            key: m.key.clone(),
            chain: m.chain.clone(),
            manifest,
            seed,
            timing: self.timing.clone(),
            claim: m.claim.clone(),
            sink: m.sink,
            gossip_own_manifest: m.gossip_own,
            memo: None,
        };
        m.process = Some(Node::new(config, now).expect("a manifest within its bounds"));
        self.drain(id);
        self.starve(id);
        if let Some(to) = entry {
            let life = self.machines[&id].life;
            self.under_way(ms(1), Under::Entry { id, life, to });
        }
    }

    /// Ends a process without a word.
    pub(crate) fn kill(&mut self, id: NodeId) {
        let side = self.machines[&id].side;
        self.stop(id);
        for (peer, _) in self.links_of(id) {
            self.links.remove(&pair(id, peer));
            let (life, other) = (self.machines[&peer].life, self.machines[&peer].side);
            let (after, loss) = if other == side { (ms(1), LinkLoss::Reset) } else { (SILENCE, LinkLoss::Silent) };
            self.under_way(after, Under::Down { at: peer, life, peer: id, loss });
        }
    }

    /// Ends a process in good order: what it said last still goes out.
    pub(crate) fn leave(&mut self, id: NodeId) {
        self.input(id, Input::Leave);
        let life = self.machines[&id].life;
        self.under_way(self.delay + ms(10), Under::End { id, life });
    }

    /// The process stays and does nothing any more.
    pub(crate) fn hang(&mut self, id: NodeId) {
        self.machines.get_mut(&id).expect("a machine").hung = true;
        for (peer, link) in self.links_of(id) {
            self.under_way(SILENCE, Under::Lose { a: id, b: peer, link, loss: LinkLoss::Silent });
        }
    }

    /// It goes on, with all that has come for it.
    pub(crate) fn resume(&mut self, id: NodeId) {
        let m = self.machines.get_mut(&id).expect("a machine");
        m.hung = false;
        for input in std::mem::take(&mut m.backlog) {
            self.input(id, input);
        }
    }

    /// It does all that has come for it, and waits again while processors are scarce.
    fn slice(&mut self, id: NodeId) {
        let now = self.at();
        let m = self.machines.get_mut(&id).expect("a machine");
        m.starved = false;
        for input in std::mem::take(&mut m.backlog) {
            self.input(id, input);
        }
        if self.machines[&id].process.is_some() && self.is_due(&id, now) {
            if let Some(node) = self.machines.get_mut(&id).and_then(|m| m.process.as_mut()) {
                node.handle_timeout(now);
            }
            self.drain(id);
        }
        self.starve(id);
    }

    pub(crate) fn starve(&mut self, id: NodeId) {
        let Some((shortest, longest)) = self.starvation else { return };
        let wait = shortest + self.rng.up_to(longest - shortest);
        let m = self.machines.get_mut(&id).expect("a machine");
        m.starved = true;
        let life = m.life;
        self.under_way(wait, Under::Slice { id, life });
    }

    /// Nothing that the one sends reaches the other any more.
    pub(crate) fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
        if let Some(link) = self.links.get(&pair(from, to)).copied() {
            self.under_way(SILENCE, Under::Lose { a: from, b: to, link, loss: LinkLoss::Silent });
        }
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.at();
        let Some(m) = self.machines.get_mut(&id) else { return };
        if m.hung || m.starved {
            return m.backlog.push(input);
        }
        if let Some(node) = m.process.as_mut() {
            node.handle_input(input, now);
        }
        self.drain(id);
    }

    /// A gossip message that the test made itself; says how it was judged, once that is known.
    pub(crate) fn inject(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) -> GossipId {
        self.sequence += 1;
        let id = GossipId(self.sequence);
        self.input(to, Input::Gossip { from, id, bytes });
        id
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.step(at);
        }
        self.now = end;
    }

    /// Runs until it is so; says how long that took.
    pub(crate) fn until(&mut self, what: &str, within: Duration, so: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + within);
        while !so(self) {
            match self.next().filter(|at| *at <= end) {
                Some(at) => self.step(at),
                None => panic!("not within {within:?}: {what}\n{}", self.picture()),
            }
        }
        self.now - start
    }

    fn next(&self) -> Option<Duration> {
        let timers =
            self.machines.values().filter(|m| !m.hung && !m.starved).filter_map(|m| m.process.as_ref()?.poll_timeout());
        let timer = timers.map(|(at, _)| at.saturating_duration_since(self.zero)).min();
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(queued).min().map(|at| at.max(self.now))
    }

    fn step(&mut self, at: Duration) {
        self.now = at;
        if let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= at) {
            let under = entry.remove();
            self.arrive(under);
            return;
        }
        let now = self.at();
        let ready = |n: &NodeId| !self.machines[n].starved && self.is_due(n, now);
        let due: Vec<_> = self.running().into_iter().filter(ready).collect();
        for id in due {
            if let Some(node) = self.machines.get_mut(&id).and_then(|m| m.process.as_mut()) {
                node.handle_timeout(now);
                assert!(node.poll_timeout().is_none_or(|(at, _)| at > now.at), "a timer that stays due");
            }
            self.drain(id);
        }
    }

    fn is_due(&self, id: &NodeId, now: Now) -> bool {
        self.machines[id].process.as_ref().and_then(Node::poll_timeout).is_some_and(|(at, _)| at <= now.at)
    }

    fn arrive(&mut self, under: Under) {
        match under {
            Under::Gossip { from, to, bytes } => {
                if !self.linked(from, to) || !self.arrives(from, to) {
                    return;
                }
                self.trace.update(&bytes);
                self.sequence += 1;
                let id = GossipId(self.sequence);
                let Some(m) = self.machines.get_mut(&to) else { return };
                if m.gossip_seen.insert(Sha256::digest(&bytes).into()) {
                    m.gossip_pending.insert(id, (from, bytes.clone()));
                    self.input(to, Input::Gossip { from, id, bytes });
                }
            }
            Under::Direct { from, to, bytes } => {
                if self.linked(from, to) && self.arrives(from, to) {
                    self.trace.update(&bytes);
                    if matches!(wire::decode(&bytes), Ok(Direct::Beat(_))) {
                        *self.beats.entry(to).or_default() += 1;
                    }
                    self.input(to, Input::Direct { from, bytes });
                }
            }
            Under::Dial { from, to, then } => self.dial(from, to, then),
            Under::DialFailed { from, to, failure } => self.input(from, Input::DialFailed { peer: to, failure }),
            Under::Lose { a, b, link, loss } => {
                let back = self.reaches(a, b);
                if self.links.get(&pair(a, b)) == Some(&link) && !back {
                    self.links.remove(&pair(a, b));
                    self.input(a, Input::LinkDown { peer: b, loss });
                    self.input(b, Input::LinkDown { peer: a, loss });
                }
            }
            Under::Down { at, life, peer, loss } => {
                if self.machines[&at].life == life && !self.linked(at, peer) {
                    self.input(at, Input::LinkDown { peer, loss });
                }
            }
            Under::Entry { id, life, to } => {
                if self.machines[&id].life == life {
                    if self.links_of(id).is_empty() {
                        self.dial(id, to, None);
                    }
                    self.under_way(secs(5), Under::Entry { id, life, to });
                }
            }
            Under::End { id, life } => {
                if self.machines[&id].life == life {
                    self.kill(id);
                }
            }
            Under::Slice { id, life } => {
                if self.machines[&id].life == life {
                    self.slice(id);
                }
            }
            Under::Providers { to, key } => {
                let nodes = self.providers.get(&key).into_iter().flatten().copied().collect();
                self.input(to, Input::Providers { key, nodes });
            }
            Under::Stored { to } => {
                if let Some(summary) = self.stored.clone() {
                    self.input(to, Input::StoredSummary(summary));
                }
            }
            Under::Written { to } => self.input(to, Input::Written { stored: true, writes_today: None }),
        }
    }

    fn dial(&mut self, from: NodeId, to: NodeId, then: Option<Vec<u8>>) {
        if self.machines[&from].process.is_none() || from == to {
            return;
        }
        if !self.linked(from, to) {
            let there = self.machines.get(&to).is_some_and(|m| m.process.is_some());
            let same_side = self.machines.get(&to).is_none_or(|m| m.side == self.machines[&from].side);
            if same_side && !there {
                let failed = Under::DialFailed { from, to, failure: DialFailure::Refused };
                return self.under_way(ms(1), failed);
            }
            if !self.reaches(from, to) {
                let failed = Under::DialFailed { from, to, failure: DialFailure::Unreachable };
                return self.under_way(NO_ANSWER, failed);
            }
            // The door.
            let good = |id: &NodeId| self.cluster.root.judge(&self.machines[id].chain, self.at().unix).is_ok();
            if !good(&from) || !good(&to) {
                let failed = Under::DialFailed { from, to, failure: DialFailure::Unreachable };
                return self.under_way(ms(5), failed);
            }
            self.sequence += 1;
            self.links.insert(pair(from, to), self.sequence);
            let (ours, theirs) = (self.machines[&from].chain.clone(), self.machines[&to].chain.clone());
            self.input(to, Input::LinkUp { peer: from, chain: ours });
            self.input(from, Input::LinkUp { peer: to, chain: theirs });
        }
        if let Some(bytes) = then {
            self.message(Under::Direct { from, to, bytes });
        }
    }

    /// Whether a message gets to the other's socket, where it may lie.
    fn arrives(&self, from: NodeId, to: NodeId) -> bool {
        let of = |id| self.machines.get(&id).filter(|m| m.process.is_some()).map(|m| m.side);
        of(from).is_some() && of(from) == of(to) && !self.blocked.contains(&(from, to))
    }

    /// Both run, none hangs, and no partition is between them.
    fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        if self.blocked.contains(&(a, b)) || self.blocked.contains(&(b, a)) {
            return false;
        }
        match (self.machines.get(&a), self.machines.get(&b)) {
            (Some(a), Some(b)) => a.process.is_some() && b.process.is_some() && !a.hung && !b.hung && a.side == b.side,
            _ => false,
        }
    }

    fn links_of(&self, id: NodeId) -> Vec<(NodeId, u64)> {
        let of = |(a, b): (NodeId, NodeId)| if a == id { Some(b) } else { (b == id).then_some(a) };
        self.links.iter().filter_map(|(ends, link)| Some((of(*ends)?, *link))).collect()
    }

    fn stop(&mut self, id: NodeId) {
        let m = self.machines.get_mut(&id).expect("a machine");
        m.process = None;
        m.life += 1;
        for nodes in self.providers.values_mut() {
            nodes.remove(&id);
        }
    }

    fn under_way(&mut self, after: Duration, under: Under) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), under);
    }

    fn message(&mut self, under: Under) {
        if self.rng.below(100) < self.loss {
            return;
        }
        let mut delay = ms(1) + self.rng.up_to(self.delay);
        if self.resent == 0 {
            return self.under_way(delay, under);
        }
        let mut again = ms(200);
        while self.rng.below(100) < self.resent && again < secs(2) {
            delay += again;
            again *= 2;
        }
        if let Under::Gossip { from, to, .. } | Under::Direct { from, to, .. } = under {
            let arrives = self.streams.entry((from, to)).or_default();
            *arrives = (self.now + delay).max(*arrives);
            delay = *arrives - self.now;
        }
        self.under_way(delay, under);
    }

    fn spread(&mut self, from: NodeId, but: Option<NodeId>, bytes: &[u8]) {
        for (to, _) in self.links_of(from) {
            if Some(to) != but {
                self.machines.get_mut(&from).expect("a machine").sent_bytes += bytes.len();
                self.message(Under::Gossip { from, to, bytes: bytes.to_vec() });
            }
        }
    }

    fn drain(&mut self, id: NodeId) {
        while let Some(output) = self.machines.get_mut(&id).and_then(|m| m.process.as_mut()?.poll_output()) {
            let now = self.now;
            let m = self.machines.get_mut(&id).expect("a machine");
            match output {
                Output::Publish(bytes) => {
                    m.gossip_seen.insert(Sha256::digest(&bytes).into());
                    m.published.push(bytes.clone());
                    self.spread(id, None, &bytes);
                }
                Output::Send { to, bytes } => {
                    m.sent_bytes += bytes.len();
                    if self.linked(id, to) {
                        self.message(Under::Direct { from: id, to, bytes });
                    } else {
                        self.under_way(ms(5), Under::Dial { from: id, to, then: Some(bytes) });
                    }
                }
                Output::Verdict { id: gossip, verdict } => {
                    assert!(m.verdicts.insert(gossip, verdict).is_none(), "two verdicts of one message");
                    if let Some((from, bytes)) = m.gossip_pending.remove(&gossip)
                        && verdict == Verdict::Accept
                    {
                        self.spread(id, Some(from), &bytes);
                    }
                }
                Output::Dial { peer, .. } => self.under_way(ms(5), Under::Dial { from: id, to: peer, then: None }),
                Output::Close { peer, .. } => {
                    if self.links.remove(&pair(id, peer)).is_some() {
                        self.input(id, Input::LinkDown { peer, loss: LinkLoss::Closed });
                        self.input(peer, Input::LinkDown { peer: id, loss: LinkLoss::Closed });
                    }
                }
                Output::Provide(key) => _ = self.providers.entry(key).or_default().insert(id),
                Output::Unprovide(key) => _ = self.providers.entry(key).or_default().remove(&id),
                Output::FindProviders(key) => self.under_way(ms(50), Under::Providers { to: id, key }),
                Output::PersistIncarnation(incarnation) => {
                    assert!(incarnation > m.incarnation, "an incarnation only rises");
                    m.incarnation = incarnation;
                }
                Output::PersistClaim(claim) => {
                    m.claim = claim;
                    m.persisted += 1;
                }
                Output::Bar { peer, .. } => m.barred.push(peer),
                Output::PersistRevoked(_) => m.persisted += 1,
                Output::StoreSummary(summary) => self.stored = Some(summary),
                Output::FindSummary => self.under_way(ms(50), Under::Stored { to: id }),
                Output::Write(summary) => {
                    m.writes.push((now, *summary));
                    self.under_way(ms(50), Under::Written { to: id });
                }
                Output::Changed => {}
                Output::Event(event) => m.events.push((now, event)),
                Output::Fatal(fatal) => m.fatal = Some(fatal),
            }
        }
    }
}
