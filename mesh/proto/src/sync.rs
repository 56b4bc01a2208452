//! Digest exchange: finds what gossip missed between two nodes, at the cost of what differs.
//!
//! Members stand in [`BUCKETS`] ranges of their ids; each range has a hash over (node, incarnation, version, standing) of its
//! members, kept up to date at each change. One side sends the hashes, the other answers with the entries of the ranges that
//! differ, and the first then asks for what is newer there and sends what is newer here. Nothing here is believed: entries
//! only say what to ask for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{Incarnation, ManifestVersion, NodeId};
use crate::wire;

/// Ranges of ids, by their first six bits.
pub const BUCKETS: usize = 64;
/// Most entries of one message: with the longest numbers, they stay below the bound of a direct message.
pub const ENTRIES_MAX: usize = 900;
/// A member that has been gone for nearly as long as it stays listed is not asked for again: two nodes that forget it at
/// slightly different times would otherwise hand it to each other for ever.
const NEARLY_FORGOTTEN: Duration = Duration::from_secs(60);

/// Whoever was asked for a member has this long to answer before another one is asked.
const ASKED_FOR: Duration = Duration::from_secs(2);
/// Most members that are waited for at once.
const ASKED_MAX: usize = 4_096;

/// Whether a member is there. A later one outweighs an earlier one of the same incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Alive or suspect: suspicions pass by themselves and are no matter of this exchange.
    Here,
    /// Dead.
    Dead,
    /// Said goodbye.
    Left,
}

/// What one node knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who.
    pub node: NodeId,
    /// Of its manifest.
    pub incarnation: Incarnation,
    /// Of its manifest.
    pub version: ManifestVersion,
    /// Whether it is there.
    pub standing: Standing,
    /// For how long it has been gone, in seconds; 0 where it is there. Not under the hash.
    pub gone_s: u32,
}

/// All that one node knows in a range of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First id of the range.
    pub from: NodeId,
    /// Last id of the range.
    pub to: NodeId,
    /// In order.
    #[serde(deserialize_with = "wire::list::<_, _, ENTRIES_MAX>")]
    pub entries: Vec<Entry>,
}

/// What two nodes lack of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The other's is newer, in order.
    pub wants: Vec<NodeId>,
    /// Ours is newer, in order.
    pub offers: Vec<NodeId>,
}

/// Members that somebody was asked for: of many neighbours that know more, one is to tell it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    until: BTreeMap<NodeId, Instant>,
}

impl Asked {
    /// Whether to ask for a member now. From then on it is being waited for.
    pub(crate) fn ask(&mut self, node: NodeId, now: Instant) -> bool {
        if self.until.len() >= ASKED_MAX {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() >= ASKED_MAX || self.until.get(&node).is_some_and(|until| *until > now) {
            return false;
        }
        self.until.insert(node, now + ASKED_FOR);
        true
    }

    /// There is news of it, from whomever.
    pub(crate) fn heard(&mut self, node: &NodeId) {
        self.until.remove(node);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    incarnation: Incarnation,
    version: ManifestVersion,
    standing: Standing,
    gone: Option<Instant>,
}

/// What this node knows, as far as others may ask for it.
#[derive(Debug)]
pub struct Table {
    known: BTreeMap<NodeId, Known>,
    hashes: [u64; BUCKETS],
    /// Hash and number of those that are there.
    here: (u64, u32),
    /// How long gone members stay listed.
    tombstone: Duration,
}

impl Table {
    /// An empty table; `tombstone` is how long gone members stay listed.
    pub fn new(tombstone: Duration) -> Self {
        Self { known: BTreeMap::new(), hashes: [0; BUCKETS], here: (0, 0), tombstone }
    }

    /// Takes in what is known of a node now; `gone` is since when it is not there.
    pub fn set(
        &mut self,
        node: NodeId,
        order: (Incarnation, ManifestVersion),
        standing: Standing,
        gone: Option<Instant>,
    ) {
        let known = Known { incarnation: order.0, version: order.1, standing, gone };
        if let Some(old) = self.known.insert(node, known) {
            self.toggle(&node, &old, u64::wrapping_sub, u32::wrapping_sub);
        }
        self.toggle(&node, &known, u64::wrapping_add, u32::wrapping_add);
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: &NodeId) {
        if let Some(old) = self.known.remove(node) {
            self.toggle(node, &old, u64::wrapping_sub, u32::wrapping_sub);
        }
    }

    fn toggle(&mut self, node: &NodeId, known: &Known, with: fn(u64, u64) -> u64, count: fn(u32, u32) -> u32) {
        let part = hash_of(node, known);
        if let Some(hash) = self.hashes.get_mut(bucket(node)) {
            *hash = with(*hash, part);
        }
        if known.standing == Standing::Here {
            self.here = (with(self.here.0, part), count(self.here.1, 1));
        }
    }

    /// One hash over all that are there: two nodes that have the same one know the same of them.
    pub fn root(&self) -> u64 {
        self.here.0
    }

    /// How many are there.
    pub fn here_count(&self) -> u32 {
        self.here.1
    }

    /// Those that are there, in order.
    pub fn here(&self) -> impl Iterator<Item = &NodeId> {
        self.known.iter().filter(|(_, known)| known.standing == Standing::Here).map(|(node, _)| node)
    }

    /// The hashes of all buckets.
    pub fn digest(&self) -> Vec<u64> {
        self.hashes.to_vec()
    }

    /// Answers a digest: the entries of the buckets that differ, a message each.
    pub fn answer(&self, digest: &[u64], now: Instant) -> Vec<Vec<Span>> {
        if digest.len() != BUCKETS {
            return Vec::new();
        }
        let differing = (0..=u8::MAX).step_by(256 / BUCKETS).zip(self.hashes.iter().zip(digest));
        let mut messages = vec![Vec::new()];
        let mut room = ENTRIES_MAX;
        for (first, _) in differing.filter(|(_, (ours, theirs))| ours != theirs) {
            let (mut from, to) = range(first);
            let mut entries = Vec::new();
            for (node, known) in self.known.range(from..=to) {
                if room == 0 {
                    let next = Span { from, to: before(node), entries: std::mem::take(&mut entries) };
                    push(&mut messages, next);
                    messages.push(Vec::new());
                    (from, room) = (*node, ENTRIES_MAX);
                }
                entries.push(known.entry(*node, now));
                room -= 1;
            }
            push(&mut messages, Span { from, to, entries });
        }
        messages.retain(|m| !m.is_empty());
        messages
    }

    /// Compares what another says it knows with what this node knows.
    pub fn compare(&self, spans: &[Span], now: Instant) -> Difference {
        let mut difference = Difference::default();
        for span in spans.iter().filter(|s| s.from <= s.to) {
            let theirs: BTreeMap<NodeId, &Entry> =
                span.entries.iter().filter(|e| (span.from..=span.to).contains(&e.node)).map(|e| (e.node, e)).collect();
            for (node, entry) in &theirs {
                match self.known.get(node) {
                    Some(known) => {
                        if known.lacks(entry) {
                            difference.wants.push(*node);
                        }
                        if entry.lacks(known) {
                            difference.offers.push(*node);
                        }
                    }
                    None if self.worth_asking(entry) => difference.wants.push(*node),
                    None => {}
                }
            }
            let absent = self.known.range(span.from..=span.to).filter(|(node, _)| !theirs.contains_key(node));
            let offered = absent.filter(|(node, known)| self.worth_asking(&known.entry(**node, now)));
            difference.offers.extend(offered.map(|(node, _)| *node));
        }
        difference
    }

    /// What this node knows of these members alone, so that another may ask for what is newer here: spans of one each.
    pub fn offer(&self, nodes: &[NodeId], now: Instant) -> Vec<Vec<Span>> {
        let known = |node: &NodeId| self.known.get(node).map(|known| known.entry(*node, now));
        let spans = nodes.iter().filter_map(known).map(|e| Span { from: e.node, to: e.node, entries: vec![e] });
        spans.collect::<Vec<_>>().chunks(2 * BUCKETS).map(<[Span]>::to_vec).collect()
    }

    fn worth_asking(&self, entry: &Entry) -> bool {
        entry.standing == Standing::Here || Duration::from_secs(entry.gone_s.into()) + NEARLY_FORGOTTEN < self.tombstone
    }
}

impl Known {
    fn entry(&self, node: NodeId, now: Instant) -> Entry {
        let gone = self.gone.map_or(0, |at| now.saturating_duration_since(at).as_secs());
        Entry {
            node,
            incarnation: self.incarnation,
            version: self.version,
            standing: self.standing,
            gone_s: u32::try_from(gone).unwrap_or(u32::MAX),
        }
    }

    fn lacks(&self, entry: &Entry) -> bool {
        lacks((self.incarnation, self.version, self.standing), (entry.incarnation, entry.version, entry.standing))
    }
}

impl Entry {
    fn lacks(&self, known: &Known) -> bool {
        lacks((self.incarnation, self.version, self.standing), (known.incarnation, known.version, known.standing))
    }
}

type Rank = (Incarnation, ManifestVersion, Standing);

/// Within one incarnation, version and standing grow each for itself.
fn lacks(mine: Rank, theirs: Rank) -> bool {
    theirs.0 > mine.0 || (theirs.0 == mine.0 && (theirs.1 > mine.1 || theirs.2 > mine.2))
}

fn push(messages: &mut [Vec<Span>], span: Span) {
    if let Some(last) = messages.last_mut() {
        last.push(span);
    }
}

fn bucket(node: &NodeId) -> usize {
    usize::from(node.as_bytes()[0]) / (256 / BUCKETS)
}

/// The ids that begin with `first` or one of the bytes after it in the same bucket.
fn range(first: u8) -> (NodeId, NodeId) {
    let last = first | (256 / BUCKETS - 1) as u8;
    let (mut from, mut to) = ([0; 32], [0xff; 32]);
    (from[0], to[0]) = (first, last);
    (NodeId::from_bytes(from), NodeId::from_bytes(to))
}

/// The id just before this one.
fn before(node: &NodeId) -> NodeId {
    let mut bytes = *node.as_bytes();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    NodeId::from_bytes(bytes)
}

fn hash_of(node: &NodeId, known: &Known) -> u64 {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update(known.incarnation.0.to_le_bytes());
    hash.update(known.version.0.to_le_bytes());
    hash.update([known.standing as u8]);
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
