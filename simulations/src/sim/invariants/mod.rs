//! What must hold in every run, whatever goes wrong: each invariant is a small struct that is shown what happens.

mod agreement;
mod budget;
mod frugal;
mod gone_for_good;
mod manifests;
mod no_false_death;
mod no_way_back;
mod one_leader;
mod one_summary;

use std::time::Duration;

use paceline_proto::view::MemberState;
use serde::Serialize;

use super::HostId;
use super::beliefs::Beliefs;
use super::leads::{Lead, Leads};

pub use agreement::Agreement;
pub use budget::{Budget, WRITES_MAX};
pub use frugal::Frugal;
pub use gone_for_good::GoneForGood;
pub use manifests::Manifests;
pub use no_false_death::NoFalseDeath;
pub use no_way_back::NoWayBack;
pub use one_leader::OneLeader;
pub use one_summary::OneSummary;

/// Most violations that a run keeps.
const VIOLATIONS_MAX: usize = 20;

/// Something happened that an invariant may be about.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A node told a change of a member's state.
    State {
        /// Who told it.
        observer: HostId,
        /// Of whom.
        subject: HostId,
        /// `None`: a newcomer.
        from: Option<MemberState>,
        /// To.
        to: MemberState,
    },
    /// A node accepted another claim or summary.
    Lead {
        /// Who.
        observer: HostId,
        /// What it believes now.
        lead: Lead,
    },
    /// A process started.
    Up {
        /// Where.
        host: HostId,
    },
    /// A process ended.
    Down {
        /// Where.
        host: HostId,
    },
    /// The sink's store took a write.
    Write {
        /// Who wrote.
        host: HostId,
        /// The UTC day, by the writer's clock.
        day: u64,
    },
    /// A while in which nothing was wrong went by.
    Quiet {
        /// How many hosts were up.
        hosts: usize,
        /// Of them, those that nobody can dial.
        behind_nat: usize,
        /// How long it was, in seconds.
        seconds: f64,
        /// What all of them sent, on the wire.
        wire_bytes: u64,
        /// Loss of the network meanwhile, in percent.
        loss_percent: f64,
        /// Between two heartbeats, in seconds.
        heartbeat_s: f64,
        /// How long a leader leads, in seconds.
        term_s: f64,
    },
}

/// What is believed, and what is true.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The time.
    pub now: Duration,
    /// Of members.
    pub beliefs: &'a Beliefs,
    /// Of the lead.
    pub leads: &'a Leads,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Whether many packets are lost somewhere, or were lately.
    pub lossy: bool,
}

/// The end of a run: healed, and then waited.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How long all had to agree.
    pub given: Duration,
    /// How long after the heal all agreed on the members for good.
    pub members: Option<Duration>,
    /// How long after the heal all had all manifests for good.
    pub manifests: Option<Duration>,
    /// How long after the heal all agreed on a leader that is up.
    pub leader: Option<Duration>,
}

/// An invariant: says what is wrong as soon as it sees it.
pub trait Invariant {
    /// For the report.
    fn name(&self) -> &'static str;
    /// Something happened.
    fn fact(&mut self, _fact: &Fact, _world: World<'_>) -> Option<String> {
        None
    }
    /// A second has passed.
    fn tick(&mut self, _world: World<'_>) -> Option<String> {
        None
    }
    /// The run is over.
    fn end(&mut self, _end: &End, _world: World<'_>) -> Option<String> {
        None
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// When, in seconds since the start.
    pub at_s: f64,
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

/// All invariants of a run.
pub struct Checker {
    all: Vec<Box<dyn Invariant>>,
    /// What did not hold.
    pub violations: Vec<Violation>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            all: vec![
                Box::new(OneSummary::default()),
                Box::new(NoWayBack::default()),
                Box::new(NoFalseDeath),
                Box::new(GoneForGood::default()),
                Box::new(OneLeader::default()),
                Box::new(Budget::default()),
                Box::new(Frugal),
                Box::new(Agreement),
                Box::new(Manifests),
            ],
            violations: Vec::new(),
        }
    }
}

impl Checker {
    /// Something happened.
    pub fn fact(&mut self, fact: &Fact, world: World<'_>) {
        self.each(world.now, |i| i.fact(fact, world));
    }

    /// A second has passed.
    pub fn tick(&mut self, world: World<'_>) {
        self.each(world.now, |i| i.tick(world));
    }

    /// The run is over.
    pub fn end(&mut self, end: &End, world: World<'_>) {
        self.each(world.now, |i| i.end(end, world));
    }

    /// Something that no run may show, seen by the simulator itself.
    pub fn broken(&mut self, at: Duration, invariant: &'static str, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { at_s: at.as_secs_f64(), invariant, text });
        }
    }

    fn each(&mut self, now: Duration, mut ask: impl FnMut(&mut dyn Invariant) -> Option<String>) {
        for invariant in &mut self.all {
            if let Some(text) = ask(invariant.as_mut())
                && self.violations.len() < VIOLATIONS_MAX
            {
                self.violations.push(Violation { at_s: now.as_secs_f64(), invariant: invariant.name(), text });
            }
        }
    }
}

#[cfg(test)]
mod history {
    //! Histories for the tests of the invariants.

    use super::*;
    use crate::sim::beliefs::{Belief, Cell, Order};

    /// Some hosts, all up since the start, that believe each other to be there.
    pub(super) struct History {
        pub(super) beliefs: Beliefs,
        pub(super) leads: Leads,
        pub(super) now: Duration,
    }

    impl History {
        pub(super) fn of(hosts: HostId) -> Self {
            let mut beliefs = Beliefs::default();
            (0..hosts).for_each(|_| beliefs.add());
            (0..hosts).for_each(|host| beliefs.set_up(host, true, false, Duration::ZERO));
            (0..hosts).for_each(|host| beliefs.set_dialable(host, true));
            for (o, s) in (0..hosts).flat_map(|o| (0..hosts).map(move |s| (o, s))) {
                beliefs.set(o, s, Cell { belief: Belief::Here, order: Order(1) });
            }
            Self { beliefs, leads: Leads::default(), now: Duration::ZERO }
        }

        pub(super) fn at(&mut self, s: u64) -> World<'_> {
            self.now = Duration::from_secs(s);
            let heartbeat = Duration::from_secs(10);
            World { now: self.now, beliefs: &self.beliefs, leads: &self.leads, heartbeat, lossy: false }
        }
    }
}
