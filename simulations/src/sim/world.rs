//! The simulated cluster: hosts with real nodes, links between them, and virtual time.
//!
//! Events are handled by (time, sequence), every random choice comes from one seed, and nothing looks at a clock or an
//! unordered map: a scenario and a seed give the same run again, to the last byte.

mod dials;
mod faults;
mod hints;
mod mesh;
mod outputs;
mod processes;
mod streams;
mod thin;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use paceline_proto::Now;
use paceline_proto::id::{NodeId, UnixSeconds};
use paceline_proto::memo::Memo;
use paceline_proto::node::{self, Input};

use super::HostId;
use super::authority::{Authority, START};
use super::beliefs::Beliefs;
use super::conditions::Conditions;
use super::draw::LOSS_OF_FEW;
use super::gossip::Messages;
use super::host::Host;
use super::invariants::{self, Checker, End, Fact};
use super::leads::Leads;
use super::link::{Link, Payload};
use super::queue::Queue;
use super::rng::Rng;
use super::scenario::{Scenario, seconds};
use super::traffic::Traffic;

pub use hints::Hints;
pub use thin::about;
pub use watch::{Mark, Measured, News, Watched};

/// Wakes of one host at one instant beyond which it is taken for a timer that stays due.
const WAKES_MAX: u32 = 1_000;
/// Between two looks of the invariants.
const TICK: Duration = Duration::from_secs(1);
/// For so long streams may have been stalled by losses that are over.
const LOSSY: Duration = Duration::from_secs(30);

/// What is to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A node's timer.
    Wake(HostId),
    /// Something reaches an end of a link.
    Arrive { link: u32, end: u8, payload: Payload },
    /// What was lost is sent again.
    Retry { link: u32, end: u8 },
    /// An end of a link learns that there is nobody at the other.
    Reset { link: u32, end: u8 },
    /// A node has closed its end.
    Closed { link: u32, end: u8 },
    /// A dial reaches the host.
    Knock { from: HostId, life: u32, to: HostId },
    /// A dial is through.
    Through { from: HostId, life: u32, to: HostId },
    /// Whoever is alone dials an entry.
    Entry { host: HostId, life: u32 },
    /// Gossipsub's heartbeat.
    Beat { host: HostId, life: u32 },
    /// An input that comes from the host itself.
    Inner { host: HostId, life: u32, input: Box<Input> },
    /// A host starts for the first time, or again.
    Start(HostId),
    /// It starts again with an empty disk.
    StartAnew(HostId),
    /// A process that has said goodbye ends.
    Finish { host: HostId, life: u32 },
    /// The fault of this number begins.
    Fault(usize),
    /// It is over.
    Over(usize),
    /// Churn of the fault of this number.
    Churn(usize),
    /// All faults are over.
    Heal,
    /// The invariants look.
    Tick,
}

/// The simulated cluster.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) now: Duration,
    pub(super) hosts: Vec<Host>,
    pub(super) beliefs: Beliefs,
    pub(super) leads: Leads,
    pub(super) traffic: Traffic,
    pub(super) checker: Checker,
    pub(super) watched: Watched,
    pub(super) hints: Hints,
    /// Over all that arrived: two runs of one seed have the same.
    pub(super) trace: u64,
    pub(super) events: u64,
    /// Whether what nodes tell goes to standard error.
    pub(super) log: bool,
    /// Whether what they send does, too.
    pub(super) log_messages: bool,
    authority: Authority,
    memo: Memo,
    zero: Instant,
    queue: Queue<Event>,
    links: Vec<Link>,
    messages: Messages,
    conditions: Conditions,
    by_node: HashMap<NodeId, HostId>,
    entries: Vec<HostId>,
    /// For the network.
    rng: Rng,
    /// For faults, so that they are the same whatever the network does.
    fault_rng: Rng,
    /// What each network fault bears on, by its number.
    borne: BTreeMap<usize, Vec<HostId>>,
    gossip_ids: u64,
    wakes: (Duration, HostId, u32),
    over: bool,
    lossy_until: Duration,
    /// Where the cluster starts as one.
    formed: Option<thin::Thin>,
}

impl World {
    /// Sets up the hosts; none runs yet.
    ///
    /// # Errors
    /// Of the making of certificates; none is expected.
    pub fn new(scenario: &Scenario, seed: u64) -> anyhow::Result<Self> {
        let mut rng = Rng::new(seed);
        let mut fault_rng = rng.fork();
        let authority = Authority::new(&mut rng)?;
        let mut world = Self {
            now: Duration::ZERO,
            hosts: Vec::new(),
            beliefs: Beliefs::default(),
            leads: Leads::default(),
            traffic: Traffic::default(),
            checker: Checker::default(),
            watched: Watched::default(),
            hints: Hints::new(scenario.sinks > 0),
            trace: 0,
            events: 0,
            log: false,
            log_messages: false,
            authority,
            memo: Memo::default(),
            // Nodes subtract from the time: it must not run into the machine's own start.
            zero: Instant::now() + Duration::from_secs(30 * 86_400),
            queue: Queue::default(),
            links: Vec::new(),
            messages: Messages::default(),
            conditions: Conditions::new(&scenario.network),
            by_node: HashMap::new(),
            entries: Vec::new(),
            rng,
            fault_rng: fault_rng.fork(),
            borne: BTreeMap::new(),
            gossip_ids: 0,
            wakes: (Duration::ZERO, 0, 0),
            over: false,
            lossy_until: Duration::ZERO,
            formed: None,
            scenario: scenario.clone(),
        };
        let gateways = scenario.gateway_count();
        for number in 0..scenario.nodes {
            let host = world.add_host(&format!("n{number}"), number < gateways)?;
            let machine = &mut world.hosts[host as usize];
            machine.sink = number < scenario.sinks;
            machine.dialable = machine.gateway || !fault_rng.percent(scenario.nat_percent);
            if scenario.whole == 0 {
                let at = if number == 0 { Duration::ZERO } else { world.rng.up_to(seconds(scenario.join_s)) };
                world.queue.push(at, Event::Start(host));
            }
        }
        world.entries = (0..gateways as HostId).collect();
        if scenario.whole > 0 {
            world.start_formed();
        }
        world.plan_faults();
        world.queue.push(TICK, Event::Tick);
        Ok(world)
    }

    /// How long the run takes.
    pub fn length(&self) -> Duration {
        seconds(self.scenario.heal_s) + seconds(self.scenario.converge_s)
    }

    /// Runs to the end, or to the first violation where `impatient`.
    pub fn run(&mut self, impatient: bool) {
        let end = self.length();
        while let Some((at, event)) = self.queue.pop(end) {
            self.now = at;
            self.events += 1;
            self.handle(event);
            self.watched.note(&self.beliefs, &self.leads, at, self.scenario.nodes);
            if self.over || (impatient && !self.checker.violations.is_empty()) {
                return;
            }
        }
        self.now = end;
        let healed = seconds(self.scenario.heal_s);
        let (members, manifests, leader) = self.watched.agreed(&self.beliefs, &self.leads, healed, end);
        let ending = End { given: end - healed, members, manifests, leader };
        let world = invariants::World {
            now: self.now,
            beliefs: &self.beliefs,
            leads: &self.leads,
            heartbeat: seconds(self.scenario.timing.heartbeat_s),
            lossy: self.now < self.lossy_until,
        };
        self.checker.end(&ending, world);
        self.watched.ending = Some(ending);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(host) => self.wake(host),
            Event::Arrive { link, end, payload } => self.arrive(link, end.into(), payload),
            Event::Retry { link, end } => self.retry(link, end.into()),
            Event::Reset { link, end } => self.lose(link, end.into(), node::LinkLoss::Reset),
            Event::Closed { link, end } => self.lose(link, end.into(), node::LinkLoss::Closed),
            Event::Knock { from, life, to } => self.knock(from, life, to),
            Event::Through { from, life, to } => self.through(from, life, to),
            Event::Entry { host, life } => self.dial_entry(host, life),
            Event::Beat { host, life } => self.beat(host, life),
            Event::Inner { host, life, input } => {
                if self.hosts[host as usize].life == life {
                    self.input(host, *input);
                }
            }
            Event::Start(host) => self.start(host),
            Event::StartAnew(host) => self.start_anew(host),
            Event::Finish { host, life } => {
                if self.hosts[host as usize].life == life {
                    self.stop(host, true);
                }
            }
            Event::Fault(number) => self.begin_fault(number),
            Event::Over(number) => self.end_fault(number),
            Event::Churn(number) => self.churn(number),
            Event::Heal => self.heal(),
            Event::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        if self.conditions.worst_loss() > LOSS_OF_FEW {
            self.lossy_until = self.now + LOSSY;
        }
        self.checker.tick(invariants::World {
            now: self.now,
            beliefs: &self.beliefs,
            leads: &self.leads,
            heartbeat: seconds(self.scenario.timing.heartbeat_s),
            lossy: self.now < self.lossy_until,
        });
        if let Some(fact) = self.quiet() {
            self.fact(&fact);
        }
        self.queue.push(self.now + TICK, Event::Tick);
    }

    fn fact(&mut self, fact: &Fact) {
        let heartbeat = seconds(self.scenario.timing.heartbeat_s);
        let lossy = self.now < self.lossy_until;
        let world = invariants::World { now: self.now, beliefs: &self.beliefs, leads: &self.leads, heartbeat, lossy };
        self.checker.fact(fact, world);
    }

    fn time(&self, host: HostId) -> Now {
        let unix = (START.0 + self.now.as_secs()).saturating_add_signed(self.hosts[host as usize].clock_s);
        Now { at: self.zero + self.now, unix: UnixSeconds(unix) }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// Gives a node an input, and carries out what it asks for.
    fn input(&mut self, host: HostId, input: Input) {
        let now = self.time(host);
        if self.hosts[host as usize].hung {
            let life = self.hosts[host as usize].life;
            self.hosts[host as usize].backlog.push_back(Event::Inner { host, life, input: Box::new(input) });
            return;
        }
        if let Some(process) = &mut self.hosts[host as usize].process {
            process.handle_input(input, now);
            self.carry_out(host);
        }
    }

    fn wake(&mut self, host: HostId) {
        let now = self.time(host);
        let machine = &mut self.hosts[host as usize];
        // A wake that was planned for another time is not the one that counts.
        if machine.hung || machine.wake != Some(self.now) {
            return;
        }
        machine.wake = None;
        let Some(process) = &mut machine.process else { return };
        process.handle_timeout(now);
        self.wakes = match self.wakes {
            (at, who, times) if at == self.now && who == host => (at, who, times + 1),
            _ => (self.now, host, 0),
        };
        if self.wakes.2 > WAKES_MAX {
            let why = process.poll_timeout().map_or("nothing", |(_, why)| why);
            self.checker.broken(
                self.now,
                "no timer stays due",
                format!("host {host} wants to be woken for ever: {why}"),
            );
            self.over = true;
            return;
        }
        self.carry_out(host);
    }

    fn plan_wake(&mut self, host: HostId) {
        let machine = &mut self.hosts[host as usize];
        let due = machine.process.as_ref().and_then(node::Node::poll_timeout);
        let at = due.map(|(at, _)| at.saturating_duration_since(self.zero).max(self.now));
        if machine.wake != at {
            machine.wake = at;
            if let Some(at) = at {
                self.queue.push(at, Event::Wake(host));
            }
        }
    }
}
