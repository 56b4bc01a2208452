//! A real member that floods: made of this crate's own parts, because no process of ours would.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, gossipsub,
    swarm::{self, SwarmEvent},
};
use paceline_proto::{
    id::{Role, Roles, Site, WorkerName},
    manifest::WorkerType,
    token::Token,
    view::{ClusterView, Leadership},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    behaviour::{Behaviour, topic},
    door::{Admitted, Door, Present, Side},
    join, transport,
};
use crate::{
    Bind, Mesh, MeshConfig,
    config::Membership,
    data::Lanes,
    mesh::TokenSpec,
    trust::{Options, Trust},
};

const SOON: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

fn config(dir: &std::path::Path, name: &str, roles: Roles, membership: Membership) -> MeshConfig {
    let port = || Bind { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), explicit: true };
    MeshConfig {
        roles,
        data_dir: dir.join(name),
        name: Some(WorkerName::new(name).expect("a name")),
        site: Site::default(),
        worker_type: WorkerType::Cpu,
        mesh: port(),
        data: port(),
        advertise: Vec::new(),
        membership,
        entries: Vec::new(),
        labels: BTreeMap::new(),
        capabilities: BTreeMap::new(),
        mdns: false,
        leaf_ttl: 30 * DAY,
        term: Duration::from_secs(600),
        heartbeat: Duration::from_secs(10),
        sink: Default::default(),
        gossip_own_manifest: true,
    }
}

/// A member whose gossip this test writes.
struct Flooder {
    swarm: Swarm<Behaviour>,
    topic: gossipsub::IdentTopic,
    _ears: mpsc::Receiver<super::door::Told>,
}

impl Flooder {
    fn new(trust: Trust, roles: Roles) -> Self {
        let (keypair, cluster) = (trust.keypair(), trust.cluster());
        let view = ClusterView {
            generation: 0,
            cluster,
            me: trust.node(),
            leadership: Leadership::default(),
            members: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        let (told, ears) = mpsc::channel(64);
        let door = Arc::new(Door {
            trust,
            side: Side::Member {
                view: Arc::new(ArcSwap::from_pointee(view)),
                incarnation: Arc::new(AtomicU64::new(1)),
            },
            instance: 1,
            told,
            admitted: Admitted::default(),
            present: Present::default(),
            barred: Default::default(),
        });
        let transport = transport::build(&keypair, door).expect("a transport");
        let behaviour = Behaviour::new(&keypair, &cluster, roles, false, Arc::default()).expect("behaviours");
        let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(DAY);
        let swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
        Self { swarm, topic: topic(&cluster), _ears: ears }
    }

    /// Writes rubbish to all until its connection is closed; says how much it wrote.
    async fn flood(&mut self) -> u32 {
        let mut written = 0;
        let mut every = tokio::time::interval(Duration::from_millis(2));
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionClosed { num_established: 0, .. } = event {
                        return written;
                    }
                }
                _ = every.tick() => {
                    let rubbish: [u8; 32] = rand::random();
                    let published = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), rubbish.to_vec());
                    written += u32::from(published.is_ok());
                }
            }
        }
    }

    /// Whether it is let in.
    async fn comes_back(&mut self, entry: &Multiaddr) -> bool {
        self.swarm.dial(entry.clone()).expect("a dial");
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return true,
                SwarmEvent::OutgoingConnectionError { .. } => return false,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_floods_is_cut_off_and_the_others_stay() {
    let home = tempfile::tempdir().expect("a directory");
    let worker: Roles = [Role::Worker].into_iter().collect();
    let gateway = [Role::Gateway, Role::Worker].into_iter().collect();
    let lanes = Lanes::start(1).expect("a lane");
    let founder = config(home.path(), "up", gateway, Membership::FoundOrResume);
    let founder = Mesh::start(founder, lanes.clone(), None).await.expect("a founder");
    let spec = TokenSpec { roles: worker, issuer: false, services: Vec::new(), ttl: DAY, uses: None };
    let (_, text) = founder.create_token(spec).await.expect("a token");
    let token = || Membership::Join(Box::new(Token::parse(&text).expect("a token")));
    let honest = config(home.path(), "honest", worker, token());
    let honest = Mesh::start(honest, lanes.clone(), None).await.expect("a member");

    let options =
        Options { data_dir: home.path().join("flooder"), membership: token(), roles: worker, leaf_ttl: 30 * DAY };
    let trust = Trust::open(&options).expect("a newcomer");
    let entry: Multiaddr = founder.mesh_addresses()[0].parse().expect("an address");
    let newcomer = join::Newcomer {
        trust: trust.clone(),
        entries: vec![entry.clone()],
        name: WorkerName::new("flooder").expect("a name"),
        chosen: true,
        mdns: false,
        instance: 1,
    };
    timeout(SOON, join::join(newcomer)).await.expect("in time").expect("admitted");
    let mut flooder = Flooder::new(trust, worker);
    assert!(timeout(SOON, flooder.comes_back(&entry)).await.expect("in time"), "it is a member");
    let written = timeout(SOON, flooder.flood()).await.expect("it is cut off");
    assert!(written >= paceline_proto::conduct::FALSE.0, "{written}");
    assert!(!timeout(SOON, flooder.comes_back(&entry)).await.expect("in time"), "kept out");

    let sees_both = |mesh: &Mesh| mesh.view().members.values().filter(|m| m.is_alive()).count() >= 2;
    for mesh in [&founder, &honest] {
        let mut views = mesh.watch();
        let both = views.wait_for(|_| sees_both(mesh));
        timeout(SOON, both).await.expect("in time").expect("a view");
    }
    drop((founder, honest));
    lanes.stop();
}
