//! Whom to ask: the best class that has somebody left, this process first, else the less loaded of two drawn at
//! random (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing").

use std::{
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{
    answer::Attempt,
    candidates::Candidate,
    eject::{Standing, Trial},
    was_tried,
};

/// What selection says.
#[derive(Debug)]
pub(crate) enum Pick {
    /// Ask this one; with the trial, if it is the first request after a rest.
    One {
        /// Who.
        index: usize,
        /// Held until the outcome is noted.
        trial: Option<Trial>,
    },
    /// Everybody who is left rests after failures; the first to be asked again, and in how long.
    AllEjected {
        /// Who.
        index: usize,
        /// How long.
        left: Duration,
    },
    /// Nobody is left.
    None,
}

/// Selects from candidates sorted by class. `draw` is 64 random bits. One that is on trial is asked only where nobody
/// else is left.
pub(crate) fn pick(candidates: &[Candidate], tried: &[Attempt], now: Instant, lane: usize, draw: u64) -> Pick {
    let mut rest: Option<(Duration, usize)> = None;
    let mut on_trial = None;
    let mut begin = 0;
    while begin < candidates.len() {
        let class = candidates[begin].class;
        let length = candidates[begin..].iter().take_while(|c| c.class == class).count();
        let range = begin..begin + length;
        // Each turn but the last finds that another lane was quicker to take a trial.
        for _ in range.clone() {
            let Some(index) = choose(candidates, range.clone(), tried, now, lane, draw) else { break };
            let outlier = &candidates[index].outlier;
            if outlier.standing(now) != Standing::Due {
                return Pick::One { index, trial: None };
            }
            if let Some(trial) = outlier.begin_trial(now) {
                return Pick::One { index, trial: Some(trial) };
            }
        }
        for index in range.clone().filter(|index| !was_tried(tried, candidates[*index].node)) {
            match candidates[index].outlier.standing(now) {
                Standing::Resting(left) => rest = Some(rest.map_or((left, index), |least| least.min((left, index)))),
                _ => on_trial = on_trial.or(Some(index)),
            }
        }
        begin = range.end;
    }
    match (on_trial, rest) {
        (Some(index), _) => Pick::One { index, trial: None },
        (None, Some((left, index))) => Pick::AllEjected { index, left },
        (None, None) => Pick::None,
    }
}

/// Among those of one class who may be asked.
fn choose(
    candidates: &[Candidate],
    range: Range<usize>,
    tried: &[Attempt],
    now: Instant,
    lane: usize,
    draw: u64,
) -> Option<usize> {
    let free = |candidate: &Candidate| {
        !was_tried(tried, candidate.node) && matches!(candidate.outlier.standing(now), Standing::Free | Standing::Due)
    };
    let idle = |candidate: &Candidate| free(candidate) && !candidate.outlier.is_busy(now);
    // Those who have enough to do, where nobody else is left.
    let all_busy = !candidates[range.clone()].iter().any(idle);
    let free = |index: &usize| {
        let candidate = &candidates[*index];
        if all_busy { free(candidate) } else { idle(candidate) }
    };
    let mut left = 0;
    for index in range.clone().filter(free) {
        if candidates[index].local {
            return Some(index);
        }
        left += 1;
    }
    if left == 0 {
        return None;
    }
    let nth = |n: usize| range.clone().filter(free).nth(n);
    // The scans can differ where a rest begins or ends between them: then the first free one will do.
    let (first, second) = two_of(left, draw);
    let (a, b) = (nth(first).or_else(|| nth(0))?, nth(second).or_else(|| nth(0))?);
    let load = |index: usize| candidates[index].outlier.in_flight(lane).load(Relaxed);
    Some(if load(b) < load(a) { b } else { a })
}

/// Two different numbers below `n` (the same one where `n` is 1), each pair as likely.
fn two_of(n: usize, draw: u64) -> (usize, usize) {
    let below = |bits: u64, n: usize| ((bits * n as u64) >> 32) as usize;
    let first = below(draw >> 32, n);
    if n < 2 {
        return (first, first);
    }
    let second = below(draw & 0xFFFF_FFFF, n - 1);
    (first, if second >= first { second + 1 } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{
        candidates::Class,
        eject::{Outliers, Weight},
        retry::FailureKind,
    };
    use crate::testing::{name, node, service};
    use http::HeaderValue;

    fn some(classes: &[(Class, bool)]) -> Vec<Candidate> {
        let outliers = Outliers::new(1);
        classes
            .iter()
            .enumerate()
            .map(|(i, (class, local))| Candidate {
                node: node(i as u8),
                name: name(&format!("w{i}")),
                header: HeaderValue::from_static("w"),
                class: *class,
                local: *local,
                outlier: outliers.get(&service("a"), node(i as u8)),
            })
            .collect()
    }

    fn chosen(pick: Pick) -> Option<usize> {
        match pick {
            Pick::One { index, .. } => Some(index),
            _ => None,
        }
    }

    fn tried(i: u8) -> Attempt {
        Attempt { node: node(i), worker: name("w"), kind: FailureKind::Broken, error: String::new(), retry_after: None }
    }

    use Class::{Degraded, Healthy, Suspect};

    #[test]
    fn local_first_then_by_class() {
        let now = Instant::now();
        let c = some(&[(Healthy, false), (Healthy, true), (Degraded, false), (Suspect, false)]);
        for draw in 0..50u64 {
            let draw = draw << 58 | draw;
            assert_eq!(chosen(pick(&c, &[], now, 0, draw)), Some(1));
            assert_eq!(chosen(pick(&c, &[tried(1)], now, 0, draw)), Some(0));
            assert_eq!(chosen(pick(&c, &[tried(1), tried(0)], now, 0, draw)), Some(2));
            assert_eq!(chosen(pick(&c, &[tried(1), tried(0), tried(2)], now, 0, draw)), Some(3));
        }
        assert!(matches!(pick(&c, &[tried(0), tried(1), tried(2), tried(3)], now, 0, 1), Pick::None));
        assert!(matches!(pick(&[], &[], now, 0, 1), Pick::None));
    }

    #[test]
    fn the_ejected_are_left_out_and_the_first_to_return_is_named() {
        let now = Instant::now();
        let c = some(&[(Healthy, false), (Healthy, false)]);
        c[0].outlier.failed(Weight::All, now);
        for draw in [0, u64::MAX, 1 << 63] {
            assert_eq!(chosen(pick(&c, &[], now, 0, draw)), Some(1));
        }
        c[1].outlier.failed(Weight::All, now + Duration::from_millis(500));
        let Pick::AllEjected { index: 0, left } = pick(&c, &[], now + Duration::from_millis(500), 0, 7) else {
            panic!("both rest, and the first is the first to return");
        };
        assert_eq!(left.as_micros().div_ceil(1000), 500);
    }

    #[test]
    fn after_a_rest_one_goes_ahead_and_the_others_keep_away() {
        let now = Instant::now();
        let c = some(&[(Healthy, true), (Healthy, false), (Degraded, false)]);
        c[0].outlier.failed(Weight::All, now);
        let now = now + Duration::from_secs(2);
        let Pick::One { index: 0, trial: Some(trial) } = pick(&c, &[], now, 0, 7) else {
            panic!("the local one has rested");
        };
        for draw in [0, u64::MAX, 1 << 63] {
            assert_eq!(chosen(pick(&c, &[], now, 0, draw)), Some(1));
            assert_eq!(chosen(pick(&c, &[tried(1)], now, 0, draw)), Some(2), "rather one of a lesser class");
            assert_eq!(chosen(pick(&c, &[tried(1), tried(2)], now, 0, draw)), Some(0), "nobody else is left");
        }
        c[0].outlier.failed(Weight::One, now);
        drop(trial);
        assert_eq!(chosen(pick(&c, &[], now, 0, 7)), Some(1), "it rests again");
    }

    #[test]
    fn the_busy_are_asked_where_all_are() {
        let now = Instant::now();
        let c = some(&[(Healthy, true), (Healthy, false), (Healthy, false)]);
        c[0].outlier.busy(now);
        c[2].outlier.busy(now);
        for draw in [0, u64::MAX, 1 << 63] {
            assert_eq!(chosen(pick(&c, &[], now, 0, draw)), Some(1));
            assert_eq!(chosen(pick(&c, &[tried(1)], now, 0, draw)), Some(0), "all are: the local one");
            assert_eq!(chosen(pick(&c, &[tried(1), tried(0)], now, 0, draw)), Some(2));
        }
        assert_eq!(chosen(pick(&c, &[], now + Duration::from_secs(1), 0, 0)), Some(0), "not for long");
    }

    /// The reference: the less loaded of the two that the draw names, among those that are free.
    #[test]
    fn the_less_loaded_of_two() {
        let c = some(&[(Healthy, false); 5]);
        let loads = [4u32, 0, 3, 9, 1];
        for (candidate, load) in c.iter().zip(loads) {
            candidate.outlier.in_flight(0).store(load, Relaxed);
        }
        let mut seen = [0u32; 5];
        let mut draw = 1u64;
        for _ in 0..20_000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (a, b) = two_of(5, draw);
            assert!(a != b && a < 5 && b < 5);
            let expected = if loads[b] < loads[a] { b } else { a };
            assert_eq!(chosen(pick(&c, &[], Instant::now(), 0, draw)), Some(expected));
            seen[expected] += 1;
        }
        assert_eq!(seen[3], 0, "the most loaded never wins a pair");
        assert!(seen[1] > 7_000, "the least loaded wins each of its pairs, 2 of 5: {seen:?}");
    }
}
