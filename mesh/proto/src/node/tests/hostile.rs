//! Peers that send rubbish, speak for others, or claim too much: each is refused with a word, and nothing changes.

use std::sync::Arc;

use super::cluster;
use super::net::{Net, manifest, secs};
use crate::credential::Chain;
use crate::envelope::{Accusation, Claim, Signed};
use crate::id::{ClusterId, Incarnation, NodeId, Role};
use crate::message::{Direct, Gossip, ITEMS_MAX, Item, SentChain, WANTS_MAX, Want};
use crate::node::{Event, Input, Verdict};
use crate::parked::PARKED_PER_AUTHOR;
use crate::sync::{Entry, Span, Standing};
use crate::testing::{LeafSpec, TestCluster, key, node_id};
use crate::view::MemberState::Alive;
use crate::wire;

/// A chain, a suspicion and a death, as gossip, by the key of that seed.
pub(super) fn accusations(
    net: &Net,
    accuser: u64,
    chain: &Chain,
    subject: NodeId,
    incarnation: Incarnation,
) -> [Vec<u8>; 3] {
    let accusation = Accusation { subject, incarnation };
    let sign = |claim| record(&claim, accuser, &net.cluster);
    let credential = Gossip::Credential(SentChain(Arc::new(chain.clone())));
    [
        wire::encode(&credential).expect("within its bounds"),
        sign(Claim::Suspect(accusation)),
        sign(Claim::Death(accusation)),
    ]
}

/// The same two accusations, signed for another cluster: they hold nowhere.
pub(super) fn false_accusations(accuser: u64, subject: NodeId, incarnation: Incarnation) -> [Vec<u8>; 2] {
    let accusation = Accusation { subject, incarnation };
    [Claim::Suspect(accusation), Claim::Death(accusation)].map(|claim| {
        let signed = Signed::new(&claim, &key(accuser), &ClusterId::from_bytes([9; 32])).expect("within its bounds");
        wire::encode(&Gossip::Record(Arc::new(signed))).expect("within its bounds")
    })
}

/// How many of these gossip messages accuse anybody.
pub(super) fn accusations_in(published: &[Vec<u8>]) -> usize {
    let accuses = |bytes: &&Vec<u8>| match wire::decode::<Gossip>(bytes) {
        Ok(Gossip::Record(record)) => matches!(record.read(), Ok(Claim::Suspect(_) | Claim::Death(_))),
        _ => false,
    };
    published.iter().filter(accuses).count()
}

fn record(claim: &Claim, author: u64, cluster: &TestCluster) -> Vec<u8> {
    let signed = Signed::new(claim, &key(author), &cluster.id()).expect("within its bounds");
    wire::encode(&Gossip::Record(Arc::new(signed))).expect("within its bounds")
}

fn refusals(net: &Net, at: NodeId) -> Vec<String> {
    let reason = |e: &Event| match e {
        Event::Refused { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    net.machines[&at].events.iter().filter_map(|(_, e)| reason(e)).collect()
}

#[test]
fn rubbish_is_refused_and_changes_nothing() {
    let (mut net, gateway, workers) = cluster(50, 4);
    let before = net.view(gateway).generation;
    for i in 0..500 {
        let bytes: Vec<u8> = (0..net.rng.below(400)).map(|_| net.rng.next_u64() as u8).collect();
        let bytes = if i % 2 == 0 { bytes } else { [vec![wire::WIRE_VERSION], bytes].concat() };
        let id = net.inject(workers[0], gateway, bytes.clone());
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
        net.input(gateway, Input::Direct { from: workers[0], bytes });
    }
    for bytes in [vec![], vec![wire::WIRE_VERSION; 100_000], vec![9, 1, 2]] {
        let id = net.inject(workers[0], gateway, bytes.clone());
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
        net.input(gateway, Input::Direct { from: workers[0], bytes });
    }
    assert!(refusals(&net, gateway).len() >= 503);
    assert_eq!(net.machines[&gateway].barred, [workers[0]], "cut off, and said once");
    assert_eq!(net.view(gateway).generation, before);
    net.run(secs(10));
    assert!(net.agree());
}

#[test]
fn changed_messages_are_refused() {
    // Every message of a real run, with one byte changed.
    let (mut net, gateway, workers) = cluster(51, 4);
    let real: Vec<_> = net.machines.values().flat_map(|m| m.published.clone()).collect();
    let picture = net.picture();
    for bytes in real {
        for _ in 0..20 {
            let mut bytes = bytes.clone();
            let at = net.rng.below(bytes.len());
            bytes[at] ^= 1 << net.rng.below(8);
            let id = net.inject(workers[0], gateway, bytes);
            assert_ne!(net.verdict(gateway, id), Some(Verdict::Accept));
        }
    }
    assert_eq!(net.picture(), picture);
}

#[test]
fn nobody_speaks_for_another() {
    let (mut net, gateway, workers) = cluster(52, 4);
    let victim = workers[1];
    let mut word = (*net.view(gateway).members[&victim].manifest).clone();
    word.incarnation.0 += 5;
    word.services.clear();
    // Another's manifest under one's own signature.
    let id = net.inject(workers[0], gateway, record(&Claim::Manifest(Box::new(word.clone())), 0, &net.cluster));
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
    // One's own signature under another's name: only the bytes of the author differ.
    let mut forged = Signed::new(&Claim::Manifest(Box::new(word)), &key(0), &net.cluster.id()).expect("fits");
    forged.author = victim;
    let bytes = wire::encode(&Gossip::Record(Arc::new(forged))).expect("fits");
    let id = net.inject(workers[0], gateway, bytes);
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
    // A goodbye for another.
    let mut forged =
        Signed::new(&Claim::Leave { incarnation: Incarnation(1) }, &key(0), &net.cluster.id()).expect("fits");
    forged.author = victim;
    let bytes = wire::encode(&Gossip::Record(Arc::new(forged))).expect("fits");
    let id = net.inject(workers[0], gateway, bytes);
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
    // A record of another cluster.
    let leave = Claim::Leave { incarnation: Incarnation(1) };
    let id = net.inject(workers[0], gateway, record(&leave, 1, &TestCluster::new(2)));
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
    net.run(secs(5));
    assert_eq!(net.state(gateway, victim), Some(Alive));
    assert_eq!(refusals(&net, gateway).len(), 4);
}

#[test]
fn nobody_claims_more_than_its_credential() {
    let mut net = Net::new(53);
    let gateway = net.gateway(1_000, None);
    let bound = LeafSpec::worker().only(&["files"]);
    let node = node_id(&key(5));
    let chain = net.cluster.chain(&node, &bound);
    let learned = wire::encode(&Gossip::Credential(SentChain(Arc::new(chain.clone())))).expect("fits");
    net.inject(gateway, gateway, learned);
    let claim = |roles: &[Role], services: &[&str], credential| {
        let mut m = manifest(node, "n5", roles, services);
        m.credential = credential;
        Claim::Manifest(Box::new(m))
    };
    let another = net.view(gateway).members[&gateway].manifest.credential;
    for (bad, word) in [
        (claim(&[Role::Worker, Role::Gateway], &["files"], chain.hash()), "roles"),
        (claim(&[Role::Worker], &["files", "upload"], chain.hash()), "upload"),
        (claim(&[Role::Worker], &["files"], another), "another node's credential"),
    ] {
        let id = net.inject(gateway, gateway, record(&bad, 5, &net.cluster));
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject), "{word}");
        assert!(refusals(&net, gateway).last().is_some_and(|r| r.contains(word)), "{:?}", refusals(&net, gateway));
    }
    let good = claim(&[Role::Worker], &["files"], chain.hash());
    let id = net.inject(gateway, gateway, record(&good, 5, &net.cluster));
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Accept));
}

#[test]
fn a_node_does_not_offer_what_its_credential_does_not_grant() {
    let mut net = Net::new(54);
    let gateway = net.gateway(1_000, None);
    let worker = net.machine(5, &[Role::Worker], &["files", "upload"], &LeafSpec::worker().only(&["files"]));
    net.start(worker, Some(gateway));
    net.until("the rest is offered", secs(1), |net| net.view(gateway).services.contains_key("files"));
    net.run(secs(1));
    assert!(!net.view(gateway).services.contains_key("upload"));
    assert!(refusals(&net, worker).iter().any(|r| r.contains("upload")));
    assert!(refusals(&net, gateway).is_empty());
}

#[test]
fn chains_of_another_cluster_are_refused() {
    let (mut net, gateway, workers) = cluster(55, 2);
    let stranger = node_id(&key(5));
    let chain = TestCluster::new(2).chain(&stranger, &LeafSpec::worker());
    let bytes = wire::encode(&Gossip::Credential(SentChain(Arc::new(chain.clone())))).expect("fits");
    let id = net.inject(workers[0], gateway, bytes);
    assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject));
    let count = refusals(&net, gateway).len();
    net.input(gateway, Input::LinkUp { peer: stranger, chain });
    assert_eq!(refusals(&net, gateway).len(), count + 1);
    // A good chain, and another's.
    let chain = net.machines[&workers[1]].chain.clone();
    net.input(gateway, Input::LinkUp { peer: stranger, chain });
    assert_eq!(refusals(&net, gateway).len(), count + 2);
    assert_eq!(net.state(gateway, stranger), None);
}

#[test]
fn records_of_strangers_take_little_room() {
    let (mut net, gateway, workers) = cluster(56, 2);
    let mut ignored = 0;
    for version in 0..100 {
        let mut m = manifest(node_id(&key(9)), "n9", &[Role::Worker], &[]);
        m.version.0 = version;
        let id = net.inject(workers[0], gateway, record(&Claim::Manifest(Box::new(m)), 9, &net.cluster));
        ignored += usize::from(net.verdict(gateway, id) == Some(Verdict::Ignore));
    }
    assert_eq!(ignored, 100 - PARKED_PER_AUTHOR);
    for author in 2_000..3_000 {
        let m = manifest(node_id(&key(author)), "x", &[Role::Worker], &[]);
        net.inject(workers[0], gateway, record(&Claim::Manifest(Box::new(m)), author, &net.cluster));
    }
    net.run(secs(4));
    let waiting = net.machines[&gateway].process.as_ref().expect("runs").parked.next();
    assert_eq!(waiting, None, "given up");
    assert!(net.agree());
}

#[test]
fn huge_lists_cost_no_more_than_their_bounds() {
    let (mut net, gateway, workers) = cluster(57, 2);
    let from = workers[0];
    let some_id = |i: u64| node_id(&key(i));
    let wants: Vec<_> = (0..WANTS_MAX as u64).map(|i| Want::Member(some_id(i))).collect();
    let mut entries: Vec<_> = (0..800)
        .map(|i| Entry {
            node: some_id(i),
            incarnation: Incarnation(u64::MAX),
            version: crate::id::ManifestVersion(u64::MAX),
            standing: Standing::Here,
            gone_s: 0,
        })
        .collect();
    entries.sort_by_key(|e| e.node);
    let (low, high) = (NodeId::from_bytes([0; 32]), NodeId::from_bytes([0xff; 32]));
    let messages = [
        Direct::Pull(wants),
        Direct::Entries(vec![Span { from: low, to: high, entries }]),
        Direct::Entries(vec![Span { from: high, to: low, entries: Vec::new() }]),
        Direct::Digest(vec![7; crate::sync::BUCKETS]),
        Direct::Digest(Vec::new()),
        Direct::Push(vec![Item::default(); ITEMS_MAX]),
    ];
    let sent = net.machines[&gateway].sent_bytes;
    for _ in 0..200 {
        for message in &messages {
            let bytes = wire::encode(message).expect("within its bounds");
            net.input(gateway, Input::Direct { from, bytes });
        }
    }
    let answered = net.machines[&gateway].sent_bytes - sent;
    assert!(answered < 4 << 20, "{answered} bytes of answers to one peer at one time");
    net.run(secs(30));
    assert!(net.agree());
    assert_eq!(net.view(gateway).members.len(), 3);

    // The same message with one more than its bound is no message.
    let over: Vec<_> = (0..=WANTS_MAX as u64).map(|i| Want::Member(some_id(i))).collect();
    let bytes = wire::encode(&Direct::Pull(over)).expect("within its bytes");
    net.input(gateway, Input::Direct { from, bytes });
    assert!(refusals(&net, gateway).last().is_some_and(|r| r.contains("malformed")));
}
