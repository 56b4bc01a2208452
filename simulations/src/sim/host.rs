//! One simulated machine: its key and disk, the real node that runs on it, and what its operating system holds for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use paceline_proto::credential::Chain;
use paceline_proto::id::{CredentialHash, Incarnation, ManifestVersion, NodeId, Role, ServiceName, Site, WorkerName};
use paceline_proto::manifest::{Health, Manifest, Service, ServiceKind, WorkerType};
use paceline_proto::node::{GossipId, Node};

use super::HostId;
use super::gossip::MessageId;
use super::world::Event;

/// What survives a process.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The last one that was persisted.
    pub incarnation: Incarnation,
    /// The greatest claim that was persisted.
    pub claim: Vec<u8>,
}

/// One machine. A machine that loses its disk is another one from then on: it has a new key.
pub struct Host {
    /// Whose key.
    pub node: NodeId,
    /// `--name`.
    pub name: WorkerName,
    /// Signs its records.
    pub key: SigningKey,
    /// Makes it a member.
    pub chain: Chain,
    /// Whether it is a gateway.
    pub gateway: bool,
    /// Whether others can dial it.
    pub dialable: bool,
    /// Whether it holds the sink's credential.
    pub sink: bool,
    /// How many services it has offered one after the other.
    pub offered: u32,
    /// What survives.
    pub disk: Disk,
    /// The node, while it runs.
    pub process: Option<Node>,
    /// Raised at each start and end, so that what was meant for an earlier process does not reach a later one.
    pub life: u32,
    /// Stopped: it runs, and does nothing.
    pub hung: bool,
    /// Whether a restart has it under another key.
    pub replaced: bool,
    /// How far its wall clock is off, in seconds.
    pub clock_s: i64,
    pub(super) backlog: VecDeque<Event>,
    /// When its node wants to be woken.
    pub(super) wake: Option<Duration>,
    /// Its open ends of links, by the host at the other end.
    pub(super) links: BTreeMap<HostId, u32>,
    /// What waits for a dial to succeed.
    pub(super) dialling: BTreeMap<HostId, Vec<Vec<u8>>>,
    /// Rounds of dials to entries and others.
    pub(super) rounds: u32,
    /// When it looks for a part of the cluster that was cut off.
    pub(super) next_round: Duration,
    /// Whether it was told that it can be dialled.
    pub(super) told_dialable: bool,
    /// Its neighbours in the gossip mesh.
    pub(super) mesh: BTreeSet<HostId>,
    /// Messages that it may still offer by IHAVE, with the heartbeat at which it had them.
    pub(super) recent: VecDeque<(u64, MessageId)>,
    pub(super) beats: u64,
    /// Messages that wait for its verdict.
    pub(super) judging: BTreeMap<GossipId, (HostId, MessageId)>,
}

impl Host {
    /// A machine that was never started.
    pub fn new(number: HostId, name: WorkerName, key: SigningKey, chain: Chain) -> Self {
        Self {
            node: super::authority::node_id(&key),
            name,
            key,
            chain,
            gateway: false,
            dialable: true,
            sink: false,
            offered: number % 3,
            disk: Disk::default(),
            process: None,
            life: 0,
            hung: false,
            replaced: false,
            clock_s: 0,
            backlog: VecDeque::new(),
            wake: None,
            links: BTreeMap::new(),
            dialling: BTreeMap::new(),
            rounds: 0,
            next_round: Duration::ZERO,
            told_dialable: false,
            mesh: BTreeSet::new(),
            recent: VecDeque::new(),
            beats: 0,
            judging: BTreeMap::new(),
        }
    }

    /// Its roles.
    pub fn roles(&self) -> &'static [Role] {
        if self.gateway { &[Role::Gateway, Role::Worker] } else { &[Role::Worker] }
    }

    /// Whether it runs and is not stopped.
    pub fn is_awake(&self) -> bool {
        self.process.is_some() && !self.hung
    }

    /// What it offers now.
    pub fn services(&self) -> Vec<Service> {
        let name = if self.offered < 3 { format!("service-{}", self.offered) } else { format!("s{}", self.offered) };
        let Ok(name) = ServiceName::new(&name) else { return Vec::new() };
        vec![Service {
            name,
            host: "127.0.0.1".to_owned(),
            port: 8_000,
            health: Health::Healthy,
            version: Some("1.4.2".to_owned()),
            kind: ServiceKind::Http,
            models: Vec::new(),
            max_concurrency: 16,
            labels: BTreeMap::new(),
        }]
    }

    /// Its first manifest at this start; the incarnation is raised on its disk.
    pub fn manifest(&mut self, number: HostId, instance: u64, started_unix_ms: u64) -> Manifest {
        self.disk.incarnation.0 += 1;
        let [_, a, b, c] = number.to_be_bytes();
        Manifest {
            node: self.node,
            name: self.name.clone(),
            site: Site::default(),
            roles: self.roles().iter().copied().collect(),
            worker_type: WorkerType::Cpu,
            incarnation: self.disk.incarnation,
            version: ManifestVersion(1),
            instance,
            started_unix_ms,
            mesh_addresses: vec![
                format!("/ip4/10.{a}.{b}.{c}/udp/4900/quic-v1"),
                format!("/ip4/10.{a}.{b}.{c}/tcp/4900"),
            ],
            data_addresses: vec![std::net::SocketAddr::from(([10, a, b, c], 4901))],
            services: self.services(),
            labels: BTreeMap::from([("rack".to_owned(), format!("r{}", number % 40))]),
            capabilities: BTreeMap::from([("docker".to_owned(), true)]),
            credential: CredentialHash::from_bytes([0; 32]),
            draining: false,
            dialable: false,
            sink: self.sink,
            software: "paceline 0.1.0".to_owned(),
        }
    }
}
