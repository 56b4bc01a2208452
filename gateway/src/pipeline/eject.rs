//! Ejection: a worker that fails a service is left alone for a while. Five failures in a row, or one where it could
//! not be reached at all, and it rests 1 s, then 2 s, up to 60 s; the first success, or a new word of its own,
//! forgives everything. After a rest one request goes ahead, and the others keep away until it has shown how the worker
//! does. A pure core, and around it what makes a look cheap; beside it, all else that a gateway remembers of a worker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use paceline_proto::id::{Incarnation, ManifestVersion, NodeId, ServiceName};

use super::{load::Load, queue::Queue};
use crate::lane::lock;

/// Failures in a row that eject.
const FAILURES_MAX: u32 = 5;
/// The first rest.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);
/// How long a request on trial keeps others away: longer than a dark worker takes to show itself. One that takes longer
/// is at a slow service, and says nothing yet.
const TRIAL_MAX: Duration = Duration::from_secs(5);
/// How long a worker that has enough to do is asked only where everybody has: without it, the one that refuses at once
/// would look like the one with the fewest requests.
const BUSY_FOR: Duration = Duration::from_millis(250);
/// Longest that a service's own `Retry-After` makes others preferred.
const SHY_MAX: Duration = Duration::from_secs(60);
/// Remembered (service, worker) pairs from which on unused ones are forgotten.
const PRUNE_FROM: usize = 4096;

/// How much a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Nothing against the worker.
    Nothing,
    /// One of five.
    One,
    /// Enough by itself.
    All,
}

/// Whether a worker may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// By all.
    Free,
    /// Its rest is over: by whoever gets its [`Trial`].
    Due,
    /// A request is on its way to show how it does.
    OnTrial,
    /// Not for this long.
    Resting(Duration),
}

/// What a worker said of itself last: with a new word, old failures are forgiven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) incarnation: Incarnation,
    pub(crate) version: ManifestVersion,
    pub(crate) alive: bool,
}

/// The decisions, over a given time.
#[derive(Debug, Default)]
struct Core {
    failures: u32,
    /// Of the last ejection; zero after a success.
    rest: Duration,
    until: Option<Instant>,
}

impl Core {
    /// A failure; those of requests that were under way when the ejection began say nothing new.
    fn failed(&mut self, weight: Weight, now: Instant) {
        if weight == Weight::Nothing || self.until.is_some_and(|until| now < until) {
            return;
        }
        self.failures += 1;
        // After a rest, the first failure is enough: it has not been forgiven yet.
        if weight == Weight::All || self.failures >= FAILURES_MAX || !self.rest.is_zero() {
            self.rest = (self.rest * 2).clamp(REST_MIN, REST_MAX);
            self.until = Some(now + self.rest);
            self.failures = 0;
        }
    }
}

/// A worker's record with one service.
#[derive(Debug)]
pub(crate) struct Outlier {
    core: Mutex<Core>,
    word: Mutex<Word>,
    /// Hop and words of the last failure.
    last: Mutex<(&'static str, String)>,
    /// No failure since the last success: then a success need not look further.
    clean: AtomicBool,
    /// The core's `until`, in microseconds after `epoch`; 0 is none.
    until_us: AtomicU64,
    /// Until when a trial keeps others away, likewise; who changes it from what it was holds the trial.
    trial_us: AtomicU64,
    /// Until when it has enough to do, likewise.
    busy_us: AtomicU64,
    /// Until when its service wants to be asked later, likewise.
    shy_us: AtomicU64,
    /// Requests at once, as its manifest says.
    max: AtomicU32,
    epoch: Instant,
    /// Of its service.
    queue: Arc<Queue>,
    /// For each lane.
    loads: Box<[Load]>,
}

impl Outlier {
    fn new(lanes: usize, epoch: Instant, queue: Arc<Queue>) -> Self {
        Self {
            core: Mutex::default(),
            word: Mutex::default(),
            last: Mutex::default(),
            clean: AtomicBool::new(true),
            until_us: AtomicU64::new(0),
            trial_us: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            shy_us: AtomicU64::new(0),
            max: AtomicU32::new(u32::MAX),
            epoch,
            queue,
            loads: (0..lanes.max(1)).map(|_| Load::default()).collect(),
        }
    }

    /// Its load from one lane.
    pub(crate) fn load(&self, lane: usize) -> &Load {
        &self.loads[lane % self.loads.len()]
    }

    /// A time, as loads count it.
    pub(crate) fn us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// The line before its service.
    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// How many requests at once its manifest admits.
    pub(crate) fn admits(&self, max: u32) {
        self.max.store(max.max(1), Relaxed);
    }

    /// Whether this gateway alone keeps it at its limit.
    pub(crate) fn is_full(&self, lane: usize) -> bool {
        let max = self.max.load(Relaxed);
        let own = self.load(lane).in_flight();
        // What the other lanes have is looked at only where it can matter: it costs a cache miss each.
        if u64::from(own) * 4 * (self.loads.len() as u64) < u64::from(max) {
            return false;
        }
        self.loads.iter().map(|load| u64::from(load.in_flight())).sum::<u64>() >= u64::from(max)
    }

    /// Whether it may be asked.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let until_us = self.until_us.load(Relaxed);
        if until_us == 0 {
            return Standing::Free;
        }
        let left = |until_us| (self.epoch + Duration::from_micros(until_us)).saturating_duration_since(now);
        match (left(until_us), left(self.trial_us.load(Relaxed))) {
            (Duration::ZERO, Duration::ZERO) => Standing::Due,
            (Duration::ZERO, _) => Standing::OnTrial,
            (left, _) => Standing::Resting(left),
        }
    }

    /// It said that it has enough to do.
    pub(crate) fn busy(&self, now: Instant) {
        self.busy_us.store(self.us(now + BUSY_FOR), Relaxed);
    }

    /// For how long it counts as busy because it said so a moment ago.
    pub(crate) fn busy_for(&self, now: Instant) -> Option<Duration> {
        let until_us = self.busy_us.load(Relaxed);
        if until_us == 0 {
            return None;
        }
        let left = until_us.saturating_sub(self.us(now));
        (left > 0).then(|| Duration::from_micros(left))
    }

    /// Takes the first request after it was busy: while that shows how it does, it counts as busy for the others.
    /// `false` where another request was quicker.
    pub(crate) fn begin_again(&self, now: Instant) -> bool {
        let until_us = self.busy_us.load(Relaxed);
        until_us == 0
            || until_us > self.us(now)
            || self.busy_us.compare_exchange(until_us, self.us(now + BUSY_FOR), Relaxed, Relaxed).is_ok()
    }

    /// Whether it has said so, and nothing else since.
    pub(crate) fn was_busy(&self) -> bool {
        self.busy_us.load(Relaxed) != 0
    }

    /// It has a place, or had one a moment ago: calls one who waits.
    pub(crate) fn has_place(&self) {
        self.busy_us.store(0, Relaxed);
        self.queue.call();
    }

    /// Its service answered with `Retry-After`.
    pub(crate) fn shy(&self, now: Instant, wait: Duration) {
        self.shy_us.store(self.us(now + wait.min(SHY_MAX)), Relaxed);
    }

    /// Whether its service wants to be asked later.
    pub(crate) fn is_shy(&self, now: Instant) -> bool {
        let until_us = self.shy_us.load(Relaxed);
        until_us != 0 && self.us(now) < until_us
    }

    /// The trial after a rest, for one request alone.
    pub(crate) fn begin_trial(self: &Arc<Self>, now: Instant) -> Option<Trial> {
        let before = self.trial_us.load(Relaxed);
        if self.standing(now) != Standing::Due {
            return None;
        }
        let until = (now + TRIAL_MAX).saturating_duration_since(self.epoch);
        let until_us = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        self.trial_us.compare_exchange(before, until_us, Relaxed, Relaxed).ok()?;
        Some(Trial { outlier: self.clone(), until_us })
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        if !self.clean.load(Relaxed) {
            self.forgive();
        }
    }

    /// It failed.
    pub(crate) fn failed(&self, weight: Weight, now: Instant) {
        if weight == Weight::Nothing {
            return;
        }
        let mut core = lock(&self.core);
        core.failed(weight, now);
        self.clean.store(false, Relaxed);
        let until = core.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(self.epoch));
        self.until_us.store(u64::try_from(until.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Keeps what the last failure was, for whoever is turned away meanwhile.
    pub(crate) fn note(&self, hop: &'static str, reason: &str) {
        *lock(&self.last) = (hop, reason.to_owned());
    }

    /// Hop and words of the last failure.
    pub(crate) fn last_failure(&self) -> (&'static str, String) {
        lock(&self.last).clone()
    }

    /// Its latest word; a new one forgives, unless it is only that somebody missed it.
    pub(crate) fn heard(&self, word: Word) {
        let last = std::mem::replace(&mut *lock(&self.word), word);
        if word != last && word.alive && !self.clean.load(Relaxed) {
            self.forgive();
        }
    }

    fn forgive(&self) {
        let mut core = lock(&self.core);
        *core = Core::default();
        self.clean.store(true, Relaxed);
        self.until_us.store(0, Relaxed);
    }
}

/// A request that shows how a worker does after its rest. Dropped without an outcome, the next one is the trial.
#[derive(Debug)]
pub(crate) struct Trial {
    outlier: Arc<Outlier>,
    until_us: u64,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Not where another trial has begun since.
        let _ = self.outlier.trial_us.compare_exchange(self.until_us, 0, Relaxed, Relaxed);
    }
}

/// The records of all (service, worker) pairs, and the line of each service.
pub(crate) struct Outliers {
    lanes: usize,
    epoch: Instant,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    pairs: BTreeMap<(ServiceName, NodeId), Arc<Outlier>>,
    queues: BTreeMap<ServiceName, Arc<Queue>>,
}

impl Outliers {
    pub(crate) fn new(lanes: usize) -> Self {
        Self { lanes, epoch: Instant::now(), records: Mutex::default() }
    }

    /// The record of a pair.
    pub(crate) fn get(&self, service: &ServiceName, node: NodeId) -> Arc<Outlier> {
        let records = &mut *lock(&self.records);
        let key = (service.clone(), node);
        if records.pairs.len() >= PRUNE_FROM && !records.pairs.contains_key(&key) {
            records.pairs.retain(|_, record| Arc::strong_count(record) > 1);
            records.queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        let queue = records.queues.entry(service.clone()).or_default();
        let fresh = || Arc::new(Outlier::new(self.lanes, self.epoch, queue.clone()));
        records.pairs.entry(key).or_insert_with(fresh).clone()
    }

    /// How many requests wait for a place, by service.
    pub(crate) fn waiting(&self) -> Vec<(ServiceName, u64)> {
        let records = lock(&self.records);
        records.queues.iter().map(|(service, queue)| (service.clone(), queue.waiting().into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, service};

    impl Outlier {
        fn ejected(&self, now: Instant) -> Option<Duration> {
            match self.standing(now) {
                Standing::Resting(left) => Some(left),
                _ => None,
            }
        }
    }

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn five_in_a_row_eject_and_rests_double() {
        let t = Instant::now();
        let o = Outlier::new(1, t, Arc::default());
        for _ in 0..4 {
            o.failed(Weight::One, t);
        }
        o.succeeded();
        for _ in 0..4 {
            o.failed(Weight::One, t);
            assert_eq!(o.ejected(t), None);
        }
        o.failed(Weight::One, t);
        assert_eq!(o.ejected(t), Some(s(1.0)));
        o.failed(Weight::All, t + s(0.5));
        assert_eq!(o.ejected(t + s(0.5)), Some(s(0.5)), "a straggler does not prolong");
        let mut at = t + s(1.0);
        for rest in [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            assert_eq!(o.ejected(at), None);
            o.failed(Weight::One, at);
            assert_eq!(o.ejected(at), Some(s(rest)), "one failure is enough after a rest");
            at += s(rest);
        }
        o.succeeded();
        o.failed(Weight::All, at);
        assert_eq!(o.ejected(at), Some(s(1.0)), "a success forgives");
    }

    #[test]
    fn one_request_goes_ahead_after_a_rest() {
        let t = Instant::now();
        let o = Arc::new(Outlier::new(1, t, Arc::default()));
        assert!(o.begin_trial(t).is_none(), "nothing to show");
        o.failed(Weight::All, t);
        assert!(o.begin_trial(t).is_none(), "it rests");
        let t = t + s(1.0);
        assert_eq!(o.standing(t), Standing::Due);
        let all: Vec<_> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| o.begin_trial(t))).collect();
            tries.into_iter().filter_map(|trial| trial.join().expect("no panic")).collect()
        });
        assert_eq!((all.len(), o.standing(t)), (1, Standing::OnTrial));
        drop(all);
        assert_eq!(o.standing(t), Standing::Due, "cancelled: the next one");
        let slow = o.begin_trial(t).expect("due");
        let t = t + TRIAL_MAX;
        let next = o.begin_trial(t).expect("the last one shows nothing");
        drop(slow);
        assert_eq!(o.standing(t), Standing::OnTrial, "the newer trial goes on");
        o.failed(Weight::One, t);
        drop(next);
        assert_eq!(o.standing(t), Standing::Resting(s(2.0)), "a failure doubles the rest");
        let last = o.begin_trial(t + s(2.0)).expect("due");
        o.succeeded();
        drop(last);
        assert_eq!(o.standing(t + s(2.0)), Standing::Free);
    }

    #[test]
    fn after_it_was_busy_one_goes_ahead_and_a_place_is_told_of() {
        let t = Instant::now();
        let o = Outlier::new(1, t, Arc::default());
        assert!(o.begin_again(t) && o.begin_again(t), "it never was");
        let t = t + s(1.0);
        o.busy(t);
        assert_eq!(o.busy_for(t), Some(BUSY_FOR));
        let t = t + BUSY_FOR;
        assert_eq!(o.busy_for(t), None);
        assert!(o.begin_again(t));
        assert_eq!(o.busy_for(t), Some(BUSY_FOR), "for all others");
        o.has_place();
        assert_eq!(o.busy_for(t), None);
    }

    #[test]
    fn a_limit_counts_all_lanes() {
        let o = Outlier::new(2, Instant::now(), Arc::default());
        assert!(!o.is_full(0));
        o.admits(3);
        o.load(0).begin(0);
        o.load(1).begin(0);
        assert!(!o.is_full(0));
        o.load(1).begin(0);
        assert!(o.is_full(0) && o.is_full(1));
        o.load(0).unheard();
        o.load(0).end();
        assert!(!o.is_full(1));
        o.admits(1000);
        assert!(!o.is_full(0));
    }

    #[test]
    fn a_service_that_wants_time_gets_it_for_a_while() {
        let t = Instant::now();
        let o = Outlier::new(1, t, Arc::default());
        assert!(!o.is_shy(t));
        o.shy(t, s(5.0));
        assert!(o.is_shy(t + s(4.9)) && !o.is_shy(t + s(5.0)));
        o.shy(t, s(1e6));
        assert!(!o.is_shy(t + SHY_MAX));
    }

    #[test]
    fn a_new_word_forgives_but_not_a_suspicion() {
        let t = Instant::now();
        let o = Outliers::new(1).get(&service("a"), node(1));
        let word = Word { incarnation: Incarnation(1), version: ManifestVersion(1), alive: true };
        o.heard(word);
        o.failed(Weight::All, t);
        o.heard(word);
        o.heard(Word { alive: false, ..word });
        assert!(o.ejected(t).is_some());
        o.heard(word);
        assert!(o.ejected(t).is_none(), "alive again");
        o.failed(Weight::All, t);
        o.heard(Word { incarnation: Incarnation(2), ..word });
        assert!(o.ejected(t).is_none(), "started again");
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let t = Instant::now();
        let o = Outlier::new(1, t, Arc::default());
        for _ in 0..20 {
            o.failed(Weight::Nothing, t);
        }
        assert_eq!(o.ejected(t), None);
    }
}
