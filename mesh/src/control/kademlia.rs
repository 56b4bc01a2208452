//! Kademlia that makes no connections of its own accord.
//!
//! libp2p's looks itself up whenever its routing table grows, and connects to everybody whom it hears of on the way: a
//! cluster that starts would become a full mesh, at the cost of a handshake for each pair of members. Here a lookup
//! goes by way of those who are connected, and further only while one is under way that is worth it: [`Kademlia::look_widely`].

use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad::{self, store::MemoryStore},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

type Inner = kad::Behaviour<MemoryStore>;

/// Most queries under way that may make connections.
const WIDE_MAX: usize = 64;

/// libp2p's Kademlia, held back.
pub(crate) struct Kademlia {
    inner: Inner,
    wide: Vec<kad::QueryId>,
}

impl Kademlia {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner, wide: Vec::new() }
    }

    /// This query is worth connections.
    pub(crate) fn look_widely(&mut self, query: kad::QueryId) {
        if self.wide.len() < WIDE_MAX {
            self.wide.push(query);
        }
    }

    fn may_dial(&mut self) -> bool {
        self.wide.retain(|query| self.inner.query(query).is_some());
        !self.wide.is_empty()
    }
}

impl Deref for Kademlia {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Kademlia {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl NetworkBehaviour for Kademlia {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::Dial { opts }) if !self.may_dial() => {
                    // its queries go on without that peer
                    self.inner.on_swarm_event(FromSwarm::DialFailure(DialFailure {
                        peer_id: opts.get_peer_id(),
                        error: &DialError::Aborted,
                        connection_id: opts.connection_id(),
                    }));
                }
                other => return other,
            }
        }
    }
}
