//! How far terms can have come: from where they are counted, and how fast they may rise.
//!
//! The anchor moves with what is believed, and only to where it allows less, so a run of claims gains nothing by being one.
//! It never falls behind the clock: others may have gone on while this node slept, was on a side of its own, or has heard of
//! an old claim only. An honest cluster's terms rise no faster than the clock, so what it claims is never refused.

use std::time::{Duration, Instant};

use crate::Now;
use crate::id::UnixSeconds;

/// How far a term may be ahead of what time allows.
const TERMS_AHEAD: u64 = 2;
/// How much faster than the clock terms may rise.
const TERMS_FASTER: u64 = 2;
/// Parts of a term in which they are counted.
const MICRO: u64 = 1_000_000;

/// From which term at which time terms are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    /// The term, in millionths.
    pub(super) micro: u64,
    pub(super) unix: UnixSeconds,
    at: Instant,
}

impl Anchor {
    /// This many millionths of terms had passed then.
    pub(super) fn new(micro: u64, unix: UnixSeconds, now: Instant) -> Self {
        Self { micro, unix, at: now }
    }

    /// Whether terms can have come to this one.
    pub(super) fn allows(&self, term: u64, length: Duration, now: Now) -> bool {
        term >= 1 && term <= (self.possible(length, now).1 / MICRO).saturating_add(TERMS_AHEAD)
    }

    /// A claim of this term is believed.
    pub(super) fn believed(&mut self, term: u64, length: Duration, now: Now) {
        let (by_clock, hurried) = self.possible(length, now);
        let micro = term.saturating_mul(MICRO).max(by_clock);
        if micro < hurried {
            *self = Self { micro, unix: now.unix, at: now.at };
        }
    }

    /// In a cluster that runs by the clock, and in one that hurries.
    fn possible(&self, length: Duration, now: Now) -> (u64, u64) {
        let slept_ms = now.unix.0.saturating_sub(self.unix.0).saturating_mul(1_000);
        // By the steady clock too: the other one may have gone back.
        let awake_ms = now.at.saturating_duration_since(self.at).as_millis();
        let elapsed_ms = slept_ms.max(u64::try_from(awake_ms).unwrap_or(u64::MAX));
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1);
        let elapsed = elapsed_ms.saturating_mul(MICRO) / length_ms;
        (self.micro.saturating_add(elapsed), self.micro.saturating_add(elapsed.saturating_mul(TERMS_FASTER)))
    }
}
