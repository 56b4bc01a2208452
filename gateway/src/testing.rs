//! What the tests share: views built by hand, and a cluster without a network.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::{Request, Response};
use paceline_mesh::{
    data::{PathKind, SendError},
    http::Body,
    mesh::{Revoke, Revoked, RevokedLine, TokenInfo, TokenSpec, TokenState},
};
use paceline_proto::{
    id::{
        ClusterId, CredentialHash, Incarnation, ManifestVersion, NodeId, Role, Roles, ServiceName, Site, TokenId,
        UnixSeconds, WorkerName,
    },
    manifest::{Health, Manifest, Service, ServiceKind, WorkerType},
    view::{ClusterView, Member, MemberState, Provider},
};

use crate::cluster::{Cluster, PeerClient};

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

pub(crate) fn name(text: &str) -> WorkerName {
    WorkerName::new(text).expect("worker name")
}

pub(crate) fn service(text: &str) -> ServiceName {
    ServiceName::new(text).expect("service name")
}

/// Builds a view of which node 0 is the viewer; node `n` is called `w<n>`.
#[derive(Default)]
pub(crate) struct ViewBuilder {
    generation: u64,
    members: BTreeMap<u8, Sketch>,
}

struct Sketch {
    state: MemberState,
    draining: bool,
    site: Site,
    labels: BTreeMap<String, String>,
    offers: Vec<(String, Health)>,
    /// Of each offer.
    max: u32,
    terms: BTreeMap<String, String>,
}

impl ViewBuilder {
    fn member(&mut self, n: u8) -> &mut Sketch {
        let (state, draining, site) = (MemberState::Alive, false, Site::default());
        let (labels, offers, terms) = Default::default();
        self.members.entry(n).or_insert(Sketch { state, draining, site, labels, offers, max: 1024, terms })
    }

    pub(crate) fn offer(&mut self, n: u8, service: &str, health: Health) -> &mut Self {
        self.member(n).offers.push((service.to_owned(), health));
        self
    }

    pub(crate) fn state(&mut self, n: u8, state: MemberState) -> &mut Self {
        self.member(n).state = state;
        self
    }

    pub(crate) fn drain(&mut self, n: u8) -> &mut Self {
        self.member(n).draining = true;
        self
    }

    pub(crate) fn site(&mut self, n: u8, site: &str) -> &mut Self {
        self.member(n).site = Site::new(site).expect("site");
        self
    }

    pub(crate) fn label(&mut self, n: u8, key: &str, value: &str) -> &mut Self {
        self.member(n).labels.insert(key.into(), value.into());
        self
    }

    /// What the services of a node ask of gateways.
    pub(crate) fn term(&mut self, n: u8, key: &str, value: &str) -> &mut Self {
        self.member(n).terms.insert(key.into(), value.into());
        self
    }

    /// Requests at once of each service of a node.
    pub(crate) fn admit(&mut self, n: u8, max: u32) -> &mut Self {
        self.member(n).max = max;
        self
    }

    pub(crate) fn generation(&mut self, generation: u64) -> &mut Self {
        self.generation = generation;
        self
    }

    fn build(&mut self) -> ClusterView {
        self.member(0);
        let now = Instant::now();
        let mut view = ClusterView {
            generation: self.generation,
            cluster: ClusterId::from_bytes([9; 32]),
            me: node(0),
            leadership: Default::default(),
            members: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        let roles = Roles::default().with(Role::Worker);
        for (n, Sketch { state, draining, site, labels, offers, max, terms }) in &self.members {
            let services: Vec<_> =
                offers.iter().map(|(service, health)| offer(service, *health, *max, terms.clone())).collect();
            let manifest = Manifest {
                node: node(*n),
                name: name(&format!("w{n}")),
                site: site.clone(),
                roles,
                worker_type: WorkerType::Cpu,
                incarnation: Incarnation(1),
                version: ManifestVersion(1),
                instance: 1,
                started_unix_ms: 1,
                mesh_addresses: Vec::new(),
                data_addresses: Vec::new(),
                services: services.clone(),
                labels: labels.clone(),
                capabilities: BTreeMap::new(),
                credential: CredentialHash::from_bytes([0; 32]),
                draining: *draining,
                dialable: true,
                sink: false,
                software: "test".into(),
            };
            let member = Arc::new(Member {
                name: manifest.name.clone(),
                manifest: Arc::new(manifest),
                roles,
                state: *state,
                since: now,
                last_seen: now,
                connected: true,
            });
            view.members.insert(node(*n), member.clone());
            if matches!(state, MemberState::Alive | MemberState::Suspect) {
                for service in services {
                    let provider = Provider { node: node(*n), member: member.clone(), service: service.clone() };
                    view.services.entry(service.name).or_default().push(Arc::new(provider));
                }
            }
        }
        view
    }
}

fn offer(service_name: &str, health: Health, max_concurrency: u32, labels: BTreeMap<String, String>) -> Service {
    Service {
        name: service(service_name),
        host: "127.0.0.1".into(),
        port: 1,
        health,
        version: None,
        kind: ServiceKind::Http,
        models: Vec::new(),
        max_concurrency,
        labels,
    }
}

pub(crate) fn view(describe: impl FnOnce(&mut ViewBuilder)) -> ClusterView {
    let mut builder = ViewBuilder::default();
    describe(&mut builder);
    builder.build()
}

pub(crate) type Peer =
    Arc<dyn Fn(NodeId, Request<Body>) -> BoxFuture<'static, Result<Response<Body>, SendError>> + Send + Sync>;

/// A cluster whose peers are a function.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    pub(crate) view: Arc<ArcSwap<ClusterView>>,
    /// What a search brings into the view.
    pub(crate) hidden: Arc<Mutex<Option<ClusterView>>>,
    pub(crate) searches: Arc<AtomicUsize>,
    pub(crate) reported: Arc<Mutex<Vec<NodeId>>>,
    pub(crate) peer: Peer,
}

impl FakeCluster {
    pub(crate) fn new<F, R>(view: ClusterView, peer: F) -> Self
    where
        F: Fn(NodeId, Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>, SendError>> + Send + 'static,
    {
        Self {
            view: Arc::new(ArcSwap::from_pointee(view)),
            hidden: Arc::default(),
            searches: Arc::default(),
            reported: Arc::default(),
            peer: Arc::new(move |node, request| Box::pin(peer(node, request))),
        }
    }
}

#[derive(Clone)]
pub(crate) struct FakeClient(Peer);

impl Cluster for FakeCluster {
    type Client = FakeClient;

    fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    async fn find(&self, _service: &ServiceName) {
        self.searches.fetch_add(1, SeqCst);
        let found = self.hidden.lock().expect("lock").take();
        match found {
            Some(view) => self.view.store(Arc::new(view)),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }

    fn request_failed(&self, node: NodeId) {
        self.reported.lock().expect("lock").push(node);
    }

    fn client(&self, _lane: usize) -> FakeClient {
        FakeClient(self.peer.clone())
    }

    async fn create_token(&self, spec: TokenSpec) -> Result<(TokenId, String), String> {
        if spec.issuer { Err("not an issuer".into()) } else { Ok((TokenId([1; 8]), "paceline1.test".into())) }
    }

    async fn revoke(&self, what: Revoke) -> Result<Revoked, String> {
        match what {
            Revoke::Worker { who, .. } if who == "nobody" => Err("no member is called `nobody`".into()),
            _ => Ok(Revoked { number: 1, worker: None, node_id: None, tokens: Vec::new(), spared: 0 }),
        }
    }

    fn revocations(&self) -> Vec<RevokedLine> {
        vec![RevokedLine::Token { id: TokenId([1; 8]).to_string(), until: 7 }]
    }

    fn tokens(&self) -> Vec<TokenInfo> {
        vec![TokenInfo {
            id: TokenId([1; 8]).to_string(),
            roles: vec![Role::Worker],
            issuer: false,
            services: Vec::new(),
            not_after: UnixSeconds(7),
            uses: None,
            used: 0,
            state: TokenState::Active,
        }]
    }
}

impl PeerClient for FakeClient {
    async fn send(&self, node: NodeId, _: &ServiceName, request: Request<Body>) -> Result<Response<Body>, SendError> {
        (self.0)(node, request).await
    }

    fn path(&self, _node: NodeId) -> Option<(PathKind, Duration)> {
        Some((PathKind::Reverse, Duration::from_micros(1500)))
    }
}
