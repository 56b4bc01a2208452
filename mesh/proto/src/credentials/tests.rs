use super::*;
use crate::testing::{LEAF_LIFE_S, LeafSpec, START, TestCluster, key, node_id};

fn at(s: u64) -> UnixSeconds {
    UnixSeconds(START.0 + s)
}

fn spec(life_s: u64) -> LeafSpec {
    LeafSpec { not_after: at(life_s), ..LeafSpec::worker() }
}

#[test]
fn a_chain_is_known_until_it_ends() {
    let cluster = TestCluster::new(1);
    let node = node_id(&key(1));
    let chain = Arc::new(cluster.chain(&node, &spec(100)));
    let hash = chain.hash();
    let mut known = Credentials::new(cluster.root.clone());
    assert!(known.learn(Arc::clone(&chain), at(0), |_| Ok(())).is_ok_and(|(c, new)| new && c.node == node));
    assert!(known.learn(Arc::clone(&chain), at(0), |_| Ok(())).is_ok_and(|(_, new)| !new));
    assert!(known.of_hash(&hash, at(100)).is_some(), "good to its last second");
    assert!(known.of_hash(&hash, at(101)).is_none());
    assert!(known.of_node(&node, at(101)).is_none());
    assert_eq!(known.learn(Arc::clone(&chain), at(101), |_| Ok(())).err(), Some(CredentialError::Expired));
    assert_eq!(known.sweep(at(100), |_| true), Some(at(100)));
    assert_eq!(known.sweep(at(101), |_| true), None);
    assert_eq!(
        known.learn(chain, at(101), |_| Ok(())).err(),
        Some(CredentialError::Expired),
        "judged anew, and no better"
    );
}

#[test]
fn the_last_of_several_speaks_for_the_node() {
    let cluster = TestCluster::new(1);
    let node = node_id(&key(1));
    let mut known = Credentials::new(cluster.root.clone());
    let chains: Vec<_> = (1..=5).map(|i| Arc::new(cluster.chain(&node, &spec(100 * i)))).collect();
    for chain in &chains {
        known.learn(Arc::clone(chain), at(0), |_| Ok(())).expect("good");
        assert_eq!(known.of_node(&node, at(0)).map(|k| k.credential.hash), Some(chain.hash()));
    }
    let kept = chains.iter().filter(|c| known.of_hash(&c.hash(), at(0)).is_some()).count();
    assert_eq!(kept, CHAINS_PER_NODE);
    assert_eq!(known.sweep(at(450), |_| true), Some(at(500)));
    assert_eq!(known.by_hash.len(), 1);
}

#[test]
fn who_is_not_needed_is_forgotten() {
    let cluster = TestCluster::new(1);
    let mut known = Credentials::new(cluster.root.clone());
    let nodes: Vec<_> = (0..4).map(|i| node_id(&key(i))).collect();
    for node in &nodes {
        known.learn(Arc::new(cluster.chain(node, &LeafSpec::worker())), at(0), |_| Ok(())).expect("good");
    }
    assert_eq!(known.sweep(at(1), |n| *n == nodes[2]), Some(at(LEAF_LIFE_S)));
    assert!(nodes.iter().all(|n| known.of_node(n, at(1)).is_some() == (*n == nodes[2])));
    assert_eq!((known.by_hash.len(), known.by_node.len()), (1, 1));
}

#[test]
fn strangers_are_never_known() {
    let (ours, theirs) = (TestCluster::new(1), TestCluster::new(2));
    let node = node_id(&key(1));
    let mut known = Credentials::new(ours.root.clone());
    assert!(known.learn(Arc::new(theirs.chain(&node, &LeafSpec::worker())), at(0), |_| Ok(())).is_err());
    let early = LeafSpec { not_before: at(50), ..LeafSpec::worker() };
    let early = Arc::new(ours.chain(&node, &early));
    assert_eq!(known.learn(early, at(0), |_| Ok(())).err(), Some(CredentialError::NotYetValid));
    assert!(known.by_hash.is_empty() && known.by_node.is_empty());
}
