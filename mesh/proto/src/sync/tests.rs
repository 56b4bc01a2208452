use super::*;
use crate::message::Direct;
use crate::rng::Rng;
use crate::wire;

const HOUR: Duration = Duration::from_secs(3_600);

fn node(rng: &mut Rng) -> NodeId {
    let mut bytes = [0; 32];
    bytes.iter_mut().for_each(|b| *b = rng.next_u64() as u8);
    NodeId::from_bytes(bytes)
}

/// A table that is told everything, and the plain map that it stands for.
struct Side {
    table: Table,
    model: BTreeMap<NodeId, Rank>,
}

impl Side {
    fn new() -> Self {
        Self { table: Table::new(HOUR), model: BTreeMap::new() }
    }

    fn set(&mut self, node: NodeId, rank: Rank, now: Instant) {
        self.model.insert(node, rank);
        self.table.set(node, (rank.0, rank.1), rank.2, (rank.2 != Standing::Here).then_some(now));
    }

    fn remove(&mut self, node: NodeId) {
        self.model.remove(&node);
        self.table.remove(&node);
    }

    /// What membership makes of a record that came from the other side.
    fn merge(&mut self, node: NodeId, theirs: Rank, now: Instant) {
        let rank = match self.model.get(&node) {
            Some(mine) if mine.0 > theirs.0 => *mine,
            Some(mine) if mine.0 == theirs.0 => (mine.0, mine.1.max(theirs.1), mine.2.max(theirs.2)),
            _ => theirs,
        };
        self.set(node, rank, now);
    }

    /// The hashes, made from nothing.
    fn recomputed(&self) -> Vec<u64> {
        let mut hashes = vec![0_u64; BUCKETS];
        for (node, rank) in &self.model {
            let known = Known { incarnation: rank.0, version: rank.1, standing: rank.2, gone: None };
            hashes[bucket(node)] = hashes[bucket(node)].wrapping_add(hash_of(node, &known));
        }
        hashes
    }
}

fn rank(rng: &mut Rng) -> Rank {
    let standing = [Standing::Here, Standing::Here, Standing::Dead, Standing::Left];
    let standing = standing[rng.below(4)];
    (Incarnation(rng.next_u64() % 3), ManifestVersion(rng.next_u64() % 3), standing)
}

/// One exchange that `a` begins: it ends with both sides alike.
fn exchange(a: &mut Side, b: &mut Side, now: Instant) -> usize {
    let mut messages = 0;
    for spans in b.table.answer(&a.table.digest(), now) {
        messages += 1;
        let bytes = wire::encode(&Direct::Entries(spans.clone())).expect("within the bound of a message");
        assert_eq!(wire::decode(&bytes), Ok(Direct::Entries(spans.clone())));
        let difference = a.table.compare(&spans, now);
        for node in difference.wants {
            let theirs = b.model[&node];
            a.merge(node, theirs, now);
        }
        for node in difference.offers {
            let ours = a.model[&node];
            b.merge(node, ours, now);
        }
    }
    messages
}

#[test]
fn two_tables_always_converge_in_one_exchange() {
    let now = Instant::now();
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let nodes: Vec<_> = (0..rng.below(60)).map(|_| node(&mut rng)).collect();
        let (mut a, mut b) = (Side::new(), Side::new());
        for _ in 0..6 {
            for _ in 0..rng.below(40) {
                let Some(node) = rng.pick(&nodes) else { continue };
                let rank = rank(&mut rng);
                let side = if rng.below(2) == 0 { &mut a } else { &mut b };
                match rng.below(8) {
                    0 => side.remove(node),
                    _ => side.set(node, rank, now),
                }
                assert_eq!(side.table.digest(), side.recomputed(), "kept up to date, seed {seed}");
            }
            exchange(&mut a, &mut b, now);
            assert_eq!(a.model, b.model, "seed {seed}");
            assert_eq!(a.table.digest(), b.table.digest(), "seed {seed}");
            assert_eq!(exchange(&mut b, &mut a, now), 0, "nothing differs, nothing is sent");
        }
    }
}

#[test]
fn a_table_past_one_message_is_split() {
    let now = Instant::now();
    let mut rng = Rng::new(1);
    let (mut a, mut b) = (Side::new(), Side::new());
    for _ in 0..4_096 {
        b.set(node(&mut rng), (Incarnation(u64::MAX), ManifestVersion(u64::MAX), Standing::Here), now);
    }
    assert_eq!(exchange(&mut a, &mut b, now), 4_096_usize.div_ceil(ENTRIES_MAX));
    assert_eq!(a.model, b.model);

    // All in one bucket, in both directions.
    let (mut a, mut b) = (Side::new(), Side::new());
    for i in 0..2_000_u32 {
        let mut bytes = [0; 32];
        bytes[28..].copy_from_slice(&i.to_be_bytes());
        let side = if i % 2 == 0 { &mut a } else { &mut b };
        side.set(NodeId::from_bytes(bytes), (Incarnation(1), ManifestVersion(1), Standing::Here), now);
    }
    assert_eq!(exchange(&mut a, &mut b, now), 2);
    assert_eq!(a.model.len(), 2_000);
    assert_eq!(a.model, b.model);
}

#[test]
fn only_what_differs_is_sent() {
    let now = Instant::now();
    let mut rng = Rng::new(2);
    let (mut a, mut b) = (Side::new(), Side::new());
    for _ in 0..640 {
        let node = node(&mut rng);
        a.set(node, (Incarnation(1), ManifestVersion(1), Standing::Here), now);
        b.set(node, (Incarnation(1), ManifestVersion(1), Standing::Here), now);
    }
    let one = *a.model.keys().nth(100).expect("there are more");
    a.set(one, (Incarnation(1), ManifestVersion(2), Standing::Here), now);
    let messages = b.table.answer(&a.table.digest(), now);
    let entries: usize = messages.iter().flatten().map(|s| s.entries.len()).sum();
    assert!(entries < 40, "{entries}");
    let difference = a.table.compare(&messages[0], now);
    assert_eq!(difference, Difference { wants: Vec::new(), offers: vec![one] });
}

#[test]
fn who_is_nearly_forgotten_is_not_asked_for_again() {
    let start = Instant::now();
    let mut rng = Rng::new(3);
    let (node, mut old) = (node(&mut rng), Table::new(HOUR));
    old.set(node, (Incarnation(1), ManifestVersion(1)), Standing::Dead, Some(start));
    let forgetful = Table::new(HOUR);
    for (age, wanted) in [(0, 1), (3_000, 1), (3_539, 1), (3_540, 0), (3_600, 0)] {
        let now = start + Duration::from_secs(age);
        let spans = old.answer(&forgetful.digest(), now).concat();
        assert_eq!(forgetful.compare(&spans, now).wants.len(), wanted, "after {age} s");
        let spans = forgetful.answer(&old.digest(), now).concat();
        assert_eq!(old.compare(&spans, now).offers.len(), wanted, "after {age} s");
    }
}

#[test]
fn entries_that_lie_about_their_range_say_nothing() {
    let now = Instant::now();
    let mut rng = Rng::new(4);
    let table = Table::new(HOUR);
    let entry = Entry {
        node: node(&mut rng),
        incarnation: Incarnation(1),
        version: ManifestVersion(1),
        standing: Standing::Here,
        gone_s: 0,
    };
    let (low, high) = (NodeId::from_bytes([0; 32]), NodeId::from_bytes([0xff; 32]));
    for (from, to, wants) in
        [(high, low, 0), (low, low, 0), (high, high, 0), (low, high, 1), (entry.node, entry.node, 1)]
    {
        let span = Span { from, to, entries: vec![entry; 3] };
        assert_eq!(table.compare(&[span], now).wants.len(), wants);
    }
    assert!(table.answer(&[], now).is_empty());
    assert!(table.answer(&[1; BUCKETS + 1], now).is_empty());
}

#[test]
fn one_of_many_neighbours_is_asked_for_a_member() {
    let (mut asked, t0, member) = (Asked::default(), Instant::now(), node(&mut Rng::new(1)));
    assert!(asked.ask(member, t0));
    assert!(!asked.ask(member, t0 + ASKED_FOR / 2), "the first may still answer");
    assert!(asked.ask(member, t0 + ASKED_FOR));
    asked.heard(&member);
    assert!(asked.ask(member, t0 + ASKED_FOR), "what is heard may be outdated again");
}

#[test]
fn what_is_offered_is_asked_for_where_it_is_news() {
    let (now, mut rng) = (Instant::now(), Rng::new(2));
    let members: Vec<_> = (0..200).map(|_| node(&mut rng)).collect();
    let (mut here, mut there) = (Table::new(Duration::from_secs(3_600)), Table::new(Duration::from_secs(3_600)));
    let order = |incarnation| (Incarnation(incarnation), ManifestVersion(1));
    members.iter().for_each(|member| here.set(*member, order(2), Standing::Here, None));
    there.set(members[0], order(1), Standing::Here, None);
    there.set(members[1], order(2), Standing::Here, None);
    let offered = here.offer(&members, now);
    assert!(offered.iter().all(|spans| spans.len() <= crate::message::SPANS_MAX));
    let differences: Vec<_> = offered.iter().map(|spans| there.compare(spans, now)).collect();
    assert!(differences.iter().all(|d| d.offers.is_empty()), "nothing goes back");
    let wants: Vec<_> = differences.into_iter().flat_map(|d| d.wants).collect();
    assert_eq!(wants.len(), members.len() - 1);
    assert!(!wants.contains(&members[1]), "known there");
}
