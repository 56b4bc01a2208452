//! A bound on what goes on at once, with a short queue before it: first come, first served.
//!
//! Taking a free place is one atomic addition; a lock is taken only where somebody waits. Who has waited for
//! [`WAIT_MAX`] goes without, so that another machine can be asked while that still helps.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

/// How long a request waits for a place.
pub const WAIT_MAX: Duration = Duration::from_millis(100);
/// Most requests that wait; beyond it nobody would get a place in time.
pub const WAITING_MAX: usize = 256;
/// No bound.
pub(super) const UNLIMITED: u32 = u32::MAX;

/// The bound.
#[derive(Debug)]
pub(super) struct Limit {
    max: AtomicU32,
    taken: AtomicU32,
    /// The queue's length, readable without its lock.
    waiting: AtomicU32,
    queue: Mutex<VecDeque<(u64, oneshot::Sender<()>)>>,
    tickets: AtomicU64,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Limit>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Limit {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let (taken, waiting, queue, tickets) = Default::default();
        Arc::new(Self { max: AtomicU32::new(max), taken, waiting, queue, tickets })
    }

    /// Another bound from now on; those above it go on.
    pub(super) fn set_max(&self, max: u32) {
        self.max.store(max, SeqCst);
        self.hand_out();
    }

    pub(super) fn max(&self) -> u32 {
        self.max.load(SeqCst)
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> u32 {
        self.taken.load(SeqCst)
    }

    /// A place that is free now, unless others wait for it.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Place> {
        if self.waiting.load(SeqCst) > 0 || !self.add() {
            return None;
        }
        Some(Place(self.clone()))
    }

    /// A place, after a wait if need be; `None` where there is none in time.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Place> {
        match self.try_take() {
            Some(place) => Some(place),
            None => self.wait().await,
        }
    }

    async fn wait(self: &Arc<Self>) -> Option<Place> {
        let (given, place) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, SeqCst);
        {
            let mut queue = self.queue();
            if queue.len() >= WAITING_MAX {
                return None;
            }
            queue.push_back((ticket, given));
            self.waiting.fetch_add(1, SeqCst);
        }
        // From here on, whoever is dropped leaves the queue, or gives back the place that it does not need any more.
        let mut waiter = Waiter { limit: self.clone(), ticket, place: Some(place) };
        // A place may have come free before we stood in the queue.
        self.hand_out();
        let place = waiter.place.as_mut()?;
        if timeout(WAIT_MAX, place).await.is_ok_and(|given| given.is_ok()) {
            waiter.place = None;
            return Some(Place(self.clone()));
        }
        None
    }

    /// Takes a place where one is free.
    fn add(&self) -> bool {
        self.taken.fetch_update(SeqCst, SeqCst, |taken| (taken < self.max()).then(|| taken + 1)).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.hand_out();
        }
    }

    /// Gives free places to those at the front of the queue.
    fn hand_out(&self) {
        let mut queue = self.queue();
        while !queue.is_empty() && self.add() {
            let Some((_, waiter)) = queue.pop_front() else { break };
            self.waiting.fetch_sub(1, SeqCst);
            if waiter.send(()).is_err() {
                self.taken.fetch_sub(1, SeqCst);
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(u64, oneshot::Sender<()>)>> {
        // Nothing that holds it panics halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands in the queue.
struct Waiter {
    limit: Arc<Limit>,
    ticket: u64,
    /// `None` once the place is somebody's.
    place: Option<oneshot::Receiver<()>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(mut place) = self.place.take() else { return };
        let mut queue = self.limit.queue();
        if let Some(at) = queue.iter().position(|(ticket, _)| *ticket == self.ticket) {
            queue.remove(at);
            self.limit.waiting.fetch_sub(1, SeqCst);
            return;
        }
        drop(queue);
        if place.try_recv().is_ok() {
            self.limit.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, future::join_all};

    #[tokio::test(start_paused = true)]
    async fn who_comes_first_is_served_first_and_nobody_waits_long() {
        let limit = Limit::new(1);
        let first = limit.take().await.expect("free");
        let mut second = Box::pin(limit.take());
        let mut third = Box::pin(limit.take());
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(limit.try_take().is_none(), "nobody overtakes those who wait");
        assert!(third.as_mut().now_or_never().is_none());
        let place = second.await.expect("its turn");
        let begun = tokio::time::Instant::now();
        assert!(third.await.is_none());
        assert!(begun.elapsed() <= WAIT_MAX);
        assert_eq!((limit.taken(), limit.waiting.load(SeqCst)), (1, 0));
        drop(place);
        assert_eq!(limit.taken(), 0);
        assert!(limit.try_take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_leaves_no_gap() {
        let limit = Limit::new(1);
        let first = limit.take().await.expect("free");
        let mut gone = Box::pin(limit.take());
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(limit.take());
        assert!(next.as_mut().now_or_never().is_none());
        drop(first);
        drop(gone);
        let place = next.await.expect("the one that was given to who went away");
        drop(place);
        assert_eq!((limit.taken(), limit.waiting.load(SeqCst)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_the_bound_can_change() {
        let limit = Limit::new(0);
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(limit.take())).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert!(matches!(limit.take().now_or_never(), Some(None)), "told so at once");
        limit.set_max(u32::try_from(WAITING_MAX).expect("small") - 1);
        let got: Vec<_> = join_all(waiting).await.into_iter().flatten().collect();
        assert_eq!(got.len(), WAITING_MAX - 1);
        limit.set_max(1);
        assert!(limit.try_take().is_none());
        drop(got);
        assert_eq!(limit.taken(), 0);
    }

    /// Threads that take, wait, give up and give back: never more than the bound, and none is lost.
    #[test]
    fn many_threads_never_exceed_the_bound() {
        const MAX: u32 = 3;
        let limit = Limit::new(MAX);
        std::thread::scope(|scope| {
            for seed in 0..4u64 {
                let limit = limit.clone();
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
                    runtime.block_on(async {
                        let mut draw = seed;
                        for _ in 0..500 {
                            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            let wanted = (0..1 + draw % 4).map(|_| limit.take());
                            // Some of them are dropped while they wait.
                            let patience = Duration::from_micros((draw >> 32) % 200);
                            let got = timeout(patience, join_all(wanted)).await;
                            assert!(limit.taken() <= MAX);
                            tokio::task::yield_now().await;
                            drop(got);
                        }
                    });
                });
            }
        });
        assert_eq!((limit.taken(), limit.waiting.load(SeqCst)), (0, 0));
    }
}
