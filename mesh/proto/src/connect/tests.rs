use super::*;
use crate::testing::{key, node_id};

fn member(i: u64) -> NodeId {
    node_id(&key(i))
}

/// So many members, of whom the first ones are gateways.
fn knowing(count: u64, gateways: u64) -> Connect {
    let mut connect = Connect::new(member(999));
    for i in 0..count {
        connect.member(member(i), Some(Candidate { gateway: i < gateways, dead: false }));
    }
    connect
}

fn link_all(connect: &mut Connect, nodes: &[NodeId], now: Instant) {
    nodes.iter().for_each(|node| connect.linked(*node, now));
}

#[test]
fn neighbours_and_gateways_and_three_others() {
    let (mut connect, mut rng, now) = (knowing(20, 2), Rng::new(1), Instant::now());
    let neighbours = [member(7), member(9)];
    let dialled = connect.plan(&neighbours, &mut rng, now);
    assert_eq!(dialled.len(), 2 + 2 + OTHERS_MIN);
    assert!([0, 1, 7, 9].iter().all(|i| dialled.contains(&member(*i))));
    assert!(connect.plan(&neighbours, &mut rng, now).is_empty(), "those are under way");
    link_all(&mut connect, &dialled, now);
    assert!(connect.plan(&neighbours, &mut rng, now).is_empty(), "enough");
    for (lost, why) in [(dialled[0], "a neighbour"), (dialled[2], "a gateway")] {
        connect.unlinked(&lost);
        assert_eq!(connect.plan(&neighbours, &mut rng, now), [lost], "{why}");
        connect.linked(lost, now);
    }
    connect.unlinked(&dialled[6]);
    assert_eq!(connect.plan(&neighbours, &mut rng, now).len(), 1, "some other");
}

#[test]
fn what_a_member_was_before_counts_no_more() {
    let (mut connect, mut rng, now) = (knowing(1, 1), Rng::new(1), Instant::now());
    assert!(connect.knows_a_gateway());
    connect.member(member(0), Some(Candidate { gateway: true, dead: true }));
    assert!(!connect.knows_a_gateway());
    assert_eq!(connect.plan(&[member(0)], &mut rng, now), [member(0)], "alone, the dead are tried");
    connect.failed(member(0), &mut rng, now);
    connect.member(member(0), None);
    let later = now + BACKOFF_MAX * 2;
    assert!(connect.plan(&[member(0)], &mut rng, later).is_empty(), "departed");
    connect.member(member(0), Some(Candidate { gateway: true, dead: false }));
    assert_eq!(connect.plan(&[], &mut rng, later), [member(0)]);
}

#[test]
fn never_more_than_its_bounds() {
    let (mut connect, mut rng, now) = (knowing(60, 40), Rng::new(1), Instant::now());
    for _ in 0..20 {
        let dialled = connect.plan(&[], &mut rng, now);
        assert!(dialled.len() <= DIALS_MAX);
        link_all(&mut connect, &dialled, now);
    }
    assert_eq!(connect.linked.len(), GATEWAYS_MAX + OTHERS_MIN);
}

#[test]
fn failures_are_followed_by_longer_and_longer_pauses() {
    let (mut connect, mut rng, mut now) = (knowing(1, 0), Rng::new(1), Instant::now());
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let start = now;
        while connect.plan(&[], &mut rng, now).is_empty() {
            now += Duration::from_millis(100);
        }
        pauses.push(now - start);
        connect.failed(member(0), &mut rng, now);
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1] < Duration::from_secs(2));
    assert!(pauses[9] > BACKOFF_MAX / 2 && pauses[9] <= BACKOFF_MAX * 5 / 4 + Duration::from_secs(1), "{pauses:?}");
    connect.linked(member(0), now);
    connect.unlinked(&member(0));
    assert_eq!(connect.plan(&[], &mut rng, now).len(), 1, "forgiven once connected");
}

#[test]
fn of_too_many_connections_the_needless_old_ones_go() {
    let (mut connect, mut rng, now) = (knowing(60, 2), Rng::new(1), Instant::now());
    let peers: Vec<_> = (0..40).map(member).collect();
    link_all(&mut connect, &peers, now);
    let needed = [member(5), member(6)];
    let needs = |node: &NodeId| needed.contains(node);
    assert!(connect.surplus(false, &mut rng, now + KEPT_FOR / 2, needs).is_empty(), "too young");
    connect.linked(member(50), now + KEPT_FOR);
    let mut kept: BTreeSet<_> = connect.linked.keys().copied().collect();
    while let [node] = connect.surplus(false, &mut rng, now + KEPT_FOR, needs)[..] {
        assert!(!needs(&node) && node != member(0) && node != member(1) && node != member(50), "{node}");
        connect.unlinked(&node);
        kept.remove(&node);
    }
    assert_eq!(kept.len(), OTHERS_KEEP + 2 + needed.len());
    assert!(connect.linked.keys().eq(kept.iter()));
}

#[test]
fn a_hub_always_has_room_for_newcomers() {
    let (mut connect, mut rng, mut now) = (knowing(300, 2), Rng::new(1), Instant::now());
    link_all(&mut connect, &(0..256).map(member).collect::<Vec<_>>(), now);
    let needed = member(7);
    let mut seconds = 0;
    while connect.linked.len() > HUB_KEEPS {
        for node in connect.surplus(true, &mut rng, now, |n| *n == needed) {
            assert!(node != needed && node != member(0) && node != member(1));
            connect.unlinked(&node);
        }
        (now, seconds) = (now + Duration::from_secs(1), seconds + 1);
        assert!(seconds <= 18, "soon");
    }
    assert!(connect.surplus(true, &mut rng, now, |_| false).is_empty(), "and no more than that");
}

#[test]
fn whom_a_gateway_turned_away_does_not_come_back_at_once() {
    let (mut connect, mut rng, now) = (knowing(20, 2), Rng::new(1), Instant::now());
    link_all(&mut connect, &(0..8).map(member).collect::<Vec<_>>(), now);
    connect.unlinked(&member(0));
    connect.turned_away(member(0), &mut rng, now);
    assert!(!connect.plan(&[], &mut rng, now + TURNED_AWAY / 2).contains(&member(0)));
    assert!(connect.plan(&[member(0)], &mut rng, now).contains(&member(0)), "but for a reason of its own");
    connect.linked(member(0), now);
    connect.unlinked(&member(0));
    connect.turned_away(member(0), &mut rng, now);
    assert!(connect.plan(&[], &mut rng, now + TURNED_AWAY * 2).contains(&member(0)));
    connect.unlinked(&member(1));
    connect.turned_away(member(1), &mut rng, now);
    assert!(!connect.plan(&[], &mut rng, now + TURNED_AWAY_BY_ALL / 2).contains(&member(1)));
    assert!(connect.plan(&[], &mut rng, now + TURNED_AWAY_BY_ALL * 2).contains(&member(1)), "there is no other one");
}

#[test]
fn an_unanswered_dial_is_given_up() {
    let (mut connect, now) = (Connect::new(node_id(&key(99))), Instant::now());
    let peer = node_id(&key(1));
    assert!(connect.start(peer, now));
    assert!(!connect.start(peer, now + DIAL_GIVEN_UP / 2));
    assert!(connect.start(peer, now + DIAL_GIVEN_UP));
}

#[test]
fn the_dead_are_tried_now_and_then() {
    let (mut connect, mut rng, mut now) = (knowing(1, 1), Rng::new(1), Instant::now());
    for i in 1..5 {
        connect.member(member(i), Some(Candidate { gateway: false, dead: true }));
    }
    connect.linked(member(0), now);
    let mut dialled = 0;
    for _ in 0..60 {
        let tried = connect.plan(&[], &mut rng, now);
        assert!(tried.len() <= 1);
        dialled += tried.len();
        tried.into_iter().for_each(|n| connect.failed(n, &mut rng, now));
        now += Duration::from_secs(1);
    }
    assert!((6..=16).contains(&dialled), "{dialled} in a minute");
    // Alone, there is nothing better to do.
    connect.unlinked(&member(0));
    connect.member(member(0), None);
    assert_eq!(connect.plan(&[], &mut rng, now + BACKOFF_MAX * 2).len(), 1);
}
