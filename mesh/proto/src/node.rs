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

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;

use crate::Now;
use crate::credential::{Chain, Root};
use crate::id::{Incarnation, NodeId, Role, ServiceName};
use crate::manifest::{Manifest, ManifestError, Service};
use crate::view::{ClusterView, MemberState};

/// How long things take. Defaults are the design's.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From suspicion to death.
    pub suspicion: Duration,
    /// Between two digest exchanges with a random neighbour.
    pub sync: Duration,
    /// How long dead and departed members stay listed.
    pub tombstone: Duration,
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
    /// Off only in tests: then manifests are found by Kademlia and asked for alone (no gossip, no digest exchange of our own manifest).
    pub gossip_own_manifest: bool,
}

/// How the last connection to a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLoss {
    /// FIN or RST: the process has most likely ended.
    Reset,
    /// Silence.
    Silent,
    /// We closed it, or it did in good order (too many connections).
    Closed,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Nobody listens there.
    Refused,
    /// No answer, no route, or no address known.
    Unreachable,
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
    /// Put a provider record into Kademlia, and keep it alive.
    Provide(ProviderKey),
    /// Take it out.
    Unprovide(ProviderKey),
    /// Look it up; answered by [`Input::Providers`].
    FindProviders(ProviderKey),
    /// On disk before any output that follows it.
    PersistIncarnation(Incarnation),
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
    /// A message of a peer was refused.
    Refused {
        /// Who sent it.
        peer: NodeId,
        /// Why.
        reason: String,
    },
}

/// Why the process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Another process runs under this node's key, and was there first.
    #[error(
        "another process runs with this node's key: the data directory was cloned; give this machine a fresh --data-dir"
    )]
    Cloned,
}

/// All cores of one node.
pub struct Node {}

impl Node {
    /// Takes over a configuration; the first outputs announce the node.
    ///
    /// # Errors
    /// A manifest that breaks its bounds.
    pub fn new(_config: Config, _now: Now) -> Result<Self, ManifestError> {
        unimplemented!()
    }

    /// Something happened.
    pub fn handle_input(&mut self, _input: Input, _now: Now) {
        unimplemented!()
    }

    /// The time of [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, _now: Now) {
        unimplemented!()
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// When this node wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        unimplemented!()
    }

    /// What this node believes.
    pub fn view(&self) -> ClusterView {
        unimplemented!()
    }
}
