//! What this node believes of its cluster, as a snapshot for readers.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, NodeId, Roles, ServiceName, WorkerName};
use crate::manifest::{Manifest, Service};

/// What the failure detector says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Heard of, and nothing speaks against it.
    Alive,
    /// Somebody missed it; it may still refute.
    Suspect,
    /// Confirmed gone without a word.
    Dead,
    /// Said goodbye.
    Left,
}

/// One member as this node sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it said of itself last.
    pub manifest: Arc<Manifest>,
    /// The name to show: `manifest.name`, with a suffix where two keys claim one name and this one came later.
    pub name: WorkerName,
    /// Roles and services allowed by its credential.
    pub roles: Roles,
    /// Alive, suspect, dead or left.
    pub state: MemberState,
    /// Since when it is in that state.
    pub since: Instant,
    /// When this node last had proof of life, itself or through others.
    pub last_seen: Instant,
    /// Whether this node has a control-plane connection to it.
    pub connected: bool,
}

impl Member {
    /// Alive: `healthy` in every API, together with the service's own health.
    pub fn is_alive(&self) -> bool {
        self.state == MemberState::Alive
    }
}

/// One offer of a service.
#[derive(Clone, Debug)]
pub struct Provider {
    /// By whom.
    pub node: NodeId,
    /// Who that is.
    pub member: Arc<Member>,
    /// The offer.
    pub service: Service,
}

/// Who leads, and how fresh its word is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Who; `None` until a claim was heard.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// How often the lead was taken over within the term.
    pub takeovers: u32,
    /// Of its last summary: rises by one with each, from a number that only this author has in this term.
    pub seq: u64,
    /// When that came.
    pub summary_at: Option<Instant>,
    /// Members that its last summary counts as alive.
    pub alive: u32,
    /// Writes to the stored summary since midnight UTC, as its last summary says.
    pub writes_today: u32,
}

/// A snapshot: cheap to clone, never changes.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Raised at each change.
    pub generation: u64,
    /// Which cluster.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// Who leads.
    pub leadership: Leadership,
    /// Everybody known, this node included, dead and departed ones for an hour.
    pub members: BTreeMap<NodeId, Arc<Member>>,
    /// Who offers what; dead and departed members are not in it, suspects are.
    pub services: BTreeMap<ServiceName, Vec<Arc<Provider>>>,
}
