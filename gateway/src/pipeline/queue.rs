//! The line before a service whose workers all have enough to do: bounded in length and in time, for each service by
//! itself.
//!
//! First come, first served, as long as waiting helps. Once the oldest has waited for half of what it may, the line
//! stands rather than moves: then the newest goes first (as in Facebook's "Fail at Scale": adaptive LIFO). First come
//! first served would then let everybody wait to the end and serve those whose callers are about to give up; so some
//! are served at once, as many are turned away as before, and those had the longest chance. A full line that stands
//! turns away its oldest, one that moves the newcomer.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, futures::Notified, oneshot};

use crate::lane::lock;

/// Most requests that wait for one service.
pub(crate) const WAITING_MAX: usize = 256;
/// How long a request waits for a place, where its service says nothing else.
pub(crate) const WAIT: Duration = Duration::from_millis(500);

/// Why somebody who waits does so no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// A place may be free.
    Place,
    /// Others will be served first, to the end of its time.
    Shed,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    patience: Duration,
    ticket: u64,
    call: oneshot::Sender<Called>,
}

impl Waiter {
    /// Whether the line stands, if this is its oldest.
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > self.patience / 2
    }
}

#[derive(Debug, Default)]
struct Line {
    /// Oldest first.
    waiters: VecDeque<Waiter>,
    tickets: u64,
}

impl Line {
    fn stands(&self, now: Instant) -> bool {
        self.waiters.front().is_some_and(|oldest| oldest.is_late(now))
    }

    fn next(&mut self, now: Instant) -> Option<Waiter> {
        if self.stands(now) { self.waiters.pop_back() } else { self.waiters.pop_front() }
    }
}

/// The line of one service.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The line's length, readable without its lock.
    waiting: AtomicU32,
    line: Mutex<Line>,
    /// Those beside the line.
    beside: AtomicU32,
    calls: Notify,
}

impl Queue {
    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// Whether anybody waits, in the line or beside it.
    pub(crate) fn is_waited_in(&self) -> bool {
        self.waiting() > 0 || self.beside.load(SeqCst) > 0
    }

    /// Stands beside the line, as one who wants not just any worker: every call is heard, and none is taken from the others.
    /// `None` where too many do.
    pub(crate) fn beside(self: &Arc<Self>) -> Option<Beside> {
        let beside = Beside(self.clone());
        ((self.beside.fetch_add(1, SeqCst) as usize) < WAITING_MAX).then_some(beside)
    }

    /// Stands in the line since `since`; `None` where it is full. Whoever is dropped leaves it.
    pub(crate) fn join(self: &Arc<Self>, since: Instant, patience: Duration, now: Instant) -> Option<Ticket> {
        let (call, called) = oneshot::channel();
        let mut line = self.line();
        if line.waiters.len() >= WAITING_MAX {
            if !line.stands(now) {
                return None;
            }
            if let Some(oldest) = line.waiters.pop_front() {
                self.waiting.fetch_sub(1, SeqCst);
                // One that has gone meanwhile needs no word.
                let _ = oldest.call.send(Called::Shed);
            }
        }
        let ticket = line.tickets;
        line.tickets += 1;
        // Who comes back to the line has its old place.
        let at = line.waiters.partition_point(|waiter| waiter.since <= since);
        line.waiters.insert(at, Waiter { since, patience, ticket, call });
        self.waiting.fetch_add(1, SeqCst);
        Some(Ticket { queue: self.clone(), ticket, called })
    }

    /// A place may have come free: calls one who waits, and all who stand beside the line.
    pub(crate) fn call(&self) {
        if self.beside.load(SeqCst) > 0 {
            self.calls.notify_waiters();
        }
        if self.waiting() == 0 {
            return;
        }
        let mut line = self.line();
        let now = Instant::now();
        while let Some(waiter) = line.next(now) {
            self.waiting.fetch_sub(1, SeqCst);
            if waiter.call.send(Called::Place).is_ok() {
                return;
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }
}

/// Somebody beside the line.
#[derive(Debug)]
pub(crate) struct Beside(Arc<Queue>);

impl Beside {
    /// Resolves with the next call after it was enabled.
    pub(crate) fn called(&self) -> Notified<'_> {
        self.0.calls.notified()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.beside.fetch_sub(1, SeqCst);
    }
}

/// Somebody in the line.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    ticket: u64,
    called: oneshot::Receiver<Called>,
}

impl Ticket {
    /// Waits to be called.
    pub(crate) async fn called(&mut self) -> Called {
        // The sender is dropped only with the line itself.
        (&mut self.called).await.unwrap_or(Called::Place)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        if let Some(at) = line.waiters.iter().position(|waiter| waiter.ticket == self.ticket) {
            line.waiters.remove(at);
            self.queue.waiting.fetch_sub(1, SeqCst);
            return;
        }
        drop(line);
        // Called, and gone before it heard: the next one's turn.
        if self.called.try_recv() == Ok(Called::Place) {
            self.queue.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3600);

    fn called(ticket: &mut Ticket) -> Option<Called> {
        ticket.called().now_or_never()
    }

    #[test]
    fn first_come_first_served_while_the_line_moves() {
        let queue = Arc::new(Queue::default());
        let now = Instant::now();
        let join = |ms| queue.join(now + Duration::from_millis(ms), PATIENCE, now).expect("room");
        let (mut a, mut b) = (join(0), join(1));
        queue.call();
        assert_eq!((called(&mut a), called(&mut b)), (Some(Called::Place), None));
        drop(a);
        // Back for its old place: before the other one.
        let mut a = join(0);
        queue.call();
        assert_eq!((called(&mut a), called(&mut b)), (Some(Called::Place), None));
        drop((a, b));
        assert!(!queue.is_waited_in());
        queue.call();
    }

    #[test]
    fn the_newest_first_once_the_line_stands() {
        let queue = Arc::new(Queue::default());
        let past = Instant::now().checked_sub(Duration::from_millis(60)).expect("up for longer");
        let join = |since| queue.join(since, Duration::from_millis(100), Instant::now()).expect("room");
        let (mut old, mut new) = (join(past), join(Instant::now()));
        queue.call();
        assert_eq!((called(&mut old), called(&mut new)), (None, Some(Called::Place)));
        queue.call();
        assert_eq!(called(&mut old), Some(Called::Place));
    }

    #[test]
    fn who_goes_before_its_turn_passes_it_on() {
        let queue = Arc::new(Queue::default());
        let now = Instant::now();
        let (a, mut b) = (queue.join(now, PATIENCE, now).expect("room"), queue.join(now, PATIENCE, now).expect("room"));
        queue.call();
        drop(a);
        assert_eq!(called(&mut b), Some(Called::Place));
    }

    #[test]
    fn a_full_line_turns_away_the_newcomer_while_it_moves_and_its_oldest_while_it_stands() {
        let queue = Arc::new(Queue::default());
        let now = Instant::now();
        let patience = Duration::from_millis(100);
        let mut all: Vec<_> = (0..WAITING_MAX).map(|_| queue.join(now, patience, now).expect("room")).collect();
        assert!(queue.join(now, patience, now).is_none());
        let later = now + patience;
        let new = queue.join(later, patience, later).expect("the oldest goes");
        assert_eq!((called(&mut all[0]), called(&mut all[1])), (Some(Called::Shed), None));
        drop(all);
        drop(new);
        assert_eq!(queue.waiting.load(SeqCst), 0);
    }

    #[test]
    fn who_stands_beside_the_line_hears_every_call_and_takes_none() {
        let queue = Arc::new(Queue::default());
        let beside: Vec<_> = (0..WAITING_MAX).map(|_| queue.beside().expect("room")).collect();
        assert!(queue.beside().is_none() && queue.is_waited_in() && queue.waiting() == 0);
        let now = Instant::now();
        let mut ticket = queue.join(now, PATIENCE, now).expect("room");
        let mut hears = Box::pin(beside[0].called());
        hears.as_mut().enable();
        queue.call();
        assert!(hears.now_or_never().is_some());
        assert_eq!(called(&mut ticket), Some(Called::Place));
        drop(beside);
        assert!(!queue.is_waited_in());
    }

    /// Threads that join, call and go: nobody is forgotten.
    #[test]
    fn no_call_is_lost() {
        let queue = Arc::new(Queue::default());
        let served = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500u32 {
                        let now = Instant::now();
                        let Some(ticket) = queue.join(now, PATIENCE, now) else { continue };
                        if n % 3 == 0 {
                            drop(ticket);
                            continue;
                        }
                        queue.call();
                        let mut ticket = ticket;
                        // Whoever was called instead calls on when it is done.
                        futures::executor::block_on(ticket.called());
                        drop(ticket);
                        queue.call();
                        served.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        assert!(!queue.is_waited_in());
        assert_eq!(served.load(SeqCst), 4 * 333);
    }
}
