use rcgen::{DistinguishedName, DnType, KeyPair, PublicKeyData as _};

use super::*;
use crate::credential::ISSUER_NAME;
use crate::message::{GOSSIP_BYTES_MAX, Gossip};
use crate::testing::{BACKDATE_S, LeafSpec, START, TestCluster, key, key_pair, node_id};

/// An issuer of a cluster: a node with a certificate of its own, which began `age` seconds ago.
struct Office {
    node: NodeId,
    key: SigningKey,
    certificate: Vec<u8>,
}

fn root_key(seed: u64) -> SigningKey {
    key(seed ^ 0xc1a5_7e12_0000_0000)
}

/// As [`TestCluster`] makes its issuer's, for another key, in the node's name.
fn office(cluster: &TestCluster, seed: u64, age: u64) -> Office {
    let (node, signing) = (node_id(&key(seed)), key(seed + 1000));
    let pair: KeyPair = key_pair(&signing);
    let mut params = TestCluster::authority_params(&cluster.root);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{ISSUER_NAME}{node}"));
    params.not_before -= std::time::Duration::from_secs(age);
    assert!(!pair.der_bytes().is_empty());
    let certificate = params.signed_by(&pair, &cluster.root_issuer).expect("signed").der().to_vec();
    Office { node, key: signing, certificate }
}

fn entries(subjects: &[Subject]) -> Vec<Entry> {
    let mut entries: Vec<_> = subjects.iter().map(|subject| Entry { subject: *subject, until: later() }).collect();
    entries.sort_unstable();
    entries
}

fn later() -> UnixSeconds {
    UnixSeconds(START.0 + 86_400)
}

fn list(author: NodeId, number: u64, subjects: &[Subject]) -> List {
    List { author, number, entries: entries(subjects), spared: Vec::new() }
}

impl Office {
    fn signs(&self, cluster: &TestCluster, number: u64, subjects: &[Subject]) -> SignedList {
        let list = list(self.node, number, subjects);
        SignedList::new(&list, &self.key, Some(&self.certificate), &cluster.id()).expect("fits")
    }
}

fn by_root(cluster: &TestCluster, seed: u64, number: u64, subjects: &[Subject]) -> SignedList {
    let list = list(node_id(&key(1)), number, subjects);
    SignedList::new(&list, &root_key(seed), None, &cluster.id()).expect("fits")
}

fn worker(seed: u64) -> Subject {
    Subject::Node(node_id(&key(seed)))
}

#[test]
fn what_counts_is_the_same_in_whatever_order_lists_come() {
    let cluster = TestCluster::new(1);
    let (elder, younger) = (office(&cluster, 10, 500), office(&cluster, 11, 400));
    let lists = [
        // Two issuers make number 1 at once.
        elder.signs(&cluster, 1, &[worker(1)]),
        younger.signs(&cluster, 1, &[worker(2)]),
        younger.signs(&cluster, 2, &[worker(2), worker(3)]),
        // Two lists of one number by one issuer: the one with the greater hash counts.
        elder.signs(&cluster, 3, &[worker(1), worker(4)]),
        elder.signs(&cluster, 3, &[worker(1), worker(5)]),
    ];
    let mut results = BTreeSet::new();
    for first in 0..lists.len() {
        for second in 0..lists.len() {
            let mut order: Vec<_> = (0..lists.len()).collect();
            order.swap(0, first);
            order.swap(1, second);
            let mut known = Revocations::new(cluster.root.clone());
            for at in order {
                known.take(&lists[at]).expect("good");
            }
            assert!(known.has(worker(1)) && known.has(worker(2)) && known.has(worker(3)));
            results.insert((known.mark(), known.iter().collect::<Vec<_>>()));
        }
    }
    assert_eq!(results.len(), 1, "{results:?}");
}

#[test]
fn a_list_tells_once() {
    let cluster = TestCluster::new(1);
    let issuer = office(&cluster, 10, 0);
    let mut known = Revocations::new(cluster.root.clone());
    assert_eq!((known.mark(), known.number()), (0, 0));
    let one = issuer.signs(&cluster, 1, &[worker(1)]);
    assert_eq!(known.take(&one), Ok(true));
    assert_eq!(known.take(&one), Ok(false));
    let mark = known.mark();
    assert_ne!(mark, 0);
    assert_eq!(known.take(&issuer.signs(&cluster, 2, &[worker(1), worker(2)])), Ok(true));
    assert_eq!(known.take(&one), Ok(false), "an old list brings nobody back");
    assert!(known.has(worker(2)) && known.mark() > mark && known.number() == 2);
    let mut other = Revocations::new(cluster.root.clone());
    for list in known.lists() {
        assert_eq!(other.take(&list), Ok(true));
    }
    assert_eq!(other.mark(), known.mark());
}

#[test]
fn a_revoked_issuer_s_lists_are_worth_nothing_and_no_junior_revokes_a_senior() {
    let cluster = TestCluster::new(1);
    let (elder, younger) = (office(&cluster, 10, 500), office(&cluster, 11, 400));
    let of = |lists: &[&SignedList]| {
        let mut known = Revocations::new(cluster.root.clone());
        for list in lists {
            known.take(list).expect("good");
        }
        known
    };
    let coup = younger.signs(&cluster, 9, &[worker(1), Subject::Node(elder.node)]);
    let answer = elder.signs(&cluster, 10, &[Subject::Node(younger.node)]);
    let late = younger.signs(&cluster, 11, &[worker(2)]);
    for lists in [[&coup, &answer, &late], [&late, &answer, &coup], [&answer, &coup, &late]] {
        let known = of(&lists);
        assert!(known.has(Subject::Node(younger.node)));
        assert!(![worker(1), worker(2), Subject::Node(elder.node)].into_iter().any(|s| known.has(s)));
    }
    // The root is above them all.
    let known = of(&[&answer, &by_root(&cluster, 1, 1, &[Subject::Node(elder.node)]), &coup]);
    assert!(known.has(Subject::Node(elder.node)) && known.has(worker(1)));
    assert!(!known.has(Subject::Node(younger.node)), "the elder's word is worth nothing now");
}

#[test]
fn what_an_issuer_signed_falls_with_it_but_for_what_is_spared() {
    let (issuer, stays, goes) = (node_id(&key(10)), node_id(&key(2)), node_id(&key(3)));
    let cluster = TestCluster::with_intermediate(1, |p| {
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, format!("{ISSUER_NAME}{issuer}"));
    });
    let judge = |node| cluster.root.judge(&cluster.chain(&node, &LeafSpec::worker()), START).expect("good");
    let (stays, goes) = (judge(stays), judge(goes));
    assert_eq!(stays.issued_by, Some(issuer));
    let mut list = list(node_id(&key(1)), 1, &[Subject::Node(issuer)]);
    list.spared = vec![stays.hash];
    let mut known = Revocations::new(cluster.root.clone());
    assert_eq!((known.judge(&stays), known.judge(&goes)), (Ok(()), Ok(())));
    known.take(&SignedList::new(&list, &root_key(1), None, &cluster.id()).expect("fits")).expect("good");
    assert_eq!((known.judge(&stays), known.judge(&goes)), (Ok(()), Err(CredentialError::IssuerRevoked)));
    let own = judge(issuer);
    assert_eq!(known.judge(&own), Err(CredentialError::Revoked));
}

#[test]
fn the_next_list_repeats_what_counts_and_forgets_what_has_ended() {
    let cluster = TestCluster::new(1);
    let (one, two) = (office(&cluster, 10, 500), office(&cluster, 11, 400));
    let mut known = Revocations::new(cluster.root.clone());
    known.take(&one.signs(&cluster, 7, &[worker(1), Subject::Token(TokenId([1; 8]))])).expect("good");
    let more = entries(&[worker(2)]);
    let next = known.next(two.node, &more, &[], START);
    assert_eq!((next.number, next.entries.len()), (8, 3));
    let signed = SignedList::new(&next, &two.key, Some(&two.certificate), &cluster.id()).expect("fits");
    assert_eq!(known.take(&signed), Ok(true));
    let ended = UnixSeconds(later().0 + 1);
    assert_eq!(known.next(one.node, &[], &[], ended).entries, []);
    // An issuer that claims the greatest number stops nobody.
    known.take(&two.signs(&cluster, NUMBER_MAX, &[worker(2)])).expect("good");
    assert_eq!(known.next(one.node, &[], &[], START).number, 8);
}

#[test]
fn forged_lists_are_refused() {
    let (cluster, other) = (TestCluster::new(1), TestCluster::new(2));
    let issuer = office(&cluster, 10, 0);
    let mut known = Revocations::new(cluster.root.clone());
    let mut refused = |list: SignedList| assert!(known.take(&list).is_err(), "{list:?}");
    let list = list(issuer.node, 1, &[worker(1)]);
    let signed = |list: &List, key: &SigningKey, der: Option<&[u8]>, of: &TestCluster| {
        SignedList::new(list, key, der, &of.id()).expect("fits")
    };
    let der = Some(issuer.certificate.as_slice());
    refused(signed(&list, &key(5), der, &cluster));
    refused(signed(&list, &issuer.key, None, &cluster));
    refused(signed(&list, &issuer.key, der, &other));
    refused(signed(&list, &root_key(2), None, &cluster));
    refused(signed(&list, &issuer.key, Some(&office(&other, 10, 0).certificate), &cluster));
    // An issuer in another's name, and one that names nobody.
    refused(signed(&List { author: node_id(&key(3)), ..list.clone() }, &issuer.key, der, &cluster));
    let nameless = TestCluster::authority_params(&cluster.root);
    let nameless = nameless.signed_by(&key_pair(&issuer.key), &cluster.root_issuer).expect("signed").der().to_vec();
    refused(signed(&list, &issuer.key, Some(&nameless), &cluster));
    for number in [0, NUMBER_MAX + 1] {
        refused(signed(&List { number, ..list.clone() }, &issuer.key, der, &cluster));
    }
    let twice = List { entries: [list.entries.clone(), list.entries.clone()].concat(), ..list.clone() };
    refused(signed(&twice, &issuer.key, der, &cluster));
    let mut changed = signed(&list, &issuer.key, der, &cluster);
    changed.payload[40] ^= 1;
    refused(changed);
    assert_eq!(known.take(&signed(&list, &issuer.key, der, &cluster)), Ok(true));
}

#[test]
fn the_longest_list_goes_out_by_gossip_and_signers_are_bounded() {
    let cluster = TestCluster::new(1);
    let issuer = office(&cluster, 10, 0);
    let subjects: Vec<_> = (0..ENTRIES_MAX as u64).map(|n| worker(n + 100)).collect();
    let longest = issuer.signs(&cluster, NUMBER_MAX, &subjects);
    assert!(wire::encode(&Gossip::Revoked(longest.clone())).expect("fits").len() <= GOSSIP_BYTES_MAX);
    let more = entries(&[subjects, vec![worker(1)]].concat());
    let list = List { author: issuer.node, number: 1, entries: more, spared: Vec::new() };
    let full = SignedList::new(&list, &issuer.key, Some(&issuer.certificate), &cluster.id());
    assert!(matches!(full, Err(RevocationError::Full { .. })), "{full:?}");

    let mut known = Revocations::new(cluster.root.clone());
    for n in 0..SIGNERS_MAX as u64 {
        assert_eq!(known.take(&office(&cluster, 10 + n, BACKDATE_S).signs(&cluster, 1, &[worker(1)])), Ok(true));
    }
    assert!(known.take(&office(&cluster, 90, 0).signs(&cluster, 1, &[worker(1)])).is_err());
    assert_eq!(known.take(&longest), Ok(true), "one that is known may go on");
}
