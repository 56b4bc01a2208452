//! Which peers are connected, by which chain they were admitted, and how a connection ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    multiaddr::Protocol,
    swarm::{ConnectionError, ConnectionId},
};
use paceline_proto::{credential::Credential, id::UnixSeconds, node::LinkLoss};

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Link {
    /// What it proved at the door or since.
    pub(crate) credential: Credential,
    connections: BTreeSet<ConnectionId>,
}

/// All connected peers. Bounded by the connection limits of the swarm.
#[derive(Debug, Default)]
pub(crate) struct Links {
    peers: BTreeMap<PeerId, Link>,
    /// Connections that we are closing, and how that is to be told.
    closing: BTreeMap<ConnectionId, LinkLoss>,
}

impl Links {
    /// A connection is there; true for the first one with the peer.
    pub(crate) fn up(&mut self, peer: PeerId, id: ConnectionId, credential: Credential) -> bool {
        let link = self.peers.entry(peer).or_insert_with(|| Link { credential, connections: BTreeSet::new() });
        link.connections.insert(id);
        link.connections.len() == 1
    }

    /// A connection is gone; says how, where it was the last one with the peer.
    pub(crate) fn down(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        cause: Option<&ConnectionError>,
    ) -> Option<LinkLoss> {
        let ours = self.closing.remove(&id);
        let link = self.peers.get_mut(peer)?;
        link.connections.remove(&id);
        if !link.connections.is_empty() {
            return None;
        }
        self.peers.remove(peer);
        Some(ours.unwrap_or_else(|| loss(endpoint.get_remote_address(), cause)))
    }

    /// We are about to close a connection; its end is to be told as this.
    pub(crate) fn closing(&mut self, id: ConnectionId, loss: LinkLoss) {
        self.closing.insert(id, loss);
    }

    /// The same for every connection with a peer.
    pub(crate) fn closing_peer(&mut self, peer: &PeerId, loss: LinkLoss) {
        let Some(link) = self.peers.get(peer) else { return };
        self.closing.extend(link.connections.iter().map(|id| (*id, loss)));
    }

    /// The peer proved itself anew.
    pub(crate) fn renewed(&mut self, peer: &PeerId, credential: Credential) {
        if let Some(link) = self.peers.get_mut(peer) {
            link.credential = credential;
        }
    }

    /// The peer's link.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Link> {
        self.peers.get(peer)
    }

    /// Whether the peer is connected.
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Every connected peer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Link)> {
        self.peers.iter()
    }

    /// Whether nobody is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Peers whose certificate has ended, and the end that comes next.
    pub(crate) fn expired(&self, now: UnixSeconds) -> (Vec<PeerId>, Option<UnixSeconds>) {
        let ended = self.peers.iter().filter(|(_, l)| l.credential.not_after <= now).map(|(p, _)| *p).collect();
        let next = self.peers.values().map(|l| l.credential.not_after).filter(|t| *t > now).min();
        (ended, next)
    }
}

/// What the end of a connection that the peer or the network ended says.
fn loss(address: &Multiaddr, cause: Option<&ConnectionError>) -> LinkLoss {
    match cause {
        None | Some(ConnectionError::KeepAliveTimeout) => LinkLoss::Closed,
        Some(ConnectionError::IO(e)) if timed_out(e, address) => LinkLoss::Silent,
        Some(ConnectionError::IO(_)) => LinkLoss::Reset,
    }
}

/// libp2p wraps its errors in ways that hide `source()`; QUIC's idle time-out is known by its words alone.
fn timed_out(error: &io::Error, address: &Multiaddr) -> bool {
    let mut kind = error.kind();
    let mut inner: Option<&(dyn Error + 'static)> = error.get_ref().map(|e| e as _);
    while let Some(e) = inner {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            kind = e.kind();
            inner = e.get_ref().map(|e| e as _);
        } else {
            inner = e.source();
        }
    }
    let quic = address.iter().any(|part| matches!(part, Protocol::QuicV1));
    kind == io::ErrorKind::TimedOut || (quic && error.to_string().contains("timed out"))
}
