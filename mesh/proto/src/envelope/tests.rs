use super::*;
use crate::id::Role;
use crate::manifest::SERVICES_MAX;
use crate::node::tests::net::{manifest, service};
use crate::testing::{key, node_id};

fn cluster(n: u8) -> ClusterId {
    ClusterId::of_root(&[n])
}

fn claims(author: u64) -> Vec<Claim> {
    let accusation = Accusation { subject: node_id(&key(9)), incarnation: Incarnation(3) };
    vec![
        Claim::Manifest(Box::new(manifest(node_id(&key(author)), "n", &[Role::Worker], &["files"]))),
        Claim::Leave { incarnation: Incarnation(u64::MAX) },
        Claim::Death(accusation),
        Claim::Suspect(accusation),
        Claim::Lead(Lead { term: u64::MAX, takeovers: u32::MAX }),
        Claim::Summary(Box::default()),
    ]
}

#[test]
fn what_is_signed_can_be_read_and_verified() {
    for claim in claims(1) {
        let signed = Signed::new(&claim, &key(1), &cluster(1)).expect("within its bounds");
        assert_eq!(signed.author, node_id(&key(1)));
        assert_eq!(signed.verify(&cluster(1)), Ok(()));
        assert_eq!(signed.read(), Ok(claim));
    }
}

#[test]
fn no_part_can_be_changed() {
    for claim in claims(1) {
        let signed = Signed::new(&claim, &key(1), &cluster(1)).expect("within its bounds");
        let refused = |s: &Signed| matches!(s.verify(&cluster(1)), Err(EnvelopeError::Signature(_)));
        assert!(signed.verify(&cluster(2)).is_err(), "another cluster");
        for kind in [Kind::Manifest, Kind::Leave, Kind::Death, Kind::Suspect, Kind::Lead, Kind::Summary] {
            assert_eq!(refused(&Signed { kind, ..signed.clone() }), kind != signed.kind);
        }
        assert!(refused(&Signed { author: node_id(&key(2)), ..signed.clone() }));
        for at in 0..signed.payload.len() {
            let mut changed = signed.clone();
            changed.payload[at] ^= 1;
            assert!(refused(&changed));
        }
        let mut changed = signed.clone();
        changed.signature.1[0] ^= 1;
        assert!(refused(&changed));
    }
}

#[test]
fn an_author_that_is_no_key_is_refused() {
    // The identity, under which plain verification accepts a signature of everything.
    let mut weak = [0; 32];
    weak[0] = 1;
    let mut signed = Signed::raw(NodeId::from_bytes(weak), Kind::Leave, vec![1, 1], [0; 32]);
    signed.signature.0[0] = 1;
    assert!(signed.verify(&cluster(1)).is_err());
}

#[test]
fn a_manifest_is_read_within_its_bounds_and_of_its_author_only() {
    let m = manifest(node_id(&key(2)), "n", &[Role::Worker], &[]);
    let signed = Signed::new(&Claim::Manifest(Box::new(m)), &key(1), &cluster(1)).expect("fits");
    assert!(matches!(signed.read(), Err(EnvelopeError::Author { .. })));

    let mut m = manifest(node_id(&key(1)), "n", &[Role::Worker], &["a", "a"]);
    let signed = Signed::new(&Claim::Manifest(Box::new(m.clone())), &key(1), &cluster(1)).expect("fits");
    assert!(matches!(signed.read(), Err(EnvelopeError::Manifest(ManifestError::Twice(_)))));

    m.services = (0..=SERVICES_MAX).map(|i| service(&format!("s{i}"))).collect();
    let signed = Signed::new(&Claim::Manifest(Box::new(m.clone())), &key(1), &cluster(1)).expect("fits");
    assert_eq!(signed.read(), Err(EnvelopeError::Wire(WireError::Malformed)));

    for s in &mut m.services {
        s.host = "h".repeat(128);
    }
    m.services.truncate(SERVICES_MAX);
    let long = Signed::new(&Claim::Manifest(Box::new(m)), &key(1), &cluster(1));
    assert!(matches!(long, Err(WireError::TooLong { .. })), "{long:?}");
}
