//! Who believes what of whom, from the nodes' events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::fleet::{Believes, Seen};

/// How often a wait looks at the clock where nothing happens.
const LOOK: Duration = Duration::from_millis(50);

/// Microseconds since 1970.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds from `from_us` to `to_us`; 0 where a clock was set back.
pub(super) fn seconds(from_us: u64, to_us: u64) -> f64 {
    Duration::from_micros(to_us.saturating_sub(from_us)).as_secs_f64()
}

/// The beliefs.
pub(super) struct Board {
    events: Receiver<Seen>,
    /// The nodes that run.
    running: BTreeSet<usize>,
    /// Pairs of observer and subject.
    up: BTreeSet<(usize, usize)>,
    last_us: u64,
    leaders: BTreeMap<usize, (usize, u64)>,
}

impl Board {
    pub(super) fn new(events: Receiver<Seen>) -> Self {
        Self { events, running: BTreeSet::new(), up: BTreeSet::new(), last_us: 0, leaders: BTreeMap::new() }
    }

    pub(super) fn running(&self) -> &BTreeSet<usize> {
        &self.running
    }

    /// A process starts: it believes nothing yet.
    pub(super) fn started(&mut self, node: usize) {
        self.running.insert(node);
        self.up.retain(|(observer, _)| *observer != node);
    }

    /// A process was killed.
    pub(super) fn killed(&mut self, node: usize) {
        self.running.remove(&node);
        self.leaders.remove(&node);
    }

    /// Pairs of running nodes of which one does not see the other.
    pub(super) fn missing(&self) -> usize {
        let seen = |(a, b): &&(usize, usize)| a != b && self.running.contains(a) && self.running.contains(b);
        let all = self.running.len() * self.running.len().saturating_sub(1);
        all - self.up.iter().filter(seen).count()
    }

    /// Who leads by the word of all running nodes; `None` where they do not agree.
    pub(super) fn leader(&self) -> Option<usize> {
        let mut words = self.running.iter().map(|node| self.leaders.get(node));
        let first = words.next()??;
        words.all(|word| word == Some(first)).then_some(first.0)
    }

    fn take(&mut self, seen: &Seen) {
        let pair = (seen.observer, seen.subject);
        let changed = match seen.believes {
            Believes::Up { .. } => self.up.insert(pair),
            Believes::Dead => self.up.remove(&pair),
            Believes::Leads { term } => {
                self.leaders.insert(seen.observer, (seen.subject, term));
                false
            }
            Believes::Manifest { .. } | Believes::Suspect => false,
        };
        if changed {
            self.last_us = seen.at_us;
        }
    }

    /// Takes events until `done` says so, which looks at each, or the time is over; whether it was done.
    pub(super) fn watch(&mut self, patience: Duration, mut done: impl FnMut(&Self, Option<&Seen>) -> bool) -> bool {
        let end = Instant::now() + patience;
        if done(self, None) {
            return true;
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match self.events.recv_timeout(left.min(LOOK)) {
                Ok(seen) => {
                    self.take(&seen);
                    if done(self, Some(&seen)) {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Lets time pass.
    pub(super) fn settle(&mut self, time: Duration) {
        self.watch(time, |_, _| false);
    }

    /// Until every running node sees every other: when the last of them did.
    pub(super) fn all_see_all(&mut self, patience: Duration) -> Option<u64> {
        // Counting pairs is dear: only after a change that can matter.
        let up = |seen: &Seen| matches!(seen.believes, Believes::Up { .. });
        let done = self.watch(patience, |board, seen| seen.is_none_or(up) && board.missing() == 0);
        done.then_some(self.last_us)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn seen(at_us: u64, observer: usize, subject: usize, believes: Believes) -> Seen {
        Seen { at_us, observer, subject, believes }
    }

    #[test]
    fn all_see_all_takes_every_pair_of_those_that_run() {
        let (send, events) = sync_channel(16);
        let mut board = Board::new(events);
        (0..3).for_each(|node| board.started(node));
        let up = Believes::Up { version: 0 };
        for (at, (a, b)) in [(0, 1), (1, 0), (0, 2), (1, 2), (2, 0)].into_iter().enumerate() {
            send.send(seen(at as u64, a, b, up)).expect("room");
        }
        assert_eq!(board.all_see_all(SOON), None, "2 does not see 1");
        assert_eq!(board.missing(), 1);
        send.send(seen(9, 2, 1, up)).expect("room");
        assert_eq!(board.all_see_all(SOON), Some(9));
        send.send(seen(10, 0, 2, Believes::Dead)).expect("room");
        assert_eq!(board.all_see_all(SOON), Some(9), "events are taken only where there is a need");
        board.settle(SOON);
        assert_eq!(board.missing(), 1);
        board.killed(2);
        assert_eq!(board.missing(), 0, "the dead see nobody and need not be seen");
    }

    #[test]
    fn a_leader_is_one_that_all_agree_on() {
        let (send, events) = sync_channel(16);
        let mut board = Board::new(events);
        (0..2).for_each(|node| board.started(node));
        for (node, term) in [(0, 1), (1, 2)] {
            send.send(seen(1, node, 1, Believes::Leads { term })).expect("room");
        }
        board.settle(SOON);
        assert_eq!(board.leader(), None, "not in one term");
        send.send(seen(2, 0, 1, Believes::Leads { term: 2 })).expect("room");
        board.settle(SOON);
        assert_eq!(board.leader(), Some(1));
    }
}
