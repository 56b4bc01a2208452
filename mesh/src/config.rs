//! What a mesh node is started with.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use paceline_proto::{
    id::{Roles, Site, WorkerName},
    manifest::WorkerType,
    token::Token,
};

use crate::sink::SinkConfig;

/// A port to bind: one that was asked for must be free, a default one gives way with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Where.
    pub address: SocketAddr,
    /// Whether a person named it.
    pub explicit: bool,
}

/// How a node comes by its membership.
#[derive(Clone)]
pub enum Membership {
    /// A fresh data directory founds a cluster, a used one resumes (`up` without `--join`).
    FoundOrResume,
    /// A fresh data directory joins by the token, a used one resumes; a token of another cluster is refused.
    Join(Box<Token>),
    /// A used data directory resumes, a fresh one is refused.
    Resume,
}

/// Everything that [`crate::Mesh::start`] needs.
#[derive(Clone)]
pub struct MeshConfig {
    /// What this process acts as.
    pub roles: Roles,
    /// Identity, credentials and state.
    pub data_dir: PathBuf,
    /// `--name`; `None` takes the one on disk, else the host's name with a suffix where that is taken.
    pub name: Option<WorkerName>,
    /// `--site`.
    pub site: Site,
    /// `--type`.
    pub worker_type: WorkerType,
    /// Control plane, UDP and TCP.
    pub mesh: Bind,
    /// Data plane, UDP.
    pub data: Bind,
    /// Where others can reach this node, as `IP[:PORT]` said it; the port is of the mesh plane, 0 = the bound one.
    pub advertise: Vec<SocketAddr>,
    /// How to become a member.
    pub membership: Membership,
    /// Further entry addresses (`--entry`), multiaddrs as text.
    pub entries: Vec<String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--capability`.
    pub capabilities: BTreeMap<String, bool>,
    /// Find LAN peers by mDNS.
    pub mdns: bool,
    /// Life of the leaves that this node issues as an issuer.
    pub leaf_ttl: Duration,
    /// How long this node leads when it is its turn; the same in the whole cluster.
    pub term: Duration,
    /// Between two heartbeats; the same in the whole cluster.
    pub heartbeat: Duration,
    /// Where this node may store the summary.
    pub sink: SinkConfig,
    /// Off only in tests, see `paceline_proto::node::Config`.
    pub gossip_own_manifest: bool,
}
