use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::credential::Chain;
use crate::envelope::{Accusation, Kind, Signed};
use crate::heartbeat::{Beat, Load, Report};
use crate::id::{
    ClusterId, CredentialHash, Incarnation, ManifestVersion, NodeId, Role, ServiceName, Site, TokenId, UnixSeconds,
    WorkerName,
};
use crate::lead::{Lead, Reason, ShortId, Totals};
use crate::manifest::{Health, Manifest, Service, ServiceKind, WorkerType};
use crate::message::{Direct, Gossip, Item, SentChain, Want, Written};
use crate::revocation::{self, List, SignedList, Subject};
use crate::summary::{Change, Summary, WriteOrder};
use crate::sync::{BUCKETS, Entry, Span, Standing};
use crate::testing::key;
use crate::view::MemberState;

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId::from_bytes)
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,12}|ü{1,4}"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

fn service() -> impl Strategy<Value = Service> {
    let health = prop_oneof![Just(Health::Healthy), Just(Health::Degraded), Just(Health::Unhealthy)];
    let kind = prop_oneof![Just(ServiceKind::Http), Just(ServiceKind::OpenAi)];
    let parts = ("[a-z0-9][a-z0-9-]{0,20}", text(), any::<u16>(), health, option::of(text()), kind);
    (parts, vec(text(), 0..4), any::<u32>(), labels()).prop_map(|(parts, models, max_concurrency, labels)| {
        let (name, host, port, health, version, kind) = parts;
        let name = ServiceName::new(&name).expect("the form of a name");
        Service { name, host, port, health, version, kind, models, max_concurrency, labels }
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let roles = vec(prop_oneof![Just(Role::Worker), Just(Role::Gateway), Just(Role::Bootstrap)], 0..3);
    let kind = prop_oneof![Just(WorkerType::Gpu), Just(WorkerType::Cpu), Just(WorkerType::Edge)];
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let address = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let names = ("[A-Za-z0-9][A-Za-z0-9._-]{0,30}", "[A-Za-z0-9][A-Za-z0-9._-]{0,30}");
    let maps = (labels(), btree_map(text(), any::<bool>(), 0..4), any::<(bool, bool, bool)>());
    let lists = (vec(text(), 0..4), vec(address, 0..4), vec(service(), 0..4));
    (node(), names, roles, kind, numbers, lists, maps, any::<[u8; 32]>(), text()).prop_map(
        |(node, (name, site), roles, worker_type, numbers, lists, maps, hash, software)| Manifest {
            node,
            name: WorkerName::new(&name).expect("the form of a name"),
            site: Site::new(&site).expect("the form of a site"),
            roles: roles.into_iter().collect(),
            worker_type,
            incarnation: Incarnation(numbers.0),
            version: ManifestVersion(numbers.1),
            instance: numbers.2,
            started_unix_ms: numbers.3,
            mesh_addresses: lists.0,
            data_addresses: lists.1,
            services: lists.2,
            labels: maps.0,
            capabilities: maps.1,
            credential: CredentialHash::from_bytes(hash),
            draining: maps.2.0,
            dialable: maps.2.1,
            sink: maps.2.2,
            software,
        },
    )
}

fn signed() -> impl Strategy<Value = Arc<Signed>> {
    let kind = prop_oneof![
        Just(Kind::Manifest),
        Just(Kind::Leave),
        Just(Kind::Death),
        Just(Kind::Suspect),
        Just(Kind::Lead),
        Just(Kind::Summary)
    ];
    (node(), kind, vec(any::<u8>(), 0..400), any::<[u8; 32]>())
        .prop_map(|(author, kind, payload, half)| Arc::new(Signed::raw(author, kind, payload, half)))
}

fn chain() -> impl Strategy<Value = SentChain> {
    (vec(any::<u8>(), 0..600), vec(any::<u8>(), 0..600))
        .prop_map(|(leaf, intermediate)| SentChain(Arc::new(Chain { leaf, intermediate })))
}

fn gossip() -> impl Strategy<Value = Gossip> {
    prop_oneof![
        chain().prop_map(Gossip::Credential),
        signed().prop_map(Gossip::Record),
        revoked().prop_map(Gossip::Revoked)
    ]
}

fn revoked() -> impl Strategy<Value = SignedList> {
    let entry =
        prop_oneof![node().prop_map(Subject::Node), any::<[u8; 8]>().prop_map(|id| Subject::Token(TokenId(id)))];
    let entry =
        (entry, any::<u64>()).prop_map(|(subject, until)| revocation::Entry { subject, until: UnixSeconds(until) });
    (node(), 1..100u64, vec(entry, 0..40), proptest::option::of(vec(any::<u8>(), 0..600))).prop_map(
        |(author, number, entries, issuer)| {
            let list = List { author, number, entries, spared: Vec::new() };
            SignedList::new(&list, &key(1), issuer.as_deref(), &ClusterId::from_bytes([3; 32])).expect("fits")
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let standing = prop_oneof![Just(Standing::Here), Just(Standing::Dead), Just(Standing::Left)];
    (node(), any::<u64>(), any::<u64>(), standing, any::<u32>()).prop_map(|(node, i, v, standing, gone_s)| Entry {
        node,
        incarnation: Incarnation(i),
        version: ManifestVersion(v),
        standing,
        gone_s,
    })
}

fn direct() -> impl Strategy<Value = Direct> {
    let span = (node(), node(), vec(entry(), 0..20)).prop_map(|(from, to, entries)| Span { from, to, entries });
    let want = prop_oneof![
        node().prop_map(Want::Member),
        node().prop_map(Want::Author),
        any::<[u8; 32]>().prop_map(|h| Want::Chain(CredentialHash::from_bytes(h))),
    ];
    let item = (vec(chain(), 0..=2), vec(signed(), 0..=2), any::<u32>());
    let item = item.prop_map(|(chains, records, gone_s)| Item { chains, records, gone_s });
    prop_oneof![
        vec(any::<u64>(), 0..=BUCKETS).prop_map(Direct::Digest),
        vec(span, 0..6).prop_map(Direct::Entries),
        vec(want, 0..40).prop_map(Direct::Pull),
        vec(item, 0..6).prop_map(Direct::Push),
        beat().prop_map(Direct::Beat),
        any::<(u32, u64, u64, u64, u64)>().prop_map(|(reporting, cpu_permille, memory_permille, in_flight, jobs)| {
            Direct::Report(Report { reporting, cpu_permille, memory_permille, in_flight, jobs })
        }),
        any::<(bool, Option<u32>)>()
            .prop_map(|(stored, writes_today)| Direct::Written(Written { stored, writes_today })),
        any::<u64>().prop_map(Direct::AskRevoked),
        revoked().prop_map(Direct::Revoked),
    ]
}

fn beat() -> impl Strategy<Value = Beat> {
    any::<(u64, u64, u16, u16, u32, u32)>().prop_map(|(i, v, cpu_permille, memory_permille, in_flight, jobs)| Beat {
        incarnation: Incarnation(i),
        version: ManifestVersion(v),
        load: Load { cpu_permille, memory_permille, in_flight, jobs },
    })
}

fn lead() -> impl Strategy<Value = Lead> {
    any::<(u64, u32)>().prop_map(|(term, takeovers)| Lead { term, takeovers })
}

fn short() -> impl Strategy<Value = ShortId> {
    any::<[u8; 8]>().prop_map(ShortId)
}

fn summary() -> impl Strategy<Value = Summary> {
    let state = prop_oneof![
        Just(MemberState::Alive),
        Just(MemberState::Suspect),
        Just(MemberState::Dead),
        Just(MemberState::Left)
    ];
    let change = (short(), any::<u64>(), state).prop_map(|(node, version, state)| Change {
        node,
        version: ManifestVersion(version),
        state,
    });
    let reason = prop_oneof![Just(Reason::Routine), Just(Reason::Leader), Just(Reason::Service), Just(Reason::Death)];
    let write = option::of((short(), reason).prop_map(|(by, reason)| WriteOrder { by, reason }));
    let numbers = any::<(u64, u32, u32, u64, u32, u32, u64)>();
    let load = any::<(u32, u16, u16, u32, u32)>();
    let lists = (vec(change, 0..=64), vec(short(), 0..=3), vec(any::<u8>(), 0..=512));
    (lead(), numbers, lists, option::of(short()), write, load).prop_map(|(lead, n, lists, next, write, l)| Summary {
        lead,
        seq: n.0,
        alive: n.1,
        members: n.2,
        root: n.3,
        changes: lists.0,
        line: lists.1,
        next,
        write,
        day: n.4,
        writes_today: n.5,
        revocation: n.6,
        load: Totals { reporting: l.0, cpu_permille: l.1, memory_permille: l.2, in_flight: l.3, jobs: l.4 },
        bits: lists.2,
    })
}

fn accusation() -> impl Strategy<Value = Accusation> {
    (node(), any::<u64>()).prop_map(|(subject, i)| Accusation { subject, incarnation: Incarnation(i) })
}

/// What comes back is what went in, and no shorter or longer bytes are taken for it.
fn survives<M: Message + PartialEq + std::fmt::Debug>(message: &M, cut: usize) -> Result<(), TestCaseError> {
    let bytes = encode(message).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(bytes.len() <= M::BYTES_MAX);
    prop_assert_eq!(&decode::<M>(&bytes), &Ok::<_, WireError>(decode(&bytes).expect("decodes twice alike")));
    prop_assert_eq!(&decode::<M>(&bytes).expect("decodes"), message);
    let cut = cut % bytes.len();
    prop_assert!(decode::<M>(&bytes[..cut]).is_err(), "truncated to {}", cut);
    prop_assert!(decode::<M>(&[bytes.as_slice(), &[0]].concat()).is_err(), "trailing byte");
    let other = [&[WIRE_VERSION + 1], &bytes[1..]].concat();
    prop_assert_eq!(decode::<M>(&other), Err(WireError::Version(WIRE_VERSION + 1)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn gossip_survives(message in gossip(), cut in any::<usize>()) {
        survives(&message, cut)?;
    }

    #[test]
    fn direct_messages_survive(message in direct(), cut in any::<usize>()) {
        survives(&message, cut)?;
    }

    #[test]
    fn manifests_survive(message in manifest(), cut in any::<usize>()) {
        survives(&message, cut)?;
    }

    #[test]
    fn accusations_survive(message in accusation(), cut in any::<usize>()) {
        survives(&message, cut)?;
    }

    #[test]
    fn summaries_and_claims_survive(summary in summary(), lead in lead(), cut in any::<usize>()) {
        survives(&summary, cut)?;
        survives(&lead, cut)?;
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..2_000)) {
        let versioned = [vec![WIRE_VERSION], bytes.clone()].concat();
        for bytes in [bytes, versioned] {
            // What is taken for a message is one: it encodes to something that decodes to the same.
            if let Ok(message) = decode::<Gossip>(&bytes) {
                prop_assert_eq!(decode(&encode(&message).expect("encodes")), Ok(message));
            }
            if let Ok(message) = decode::<Direct>(&bytes) {
                prop_assert_eq!(decode(&encode(&message).expect("encodes")), Ok(message));
            }
            let _ = decode::<Manifest>(&bytes);
            let _ = decode::<Accusation>(&bytes);
            let _ = decode::<Summary>(&bytes);
            let _ = decode::<crate::election::Kept>(&bytes);
        }
    }

    #[test]
    fn a_changed_byte_never_panics(message in direct(), at in any::<usize>(), to in any::<u8>()) {
        let mut bytes = encode(&message).expect("within its bounds");
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = decode::<Direct>(&bytes);
    }
}

#[test]
fn a_message_past_its_bound_is_refused_unread() {
    let long = vec![WIRE_VERSION; Gossip::BYTES_MAX + 1];
    let refused = Err(WireError::TooLong { bytes: long.len(), max: Gossip::BYTES_MAX });
    assert_eq!(decode::<Gossip>(&long), refused);
    let record = Arc::new(Signed::raw(NodeId::from_bytes([1; 32]), Kind::Manifest, vec![0; 20_000], [0; 32]));
    assert!(matches!(encode(&Gossip::Record(record)), Err(WireError::TooLong { .. })));
    assert_eq!(decode::<Gossip>(&[]), Err(WireError::Malformed));
    assert_eq!(decode::<Gossip>(&[7]), Err(WireError::Version(7)));
}

#[test]
fn a_claimed_length_is_refused_before_anything_is_read_for_it() {
    // Every message type with a length of 2^40, and of just more than its bound, where its first list begins.
    let lengths: [&[u8]; 3] = [&[253, 0, 0, 0, 0, 0, 1, 0, 0], &[252, 0, 0, 1, 0], &[251, 1, 4]];
    for length in lengths {
        for variant in 0..4 {
            let bytes = [&[WIRE_VERSION, variant], length, &[0; 40]].concat();
            assert_eq!(decode::<Direct>(&bytes), Err(WireError::Malformed));
            assert_eq!(decode::<Gossip>(&bytes), Err(WireError::Malformed));
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Few(#[serde(deserialize_with = "list::<_, _, 3>")] Vec<Counted>);

#[derive(Debug, PartialEq, Serialize)]
struct Counted(u8);

thread_local! {
    static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        READ.with(|n| n.set(n.get() + 1));
        u8::deserialize(deserializer).map(Self)
    }
}

impl Message for Few {
    const BYTES_MAX: usize = 100;
}

#[test]
fn a_list_past_its_bound_is_not_read_at_all() {
    let bytes = encode(&Few((0..3).map(Counted).collect())).expect("fits");
    assert_eq!(decode::<Few>(&bytes).map(|few| few.0.len()), Ok(3));
    READ.with(|n| n.set(0));
    let bytes = encode(&Few((0..4).map(Counted).collect())).expect("fits");
    assert_eq!(decode::<Few>(&bytes), Err(WireError::Malformed));
    assert_eq!(READ.with(std::cell::Cell::get), 0);
    // Without a length in front, as in JSON, the bound holds too.
    assert!(
        serde::de::IntoDeserializer::<serde::de::value::Error>::into_deserializer(vec![1_u8; 4])
            .pipe(list::<_, u8, 3>)
            .is_err()
    );
}

trait Pipe: Sized {
    fn pipe<T>(self, f: impl FnOnce(Self) -> T) -> T {
        f(self)
    }
}

impl<T> Pipe for T {}
