//! The one loop of the control plane. It only translates: swarm events become inputs of the core, outputs of the core
//! become calls of libp2p. `select!` is its only await, and what it calls is synchronous.

mod leading;
mod outputs;
mod reach;
mod renewal;
mod revoked;
mod swarm_events;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId, Swarm, gossipsub, kad, multiaddr::Protocol, request_response as rr, swarm};
use paceline_proto::{
    Now,
    id::{NodeId, Roles, ServiceName},
    manifest::{Service, WorkerType},
    node::{GossipId, Input, LinkLoss, Node, ProviderKey},
    summary::StoredSummary,
    view::ClusterView,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep_until,
};

use super::behaviour::{Behaviour, topic};
use super::dials::{Entries, Strangers, Wanted};
use super::door::{Admitted, Door, Present, Side, Told};
use super::lines::Traffic;
use super::links::Links;
use super::ports::MeshPort;
use super::{addresses, transport};
use crate::data::DataPlane;
use crate::http::ServiceHandler;
use crate::mesh::StartError;
use crate::trust::Trust;

pub(crate) use leading::{Counts, Gauge};
pub(crate) use revoked::Credentials;
use upkeep::with_peer;

/// Messages of the door that wait for the loop.
const TOLD_MAX: usize = 256;
/// Gossip messages whose verdict is open.
const VERDICTS_MAX: usize = 1024;
/// Gossip messages that wait for a neighbour.
const UNSENT_MAX: usize = 64;
/// Kademlia queries under way.
const QUERIES_MAX: usize = 32;
/// Renewals being signed at once.
const RENEWALS_MAX: usize = 16;
/// How long listeners may take to say where they listen.
const LISTENING: Duration = Duration::from_secs(2);
/// How long a goodbye may take to leave this machine.
const GOODBYE: Duration = Duration::from_millis(150);
/// How long connections may take to close in good order.
const CLOSING: Duration = Duration::from_millis(300);
/// Between two writes of the time.
const CLOCK_EVERY: Duration = Duration::from_secs(3600);
/// Provider records go to those who are connected this long after the routing table gained a peer, and not again before the
/// pause is over.
const PROVIDE_AFTER: Duration = Duration::from_millis(200);
const PROVIDE_PAUSE: Duration = Duration::from_secs(10);
/// A new one goes to those who are to keep it about so long after that: where many nodes start at once, not from all together.
const PROVIDE_WIDELY_AFTER: Duration = Duration::from_secs(60);
/// Connections beside a better one with the same peer are closed after this time: what is on its way on them arrives.
const SURPLUS_AFTER: Duration = Duration::from_secs(2);
/// Nothing is due for longer than this.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Labels, capabilities and type of the machine.
pub(crate) type Description = (BTreeMap<String, String>, BTreeMap<String, bool>, WorkerType);

/// What the handle wishes, where only the last word counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// The services to offer; `None` until somebody offers.
    pub(crate) services: Option<Vec<Service>>,
    /// What the machine says of itself; `None` leaves what it said at its start.
    pub(crate) description: Option<Description>,
    /// No new work.
    pub(crate) draining: bool,
}

/// What the handle asks.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look for a service in Kademlia.
    Find(ServiceName),
    /// A request to a node failed.
    RequestFailed(NodeId),
    /// What the certificates of members prove.
    Credentials(oneshot::Sender<Credentials>),
    /// Ask a node to dial our data port.
    AskDialBack(NodeId),
    /// How a write of the stored summary ended, and the writes of the day that the store knows of.
    Written(bool, Option<u32>),
    /// Say goodbye; answered when it is on its way.
    Leave(oneshot::Sender<()>),
    /// Close everything; answered when that is done.
    Stop(oneshot::Sender<()>),
}

/// What the loop publishes.
pub(crate) struct Shared {
    /// What this node believes.
    pub(crate) view: Arc<ArcSwap<ClusterView>>,
    /// The same, for those who wait.
    pub(crate) views: watch::Sender<Arc<ClusterView>>,
    /// Where the control plane can be reached: multiaddrs with `/p2p/...`, QUIC first, loopback last.
    pub(crate) addresses: ArcSwap<Vec<String>>,
    /// Why the node cannot go on.
    pub(crate) failed: watch::Sender<Option<String>>,
    /// Whoever writes the stored summary.
    pub(crate) sink: ArcSwapOption<mpsc::Sender<StoredSummary>>,
    /// What lines have carried.
    pub(crate) traffic: Arc<Traffic>,
    /// What has happened.
    pub(crate) counts: Counts,
}

/// What the loop is started with.
pub(crate) struct Setup {
    pub(crate) trust: Trust,
    pub(crate) node: Node,
    pub(crate) data: DataPlane,
    pub(crate) shared: Arc<Shared>,
    pub(crate) roles: Roles,
    pub(crate) mdns: bool,
    pub(crate) heartbeat: Duration,
    pub(crate) services: Option<Arc<dyn ServiceHandler>>,
    pub(crate) instance: u64,
    pub(crate) incarnation: Arc<AtomicU64>,
    pub(crate) port: MeshPort,
    /// Mesh addresses that a person named; ports are set.
    pub(crate) advertise: Vec<SocketAddr>,
    /// Where the data port is bound.
    pub(crate) data_address: SocketAddr,
    pub(crate) entries: Vec<Multiaddr>,
    pub(crate) wishes: watch::Receiver<Wishes>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// When the loop wakes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Entries,
    Peers,
    Clock,
    Renew,
    /// A link's certificate ends.
    Expiry,
    Provide,
    /// Provider records go to whoever is to keep them, connected or not.
    ProvideWidely,
    /// Nobody may have connected to this node for a while.
    Reach,
    /// The core is to hear how busy this node is.
    Load,
    /// Look for connections that are not needed.
    Surplus,
    /// The goodbye is out.
    Goodbye,
}

/// What a blocking task found.
enum Done {
    Renewed(Result<(), String>),
    Signed { channel: rr::ResponseChannel<super::rpc::Response>, response: super::rpc::Response },
    Tried { channel: rr::ResponseChannel<super::rpc::Response>, response: super::rpc::Response },
    Saved,
}

/// What an outgoing request was for.
enum Asked {
    /// Its answer changes nothing.
    Told,
    Renewal,
    /// It says whether others can dial this node.
    Reach,
}

struct Driver {
    swarm: Swarm<Behaviour>,
    node: Node,
    trust: Trust,
    data: DataPlane,
    shared: Arc<Shared>,
    topic: gossipsub::IdentTopic,
    door: Arc<Door>,
    links: Links,
    entries: Entries,
    strangers: Strangers,
    wanted: Wanted,
    timers: BTreeMap<Timer, Instant>,
    tasks: JoinSet<Done>,
    signing: usize,
    renewing: bool,
    renewal_pause: Duration,
    verdicts: BTreeMap<GossipId, (gossipsub::MessageId, PeerId)>,
    next_gossip: u64,
    unsent: VecDeque<Vec<u8>>,
    queries: HashMap<kad::QueryId, ProviderKey>,
    provided: BTreeSet<ProviderKey>,
    provided_at: Option<Instant>,
    /// Keys that connected peers provide, as far as this node has kept them.
    kept_keys: BTreeMap<PeerId, HashSet<kad::RecordKey>>,
    summary_query: Option<kad::QueryId>,
    asked: BTreeMap<rr::OutboundRequestId, Asked>,
    incarnation: Arc<AtomicU64>,
    advertise: Vec<SocketAddr>,
    data_address: SocketAddr,
    told_addresses: Option<(Vec<String>, Vec<SocketAddr>)>,
    peers_saved: Option<Instant>,
    gauge: Gauge,
    heartbeat: Duration,
    services: Option<Arc<dyn ServiceHandler>>,
    reach: reach::Reach,
    dirty: bool,
    leaving: Option<oneshot::Sender<()>>,
    failed: bool,
}

/// Runs the loop on a thread of its own; the receiver resolves when it listens, or with why it does not.
///
/// # Errors
/// The thread cannot be made.
pub(crate) fn spawn(setup: Setup) -> io::Result<oneshot::Receiver<Result<(), StartError>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, started) = oneshot::channel();
    let alarm = Alarm(Arc::clone(&setup.shared));
    std::thread::Builder::new().name("mesh".into()).spawn(move || {
        let _alarm = alarm;
        runtime.block_on(run(setup, ready));
        // a blocking write to disk may be under way; nobody waits for more than that
        runtime.shutdown_timeout(CLOSING);
    })?;
    Ok(started)
}

/// A panic of the loop is a failure of the node.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.send_replace(Some("the control plane failed: this is a bug, see the log".into()));
        }
    }
}

async fn run(mut setup: Setup, ready: oneshot::Sender<Result<(), StartError>>) {
    let (told, mut ears) = mpsc::channel(TOLD_MAX);
    let mut wishes = setup.wishes.clone();
    let mut revocations = setup.trust.watch_revocations();
    // what is on disk already
    revocations.mark_changed();
    let (_, nothing) = mpsc::channel(1);
    let mut commands = std::mem::replace(&mut setup.commands, nothing);
    let mut driver = match Driver::new(setup, told) {
        Ok(driver) => driver,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    if let Err(e) = driver.listening().await {
        let _ = ready.send(Err(e));
        return;
    }
    driver.pump();
    if ready.send(Ok(())).is_err() {
        return;
    }
    loop {
        let deadline = driver.deadline();
        tokio::select! {
            event = driver.swarm.select_next_some() => driver.on_swarm(event),
            told = ears.recv() => if let Some(told) = told { driver.on_told(told) },
            changed = wishes.changed() => match changed {
                Ok(()) => driver.on_wishes(&wishes.borrow_and_update().clone()),
                // every handle is gone without a goodbye: so does this node
                Err(_) => return,
            },
            Ok(()) = revocations.changed() => {
                let known = Arc::clone(&revocations.borrow_and_update());
                driver.on_revocations(&known);
            }
            command = commands.recv() => match command {
                Some(Command::Stop(done)) => {
                    driver.close().await;
                    // ports and the lock of the data directory are free when the handle hears of it
                    drop(driver);
                    let _ = done.send(());
                    return;
                }
                Some(command) => driver.on_command(command),
                None => return,
            },
            Some(done) = driver.tasks.join_next(), if !driver.tasks.is_empty() => match done {
                Ok(done) => driver.on_done(done),
                Err(e) => tracing::error!(error = %e, "a task of the control plane failed"),
            },
            () = sleep_until(deadline.into()) => driver.on_time(),
        }
        driver.pump();
    }
}

impl Driver {
    fn new(setup: Setup, told: mpsc::Sender<Told>) -> Result<Self, StartError> {
        let network = |e: io::Error| StartError::Config(format!("the network cannot be used: {e}"));
        let (keypair, cluster) = (setup.trust.keypair(), setup.trust.cluster());
        let door = Arc::new(Door {
            trust: setup.trust.clone(),
            side: Side::Member { view: Arc::clone(&setup.shared.view), incarnation: Arc::clone(&setup.incarnation) },
            instance: setup.instance,
            told,
            admitted: Admitted::default(),
            present: Present::default(),
            barred: Default::default(),
        });
        let transport = transport::build(&keypair, Arc::clone(&door)).map_err(network)?;
        let behaviour = Behaviour::new(&keypair, &cluster, setup.roles, setup.mdns, Arc::clone(&setup.shared.traffic));
        let behaviour = behaviour.map_err(network)?;
        // who is connected is decided by the cores and the limits, not by which stream was quiet
        let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(86_400));
        let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);

        let address = setup.port.address;
        drop(setup.port);
        for multiaddr in [addresses::quic(address), addresses::tcp(address)] {
            swarm.listen_on(multiaddr).map_err(|e| StartError::Bind {
                what: "--mesh",
                address,
                source: io::Error::other(e.to_string()),
            })?;
        }
        for multiaddr in addresses::both(&setup.advertise) {
            swarm.add_external_address(multiaddr);
        }

        let now = Instant::now();
        let mut entries = Entries::new();
        let on_disk = setup.trust.peers();
        let known = on_disk.iter().flat_map(with_peer);
        setup.entries.into_iter().chain(known).for_each(|address| entries.add(address));
        Ok(Self {
            swarm,
            node: setup.node,
            trust: setup.trust,
            data: setup.data,
            shared: setup.shared,
            topic: topic(&cluster),
            door,
            links: Links::default(),
            entries,
            strangers: Strangers::default(),
            wanted: Wanted::default(),
            timers: BTreeMap::from([
                (Timer::Entries, now),
                (Timer::Peers, now),
                (Timer::Clock, now + CLOCK_EVERY),
                (Timer::Load, now),
            ]),
            tasks: JoinSet::new(),
            signing: 0,
            renewing: false,
            renewal_pause: renewal::PAUSE_FIRST,
            verdicts: BTreeMap::new(),
            next_gossip: 0,
            unsent: VecDeque::new(),
            queries: HashMap::new(),
            provided: BTreeSet::new(),
            provided_at: None,
            kept_keys: BTreeMap::new(),
            summary_query: None,
            asked: BTreeMap::new(),
            incarnation: setup.incarnation,
            advertise: setup.advertise,
            data_address: setup.data_address,
            told_addresses: None,
            peers_saved: None,
            gauge: Gauge::new(),
            heartbeat: setup.heartbeat,
            services: setup.services,
            reach: reach::Reach::default(),
            dirty: true,
            leaving: None,
            failed: false,
        })
    }

    /// Waits until both listeners say where they listen.
    async fn listening(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + LISTENING;
        let both = |swarm: &Swarm<Behaviour>| {
            let quic = |a: &Multiaddr| a.iter().any(|p| p == Protocol::QuicV1);
            swarm.listeners().any(quic) && swarm.listeners().any(|a| !quic(a))
        };
        while !both(&self.swarm) {
            tokio::select! {
                event = self.swarm.select_next_some() => {
                    if let swarm::SwarmEvent::ListenerClosed { reason: Err(e), .. } = event {
                        return Err(StartError::Config(format!("the mesh port cannot be used: {e}")));
                    }
                    self.on_swarm(event);
                }
                () = sleep_until(deadline.into()) => break,
            }
        }
        self.tell_addresses();
        self.plan_renewal();
        Ok(())
    }

    fn now(&self) -> Now {
        Now { at: Instant::now(), unix: self.trust.now() }
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.node.handle_input(input, now);
    }

    fn deadline(&self) -> Instant {
        let own = self.timers.values().min().copied();
        let core = self.node.poll_timeout().map(|(at, _)| at);
        own.into_iter().chain(core).min().unwrap_or_else(|| Instant::now() + IDLE_MAX)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            let now = self.now();
            self.node.handle_timeout(now);
        }
        let due: Vec<Timer> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(timer, _)| *timer).collect();
        for timer in due {
            self.timers.remove(&timer);
            match timer {
                Timer::Entries => self.dial_entries(),
                Timer::Peers => self.save_peers(),
                Timer::Clock => {
                    self.timers.insert(Timer::Clock, now + CLOCK_EVERY);
                    let trust = self.trust.clone();
                    self.tasks.spawn_blocking(move || {
                        trust.remember_time();
                        Done::Saved
                    });
                }
                Timer::Renew => self.renew(),
                Timer::Expiry => self.close_expired(),
                Timer::Provide => self.provide_all(),
                Timer::ProvideWidely => self.provide_widely(),
                Timer::Reach => self.ask_to_be_reached(),
                Timer::Load => self.tell_load(),
                Timer::Surplus => self.close_surplus(),
                Timer::Goodbye => {
                    if let Some(done) = self.leaving.take() {
                        let _ = done.send(());
                    }
                }
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.shared.view.load().members.len() <= 1
    }

    fn on_told(&mut self, told: Told) {
        match told {
            Told::Refused { peer, address, why } => {
                let given = address.as_ref().is_some_and(|address| self.entries.is_given(address));
                // an entry that is only slow or restarting is tried again at its own pace
                let first = (why.lasts() || !given) && self.strangers.add(peer, Instant::now());
                match address {
                    Some(address) if first && why == super::door::Refused::OtherCluster && self.is_alone() => {
                        tracing::info!(
                            %address,
                            "another Paceline cluster answers there; to be in that one, start with --join, a token of it, and a fresh --data-dir"
                        );
                    }
                    address => tracing::debug!(%peer, ?address, %why, "not admitted"),
                }
            }
            Told::NobodyThere { peer } => {
                if !self.links.contains(&peer) && self.wanted.refused(&peer) {
                    self.dial_failed(&peer, paceline_proto::node::DialFailure::Refused);
                }
            }
            Told::Successor { peer } => {
                tracing::debug!(%peer, "closing: another process of this node is at the door");
                self.links.closing_peer(&peer, LinkLoss::Closed);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Told::Issued { .. } | Told::Redirect(_) | Told::NotAdmitted { .. } => {}
        }
    }

    fn on_wishes(&mut self, wishes: &Wishes) {
        if let Some(services) = &wishes.services {
            self.input(Input::Offer(services.clone()));
        }
        if let Some((labels, capabilities, worker_type)) = wishes.description.clone() {
            self.input(Input::Describe { labels, capabilities, worker_type });
        }
        self.input(Input::Drain(wishes.draining));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Find(service) => self.input(Input::Find(service)),
            Command::RequestFailed(peer) => self.input(Input::RequestFailed { peer }),
            Command::Credentials(answer) => {
                let _ = answer.send(self.node.credentials());
            }
            Command::AskDialBack(node) => self.ask_dial_back(&node),
            Command::Written(stored, writes_today) => self.written(stored, writes_today),
            Command::Leave(done) => {
                self.input(Input::Leave);
                self.leaving = Some(done);
                self.timers.insert(Timer::Goodbye, Instant::now() + GOODBYE);
            }
            // taken by the loop itself
            Command::Stop(_) => {}
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Renewed(result) => self.renewed(result),
            Done::Signed { channel, response } => {
                self.signing -= 1;
                let _ = self.swarm.behaviour_mut().rpc.send_response(channel, response);
            }
            Done::Tried { channel, response } => self.tried(channel, response),
            Done::Saved => {}
        }
    }

    /// Closes every connection in good order.
    async fn close(&mut self) {
        let peers = self.known_peers();
        if !peers.is_empty() {
            let trust = self.trust.clone();
            self.tasks.spawn_blocking(move || {
                trust.save_peers(&peers);
                Done::Saved
            });
        }
        let connected: Vec<PeerId> = self.links.iter().map(|(peer, _)| *peer).collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = Instant::now() + CLOSING;
        while self.swarm.connected_peers().next().is_some() || !self.tasks.is_empty() {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                () = sleep_until(deadline.into()) => return,
            }
        }
    }

    fn fail(&mut self, why: String) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::error!(%why, "this node cannot go on");
            self.shared.failed.send_replace(Some(why));
        }
    }

    fn set_incarnation(&mut self, incarnation: paceline_proto::id::Incarnation) {
        match self.trust.save_incarnation(incarnation) {
            Ok(()) => self.incarnation.store(incarnation.0, Ordering::Relaxed),
            // going on would let an old incarnation speak again after a restart
            Err(e) => self.fail(e.to_string()),
        }
    }
}
