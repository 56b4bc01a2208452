//! Hedging, where a service allows it: an idempotent request that is slower than 19 of 20 goes to a second worker too,
//! and the first answer counts (Dean and Barroso, "The Tail at Scale", 2013). That is at most one request of twenty
//! more, and each is paid from the retry budget.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The part of requests that are to be quicker.
const PART: f64 = 0.95;
/// How far one answer moves the estimate.
const STEP: f64 = 0.05;
/// Answers before the estimate says anything.
const ANSWERS_MIN: u32 = 20;
/// No hedge goes out sooner.
const AFTER_MIN: Duration = Duration::from_millis(1);

/// An estimate of the time within which 95 % of answers begin: moved up by those that take longer, down by the others,
/// in the proportion in which they must be (a stochastic approximation; Robbins and Monro, 1951). One lane's.
#[derive(Debug, Default)]
pub(crate) struct Slowest {
    us: AtomicU64,
    answers: AtomicU32,
}

impl Slowest {
    /// An answer came.
    pub(crate) fn learn(&self, took_us: f64) {
        let answers = self.answers.load(Relaxed);
        self.answers.store(answers.saturating_add(1), Relaxed);
        let known = f64::from_bits(self.us.load(Relaxed));
        let next = match answers {
            0 => took_us,
            // At first the greatest: too late a hedge does no harm.
            n if n < ANSWERS_MIN => known.max(took_us),
            _ if took_us > known => known * (1.0 + STEP * PART),
            _ => known * (1.0 - STEP * (1.0 - PART)),
        };
        self.us.store(next.max(1.0).to_bits(), Relaxed);
    }

    /// After how long a request is slow; `None` while too little is known.
    pub(crate) fn after(&self) -> Option<Duration> {
        if self.answers.load(Relaxed) < ANSWERS_MIN {
            return None;
        }
        Some(Duration::from_micros(f64::from_bits(self.us.load(Relaxed)) as u64).max(AFTER_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_finds_the_slowest_twentieth_and_follows_it() {
        let slowest = Slowest::default();
        let mut state = 1u64;
        let mut drawn = |mean: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            -mean * (1.0 - (state >> 11) as f64 / (1u64 << 53) as f64).ln()
        };
        for _ in 0..ANSWERS_MIN - 1 {
            slowest.learn(drawn(10_000.0));
            assert_eq!(slowest.after(), None);
        }
        for (mean, rounds) in [(10_000.0, 20_000), (100_000.0, 20_000)] {
            for _ in 0..rounds {
                slowest.learn(drawn(mean));
            }
            let after = slowest.after().expect("known").as_micros() as f64;
            // Of an exponential distribution: ln 20 times its mean.
            assert!((2.2 * mean..4.0 * mean).contains(&after), "{after} of {mean}");
        }
        for _ in 0..100_000 {
            slowest.learn(1.0);
        }
        assert_eq!(slowest.after(), Some(AFTER_MIN));
    }
}
