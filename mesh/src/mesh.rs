//! The handle of a running node: everything that the gateway, the agent and the bootstrap use.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use paceline_proto::{
    id::{ClusterId, NodeId, Role, ServiceName, TokenId, UnixSeconds, WorkerName},
    manifest::{ManifestError, Service},
    view::ClusterView,
};
use tokio::sync::watch;

use crate::config::MeshConfig;
use crate::data::{DataClient, Lanes};
use crate::http::ServiceHandler;

/// Why a node did not start: always a user's or an administrator's matter, exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that was asked for is taken or cannot be bound.
    #[error("cannot bind {what} {address}: {source}")]
    Bind {
        /// `--mesh` or `--data`.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {reason}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Admission was refused for good.
    #[error("not admitted: {0}")]
    Refused(String),
    /// The configuration asks for something impossible.
    #[error("{0}")]
    Config(String),
    /// The manifest breaks a bound.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
}

/// What a new token is to allow.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// Roles.
    pub roles: paceline_proto::id::Roles,
    /// Whether the newcomer becomes an issuer.
    pub issuer: bool,
    /// Services that it may offer; empty is any.
    pub services: Vec<ServiceName>,
    /// How long it is good.
    pub ttl: Duration,
    /// How many newcomers; `None` is any number.
    pub uses: Option<u32>,
}

/// A token as its issuer remembers it; the secret is not kept.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// Roles.
    pub roles: Vec<Role>,
    /// Whether it makes issuers.
    pub issuer: bool,
    /// Services; empty is any.
    pub services: Vec<ServiceName>,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// The bound, if any.
    pub uses: Option<u32>,
    /// Newcomers so far.
    pub used: u32,
}

/// A running member of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Mesh {}

impl Mesh {
    /// Binds the ports, opens the data directory, becomes a member and starts both planes; returns once this node is
    /// one (a joiner that reaches no entry keeps trying, and says so in the log).
    ///
    /// # Errors
    /// [`StartError`], before anything on disk was changed.
    pub async fn start(
        _config: MeshConfig,
        _lanes: Arc<Lanes>,
        _services: Option<Arc<dyn ServiceHandler>>,
    ) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        unimplemented!()
    }

    /// This node's libp2p PeerId, as text.
    pub fn peer_id(&self) -> String {
        unimplemented!()
    }

    /// This node's name.
    pub fn name(&self) -> WorkerName {
        unimplemented!()
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        unimplemented!()
    }

    /// Whether this start founded the cluster.
    pub fn founded(&self) -> bool {
        unimplemented!()
    }

    /// Where the control plane listens: multiaddrs with `/p2p/...`, QUIC first, loopback last.
    pub fn mesh_addresses(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Where the data plane listens.
    pub fn data_address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// What this node believes now. No lock, no await.
    pub fn view(&self) -> Arc<ClusterView> {
        unimplemented!()
    }

    /// Tells of each new view.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterView>> {
        unimplemented!()
    }

    /// Replaces the services that this node offers; advertised at once where it is a change.
    ///
    /// # Errors
    /// Services that break a bound; the old ones stay.
    pub fn offer(&self, _services: Vec<Service>) -> Result<(), ManifestError> {
        unimplemented!()
    }

    /// Looks in Kademlia for a service that the view lacks; returns when it is in the view, or after at most 1 s.
    pub async fn find(&self, _service: &ServiceName) {
        unimplemented!()
    }

    /// Tells the failure detector that a request to this node failed on the data plane.
    pub fn request_failed(&self, _node: NodeId) {
        unimplemented!()
    }

    /// The way to the nodes for a gateway thread; call once for each lane.
    pub fn client(&self, _lane: usize) -> DataClient {
        unimplemented!()
    }

    /// Whether this node can make tokens.
    pub fn is_issuer(&self) -> bool {
        unimplemented!()
    }

    /// Makes a join token; the text is returned once and not kept.
    ///
    /// # Errors
    /// In words for the user: not an issuer, or a bound is broken.
    pub async fn create_token(&self, _spec: TokenSpec) -> Result<(TokenId, String), String> {
        unimplemented!()
    }

    /// The tokens that this issuer has made and that have not been expired for a day.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        unimplemented!()
    }

    /// No new work for this node from now on (or again).
    pub fn drain(&self, _draining: bool) {
        unimplemented!()
    }

    /// Resolves when the node cannot go on (a cloned data directory); the text is for the user, exit code 2.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }

    /// Says goodbye, closes both planes, and returns when that is done, after at most `grace`.
    /// `forget`: also drops the membership from disk, so that coming back needs a token.
    pub async fn shutdown(&self, _grace: Duration, _forget: bool) {
        unimplemented!()
    }
}
