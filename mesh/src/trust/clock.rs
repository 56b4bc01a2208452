//! Wall time for certificates: never before the last time that is on disk.
//!
//! A machine whose clock was reset would otherwise accept certificates that have long expired.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use paceline_proto::id::UnixSeconds;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// Cheap to clone; all clones share the floor.
#[derive(Clone)]
pub(crate) struct Clock {
    wall: Arc<dyn Fn() -> UnixSeconds + Send + Sync>,
    floor: Arc<AtomicU64>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now().0)
    }
}

impl Clock {
    /// The machine's clock.
    pub(crate) fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            UnixSeconds(since.as_secs())
        })
    }

    /// Any other.
    pub(crate) fn new(wall: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self { wall: Arc::new(wall), floor: Arc::default() }
    }

    /// The time, not before the floor.
    pub(crate) fn now(&self) -> UnixSeconds {
        UnixSeconds((self.wall)().0.max(self.floor.load(Ordering::Relaxed)))
    }

    /// From now on, time is never before `floor`. Returns by how many seconds the wall is behind it.
    pub(crate) fn raise_floor(&self, floor: UnixSeconds) -> u64 {
        self.floor.fetch_max(floor.0, Ordering::Relaxed);
        floor.0.saturating_sub((self.wall)().0)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now().0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_never_before_the_floor() {
        let wall = Arc::new(AtomicU64::new(100));
        let clock = Clock::new({
            let wall = wall.clone();
            move || UnixSeconds(wall.load(Ordering::Relaxed))
        });
        assert_eq!(clock.raise_floor(UnixSeconds(90)), 0);
        assert_eq!(clock.now(), UnixSeconds(100));
        assert_eq!(clock.raise_floor(UnixSeconds(500)), 400);
        assert_eq!(clock.clone().now(), UnixSeconds(500), "the clock was set back");
        wall.store(600, Ordering::Relaxed);
        assert_eq!(clock.now(), UnixSeconds(600));
    }
}
