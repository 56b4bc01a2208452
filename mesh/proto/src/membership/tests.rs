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
    Membership::new(Config { me: me(), suspicion: SUSPICION, tombstone: TOMBSTONE, settled: None, seed: 1 })
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

mod model;

#[test]
fn whoever_speaks_first_spares_the_others_the_word() {
    let (node, now) = (node_id(&key(1)), Instant::now());
    let mut table = table();
    for i in 0..9 {
        table.handle_input(word(node_id(&key(i)), 1, 1), now);
    }
    table.handle_input(Input::LinkUp(node), now);
    table.handle_input(Input::LinkDown { peer: node, loss: Loss::Reset }, now);
    assert!(outputs(&mut table).contains(&Output::Accuse(about(node, 1))));
    let ours = record(me());
    table.proven(node, ours, now);
    for accuser in 2..5 {
        let theirs = Input::Suspect { accusation: about(node, 1), record: record(node_id(&key(accuser))) };
        assert_eq!(table.handle_input(theirs.clone(), now), Outcome::News, "passed on, three of them in place of ours");
        assert_eq!(table.handle_input(theirs, now), Outcome::Nothing);
    }
    let fourth = Input::Suspect { accusation: about(node, 1), record: record(node_id(&key(5))) };
    assert_eq!(table.handle_input(fourth, now), Outcome::Nothing, "enough");
    table.handle_timeout(now + PUBLISH_JITTER);
    assert!(!outputs(&mut table).iter().any(|o| matches!(o, Output::Publish(_))));

    let over = now + SUSPICION / 3;
    table.handle_timeout(over);
    assert!(outputs(&mut table).contains(&Output::Declare(about(node, 1))));
    table.proven(node, record(me()), over);
    let late = Input::Suspect { accusation: about(node, 1), record: record(node_id(&key(2))) };
    assert_eq!(table.handle_input(late, over), Outcome::Nothing, "a suspicion does not stand for a death");
    table.handle_timeout(over + PUBLISH_JITTER);
    assert!(outputs(&mut table).iter().any(|o| matches!(o, Output::Publish(_))));
}

#[test]
fn a_suspicion_is_shorter_the_more_confirm_it() {
    let now = Instant::now();
    let after = |members: u64, accusers: u64, health| {
        let (mut table, node) = (table(), node_id(&key(1)));
        (0..members).for_each(|i| _ = table.handle_input(word(node_id(&key(i)), 1, 1), now));
        table.handle_input(Input::Health(health), now);
        table.handle_input(Input::Missed(node), now);
        for i in 2..2 + accusers {
            let record = record(node_id(&key(i)));
            table.handle_input(Input::Suspect { accusation: about(node, 1), record }, now);
        }
        let mut at = now;
        while table.get(&node).is_some_and(Row::is_here) {
            at += Duration::from_millis(10);
            table.handle_timeout(at);
        }
        (at - now).as_millis()
    };
    assert_eq!(after(9, 0, 1), 3_000);
    assert_eq!(after(9, 1, 1), 1_740, "by the logarithm");
    assert_eq!(after(9, 2, 1), 1_000);
    assert_eq!(after(9, 3, 1), 1_000, "never shorter");
    assert_eq!(after(3, 1, 1), 1_000, "all who can have said it");
    assert_eq!(after(2, 0, 1), 2_000, "nobody else can");
    assert_eq!(after(9, 0, 4), 12_000, "whoever doubts itself waits longer");
}

#[test]
fn a_killed_process_is_dead_at_once() {
    let (mut table, node, now) = (table(), node_id(&key(1)), Instant::now());
    table.handle_input(word(node, 1, 1), now);
    table.handle_input(Input::LinkUp(node), now);
    table.handle_input(Input::LinkDown { peer: node, loss: Loss::Reset }, now);
    table.handle_input(Input::DialFailed { peer: node, refused: true }, now + Duration::from_millis(5));
    table.handle_timeout(now + Duration::from_millis(299));
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Suspect));
    table.handle_timeout(now + Duration::from_millis(300));
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Dead));
}

#[test]
fn whoever_slept_lets_nobody_die() {
    let (mut table, node, now) = (table(), node_id(&key(1)), Instant::now());
    table.handle_input(word(node, 1, 1), now);
    table.handle_input(Input::Missed(node), now);
    let woken = now + Duration::from_secs(60);
    table.handle_input(Input::Awake, woken);
    for s in 0..30 {
        table.handle_timeout(woken + Duration::from_secs(s));
        assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Suspect));
    }
    table.handle_input(Input::Trusted, woken + Duration::from_secs(30));
    table.handle_timeout(woken + Duration::from_secs(33));
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Dead), "but not for ever");
}

#[test]
fn a_liar_is_not_believed_alone_any_more() {
    let (mut table, liar, now) = (table(), node_id(&key(5)), Instant::now());
    let node = node_id(&key(1));
    for i in 0..9 {
        table.handle_input(word(node_id(&key(i)), 1, 1), now);
    }
    let mut incarnation = 1;
    let mut suspected = |table: &mut Membership| {
        let suspect = Input::Suspect { accusation: about(node, incarnation), record: record(liar) };
        let death = Input::Death { accusation: about(node, incarnation), record: record(liar) };
        let outcomes = [table.handle_input(suspect, now), table.handle_input(death, now)];
        let state = table.get(&node).map(|r| r.state);
        incarnation += 1;
        table.handle_input(word(node, incarnation, 1), now);
        (outcomes, state)
    };
    for _ in 0..credit::CREDIT_MAX {
        assert_eq!(suspected(&mut table), ([Outcome::News; 2], Some(MemberState::Suspect)));
    }
    assert_eq!(suspected(&mut table), ([Outcome::Nothing; 2], Some(MemberState::Alive)));
    // With another one who says so, it counts.
    let suspect = |by| Input::Suspect { accusation: about(node, 6), record: record(by) };
    assert_eq!(table.handle_input(suspect(liar), now), Outcome::Nothing);
    assert_eq!(table.handle_input(suspect(node_id(&key(6))), now), Outcome::News);
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Suspect));
}

#[test]
fn refutations_are_few_and_none_is_forgotten() {
    let (mut table, start) = (table(), Instant::now());
    table.handle_input(word(me(), 1, 1), start);
    outputs(&mut table);
    let (mut refuted, mut incarnation) = (0, 1);
    for step in 0..400 {
        let now = start + Duration::from_millis(50) * step;
        let accused = Input::Suspect { accusation: about(me(), incarnation), record: record(node_id(&key(1))) };
        table.handle_timeout(now);
        if refuted == 0 || step % 2 == 0 {
            table.handle_input(accused, now);
        }
        for output in outputs(&mut table).into_iter().take(1) {
            assert_eq!(output, Output::Refute(Incarnation(incarnation)));
            incarnation += 1;
            refuted += 1;
            table.handle_input(word(me(), incarnation, 1), now);
            outputs(&mut table);
        }
    }
    assert!((20..=26).contains(&refuted), "{refuted} in 20 seconds");
    assert!(table.timers.due(Timer::Refute).is_some());
}

#[test]
fn an_own_connection_is_questioned_before_it_is_given_up() {
    let (mut table, node, now) = (table(), node_id(&key(1)), Instant::now());
    for i in 0..9 {
        table.handle_input(word(node_id(&key(i)), 1, 1), now);
    }
    table.handle_input(Input::LinkUp(node), now);
    outputs(&mut table);
    let accused = |table: &mut Membership, by, at| {
        let record = record(node_id(&key(by)));
        table.handle_input(Input::Suspect { accusation: about(node, 1), record: record.clone() }, at);
        table.handle_input(Input::Death { accusation: about(node, 1), record }, at);
        let questioned = outputs(table).iter().filter(|o| **o == Output::Question(node)).count();
        (questioned, table.get(&node).map(|r| r.state))
    };
    assert_eq!(accused(&mut table, 2, now), (2, Some(MemberState::Alive)));
    let later = now + QUESTION_AGAIN;
    table.handle_timeout(later);
    assert_eq!(outputs(&mut table), [Output::Question(node)], "until there is an answer");
    table.handle_input(Input::Answered(node), later);
    assert!(matches!(outputs(&mut table)[..], [Output::Tell { accused, .. }] if accused == node));
    table.handle_timeout(later + QUESTION_AGAIN * 3);
    assert!(outputs(&mut table).is_empty());
    assert_eq!(accused(&mut table, 3, later), (2, Some(MemberState::Alive)));
    table.handle_input(Input::Doubted(node), later);
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Suspect));
    table.handle_timeout(later + SUSPICION / 3);
    assert_eq!(table.get(&node).map(|r| r.state), Some(MemberState::Dead), "the death was held, and counts");
}

#[test]
fn the_accused_is_told_once_over_the_link() {
    let (node, now) = (node_id(&key(1)), Instant::now());
    let mut table = table();
    table.handle_input(word(node, 1, 1), now);
    table.handle_input(Input::LinkUp(node), now);
    outputs(&mut table);
    for _ in 0..3 {
        let record = record(node_id(&key(2)));
        table.handle_input(Input::Death { accusation: about(node, 1), record }, now);
        table.handle_input(Input::Answered(node), now);
    }
    let told = outputs(&mut table).iter().filter(|o| matches!(o, Output::Tell { .. })).count();
    assert_eq!(told, 1);
    table.handle_input(word(node, 2, 1), now);
    table.handle_input(Input::Suspect { accusation: about(node, 2), record: record(node_id(&key(2))) }, now);
    table.handle_input(Input::Answered(node), now);
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
