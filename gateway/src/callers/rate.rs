//! Rates without a lock: the generic cell rate algorithm (ITU-T I.371, appendix), a token bucket in one number.
//! `60/min` lets 60 requests through at once after a rest, then one each second.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use paceline_mesh::args::{Rate, ServiceRate};
use paceline_proto::id::ServiceName;

use crate::lane::lock;

/// Most services with a bucket of their own under `*`; further ones share the last one's.
const SERVICES_MAX: usize = 1024;

/// Where the buckets' time begins.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One rate's state.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Between two requests, in the long run.
    step_ns: u64,
    /// How far ahead of the clock the arrivals may be.
    window_ns: u64,
    /// When the next request would be due at an even pace.
    due_ns: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        let window_ns = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX / 4);
        Self { step_ns: (window_ns / u64::from(rate.count.max(1))).max(1), window_ns, due_ns: AtomicU64::new(0) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none; how long until there is.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX / 2);
        let mut due = self.due_ns.load(Relaxed);
        loop {
            let next = due.max(now) + self.step_ns;
            if next - now > self.window_ns {
                return Err(Duration::from_nanos(next - now - self.window_ns));
            }
            match self.due_ns.compare_exchange_weak(due, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

/// `--service-rate`.
#[derive(Debug, Default)]
pub(crate) struct ServiceRates {
    named: HashMap<ServiceName, Bucket>,
    each: Option<Rate>,
    others: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl ServiceRates {
    /// `None` where nothing is limited. A name that is said twice has the last word's rate.
    pub(crate) fn new(rates: &[ServiceRate]) -> Option<Self> {
        if rates.is_empty() {
            return None;
        }
        let mut all = Self::default();
        for ServiceRate { service, rate } in rates {
            match service {
                Some(name) => drop(all.named.insert(name.clone(), Bucket::new(*rate))),
                None => all.each = Some(*rate),
            }
        }
        Some(all)
    }

    /// Takes one request to a service that exists.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(&self, service: &str, now: Instant) -> Result<(), Duration> {
        if let Some(bucket) = self.named.get(service) {
            return bucket.take(now);
        }
        let Some(rate) = self.each else { return Ok(()) };
        let bucket = {
            let mut others = lock(&self.others);
            let full = others.len() >= SERVICES_MAX && !others.contains_key(service);
            let key = if full { "" } else { service };
            match others.get(key) {
                Some(bucket) => bucket.clone(),
                None => others.entry(key.to_owned()).or_insert_with(|| Arc::new(Bucket::new(rate))).clone(),
            }
        };
        bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_an_even_pace() {
        let bucket = Bucket::new("60/min".parse().expect("a rate"));
        let start = *EPOCH + Duration::from_secs(3600);
        for n in 0..60 {
            assert_eq!(bucket.take(start), Ok(()), "{n}");
        }
        assert_eq!(bucket.take(start), Err(Duration::from_secs(1)));
        let later = start + Duration::from_millis(1500);
        assert_eq!((bucket.take(later), bucket.take(later)), (Ok(()), Err(Duration::from_millis(500))));
        let rested = start + Duration::from_secs(600);
        assert_eq!((0..100).filter(|_| bucket.take(rested).is_ok()).count(), 60);
    }

    #[test]
    fn lanes_together_get_no_more() {
        let bucket = Bucket::new("1000/h".parse().expect("a rate"));
        let now = *EPOCH + Duration::from_secs(1);
        let passed: usize = std::thread::scope(|scope| {
            let lanes: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(now).is_ok()).count())).collect();
            lanes.into_iter().map(|lane| lane.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn services_have_their_own_or_each_the_same() {
        let rates = ["llm=1/min", "*=2/min"].map(|r| r.parse::<ServiceRate>().expect("a rate"));
        let rates = ServiceRates::new(&rates).expect("some");
        let now = *EPOCH + Duration::from_secs(1);
        let passed = |name: &str| (0..9).filter(|_| rates.take(name, now).is_ok()).count();
        assert_eq!((passed("llm"), passed("notes"), passed("files")), (1, 2, 2));
        for n in 0..2 * SERVICES_MAX {
            let _ = rates.take(&format!("s{n}"), now);
        }
        assert!(lock(&rates.others).len() <= SERVICES_MAX + 1);
        assert!(ServiceRates::new(&[]).is_none());
    }
}
