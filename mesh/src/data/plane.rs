//! The data plane of one node: its data port, the connections of its lanes, and the streams that it serves.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use paceline_proto::{
    credential::{Credential, CredentialError},
    id::{ClusterId, NodeId, Role},
};
use quinn::Endpoint;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    DataClient, Lanes,
    connection::{accept, drive},
    dial::{Dialler, Peer, Race},
    link::{CONNECT_TIMEOUT, LaneLinks},
    port,
    registry::Registry,
    transport::{Armed, code},
};
use crate::http::ServiceHandler;

/// Handshakes on the data port at once; from half of it on, peers must prove their address first.
pub const HANDSHAKES_MAX: usize = 256;

/// Most gateways that a node dials back.
pub const GATEWAYS_MAX: usize = 64;

/// For the closing packets to be acknowledged.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Judges the certificate chain of a connection whose handshake is done.
pub type Judge = Arc<dyn Fn(&quinn::Connection) -> Result<Credential, CredentialError> + Send + Sync>;

/// What the data plane proves itself with and judges others by; replaced as a whole when the leaf is renewed.
#[derive(Clone)]
pub struct Security {
    /// For dialling: the own chain, the cluster's root, ALPN `paceline/1`, resumption off.
    pub client: Arc<rustls::ClientConfig>,
    /// For accepting: the same, client certificates demanded, no tickets.
    pub server: Arc<rustls::ServerConfig>,
    /// Says who the other side is.
    pub judge: Judge,
}

/// What the data plane asks the control plane. Called on lanes: must not block.
pub trait Directory: Send + Sync + 'static {
    /// Where the node's data port may be reached, best first; empty where nothing is known.
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr>;

    /// Sends the node a control message that asks it to dial this node's data port; at most once a second for a node.
    fn ask_dial_back(&self, node: NodeId);
}

/// What a data plane is started with.
pub struct DataConfig {
    /// This node.
    pub me: NodeId,
    /// Its cluster: peers are dialled by their DNS name in it.
    pub cluster: ClusterId,
    /// Where connections, streams and requests live.
    pub lanes: Arc<Lanes>,
    /// The data port, bound by the caller.
    pub socket: std::net::UdpSocket,
    /// Certificates.
    pub security: Security,
    /// Whether this node opens streams (it then has an endpoint for each lane).
    pub am_gateway: bool,
    /// Serves the streams that gateways open; `None` answers each request with `no-such-service`.
    pub services: Option<Arc<dyn ServiceHandler>>,
    /// The control plane's knowledge.
    pub directory: Arc<dyn Directory>,
}

/// What every lane and connection shares.
pub(super) struct Core {
    pub(super) me: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) lanes: Arc<Lanes>,
    pub(super) am_gateway: bool,
    pub(super) services: Option<Arc<dyn ServiceHandler>>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) armed: ArcSwap<Armed>,
    pub(super) registry: Arc<Registry>,
    /// Streams and upgraded connections at work.
    pub(super) requests: TaskTracker,
    /// Everything else.
    pub(super) tasks: TaskTracker,
    /// No new work.
    pub(super) stop: CancellationToken,
}

struct Inner {
    core: Arc<Core>,
    /// One for each lane, or one for all.
    ports: Vec<Endpoint>,
    address: SocketAddr,
    links: Vec<Arc<LaneLinks>>,
    next_lane: AtomicUsize,
    /// Gateways that this node is dialling, or holds a connection to that it dialled.
    dialled: Mutex<BTreeMap<NodeId, Dialled>>,
}

#[derive(Default)]
struct Dialled {
    addresses: Vec<SocketAddr>,
    dialling: bool,
    connections: usize,
}

/// A running data plane. Cheap to clone.
#[derive(Clone)]
pub struct DataPlane(Arc<Inner>);

impl DataPlane {
    /// Starts to accept on the data port.
    ///
    /// # Errors
    /// The socket, or a gateway lane's own, or the TLS configuration cannot be used.
    pub fn start(config: DataConfig) -> io::Result<Self> {
        let armed = Armed::new(config.security).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let address = config.socket.local_addr()?;
        let ports = port::share(config.socket, &armed.accept, &config.lanes)?;
        let core = Arc::new(Core {
            me: config.me,
            cluster: config.cluster,
            lanes: config.lanes,
            am_gateway: config.am_gateway,
            services: config.services,
            directory: config.directory,
            armed: ArcSwap::from_pointee(armed),
            registry: Registry::new(),
            requests: TaskTracker::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let lanes = if core.am_gateway { core.lanes.count() } else { 0 };
        let links = (0..lanes).map(|lane| LaneLinks::new(lane, core.clone())).collect::<io::Result<_>>()?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        for (lane, port) in ports.iter().enumerate() {
            let own = (ports.len() > 1).then_some(lane);
            let accept = accept_all(core.clone(), port.clone(), own, handshakes.clone());
            core.tasks.spawn_on(accept, core.lanes.handle(lane));
        }
        let next_lane = AtomicUsize::new(0);
        Ok(Self(Arc::new(Inner { core, ports, address, links, next_lane, dialled: Mutex::default() })))
    }

    /// Where the data port is bound.
    pub fn local_address(&self) -> SocketAddr {
        self.0.address
    }

    /// The way to the nodes for a gateway lane. One of a node without the gateway role reaches nobody.
    pub fn client(&self, lane: usize) -> DataClient {
        let links = &self.0.links;
        DataClient { links: if links.is_empty() { None } else { Some(links[lane % links.len()].clone()) } }
    }

    /// New configurations, from the next connection on, and [`DataPlane::renewed`].
    ///
    /// # Errors
    /// The configuration lacks TLS 1.3 or an initial cipher suite of QUIC; the old one stays.
    pub fn set_security(&self, security: Security) -> Result<(), String> {
        let armed = Armed::new(security)?;
        for port in &self.0.ports {
            port.set_server_config(Some(armed.accept.clone()));
        }
        self.0.core.armed.store(Arc::new(armed));
        self.renewed();
        Ok(())
    }

    /// The own certificate was renewed: connections that this side has dialled under the old one are replaced in the
    /// background, and end with their last request or with the old certificate.
    pub fn renewed(&self) {
        for links in &self.0.links {
            links.renew();
        }
        let gateways: Vec<_> =
            self.dialled().iter().map(|(gateway, dialled)| (*gateway, dialled.addresses.clone())).collect();
        for (gateway, addresses) in gateways {
            self.dial_back(gateway, addresses);
        }
    }

    fn dialled(&self) -> MutexGuard<'_, BTreeMap<NodeId, Dialled>> {
        self.0.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dials a gateway that asked for it, from the data port, and serves the streams that it opens. Returns at once;
    /// one dial for a gateway at a time, and at most [`GATEWAYS_MAX`] gateways.
    pub fn dial_back(&self, gateway: NodeId, addresses: Vec<SocketAddr>) {
        let core = &self.0.core;
        if core.stop.is_cancelled() || gateway == core.me {
            return;
        }
        {
            let mut dialled = self.dialled();
            if dialled.len() >= GATEWAYS_MAX && !dialled.contains_key(&gateway) {
                tracing::warn!(gateway = %gateway.short(), "too many gateways ask to be dialled");
                return;
            }
            let entry = dialled.entry(gateway).or_default();
            if entry.dialling {
                return;
            }
            entry.dialling = true;
            entry.addresses.clone_from(&addresses);
        }
        let lane = self.0.next_lane.fetch_add(1, Relaxed);
        let this = self.clone();
        let dial = async move {
            let driven = this.reach_gateway(lane, gateway, addresses).await;
            if let Some(entry) = this.dialled().get_mut(&gateway) {
                entry.dialling = false;
                entry.connections += 1;
            }
            match driven {
                Ok(driven) => driven.await,
                Err(reason) => tracing::warn!(gateway = %gateway.short(), reason, "cannot dial the gateway back"),
            }
            let mut dialled = this.dialled();
            if let Some(entry) = dialled.get_mut(&gateway) {
                entry.connections -= 1;
                if entry.connections == 0 && !entry.dialling {
                    dialled.remove(&gateway);
                }
            }
        };
        core.tasks.spawn_on(dial, core.lanes.handle(lane));
    }

    async fn reach_gateway(
        &self,
        lane: usize,
        gateway: NodeId,
        addresses: Vec<SocketAddr>,
    ) -> Result<impl Future<Output = ()> + use<>, String> {
        let core = &self.0.core;
        let armed = core.armed.load_full();
        let port = Some(self.0.ports[lane % self.0.ports.len()].clone());
        let v6 = self.0.address.is_ipv6();
        let dialler = Dialler {
            v4: port.clone(),
            v6: port.filter(|_| v6),
            config: port::toward(&armed.dial_back, first_byte(&core.me, lane)),
            judge: armed.judge.clone(),
            node: gateway,
            name: gateway.dns_name(&core.cluster),
        };
        let mut race = Race::new(dialler, addresses);
        let winner = tokio::time::timeout(CONNECT_TIMEOUT, race.winner()).await.ok().flatten();
        let Peer { connection, credential } = winner.ok_or_else(|| race.failures())?;
        if !credential.roles.contains(Role::Gateway) {
            connection.close(code::REFUSED, b"not a gateway");
            return Err("it is not a gateway".into());
        }
        let Some(registration) = core.registry.enter(&credential, &connection, false) else {
            connection.close(code::FULL, b"too many data connections");
            return Err("too many data connections".into());
        };
        if let Err(error) = (armed.judge)(&connection) {
            connection.close(code::REFUSED, error.to_string().as_bytes());
            return Err(error.to_string());
        }
        Ok(drive(core.clone(), lane, connection, credential, registration, CancellationToken::new()))
    }

    /// How many connections there are with a node, whoever opened them, on all lanes.
    pub fn links(&self, node: NodeId) -> usize {
        self.0.core.registry.count(node)
    }

    /// Closes every connection with a node: it is dead, gone or revoked.
    pub fn disconnect(&self, node: NodeId, reason: &str) {
        self.0.core.registry.close(node, code::GONE, reason);
        for links in &self.0.links {
            links.forget(node);
        }
    }

    /// Closes every connection whose certificate does not stand any more.
    pub fn judge_anew(&self, stands: impl Fn(&Credential) -> Result<(), CredentialError>) {
        for (node, why) in self.0.core.registry.refused(stands) {
            tracing::info!(node = %node.short(), %why, "closing the data connections of a member");
            self.disconnect(node, &why.to_string());
        }
    }

    /// Refuses new connections and requests, lets those that run end for at most `grace`, then closes everything.
    pub async fn shutdown(&self, grace: Duration) {
        let Inner { core, ports, links, .. } = &*self.0;
        for port in ports {
            port.set_server_config(None);
        }
        core.stop.cancel();
        core.requests.close();
        if tokio::time::timeout(grace, core.requests.wait()).await.is_err() {
            tracing::warn!(left = core.requests.len(), "requests were cut at the end of the grace period");
        }
        let reason = b"this node is stopping";
        for port in ports {
            port.close(code::BYE, reason);
        }
        for links in links {
            links.close(reason);
        }
        core.tasks.close();
        let closed = async {
            core.tasks.wait().await;
            for port in ports {
                port.wait_idle().await;
            }
        };
        // Peers that do not acknowledge the close learn of it by silence.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    }
}

/// By what a lane of ours is told apart at the other side: those of one node differ, and those of several nodes do not all
/// begin with the same.
pub(super) fn first_byte(me: &NodeId, lane: usize) -> u8 {
    me.as_bytes()[0].wrapping_add(u8::try_from(lane).unwrap_or_default())
}

/// Places each connection on the endpoint's own lane, or on all lanes in turn where it receives for all.
async fn accept_all(core: Arc<Core>, port: Endpoint, own: Option<usize>, handshakes: Arc<Semaphore>) {
    let mut lane = own.unwrap_or(0);
    while let Some(incoming) = port.accept().await {
        let free = handshakes.available_permits();
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        // Under load, who connects must first show that it receives at its address.
        if free < HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        let accepted = accept(core.clone(), lane, incoming, permit);
        core.tasks.spawn_on(accepted, core.lanes.handle(lane));
        if own.is_none() {
            lane = (lane + 1) % core.lanes.count();
        }
    }
}
