//! Counters of a lane, written by that lane alone and summed when somebody reads them. No lock is contended but for
//! the moment of a reading.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode};
use paceline_mesh::data::PathKind;
use paceline_proto::id::{NodeId, ServiceName};

use crate::{
    lane::lock,
    pipeline::{budget::Budget, eject::Outlier, hedge::Slowest, load::Typical},
};

/// Services with counters of their own; what comes later is counted as [`OTHER`].
const SERVICES_MAX: usize = 1024;
/// Requests for services that nobody offers, and services past [`SERVICES_MAX`].
pub(crate) const OTHER: &str = "";

/// Upper bounds of the histogram's buckets, in microseconds.
pub(crate) const BUCKETS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000, 10_000_000, 60_000_000];

/// What is counted for a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// (status, path; `None`: no worker answered) -> requests.
    pub(crate) answers: BTreeMap<(u16, Option<PathKind>), u64>,
    /// Requests sent once more to another worker.
    pub(crate) retries: u64,
    /// Requests sent to a second worker because the first was slow.
    pub(crate) hedges: u64,
    /// Retries and hedges that the budget did not allow.
    pub(crate) over_budget: u64,
    /// Requests whose response head came within each bound, and the ones beyond all.
    pub(crate) heads: [u64; BUCKETS_US.len() + 1],
    /// The sum of those times.
    pub(crate) heads_us: u64,
}

/// The counters of one service on one lane, and what the lane has learned of the service.
#[derive(Debug)]
pub(crate) struct ServiceStats {
    state: Mutex<(Counts, Budget)>,
    epoch: Instant,
    pub(crate) typical: Typical,
    /// Kept only where the service allows hedging.
    pub(crate) slowest: Slowest,
}

impl ServiceStats {
    /// For one of `lanes` lanes.
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            state: Mutex::new((Counts::default(), Budget::new(lanes))),
            epoch: Instant::now(),
            typical: Typical::default(),
            slowest: Slowest::default(),
        }
    }

    /// A request was answered: its status, through whom, how long the response head took, and when.
    pub(crate) fn answered(&self, status: StatusCode, path: Option<PathKind>, took: Duration, at: Instant) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (counts, budget) = &mut *lock(&self.state);
        *counts.answers.entry((status.as_u16(), path)).or_default() += 1;
        counts.heads[BUCKETS_US.partition_point(|bound| *bound < us)] += 1;
        counts.heads_us = counts.heads_us.saturating_add(us);
        budget.asked(at.saturating_duration_since(self.epoch));
    }

    pub(crate) fn retried(&self) {
        lock(&self.state).0.retries += 1;
    }

    pub(crate) fn hedged(&self) {
        lock(&self.state).0.hedges += 1;
    }

    /// Takes one attempt more from the service's budget; `false` where it is used up.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let (counts, budget) = &mut *lock(&self.state);
        let given = budget.withdraw(now.saturating_duration_since(self.epoch));
        counts.over_budget += u64::from(!given);
        given
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        for (key, n) in &other.answers {
            *self.answers.entry(*key).or_default() += n;
        }
        for (mine, theirs) in self.heads.iter_mut().zip(other.heads) {
            *mine += theirs;
        }
        self.heads_us = self.heads_us.saturating_add(other.heads_us);
        self.retries += other.retries;
        self.hedges += other.hedges;
        self.over_budget += other.over_budget;
    }

    /// All requests.
    pub(crate) fn total(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// A request that a worker has and that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) request_id: HeaderValue,
    pub(crate) service: ServiceName,
    pub(crate) method: Method,
    pub(crate) node: NodeId,
    pub(crate) since: Instant,
}

/// Running requests by slot: slots are used again, so that a request costs no allocation.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
}

/// The counters of a lane.
#[derive(Debug)]
pub(crate) struct LaneStats {
    lanes: usize,
    pub(crate) connections: AtomicU64,
    pub(crate) parked: AtomicU64,
    services: Mutex<BTreeMap<String, Arc<ServiceStats>>>,
    running: Mutex<Table>,
}

impl LaneStats {
    /// For one of `lanes` lanes.
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            lanes,
            connections: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            services: Mutex::default(),
            running: Mutex::default(),
        }
    }

    /// The counters of a service; kept as long as the process, so that they never go back.
    pub(crate) fn service(&self, name: &ServiceName) -> Arc<ServiceStats> {
        let mut services = lock(&self.services);
        if let Some(stats) = services.get(name.as_str()) {
            return stats.clone();
        }
        let key = if services.len() < SERVICES_MAX { name.as_str() } else { OTHER };
        services.entry(key.into()).or_insert_with(|| Arc::new(ServiceStats::new(self.lanes))).clone()
    }

    /// The counters of requests that no known service was asked by.
    pub(crate) fn other(&self) -> Arc<ServiceStats> {
        let fresh = || Arc::new(ServiceStats::new(self.lanes));
        lock(&self.services).entry(OTHER.into()).or_insert_with(fresh).clone()
    }

    /// A connection waits without buffers, until the guard is dropped.
    pub(crate) fn park(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Relaxed);
        Parked(&self.parked)
    }

    /// A request goes to a worker; it is in flight until the guard is dropped.
    pub(crate) fn take_off(
        self: &Arc<Self>,
        lane: usize,
        outlier: &Arc<Outlier>,
        running: Running,
        now: Instant,
    ) -> Flight {
        outlier.load(lane).begin(outlier.us(now));
        let mut table = lock(&self.running);
        let slot = table.free.pop().unwrap_or(table.slots.len());
        if slot == table.slots.len() {
            table.slots.push(None);
        }
        table.slots[slot] = Some(running);
        Flight { stats: self.clone(), outlier: outlier.clone(), lane, slot, unanswered: true, refused: false }
    }

    /// What runs now, oldest slot first.
    pub(crate) fn running(&self) -> Vec<Running> {
        lock(&self.running).slots.iter().flatten().cloned().collect()
    }

    /// How many run now.
    pub(crate) fn running_count(&self) -> usize {
        let table = lock(&self.running);
        table.slots.len() - table.free.len()
    }
}

/// A connection that waits without buffers.
pub(crate) struct Parked<'a>(&'a AtomicU64);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Flight {
    stats: Arc<LaneStats>,
    outlier: Arc<Outlier>,
    lane: usize,
    slot: usize,
    /// Nothing is known yet of how the worker did.
    unanswered: bool,
    /// The worker had enough to do without it.
    refused: bool,
}

impl Flight {
    /// The head of its answer is there, after so long.
    pub(crate) fn heard(&mut self, at: Instant, took_us: f64) {
        if std::mem::take(&mut self.unanswered) {
            self.outlier.load(self.lane).heard(self.outlier.us(at), took_us);
        }
    }

    /// The worker had enough to do: its end frees no place there.
    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    /// It failed, or its answer speaks of a failure.
    pub(crate) fn failed(&mut self, at: Instant, took_us: f64, typical_us: f64) {
        if std::mem::take(&mut self.unanswered) {
            let load = self.outlier.load(self.lane);
            load.unheard();
            load.failed(self.outlier.us(at), took_us, typical_us);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let load = self.outlier.load(self.lane);
        if self.unanswered {
            load.unheard();
        }
        load.end();
        {
            let mut table = lock(&self.stats.running);
            table.slots[self.slot] = None;
            table.free.push(self.slot);
        }
        let queue = self.outlier.queue();
        match queue.is_waited_in() {
            false => {}
            true if self.refused => queue.call(),
            true => self.outlier.has_place(),
        }
    }
}

/// The counters of all lanes together, by service.
pub(crate) fn sum(lanes: &[Arc<LaneStats>]) -> BTreeMap<String, Counts> {
    let mut all: BTreeMap<String, Counts> = BTreeMap::new();
    for lane in lanes {
        let services: Vec<_> = lock(&lane.services).iter().map(|(name, s)| (name.clone(), s.clone())).collect();
        for (name, stats) in services {
            all.entry(name).or_default().add(&lock(&stats.state).0);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::eject::Outliers;

    fn running(node: NodeId) -> Running {
        Running {
            request_id: HeaderValue::from_static("r"),
            service: ServiceName::new("files").expect("name"),
            method: Method::GET,
            node,
            since: Instant::now(),
        }
    }

    #[test]
    fn a_flight_is_counted_until_it_is_dropped_and_its_slot_used_again() {
        let stats = Arc::new(LaneStats::new(1));
        let node = NodeId::from_bytes([1; 32]);
        let outlier = Outliers::new(1).get(&ServiceName::new("files").expect("name"), node);
        let (a, b) = (
            stats.take_off(0, &outlier, running(node), Instant::now()),
            stats.take_off(0, &outlier, running(node), Instant::now()),
        );
        assert_eq!((stats.running_count(), outlier.load(0).in_flight()), (2, 2));
        drop(a);
        let c = stats.take_off(0, &outlier, running(node), Instant::now());
        assert_eq!(c.slot, 0);
        drop((b, c));
        assert_eq!((stats.running().len(), stats.running_count()), (0, 0));
        assert_eq!(outlier.load(0).in_flight(), 0);
    }

    #[test]
    fn lanes_are_summed() {
        let lanes = [Arc::new(LaneStats::new(1)), Arc::new(LaneStats::new(1))];
        for lane in &lanes {
            let s = lane.service(&ServiceName::new("files").expect("name"));
            s.answered(StatusCode::OK, Some(PathKind::Local), Duration::from_micros(100), Instant::now());
            s.answered(StatusCode::OK, Some(PathKind::Local), Duration::from_secs(61), Instant::now());
        }
        let all = sum(&lanes);
        assert_eq!(all["files"].total(), 4);
        assert_eq!((all["files"].heads[0], all["files"].heads[BUCKETS_US.len()]), (2, 2));
    }
}
