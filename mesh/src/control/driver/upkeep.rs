//! What the loop does by the clock, besides the core: entries, known members on disk, ended certificates, addresses.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use paceline_proto::node::{Input, LinkLoss};

use super::{Done, Driver, IDLE_MAX, Timer};
use crate::control::{addresses, jittered, node_of, peer_of};
use crate::trust::KnownPeer;

/// Between two writes of the known members.
const PEERS_EVERY: Duration = Duration::from_secs(60);
/// A change among them is written after this time, and this long after the write before.
const PEERS_SOON: Duration = Duration::from_millis(500);
const PEERS_PAUSE: Duration = Duration::from_secs(10);
/// Most members on disk, and most entries.
const PEERS_MAX: usize = 64;

impl Driver {
    pub(super) fn dial_entries(&mut self) {
        let now = Instant::now();
        let (links, strangers, view) = (&self.links, &self.strangers, self.shared.view.load());
        let alone = links.is_empty();
        // Whom it knows for a member is not cut off, whether or not the core wants a connection.
        let member = |peer: &PeerId| {
            let member = node_of(peer).and_then(|node| view.members.get(&node));
            member.is_some_and(|member| member.is_alive())
        };
        let skip = |peer: &PeerId| links.contains(peer) || strangers.contains(peer, now) || !alone && member(peer);
        let (targets, pause) = self.entries.round(alone, skip);
        for target in targets {
            if let Err(e) = self.swarm.dial(target.options()) {
                tracing::trace!(error = %e, "no dial");
            }
        }
        self.timers.insert(Timer::Entries, now + pause);
    }

    /// Whom to dial after a restart: members, and entries whose peer is known (a killed node may not know members yet).
    pub(super) fn known_peers(&self) -> Vec<KnownPeer> {
        let view = self.shared.view.load();
        let members = view.members.iter().filter(|(node, member)| {
            **node != view.me && member.is_alive() && !member.manifest.mesh_addresses.is_empty()
        });
        let mut known: Vec<KnownPeer> = members
            .take(PEERS_MAX)
            .map(|(node, member)| KnownPeer { node: *node, addresses: member.manifest.mesh_addresses.clone() })
            .collect();
        for (peer, addresses) in self.entries.peers().into_iter().take(PEERS_MAX) {
            if let Some(node) = node_of(&peer)
                && node != view.me
                && known.iter().all(|k| k.node != node)
            {
                known.push(KnownPeer { node, addresses: addresses.iter().map(ToString::to_string).collect() });
            }
        }
        known
    }

    pub(super) fn save_peers(&mut self) {
        let now = Instant::now();
        self.timers.insert(Timer::Peers, now + jittered(PEERS_EVERY));
        let peers = self.known_peers();
        if !peers.is_empty() {
            self.peers_saved = Some(now);
            let trust = self.trust.clone();
            self.tasks.spawn_blocking(move || {
                trust.save_peers(&peers);
                Done::Saved
            });
        }
    }

    /// A member is new or has moved: on disk soon, but not at each of many changes.
    pub(super) fn save_peers_soon(&mut self) {
        let soon = Instant::now() + PEERS_SOON;
        let soon = self.peers_saved.map_or(soon, |saved| soon.max(saved + PEERS_PAUSE));
        let at = self.timers.entry(Timer::Peers).or_insert(soon);
        *at = soon.min(*at);
    }

    pub(super) fn close_expired(&mut self) {
        let (expired, next) = self.links.expired(self.trust.now());
        for peer in expired {
            tracing::info!(%peer, "closing: the peer's certificate has ended");
            self.links.closing_peer(&peer, LinkLoss::Closed);
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        if let Some(next) = next {
            let wait = Duration::from_secs(next.0.saturating_sub(self.trust.now().0)).min(IDLE_MAX);
            self.timers.insert(Timer::Expiry, Instant::now() + wait);
        }
    }

    /// Closes connections beside a better one with the same peer.
    pub(super) fn close_surplus(&mut self) {
        for connection in self.links.surplus(self.swarm.local_peer_id()) {
            tracing::debug!(%connection, "closing: there is a better one");
            self.links.closing(connection, LinkLoss::Closed);
            self.swarm.close_connection(connection);
        }
    }

    /// Tells the core and the handle where this node can be reached, where that has changed.
    pub(super) fn tell_addresses(&mut self) {
        let bound: Vec<SocketAddr> = self.swarm.listeners().filter_map(addresses::socket).collect();
        let mesh = addresses::tell(&self.advertise, bound.iter().copied());
        let data_port = self.data_address.port();
        let data: Vec<SocketAddr> = if self.data_address.ip().is_unspecified() {
            let at = |list: &[SocketAddr]| -> Vec<SocketAddr> {
                list.iter().map(|a| SocketAddr::new(a.ip(), data_port)).collect()
            };
            addresses::tell(&at(&self.advertise), at(&bound))
        } else {
            let advertised = self.advertise.iter().map(|a| SocketAddr::new(a.ip(), data_port)).collect::<Vec<_>>();
            addresses::tell(&advertised, [self.data_address])
        };
        let texts: Vec<String> = addresses::both(&mesh).iter().map(ToString::to_string).collect();
        if self.told_addresses.as_ref().is_some_and(|(m, d)| *m == texts && *d == data) {
            return;
        }
        let me = *self.swarm.local_peer_id();
        let mut all = mesh;
        all.extend(bound.into_iter().filter(|a| a.ip().is_loopback()));
        all.dedup();
        let all = addresses::both(&all).into_iter().map(|a| format!("{a}/p2p/{me}")).collect();
        self.shared.addresses.store(Arc::new(all));
        self.told_addresses = Some((texts.clone(), data.clone()));
        self.input(Input::Addresses { mesh: texts, data });
    }
}

/// Where a member known from disk was.
pub(super) fn with_peer(known: &KnownPeer) -> Vec<Multiaddr> {
    let Some(peer) = peer_of(&known.node) else { return Vec::new() };
    known
        .addresses
        .iter()
        .filter_map(|a| a.parse::<Multiaddr>().ok())
        .map(|a| addresses::split_peer(a).0.with(Protocol::P2p(peer)))
        .collect()
}
