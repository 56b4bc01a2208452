//! Every live connection of the data plane by its peer: the bounds, the way to close a peer's, and the connections
//! that peers have opened, which all lanes may use.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use paceline_proto::{
    credential::{Credential, CredentialError},
    id::NodeId,
};
use quinn::{Connection, VarInt};
use tokio::sync::watch;

/// Most connections with one peer: each lane of a gateway has one, and old ones linger for a few seconds.
pub const PEER_CONNECTIONS_MAX: usize = 64;

/// Most connections in all.
pub const CONNECTIONS_MAX: usize = 8192;

struct Entry {
    id: u64,
    credential: Credential,
    connection: Connection,
    /// The peer opened it.
    reverse: bool,
}

#[derive(Default)]
struct Inner {
    peers: BTreeMap<NodeId, Vec<Entry>>,
    total: usize,
    last_id: u64,
}

pub(super) struct Registry {
    inner: Mutex<Inner>,
    arrivals: AtomicU64,
    arrived: watch::Sender<u64>,
}

/// Keeps a connection in the registry for as long as it is driven.
pub(super) struct Registration {
    registry: Arc<Registry>,
    node: NodeId,
    id: u64,
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), arrivals: AtomicU64::new(0), arrived: watch::Sender::new(0) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection; `None` where a bound is reached.
    pub(super) fn enter(
        self: &Arc<Self>,
        credential: &Credential,
        connection: &Connection,
        reverse: bool,
    ) -> Option<Registration> {
        let node = credential.node;
        let id = {
            let mut inner = self.inner();
            let of_peer = inner.peers.get(&node).map_or(0, Vec::len);
            if inner.total >= CONNECTIONS_MAX || of_peer >= PEER_CONNECTIONS_MAX {
                return None;
            }
            inner.total += 1;
            inner.last_id += 1;
            let id = inner.last_id;
            inner.peers.entry(node).or_default().push(Entry {
                id,
                credential: credential.clone(),
                connection: connection.clone(),
                reverse,
            });
            id
        };
        if reverse {
            let generation = self.arrivals.fetch_add(1, Ordering::AcqRel) + 1;
            self.arrived.send_replace(generation);
        }
        Some(Registration { registry: self.clone(), node, id })
    }

    /// The newest live connection that the peer has opened.
    pub(super) fn reverse(&self, node: NodeId) -> Option<Connection> {
        let inner = self.inner();
        let entries = inner.peers.get(&node)?;
        let live = |entry: &&Entry| entry.reverse && entry.connection.close_reason().is_none();
        entries.iter().rev().find(live).map(|entry| entry.connection.clone())
    }

    /// How many connections there are with the peer.
    pub(super) fn count(&self, node: NodeId) -> usize {
        self.inner().peers.get(&node).map_or(0, Vec::len)
    }

    /// Counts the connections that peers have opened.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// Tells of each connection that a peer opens.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// The peers of which a connection's certificate is refused, and why.
    pub(super) fn refused(
        &self,
        stands: impl Fn(&Credential) -> Result<(), CredentialError>,
    ) -> Vec<(NodeId, CredentialError)> {
        let inner = self.inner();
        let refused = |entries: &Vec<Entry>| entries.iter().find_map(|entry| stands(&entry.credential).err());
        inner.peers.iter().filter_map(|(node, entries)| Some((*node, refused(entries)?))).collect()
    }

    /// Closes every connection with the peer.
    pub(super) fn close(&self, node: NodeId, code: VarInt, reason: &str) {
        let connections: Vec<Connection> = {
            let inner = self.inner();
            inner.peers.get(&node).into_iter().flatten().map(|entry| entry.connection.clone()).collect()
        };
        for connection in connections {
            connection.close(code, reason.as_bytes());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.registry.inner();
        let Some(entries) = inner.peers.get_mut(&self.node) else { return };
        entries.retain(|entry| entry.id != self.id);
        if entries.is_empty() {
            inner.peers.remove(&self.node);
        }
        inner.total = inner.total.saturating_sub(1);
    }
}
