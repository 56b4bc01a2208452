use super::*;
use crate::envelope::Kind;
use crate::id::{ManifestVersion, Role};
use crate::node::tests::net::manifest;
use crate::testing::{key, node_id};

const SUSPICION: Duration = Duration::from_secs(3);
const TOMBSTONE: Duration = Duration::from_secs(60);

fn me() -> NodeId {
    node_id(&key(0))
}

fn table() -> Membership {
    Membership::new(Config { me: me(), suspicion: SUSPICION, tombstone: TOMBSTONE, seed: 1 })
}

fn record(author: NodeId) -> Arc<Signed> {
    Arc::new(Signed::raw(author, Kind::Suspect, Vec::new(), [0; 32]))
}

fn word(node: NodeId, incarnation: u64, version: u64) -> Input {
    let mut m = manifest(node, "n", &[Role::Worker], &[]);
    (m.incarnation, m.version) = (Incarnation(incarnation), ManifestVersion(version));
    Input::Manifest { manifest: Arc::new(m), record: record(node) }
}

fn about(subject: NodeId, incarnation: u64) -> Accusation {
    Accusation { subject, incarnation: Incarnation(incarnation) }
}

fn outputs(table: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| table.poll_output()).collect()
}

/// The rules again, as plainly as they can be said: a row for each member, looked through at each step.
#[derive(Clone, Debug, Default)]
struct Model {
    rows: BTreeMap<NodeId, ModelRow>,
    links: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
struct ModelRow {
    order: (u64, u64),
    state: MemberState,
    since: Instant,
    gone: u64,
    /// When suspicion becomes death.
    dies: Option<Instant>,
    reset_at: Option<Instant>,
    first_hand: bool,
    vouched: bool,
    questioned: Option<Instant>,
}

impl ModelRow {
    fn here(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }

    fn enter(&mut self, state: MemberState, now: Instant) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    fn settle(&mut self) {
        (self.dies, self.reset_at, self.first_hand, self.vouched, self.questioned) = (None, None, false, false, None);
    }

    fn miss(&mut self, reset: bool, now: Instant) {
        self.enter(MemberState::Suspect, now);
        self.first_hand = true;
        self.reset_at = reset.then_some(now);
        self.dies = Some(self.dies.map_or(now + SUSPICION, |d| d.min(now + SUSPICION)));
    }

    fn bury(&mut self, state: MemberState, gone: u64, now: Instant) {
        self.settle();
        self.gone = gone;
        self.enter(state, now);
    }
}

impl Model {
    fn time(&mut self, now: Instant) {
        for row in self.rows.values_mut() {
            if row.dies.is_some_and(|at| at <= now) {
                row.bury(MemberState::Dead, row.order.0, now);
            }
        }
        // A death that was due at this very moment does not also expire at it.
        self.rows.retain(|_, r| r.here() || r.since + TOMBSTONE > now);
    }

    fn word(&mut self, node: NodeId, order: (u64, u64), now: Instant) {
        match self.rows.get_mut(&node) {
            None => {
                let row = ModelRow {
                    order,
                    state: MemberState::Alive,
                    since: now,
                    gone: 0,
                    dies: None,
                    reset_at: None,
                    first_hand: false,
                    vouched: false,
                    questioned: None,
                };
                self.rows.insert(node, row);
            }
            Some(row) if order > row.order => {
                let back = if row.here() { order.0 > row.order.0 } else { order.0 > row.gone };
                row.order = order;
                if back {
                    row.settle();
                    row.enter(MemberState::Alive, now);
                }
            }
            Some(_) => {}
        }
    }

    fn accused(&mut self, node: NodeId, incarnation: u64) -> Option<&mut ModelRow> {
        let linked = self.links.contains(&node);
        self.rows.get_mut(&node).filter(|r| r.here() && r.order.0 == incarnation && !linked && node != me())
    }

    fn suspect(&mut self, node: NodeId, incarnation: u64, now: Instant) {
        if let Some(row) = self.accused(node, incarnation).filter(|r| r.state == MemberState::Alive) {
            row.enter(MemberState::Suspect, now);
            row.dies = Some(now + SUSPICION * 2);
        }
    }

    fn death(&mut self, node: NodeId, incarnation: u64, now: Instant) {
        let Some(row) = self.accused(node, incarnation).filter(|r| !r.vouched) else { return };
        if row.state == MemberState::Suspect && now - row.since >= SUSPICION / 6 {
            return row.bury(MemberState::Dead, incarnation, now);
        }
        row.vouched = true;
        row.enter(MemberState::Suspect, now);
        row.dies = Some(row.dies.map_or(now + SUSPICION / 3, |d| d.min(now + SUSPICION / 3)));
    }

    fn leave(&mut self, node: NodeId, incarnation: u64, now: Instant) {
        if let Some(row) = self.rows.get_mut(&node).filter(|r| incarnation >= r.order.0) {
            if row.state == MemberState::Left && incarnation <= row.gone {
                return;
            }
            let gone = if row.here() { incarnation } else { incarnation.max(row.gone) };
            row.bury(MemberState::Left, gone, now);
        }
    }

    fn link_up(&mut self, node: NodeId, now: Instant) {
        self.links.insert(node);
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.state == MemberState::Suspect) {
            row.settle();
            row.enter(MemberState::Alive, now);
        }
    }

    fn link_down(&mut self, node: NodeId, loss: Loss, now: Instant) {
        self.links.remove(&node);
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.here() && loss != Loss::Closed) {
            row.miss(loss == Loss::Reset, now);
        }
    }

    fn dial_failed(&mut self, node: NodeId, refused: bool, now: Instant) {
        let linked = self.links.contains(&node);
        let Some(row) = self.rows.get_mut(&node).filter(|r| r.here() && !linked) else { return };
        if row.first_hand {
            if let (true, Some(at)) = (refused, row.reset_at) {
                row.dies = row.dies.map(|d| d.min((at + SUSPICION / 3).max(now)));
            }
        } else if row.questioned.take().is_some_and(|until| until >= now) {
            row.miss(false, now);
        }
    }

    fn request_failed(&mut self, node: NodeId, now: Instant) {
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.here() && node != me())
            && row.questioned.is_none_or(|until| until < now)
        {
            row.questioned = Some(now + Duration::from_secs(10));
        }
    }
}

#[test]
fn it_is_what_the_plain_rules_say() {
    let nodes: Vec<_> = (0..5).map(|i| node_id(&key(i))).collect();
    let start = Instant::now();
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let (mut table, mut model, mut now) = (table(), Model::default(), start);
        table.handle_input(word(me(), 1, 1), now);
        model.word(me(), (1, 1), now);
        outputs(&mut table);
        for step in 0..150 {
            // The model looks at the clock at each step, the table when its timers say so: they are due then.
            now += rng.up_to(Duration::from_millis(900));
            table.handle_timeout(now);
            model.time(now);
            let node = nodes[rng.below(nodes.len())];
            let incarnation = rng.next_u64() % 4;
            let known = model.rows.clone();
            let by = record(nodes[1]);
            let (accusation, linked) = (about(node, incarnation), model.links.contains(&node));
            match rng.below(12) {
                0..=2 => {
                    let version = rng.next_u64() % 3;
                    // Its own word comes to this node from itself alone.
                    if node != me() {
                        table.handle_input(word(node, incarnation, version), now);
                        model.word(node, (incarnation, version), now);
                    }
                }
                3 | 4 => {
                    table.handle_input(Input::Suspect { accusation, record: by }, now);
                    model.suspect(node, incarnation, now);
                }
                5 | 6 => {
                    table.handle_input(Input::Death { accusation, record: by }, now);
                    model.death(node, incarnation, now);
                }
                7 if node != me() => {
                    table.handle_input(Input::Leave { accusation, record: record(node) }, now);
                    model.leave(node, incarnation, now);
                }
                8 if node != me() && !linked => {
                    table.handle_input(Input::LinkUp(node), now);
                    model.link_up(node, now);
                }
                9 if linked => {
                    let loss = [Loss::Reset, Loss::Silent, Loss::Closed][rng.below(3)];
                    table.handle_input(Input::LinkDown { peer: node, loss }, now);
                    model.link_down(node, loss, now);
                }
                10 if node != me() => {
                    let refused = rng.below(2) == 0;
                    table.handle_input(Input::DialFailed { peer: node, refused }, now);
                    model.dial_failed(node, refused, now);
                }
                11 => {
                    table.handle_input(Input::RequestFailed(node), now);
                    model.request_failed(node, now);
                }
                _ => {}
            }
            let at = format!("seed {seed}, step {step}");
            compare(&table, &model, &at);
            for (node, row) in &model.rows {
                let before = known.get(node);
                let revived = before.is_some_and(|b| !b.here() && row.here());
                assert!(!revived || row.order.0 > before.map_or(0, |b| b.gone), "revived without its word, {at}");
            }
            for output in outputs(&mut table) {
                match output {
                    Output::Refute(i) => assert_eq!((node, i.0), (me(), 1), "{at}"),
                    Output::Accuse(a) | Output::Declare(a) => {
                        assert_ne!(a.subject, me(), "{at}");
                        table.proven(a.subject, record(me()), now);
                    }
                    Output::Tell { accused, .. } => assert!(model.links.contains(&accused), "{at}"),
                    _ => {}
                }
            }
        }
    }
}

fn compare(table: &Membership, model: &Model, at: &str) {
    let rows: Vec<_> = table
        .iter()
        .map(|(n, r)| (*n, (r.manifest.incarnation.0, r.manifest.version.0), r.state, r.since, r.linked))
        .collect();
    let expected: Vec<_> =
        model.rows.iter().map(|(n, r)| (*n, r.order, r.state, r.since, model.links.contains(n))).collect();
    assert_eq!(rows, expected, "{at}");
    for (node, row) in table.iter() {
        assert_eq!(row.gone.is_some(), matches!(row.state, MemberState::Dead | MemberState::Left), "{at}");
        if row.linked {
            assert_ne!(row.state, MemberState::Suspect, "a link outweighs a suspicion, {at}");
        }
        assert!(*node != me() || row.is_here(), "{at}");
    }
}

#[test]
fn whoever_speaks_first_spares_the_others_the_word() {
    let (node, now) = (node_id(&key(1)), Instant::now());
    let mut table = table();
    table.handle_input(word(node, 1, 1), now);
    table.handle_input(Input::LinkUp(node), now);
    table.handle_input(Input::LinkDown { peer: node, loss: Loss::Reset }, now);
    assert!(outputs(&mut table).contains(&Output::Accuse(about(node, 1))));
    let ours = record(me());
    table.proven(node, ours, now);
    let theirs = Input::Suspect { accusation: about(node, 1), record: record(node_id(&key(2))) };
    assert_eq!(table.handle_input(theirs.clone(), now), Outcome::News, "passed on in place of ours");
    assert_eq!(table.handle_input(theirs, now), Outcome::Nothing);
    table.handle_timeout(now + PUBLISH_JITTER);
    assert!(!outputs(&mut table).iter().any(|o| matches!(o, Output::Publish(_))));

    table.handle_timeout(now + SUSPICION);
    assert!(outputs(&mut table).contains(&Output::Declare(about(node, 1))));
    table.proven(node, record(me()), now + SUSPICION);
    let late = Input::Suspect { accusation: about(node, 1), record: record(node_id(&key(2))) };
    assert_eq!(table.handle_input(late, now + SUSPICION), Outcome::Nothing, "a suspicion does not stand for a death");
    table.handle_timeout(now + SUSPICION + PUBLISH_JITTER);
    assert!(outputs(&mut table).iter().any(|o| matches!(o, Output::Publish(_))));
}

#[test]
fn the_accused_is_told_once_over_the_link() {
    let (node, now) = (node_id(&key(1)), Instant::now());
    let mut table = table();
    table.handle_input(word(node, 1, 1), now);
    table.handle_input(Input::LinkUp(node), now);
    outputs(&mut table);
    for _ in 0..3 {
        table.handle_input(Input::Death { accusation: about(node, 1), record: record(me()) }, now);
    }
    let told = outputs(&mut table).iter().filter(|o| matches!(o, Output::Tell { .. })).count();
    assert_eq!(told, 1);
    table.handle_input(word(node, 2, 1), now);
    table.handle_input(Input::Suspect { accusation: about(node, 2), record: record(me()) }, now);
    assert!(outputs(&mut table).iter().any(|o| matches!(o, Output::Tell { .. })), "anew for each incarnation");
}

#[test]
fn the_table_is_bounded_and_the_gone_make_room() {
    let (mut table, now) = (table(), Instant::now());
    let node = |i: u32| {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&i.to_be_bytes());
        NodeId::from_bytes(bytes)
    };
    let count = u32::try_from(MEMBERS_MAX).expect("small");
    for i in 0..count {
        assert_eq!(table.handle_input(word(node(i), 1, 1), now), Outcome::News);
    }
    assert_eq!(table.handle_input(word(node(count), 1, 1), now), Outcome::Full);
    for i in [7, 9] {
        let at = now + Duration::from_secs(u64::from(i));
        let leave = Input::Leave { accusation: about(node(i), 1), record: record(node(i)) };
        assert_eq!(table.handle_input(leave, at), Outcome::News);
    }
    let later = now + Duration::from_secs(20);
    assert_eq!(table.handle_input(word(node(count), 1, 1), later), Outcome::News);
    assert!(table.get(&node(7)).is_none(), "gone longest");
    assert!(table.get(&node(9)).is_some());
    assert_eq!(table.rows.len(), MEMBERS_MAX);
}

#[test]
fn a_tombstone_comes_with_its_age() {
    let (node, now) = (node_id(&key(1)), Instant::now());
    let mut table = table();
    let mut m = manifest(node, "n", &[Role::Worker], &[]);
    m.incarnation = Incarnation(4);
    let stone = |gone| Input::Tombstone {
        manifest: Arc::new(m.clone()),
        record: record(node),
        state: MemberState::Dead,
        incarnation: Incarnation(4),
        proof: record(me()),
        gone,
    };
    assert_eq!(table.handle_input(stone(TOMBSTONE), now), Outcome::Nothing, "too old");
    assert_eq!(table.handle_input(stone(TOMBSTONE - Duration::from_secs(5)), now), Outcome::News);
    assert_eq!(table.handle_input(word(node, 4, 9), now), Outcome::News, "its last word is kept up to date");
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Dead), "but it stays dead");
    table.handle_timeout(now + Duration::from_secs(4));
    assert!(table.get(&node).is_some());
    table.handle_timeout(now + Duration::from_secs(5));
    assert!(table.get(&node).is_none());
    assert!(outputs(&mut table).contains(&Output::Forgotten { node, state: MemberState::Dead }));
}
