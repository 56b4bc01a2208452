//! libp2p's text form of a node's key: base58 over the identity multihash of the key's protobuf.

use paceline_proto::id::NodeId;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Identity multihash of 36 bytes, then the protobuf: type Ed25519, 32 bytes of key.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The PeerId of a node.
pub(super) fn peer_id(node: NodeId) -> String {
    let mut bytes = PREFIX.to_vec();
    bytes.extend_from_slice(node.as_bytes());
    // Digits in base 58, least first.
    let mut digits: Vec<u8> = Vec::with_capacity(56);
    for byte in &bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let all = std::iter::repeat_n(&0, zeros).chain(digits.iter().rev());
    all.map(|digit| char::from(ALPHABET[usize::from(*digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_libp2ps() {
        // The public key of the PeerId specification's Ed25519 example.
        let key = [
            0x1e, 0xd1, 0xe8, 0xfa, 0xe2, 0xc4, 0xa1, 0x44, 0xb8, 0xbe, 0x8f, 0xd4, 0xb4, 0x7b, 0xf3, 0xd3, 0xb3, 0x4b,
            0x87, 0x1c, 0x3c, 0xac, 0xf6, 0x01, 0x0f, 0x0e, 0x42, 0xd4, 0x74, 0xfc, 0xe2, 0x7e,
        ];
        assert_eq!(peer_id(NodeId::from_bytes(key)), "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq");
    }
}
