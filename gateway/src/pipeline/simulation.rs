//! Selection in a discrete-event simulation, held against queueing theory and against join-shortest-queue, which sees all
//! queues of all gateways at once. The code that is simulated is the one that runs: the same routes, loads and picks, over
//! virtual times.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use paceline_proto::manifest::Health;

use super::{
    answer::Attempt,
    candidates::{self, Here, Route},
    eject::{Outliers, Weight},
    retry::FailureKind,
    select::{Ask, Pick, pick},
};
use crate::{
    metrics::ServiceStats,
    testing::{service, view},
};

/// xorshift64*: the simulation is the same in each run.
struct Chance(u64);

impl Chance {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - (self.bits() >> 11) as f64 / (1u64 << 53) as f64).ln()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Policy {
    Ours,
    /// Join the shortest of all queues, ties at random.
    Shortest,
}

#[derive(Clone)]
struct Worker {
    /// Mean time of a request, in microseconds, exponentially distributed.
    mean_us: f64,
    /// Answers at once that it failed, before this time.
    broken_until_us: u64,
    /// Takes requests from this time on, and answers none.
    hangs_from_us: u64,
    queue: VecDeque<usize>,
}

fn worker(mean_us: f64) -> Worker {
    Worker { mean_us, broken_until_us: 0, hangs_from_us: u64::MAX, queue: VecDeque::new() }
}

struct Job {
    begun_us: u64,
    sent_us: u64,
    gateway: usize,
    index: usize,
    tried: Vec<Attempt>,
}

struct Outcome {
    /// Sorted.
    sojourns_us: Vec<u64>,
    failed: usize,
    /// By worker.
    served: Vec<usize>,
    stuck: usize,
}

impl Outcome {
    fn quantile(&self, q: f64) -> f64 {
        self.sojourns_us[((self.sojourns_us.len() - 1) as f64 * q) as usize] as f64
    }

    fn mean(&self) -> f64 {
        self.sojourns_us.iter().sum::<u64>() as f64 / self.sojourns_us.len() as f64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Done(usize),
}

struct World {
    workers: Vec<Worker>,
    gateways: usize,
    /// Requests a second, of all gateways.
    rate: f64,
    jobs: usize,
    policy: Policy,
    seed: u64,
}

fn route(workers: usize) -> Route {
    let view = view(|v| {
        for n in 1..=workers {
            v.offer(u8::try_from(n).expect("few"), "a", Health::Healthy);
        }
    });
    let outliers = Outliers::new(1);
    let here = Here { has_local: false, outliers: &outliers, first_byte: Duration::from_secs(60) };
    candidates::route(&view, &service("a"), &view.services["a"], &here, Arc::new(ServiceStats::new(1)))
}

impl World {
    fn new(workers: Vec<Worker>, load: f64) -> Self {
        let capacity: f64 = workers.iter().map(|worker| 1e6 / worker.mean_us).sum();
        Self { rate: capacity * load, workers, gateways: 1, jobs: 60_000, policy: Policy::Ours, seed: 0x5EED }
    }

    fn of(&self, policy: Policy) -> Outcome {
        let world = World { workers: self.workers.clone(), policy, ..*self };
        world.run()
    }

    fn run(mut self) -> Outcome {
        let mut chance = Chance(self.seed);
        let routes: Vec<Route> = (0..self.gateways).map(|_| route(self.workers.len())).collect();
        let epoch = Instant::now() + Duration::from_secs(1);
        let mut events = BinaryHeap::from([Reverse((0u64, Event::Arrival))]);
        let mut jobs: Vec<Job> = Vec::new();
        let mut outcome = Outcome { sojourns_us: Vec::new(), failed: 0, served: vec![0; self.workers.len()], stuck: 0 };
        while let Some(Reverse((now_us, event))) = events.pop() {
            match event {
                Event::Arrival => {
                    let gateway = chance.bits() as usize % self.gateways;
                    jobs.push(Job { begun_us: now_us, sent_us: now_us, gateway, index: 0, tried: Vec::new() });
                    let id = jobs.len() - 1;
                    self.send(&mut jobs, id, &routes, epoch, now_us, &mut chance, &mut events, &mut outcome);
                    if jobs.len() < self.jobs {
                        let gap = chance.exponential(1e6 / self.rate) as u64;
                        events.push(Reverse((now_us + gap, Event::Arrival)));
                    }
                }
                Event::Done(at) => {
                    let id = self.workers[at].queue.pop_front().expect("somebody was served");
                    let job = &jobs[id];
                    if self.policy == Policy::Ours {
                        let route = &routes[job.gateway];
                        let outlier = &route.candidates[job.index].outlier;
                        let took = (now_us - job.sent_us) as f64;
                        outlier.succeeded();
                        route.stats.typical.learn(took);
                        outlier.load(0).heard(outlier.us(epoch + Duration::from_micros(now_us)), took);
                        outlier.load(0).end();
                    }
                    outcome.sojourns_us.push(now_us - job.begun_us);
                    outcome.served[at] += 1;
                    self.serve(at, now_us, &mut chance, &mut events);
                }
            }
        }
        // What happens while everything is new is not what is asked about.
        outcome.sojourns_us.drain(..outcome.sojourns_us.len() / 20);
        outcome.sojourns_us.sort_unstable();
        outcome.stuck = self.workers.iter().map(|worker| worker.queue.len()).sum();
        outcome
    }

    fn choose(&self, route: &Route, job: &Job, now: Instant, chance: &mut Chance) -> Option<usize> {
        match self.policy {
            Policy::Ours => {
                let ask = Ask { tried: &job.tried, with: None, now, lane: 0, draw: chance.bits(), key: None };
                match pick(route, &ask) {
                    Pick::One { index, .. } => Some(index),
                    _ => None,
                }
            }
            Policy::Shortest => {
                let first = chance.bits() as usize;
                let count = self.workers.len();
                (0..count).map(|n| (first + n) % count).min_by_key(|n| self.workers[*n].queue.len())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the state of a simulation, used in one place")]
    fn send(
        &mut self,
        jobs: &mut [Job],
        id: usize,
        routes: &[Route],
        epoch: Instant,
        now_us: u64,
        chance: &mut Chance,
        events: &mut BinaryHeap<Reverse<(u64, Event)>>,
        outcome: &mut Outcome,
    ) {
        let now = epoch + Duration::from_micros(now_us);
        let route = &routes[jobs[id].gateway];
        while jobs[id].tried.len() < 3 {
            let Some(index) = self.choose(route, &jobs[id], now, chance) else { break };
            let outlier = &route.candidates[index].outlier;
            if self.policy == Policy::Ours {
                outlier.load(0).begin(outlier.us(now));
            }
            if now_us >= self.workers[index].broken_until_us {
                jobs[id].index = index;
                jobs[id].sent_us = now_us;
                self.workers[index].queue.push_back(id);
                if self.workers[index].queue.len() == 1 {
                    self.serve(index, now_us, chance, events);
                }
                return;
            }
            if self.policy == Policy::Ours {
                outlier.load(0).unheard();
                outlier.load(0).failed(outlier.us(now), 50.0, route.stats.typical.us());
                outlier.load(0).end();
                outlier.failed(Weight::One, now);
            }
            jobs[id].tried.push(Attempt {
                node: route.candidates[index].node,
                worker: route.candidates[index].name().clone(),
                path: paceline_mesh::data::PathKind::Direct,
                kind: FailureKind::Broken,
                error: String::new(),
                retry_after: None,
                excludes: true,
            });
            outcome.failed += 1;
        }
    }

    fn serve(&self, at: usize, now_us: u64, chance: &mut Chance, events: &mut BinaryHeap<Reverse<(u64, Event)>>) {
        if !self.workers[at].queue.is_empty() && now_us < self.workers[at].hangs_from_us {
            let took = chance.exponential(self.workers[at].mean_us) as u64;
            events.push(Reverse((now_us + took, Event::Done(at))));
        }
    }
}

/// The simulator itself: one exponential server with random arrivals (M/M/1).
#[test]
fn one_worker_is_an_m_m_1_queue() {
    for load in [0.5, 0.8] {
        let outcome = World { jobs: 200_000, ..World::new(vec![worker(10_000.0)], load) }.run();
        let expected = 10_000.0 / (1.0 - load);
        assert!((outcome.mean() / expected - 1.0).abs() < 0.06, "{} of {expected}", outcome.mean());
        // The sojourn of M/M/1 is exponential.
        let p99 = outcome.quantile(0.99) / (expected * 100f64.ln());
        assert!((p99 - 1.0).abs() < 0.12, "{p99}");
    }
}

/// Many equal workers against the theory of two choices: the mean of the fluid limit is the sum of `load^(2^i - 2)`
/// service times, `i` from 1 (Mitzenmacher, 1996; Vvedenskaya and others, 1996); one random choice has `1 / (1 - load)`.
#[test]
fn many_equal_workers_are_as_good_as_two_choices() {
    for load in [0.7f64, 0.9] {
        let outcome = World { jobs: 200_000, ..World::new(vec![worker(10_000.0); 100], load) }.run();
        let two: f64 = (1..8).map(|i| load.powf(2f64.powi(i) - 2.0)).sum::<f64>() * 10_000.0;
        let mean = outcome.mean();
        eprintln!("load {load}: mean {mean:.0} us, two choices {two:.0}, one {:.0}", 10_000.0 / (1.0 - load));
        assert!(mean < 1.15 * two, "{mean} against {two}");
    }
}

#[test]
fn with_one_slow_worker_of_four_the_tail_is_that_of_the_shortest_queue() {
    for times in [3.0, 10.0, 50.0] {
        for load in [0.3, 0.6, 0.85] {
            let mut workers = vec![worker(10_000.0); 4];
            workers[2].mean_us *= times;
            let world = World::new(workers, load);
            let (ours, shortest) = (world.of(Policy::Ours), world.of(Policy::Shortest));
            let (a, b) = (ours.quantile(0.99), shortest.quantile(0.99));
            eprintln!("slow x{times}, load {load}: p99 {a:.0} us, shortest queue {b:.0}, {:.2}", a / b);
            assert!(a < 1.3 * b, "x{times} at {load}: {a} against {b}");
        }
    }
}

#[test]
fn equal_workers_share_equally_with_the_tail_of_the_shortest_queue() {
    for load in [0.5, 0.8] {
        let world = World::new(vec![worker(10_000.0); 4], load);
        let (ours, shortest) = (world.of(Policy::Ours), world.of(Policy::Shortest));
        let (a, b) = (ours.quantile(0.99), shortest.quantile(0.99));
        eprintln!("four equal, load {load}: p99 {a:.0} us, shortest queue {b:.0}, {:.2}", a / b);
        assert!(a < 1.3 * b, "{a} against {b}");
        let (least, most) = (ours.served.iter().min(), ours.served.iter().max());
        assert!(most < least.map(|n| n * 6 / 5).as_ref(), "{:?}", ours.served);
    }
}

#[test]
fn gateways_that_see_only_their_own_requests_come_close() {
    for gateways in [2, 8] {
        let mut workers = vec![worker(10_000.0); 4];
        workers[0].mean_us *= 5.0;
        let world = World { gateways, ..World::new(workers, 0.6) };
        let (ours, shortest) = (world.of(Policy::Ours), world.of(Policy::Shortest));
        let (a, b) = (ours.quantile(0.99), shortest.quantile(0.99));
        eprintln!("{gateways} gateways: p99 {a:.0} us, shortest queue that sees all {b:.0}, {:.2}", a / b);
        assert!(a < 1.6 * b, "{gateways}: {a} against {b}");
    }
}

#[test]
fn a_worker_that_fails_at_once_draws_no_crowd_and_is_used_again_when_it_is_well() {
    let mut workers = vec![worker(10_000.0); 4];
    workers[1].broken_until_us = 60_000_000;
    let world = World { jobs: 40_000, ..World::new(workers, 0.5) };
    let seconds = world.jobs as f64 / world.rate;
    assert!(seconds > 150.0, "{seconds}");
    let outcome = world.run();
    assert_eq!(outcome.sojourns_us.len(), 38_000, "everybody was served elsewhere");
    // Five to begin with, then one after each rest of 1, 2, 4, ... s.
    assert!(outcome.failed <= 12, "{} attempts failed", outcome.failed);
    assert!(outcome.served[1] > 3_000, "{:?}", outcome.served);
}

#[test]
fn a_hung_worker_holds_few_requests() {
    let mut workers = vec![worker(10_000.0); 4];
    workers[3].hangs_from_us = 20_000_000;
    let world = World { jobs: 20_000, ..World::new(workers, 0.6) };
    let outcome = world.run();
    eprintln!("a hung worker of four holds {} requests", outcome.stuck);
    // Without a rest or a broken connection: by its silence alone.
    assert!(outcome.stuck <= 12, "{}", outcome.stuck);
}
