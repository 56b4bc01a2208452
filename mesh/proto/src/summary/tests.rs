use proptest::prelude::*;

use super::*;
use crate::envelope::Claim;
use crate::lead::Ranks;
use crate::message::Gossip;
use crate::testing::{key, node_id};

fn cluster() -> ClusterId {
    ClusterId::of_root(&[1])
}

fn signed(summary: &Summary, seed: u64) -> Arc<Signed> {
    Arc::new(Signed::new(&Claim::Summary(Box::new(summary.clone())), &key(seed), &cluster()).expect("fits"))
}

fn at(lead: Lead, seq: u64, root: u64) -> Summary {
    Summary { lead, seq, root, ..Summary::default() }
}

fn bytes(summary: &Summary) -> usize {
    wire::encode(&Gossip::Record(signed(summary, 1))).expect("fits").len()
}

/// As a leader of a large, old and busy cluster writes it.
fn large() -> Summary {
    let lead = Lead { term: 2_000_000, takeovers: 300 };
    let short = |i: u64| ShortId::of(&node_id(&key(i)));
    Summary {
        lead,
        seq: Ranks::of(&cluster(), lead.term).first_seq(&node_id(&key(1))) + 60,
        alive: 4_000,
        members: 4_096,
        root: u64::MAX,
        line: (0..3).map(short).collect(),
        day: 20_800,
        writes_today: 30,
        load: Totals { reporting: 4_000, cpu_permille: 900, memory_permille: 900, in_flight: 70_000, jobs: 70_000 },
        ..Summary::default()
    }
}

#[test]
fn a_summary_is_small() {
    let none = bytes(&large());
    assert!(none <= 200, "{none} bytes");
    let change = |i: u64| Change {
        node: ShortId::of(&node_id(&key(i))),
        version: ManifestVersion(40_000),
        state: MemberState::Suspect,
    };
    let full = Summary { changes: (0..64).map(change).collect(), ..large() };
    let more = bytes(&full) - none;
    assert!(more <= 64 * 12 + 4, "{more} bytes for 64 changes");
    let checkpoint = Summary { bits: vec![0xff; crate::membership::MEMBERS_MAX / 8], next: Some(full.line[0]), ..full };
    assert!(wire::encode(&checkpoint).is_ok_and(|b| b.len() < SUMMARY_BYTES_MAX), "the largest one fits");
}

#[test]
fn bits_say_who_is_alive() {
    for n in [0_usize, 1, 7, 8, 9, 100] {
        let summary = Summary { bits: bits((0..n).map(|i| i % 3 == 0)), ..Summary::default() };
        assert_eq!(summary.bits.len(), n.div_ceil(8));
        assert_eq!(summary.is_checkpoint(), n > 0);
        assert!((0..n).all(|i| summary.is_alive(i) == Some(i % 3 == 0)));
        assert_eq!(summary.is_alive(n.div_ceil(8) * 8), None);
    }
}

#[test]
fn a_writer_counts_from_its_own_number_and_tells_each_change_once() {
    let mut writer = Writer::default();
    let (lead, first) = (Lead::FIRST, 5 << SEQ_BITS);
    writer.start(lead, first);
    assert!(writer.is_checkpoint_due());
    for i in 0..70 {
        writer.changed(node_id(&key(i)), ManifestVersion(1), MemberState::Alive);
    }
    writer.changed(node_id(&key(3)), ManifestVersion(2), MemberState::Dead);
    let one = writer.write(Summary::default());
    assert_eq!((one.lead, one.seq, one.changes.len()), (lead, first + 1, CHANGES_MAX));
    assert!(one.changes.iter().any(|c| c.version == ManifestVersion(2) && c.state == MemberState::Dead));
    let due: Vec<_> = (0..60)
        .map(|i| {
            let (due, next) = (writer.is_checkpoint_due(), writer.write(Summary::default()));
            assert_eq!((next.seq, next.changes.len()), (first + 2 + i, 0));
            due
        })
        .collect();
    assert_eq!(due.iter().filter(|due| **due).count(), 2);
    writer.changed(node_id(&key(1)), ManifestVersion(1), MemberState::Alive);
    writer.start(lead.next_term(), 7 << SEQ_BITS);
    let again = writer.write(Summary::default());
    assert_eq!((again.seq, again.changes.len()), ((7 << SEQ_BITS) + 1, 0));
}

#[test]
fn a_writer_never_uses_the_numbers_of_another() {
    let mut writer = Writer::default();
    writer.start(Lead::FIRST, (5 << SEQ_BITS) | ((1 << SEQ_BITS) - 3));
    let seqs: Vec<_> = (0..5).map(|_| writer.write(Summary::default()).seq).collect();
    assert!(seqs.iter().all(|seq| seq >> SEQ_BITS == 5), "{seqs:?}");
}

#[test]
fn a_reader_is_in_step_with_a_hash_that_it_has_or_just_had() {
    let (t0, mut reader) = (Instant::now(), Reader::default());
    let s = Duration::from_secs;
    reader.root_is(1, t0);
    assert!(!reader.is_in_step());
    let take = |reader: &mut Reader, seq, root, now| {
        let summary = at(Lead::FIRST, seq, root);
        let record = signed(&summary, 1);
        assert!(reader.take(summary, record, now));
        reader.is_in_step()
    };
    assert!(take(&mut reader, 1, 1, t0));
    reader.root_is(2, t0 + s(1));
    assert!(take(&mut reader, 2, 1, t0 + s(2)), "the leader had not heard yet");
    assert!(!take(&mut reader, 3, 3, t0 + s(3)));
    reader.root_is(3, t0 + s(4));
    assert!(reader.compare(t0 + s(4)), "this node had not heard yet");
    assert!(!take(&mut reader, 4, 1, t0 + s(20)), "that was long ago");
    for root in 100..300 {
        reader.root_is(root, t0 + s(21));
    }
    assert!(reader.roots.len() <= ROOTS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Against a model: of all that were taken, no two have one number, and each is greater than the one before.
    #[test]
    fn taken_summaries_only_rise(given in prop::collection::vec((1..4_u64, 0..3_u32, 0..6_u64, 1..4_u64), 0..60)) {
        let (t0, mut reader, mut taken) = (Instant::now(), Reader::default(), Vec::new());
        for (term, takeovers, n, author) in given {
            let lead = Lead { term, takeovers };
            let first = Ranks::of(&cluster(), term).first_seq(&node_id(&key(author)));
            let summary = at(lead, first + n, author);
            let (order, is_new) = (summary.order(), reader.is_new(&summary));
            let record = signed(&summary, author);
            prop_assert_eq!(reader.take(summary, Arc::clone(&record), t0), is_new);
            prop_assert_eq!(is_new, taken.iter().all(|(before, _)| *before < order));
            if is_new {
                taken.push((order, record));
            }
        }
        prop_assert!(taken.windows(2).all(|pair| pair[0].0 < pair[1].0));
        prop_assert_eq!(reader.last().map(|last| &last.record), taken.last().map(|(_, record)| record));
    }
}
