//! Lines: how the cores' direct messages travel. One substream for each connection and direction stays open; a message
//! is a length and its bytes on it, without a negotiation, an answer or a task of its own.
//!
//! Nothing here waits for a slow peer: what does not fit its queue is dropped and counted, newest first, as the cores
//! expect of any message. Frames of a peer are read only as fast as the loop takes them.

mod frames;
mod handler;
mod queue;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dial_opts::DialOpts,
    },
};

use super::addresses;
pub(crate) use frames::FRAME_BYTES_MAX;
use handler::{Handler, Seen};
use queue::Queue;

/// Peers that are being dialled because there is a message for them.
const WAITING_PEERS_MAX: usize = 64;
/// Messages that wait for such a peer.
const WAITING_FRAMES_MAX: usize = 16;

/// What lines have carried since the start.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    dropped: AtomicU64,
    reopened: AtomicU64,
}

/// What the lines have carried, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineTraffic {
    /// Messages handed to a connection.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages that came.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Messages that found their queue full, or no peer.
    pub dropped: u64,
    /// Substreams that broke while their connection lived.
    pub reopened: u64,
}

impl Traffic {
    /// The counters now.
    pub(crate) fn now(&self) -> LineTraffic {
        LineTraffic {
            sent: self.sent.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received: self.received.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            reopened: self.reopened.load(Relaxed),
        }
    }

    fn dropped(&self, frames: usize) {
        self.dropped.fetch_add(frames as u64, Relaxed);
    }
}

/// What the loop hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message of a peer.
    Received {
        /// Whose.
        peer: PeerId,
        /// At most [`FRAME_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// The connection carries no line: it is of no use to the cores.
    Broken {
        /// With whom.
        peer: PeerId,
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: &'static str,
    },
}

struct Line {
    connection: ConnectionId,
    tcp: bool,
    queue: Arc<Queue>,
}

/// libp2p's part of it.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    /// Best first.
    peers: BTreeMap<PeerId, Vec<Line>>,
    /// Of connections that the swarm has not reported yet.
    coming: BTreeMap<ConnectionId, Arc<Queue>>,
    waiting: BTreeMap<PeerId, Vec<Vec<u8>>>,
    events: VecDeque<ToSwarm<Event, Infallible>>,
    waker: Option<Waker>,
    traffic: Arc<Traffic>,
}

impl Behaviour {
    /// Lines by this protocol.
    pub(crate) fn new(protocol: StreamProtocol, traffic: Arc<Traffic>) -> Self {
        Self {
            protocol,
            peers: BTreeMap::new(),
            coming: BTreeMap::new(),
            waiting: BTreeMap::new(),
            events: VecDeque::new(),
            waker: None,
            traffic,
        }
    }

    /// Sends a message of at most [`FRAME_BYTES_MAX`] bytes; where the peer is not connected, it is dialled at these
    /// addresses and at those that other behaviours know. It may be lost.
    pub(crate) fn send(&mut self, peer: PeerId, bytes: Vec<u8>, at: impl FnOnce() -> Vec<Multiaddr>) {
        if let Some(line) = self.peers.get(&peer).and_then(|lines| lines.first()) {
            if !line.queue.push(bytes) {
                self.traffic.dropped(1);
            }
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&peer) {
            if waiting.len() < WAITING_FRAMES_MAX {
                waiting.push(bytes)
            } else {
                self.traffic.dropped(1)
            }
            return;
        }
        if self.waiting.len() >= WAITING_PEERS_MAX || bytes.len() > FRAME_BYTES_MAX {
            return self.traffic.dropped(1);
        }
        self.waiting.insert(peer, vec![bytes]);
        let opts = DialOpts::peer_id(peer).addresses(at()).extend_addresses_through_behaviour().build();
        self.events.push_back(ToSwarm::Dial { opts });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&mut self, connection: ConnectionId) -> Handler {
        let queue = Arc::<Queue>::default();
        self.coming.insert(connection, Arc::clone(&queue));
        Handler::new(self.protocol.clone(), queue, Arc::clone(&self.traffic))
    }

    fn up(&mut self, peer: PeerId, connection: ConnectionId, address: &Multiaddr) {
        let Some(queue) = self.coming.remove(&connection) else { return };
        let lines = self.peers.entry(peer).or_default();
        let tcp = addresses::is_tcp(address);
        // a killed process shows at once on TCP: those come first, and the oldest of them
        let at = lines.iter().take_while(|line| line.tcp || !tcp).count();
        lines.insert(at, Line { connection, tcp, queue });
        for bytes in self.waiting.remove(&peer).unwrap_or_default() {
            if !lines[0].queue.push(bytes) {
                self.traffic.dropped(1);
            }
        }
    }

    /// What was not written yet goes on by another connection, where there is one.
    fn down(&mut self, peer: &PeerId, connection: ConnectionId) {
        let Some(lines) = self.peers.get_mut(peer) else { return };
        let Some(at) = lines.iter().position(|line| line.connection == connection) else { return };
        let left = lines.remove(at).queue.take();
        match lines.first() {
            Some(line) => {
                self.traffic.dropped(left.into_iter().filter_map(|b| (!line.queue.push(b)).then_some(())).count())
            }
            None => {
                self.traffic.dropped(left.len());
                self.peers.remove(peer);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(up) => {
                self.up(up.peer_id, up.connection_id, up.endpoint.get_remote_address());
            }
            FromSwarm::ConnectionClosed(down) => self.down(&down.peer_id, down.connection_id),
            FromSwarm::ListenFailure(failure) => {
                self.coming.remove(&failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.coming.remove(&failure.connection_id);
                // the dial that is under way already tells
                if !matches!(failure.error, DialError::DialPeerConditionFalse(_))
                    && let Some(lost) = failure.peer_id.and_then(|peer| self.waiting.remove(&peer))
                {
                    self.traffic.dropped(lost.len());
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.events.push_back(ToSwarm::GenerateEvent(match event {
            Seen::Frame(bytes) => Event::Received { peer, bytes },
            Seen::Broken(reason) => Event::Broken { peer, connection, reason },
        }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests;
