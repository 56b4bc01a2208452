//! The order of a start: everything is parsed, then ports are held, then the data directory is opened, then this node
//! becomes a member, and only then both planes run.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use libp2p::Multiaddr;
use paceline_proto::{
    Now,
    credential::{Chain, CredentialError},
    id::{CredentialHash, Incarnation, ManifestVersion, NodeId, Role, WorkerName},
    manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError},
    node::{Config, Node, Timing},
    view::ClusterView,
    wire,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};

use super::{Inner, Mesh, StartError};
use crate::config::MeshConfig;
use crate::control::{
    driver::{self, Command, Counts, Setup, Shared, Wishes},
    join, ports,
};
use crate::data::{DataConfig, DataPlane, Directory, Lanes, Security};
use crate::http::ServiceHandler;
use crate::trust::{Options, Trust};

/// Commands that wait for the loop.
const COMMANDS_MAX: usize = 256;
/// The name of a machine whose own cannot be read.
const NAMELESS: &str = "node";

pub(super) async fn start(
    config: MeshConfig,
    lanes: Arc<Lanes>,
    services: Option<Arc<dyn ServiceHandler>>,
) -> Result<Mesh, StartError> {
    let mut entries = entries(&config)?;
    check(&manifest(&config, NodeId::from_bytes([0; 32]), WorkerName::new(NAMELESS).map_err(word)?))?;
    let port = ports::mesh(config.mesh)?;
    let socket = ports::data(config.data)?;
    let data_address = socket.local_addr().map_err(|source| StartError::Bind {
        what: "--data",
        address: config.data.address,
        source,
    })?;
    let advertise = advertised(&config.advertise, port.address.port());

    let options = Options::from(&config);
    // what was founded is on disk only now that nothing else can refuse the start
    let trust = blocking(move || Trust::open(&options).and_then(|trust| trust.commit().map(|()| trust))).await?;
    let instance = rand::random();
    let wanted = config.name.clone().or_else(|| trust.name());
    let chosen = wanted.is_some();
    let mut name = wanted.unwrap_or_else(host_name);
    if trust.own().is_none() {
        entries.extend(token_entries(&trust));
        let newcomer = join::Newcomer {
            trust: trust.clone(),
            entries: entries.clone(),
            name,
            chosen,
            mdns: config.mdns,
            instance,
        };
        let joined = join::join(newcomer).await?;
        entries.extend(joined.issuer);
        name = joined.name;
    }
    let own = trust.own().ok_or_else(|| StartError::Config("this node holds no certificate".into()))?;
    if let Some(role) = config.roles.iter().find(|role| !own.credential.roles.contains(*role)) {
        return Err(StartError::Refused(format!(
            "this node's certificate does not grant the role {role}: join by a token that does, with a fresh --data-dir"
        )));
    }

    let incarnation = Incarnation(trust.incarnation().0.saturating_add(1));
    let (keep, kept_name) = (trust.clone(), name.clone());
    blocking(move || keep.save_name(&kept_name).and_then(|()| keep.save_incarnation(incarnation))).await?;
    let mut manifest = manifest(&config, trust.node(), name.clone());
    manifest.incarnation = incarnation;
    manifest.instance = instance;
    manifest.credential = own.credential.hash;
    manifest.mesh_addresses = crate::control::addresses::both(&advertise).iter().map(ToString::to_string).collect();
    let node = Node::new(
        Config {
            root: trust.root().clone(),
            key: trust.signing_key(),
            chain: own.chain.clone(),
            manifest,
            seed: rand::random(),
            timing: Timing { term: config.term, heartbeat: config.heartbeat, ..Timing::default() },
            claim: trust.claim(),
            sink: config.sink.is_some(),
            gossip_own_manifest: config.gossip_own_manifest,
            memo: None,
        },
        Now { at: std::time::Instant::now(), unix: trust.now() },
    )?;

    let view = Arc::new(node.view());
    let shared = Arc::new(Shared {
        view: Arc::new(ArcSwap::new(Arc::clone(&view))),
        views: watch::Sender::new(view),
        addresses: ArcSwap::default(),
        failed: watch::Sender::new(None),
        sink: ArcSwapOption::empty(),
        traffic: Arc::default(),
        counts: Counts::default(),
    });
    let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
    let (wishes, wishes_out) = watch::channel(Wishes::default());
    let data = DataPlane::start(DataConfig {
        me: trust.node(),
        cluster: trust.cluster(),
        lanes,
        socket,
        security: security(&trust),
        am_gateway: config.roles.contains(Role::Gateway),
        services: services.clone(),
        directory: Arc::new(Known { view: Arc::clone(&shared.view), commands: commands.downgrade() }),
    })
    .map_err(|source| StartError::Bind { what: "--data", address: data_address, source })?;

    let started = driver::spawn(Setup {
        trust: trust.clone(),
        node,
        data: data.clone(),
        shared: Arc::clone(&shared),
        roles: config.roles,
        mdns: config.mdns,
        heartbeat: config.heartbeat,
        services,
        instance,
        incarnation: Arc::new(AtomicU64::new(incarnation.0)),
        port,
        advertise,
        data_address,
        entries,
        wishes: wishes_out,
        commands: commands_out,
    })
    .map_err(word)?;
    started.await.map_err(|_| StartError::Config("the control plane ended at once: see the log".into()))??;
    Ok(Mesh { inner: Arc::new(Inner { trust, name, shared, wishes, commands, data, data_address }) })
}

/// What the data plane proves itself with now.
pub(crate) fn security(trust: &Trust) -> Security {
    let judge_by = trust.clone();
    Security {
        client: trust.tls_client(),
        server: trust.tls_server(),
        judge: Arc::new(move |connection| {
            let identity = connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
            match identity.as_deref().map(Vec::as_slice) {
                Some([leaf, intermediate, ..]) => {
                    judge_by.judge(&Chain { leaf: leaf.to_vec(), intermediate: intermediate.to_vec() })
                }
                _ => Err(CredentialError::Malformed("no chain was shown".into())),
            }
        }),
    }
}

/// Checks every bound of a manifest, its encoded length included.
pub(super) fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    manifest.validate()?;
    match wire::encode(manifest) {
        Ok(_) => Ok(()),
        Err(wire::WireError::TooLong { bytes, .. }) => Err(ManifestError::TooLong(bytes)),
        Err(_) => Err(ManifestError::TooLong(MANIFEST_BYTES_MAX)),
    }
}

/// The data plane's questions, answered from the view.
struct Known {
    view: Arc<ArcSwap<ClusterView>>,
    /// Weak: the data plane must not keep a node alive whose handles are gone.
    commands: mpsc::WeakSender<Command>,
}

impl Directory for Known {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.view.load().members.get(&node).map(|m| m.manifest.data_addresses.clone()).unwrap_or_default()
    }

    fn ask_dial_back(&self, node: NodeId) {
        if let Some(commands) = self.commands.upgrade() {
            // asked again where it is lost
            let _ = commands.try_send(Command::AskDialBack(node));
        }
    }
}

fn word(error: impl std::fmt::Display) -> StartError {
    StartError::Config(error.to_string())
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(word(e)))
}

fn entries(config: &MeshConfig) -> Result<Vec<Multiaddr>, StartError> {
    let parse = |text: &String| {
        text.parse().map_err(|e| StartError::Config(format!("--entry `{text}` is not a multiaddr: {e}")))
    };
    config.entries.iter().map(parse).collect()
}

fn token_entries(trust: &Trust) -> Vec<Multiaddr> {
    trust.token().map(|token| token.entries.iter().filter_map(|a| a.parse().ok()).collect()).unwrap_or_default()
}

fn advertised(given: &[SocketAddr], bound: u16) -> Vec<SocketAddr> {
    given.iter().map(|a| SocketAddr::new(a.ip(), if a.port() == 0 { bound } else { a.port() })).collect()
}

fn manifest(config: &MeshConfig, node: NodeId, name: WorkerName) -> Manifest {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Manifest {
        node,
        name,
        site: config.site.clone(),
        roles: config.roles,
        worker_type: config.worker_type,
        incarnation: Incarnation::default(),
        version: ManifestVersion(1),
        instance: 0,
        started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        mesh_addresses: Vec::new(),
        data_addresses: Vec::new(),
        services: Vec::new(),
        labels: config.labels.clone(),
        capabilities: config.capabilities.clone(),
        credential: CredentialHash::from_bytes([0; 32]),
        draining: false,
        dialable: false,
        sink: false,
        software: format!("paceline/{}", env!("CARGO_PKG_VERSION")),
    }
}

/// The machine's name as worker name: up to the first dot, what does not fit a name left out.
fn host_name() -> WorkerName {
    let text =
        ["/proc/sys/kernel/hostname", "/etc/hostname"].iter().find_map(|path| std::fs::read_to_string(path).ok());
    let text = text.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let fit: String = text
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .skip_while(|c| *c == '-')
        .take(paceline_proto::id::NAME_BYTES_MAX)
        .collect();
    WorkerName::new(&fit).or_else(|_| WorkerName::new(NAMELESS)).unwrap_or_else(|_| unreachable!("a fixed name"))
}
