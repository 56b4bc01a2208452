//! The handle of a running node: everything that the gateway, the agent and the bootstrap use.

mod revoke;
mod start;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use paceline_proto::{
    credential::Credential,
    id::{ClusterId, NodeId, Role, ServiceName, TokenId, UnixSeconds, WorkerName},
    manifest::{ManifestError, Service, WorkerType},
    summary::StoredSummary,
    view::ClusterView,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::MeshConfig;
use crate::control::driver::{Command, Shared, Wishes};
use crate::data::{DataClient, DataPlane, Lanes};
use crate::http::ServiceHandler;
use crate::trust::Trust;

pub use crate::control::lines::LineTraffic;
pub use revoke::{Revoke, Revoked, RevokedLine};
pub(crate) use start::security;

/// Bound of [`Mesh::find`].
const FIND: Duration = Duration::from_secs(1);
/// Bound of each step of an orderly end that is not the caller's requests.
const ORDERLY: Duration = Duration::from_millis(500);
/// Most summaries that wait to be written.
pub const SINK_WRITES_MAX: usize = 4;
/// Most entry addresses in a token.
const TOKEN_ENTRIES_MAX: usize = 16;

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
    /// Whether newcomers can still join by it.
    pub state: TokenState,
}

/// Whether a token is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// It lets newcomers in.
    Active,
    /// All its uses are spent.
    UsedUp,
    /// Past its end.
    Expired,
    /// Taken back.
    Revoked,
}

/// What the control plane has seen since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Members that became suspect here.
    pub suspicions: u64,
    /// Members that were found dead.
    pub deaths: u64,
    /// Changes of the leader or its term.
    pub leaders: u64,
    /// What a person should look at.
    pub alarms: u64,
    /// Stored summaries that this node wrote.
    pub writes: u64,
    /// Stored summaries that it could not write.
    pub unwritten: u64,
    /// Connections of the control plane that were made, either way.
    pub connections: u64,
    /// Probes of other members.
    pub probes: u64,
    /// Those that were answered, by the member or by way of others.
    pub probes_answered: u64,
    /// Those for which others were asked.
    pub probes_indirect: u64,
    /// Those that nobody answered.
    pub probes_missed: u64,
    /// What others said of this node, and it refuted.
    pub refutations: u64,
}

/// A running member of a cluster. Cheap to clone.
///
/// [`Mesh::shutdown`] says goodbye. Where the last handle is dropped without it, the control plane ends as if the process
/// had been killed, and the data plane goes with its lanes.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    trust: Trust,
    name: WorkerName,
    shared: Arc<Shared>,
    wishes: watch::Sender<Wishes>,
    commands: mpsc::Sender<Command>,
    data: DataPlane,
    data_address: SocketAddr,
}

impl Mesh {
    /// Binds the ports, opens the data directory, becomes a member and starts both planes; returns once this node is
    /// one (a joiner that reaches no entry keeps trying, and says so in the log).
    ///
    /// # Errors
    /// [`StartError`], before anything on disk was changed.
    pub async fn start(
        config: MeshConfig,
        lanes: Arc<Lanes>,
        services: Option<Arc<dyn ServiceHandler>>,
    ) -> Result<Self, StartError> {
        start::start(config, lanes, services).await
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.trust.node()
    }

    /// This node's libp2p PeerId, as text.
    pub fn peer_id(&self) -> String {
        self.inner.trust.keypair().public().to_peer_id().to_string()
    }

    /// This node's name.
    pub fn name(&self) -> WorkerName {
        self.inner.name.clone()
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.inner.trust.cluster()
    }

    /// What this node's certificates prove; `None` while it has none.
    pub fn credential(&self) -> Option<Credential> {
        self.inner.trust.own().map(|own| own.credential.clone())
    }

    /// The time by which certificates are judged: never before the last one on disk.
    pub fn now(&self) -> UnixSeconds {
        self.inner.trust.now()
    }

    /// Whether this start founded the cluster.
    pub fn founded(&self) -> bool {
        self.inner.trust.founded()
    }

    /// Where the control plane listens: multiaddrs with `/p2p/...`, QUIC first, loopback last.
    pub fn mesh_addresses(&self) -> Vec<String> {
        self.inner.shared.addresses.load().to_vec()
    }

    /// Where the data plane listens.
    pub fn data_address(&self) -> SocketAddr {
        self.inner.data_address
    }

    /// What this node believes now. No lock, no await.
    pub fn view(&self) -> Arc<ClusterView> {
        self.inner.shared.view.load_full()
    }

    /// Tells of each new view.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.inner.shared.views.subscribe()
    }

    /// Replaces the services that this node offers; advertised at once where it is a change.
    ///
    /// # Errors
    /// Services that break a bound, or that this node's credential does not allow; the old ones stay.
    pub fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError> {
        if let Some(granted) = self.inner.trust.own().and_then(|own| own.credential.services.clone())
            && let Some(other) = services.iter().find(|service| !granted.contains(&service.name))
        {
            return Err(ManifestError::NotGranted(other.name.clone()));
        }
        let view = self.view();
        if let Some(me) = view.members.get(&view.me) {
            let mut manifest = (*me.manifest).clone();
            manifest.services.clone_from(&services);
            start::check(&manifest)?;
        }
        self.inner.wishes.send_modify(|wishes| wishes.services = Some(services));
        Ok(())
    }

    /// Replaces what this node says of itself; advertised at once where it is a change.
    ///
    /// # Errors
    /// They break a bound of the manifest; the old ones stay.
    pub fn describe(
        &self,
        labels: BTreeMap<String, String>,
        capabilities: BTreeMap<String, bool>,
        worker_type: WorkerType,
    ) -> Result<(), ManifestError> {
        let view = self.view();
        if let Some(me) = view.members.get(&view.me) {
            let mut manifest = (*me.manifest).clone();
            manifest.labels.clone_from(&labels);
            manifest.capabilities.clone_from(&capabilities);
            start::check(&manifest)?;
        }
        self.inner.wishes.send_modify(|wishes| wishes.description = Some((labels, capabilities, worker_type)));
        Ok(())
    }

    /// Looks in Kademlia for a service that the view lacks; returns when it is in the view, or after at most 1 s.
    pub async fn find(&self, service: &ServiceName) {
        let mut views = self.watch();
        if views.borrow_and_update().services.contains_key(service) {
            return;
        }
        if self.inner.commands.try_send(Command::Find(service.clone())).is_ok() {
            let there = views.wait_for(|view| view.services.contains_key(service));
            let _ = tokio::time::timeout(FIND, there).await;
        }
    }

    /// Tells the failure detector that a request to this node failed on the data plane.
    pub fn request_failed(&self, node: NodeId) {
        // evidence among other evidence: it may be lost where the loop is behind
        let _ = self.inner.commands.try_send(Command::RequestFailed(node));
    }

    /// The summaries that this node is told to write to the stores, in order; each is to be answered by
    /// [`Mesh::written`]. Whoever calls last gets them; at most [`SINK_WRITES_MAX`] wait, and what comes on top counts
    /// as not stored.
    pub fn sink_writes(&self) -> mpsc::Receiver<StoredSummary> {
        let (sink, writes) = mpsc::channel(SINK_WRITES_MAX);
        self.inner.shared.sink.store(Some(Arc::new(sink)));
        writes
    }

    /// How a write of [`Mesh::sink_writes`] ended, and how many writes of this UTC day the store itself knows of.
    pub async fn written(&self, stored: bool, writes_today: Option<u32>) {
        // fails only where the control plane has ended
        let _ = self.inner.commands.send(Command::Written(stored, writes_today)).await;
    }

    /// What the control plane's lines have carried.
    pub fn line_traffic(&self) -> LineTraffic {
        self.inner.shared.traffic.now()
    }

    /// What the control plane has seen.
    pub fn happened(&self) -> Happened {
        self.inner.shared.counts.now()
    }

    /// The way to the nodes for a gateway thread; call once for each lane.
    pub fn client(&self, lane: usize) -> DataClient {
        self.inner.data.client(lane)
    }

    /// Whether this node can make tokens.
    pub fn is_issuer(&self) -> bool {
        self.inner.trust.is_issuer()
    }

    /// Makes a join token; the text is returned once and not kept. Its entry addresses are this node's own.
    ///
    /// # Errors
    /// In words for the user: not an issuer, or a bound is broken.
    pub async fn create_token(&self, spec: TokenSpec) -> Result<(TokenId, String), String> {
        let entries = self.token_entries();
        let trust = self.inner.trust.clone();
        tokio::task::spawn_blocking(move || trust.create_token(&spec, &entries))
            .await
            .unwrap_or_else(|e| Err(format!("the token was not made: {e}")))
    }

    /// The entry addresses of a token that is made now: loopback only where there is nothing else.
    pub(crate) fn token_entries(&self) -> Vec<String> {
        let mut entries = self.mesh_addresses();
        let is_loopback = |a: &String| a.starts_with("/ip4/127.") || a.starts_with("/ip6/::1/");
        if entries.iter().any(|a| !is_loopback(a)) {
            entries.retain(|a| !is_loopback(a));
        }
        entries.truncate(TOKEN_ENTRIES_MAX);
        entries
    }

    /// The tokens that this issuer has made and that have not been expired for a day.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        self.inner.trust.tokens()
    }

    /// No new work for this node from now on (or again).
    pub fn drain(&self, draining: bool) {
        self.inner.wishes.send_modify(|wishes| wishes.draining = draining);
    }

    /// Resolves when the node cannot go on (a cloned data directory); the text is for the user, exit code 2.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.shared.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // the sender lives as long as this handle
            None => std::future::pending().await,
        }
    }

    /// Says goodbye, closes both planes, and returns when that is done, after at most `grace` and a second.
    /// `forget`: also drops the membership from disk, so that coming back needs a token.
    pub async fn shutdown(&self, grace: Duration, forget: bool) {
        let deadline = tokio::time::Instant::now() + grace;
        self.tell(Command::Leave).await;
        self.inner.data.shutdown(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        self.tell(Command::Stop).await;
        if forget {
            let trust = self.inner.trust.clone();
            match tokio::task::spawn_blocking(move || trust.forget()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::error!(error = %e, "the membership is still on disk"),
                Err(e) => tracing::error!(error = %e, "the membership is still on disk"),
            }
        }
    }

    async fn tell(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, told) = oneshot::channel();
        let exchange = async {
            if self.inner.commands.send(command(done)).await.is_ok() {
                let _ = told.await;
            }
        };
        let _ = tokio::time::timeout(ORDERLY, exchange).await;
    }
}
