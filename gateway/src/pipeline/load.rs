//! How quick and how busy a worker is with one service, as one lane sees it: the score that selection compares.
//!
//! Latency is the time to the response's head, in a moving average that takes a rise at once and a fall slowly (peak
//! EWMA, as in Twitter's Finagle: "the average is sensitive to peaks"), times the requests that the worker has. Three
//! things are added to it. What is not asked for a while is forgotten towards what is typical of the service, so that
//! an idle worker is tried again; a newcomer counts as typical, so that it is neither shunned nor flooded; and a
//! worker that has requests and answers none of them is at least as slow as it has been silent, so that a hung one is
//! left long before anything breaks.
//!
//! Written by one lane alone: the atomics are there for readers, and nothing here waits.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How soon a peak is forgotten: after this, 37 % of it is left. Long enough that hundreds of requests say something,
/// short enough that a pause of a worker costs it its share for some seconds only.
pub(crate) const DECAY: Duration = Duration::from_secs(5);
/// A failure counts as an answer that took this many times what is known of the worker.
const PENALTY: f64 = 4.0;
/// A failure counts as at least this slow.
const PENALTY_US_MIN: f64 = 1_000.0;
/// Nothing counts as slower.
const LATENCY_US_MAX: f64 = 600e6;
/// What a service is taken for before anybody has answered.
const UNKNOWN_US: f64 = 1_000.0;
/// The share of a new answer in what is typical.
const TYPICAL_SHARE: f64 = 1.0 / 32.0;

/// A peak-sensitive average in microseconds: `sample` against what was known `age_us` ago.
fn peak(known_us: f64, sample_us: f64, age_us: f64) -> f64 {
    let sample_us = sample_us.clamp(1.0, LATENCY_US_MAX);
    if sample_us >= known_us {
        return sample_us;
    }
    sample_us + (known_us - sample_us) * remembered(age_us)
}

/// The share of what was known that is left after `age_us`.
fn remembered(age_us: f64) -> f64 {
    (-age_us / DECAY.as_micros() as f64).exp()
}

/// One worker's load from one lane, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Load {
    /// Requests whose answer has not ended.
    in_flight: AtomicU32,
    /// Those of them whose answer has not begun.
    unanswered: AtomicU32,
    /// The average in microseconds, as bits; 0 is unknown.
    latency: AtomicU64,
    /// When it was written, in microseconds after the epoch of all times here.
    at_us: AtomicU64,
    /// When an answer came last, or the first request after a pause went out.
    moved_us: AtomicU64,
}

impl Load {
    /// Requests whose answer has not ended.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A request goes out.
    pub(crate) fn begin(&self, now_us: u64) {
        self.in_flight.fetch_add(1, Relaxed);
        if self.unanswered.fetch_add(1, Relaxed) == 0 {
            self.moved_us.store(now_us, Relaxed);
        }
    }

    /// The head of its answer is there.
    pub(crate) fn heard(&self, now_us: u64, took_us: f64) {
        self.unanswered.fetch_sub(1, Relaxed);
        self.moved_us.store(now_us, Relaxed);
        self.learn(now_us, took_us);
    }

    /// There will be no answer, whatever it means.
    pub(crate) fn unheard(&self) {
        self.unanswered.fetch_sub(1, Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// It failed, after `took_us`: a quick failure must not make a worker look quick.
    pub(crate) fn failed(&self, now_us: u64, took_us: f64, typical_us: f64) {
        let known = self.known().unwrap_or(typical_us);
        self.learn(now_us, took_us.max(known * PENALTY).max(PENALTY_US_MIN));
    }

    fn learn(&self, now_us: u64, took_us: f64) {
        let age = now_us.saturating_sub(self.at_us.load(Relaxed)) as f64;
        let next = self.known().map_or(took_us.clamp(1.0, LATENCY_US_MAX), |known| peak(known, took_us, age));
        self.latency.store(next.to_bits(), Relaxed);
        self.at_us.store(now_us, Relaxed);
    }

    fn known(&self) -> Option<f64> {
        let latency = f64::from_bits(self.latency.load(Relaxed));
        (latency > 0.0).then_some(latency)
    }

    /// The expected time of one request more, in microseconds: less is better.
    pub(crate) fn score(&self, now_us: u64, typical_us: f64) -> f64 {
        let in_flight = self.in_flight();
        let mut latency = match self.known() {
            None => typical_us,
            Some(known) if in_flight == 0 => {
                let age = now_us.saturating_sub(self.at_us.load(Relaxed)) as f64;
                typical_us + (known - typical_us) * remembered(age)
            }
            Some(known) => known,
        };
        if self.unanswered.load(Relaxed) > 0 {
            latency = latency.max(now_us.saturating_sub(self.moved_us.load(Relaxed)) as f64);
        }
        latency * f64::from(in_flight.saturating_add(1))
    }
}

/// What is typical of a service, whoever answers; one lane's.
#[derive(Debug, Default)]
pub(crate) struct Typical(AtomicU64);

impl Typical {
    /// The mean time to a response's head, in microseconds.
    pub(crate) fn us(&self) -> f64 {
        let us = f64::from_bits(self.0.load(Relaxed));
        if us > 0.0 { us } else { UNKNOWN_US }
    }

    /// An answer came.
    pub(crate) fn learn(&self, took_us: f64) {
        let took_us = took_us.clamp(1.0, LATENCY_US_MAX);
        let known = f64::from_bits(self.0.load(Relaxed));
        let next = if known > 0.0 { known + (took_us - known) * TYPICAL_SHARE } else { took_us };
        self.0.store(next.to_bits(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_rise_counts_at_once_and_a_fall_slowly() {
        assert_eq!(peak(100.0, 400.0, 1.0), 400.0);
        let tau = DECAY.as_micros() as f64;
        let after = peak(400.0, 100.0, tau);
        assert!((after - (100.0 + 300.0 / std::f64::consts::E)).abs() < 0.01, "{after}");
        assert!(peak(400.0, 100.0, 1.0) > 399.0);
        assert_eq!(peak(0.0, f64::INFINITY, 0.0), LATENCY_US_MAX);
    }

    #[test]
    fn an_idle_worker_is_forgotten_towards_what_is_typical_and_a_busy_one_is_not() {
        let load = Load::default();
        load.begin(0);
        load.heard(0, 1e6);
        load.end();
        assert!(load.score(0, 1_000.0) > 999_000.0);
        assert!(load.score(60 * S, 1_000.0) < 1_100.0, "it may be quick again");
        assert!(load.score(60 * S, 5e6) > 4.9e6, "or slow, as all are");
        load.begin(60 * S);
        load.heard(60 * S, 2e6);
        assert!(load.score(120 * S, 1_000.0) >= 4e6, "it still has a request");
    }

    #[test]
    fn silence_is_slowness_while_there_are_requests() {
        let load = Load::default();
        load.begin(0);
        load.heard(0, 1_000.0);
        load.end();
        load.begin(10 * S);
        assert!(load.score(10 * S, 1_000.0) <= 2_000.1);
        assert!(load.score(12 * S, 1_000.0) >= 4e6, "two seconds of silence, two requests");
        load.unheard();
        load.end();
        assert!(load.score(12 * S, 1_000.0) < 1_001.0, "the caller went: nothing is known");
    }

    #[test]
    fn a_newcomer_is_as_good_as_the_others_with_as_many_requests() {
        let (old, new) = (Load::default(), Load::default());
        old.begin(0);
        old.heard(0, 1_000.0);
        old.end();
        assert_eq!(new.score(0, 1_000.0), old.score(0, 1_000.0));
        new.begin(0);
        assert!(new.score(0, 1_000.0) > old.score(0, 1_000.0));
    }

    #[test]
    fn a_quick_failure_is_slow() {
        let load = Load::default();
        for n in 1..6 {
            load.begin(0);
            load.unheard();
            load.failed(0, 10.0, 500.0);
            load.end();
            assert!(load.score(0, 500.0) >= 500.0 * 4f64.powi(n) && load.score(0, 500.0) >= PENALTY_US_MIN, "{n}");
        }
    }

    #[test]
    fn what_is_typical_is_a_mean() {
        let typical = Typical::default();
        assert_eq!(typical.us(), UNKNOWN_US);
        typical.learn(100.0);
        assert_eq!(typical.us(), 100.0);
        for n in 0..4000 {
            typical.learn(if n % 2 == 0 { 100.0 } else { 300.0 });
        }
        assert!((typical.us() - 200.0).abs() < 10.0, "{}", typical.us());
    }
}
