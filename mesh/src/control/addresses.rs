//! Addresses: which ones a node tells others, and how they are written.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use paceline_proto::{id::NodeId, manifest::ADDRESSES_MAX, view::ClusterView};

use super::peer_of;

/// A socket address of the mesh port as TCP multiaddr.
pub(crate) fn tcp(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// A socket address of the mesh port as QUIC multiaddr.
pub(crate) fn quic(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// IP and port of a multiaddr; `None` for a DNS name or a relayed address.
pub(crate) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let (mut ip, mut port) = (None, None);
    for part in address {
        match part {
            Protocol::Ip4(v) => ip = Some(IpAddr::V4(v)),
            Protocol::Ip6(v) => ip = Some(IpAddr::V6(v)),
            Protocol::Tcp(v) | Protocol::Udp(v) => port = Some(v),
            Protocol::P2pCircuit => return None,
            _ => {}
        }
    }
    Some(SocketAddr::new(ip?, port?))
}

/// Whether it is a TCP address, by IP or by name.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

/// The peer that a multiaddr ends with, and the multiaddr without it.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        _ => (address, None),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v) => v.is_link_local(),
        IpAddr::V6(v) => v.is_unicast_link_local(),
    }
}

/// What others are told: `advertise` first, then what interfaces have; loopback only where there is nothing else.
pub(crate) fn tell(advertise: &[SocketAddr], interfaces: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = advertise.to_vec();
    let mut loopback = Vec::new();
    for address in interfaces {
        let ip = address.ip();
        if ip.is_unspecified() || is_link_local(ip) || all.contains(&address) || loopback.contains(&address) {
            continue;
        }
        if ip.is_loopback() { loopback.push(address) } else { all.push(address) }
    }
    if all.is_empty() {
        all = loopback;
    }
    all.truncate(ADDRESSES_MAX / 2);
    all
}

/// The multiaddrs of a mesh port, QUIC first, for [`tell`]'s result: at most twice as many.
pub(crate) fn both(addresses: &[SocketAddr]) -> Vec<Multiaddr> {
    addresses.iter().copied().map(quic).chain(addresses.iter().copied().map(tcp)).collect()
}

/// Where a living member can be dialled, with its PeerId; empty where it is unknown, dead or gone.
pub(crate) fn of_member(view: &ClusterView, node: &NodeId, count_max: usize) -> Vec<String> {
    let (Some(member), Some(peer)) = (view.members.get(node), peer_of(node)) else {
        return Vec::new();
    };
    if !member.is_alive() {
        return Vec::new();
    }
    member.manifest.mesh_addresses.iter().take(count_max).map(|a| format!("{a}/p2p/{peer}")).collect()
}

/// The same, parsed and without the PeerId, whatever the member's state: for dialling.
pub(crate) fn to_dial(view: &ClusterView, node: &NodeId) -> Vec<Multiaddr> {
    let Some(member) = view.members.get(node) else { return Vec::new() };
    member.manifest.mesh_addresses.iter().filter_map(|a| a.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> SocketAddr {
        text.parse().expect("a socket address")
    }

    #[test]
    fn loopback_is_told_only_where_there_is_nothing_else() {
        let lo = s("127.0.0.1:4900");
        assert_eq!(tell(&[], [lo]), [lo]);
        assert_eq!(tell(&[], [lo, s("192.0.2.1:4900"), s("[fe80::1]:4900")]), [s("192.0.2.1:4900")]);
        assert_eq!(tell(&[s("198.51.100.7:1")], [lo]), [s("198.51.100.7:1")]);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many = (0..100).map(|i| SocketAddr::new(IpAddr::from([192, 0, 2, i]), 4900));
        assert_eq!(both(&tell(&[], many)).len(), ADDRESSES_MAX);
    }

    #[test]
    fn multiaddrs_are_read_back() {
        let a = s("192.0.2.1:4900");
        assert_eq!(socket(&quic(a)), Some(a));
        assert_eq!(socket(&tcp(a)), Some(a));
        let peer = PeerId::random();
        assert_eq!(split_peer(tcp(a).with(Protocol::P2p(peer))), (tcp(a), Some(peer)));
        assert_eq!(split_peer(tcp(a)), (tcp(a), None));
    }
}
