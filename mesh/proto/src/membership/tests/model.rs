//! The rules again, as plainly as they can be said: a row for each member, looked through at each step.

use super::*;

#[derive(Clone, Debug, Default)]
struct Model {
    rows: BTreeMap<NodeId, ModelRow>,
    links: BTreeSet<NodeId>,
    /// Accusations that were refuted; nothing is forgiven in the time that a run takes.
    errors: BTreeMap<NodeId, u8>,
}

#[derive(Clone, Debug)]
struct ModelRow {
    order: (u64, u64),
    state: MemberState,
    since: Instant,
    gone: u64,
    /// When suspicion becomes death.
    dies: Option<Instant>,
    accusers: Vec<NodeId>,
    accused_at: Option<Instant>,
    missed_at: Option<Instant>,
    reset: bool,
    refused: bool,
    vouched: Option<Instant>,
    /// Accusations wait for an answer over this node's own connection.
    held: bool,
    doubted: bool,
    questioned: Option<Instant>,
}

impl ModelRow {
    fn new(order: (u64, u64), now: Instant) -> Self {
        Self {
            order,
            state: MemberState::Alive,
            since: now,
            gone: 0,
            dies: None,
            accusers: Vec::new(),
            accused_at: None,
            missed_at: None,
            reset: false,
            refused: false,
            vouched: None,
            held: false,
            doubted: false,
            questioned: None,
        }
    }

    fn here(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }

    fn enter(&mut self, state: MemberState, now: Instant) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    fn absolve(&mut self) {
        let Self { order, state, since, gone, accusers, accused_at, .. } = self.clone();
        *self = Self { state, since, gone, accusers, accused_at, ..Self::new(order, since) };
    }

    fn settle(&mut self) {
        self.absolve();
        (self.accusers, self.accused_at) = (Vec::new(), None);
    }
}

impl Model {
    fn time(&mut self, now: Instant) {
        let due: Vec<_> =
            self.rows.iter().filter(|(_, r)| r.dies.is_some_and(|at| at <= now)).map(|(n, _)| *n).collect();
        for node in due {
            let incarnation = self.rows[&node].order.0;
            self.bury(node, MemberState::Dead, incarnation, now);
        }
        // A death that was due at this very moment does not also expire at it.
        let errors = &mut self.errors;
        self.rows.retain(|node, r| {
            let kept = r.here() || r.since + TOMBSTONE > now;
            kept || {
                errors.remove(node);
                false
            }
        });
    }

    fn bury(&mut self, node: NodeId, state: MemberState, gone: u64, now: Instant) {
        let Some(row) = self.rows.get_mut(&node) else { return };
        if state == MemberState::Dead {
            for accuser in &row.accusers {
                let errors = self.errors.entry(*accuser).or_default();
                *errors = errors.saturating_sub(1);
            }
        }
        row.settle();
        row.gone = gone;
        row.enter(state, now);
    }

    fn word(&mut self, node: NodeId, order: (u64, u64), now: Instant) {
        let Some(row) = self.rows.get_mut(&node) else {
            self.rows.insert(node, ModelRow::new(order, now));
            return;
        };
        if order <= row.order {
            return;
        }
        let raised = order.0 > row.order.0;
        if row.here() && raised {
            for accuser in std::mem::take(&mut row.accusers) {
                let errors = self.errors.entry(accuser).or_default();
                *errors = (*errors + 1).min(credit::CREDIT_MAX);
            }
        }
        let back = if row.here() { raised } else { order.0 > row.gone };
        row.order = order;
        if back {
            row.settle();
            row.enter(MemberState::Alive, now);
        }
    }

    fn works(&self, node: &NodeId) -> bool {
        self.links.contains(node) && !self.rows[node].doubted
    }

    fn credible(&self, node: &NodeId) -> bool {
        let accusers = &self.rows[node].accusers;
        let believed = |a: &NodeId| *a == me() || self.errors.get(a).is_none_or(|e| *e < credit::CREDIT_MAX);
        accusers.len() > 1 || accusers.iter().any(believed)
    }

    fn accuse(&mut self, node: NodeId, by: NodeId, now: Instant) -> bool {
        let Some(row) = self.rows.get_mut(&node) else { return false };
        if row.state == MemberState::Alive && row.accused_at.is_some_and(|at| now - at > Duration::from_secs(10)) {
            (row.accusers, row.accused_at) = (Vec::new(), None);
        }
        let others = row.accusers.iter().filter(|a| **a != me()).count();
        let new = !row.accusers.contains(&by) && (by == me() || others < 3);
        if new {
            row.accusers.push(by);
            row.accused_at.get_or_insert(now);
        }
        new
    }

    /// Suspect, and dead when all that is known says so.
    fn fall(&mut self, node: NodeId, now: Instant) {
        let here = self.rows.values().filter(|r| r.here()).count();
        let Some(row) = self.rows.get_mut(&node) else { return };
        row.enter(MemberState::Suspect, now);
        let confirmations = row.accusers.len().max(1) - 1;
        let lasts = match (here - 2, confirmations) {
            (0, _) => Duration::from_secs(2),
            (_, 0) => Duration::from_secs(3),
            (1, _) => Duration::from_secs(1),
            (_, 1) => Duration::from_millis(1_738),
            _ => Duration::from_secs(1),
        };
        let ends = [
            Some(row.missed_at.map_or(row.since + lasts * 2, |at| at + lasts)),
            row.missed_at.filter(|_| row.reset && row.refused).map(|at| at + Duration::from_millis(300)),
            row.vouched,
        ];
        let earliest = ends.into_iter().flatten().min().map(|at| at.max(now));
        row.dies = [row.dies, earliest].into_iter().flatten().min();
    }

    fn accusable(&self, node: &NodeId, incarnation: u64) -> bool {
        *node != me() && self.rows.get(node).is_some_and(|r| r.here() && r.order.0 == incarnation)
    }

    fn suspect(&mut self, node: NodeId, by: NodeId, incarnation: u64, now: Instant) {
        if !self.accusable(&node, incarnation) || !self.accuse(node, by, now) {
            return;
        }
        if self.works(&node) {
            self.rows.entry(node).and_modify(|r| r.held = true);
        } else if self.credible(&node) {
            self.fall(node, now);
        }
    }

    fn death(&mut self, node: NodeId, by: NodeId, incarnation: u64, now: Instant) {
        if !self.accusable(&node, incarnation) {
            return;
        }
        self.accuse(node, by, now);
        if !self.credible(&node) {
            return;
        }
        let works = self.works(&node);
        let Some(row) = self.rows.get_mut(&node) else { return };
        let wait = Duration::from_millis(if row.accusers.len() >= 3 { 250 } else { 500 });
        let due = match (row.state, row.accused_at) {
            (MemberState::Suspect, Some(at)) => at + wait,
            _ => now + Duration::from_secs(1),
        };
        if !works && row.state == MemberState::Suspect && due <= now {
            return self.bury(node, MemberState::Dead, incarnation, now);
        }
        row.vouched = Some(row.vouched.map_or(due, |v| v.min(due)));
        if works {
            row.held = true;
        } else {
            self.fall(node, now);
        }
    }

    fn leave(&mut self, node: NodeId, incarnation: u64, now: Instant) {
        let Some(row) = self.rows.get(&node).filter(|r| incarnation >= r.order.0) else { return };
        if row.state == MemberState::Left && incarnation <= row.gone {
            return;
        }
        let gone = if row.here() { incarnation } else { incarnation.max(row.gone) };
        self.bury(node, MemberState::Left, gone, now);
    }

    /// It is there, as this node sees itself.
    fn answered(&mut self, node: NodeId, now: Instant) {
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.here()) {
            row.absolve();
            row.accusers.retain(|a| *a != me());
            row.enter(MemberState::Alive, now);
        }
    }

    fn link_up(&mut self, node: NodeId, now: Instant) {
        self.links.insert(node);
        self.answered(node, now);
    }

    /// What was held counts now.
    fn weigh(&mut self, node: NodeId, now: Instant) {
        let held = self.rows.get_mut(&node).is_some_and(|r| std::mem::take(&mut r.held));
        if held && self.credible(&node) {
            self.fall(node, now);
        }
    }

    fn link_down(&mut self, node: NodeId, loss: Loss, now: Instant) {
        self.links.remove(&node);
        let Some(row) = self.rows.get_mut(&node) else { return };
        row.doubted = false;
        if !row.here() {
            return;
        }
        self.weigh(node, now);
        if loss == Loss::Reset {
            self.miss(node, true, now);
        }
    }

    fn miss(&mut self, node: NodeId, reset: bool, now: Instant) {
        self.accuse(node, me(), now);
        if let Some(row) = self.rows.get_mut(&node) {
            (row.missed_at, row.reset, row.refused) = (Some(now), reset, false);
        }
        self.fall(node, now);
    }

    fn dial_failed(&mut self, node: NodeId, refused: bool, now: Instant) {
        let linked = self.links.contains(&node);
        let Some(row) = self.rows.get_mut(&node).filter(|r| r.here() && !linked) else { return };
        if row.missed_at.is_some() {
            row.refused |= refused;
            self.fall(node, now);
        } else if row.questioned.take().is_some_and(|until| until >= now) {
            self.miss(node, refused, now);
            if let Some(row) = self.rows.get_mut(&node) {
                row.refused = refused;
            }
            self.fall(node, now);
        }
    }

    fn request_failed(&mut self, node: NodeId, now: Instant) {
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.here() && node != me())
            && row.questioned.is_none_or(|until| until < now)
        {
            row.questioned = Some(now + Duration::from_secs(10));
        }
    }

    fn missed(&mut self, node: NodeId, now: Instant) {
        let linked = self.links.contains(&node);
        let Some(row) = self.rows.get_mut(&node).filter(|r| r.here()) else { return };
        (row.doubted, row.held) = (linked, false);
        if row.missed_at.is_none() {
            self.miss(node, false, now);
        }
    }

    fn doubted(&mut self, node: NodeId, now: Instant) {
        let linked = self.links.contains(&node);
        if let Some(row) = self.rows.get_mut(&node).filter(|r| r.here()) {
            row.doubted = linked;
            self.weigh(node, now);
        }
    }
}

#[test]
fn it_is_what_the_plain_rules_say() {
    let nodes: Vec<_> = (0..6).map(|i| node_id(&key(i))).collect();
    let start = Instant::now();
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let (mut table, mut model, mut now) = (table(), Model::default(), start);
        table.handle_input(word(me(), 1, 1), now);
        model.word(me(), (1, 1), now);
        outputs(&mut table);
        // Short enough that no credit is forgiven.
        while now < start + Duration::from_secs(59) {
            // The model looks at the clock at each step, the table when its timers say so: they are due then.
            now += rng.up_to(Duration::from_millis(if seed % 2 == 0 { 900 } else { 300 }));
            while let Some((at, _)) = table.poll_timeout().filter(|(at, _)| *at <= now) {
                table.handle_timeout(at);
                model.time(at);
                proven(&mut table, &model, at);
            }
            let node = nodes[rng.below(nodes.len())];
            let by = nodes[1 + rng.below(nodes.len() - 1)];
            let incarnation = rng.next_u64() % if seed % 3 == 0 { 40 } else { 4 };
            let incarnation = match model.rows.get(&node).filter(|_| rng.below(2) == 0) {
                Some(row) => row.order.0,
                None => incarnation,
            };
            let known = model.rows.clone();
            let (accusation, linked) = (about(node, incarnation), model.links.contains(&node));
            match rng.below(15) {
                0..=2 => {
                    let version = rng.next_u64() % 3;
                    // Its own word comes to this node from itself alone.
                    if node != me() {
                        table.handle_input(word(node, incarnation, version), now);
                        model.word(node, (incarnation, version), now);
                    }
                }
                3 | 4 => {
                    table.handle_input(Input::Suspect { accusation, record: record(by) }, now);
                    model.suspect(node, by, incarnation, now);
                }
                5 | 6 => {
                    table.handle_input(Input::Death { accusation, record: record(by) }, now);
                    model.death(node, by, incarnation, now);
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
                12 if node != me() => {
                    table.handle_input(Input::Answered(node), now);
                    model.answered(node, now);
                }
                13 if node != me() => {
                    table.handle_input(Input::Missed(node), now);
                    model.missed(node, now);
                }
                14 if node != me() => {
                    table.handle_input(Input::Doubted(node), now);
                    model.doubted(node, now);
                }
                _ => {}
            }
            let at = format!("seed {seed}, {:?}", now - start);
            compare(&table, &model, &at);
            for (node, row) in &model.rows {
                let before = known.get(node);
                let revived = before.is_some_and(|b| !b.here() && row.here());
                assert!(!revived || row.order.0 > before.map_or(0, |b| b.gone), "revived without its word, {at}");
            }
            proven(&mut table, &model, now);
        }
    }
}

fn proven(table: &mut Membership, model: &Model, now: Instant) {
    for output in outputs(table) {
        match output {
            Output::Refute(i) => assert_eq!(i.0, 1),
            Output::Accuse(a) | Output::Declare(a) => {
                assert_ne!(a.subject, me());
                table.proven(a.subject, record(me()), now);
            }
            Output::Tell { accused, .. } => assert!(model.links.contains(&accused)),
            _ => {}
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
    assert_eq!(table.gone, model.rows.values().filter(|r| !r.here()).count(), "{at}");
    for (node, row) in table.iter() {
        assert_eq!(row.gone.is_some(), matches!(row.state, MemberState::Dead | MemberState::Left), "{at}");
        if row.works() {
            assert_ne!(row.state, MemberState::Suspect, "a working link outweighs a suspicion, {at}");
        }
        assert!(*node != me() || row.is_here(), "{at}");
        let due = table.timers.due(Timer::Suspicion(*node));
        assert_eq!(due.is_some(), row.state == MemberState::Suspect, "a suspicion always ends, {at}");
    }
}
