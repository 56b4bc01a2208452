//! Real nodes on 127.0.0.1 for the tests of the control plane.

// each test file uses a part of it
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use paceline_mesh::{Bind, Mesh, MeshConfig, StartError, config::Membership, data::Lanes, mesh::TokenSpec};
use paceline_proto::{
    id::{NodeId, Role, Roles, ServiceName, Site, WorkerName},
    manifest::{Health, Service, ServiceKind, WorkerType},
    token::Token,
    view::{ClusterView, MemberState},
};
use tempfile::TempDir;

/// Bound of everything that should take far less.
pub(crate) const SOON: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(86_400);

/// A machine: its data directory outlives its processes.
pub(crate) struct Machine {
    dir: Arc<TempDir>,
    pub(crate) config: MeshConfig,
}

pub(crate) fn roles(list: &[Role]) -> Roles {
    list.iter().copied().collect()
}

fn free_port() -> Bind {
    Bind { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), explicit: true }
}

impl Machine {
    pub(crate) fn new(name: &str, list: &[Role]) -> Self {
        let dir = Arc::new(TempDir::new().expect("a directory"));
        let config = MeshConfig {
            roles: roles(list),
            data_dir: dir.path().join("data"),
            name: Some(WorkerName::new(name).expect("a name")),
            site: Site::default(),
            worker_type: WorkerType::Cpu,
            mesh: free_port(),
            data: free_port(),
            advertise: Vec::new(),
            membership: Membership::FoundOrResume,
            entries: Vec::new(),
            labels: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            mdns: false,
            leaf_ttl: 30 * DAY,
            term: Duration::from_secs(600),
            heartbeat: Duration::from_secs(10),
            sink: Default::default(),
            gossip_own_manifest: true,
        };
        Self { dir, config }
    }

    pub(crate) fn worker(name: &str) -> Self {
        Self::new(name, &[Role::Worker])
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    /// Joins by a token's text.
    pub(crate) fn joining(mut self, token: &str) -> Self {
        self.config.membership = Membership::Join(Box::new(Token::parse(token).expect("a token")));
        self
    }

    pub(crate) async fn start(&self) -> Node {
        self.try_start().await.expect("a start")
    }

    /// Starts again after a process of this machine was killed: its lock goes with its last thread.
    pub(crate) async fn start_again(&self) -> Node {
        let deadline = Instant::now() + SOON;
        loop {
            match self.try_start().await {
                Ok(node) => return node,
                Err(StartError::DataDir { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub(crate) async fn try_start(&self) -> Result<Node, StartError> {
        quiet();
        let lanes: Arc<Lanes> = Lanes::start(1).expect("a lane");
        let started = Mesh::start(self.config.clone(), lanes.clone(), None);
        let mesh = tokio::time::timeout(SOON, started).await.expect("a start in time")?;
        Ok(Node { mesh: Some(mesh), lanes, _dir: Arc::clone(&self.dir) })
    }

    /// Why it does not start.
    pub(crate) async fn refusal(&self) -> String {
        match self.try_start().await {
            Ok(_) => panic!("it started"),
            Err(e) => e.to_string(),
        }
    }
}

/// A running node. Dropped, it is killed.
pub(crate) struct Node {
    mesh: Option<Mesh>,
    lanes: Arc<Lanes>,
    _dir: Arc<TempDir>,
}

impl std::ops::Deref for Node {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        self.mesh.as_ref().expect("a running node")
    }
}

impl Node {
    /// Ends in good order.
    pub(crate) async fn stop(self) {
        self.shutdown(Duration::from_secs(1), false).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lanes.stop();
        self.mesh = None;
    }
}

/// Logs of failing tests: `RUST_LOG=paceline_mesh=debug`.
fn quiet() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

/// A founder: gateway, worker, issuer.
pub(crate) async fn founder(name: &str) -> (Machine, Node) {
    let machine = Machine::new(name, &[Role::Worker, Role::Gateway]);
    let mesh = machine.start().await;
    assert!(mesh.founded());
    (machine, mesh)
}

pub(crate) async fn token(issuer: &Mesh, list: &[Role]) -> String {
    token_of(issuer, TokenSpec { roles: roles(list), issuer: false, services: vec![], ttl: DAY, uses: None }).await
}

pub(crate) async fn token_of(issuer: &Mesh, spec: TokenSpec) -> String {
    issuer.create_token(spec).await.expect("a token").1
}

/// Waits until a view fits.
pub(crate) async fn until(mesh: &Mesh, within: Duration, what: &str, fits: impl Fn(&ClusterView) -> bool) {
    let mut views = mesh.watch();
    let seen = tokio::time::timeout(within, views.wait_for(|view| fits(view))).await;
    if seen.is_err() {
        let members: Vec<String> = mesh
            .view()
            .members
            .values()
            .map(|m| format!("{} {:?} {:?}", m.name, m.state, m.manifest.incarnation))
            .collect();
        panic!("{}: not within {within:?}: {what}; it sees {members:?}", mesh.name());
    }
}

pub(crate) fn state(view: &ClusterView, node: NodeId) -> Option<MemberState> {
    view.members.get(&node).map(|m| m.state)
}

pub(crate) async fn until_state(mesh: &Mesh, node: NodeId, wanted: MemberState, within: Duration) {
    until(mesh, within, &format!("{} {wanted:?}", node.short()), |view| state(view, node) == Some(wanted)).await;
}

/// Waits until every node sees all of them alive.
pub(crate) async fn converged(nodes: &[&Mesh]) {
    for mesh in nodes {
        until(mesh, SOON, "all alive", |view| {
            nodes.iter().all(|n| state(view, n.id()) == Some(MemberState::Alive)) && view.members.len() >= nodes.len()
        })
        .await;
    }
}

pub(crate) fn service(name: &str) -> Service {
    Service {
        name: ServiceName::new(name).expect("a name"),
        host: "127.0.0.1".into(),
        port: 8100,
        health: Health::Healthy,
        version: None,
        kind: ServiceKind::Http,
        models: vec![],
        max_concurrency: 10,
        labels: BTreeMap::new(),
    }
}
