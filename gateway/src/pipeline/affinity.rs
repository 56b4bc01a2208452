//! Keeping requests with one key on one worker: rendezvous hashing (Thaler and Ravishankar, 1998) with bounded loads
//! (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018). Each key has an order of all
//! workers of its own, the same on every gateway; it goes to the first of them that has not more than its share of the
//! requests. A worker that comes or goes moves only its own keys, and one hot key cannot drown a worker.

use std::net::IpAddr;

use http::{HeaderMap, header::COOKIE};
use paceline_proto::id::NodeId;

use super::terms::Affinity;

/// How far above the mean a worker's requests may be: the `1 + epsilon` of the paper.
const ABOVE_MEAN: f64 = 1.25;
/// Requests that a worker may always have: with a handful in all, a mean says nothing, and a cold cache costs more.
const ALWAYS: u32 = 4;

/// The key of a request, where the service keeps its requests together.
pub(crate) fn key(affinity: &Affinity, headers: &HeaderMap, peer: IpAddr) -> Option<u64> {
    match affinity {
        Affinity::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        Affinity::Cookie(name) => headers.get_all(COOKIE).iter().find_map(|line| {
            line.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
                let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                (!value.is_empty()).then(|| hash(value))
            })
        }),
        Affinity::Client => Some(match peer {
            IpAddr::V4(four) => hash(&four.octets()),
            IpAddr::V6(six) => hash(&six.octets()),
        }),
    }
}

/// The same on every gateway and in every version: FNV-1a, and a finalizer that spreads it.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    spread(bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)))
}

/// How gladly a key goes to a node: greater is first.
pub(crate) fn rank(key: u64, node: NodeId) -> u64 {
    // A node's id is a public key: any eight bytes of it are as good as random.
    let first = node.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    spread(key ^ spread(first))
}

/// What one worker may have of the key's requests, where `workers` have `in_flight` together.
pub(crate) fn share(in_flight: u64, workers: usize) -> u32 {
    let mean = (in_flight + 1) as f64 / workers.max(1) as f64;
    ALWAYS.max((mean * ABOVE_MEAN).ceil() as u32)
}

/// The finalizer of splitmix64.
fn spread(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn node(n: u64) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&spread(n + 1).to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    fn first(key: u64, nodes: impl Iterator<Item = u64>) -> u64 {
        nodes.max_by_key(|n| rank(key, node(*n))).expect("somebody")
    }

    #[test]
    fn keys_spread_evenly_and_only_those_of_who_goes_move() {
        const KEYS: u64 = 20_000;
        let mut counts = [0u32; 10];
        let mut moved = 0;
        for key in (0..KEYS).map(|k| hash(&k.to_le_bytes())) {
            let before = first(key, 0..10);
            counts[before as usize] += 1;
            let after = first(key, (0..10).filter(|n| *n != 3));
            assert!(before == 3 || before == after);
            moved += u32::from(before != after);
        }
        assert!(counts.iter().all(|n| (1_800..2_200).contains(n)), "{counts:?}");
        assert_eq!(moved, counts[3]);
    }

    #[test]
    fn shares_follow_the_mean_above_a_floor() {
        assert_eq!((share(0, 4), share(3, 4), share(99, 4), share(0, 0)), (4, 4, 32, 4));
    }

    #[test]
    fn keys_come_from_a_header_a_cookie_or_the_caller() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("theme=dark; xsid=no;sid=abc"));
        headers.append("x-user", HeaderValue::from_static("abc"));
        let peer: IpAddr = "10.0.0.7".parse().expect("ip");
        let key = |affinity: &Affinity| key(affinity, &headers, peer);
        assert_eq!(key(&Affinity::Cookie("sid".into())), Some(hash(b"abc")));
        assert_eq!(key(&Affinity::Header("x-user".parse().expect("name"))), Some(hash(b"abc")));
        assert_eq!(key(&Affinity::Cookie("si".into())), None);
        assert_eq!(key(&Affinity::Header("x-none".parse().expect("name"))), None);
        assert_eq!(key(&Affinity::Client), Some(hash(&[10, 0, 0, 7])));
        assert_ne!(key(&Affinity::Client), Some(hash(b"abc")));
    }
}
