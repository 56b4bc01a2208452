//! Decoders: what they take they give back, and nothing that comes from outside is signed by anybody.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use paceline_proto::credential::Chain;
use paceline_proto::envelope::Signed;
use paceline_proto::manifest::Manifest;
use paceline_proto::message::{Direct, Gossip};
use paceline_proto::token::Token;
use paceline_proto::wire::{self, Message};
use sha2::{Digest as _, Sha256};

use crate::sim::authority::{Authority, START};
use crate::sim::rng::Rng;

/// Last bytes of a token: of SHA-256 over its domain and the rest.
const CHECKSUM_BYTES: usize = 8;

static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::new(&mut Rng::new(1)).expect("rcgen makes certificates from fixed keys"));

/// Decodes; what is taken is within its bound, and comes back as itself.
fn decoded<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message: M = wire::decode(bytes).ok()?;
    let again = wire::encode(&message).expect("what was within its bound is so again");
    assert!(again.len() <= bytes.len(), "the encoding is the shortest one");
    assert_eq!(wire::decode::<M>(&again).as_ref(), Ok(&message));
    Some(message)
}

fn record(signed: &Signed) {
    // Reading believes nothing; whatever it says, it must not panic.
    let _ = signed.read();
    assert!(signed.verify(&AUTHORITY.cluster()).is_err(), "a signature out of nothing");
}

/// A gossip message.
pub fn gossip(bytes: &[u8]) {
    if let Some(Gossip::Record(signed)) = decoded(bytes) {
        record(&signed);
    }
}

/// A message between two nodes.
pub fn direct(bytes: &[u8]) {
    if let Some(Direct::Push(items)) = decoded(bytes) {
        items.iter().flat_map(|item| &item.records).for_each(|signed| record(signed));
    }
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    if let Some(manifest) = decoded::<Manifest>(bytes) {
        let _ = manifest.validate();
    }
}

/// The text of a join token, and the same bytes as its body, under a checksum that is right.
pub fn token(bytes: &[u8]) {
    let whole = |text: &str| {
        if let Ok(token) = Token::parse(text) {
            let again = token.encode().expect("its bounds were checked");
            assert_eq!(again.as_str(), text.trim());
        }
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        whole(text);
    }
    let checksum = Sha256::new().chain_update(b"paceline token checksum v1").chain_update(bytes).finalize();
    let bytes = [bytes, &checksum[..CHECKSUM_BYTES]].concat();
    whole(&format!("paceline1.{}", BASE64URL_NOPAD.encode(&bytes)));
}

/// A chain of certificates.
pub fn certificate(bytes: &[u8]) {
    let (leaf, intermediate) = bytes.split_at(bytes.len() / 2);
    for chain in [
        Chain { leaf: bytes.to_vec(), intermediate: bytes.to_vec() },
        Chain { leaf: leaf.to_vec(), intermediate: intermediate.to_vec() },
    ] {
        assert!(AUTHORITY.root.judge(&chain, START).is_err(), "a certificate out of nothing");
    }
}
