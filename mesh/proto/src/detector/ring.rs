//! Where members stand, and who watches whom by that: everybody finds the same neighbours without asking.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use sha2::{Digest as _, Sha256};

use super::{WATCHED, WATCHED_MAX};
use crate::id::{ClusterId, NodeId};

/// How a member that is not gone stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It is asked first to ping others.
    pub gateway: bool,
    /// Others have reached it by dialling.
    pub dialable: bool,
    /// Somebody misses it.
    pub suspect: bool,
}

type Place = (u64, NodeId);

/// Everybody who is there, by the hash of (cluster, id).
#[derive(Debug)]
pub(super) struct Ring {
    me: Place,
    cluster: [u8; 32],
    places: BTreeMap<Place, Standing>,
    watched: Vec<NodeId>,
    watchers: Vec<NodeId>,
    /// Neighbours are looked for again when they are asked for.
    stale: bool,
}

impl Ring {
    pub(super) fn new(me: NodeId, cluster: &ClusterId) -> Self {
        let cluster = *cluster.as_bytes();
        Self {
            me: place(&cluster, &me),
            cluster,
            places: BTreeMap::new(),
            watched: Vec::new(),
            watchers: Vec::new(),
            stale: false,
        }
    }

    pub(super) fn me(&self) -> NodeId {
        self.me.1
    }

    pub(super) fn set(&mut self, node: NodeId, standing: Standing) {
        if node == self.me.1 {
            return;
        }
        let before = self.places.insert(place(&self.cluster, &node), standing);
        self.stale |= before.is_none_or(|b| b.suspect != standing.suspect);
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, node: &NodeId) -> bool {
        let was = self.places.remove(&place(&self.cluster, node)).is_some();
        self.stale |= was;
        was
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<Standing> {
        self.places.get(&place(&self.cluster, node)).copied()
    }

    pub(super) fn watched(&mut self) -> &[NodeId] {
        self.look();
        &self.watched
    }

    pub(super) fn watchers(&mut self) -> &[NodeId] {
        self.look();
        &self.watchers
    }

    pub(super) fn is_neighbour(&mut self, node: &NodeId) -> bool {
        self.look();
        self.watched.contains(node) || self.watchers.contains(node)
    }

    fn look(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let after = self.places.range((Excluded(self.me), Unbounded)).chain(self.places.range(..self.me));
        self.watched = nearest(after);
        let before = self.places.range(..self.me).rev().chain(self.places.range((Excluded(self.me), Unbounded)).rev());
        self.watchers = nearest(before);
    }
}

/// As many as it takes to have [`WATCHED`] unsuspected ones.
fn nearest<'a>(along: impl Iterator<Item = (&'a Place, &'a Standing)>) -> Vec<NodeId> {
    let mut unsuspected = 0;
    let mut nearest = Vec::with_capacity(WATCHED);
    for ((_, node), standing) in along.take(WATCHED_MAX) {
        nearest.push(*node);
        unsuspected += usize::from(!standing.suspect);
        if unsuspected == WATCHED {
            break;
        }
    }
    nearest
}

fn place(cluster: &[u8; 32], node: &NodeId) -> Place {
    let hash: [u8; 32] = Sha256::new().chain_update(cluster).chain_update(node.as_bytes()).finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), *node)
}
