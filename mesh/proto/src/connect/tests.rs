use super::*;
use crate::testing::{key, node_id};

fn members(count: u64, gateways: u64) -> Vec<Candidate> {
    let member = |i| Candidate { node: node_id(&key(i)), gateway: i < gateways, dead: false };
    (0..count).map(member).collect()
}

#[test]
fn all_gateways_and_three_others() {
    let (mut connect, mut rng) = (Connect::new(node_id(&key(99))), Rng::new(1));
    let (members, now) = (members(20, 2), Instant::now());
    let dialled = connect.plan(&members, &BTreeSet::new(), &mut rng, now);
    assert_eq!(dialled.len(), 2 + OTHERS_MIN);
    assert!(members.iter().filter(|c| c.gateway).all(|c| dialled.contains(&c.node)));
    assert!(connect.plan(&members, &BTreeSet::new(), &mut rng, now).is_empty(), "those are under way");
    let links: BTreeSet<_> = dialled.iter().copied().collect();
    dialled.iter().for_each(|n| connect.linked(n));
    assert!(connect.plan(&members, &links, &mut rng, now).is_empty(), "enough");
    let fewer = links.iter().copied().skip(1).collect();
    assert_eq!(connect.plan(&members, &fewer, &mut rng, now).len(), 1);
}

#[test]
fn never_more_than_its_bounds() {
    let (mut connect, mut rng) = (Connect::new(node_id(&key(99))), Rng::new(1));
    let (members, now) = (members(60, 40), Instant::now());
    let mut links = BTreeSet::new();
    for _ in 0..20 {
        let dialled = connect.plan(&members, &links, &mut rng, now);
        assert!(dialled.len() <= DIALS_MAX);
        dialled.iter().for_each(|n| connect.linked(n));
        links.extend(dialled);
    }
    assert_eq!(links.len(), GATEWAYS_MAX + OTHERS_MIN);
}

#[test]
fn failures_are_followed_by_longer_and_longer_pauses() {
    let (mut connect, mut rng) = (Connect::new(node_id(&key(99))), Rng::new(1));
    let members = members(1, 0);
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let start = now;
        while connect.plan(&members, &BTreeSet::new(), &mut rng, now).is_empty() {
            now += Duration::from_millis(100);
        }
        pauses.push(now - start);
        connect.failed(members[0].node, &mut rng, now);
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1] < Duration::from_secs(2));
    assert!(pauses[9] > BACKOFF_MAX / 2 && pauses[9] <= BACKOFF_MAX * 5 / 4 + Duration::from_secs(1), "{pauses:?}");
    connect.linked(&members[0].node);
    assert_eq!(connect.plan(&members, &BTreeSet::new(), &mut rng, now).len(), 1, "forgiven once connected");
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
    let (mut connect, mut rng) = (Connect::new(node_id(&key(99))), Rng::new(1));
    let mut members = members(5, 1);
    members.iter_mut().skip(1).for_each(|c| c.dead = true);
    let links = BTreeSet::from([members[0].node]);
    let (mut now, mut dialled) = (Instant::now(), 0);
    for _ in 0..60 {
        let tried = connect.plan(&members, &links, &mut rng, now);
        assert!(tried.len() <= 1);
        dialled += tried.len();
        tried.into_iter().for_each(|n| connect.failed(n, &mut rng, now));
        now += Duration::from_secs(1);
    }
    assert!((6..=16).contains(&dialled), "{dialled} in a minute");
    // Alone, there is nothing better to do.
    let alone = connect.plan(&members[1..], &BTreeSet::new(), &mut Rng::new(2), now + BACKOFF_MAX * 2);
    assert_eq!(alone.len(), 1);
}
