//! The control plane: libp2p carries the messages, the cores of `paceline_proto` decide.
//!
//! [`door`] admits connections inside the transport, [`transport`] and [`behaviour`] set libp2p up, [`join`] brings a
//! newcomer in, and [`driver`] is the one loop that translates between the swarm and [`paceline_proto::node::Node`].

pub(crate) mod addresses;
pub(crate) mod behaviour;
pub(crate) mod dials;
pub(crate) mod door;
pub(crate) mod driver;
#[cfg(test)]
mod flood;
pub(crate) mod frames;
pub(crate) mod join;
pub(crate) mod kademlia;
pub(crate) mod lines;
pub(crate) mod links;
pub(crate) mod ports;
pub(crate) mod rpc;
pub(crate) mod transport;

use std::time::Duration;

use libp2p::{PeerId, identity};
use paceline_proto::id::NodeId;
use rand::RngExt as _;

/// Most characters of a peer's reason that go into a log line or an error.
const WORDS_CHARS_MAX: usize = 300;

/// The node whose key this PeerId carries; `None` for another kind of key.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let multihash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    let key = identity::PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(NodeId::from_bytes(key.try_into_ed25519().ok()?.to_bytes()))
}

/// The PeerId of a node; `None` where its 32 bytes are no point of the curve.
pub(crate) fn peer_of(node: &NodeId) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PeerId::from_public_key(&key.into()))
}

/// What a stranger said, fit for a terminal: one line, bounded, without control characters.
pub(crate) fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// Between half and one and a half of a duration, so that many nodes do not act in step.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_and_its_peer_id_are_one_key() {
        let peer = identity::Keypair::generate_ed25519().public().to_peer_id();
        let node = node_of(&peer).expect("an Ed25519 key");
        assert_eq!(peer_of(&node), Some(peer));
        assert_eq!(node_of(&PeerId::random()), None, "a hash carries no key");
    }

    #[test]
    fn words_of_strangers_are_one_bounded_line() {
        assert_eq!(words("a\nb\x1b[31mc"), "ab[31mc");
        assert_eq!(words(&"x".repeat(5000)).len(), WORDS_CHARS_MAX);
    }
}
