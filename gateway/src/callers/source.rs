//! Where a request comes from: the peer, or, through proxies that are believed, the first address that is not theirs.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Most addresses of a list that are looked at, from its end.
const HOPS_MAX: usize = 16;

/// `--trusted-proxy`.
#[derive(Debug, Default)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether what this peer says of its caller is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        !self.0.is_empty() && {
            let peer = peer.to_canonical();
            self.0.iter().any(|network| network.contains(&peer))
        }
    }

    /// The address that a request is counted for. Each proxy appends whom it heard from, so the list is read from its
    /// end, and only as far as proxies are believed: what stands before is anybody's word.
    pub(crate) fn source(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer.to_canonical();
        }
        let mut source = peer.to_canonical();
        let lists: Vec<&str> = headers.get_all(FOR).iter().filter_map(|list| list.to_str().ok()).collect();
        for word in lists.iter().rev().flat_map(|list| list.rsplit(',')).take(HOPS_MAX) {
            let Some(address) = address(word.trim()) else { break };
            source = address;
            if !self.trusts(address) {
                break;
            }
        }
        source
    }
}

fn address(word: &str) -> Option<IpAddr> {
    let bare = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(word);
    let ip = bare.parse::<IpAddr>().ok().or_else(|| word.parse::<SocketAddr>().ok().map(|a| a.ip()));
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_believed_proxies_say_counts() {
        let proxies = Proxies::new(["127.0.0.1/32", "10.0.0.0/8"].map(|n| n.parse().expect("a network")).into());
        let source = |peer: &str, lists: &[&str]| {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append(FOR, list.parse().expect("a value"));
            }
            proxies.source(peer.parse().expect("an address"), &headers).to_string()
        };
        assert_eq!(source("203.0.113.1", &["198.51.100.1"]), "203.0.113.1", "a stranger's word");
        assert_eq!(source("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(source("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            source("127.0.0.1", &["6.6.6.6, 198.51.100.1, 10.1.1.1"]),
            "198.51.100.1",
            "the forged head is not read"
        );
        assert_eq!(source("127.0.0.1", &["6.6.6.6", "198.51.100.1", "10.1.1.1"]), "198.51.100.1");
        assert_eq!(source("127.0.0.1", &["198.51.100.1, rubbish"]), "127.0.0.1");
        assert_eq!(source("::ffff:10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(source("127.0.0.1", &["198.51.100.1:5"]), "198.51.100.1");
        assert!(!Proxies::default().trusts("127.0.0.1".parse().expect("an address")));
    }
}
