//! A pool of connections to one place: QUIC streams between gateway and node, TCP to a service.
//!
//! A pool belongs to a lane: its lock is never contended, and a request costs no wake-up beyond the connection's own. The
//! last one that came back is the first to go out, so that a burst's surplus ages at the other end and is dropped.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Most connections that wait for a request.
    pub idle_max: usize,
    /// How long one waits before it is closed.
    pub idle_age_max: Duration,
    /// Most connections, waiting or at work.
    pub open_max: usize,
}

/// What a pool holds. Dropped, it is closed.
pub trait Pooled: Send + 'static {
    /// Whether it has not turned out to be closed at the other side.
    fn is_usable(&self) -> bool;
}

struct Idle<T> {
    what: T,
    since: Instant,
}

struct State<T> {
    idle: VecDeque<Idle<T>>,
    waiters: VecDeque<oneshot::Sender<T>>,
    sweeping: bool,
}

/// See the module.
pub struct Pool<T> {
    limits: PoolLimits,
    state: Mutex<State<T>>,
    open: AtomicUsize,
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("open", &self.open()).finish_non_exhaustive()
    }
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub struct Open<T>(Weak<Pool<T>>);

impl<T> Drop for Open<T> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.open.fetch_sub(1, Relaxed);
        }
    }
}

impl<T> Pool<T> {
    /// How many connections there are, waiting or at work.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Whether another connection would be one too many.
    pub fn is_full(&self) -> bool {
        self.open() >= self.limits.open_max
    }

    /// How many wait for a request.
    pub fn idle(&self) -> usize {
        self.state().idle.len()
    }

    /// Counts one more.
    pub fn count(self: &Arc<Self>) -> Open<T> {
        self.open.fetch_add(1, Relaxed);
        Open(Arc::downgrade(self))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Pooled> Pool<T> {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        let state = State { idle: VecDeque::new(), waiters: VecDeque::new(), sweeping: false };
        Arc::new(Self { limits, state: Mutex::new(state), open: AtomicUsize::new(0) })
    }

    /// One that waits and still works.
    pub fn take(&self) -> Option<T> {
        let mut state = self.state();
        while let Some(idle) = state.idle.pop_back() {
            if idle.what.is_usable() {
                if idle.since.elapsed() < self.limits.idle_age_max {
                    return Some(idle.what);
                }
                // All others have waited longer still.
                state.idle.clear();
            }
        }
        None
    }

    /// Closes all that wait: one of them has turned out to be closed at the other side.
    pub fn clear(&self) {
        self.state().idle.clear();
    }

    /// The next one that comes back. Those who ask first are served first.
    pub async fn wait(&self) -> T {
        loop {
            let rx = self.queue();
            if let Ok(what) = rx.await {
                return what;
            }
        }
    }

    fn queue(&self) -> oneshot::Receiver<T> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.state();
        // Those who came first give up first.
        while state.waiters.front().is_some_and(oneshot::Sender::is_closed) {
            state.waiters.pop_front();
        }
        state.waiters.push_back(tx);
        rx
    }

    /// Gives one back, ready for the next request.
    pub fn put(self: &Arc<Self>, mut what: T) {
        let mut state = self.state();
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(what) {
                Ok(()) => return,
                Err(back) => what = back,
            }
        }
        if state.idle.len() >= self.limits.idle_max {
            return;
        }
        state.idle.push_back(Idle { what, since: Instant::now() });
        if !state.sweeping && tokio::runtime::Handle::try_current().is_ok() {
            state.sweeping = true;
            // Lives only while something waits in the pool, and never keeps the pool alive.
            tokio::spawn(sweep(Arc::downgrade(self), self.limits.idle_age_max));
        }
    }
}

/// Closes what has waited too long, or was closed by the other side, until the pool is empty or gone.
async fn sweep<T: Pooled>(pool: Weak<Pool<T>>, age_max: Duration) {
    loop {
        tokio::time::sleep(age_max).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        let young = state.idle.iter().position(|idle| idle.since.elapsed() < age_max && idle.what.is_usable());
        let old = young.unwrap_or(state.idle.len());
        state.idle.drain(..old);
        if state.idle.is_empty() {
            state.sweeping = false;
            return;
        }
    }
}
