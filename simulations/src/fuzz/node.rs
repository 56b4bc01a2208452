//! A whole node, and four peers of which each may be a liar: any inputs, in any order.
//!
//! What must hold: no panic; every input costs a bounded number of outputs; what is sent and gossiped is within its
//! bounds; timers do not spin; the node never believes itself gone; it lists nobody whom nobody admitted.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use paceline_proto::Now;
use paceline_proto::credential::Chain;
use paceline_proto::envelope::{Accusation, Claim, Signed};
use paceline_proto::heartbeat::Load;
use paceline_proto::id::{Incarnation, ManifestVersion, NodeId, Role, ServiceName, UnixSeconds, WorkerName};
use paceline_proto::lead::Lead;
use paceline_proto::manifest::{MANIFEST_BYTES_MAX, Manifest};
use paceline_proto::message::{Direct, GOSSIP_BYTES_MAX, Gossip, Item, SentChain, Want};
use paceline_proto::node::{Config, DialFailure, GossipId, Input, LinkLoss, Node, Output, ProviderKey, Timing};
use paceline_proto::summary::Summary;
use paceline_proto::view::{ClusterView, MemberState};
use paceline_proto::wire::{self, MESSAGE_BYTES_MAX, WIRE_VERSION};

use super::choices::Choices;
use crate::sim::authority::{Authority, START, key, node_id};
use crate::sim::host::Host;
use crate::sim::rng::Rng;

/// Peers with credentials.
const PEERS: usize = 4;
/// Most inputs of one run.
const STEPS_MAX: usize = 200;
/// Most outputs that one input may cause, timers that it makes due included.
const OUTPUTS_MAX: usize = 4_096;
/// Most timers that may fire in a second of virtual time.
const TIMERS_S_MAX: usize = 400;
/// Manifests have room for what each carries.
const _: () = assert!(MANIFEST_BYTES_MAX < GOSSIP_BYTES_MAX);

struct Peer {
    id: NodeId,
    key: SigningKey,
    chain: Chain,
    manifest: Manifest,
}

/// Keys and certificates are the same in every run: making them would take most of its time.
struct Cast {
    authority: Authority,
    me: Peer,
    peers: Vec<Peer>,
    zero: Instant,
}

static CAST: LazyLock<Cast> = LazyLock::new(|| {
    let mut rng = Rng::new(7);
    let authority = Authority::new(&mut rng).expect("rcgen makes certificates from fixed keys");
    let mut peer = |number: u32| {
        let key = key(&mut rng);
        let id = node_id(&key);
        // The first one may admit others, as a founder does.
        let chain = authority.admit(&id, &[Role::Worker, Role::Gateway], number == 1).expect("a chain");
        let name = WorkerName::new(&format!("n{number}")).expect("a name");
        let mut manifest = Host::new(number, name, key.clone(), chain.clone()).manifest(number, 1, START.0 * 1_000);
        manifest.credential = chain.hash();
        Peer { id, key, chain, manifest }
    };
    let me = peer(0);
    let peers = (1..=PEERS as u32).map(&mut peer).collect();
    Cast { authority, me, peers, zero: Instant::now() }
});

struct Run<'a> {
    choices: Choices<'a>,
    node: Node,
    elapsed: Duration,
    gossip: u64,
    over: bool,
}

/// Any inputs.
pub fn node(bytes: &[u8]) {
    play(bytes);
}

/// The inputs, and what the node believes after them.
pub(super) fn play(bytes: &[u8]) -> ClusterView {
    let mut choices = Choices::new(bytes);
    let timing =
        Timing { heartbeat: choices.of(&[Duration::from_secs(10), Duration::from_secs(1)]), ..Timing::default() };
    let config = Config {
        root: CAST.authority.root.clone(),
        key: CAST.me.key.clone(),
        chain: CAST.me.chain.clone(),
        manifest: CAST.me.manifest.clone(),
        seed: choices.number(),
        timing,
        claim: choices.bytes().to_vec(),
        sink: choices.yes(),
        gossip_own_manifest: true,
        memo: None,
    };
    let node = Node::new(config, now(Duration::ZERO)).expect("its manifest is within its bounds");
    let mut run = Run { choices, node, elapsed: Duration::ZERO, gossip: 0, over: false };
    run.outputs();
    for _ in 0..STEPS_MAX {
        if run.choices.is_over() || run.over {
            break;
        }
        run.step();
    }
    run.node.view()
}

fn now(elapsed: Duration) -> Now {
    Now { at: CAST.zero + elapsed, unix: UnixSeconds(START.0 + elapsed.as_secs()) }
}

impl Run<'_> {
    fn step(&mut self) {
        let generation = self.node.view().generation;
        if self.choices.byte().is_multiple_of(4) {
            self.time_passes();
        } else {
            let input = self.input();
            self.node.handle_input(input, now(self.elapsed));
        }
        self.outputs();
        let view = self.node.view();
        assert!(view.generation >= generation, "the view went back");
        let me = view.members.get(&view.me).expect("a node knows itself");
        assert!(self.over || matches!(me.state, MemberState::Alive | MemberState::Left), "it believes itself {me:?}");
        for id in view.members.keys() {
            assert!(*id == CAST.me.id || CAST.peers.iter().any(|peer| peer.id == *id), "{id} was never admitted");
        }
        assert!(view.services.values().flatten().all(|provider| view.members.contains_key(&provider.node)));
    }

    fn time_passes(&mut self) {
        let time = Duration::from_millis(self.choices.number().min(600_000) * self.choices.of(&[1, 10, 100, 1_000]));
        let end = self.elapsed + time;
        // A process that wakes up late sees all its timers at once.
        let late = self.choices.yes();
        let most = TIMERS_S_MAX * (usize::try_from(time.as_secs()).unwrap_or(usize::MAX).saturating_add(1));
        let mut fired = 0;
        while let Some((at, why)) = self.node.poll_timeout() {
            let at = at.saturating_duration_since(CAST.zero);
            if at > end {
                break;
            }
            self.elapsed = if late { end } else { self.elapsed.max(at) };
            self.node.handle_timeout(now(self.elapsed));
            self.outputs();
            fired += 1;
            assert!(fired <= most, "timers spin: {why}, {fired} in {time:?}");
            if fired > 20_000 {
                break;
            }
        }
        self.elapsed = end;
    }

    fn peer(&mut self) -> &'static Peer {
        &CAST.peers[usize::from(self.choices.byte()) % PEERS]
    }

    /// A peer, this node, or nobody.
    fn anybody(&mut self) -> NodeId {
        match self.choices.byte() % 8 {
            0 => CAST.me.id,
            1 => NodeId::from_bytes([self.choices.byte(); 32]),
            _ => self.peer().id,
        }
    }

    fn input(&mut self) -> Input {
        let peer = self.peer();
        match self.choices.byte() % 21 {
            0..=2 => Input::LinkUp { peer: peer.id, chain: self.chain(peer) },
            19 => {
                let loss = self.choices.of(&[LinkLoss::Reset, LinkLoss::Silent, LinkLoss::Closed]);
                Input::LinkDown { peer: peer.id, loss }
            }
            3 => {
                let failure = self.choices.of(&[DialFailure::Refused, DialFailure::Unreachable]);
                Input::DialFailed { peer: self.anybody(), failure }
            }
            4..=7 => {
                self.gossip += 1;
                Input::Gossip { from: peer.id, id: GossipId(self.gossip), bytes: self.gossip_bytes() }
            }
            8..=11 => Input::Direct { from: peer.id, bytes: self.direct_bytes() },
            12 => match self.choices.byte() % 6 {
                0 => Input::Offer(if self.choices.yes() { Vec::new() } else { peer.manifest.services.clone() }),
                1 => {
                    Input::Addresses { mesh: vec![format!("/ip4/10.0.0.{}/tcp/1", self.choices.byte())], data: vec![] }
                }
                2 => Input::Renewed(self.chain(&CAST.me)),
                3 => Input::Drain(self.choices.yes()),
                4 if self.choices.byte() == 1 => Input::Leave,
                _ => Input::Dialable(self.choices.yes()),
            },
            13 => Input::Find(service(&mut self.choices)),
            14 => {
                let role = self.choices.of(&[Role::Gateway, Role::Worker, Role::Bootstrap]);
                let key = if self.choices.yes() {
                    ProviderKey::Role(role)
                } else {
                    ProviderKey::Service(service(&mut self.choices))
                };
                let count = usize::from(self.choices.byte());
                Input::Providers { key, nodes: (0..count).map(|_| self.anybody()).collect() }
            }
            15 => Input::RequestFailed { peer: self.anybody() },
            16 => Input::Load(Load { in_flight: self.choices.number() as u32, ..Load::default() }),
            17 => Input::StoredSummary(self.gossip_bytes()),
            18 => {
                let writes_today = self.choices.yes().then(|| self.choices.number() as u32);
                Input::Written { stored: self.choices.yes(), writes_today }
            }
            _ => Input::Direct { from: self.anybody(), bytes: self.direct_bytes() },
        }
    }

    /// The peer's own chain; sometimes another's, or one that was changed.
    fn chain(&mut self, peer: &Peer) -> Chain {
        let mut chain = peer.chain.clone();
        match self.choices.byte() {
            250.. => chain = self.peer().chain.clone(),
            240.. => {
                let at = (self.choices.number() as usize) % chain.leaf.len();
                chain.leaf[at] ^= 1;
            }
            _ => {}
        }
        chain
    }

    /// A record that its author has signed: true or a lie.
    fn signed(&mut self) -> Arc<Signed> {
        let author = self.peer();
        let incarnation = Incarnation(self.choices.number());
        let accusation = Accusation { subject: self.anybody(), incarnation };
        let lead = Lead { term: self.choices.number(), takeovers: self.choices.number() as u32 };
        let claim = match self.choices.byte() % 8 {
            0..=2 => {
                let mut manifest = author.manifest.clone();
                manifest.incarnation = incarnation;
                manifest.version = ManifestVersion(self.choices.number());
                manifest.instance = self.choices.number();
                manifest.dialable = self.choices.yes();
                manifest.draining = self.choices.yes();
                manifest.sink = self.choices.yes();
                if self.choices.yes() {
                    manifest.services.clear();
                }
                if self.choices.byte() == 1 {
                    manifest.node = self.anybody();
                }
                Claim::Manifest(Box::new(manifest))
            }
            3 => Claim::Leave { incarnation },
            4 => Claim::Death(accusation),
            5 => Claim::Suspect(accusation),
            6 => Claim::Lead(lead),
            _ => Claim::Summary(Box::new(Summary {
                lead,
                seq: self.choices.number(),
                alive: self.choices.number() as u32,
                members: self.choices.number() as u32,
                root: self.choices.number(),
                day: self.choices.number() as u32,
                writes_today: self.choices.number() as u32,
                bits: self.choices.bytes().to_vec(),
                ..Summary::default()
            })),
        };
        Arc::new(Signed::new(&claim, &author.key, &CAST.authority.cluster()).expect("within its bounds"))
    }

    /// Sometimes with one bit changed, sometimes nothing but the fuzzer's bytes.
    fn spoilt(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.choices.byte() {
            250.. => return self.choices.bytes().to_vec(),
            240.. if !bytes.is_empty() => {
                let at = (self.choices.number() as usize) % bytes.len();
                bytes[at] ^= 1 << (self.choices.byte() % 8);
            }
            _ => {}
        }
        bytes
    }

    fn gossip_bytes(&mut self) -> Vec<u8> {
        let message = if self.choices.byte().is_multiple_of(8) {
            let peer = self.peer();
            Gossip::Credential(SentChain(Arc::new(self.chain(peer))))
        } else {
            Gossip::Record(self.signed())
        };
        let bytes = wire::encode(&message).expect("within its bounds");
        self.spoilt(bytes)
    }

    fn direct_bytes(&mut self) -> Vec<u8> {
        let message = match self.choices.byte() % 4 {
            0 => {
                let chains = [self.peer(), self.peer()].map(|peer| SentChain(Arc::new(peer.chain.clone())));
                let records = if self.choices.yes() { vec![self.signed()] } else { vec![self.signed(), self.signed()] };
                let gone_s = self.choices.number() as u32;
                Direct::Push(vec![Item { chains: chains.into(), records, gone_s }])
            }
            1 => {
                let count = self.choices.byte();
                let want = |run: &mut Self| match run.choices.byte() % 3 {
                    0 => Want::Author(run.anybody()),
                    1 => Want::Chain(CAST.me.chain.hash()),
                    _ => Want::Member(run.anybody()),
                };
                Direct::Pull((0..count).map(|_| want(self)).collect())
            }
            // Every other kind is short: the fuzzer's bytes are as good.
            _ => {
                let kind = self.choices.byte() % 9;
                return [&[WIRE_VERSION, kind], self.choices.bytes()].concat();
            }
        };
        let bytes = wire::encode(&message).expect("within its bounds");
        self.spoilt(bytes)
    }

    /// Takes what the node wants done, and looks at it.
    fn outputs(&mut self) {
        let mut verdicts = BTreeMap::new();
        let mut count = 0;
        while let Some(output) = self.node.poll_output() {
            count += 1;
            assert!(count <= OUTPUTS_MAX, "one input caused more than {OUTPUTS_MAX} outputs; the last is {output:?}");
            match output {
                Output::Publish(bytes) => {
                    assert!(bytes.len() <= GOSSIP_BYTES_MAX);
                    assert!(wire::decode::<Gossip>(&bytes).is_ok(), "gossip that nobody can read");
                }
                Output::Send { bytes, .. } => {
                    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
                    assert!(wire::decode::<Direct>(&bytes).is_ok(), "a message that nobody can read");
                }
                Output::Verdict { id, .. } => {
                    assert!(verdicts.insert(id, ()).is_none(), "{id:?} was judged twice");
                }
                Output::Fatal(_) => self.over = true,
                _ => {}
            }
        }
    }
}

fn service(choices: &mut Choices<'_>) -> ServiceName {
    ServiceName::new(&format!("service-{}", choices.byte() % 8)).expect("a name")
}
