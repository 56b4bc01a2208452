//! Deadlines as a table of named timers, never a hidden sleep.
//!
//! A core names its timers in an enum of its own and keeps one [`Timers`] of them; setting a timer again moves it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A core's timers.
pub trait Timer: Copy + Ord {
    /// What it is for, for whoever asks why the core wants to be woken.
    fn name(self) -> &'static str;
}

/// When each timer is due.
#[derive(Debug)]
pub struct Timers<T> {
    due: BTreeMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Timer> Timers<T> {
    /// Sets a timer, or moves it.
    pub fn set(&mut self, timer: T, at: Instant) {
        self.cancel(timer);
        self.due.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Sets a timer unless it is due sooner already.
    pub fn set_by(&mut self, timer: T, at: Instant) {
        if self.due(timer).is_none_or(|due| due > at) {
            self.set(timer, at);
        }
    }

    /// Stops a timer; says whether it was set.
    pub fn cancel(&mut self, timer: T) -> bool {
        match self.due.remove(&timer) {
            Some(at) => self.order.remove(&(at, timer)),
            None => false,
        }
    }

    /// When a timer is due.
    pub fn due(&self, timer: T) -> Option<Instant> {
        self.due.get(&timer).copied()
    }

    /// The next one due, and its name.
    pub fn next(&self) -> Option<(Instant, &'static str)> {
        self.order.first().map(|(at, timer)| (*at, timer.name()))
    }

    /// Takes one timer that is due, the earliest first.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Test {
        A,
        B(u8),
    }

    impl Timer for Test {
        fn name(self) -> &'static str {
            match self {
                Test::A => "a",
                Test::B(_) => "b",
            }
        }
    }

    #[test]
    fn the_earliest_comes_first_and_only_when_due() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        let mut timers = Timers::default();
        timers.set(Test::A, at(3));
        timers.set(Test::B(1), at(2));
        timers.set(Test::B(2), at(4));
        assert_eq!(timers.next(), Some((at(2), "b")));
        assert_eq!(timers.pop(at(1)), None);
        timers.set(Test::B(1), at(5));
        assert_eq!(timers.next(), Some((at(3), "a")));
        timers.set_by(Test::B(1), at(6));
        assert_eq!(timers.due(Test::B(1)), Some(at(5)), "never later");
        assert!(timers.cancel(Test::A));
        assert!(!timers.cancel(Test::A));
        assert_eq!(timers.pop(at(9)), Some(Test::B(2)));
        assert_eq!(timers.pop(at(9)), Some(Test::B(1)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
