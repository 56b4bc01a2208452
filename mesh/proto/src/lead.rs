//! Words that the cores of the leader's work share: turns, ranks, short ids, totals.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{ClusterId, NodeId};

/// Bits of a summary's number that count; those above them are the author's ([`Ranks::first_seq`]).
pub const SEQ_BITS: u32 = 24;
/// How many stand in the line of succession.
pub const LINE_MAX: usize = 3;
/// Bits of its author's rank in a summary's number: with [`SEQ_BITS`], all 53 that a JSON reader keeps.
const AUTHOR_BITS: u32 = 29;

/// Which leading it is: the greater of two is the one that holds; of two equal ones, that of the author with the greater
/// rank of the term ([`Ranks`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lead {
    /// Rises by one when a leader's time is over.
    pub term: u64,
    /// Rises by one when a leader is replaced before its time is over.
    pub takeovers: u32,
}

impl Lead {
    /// The first of a cluster.
    pub const FIRST: Self = Self { term: 1, takeovers: 0 };

    /// The one after this one's time is over.
    #[must_use]
    pub const fn next_term(self) -> Self {
        Self { term: self.term.saturating_add(1), takeovers: 0 }
    }

    /// The one of whoever takes over.
    #[must_use]
    pub const fn takeover(self) -> Self {
        Self { term: self.term, takeovers: self.takeovers.saturating_add(1) }
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.takeovers)
    }
}

/// The order of all nodes in one term: another one in each, the same on every node, and nobody's choice.
///
/// A SHA-256 of cluster and term seeds a mixing of ids (the finaliser of SplitMix64). A member that looks for a key of high
/// rank gains nothing that it could not claim anyway.
#[derive(Clone, Copy, Debug)]
pub struct Ranks([u64; 4]);

impl Ranks {
    /// Of a cluster's term.
    pub fn of(cluster: &ClusterId, term: u64) -> Self {
        let hash = Sha256::new()
            .chain_update(b"paceline rank v1")
            .chain_update(cluster.as_bytes())
            .chain_update(term.to_be_bytes());
        Self(words(&hash.finalize().into()))
    }

    /// A node's rank: the greatest comes first.
    pub fn rank(&self, node: &NodeId) -> u64 {
        let words = words(node.as_bytes());
        words.iter().zip(self.0).fold(0, |hash, (word, seed)| mix((hash ^ word).wrapping_add(seed)))
    }

    /// Which of several shares a node belongs to: each node has an order of its own among them, so that one share that goes
    /// moves nobody else's nodes (rendezvous hashing, Thaler and Ravishankar 1998).
    pub fn affinity(&self, node: &NodeId, share: &NodeId) -> u64 {
        mix(self.rank(node) ^ self.rank(share).rotate_left(32))
    }

    /// Summaries of this author in this term have numbers above this one, and no other author's are among them: the upper
    /// bits are those of its rank. So no two leaders that claimed the same turn on two sides of a partition ever give the
    /// same number to two summaries, and the numbers of the one that prevails are the greater ones.
    pub fn first_seq(&self, author: &NodeId) -> u64 {
        (self.rank(author) >> (u64::BITS - AUTHOR_BITS)) << SEQ_BITS
    }
}

fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    }
    words
}

const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first eight bytes of a node's id: enough to name a member where the reader has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShortId(pub [u8; 8]);

impl ShortId {
    /// Of a node.
    pub fn of(node: &NodeId) -> Self {
        let mut short = [0; 8];
        short.iter_mut().zip(node.as_bytes()).for_each(|(to, from)| *to = *from);
        Self(short)
    }

    /// All ids that begin so.
    pub fn range(self) -> RangeInclusive<NodeId> {
        let (mut from, mut to) = ([0; 32], [0xff; 32]);
        for (i, byte) in self.0.into_iter().enumerate() {
            (from[i], to[i]) = (byte, byte);
        }
        NodeId::from_bytes(from)..=NodeId::from_bytes(to)
    }
}

/// How busy the cluster is, as far as heartbeats say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Members whose heartbeats are in it.
    pub reporting: u32,
    /// Mean run-queue length over cores, in per mille.
    pub cpu_permille: u16,
    /// Mean memory in use, in per mille.
    pub memory_permille: u16,
    /// Requests under way.
    pub in_flight: u32,
    /// Jobs under way.
    pub jobs: u32,
}

/// Why the stored summary is written; the later ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// So that readers see that the cluster is there.
    Routine,
    /// A leader was replaced before its time.
    Leader,
    /// A service is new, or nobody offers it any more.
    Service,
    /// A member died.
    Death,
}

impl Reason {
    /// As it stands in the stored summary.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Routine => "routine",
            Reason::Leader => "leader",
            Reason::Service => "service",
            Reason::Death => "death",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, node_id};

    /// Chi-square of the leaders of many terms against an equal share for each.
    fn chi_square(members: u64, terms: u64) -> f64 {
        let cluster = ClusterId::of_root(&[1]);
        let nodes: Vec<_> = (0..members).map(|i| node_id(&key(i))).collect();
        let mut led = vec![0_u64; nodes.len()];
        for term in 1..=terms {
            let ranks = Ranks::of(&cluster, term);
            let first = (0..nodes.len()).max_by_key(|i| ranks.rank(&nodes[*i])).expect("somebody");
            led[first] += 1;
        }
        let expected = terms as f64 / members as f64;
        led.iter().map(|n| (*n as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn every_member_is_first_equally_often() {
        // The 99.9 % quantiles of chi-square with members - 1 degrees of freedom.
        for (members, quantile) in [(5, 18.47), (8, 24.32), (12, 31.26), (20, 43.82)] {
            let found = chi_square(members, 4_000);
            assert!(found < quantile, "{members} members: {found}");
        }
    }

    #[test]
    fn the_lower_ranks_are_another_order_in_each_term() {
        let cluster = ClusterId::of_root(&[1]);
        let nodes: Vec<_> = (0..6).map(|i| node_id(&key(i))).collect();
        let orders: std::collections::BTreeSet<Vec<NodeId>> = (0..2_000)
            .map(|term| {
                let (ranks, mut order) = (Ranks::of(&cluster, term), nodes.clone());
                order.sort_by_key(|node| ranks.rank(node));
                order
            })
            .collect();
        assert!(orders.len() > 600, "of 720: {}", orders.len());
        let other = Ranks::of(&ClusterId::of_root(&[2]), 1);
        assert_ne!(other.rank(&nodes[0]), Ranks::of(&cluster, 1).rank(&nodes[0]));
    }

    #[test]
    fn a_share_that_goes_moves_only_its_own_nodes() {
        let ranks = Ranks::of(&ClusterId::of_root(&[1]), 7);
        let shares: Vec<_> = (0..10).map(|i| node_id(&key(i))).collect();
        let of =
            |node: &NodeId, shares: &[NodeId]| *shares.iter().max_by_key(|s| ranks.affinity(node, s)).expect("one");
        let mut moved = 0;
        for node in (100..400).map(|i| node_id(&key(i))) {
            let (before, after) = (of(&node, &shares), of(&node, &shares[1..]));
            assert!(before == after || before == shares[0]);
            moved += usize::from(before != after);
        }
        assert!((10..60).contains(&moved), "{moved} of 300");
    }

    #[test]
    fn numbers_of_two_authors_never_meet_and_follow_their_ranks() {
        let cluster = ClusterId::of_root(&[1]);
        let ranks = Ranks::of(&cluster, 3);
        let mut nodes: Vec<_> = (0..200).map(|i| node_id(&key(i))).collect();
        nodes.sort_by_key(|node| ranks.rank(node));
        for pair in nodes.windows(2) {
            assert!(ranks.first_seq(&pair[0]) + (1 << SEQ_BITS) <= ranks.first_seq(&pair[1]));
        }
        assert!(ranks.first_seq(&nodes[199]) < 1 << 53);
    }

    #[test]
    fn a_short_id_finds_its_node() {
        let node = node_id(&key(5));
        assert!(ShortId::of(&node).range().contains(&node));
        assert!(!ShortId::of(&node).range().contains(&node_id(&key(6))));
    }

    #[test]
    fn the_greater_turn_holds() {
        let first = Lead::FIRST;
        assert!(first < first.takeover() && first.takeover() < first.next_term());
        assert_eq!(first.takeover().next_term(), Lead { term: 2, takeovers: 0 });
        assert_eq!(first.next_term().takeover().to_string(), "2.1");
    }
}
