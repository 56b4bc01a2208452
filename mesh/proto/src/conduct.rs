//! How members behave towards this node: what is false and what is too much counts against whoever sent it, and whoever
//! goes on is cut off for a while. Bounds are far above what a storm of honest members needs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::NodeId;
use crate::meter::Meter;

/// How long whoever was cut off is kept out.
pub const CUT_FOR: Duration = Duration::from_secs(60);
/// False messages of a peer that are borne at once, and per second: honest members send none.
pub const FALSE: (u32, u32) = (32, 1);
/// Gossip messages by way of a peer, at once and per second: each of the largest cluster's members may start at once.
pub const GOSSIP: (u32, u32) = (16_384, 1_000);
/// What may come on top before it is cut off, unread, at once and per second.
pub const EXCESS: (u32, u32) = (8_192, 256);
/// Records that one author may gossip at once, and per second; more are not passed on, and found by their digest.
pub const RECORDS: (u32, u32) = (128, 16);

/// What becomes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Go on.
    Fine,
    /// Leave this message unread.
    TooMuch,
    /// Leave it unread, and let go of the peer.
    Cut(&'static str),
}

#[derive(Debug)]
struct Peer {
    falsehoods: Meter,
    gossip: Meter,
    excess: Meter,
    cut: Option<Instant>,
}

/// Everybody's conduct.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    peers: BTreeMap<NodeId, Peer>,
    authors: BTreeMap<NodeId, Meter>,
}

impl Conduct {
    fn peer(&mut self, peer: NodeId, now: Instant) -> &mut Peer {
        let meter = |(most, per_second): (u32, u32)| Meter::new(most, per_second, now);
        self.peers.entry(peer).or_insert_with(|| Peer {
            falsehoods: meter(FALSE),
            gossip: meter(GOSSIP),
            excess: meter(EXCESS),
            cut: None,
        })
    }

    /// A gossip message came by way of this peer.
    pub(crate) fn gossiped(&mut self, peer: NodeId, now: Instant) -> Standing {
        if self.peer(peer, now).gossip.take(1, now) { Standing::Fine } else { self.excess(peer, now) }
    }

    /// A peer sent more than it may.
    pub(crate) fn excess(&mut self, peer: NodeId, now: Instant) -> Standing {
        let state = self.peer(peer, now);
        if state.excess.take(1, now) { Standing::TooMuch } else { state.cut_off("it floods this node", now) }
    }

    /// A peer sent what is false.
    pub(crate) fn lied(&mut self, peer: NodeId, now: Instant) -> Standing {
        let state = self.peer(peer, now);
        if state.falsehoods.take(1, now) { Standing::Fine } else { state.cut_off("it sends what is false", now) }
    }

    /// Whether a record of this author, which is proven to be one, is to be read.
    pub(crate) fn recorded(&mut self, author: NodeId, now: Instant) -> bool {
        self.authors.entry(author).or_insert_with(|| Meter::new(RECORDS.0, RECORDS.1, now)).take(1, now)
    }

    /// Forgets those that nobody needs, but for whoever is cut off.
    pub(crate) fn sweep(&mut self, needed: impl Fn(&NodeId) -> bool, now: Instant) {
        self.peers.retain(|peer, state| needed(peer) || state.cut.is_some_and(|at| at + CUT_FOR > now));
        self.authors.retain(|author, _| needed(author));
    }
}

impl Peer {
    /// Told once in [`CUT_FOR`].
    fn cut_off(&mut self, why: &'static str, now: Instant) -> Standing {
        if self.cut.is_some_and(|at| at + CUT_FOR > now) {
            return Standing::TooMuch;
        }
        self.cut = Some(now);
        Standing::Cut(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn whoever_lies_on_is_cut_off_once_a_minute() {
        let (mut conduct, t0) = (Conduct::default(), Instant::now());
        for _ in 0..FALSE.0 {
            assert_eq!(conduct.lied(PEER, t0), Standing::Fine);
        }
        assert!(matches!(conduct.lied(PEER, t0), Standing::Cut(_)));
        assert_eq!(conduct.lied(PEER, t0), Standing::TooMuch, "told once");
        conduct.sweep(|_| false, t0 + CUT_FOR / 2);
        assert_eq!(conduct.lied(PEER, t0 + CUT_FOR / 2), Standing::Fine, "some time has passed");
        conduct.sweep(|_| false, t0 + CUT_FOR);
        assert!(conduct.peers.is_empty());
    }

    #[test]
    fn a_storm_of_honest_members_is_borne_and_a_flood_is_not() {
        let (mut conduct, t0) = (Conduct::default(), Instant::now());
        for _ in 0..GOSSIP.0 {
            assert_eq!(conduct.gossiped(PEER, t0), Standing::Fine);
        }
        for _ in 0..EXCESS.0 {
            assert_eq!(conduct.gossiped(PEER, t0), Standing::TooMuch);
        }
        assert!(matches!(conduct.gossiped(PEER, t0), Standing::Cut(_)));
        let author = NodeId::from_bytes([2; 32]);
        assert!((0..RECORDS.0).all(|_| conduct.recorded(author, t0)));
        assert!(!conduct.recorded(author, t0));
        assert!(conduct.recorded(author, t0 + Duration::from_secs(1)));
    }
}
