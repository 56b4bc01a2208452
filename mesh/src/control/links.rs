//! Which peers are connected, by which chain they were admitted, and how a connection ended.

use std::{collections::BTreeMap, error::Error, io};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    multiaddr::Protocol,
    swarm::{ConnectionError, ConnectionId},
};
use paceline_proto::{credential::Credential, id::UnixSeconds, node::LinkLoss};

use super::addresses;

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Link {
    /// What it proved at the door or since.
    pub(crate) credential: Credential,
    /// Of the process at the other end.
    instance: u64,
    connections: BTreeMap<ConnectionId, Way>,
}

/// How a connection came about, the same at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    tcp: bool,
    /// By this node.
    dialled: bool,
}

/// What a connection that is there now means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Up {
    /// The peer is connected.
    First,
    /// One more with a peer that has one.
    More,
    /// Two processes of one key passed the door at the same moment: this connection is to be closed.
    OfAnotherProcess,
}

/// All connected peers. Bounded by the connection limits of the swarm.
#[derive(Debug, Default)]
pub(crate) struct Links {
    peers: BTreeMap<PeerId, Link>,
    /// Connections that we are closing, and how that is to be told.
    closing: BTreeMap<ConnectionId, LinkLoss>,
}

impl Links {
    /// A connection that passed the door is there.
    pub(crate) fn up(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        credential: Credential,
        instance: u64,
    ) -> Up {
        let link =
            self.peers.entry(peer).or_insert_with(|| Link { credential, instance, connections: BTreeMap::new() });
        if link.instance != instance {
            return Up::OfAnotherProcess;
        }
        let way = Way { tcp: addresses::is_tcp(endpoint.get_remote_address()), dialled: endpoint.is_dialer() };
        link.connections.insert(id, way);
        if link.connections.len() == 1 { Up::First } else { Up::More }
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
        if link.connections.remove(&id).is_none() || !link.connections.is_empty() {
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
        self.closing.extend(link.connections.keys().map(|id| (*id, loss)));
    }

    /// Connections beside a better one with the same peer; both ends find the same. TCP is better than QUIC, where the
    /// end of a process shows only as silence; of two that nodes made to each other at once, that of the lesser id is.
    pub(crate) fn surplus(&self, me: &PeerId) -> Vec<ConnectionId> {
        let mut surplus = Vec::new();
        for (peer, link) in self.peers.iter().filter(|(_, link)| link.connections.len() > 1) {
            let rank = |way: &Way| (way.tcp, way.dialled == (me < peer));
            let best = link.connections.values().map(rank).max();
            surplus.extend(link.connections.iter().filter(|(_, way)| Some(rank(way)) < best).map(|(id, _)| *id));
        }
        surplus
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use libp2p::core::{Endpoint, transport::PortUse};
    use paceline_proto::id::{CredentialHash, NodeId, Roles};

    use super::*;
    use crate::control::addresses;

    fn credential() -> Credential {
        Credential {
            node: NodeId::from_bytes([1; 32]),
            roles: Roles::default(),
            issuer: false,
            services: None,
            token: None,
            issued_by: None,
            not_before: UnixSeconds(0),
            not_after: UnixSeconds(100),
            hash: CredentialHash::from_bytes([0; 32]),
        }
    }

    fn dialled(address: Multiaddr) -> ConnectedPoint {
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New }
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn broken(error: impl Into<Arc<str>>) -> ConnectionError {
        ConnectionError::IO(io::Error::other(error.into().to_string()))
    }

    #[test]
    fn a_link_is_up_with_its_first_connection_and_down_with_its_last() {
        let (mut links, peer) = (Links::default(), PeerId::random());
        let tcp = dialled(addresses::tcp(([127, 0, 0, 1], 1).into()));
        assert_eq!(links.up(peer, id(1), &tcp, credential(), 7), Up::First);
        assert_eq!(links.up(peer, id(2), &tcp, credential(), 7), Up::More);
        assert_eq!(links.up(peer, id(3), &tcp, credential(), 8), Up::OfAnotherProcess);
        assert_eq!(links.down(&peer, id(3), &tcp, None), None, "it never counted");
        assert_eq!(links.down(&peer, id(1), &tcp, Some(&broken("reset"))), None);
        assert_eq!(links.down(&peer, id(2), &tcp, Some(&broken("reset"))), Some(LinkLoss::Reset));
        assert!(links.is_empty());
    }

    #[test]
    fn silence_and_a_reset_are_told_apart() {
        let (tcp, quic) = (addresses::tcp(([127, 0, 0, 1], 1).into()), addresses::quic(([127, 0, 0, 1], 1).into()));
        assert_eq!(loss(&tcp, None), LinkLoss::Closed);
        assert_eq!(loss(&tcp, Some(&broken("reset"))), LinkLoss::Reset);
        assert_eq!(loss(&quic, Some(&broken("closed by peer"))), LinkLoss::Reset);
        assert_eq!(loss(&quic, Some(&broken("timed out"))), LinkLoss::Silent);
        let deep = io::Error::other(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(loss(&tcp, Some(&ConnectionError::IO(deep))), LinkLoss::Silent);
    }

    #[test]
    fn what_we_close_is_told_as_we_say() {
        let (mut links, peer) = (Links::default(), PeerId::random());
        let tcp = dialled(addresses::tcp(([127, 0, 0, 1], 1).into()));
        links.up(peer, id(1), &tcp, credential(), 7);
        links.closing(id(1), LinkLoss::Silent);
        assert_eq!(links.down(&peer, id(1), &tcp, None), Some(LinkLoss::Silent));
    }

    #[test]
    fn both_ends_give_up_the_same_connections() {
        let (tcp, quic) = (addresses::tcp(([127, 0, 0, 1], 1).into()), addresses::quic(([127, 0, 0, 1], 1).into()));
        let accepted = |address: &Multiaddr| ConnectedPoint::Listener {
            local_addr: address.clone(),
            send_back_addr: address.clone(),
        };
        let (a, b) = (PeerId::random(), PeerId::random());
        let of = |me: PeerId, peer: PeerId, ways: [ConnectedPoint; 3]| {
            let mut links = Links::default();
            for (n, way) in ways.iter().enumerate() {
                links.up(peer, id(n), way, credential(), 7);
            }
            links.surplus(&me)
        };
        let at_a = of(a, b, [dialled(quic.clone()), dialled(tcp.clone()), accepted(&tcp)]);
        let at_b = of(b, a, [accepted(&quic), accepted(&tcp), dialled(tcp.clone())]);
        assert_eq!(at_a, at_b);
        assert_eq!(at_a, if a < b { [id(0), id(2)] } else { [id(0), id(1)] });
        assert!(of(a, b, [dialled(tcp.clone()), dialled(tcp.clone()), dialled(tcp)]).is_empty(), "equals may differ");
    }

    #[test]
    fn ended_certificates_are_found() {
        let (mut links, peer) = (Links::default(), PeerId::random());
        links.up(peer, id(1), &dialled(addresses::tcp(([127, 0, 0, 1], 1).into())), credential(), 7);
        assert_eq!(links.expired(UnixSeconds(99)), (vec![], Some(UnixSeconds(100))));
        assert_eq!(links.expired(UnixSeconds(100)), (vec![peer], None));
    }
}
