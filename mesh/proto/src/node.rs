//! All cores of one node together: the only place where they meet.
//!
//! The driving loop, for the real driver and the simulator alike:
//! ```text
//! loop {
//!     while let Some(output) = node.poll_output() { carry it out }
//!     wait for an input, or until node.poll_timeout()
//!     node.handle_input(input, now)  or  node.handle_timeout(now)
//! }
//! ```

mod act;
mod inbox;
mod lead;
mod links;
mod own;
mod revoke;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;

use crate::Now;
use crate::conduct::{Conduct, Standing};
use crate::connect::Connect;
use crate::credential::{Chain, Root};
use crate::credentials::Credentials;
use crate::detector::{self, Detector};
use crate::heartbeat::Load;
use crate::id::{ClusterId, Incarnation, NodeId, Role, ServiceName};
use crate::manifest::{Manifest, ManifestError, Service, WorkerType};
use crate::membership::{self, Membership};
use crate::memo::Memo;
use crate::message::Written;
use crate::meter::Meter;
use crate::parked::Lot;
use crate::registry::Registry;
use crate::revocation::{Revocations, SignedList};
use crate::rng::Rng;
use crate::roster::Roster;
use crate::summary::StoredSummary;
use crate::sync::{Asked, Table};
use crate::timer::{self, Timers};
use crate::view::{ClusterView, Leadership, Member, MemberState};

use inbox::Via;
use lead::Leading;
pub use links::{DialFailure, LinkLoss};
pub use own::Fatal;
use own::Own;
use watch::Arrivals;

/// How long things take. Defaults are the design's.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From suspicion to death.
    pub suspicion: Duration,
    /// Between two digest exchanges with a random neighbour.
    pub sync: Duration,
    /// How long dead and departed members stay listed.
    pub tombstone: Duration,
    /// Between two probes of this node.
    pub probe: Duration,
    /// Between two heartbeats and two summaries.
    pub heartbeat: Duration,
    /// How long a leader leads.
    pub term: Duration,
    /// From this many members on, heartbeats go by way of sub-leaders.
    pub sub_leaders_from: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            suspicion: Duration::from_secs(3),
            sync: Duration::from_secs(10),
            tombstone: Duration::from_secs(3_600),
            probe: Duration::from_secs(1),
            heartbeat: Duration::from_secs(10),
            term: Duration::from_secs(600),
            sub_leaders_from: 128,
        }
    }
}

/// What a node starts with.
#[derive(Clone)]
pub struct Config {
    /// The cluster's root.
    pub root: Root,
    /// Signs this node's records.
    pub key: SigningKey,
    /// This node's chain.
    pub chain: Chain,
    /// Its first manifest: incarnation already raised and on disk, version 1.
    pub manifest: Manifest,
    /// For every random choice.
    pub seed: u64,
    /// How long things take.
    pub timing: Timing,
    /// The greatest claim of a leader that was ever seen, as [`Output::PersistClaim`] gave it; empty at the first start.
    pub claim: Vec<u8>,
    /// Whether this node may write the stored summary (it holds the credential).
    pub sink: bool,
    /// Off only in tests: then manifests are found by Kademlia and asked for alone (no gossip, no digest exchange of our own manifest).
    pub gossip_own_manifest: bool,
    /// Shared by the nodes of a simulated cluster; `None` everywhere else.
    pub memo: Option<Memo>,
}

/// A gossip message until its verdict is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipId(pub u64);

/// A key of Kademlia's provider records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProviderKey {
    /// Who offers the service.
    Service(ServiceName),
    /// Who acts in the role.
    Role(Role),
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first connection to a peer that the door admitted.
    LinkUp {
        /// Who.
        peer: NodeId,
        /// The chain that the door judged.
        chain: Chain,
    },
    /// The last connection to a peer is gone.
    LinkDown {
        /// Who.
        peer: NodeId,
        /// How.
        loss: LinkLoss,
    },
    /// A dial asked for by [`Output::Dial`] failed at every address.
    DialFailed {
        /// Whom.
        peer: NodeId,
        /// Why.
        failure: DialFailure,
    },
    /// A gossip message, to be answered by [`Output::Verdict`].
    Gossip {
        /// The neighbour it came through.
        from: NodeId,
        /// For the verdict.
        id: GossipId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A message from a connected peer.
    Direct {
        /// Who sent it.
        from: NodeId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The services that this node offers from now on, all of them.
    Offer(Vec<Service>),
    /// What this node says of itself from now on.
    Describe {
        /// Free labels.
        labels: BTreeMap<String, String>,
        /// Declared or detected.
        capabilities: BTreeMap<String, bool>,
        /// GPU, CPU or edge.
        worker_type: WorkerType,
    },
    /// Where this node can be reached from now on.
    Addresses {
        /// Multiaddrs as text.
        mesh: Vec<String>,
        /// The data port.
        data: Vec<SocketAddr>,
    },
    /// This node's renewed chain.
    Renewed(Chain),
    /// No new work from now on (or again).
    Drain(bool),
    /// Say goodbye.
    Leave,
    /// A gateway lacks a service: look in Kademlia.
    Find(ServiceName),
    /// What Kademlia answered to [`Output::FindProviders`]; a hint, verified by asking.
    Providers {
        /// The key that was asked for.
        key: ProviderKey,
        /// Who says that they provide it.
        nodes: Vec<NodeId>,
    },
    /// A request to the peer failed on the data plane.
    RequestFailed {
        /// Whom it was sent to.
        peer: NodeId,
    },
    /// How busy this node is; the next heartbeat says so.
    Load(Load),
    /// Lists of the revoked that this node's disk has, or that came at the door.
    Revoked(Vec<SignedList>),
    /// Others have (or have not) reached this node by dialling it.
    Dialable(bool),
    /// What Kademlia had for [`Output::FindSummary`]: a signed summary, to be verified.
    StoredSummary(Vec<u8>),
    /// How a write asked for by [`Output::Write`] ended.
    Written {
        /// Whether the store has it.
        stored: bool,
        /// Writes of this UTC day that the store itself knows of, where it could be read.
        writes_today: Option<u32>,
    },
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Gossip these bytes.
    Publish(Vec<u8>),
    /// Send to a peer, dialling it first if needed; may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Whether a gossip message goes on.
    Verdict {
        /// Which.
        id: GossipId,
        /// How it was judged.
        verdict: Verdict,
    },
    /// Connect to a peer (no harm when connected already).
    Dial {
        /// Whom.
        peer: NodeId,
        /// Multiaddrs as text; Kademlia's and mDNS's own knowledge is added by the driver.
        addresses: Vec<String>,
    },
    /// Close every connection to a peer.
    Close {
        /// Whom.
        peer: NodeId,
        /// For the log.
        reason: String,
    },
    /// Close every connection to a peer, and let it in again only after [`crate::conduct::CUT_FOR`].
    Bar {
        /// Whom.
        peer: NodeId,
        /// For the log.
        reason: &'static str,
    },
    /// Put a provider record into Kademlia, and keep it alive.
    Provide(ProviderKey),
    /// Take it out.
    Unprovide(ProviderKey),
    /// Look it up; answered by [`Input::Providers`].
    FindProviders(ProviderKey),
    /// On disk before any output that follows it.
    PersistIncarnation(Incarnation),
    /// The greatest claim of a leader so far: on disk before any output that follows it.
    PersistClaim(Vec<u8>),
    /// All lists of the revoked: on disk before any output that follows it.
    PersistRevoked(Vec<SignedList>),
    /// Put this signed summary into Kademlia.
    StoreSummary(Vec<u8>),
    /// Look it up there; answered by [`Input::StoredSummary`].
    FindSummary,
    /// Write this to the sinks (the leader told this node to); answered by [`Input::Written`].
    Write(Box<StoredSummary>),
    /// The view is another one: publish [`Node::view`] to readers.
    Changed,
    /// For the log and the event stream.
    Event(Event),
    /// The process must end with exit code 2.
    Fatal(Fatal),
}

/// A gossip message, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New and true: it goes on.
    Accept,
    /// Known or of no use: it stops here.
    Ignore,
    /// False: the sender is scored down.
    Reject,
}

/// What readers may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member changed its state (a newcomer has `from: None`).
    State {
        /// Who.
        node: NodeId,
        /// From.
        from: Option<MemberState>,
        /// To.
        to: MemberState,
    },
    /// A member's manifest changed.
    Manifest {
        /// Whose.
        node: NodeId,
    },
    /// Another leader, or another term.
    Leader {
        /// Who.
        leader: NodeId,
        /// Its term.
        term: u64,
        /// How often the lead was taken over within the term.
        takeovers: u32,
    },
    /// Something that a person should look at.
    Alarm(String),
    /// A message of a peer was refused.
    Refused {
        /// Who sent it.
        peer: NodeId,
        /// Why.
        reason: String,
    },
}

/// How often the time of the last sign of life is carried over for connected members.
const SEEN_EVERY: Duration = Duration::from_secs(5);
/// How often this node looks whether it has the connections that it wants, while some are missing or too many.
const CONNECT_EVERY: Duration = Duration::from_secs(1);
/// The same, while it has what it wants: then it looks when something changes, and now and then for what has grown old.
const CONNECT_SELDOM: Duration = Duration::from_secs(10);
/// How soon it looks after something has changed.
const CONNECT_SOON: Duration = Duration::from_millis(100);
/// How often chains that nobody needs are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Records of others that this node gossips on after it came by them directly: at once, and per second.
const RELAYED: (u32, u32) = (32, 8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Exchange digests with a random neighbour.
    Sync,
    /// See whether connections are missing.
    Connect,
    /// Carry over the last sign of life of connected members.
    Seen,
    /// Give up on records whose author's chain did not come.
    Parked,
    /// A credential ends, or it is time to sweep.
    Credentials,
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Sync => "sync",
            Timer::Connect => "connect",
            Timer::Seen => "last seen",
            Timer::Parked => "parked records",
            Timer::Credentials => "credentials",
        }
    }
}

/// All cores of one node.
pub struct Node {
    me: NodeId,
    cluster: ClusterId,
    key: SigningKey,
    timing: Timing,
    own: Own,
    credentials: Credentials,
    revocations: Revocations,
    /// Whose lists were asked for back, and when.
    asked_revoked: BTreeMap<NodeId, Instant>,
    memo: Option<Memo>,
    membership: Membership,
    detector: Detector,
    table: Table,
    registry: Registry,
    roster: Roster,
    connect: Connect,
    parked: Lot<Via>,
    meters: BTreeMap<NodeId, Meter>,
    conduct: Conduct,
    relayed: Meter,
    accusations: Meter,
    exchanges: Meter,
    asked: Asked,
    arrivals: Arrivals,
    born: Instant,
    released: BTreeMap<NodeId, Instant>,
    finds: BTreeMap<ProviderKey, Instant>,
    rng: Rng,
    lead: Leading,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    generation: u64,
    changed: bool,
}

impl Node {
    /// Takes over a configuration; the first outputs announce the node.
    ///
    /// # Errors
    /// A manifest that breaks its bounds.
    pub fn new(config: Config, now: Now) -> Result<Self, ManifestError> {
        let me = NodeId::from_bytes(config.key.verifying_key().to_bytes());
        let cluster = config.root.cluster();
        let mut rng = Rng::new(config.seed);
        let founder = config.root.judge(&config.chain, now.unix).is_ok_and(|credential| credential.issuer);
        let (lead, alarm) = Leading::new(&config, me, founder, &mut rng, now);
        let Config { root, key, chain, mut manifest, seed: _, timing, claim: _, sink, gossip_own_manifest, memo } =
            config;
        manifest.sink = sink;
        let membership = Membership::new(membership::Config {
            me,
            suspicion: timing.suspicion,
            tombstone: timing.tombstone,
            settled: Some(now.at + watch::YOUNG),
            seed: rng.next_u64(),
        });
        let settled = Some(now.at + watch::YOUNG);
        let watch = detector::Config { me, cluster, probe: timing.probe, settled, seed: rng.next_u64() };
        let own = Own::new(manifest, chain, &key, &cluster, gossip_own_manifest)?;
        let mut node = Self {
            me,
            cluster,
            key,
            own,
            revocations: Revocations::new(root.clone()),
            asked_revoked: BTreeMap::new(),
            credentials: Credentials::new(root).with_memo(memo.clone()),
            memo,
            membership,
            detector: Detector::new(watch, now.at),
            table: Table::new(timing.tombstone),
            registry: Registry::default(),
            roster: Roster::default(),
            connect: Connect::new(me),
            parked: Lot::default(),
            meters: BTreeMap::new(),
            conduct: Conduct::default(),
            relayed: Meter::new(RELAYED.0, RELAYED.1, now.at),
            accusations: Meter::new(watch::ACCUSATIONS.0, watch::ACCUSATIONS.1, now.at),
            exchanges: Meter::new(links::EXCHANGES.0, links::EXCHANGES.1, now.at),
            asked: Asked::default(),
            arrivals: Arrivals::default(),
            born: now.at,
            released: BTreeMap::new(),
            finds: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            generation: 0,
            changed: false,
            rng,
            lead,
            timing,
        };
        node.outputs.extend(alarm.map(|alarm| Output::Event(Event::Alarm(alarm.to_owned()))));
        node.timers.set(Timer::Connect, now.at + CONNECT_SOON);
        node.timers.set(Timer::Seen, now.at + SEEN_EVERY);
        node.timers.set(Timer::Credentials, now.at + SWEEP_EVERY);
        let sync = node.rng.around(node.timing.sync);
        node.timers.set(Timer::Sync, now.at + sync);
        node.introduce(now);
        node.settle(now);
        Ok(node)
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        if self.own.is_over() {
            // Whoever has said goodbye says nothing more; only the swarm still waits for its verdicts.
            if let Input::Gossip { id, .. } = input {
                self.outputs.push_back(Output::Verdict { id, verdict: Verdict::Ignore });
            }
            return;
        }
        self.lead.wake(self.poll_timeout().map(|(due, _)| due), now);
        self.wake(now);
        match input {
            Input::LinkUp { peer, chain } => self.link_up(peer, chain, now),
            Input::LinkDown { peer, loss } => self.link_down(peer, loss, now),
            Input::DialFailed { peer, failure } => self.dial_failed(peer, failure, now),
            Input::Gossip { from, id, bytes } => self.gossip(from, id, &bytes, now),
            Input::Direct { from, bytes } => self.direct(from, &bytes, now),
            Input::Offer(services) => self.offer(services, now),
            Input::Describe { labels, capabilities, worker_type } => {
                self.describe(labels, capabilities, worker_type, now);
            }
            Input::Addresses { mesh, data } => self.addresses(mesh, data, now),
            Input::Renewed(chain) => self.renewed(chain, now),
            Input::Drain(draining) => self.drain(draining, now),
            Input::Leave => self.leave(now),
            Input::Find(service) => self.find(ProviderKey::Service(service), now),
            Input::Providers { key, nodes } => self.providers(&key, &nodes),
            Input::RequestFailed { peer } => self.request_failed(peer, now),
            Input::Revoked(lists) => self.told_revoked(&lists, now),
            Input::Load(load) => self.load(load),
            Input::Dialable(dialable) => self.dialable(dialable, now),
            Input::StoredSummary(bytes) => self.stored_summary(&bytes, now),
            Input::Written { stored, writes_today } => self.wrote(Written { stored, writes_today }, now),
        }
        self.settle(now);
    }

    /// The time of [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.own.is_over() {
            return;
        }
        self.lead.wake(self.poll_timeout().map(|(due, _)| due), now);
        self.wake(now);
        self.detector.handle_timeout(now.at);
        self.membership.handle_timeout(now.at);
        self.lead_timeout(now);
        while let Some(timer) = self.timers.pop(now.at) {
            match timer {
                Timer::Sync => self.sync_with_a_neighbour(now),
                Timer::Connect => self.look_for_connections(now),
                Timer::Seen => self.carry_over_last_seen(now),
                Timer::Parked => self.give_up_parked(now),
                Timer::Credentials => self.sweep(now),
            }
        }
        self.settle(now);
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When this node wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.own.is_over() {
            return None;
        }
        let cores = [
            self.timers.next(),
            self.membership.poll_timeout(),
            self.detector.poll_timeout(),
            self.lead.poll_timeout(),
        ];
        cores.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The leadership of [`Node::view`] alone.
    pub fn leadership(&self) -> Leadership {
        self.lead.view()
    }

    /// What this node's probes have met since its start.
    pub fn probes(&self) -> detector::Counted {
        self.detector.counted()
    }

    /// One member of [`Node::view`], without the others.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.roster.members().get(node).map(AsRef::as_ref)
    }

    /// What this node believes.
    pub fn view(&self) -> ClusterView {
        ClusterView {
            generation: self.generation,
            cluster: self.cluster,
            me: self.me,
            leadership: self.leadership(),
            members: self.roster.members().clone(),
            services: self.registry.services().clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
