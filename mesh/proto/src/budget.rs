//! When the stored summary is written: changes that matter first, and never more than [`WRITES_MAX`] a UTC day.
//!
//! The count of a day is the greatest of this node's own, what summaries say, and what the store says. A write counts when
//! it is ordered; one whose end is not known stays counted. A share of the budget is set aside and comes free evenly over
//! the day, so that a bad morning leaves something for the evening.

use std::collections::BTreeMap;

use crate::id::UnixSeconds;
use crate::lead::Reason;

/// Most writes of a UTC day.
pub const WRITES_MAX: u32 = 30;
/// Set aside at midnight, even from what matters; comes free over the day.
const SET_ASIDE: u64 = 6;
/// Set aside at midnight from routine writes, besides; comes free over the day.
const SET_ASIDE_FROM_ROUTINE: u64 = 10;
/// Changes within this time go into one write, in seconds.
const GATHER_S: u64 = 2;
/// Between two writes that matter, in seconds.
const URGENT_GAP_S: u64 = 5;
/// Fewest seconds between two routine writes.
const ROUTINE_GAP_MIN_S: u64 = 30 * 60;
/// After this long without an answer, a write has failed, in seconds.
const ANSWER_S: u64 = 60;
/// Wait after a first failed write, in seconds; doubled at each further one.
const BACKOFF_MIN_S: u64 = 60;
/// Longest wait after failed writes, in seconds.
const BACKOFF_MAX_S: u64 = 2 * 3_600;
/// How long nothing is looked at, at most, in seconds.
const LOOK_EVERY_S: u64 = 600;
/// Days that are counted: a clock that jumps and comes back finds what was written.
const DAYS_MAX: usize = 4;
/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// The budget of the stored summary.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    spent: BTreeMap<u64, u32>,
    /// What waits to be written, and since when.
    pending: Option<(Reason, u64)>,
    /// When the last one was ordered.
    last: Option<u64>,
    under_way: Option<Order>,
    failures: u32,
    not_before: u64,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    at: u64,
    reason: Reason,
}

/// A UTC day, in days since 1970.
pub const fn day_of(unix: UnixSeconds) -> u64 {
    unix.0 / DAY_S
}

impl Budget {
    /// Somebody says how many writes a day has seen; believed of days at hand only.
    pub fn observe(&mut self, day: u64, writes: u32, now: UnixSeconds) {
        if day.abs_diff(day_of(now)) <= 1 {
            let spent = self.spent.entry(day).or_default();
            *spent = (*spent).max(writes);
            self.prune(day_of(now));
        }
    }

    /// Writes of this day.
    pub fn today(&self, now: UnixSeconds) -> u32 {
        self.spent.get(&day_of(now)).copied().unwrap_or(0)
    }

    /// There is something to write.
    pub fn want(&mut self, reason: Reason, now: UnixSeconds) {
        self.pending = Some(match self.pending {
            Some((before, since)) => (before.max(reason), since.min(now.0)),
            None => (reason, now.0),
        });
    }

    /// Whether to write now, and why; the write is counted. Without anything pending, that is a routine one.
    pub fn poll(&mut self, now: UnixSeconds) -> Option<Reason> {
        if let Some(order) = self.under_way
            && now.0.abs_diff(order.at) >= ANSWER_S
        {
            self.written(false, None, now);
        }
        let reason = self.pending.map_or(Reason::Routine, |(reason, _)| reason);
        if self.under_way.is_some() || self.due(reason, now) > now.0 {
            return None;
        }
        *self.spent.entry(day_of(now)).or_default() += 1;
        self.prune(day_of(now));
        self.pending = None;
        self.last = Some(now.0);
        self.under_way = Some(Order { at: now.0, reason });
        Some(reason)
    }

    /// How the write that was ordered ended, and how many the store itself knows of this day.
    pub fn written(&mut self, stored: bool, writes_today: Option<u32>, now: UnixSeconds) {
        let Some(order) = self.under_way.take() else { return };
        if stored {
            self.failures = 0;
            self.not_before = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            let wait = BACKOFF_MIN_S.saturating_mul(1 << (self.failures - 1).min(16)).min(BACKOFF_MAX_S);
            self.not_before = now.0.saturating_add(wait);
            if order.reason > Reason::Routine {
                self.want(order.reason, now);
            }
        }
        if let Some(writes) = writes_today {
            self.observe(day_of(now), writes, now);
        }
    }

    /// Whoever was told to write is gone, and nothing more will be heard of it. The write stays counted, and what it was to
    /// tell is told by the next one; the store is not to blame, and so nobody waits.
    pub fn writer_gone(&mut self, now: UnixSeconds) {
        if let Some(order) = self.under_way.take()
            && order.reason > Reason::Routine
        {
            self.want(order.reason, now);
        }
    }

    /// Another node leads: what this one ordered is its own no more, and stays counted.
    pub fn stop(&mut self) {
        self.pending = None;
        self.under_way = None;
    }

    /// When to ask [`Budget::poll`] again.
    pub fn wake(&self, now: UnixSeconds) -> UnixSeconds {
        let reason = self.pending.map_or(Reason::Routine, |(reason, _)| reason);
        let due = self.under_way.map_or_else(|| self.due(reason, now), |order| order.at.saturating_add(ANSWER_S));
        UnixSeconds(due.clamp(now.0.saturating_add(1), now.0.saturating_add(LOOK_EVERY_S)))
    }

    /// When a write is due; the end of the day where the budget does not allow it before.
    fn due(&self, reason: Reason, now: UnixSeconds) -> u64 {
        let midnight = (day_of(now) + 1) * DAY_S;
        let remaining = midnight - now.0;
        let left = u64::from(WRITES_MAX.saturating_sub(self.today(now)));
        // A clock that went back shall not wait for what it had seen.
        let last = self.last.filter(|last| *last <= now.0);
        let not_before = if self.not_before > now.0.saturating_add(BACKOFF_MAX_S) { 0 } else { self.not_before };
        let due = if reason > Reason::Routine {
            let since = self.pending.map_or(now.0, |(_, since)| since.min(now.0));
            let gap = last.map_or(0, |last| last + URGENT_GAP_S);
            freed(left, SET_ASIDE, remaining, midnight).map(|free| free.max(since + GATHER_S).max(gap))
        } else {
            let aside = SET_ASIDE + SET_ASIDE_FROM_ROUTINE;
            freed(left, aside, remaining, midnight).map(|free| {
                let spare = left.saturating_sub(aside * remaining / DAY_S).max(1);
                let gap = (remaining / spare).max(ROUTINE_GAP_MIN_S);
                last.map_or(free, |last| free.max(last + gap))
            })
        };
        due.unwrap_or(midnight).max(not_before)
    }

    fn prune(&mut self, today: u64) {
        while self.spent.len() > DAYS_MAX {
            let Some(far) = self.spent.keys().copied().max_by_key(|day| day.abs_diff(today)) else { return };
            self.spent.remove(&far);
        }
    }
}

/// From when on more is left than what is set aside; `None` on no day.
fn freed(left: u64, aside: u64, remaining: u64, midnight: u64) -> Option<u64> {
    if left == 0 {
        return None;
    }
    if left * DAY_S > aside * remaining {
        return Some(0);
    }
    // The first second in which aside * remaining < left * DAY_S.
    Some(midnight - (left * DAY_S - 1) / aside)
}

#[cfg(test)]
mod tests;
