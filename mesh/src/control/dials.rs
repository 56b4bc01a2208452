//! Whom to dial when: the entries that are tried for ever, the dials that the core asked for, and the strangers that
//! are left alone for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{addresses, jittered};

/// First pause between two rounds of a node that is connected to nobody, doubled up to the last.
const ALONE_FIRST: Duration = Duration::from_millis(500);
const ALONE_LAST: Duration = Duration::from_secs(5);
/// Pause between two rounds of a node that has company: it looks for a part of the cluster that was cut off.
const IN_COMPANY: Duration = Duration::from_secs(60);
/// Most entries, those on disk and in the LAN included.
const ENTRIES_MAX: usize = 128;
/// Most dials of one round.
const ROUND_MAX: usize = 16;
/// How long a peer that was refused, or refused us, is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// Most peers that are left alone; the one that is free soonest makes room.
const STRANGERS_MAX: usize = 1024;
/// Most dials of the core under way.
const WANTED_MAX: usize = 256;

/// One dial of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None` for an entry without `/p2p/...` that nobody has answered at yet.
    pub(crate) peer: Option<PeerId>,
    /// Where.
    pub(crate) addresses: Vec<Multiaddr>,
}

impl Target {
    /// How it is dialled: not where it is connected, nor while the same dial is under way.
    pub(crate) fn options(self) -> DialOpts {
        match self.peer {
            Some(peer) => DialOpts::peer_id(peer).addresses(self.addresses).build(),
            None => {
                let address = self.addresses.into_iter().next().unwrap_or_else(Multiaddr::empty);
                DialOpts::unknown_peer_id().address(address).build()
            }
        }
    }
}

/// How a neighbour is dialled that has just been heard of: also while an address where it no longer is still waits for
/// an answer.
pub(crate) fn neighbour(peer: PeerId, address: Multiaddr) -> DialOpts {
    let address = addresses::split_peer(address).0;
    DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(vec![address]).build()
}

/// A failed dial in a line: libp2p's words are a page long.
pub(crate) fn brief(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => {
            let tried: Vec<String> =
                attempts.iter().map(|(address, _)| addresses::split_peer(address.clone()).0.to_string()).collect();
            format!("no address answered: {}", tried.join(" "))
        }
        other => other.to_string(),
    }
}

/// Entry addresses, members known from disk, and LAN peers.
#[derive(Debug)]
pub(crate) struct Entries {
    known: BTreeMap<Multiaddr, Option<PeerId>>,
    /// Those that mDNS told, and nobody else.
    lan: BTreeSet<Multiaddr>,
    pause: Duration,
    start: usize,
}

impl Entries {
    /// No entry yet.
    pub(crate) fn new() -> Self {
        Self { known: BTreeMap::new(), lan: BTreeSet::new(), pause: ALONE_FIRST, start: 0 }
    }

    /// Adds an address, with or without `/p2p/...`.
    pub(crate) fn add(&mut self, address: Multiaddr) {
        let (address, peer) = addresses::split_peer(address);
        if self.known.len() < ENTRIES_MAX || self.known.contains_key(&address) {
            let known = self.known.entry(address).or_default();
            *known = peer.or(*known);
        }
    }

    /// Adds an address that mDNS told.
    pub(crate) fn add_neighbour(&mut self, address: Multiaddr) {
        let plain = addresses::split_peer(address.clone()).0;
        if !self.known.contains_key(&plain) {
            self.lan.insert(plain);
        }
        self.add(address);
        self.lan.retain(|address| self.known.contains_key(address));
    }

    /// Whether a person gave the address, or it is a member's known from disk.
    pub(crate) fn is_given(&self, address: &Multiaddr) -> bool {
        let address = addresses::split_peer(address.clone()).0;
        self.known.contains_key(&address) && !self.lan.contains(&address)
    }

    /// A peer answered at an address that we dialled.
    pub(crate) fn answered(&mut self, address: &Multiaddr, peer: PeerId) {
        let (address, _) = addresses::split_peer(address.clone());
        if let Some(known) = self.known.get_mut(&address) {
            *known = Some(peer);
        }
    }

    /// The entries whose peer is known: worth remembering across restarts.
    pub(crate) fn peers(&self) -> BTreeMap<PeerId, Vec<Multiaddr>> {
        let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for (address, peer) in &self.known {
            if let Some(peer) = peer {
                peers.entry(*peer).or_default().push(address.clone());
            }
        }
        peers
    }

    /// The node lost its last link: the next rounds come soon.
    pub(crate) fn hurry(&mut self) {
        self.pause = ALONE_FIRST;
    }

    /// What to dial now, and the pause until the next round.
    pub(crate) fn round(&mut self, alone: bool, skip: impl Fn(&PeerId) -> bool) -> (Vec<Target>, Duration) {
        let nobody = self.known.iter().filter(|(_, peer)| peer.is_none());
        let nobody = nobody.map(|(address, _)| Target { peer: None, addresses: vec![address.clone()] });
        let peers = self.peers().into_iter().filter(|(peer, _)| !skip(peer));
        let peers = peers.map(|(peer, addresses)| Target { peer: Some(peer), addresses });
        let mut targets: Vec<Target> = nobody.chain(peers).collect();
        if targets.len() > ROUND_MAX {
            // the next round goes on where this one ends
            let first = self.start % targets.len();
            targets.rotate_left(first);
            targets.truncate(ROUND_MAX);
            self.start = first + ROUND_MAX;
        }
        let pause = if alone { self.pause } else { IN_COMPANY };
        self.pause = if alone { (self.pause * 2).min(ALONE_LAST) } else { ALONE_FIRST };
        (targets, jittered(pause))
    }
}

/// Peers that are left alone for a while.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    until: BTreeMap<PeerId, Instant>,
}

impl Strangers {
    /// Leaves a peer alone; true where it was not already.
    pub(crate) fn add(&mut self, peer: PeerId, now: Instant) -> bool {
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= STRANGERS_MAX
            && let Some(soonest) = self.until.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            self.until.remove(&soonest);
        }
        self.until.insert(peer, now + LEFT_ALONE).is_none()
    }

    /// Whether it is to be left alone.
    pub(crate) fn contains(&self, peer: &PeerId, now: Instant) -> bool {
        self.until.get(peer).is_some_and(|until| *until > now)
    }
}

/// Dials that the core asked for and waits for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    peers: BTreeMap<PeerId, Attempt>,
}

#[derive(Debug, Default)]
struct Attempt {
    tcp: BTreeSet<Multiaddr>,
    refused: usize,
}

impl Wanted {
    /// The core wants a peer at these addresses; false where too many dials are under way.
    pub(crate) fn begin(&mut self, peer: PeerId, addresses: &[Multiaddr]) -> bool {
        if self.peers.len() >= WANTED_MAX && !self.peers.contains_key(&peer) {
            return false;
        }
        let tcp = addresses.iter().filter(|a| addresses::is_tcp(a)).cloned().collect();
        self.peers.insert(peer, Attempt { tcp, refused: 0 });
        true
    }

    /// A TCP address of the peer refused. True where all have: that is an answer, and QUIC's silence says no more.
    pub(crate) fn refused(&mut self, peer: &PeerId) -> bool {
        let Some(attempt) = self.peers.get_mut(peer) else { return false };
        attempt.refused += 1;
        let all = attempt.refused >= attempt.tcp.len();
        if all {
            self.peers.remove(peer);
        }
        all
    }

    /// The dial is over. `None` where the core was told already or never asked, else whether anything refused.
    pub(crate) fn end(&mut self, peer: &PeerId) -> Option<bool> {
        self.peers.remove(peer).map(|attempt| attempt.refused > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        addresses::tcp(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn every_entry_has_its_turn() {
        let mut entries = Entries::new();
        let ports: BTreeSet<u16> = (1..=40).collect();
        ports.iter().for_each(|port| entries.add(address(*port)));
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let (round, _) = entries.round(true, |_| false);
            assert!(round.len() <= ROUND_MAX);
            seen.extend(round.into_iter().flat_map(|t| t.addresses));
        }
        assert_eq!(seen.len(), ports.len());
    }

    #[test]
    fn pauses_grow_alone_and_start_over_in_company() {
        let mut entries = Entries::new();
        let pauses: Vec<_> = (0..10).map(|_| entries.round(true, |_| false).1).collect();
        assert!(pauses[0] < Duration::from_secs(1));
        assert!(pauses[9] <= ALONE_LAST.mul_f64(1.5) && pauses[9] >= ALONE_LAST.mul_f64(0.5));
        assert!(entries.round(false, |_| false).1 >= IN_COMPANY / 2);
        assert!(entries.round(true, |_| false).1 < Duration::from_secs(1));
    }

    #[test]
    fn connected_peers_are_not_dialled() {
        let mut entries = Entries::new();
        let peer = PeerId::random();
        entries.add(address(1));
        entries.answered(&address(1), peer);
        assert_eq!(entries.round(false, |p| *p == peer).0, []);
        assert_eq!(entries.round(false, |_| false).0, [Target { peer: Some(peer), addresses: vec![address(1)] }]);
    }

    #[test]
    fn strangers_are_bounded_and_forgotten() {
        let mut strangers = Strangers::default();
        let (now, first) = (Instant::now(), PeerId::random());
        assert!(strangers.add(first, now));
        assert!(!strangers.add(first, now));
        assert!(strangers.contains(&first, now) && !strangers.contains(&first, now + LEFT_ALONE));
        (0..2 * STRANGERS_MAX).for_each(|_| {
            strangers.add(PeerId::random(), now);
        });
        assert!(strangers.until.len() <= STRANGERS_MAX);
    }

    #[test]
    fn a_refusal_is_told_when_no_tcp_address_is_left() {
        let (mut wanted, peer) = (Wanted::default(), PeerId::random());
        let both = [address(1), address(2), addresses::quic(([127, 0, 0, 1], 1).into())];
        assert!(wanted.begin(peer, &both));
        assert!(!wanted.refused(&peer));
        assert!(wanted.refused(&peer));
        assert_eq!(wanted.end(&peer), None, "told already");
        assert!(wanted.begin(peer, &both));
        assert!(!wanted.refused(&peer));
        assert_eq!(wanted.end(&peer), Some(true));
    }
}
