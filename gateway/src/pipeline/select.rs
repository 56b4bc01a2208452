//! Whom to ask, as pure functions over what is known.
//!
//! Class before distance, distance before load: a healthy worker before a degraded one, within that this process before
//! its site, and its site before others, unless the nearer one is *loaded*: it has requests already, and its score is
//! more than [`SPILL`] times that of the best drawn farther away. Among equals, the better of two drawn at random
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"), by the score of [`super::load`]. With a key,
//! the first in the key's own order that has not more than its share ([`super::affinity`]).
//!
//! Left out as long as others are there: who was tried, who rests after failures ([`super::eject`]), whose service
//! asked for time, who has enough to do.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    affinity,
    answer::Attempt,
    candidates::{Candidate, Class, Group, Route},
    eject::{Standing, Trial},
};
use paceline_proto::id::NodeId;

/// How many times better a farther worker must be than a nearer one that has requests already.
pub(crate) const SPILL: f64 = 3.0;
/// How often another lane may be quicker to take a trial.
const TURNS_MAX: usize = 4;

/// What is asked.
pub(crate) struct Ask<'a> {
    pub(crate) tried: &'a [Attempt],
    /// Who has the request already.
    pub(crate) with: Option<NodeId>,
    pub(crate) now: Instant,
    pub(crate) lane: usize,
    /// 64 random bits.
    pub(crate) draw: u64,
    /// Of a request that is kept together with others.
    pub(crate) key: Option<u64>,
}

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
    /// Everybody who may be asked has enough to do.
    AllBusy {
        /// How long the first of them counts as busy; `None`: until a request of this gateway ends.
        left: Option<Duration>,
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

/// Selects. One that is on trial is asked only where nobody else is left.
pub(crate) fn pick(route: &Route, ask: &Ask<'_>) -> Pick {
    let look = Look { candidates: &route.candidates, ask, typical_us: route.stats.typical.us() };
    // Suspects by themselves: rather wait for somebody who is there than ask somebody who may not be.
    let suspects = route.groups.iter().position(|group| group.class == Class::Suspect).unwrap_or(route.groups.len());
    let (certain, suspect) = route.groups.split_at(suspects);
    for groups in [certain, suspect] {
        for shy in [false, true] {
            for class in groups.chunk_by(|a, b| a.class == b.class) {
                if let Some(pick) = look.in_class(class, shy) {
                    return pick;
                }
            }
        }
        let busy = |group: &Group| look.soonest(group.range.clone());
        if let Some(left) = groups.iter().filter_map(busy).min() {
            return Pick::AllBusy { left: (left < Duration::MAX).then_some(left) };
        }
    }
    look.nobody_free()
}

struct Look<'a> {
    candidates: &'a [Candidate],
    ask: &'a Ask<'a>,
    typical_us: f64,
}

impl Look<'_> {
    fn in_class(&self, groups: &[Group], shy: bool) -> Option<Pick> {
        for _ in 0..TURNS_MAX {
            let index = match self.ask.key {
                None => self.nearest(groups, shy)?,
                Some(key) => self.of_key(groups, key, shy)?,
            };
            let outlier = &self.candidates[index].outlier;
            if outlier.standing(self.ask.now) != Standing::Due {
                return Some(Pick::One { index, trial: None });
            }
            // Else another lane was quicker: now it is on trial, and not drawn again.
            if let Some(trial) = outlier.begin_trial(self.ask.now) {
                return Some(Pick::One { index, trial: Some(trial) });
            }
        }
        None
    }

    fn nearest(&self, groups: &[Group], shy: bool) -> Option<usize> {
        let mut loaded: Option<(usize, f64)> = None;
        for group in groups {
            let Some(index) = self.of_two(group.range.clone(), shy) else { continue };
            if groups.len() == 1 {
                return Some(index);
            }
            let score = self.score(index);
            if let Some((near, near_score)) = loaded
                && near_score <= SPILL * score
            {
                return Some(near);
            }
            if self.candidates[index].outlier.load(self.ask.lane).in_flight() == 0 {
                return Some(index);
            }
            loaded = Some((index, score));
        }
        loaded.map(|(index, _)| index)
    }

    /// The better of two that may be asked.
    fn of_two(&self, range: Range<usize>, shy: bool) -> Option<usize> {
        let (first, second) = two_of(range.len(), self.ask.draw);
        let (a, b) = (range.start + first, range.start + second);
        if range.is_empty() {
            return None;
        }
        if self.is_free(a, shy) && self.is_free(b, shy) {
            return Some(self.better(a, b));
        }
        // Some of them may not: drawn again among the others.
        let free = |index: &usize| self.is_free(*index, shy);
        let left = range.clone().filter(free).count();
        if left == 0 {
            return None;
        }
        let nth = |n: usize| range.clone().filter(free).nth(n);
        let (first, second) = two_of(left, self.ask.draw);
        // The looks can differ where a rest begins or ends between them: then the first free one will do.
        let (a, b) = (nth(first).or_else(|| nth(0))?, nth(second).or_else(|| nth(0))?);
        Some(self.better(a, b))
    }

    fn better(&self, a: usize, b: usize) -> usize {
        if a != b && self.score(b) < self.score(a) { b } else { a }
    }

    fn score(&self, index: usize) -> f64 {
        let outlier = &self.candidates[index].outlier;
        outlier.load(self.ask.lane).score(outlier.us(self.ask.now), self.typical_us)
    }

    /// In the key's order, whoever has not more than its share; however far away, so that all gateways agree.
    fn of_key(&self, groups: &[Group], key: u64, shy: bool) -> Option<usize> {
        let free = || groups.iter().flat_map(|group| group.range.clone()).filter(|index| self.is_free(*index, shy));
        let load = |index: usize| self.candidates[index].outlier.load(self.ask.lane).in_flight();
        let (count, sum) = free().fold((0, 0), |(n, sum), index| (n + 1, sum + u64::from(load(index))));
        let share = affinity::share(sum, count);
        free()
            .filter(|index| load(*index) < share)
            .max_by_key(|index| affinity::rank(key, self.candidates[*index].node))
    }

    fn may_be_asked(&self, index: usize) -> bool {
        let node = self.candidates[index].node;
        self.ask.with != Some(node) && !self.ask.tried.iter().any(|attempt| attempt.excludes && attempt.node == node)
    }

    fn is_free(&self, index: usize, shy: bool) -> bool {
        let outlier = &self.candidates[index].outlier;
        self.may_be_asked(index)
            && matches!(outlier.standing(self.ask.now), Standing::Free | Standing::Due)
            && outlier.busy_for(self.ask.now).is_none()
            && !outlier.is_full(self.ask.lane)
            && (shy || !outlier.is_shy(self.ask.now))
    }

    /// Among those that have enough to do, when the first may have a place; at the end of time where only a request of
    /// this gateway that ends can tell.
    fn soonest(&self, range: Range<usize>) -> Option<Duration> {
        let busy = |index: usize| {
            let outlier = &self.candidates[index].outlier;
            let free = matches!(outlier.standing(self.ask.now), Standing::Free | Standing::Due);
            if !self.may_be_asked(index) || !free {
                return None;
            }
            let full = || outlier.is_full(self.ask.lane).then_some(Duration::MAX);
            outlier.busy_for(self.ask.now).or_else(full)
        };
        range.filter_map(busy).min()
    }

    /// One that is on trial, else the first whose rest ends.
    fn nobody_free(&self) -> Pick {
        let mut rest: Option<(Duration, usize)> = None;
        for index in (0..self.candidates.len()).filter(|index| self.may_be_asked(*index)) {
            match self.candidates[index].outlier.standing(self.ask.now) {
                Standing::Resting(left) => rest = Some(rest.map_or((left, index), |least| least.min((left, index)))),
                Standing::OnTrial | Standing::Due | Standing::Free => return Pick::One { index, trial: None },
            }
        }
        rest.map_or(Pick::None, |(left, index)| Pick::AllEjected { index, left })
    }
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
mod tests;
