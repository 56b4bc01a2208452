use std::time::Instant;

use super::*;
use crate::envelope::{Kind, Signed};
use crate::id::{Incarnation, Role};
use crate::node::tests::net::manifest;
use crate::testing::{key, node_id};
use crate::view::MemberState;

fn row(node: NodeId, name: &str, state: MemberState) -> Row {
    let now = Instant::now();
    let manifest = Arc::new(manifest(node, name, &[Role::Worker], &[]));
    let record = Arc::new(Signed::raw(node, Kind::Manifest, Vec::new(), [0; 32]));
    let mut row = Row::alive(manifest, record, now);
    row.state = state;
    row.gone = matches!(state, MemberState::Dead | MemberState::Left).then_some(Incarnation(1));
    row
}

fn three() -> [NodeId; 3] {
    let mut nodes = [node_id(&key(1)), node_id(&key(2)), node_id(&key(3))];
    nodes.sort();
    nodes
}

fn shown(roster: &Roster) -> Vec<String> {
    roster.members().values().map(|m| m.name.to_string()).collect()
}

#[test]
fn the_first_of_several_keeps_the_name() {
    let [a, b, c] = three();
    let mut roster = Roster::default();
    assert_eq!(roster.update(b, Some(&row(b, "box", MemberState::Alive))), [b]);
    assert_eq!(shown(&roster), ["box"]);
    assert_eq!(roster.update(c, Some(&row(c, "box", MemberState::Alive))), [c]);
    assert_eq!(shown(&roster), ["box".to_owned(), format!("box-{}", c.short())]);
    assert_eq!(roster.update(a, Some(&row(a, "box", MemberState::Alive))), [a, b], "who had it has a suffix now");
    assert_eq!(shown(&roster)[0], "box");
    assert_eq!(shown(&roster)[1], format!("box-{}", b.short()));
    assert_eq!(roster.update(a, None), [a, b]);
    assert_eq!(roster.update(b, Some(&row(b, "other", MemberState::Alive))), [b, c]);
    assert_eq!(shown(&roster), ["other", "box"]);
}

#[test]
fn the_gone_give_way() {
    let [a, b, _] = three();
    let mut roster = Roster::default();
    roster.update(a, Some(&row(a, "box", MemberState::Alive)));
    roster.update(b, Some(&row(b, "box", MemberState::Alive)));
    let changed = roster.update(a, Some(&row(a, "box", MemberState::Dead)));
    assert_eq!(changed, [a, b]);
    assert_eq!(shown(&roster), [format!("box-{}", a.short()), "box".to_owned()]);
    roster.update(a, Some(&row(a, "box", MemberState::Suspect)));
    assert_eq!(shown(&roster), ["box".to_owned(), format!("box-{}", b.short())]);
}

#[test]
fn a_long_name_stays_a_name() {
    let [a, b, _] = three();
    let mut roster = Roster::default();
    let name = "x".repeat(NAME_BYTES_MAX);
    roster.update(a, Some(&row(a, &name, MemberState::Alive)));
    roster.update(b, Some(&row(b, &name, MemberState::Alive)));
    let shown = shown(&roster);
    assert_eq!(shown[0], name);
    assert_eq!(shown[1].len(), NAME_BYTES_MAX);
    assert!(shown[1].ends_with(&format!("-{}", b.short())));
}
