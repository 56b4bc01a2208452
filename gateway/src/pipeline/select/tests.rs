use std::sync::Arc;

use paceline_mesh::data::PathKind;
use paceline_proto::{manifest::Health, view::MemberState};

use super::*;
use crate::{
    metrics::ServiceStats,
    pipeline::{
        candidates::{self, Here},
        eject::{Outliers, Weight},
        retry::FailureKind,
    },
    testing::{ViewBuilder, name, node, service, view},
};

/// Node 0 is the viewer; `local` where it can be asked.
fn routed(local: bool, describe: impl FnOnce(&mut ViewBuilder)) -> Route {
    let view = view(describe);
    let outliers = Outliers::new(1);
    let here = Here { has_local: local, outliers: &outliers, first_byte: Duration::from_secs(60) };
    let stats = Arc::new(ServiceStats::new(1));
    candidates::route(&view, &service("a"), &view.services["a"], &here, stats)
}

/// `n` healthy ones of one site.
fn equals(n: u8) -> Route {
    routed(true, |v| {
        for n in 1..=n {
            v.offer(n, "a", Health::Healthy);
        }
    })
}

fn tried(n: u8) -> Attempt {
    Attempt {
        node: node(n),
        worker: name("w"),
        path: PathKind::Direct,
        kind: FailureKind::Broken,
        error: String::new(),
        retry_after: None,
        excludes: true,
    }
}

fn ask(tried: &[Attempt], now: Instant, draw: u64) -> Ask<'_> {
    Ask { tried, with: None, now, lane: 0, draw, key: None }
}

/// The number of the node that is picked.
fn chosen(route: &Route, ask: &Ask<'_>) -> Option<u8> {
    match pick(route, ask) {
        Pick::One { index, .. } => Some(route.candidates[index].node.as_bytes()[0]),
        _ => None,
    }
}

fn of(route: &Route, n: u8) -> &Candidate {
    route.candidates.iter().find(|candidate| candidate.node == node(n)).expect("a candidate")
}

/// Gives a worker requests, after one that took so long.
fn load(route: &Route, n: u8, now: Instant, took_us: f64, in_flight: u32) {
    let outlier = &of(route, n).outlier;
    let (load, us) = (outlier.load(0), outlier.us(now));
    for _ in 0..in_flight.max(1) {
        load.begin(us);
        load.heard(us, took_us);
    }
    if in_flight == 0 {
        load.end();
    }
}

fn draws() -> impl Iterator<Item = u64> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ (state >> 31)
    })
    .take(2_000)
}

fn somewhere() -> Route {
    routed(true, |v| {
        v.offer(0, "a", Health::Healthy).offer(1, "a", Health::Healthy).offer(2, "a", Health::Healthy).site(2, "far");
        v.offer(3, "a", Health::Degraded).offer(4, "a", Health::Healthy).state(4, MemberState::Suspect);
    })
}

#[test]
fn nearest_first_then_by_class() {
    let (route, now) = (somewhere(), Instant::now());
    for draw in draws().take(50) {
        let mut before = Vec::new();
        for n in [0, 1, 2, 3, 4] {
            assert_eq!(chosen(&route, &ask(&before, now, draw)), Some(n));
            before.push(tried(n));
        }
        assert!(matches!(pick(&route, &ask(&before, now, draw)), Pick::None));
    }
    let nobody = routed(false, |v| {
        v.offer(0, "a", Health::Healthy);
    });
    assert!(matches!(pick(&nobody, &ask(&[], now, 1)), Pick::None));
}

#[test]
fn a_loaded_worker_spills_over_and_an_idle_one_does_not() {
    let now = Instant::now();
    for (near, far, expected, why) in [
        ((1_000.0, 0), (1_000.0, 0), 0, "idle"),
        ((900_000.0, 0), (1_000.0, 0), 0, "slow, but it has nothing to do"),
        ((1_000.0, 2), (1_000.0, 0), 0, "three times the far one's at most"),
        ((1_000.0, 3), (1_000.0, 0), 1, "four times"),
        ((1_000.0, 9), (4_000.0, 0), 0, "the way costs too"),
        ((1_000.0, 20), (4_000.0, 0), 1, "but not that much"),
        ((1_000.0, 20), (4_000.0, 5), 0, "nor when it is loaded itself"),
    ] {
        let route = routed(true, |v| {
            v.offer(0, "a", Health::Healthy).offer(1, "a", Health::Healthy);
        });
        load(&route, 0, now, near.0, near.1);
        load(&route, 1, now, far.0, far.1);
        assert_eq!(chosen(&route, &ask(&[], now, 1)), Some(expected), "{why}");
    }
    let route = somewhere();
    load(&route, 0, now, 1_000.0, 30);
    load(&route, 1, now, 1_000.0, 7);
    assert_eq!(chosen(&route, &ask(&[], now, 1)), Some(2), "on to another site");
    load(&route, 2, now, 1_000.0, 2);
    assert_eq!(chosen(&route, &ask(&[], now, 1)), Some(1), "or not so far");
}

#[test]
fn the_ejected_are_left_out_and_the_first_to_return_is_named() {
    let now = Instant::now();
    let route = equals(2);
    of(&route, 1).outlier.failed(Weight::All, now);
    for draw in draws().take(50) {
        assert_eq!(chosen(&route, &ask(&[], now, draw)), Some(2));
    }
    let later = now + Duration::from_millis(500);
    of(&route, 2).outlier.failed(Weight::All, later);
    let Pick::AllEjected { index, left } = pick(&route, &ask(&[], later, 7)) else {
        panic!("both rest, and the first is the first to return");
    };
    assert_eq!((route.candidates[index].node, left.as_micros().div_ceil(1000)), (node(1), 500));
}

#[test]
fn after_a_rest_one_goes_ahead_and_the_others_keep_away() {
    let now = Instant::now();
    let route = somewhere();
    of(&route, 0).outlier.failed(Weight::All, now);
    let now = now + Duration::from_secs(2);
    let Pick::One { index: 0, trial: Some(trial) } = pick(&route, &ask(&[], now, 7)) else {
        panic!("the own one has rested");
    };
    let mut before = Vec::new();
    for n in [1, 2, 3, 4] {
        assert_eq!(chosen(&route, &ask(&before, now, 7)), Some(n), "rather anybody else");
        before.push(tried(n));
    }
    assert_eq!(chosen(&route, &ask(&before, now, 7)), Some(0), "nobody else is left");
    of(&route, 0).outlier.failed(Weight::One, now);
    drop(trial);
    assert_eq!(chosen(&route, &ask(&[], now, 7)), Some(1), "it rests again");
}

#[test]
fn the_busy_are_waited_for_where_all_are() {
    let now = Instant::now();
    let route = routed(true, |v| {
        v.offer(0, "a", Health::Healthy).offer(1, "a", Health::Healthy).offer(2, "a", Health::Healthy).admit(2, 2);
        v.offer(4, "a", Health::Healthy).state(4, MemberState::Suspect);
    });
    of(&route, 0).outlier.busy(now);
    load(&route, 2, now, 1_000.0, 2);
    for draw in draws().take(50) {
        assert_eq!(chosen(&route, &ask(&[], now, draw)), Some(1));
    }
    let Pick::AllBusy { left: Some(left) } = pick(&route, &ask(&[tried(1)], now, 7)) else {
        panic!("the own one may be free soon; one who is suspected is no way out");
    };
    assert!(left > Duration::from_millis(200), "{left:?}");
    let Pick::AllBusy { left: None } = pick(&route, &ask(&[tried(0), tried(1)], now, 7)) else {
        panic!("full, until a request ends");
    };
    let before = [tried(0), tried(1), tried(2)];
    assert_eq!(chosen(&route, &ask(&before, now, 7)), Some(4), "who was tried is not waited for");
    assert_eq!(chosen(&route, &ask(&[], now + Duration::from_secs(1), 0)), Some(0), "not for long");
}

#[test]
fn a_service_that_wants_time_is_asked_where_all_do() {
    let now = Instant::now();
    let route = somewhere();
    of(&route, 0).outlier.shy(now, Duration::from_secs(5));
    assert_eq!(chosen(&route, &ask(&[], now, 7)), Some(1));
    for n in [1, 2, 3] {
        of(&route, n).outlier.shy(now, Duration::from_secs(5));
    }
    assert_eq!(chosen(&route, &ask(&[], now, 7)), Some(0), "before a suspect");
    assert_eq!(chosen(&route, &ask(&[], now + Duration::from_secs(5), 7)), Some(0));
}

/// The reference: the less loaded of the two that the draw names, among those that are free.
#[test]
fn the_better_of_two() {
    let route = equals(5);
    let now = Instant::now();
    let loads = [4u32, 0, 3, 9, 1];
    for (n, in_flight) in (1..).zip(loads) {
        load(&route, n, now, 1_000.0, in_flight);
    }
    let mut seen = [0u32; 5];
    for draw in draws() {
        let (a, b) = two_of(5, draw);
        assert!(a != b && a < 5 && b < 5);
        let expected = if loads[b] < loads[a] { b } else { a };
        assert_eq!(chosen(&route, &ask(&[], now, draw)), Some(expected as u8 + 1));
        seen[expected] += 1;
    }
    assert_eq!(seen[3], 0, "the most loaded never wins a pair");
    assert!(seen[1] > 700, "the least loaded wins each of its pairs, 2 of 5: {seen:?}");
    of(&route, 2).outlier.failed(Weight::All, now);
    for draw in draws() {
        assert!(matches!(chosen(&route, &ask(&[tried(5)], now, draw)), Some(1 | 3)), "the draw is among the others");
    }
}

#[test]
fn one_key_stays_with_one_worker_until_that_has_its_share() {
    let now = Instant::now();
    let route = routed(true, |v| {
        for n in 0..8 {
            v.offer(n, "a", Health::Healthy).site(n, if n < 4 { "here" } else { "there" });
        }
    });
    let keyed = |key: u64, tried: &[Attempt]| {
        chosen(&route, &Ask { key: Some(key), ..ask(tried, now, key.wrapping_mul(7)) }).expect("somebody")
    };
    let mut firsts = [0; 8];
    for key in 0..400 {
        let first = keyed(key, &[]);
        firsts[usize::from(first)] += 1;
        assert_eq!(keyed(key, &[]), first);
        let second = keyed(key, &[tried(first)]);
        assert_ne!(second, first);
        of(&route, first).outlier.failed(Weight::All, now);
        assert_eq!(keyed(key, &[]), second, "the key's own second");
        of(&route, first).outlier.succeeded();
    }
    assert!(firsts.iter().all(|n| (20..90).contains(n)), "however far away: {firsts:?}");
    let first = keyed(1, &[]);
    load(&route, first, now, 1_000.0, 4);
    assert_ne!(keyed(1, &[]), first, "it has its share");
}
