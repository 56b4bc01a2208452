//! Who is probed when, and what a silence means (SWIM, Das et al. 2002; Lifeguard, Dadgar et al. 2017).
//!
//! Members stand on a ring by a hash of their id. A node watches the next [`WATCHED`] of them that nobody suspects: it pings
//! one of them each interval, and asks [`RELAYS`] others to do so when no answer comes. What this core promises:
//! - The work of an interval does not grow with the cluster.
//! - A member counts as missed only after neither it nor anybody who was asked for it has answered; one answer is enough.
//! - A node that hears nothing from anybody doubts itself first: its waits grow ([`HEALTH_MAX`] times at most).
//! - It doubts itself as long as it has heard nobody, and as soon as its own timers come late, before it takes anybody as missed.
//! - A node that could not ping a member itself misses it only where somebody who was asked could: a silence of those that
//!   were asked, or of their ways to it, is none of the member's, unless it lasts ([`UNREACHED_MAX`]).
//! - A node that was not running for a while misses nobody until a fresh probe of it has been answered. Nor does a node that
//!   hears nobody at all, though it asked several. Both do again after [`DEAF_MAX`] without anybody.
//! - Answering costs a message and no state; relaying costs bounded state, for each peer and in all.

mod probe;
mod ring;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::{ClusterId, NodeId};
use crate::rng::Rng;
use crate::timer::{self, Timers};

use ring::Ring;

pub use probe::{Counted, Probe};
pub use ring::Standing;

/// Members that a node watches: the next ones on the ring that nobody suspects.
pub const WATCHED: usize = 3;
/// Most members that a node watches, suspects between them included.
pub const WATCHED_MAX: usize = 8;
/// Members that are asked to ping one that did not answer (`k` of the paper).
pub const RELAYS: usize = 3;
/// How long a direct answer may take; as long again, an answer by way of others.
const ANSWER: Duration = Duration::from_millis(500);
/// How long an answer may take when somebody else has missed the member already.
const URGENT_ANSWER: Duration = Duration::from_millis(700);
/// After this long, a relay says that it had no answer: in time for whoever asked.
const NACK_AFTER: Duration = Duration::from_millis(350);
/// Worst local health: by so much all waits grow.
pub const HEALTH_MAX: u32 = 8;
/// A timer that is this late says that the process was not running.
const LATE: Duration = Duration::from_secs(1);
/// Whoever has heard nothing from anybody for this long, and got no answer of a relay, takes itself for the cause.
const DEAF_AFTER: Duration = Duration::from_millis(1_500);
/// From then on it is the others that are gone: else a last survivor would believe in them for ever.
pub const DEAF_MAX: Duration = Duration::from_secs(30);
/// Whom neither this node nor anybody that it asks has a way to is missed after this long: it may be gone with its only
/// neighbours.
pub const UNREACHED_MAX: Duration = Duration::from_secs(15);
/// A timer that is this late says that the process gets too little of a processor.
const SLOW: Duration = Duration::from_millis(100);
/// Each so much of lateness makes local health worse by one more.
const SLOW_STEP: Duration = Duration::from_millis(250);
/// A silence says nothing over a connection that is younger: its other end may still be starting.
const LINK_SETTLES: Duration = Duration::from_secs(2);
/// Most probes under way.
const PROBES_MAX: usize = 1_024;
/// Most pings under way for others.
const RELAYED_MAX: usize = 256;
/// Most of them for one peer.
const RELAYED_PER_PEER: usize = 8;

/// How a detector works.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// Gives each cluster a ring of its own.
    pub cluster: ClusterId,
    /// Between two probes.
    pub probe: Duration,
    /// Until when this node probes nobody that it has no connection to, since it is still making them; `None`: it has made them.
    pub settled: Option<Instant>,
    /// For nonces, phases and the choice of relays.
    pub seed: u64,
}

/// What a detector is told.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A member is there, and how it stands; `None`: it is gone.
    Member {
        /// Who.
        node: NodeId,
        /// How.
        standing: Option<Standing>,
    },
    /// This node has a connection to a peer.
    LinkUp(NodeId),
    /// It has none any more.
    LinkDown(NodeId),
    /// Somebody else misses a member.
    Suspected(NodeId),
    /// This node has reason of its own to miss a member.
    Lost(NodeId),
    /// Others miss this node.
    Accused,
    /// A peer sent this.
    Probe {
        /// Who.
        from: NodeId,
        /// What.
        probe: Probe,
    },
}

/// What a detector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to a peer, dialling it where there is no connection.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        probe: Probe,
    },
    /// A probe was answered.
    Answered(NodeId),
    /// No answer, of the member or of those that were asked for it: this node misses it.
    Missed(NodeId),
    /// No answer over this node's own connection, and whether it is there is for others to find out.
    Doubted(NodeId),
    /// This process was not running for a while, or nobody could be heard: it knows nothing of that time.
    Awake,
    /// What this node sees counts again, since somebody has answered it.
    Trusted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Probe the next one.
    Round,
    /// The answer to this nonce is late.
    Answer(u64),
    /// Whoever asked for this ping is waiting.
    Relayed(u64),
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Round => "probe",
            Timer::Answer(_) => "answer to a probe",
            Timer::Relayed(_) => "relayed probe",
        }
    }
}

/// A probe under way.
#[derive(Clone, Debug)]
struct Pending {
    target: NodeId,
    /// A silence means that this node misses it, and not only that its own connection is of no use.
    accuse: bool,
    /// Others were asked, where there was anybody to ask.
    asked: bool,
    relays: Vec<NodeId>,
    /// Somebody has pinged it: this node, or one that was asked to.
    pinged: bool,
    /// Of those that were asked, how many have said that they had no answer.
    nacks: usize,
    /// It was given more time already, since this node was slow.
    extended: bool,
}

/// A ping for somebody else.
#[derive(Clone, Copy, Debug)]
struct Relayed {
    target: NodeId,
    asker: NodeId,
    nonce: u64,
}

/// A connection of this node.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// To a gateway.
    gateway: bool,
    since: Instant,
}

/// Probes and their answers.
#[derive(Debug)]
pub struct Detector {
    probe: Duration,
    settled: Option<Instant>,
    ring: Ring,
    links: BTreeMap<NodeId, Link>,
    pending: BTreeMap<u64, Pending>,
    /// The nonce of each target's probe.
    under_way: BTreeMap<NodeId, u64>,
    relayed: BTreeMap<u64, Relayed>,
    /// Which of the watched is next: of the unsuspected, and of the suspects.
    turn: (usize, usize),
    health: u32,
    sceptical: bool,
    /// When it heard a probe, or an answer, of anybody; or woke.
    heard: Instant,
    /// Since when there has been no way to a member, neither of this node's nor of others'.
    unreached: BTreeMap<NodeId, Instant>,
    /// The last deadline that was found to be past for long.
    slow: Option<Instant>,
    counted: Counted,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    rng: Rng,
}

impl Detector {
    /// Knows nobody yet; the first probe comes within one interval.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut rng = Rng::new(config.seed);
        let mut timers = Timers::default();
        timers.set(Timer::Round, now + rng.up_to(config.probe));
        Self {
            probe: config.probe,
            settled: config.settled,
            ring: Ring::new(config.me, &config.cluster),
            links: BTreeMap::new(),
            pending: BTreeMap::new(),
            under_way: BTreeMap::new(),
            relayed: BTreeMap::new(),
            turn: (0, 0),
            // Whoever has heard nobody yet knows least of all whether it is itself the slow one.
            health: HEALTH_MAX,
            sceptical: false,
            heard: now,
            unreached: BTreeMap::new(),
            slow: None,
            counted: Counted::default(),
            timers,
            outputs: VecDeque::new(),
            rng,
        }
    }

    /// To be called before anything else when the process is woken: finds out whether it slept through its timers.
    pub fn wake(&mut self, now: Instant) {
        let Some((due, _)) = self.timers.next() else { return };
        let late = now.saturating_duration_since(due);
        if late <= LATE {
            if late > SLOW && self.slow != Some(due) {
                self.slow = Some(due);
                self.slow_down(late, now);
            }
            return;
        }
        self.heard = now;
        self.unreached.clear();
        self.doubt_itself(now);
        self.worse();
    }

    /// What it took for silence is no evidence, and nothing else is until somebody has answered.
    fn doubt_itself(&mut self, round: Instant) {
        self.pending.clear();
        self.under_way.clear();
        self.relayed.clear();
        self.timers = Timers::default();
        self.timers.set(Timer::Round, round);
        self.sceptical = true;
        self.outputs.push_back(Output::Awake);
    }

    fn trust_itself(&mut self) {
        if std::mem::take(&mut self.sceptical) {
            self.outputs.push_back(Output::Trusted);
        }
    }

    /// This node gets to its work late: what has not been answered may lie in its own socket, and gets its time again, once.
    fn slow_down(&mut self, late: Duration, now: Instant) {
        let steps = 1 + late.as_millis() / SLOW_STEP.as_millis();
        (0..steps).for_each(|_| self.worse());
        let again = now + ANSWER * self.health;
        for (nonce, pending) in self.pending.iter_mut().filter(|(_, p)| !p.extended) {
            if self.timers.due(Timer::Answer(*nonce)).is_some_and(|due| due <= now) {
                pending.extended = true;
                self.timers.set(Timer::Answer(*nonce), again);
            }
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Member { node, standing } => {
                if let Some(standing) = standing {
                    self.ring.set(node, standing);
                } else if self.ring.remove(&node) {
                    self.give_up(&node);
                }
                if let (Some(linked), Some(standing)) = (self.links.get_mut(&node), standing) {
                    linked.gateway = standing.gateway;
                }
            }
            Input::LinkUp(peer) => {
                let gateway = self.ring.get(&peer).is_some_and(|s| s.gateway);
                self.links.insert(peer, Link { gateway, since: now });
            }
            Input::LinkDown(peer) => _ = self.links.remove(&peer),
            Input::Suspected(node) => {
                if self.ring.is_neighbour(&node) {
                    self.start(node, true, true, now);
                } else if self.links.contains_key(&node) {
                    self.start(node, true, false, now);
                }
            }
            Input::Lost(node) => {
                self.start(node, true, true, now);
                // There was a way, and its end says as much as a ping without an answer.
                if let Some(pending) = self.under_way.get(&node).and_then(|nonce| self.pending.get_mut(nonce)) {
                    pending.pinged = true;
                }
            }
            Input::Accused => {
                self.counted.refuted += 1;
                self.worse();
            }
            Input::Probe { from, probe } => self.probed(from, probe, now),
        }
    }

    /// The time of [`Detector::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Round => {
                    self.timers.set(Timer::Round, now + self.probe);
                    if self.sceptical && now.saturating_duration_since(self.heard) > DEAF_MAX {
                        self.trust_itself();
                    }
                    self.round(now);
                }
                Timer::Answer(nonce) => self.unanswered(nonce, now),
                Timer::Relayed(nonce) => {
                    if let Some(relayed) = self.relayed.remove(&nonce) {
                        self.send(relayed.asker, Probe::Nack { nonce: relayed.nonce });
                    }
                }
            }
        }
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When this core wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next()
    }

    /// How much longer than usual this node has to wait, since it may be slow itself: 1 to [`HEALTH_MAX`].
    pub fn health(&self) -> u32 {
        self.health
    }

    /// This node is still making its connections until then, where it had not made them all already.
    pub(crate) fn stay_young(&mut self, settled: Instant) {
        self.settled = self.settled.map(|at| at.max(settled));
    }

    /// What was done since the start.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// Whether this node slept, and nobody has answered it since: it has no say about others.
    pub fn is_sceptical(&self) -> bool {
        self.sceptical
    }

    /// Whom this node watches, the next on the ring first.
    pub fn watched(&mut self) -> &[NodeId] {
        self.ring.watched()
    }

    /// Who watches this node, the next before it on the ring first.
    pub fn watchers(&mut self) -> &[NodeId] {
        self.ring.watchers()
    }

    /// Whether one of the two watches the other.
    pub fn is_neighbour(&mut self, node: &NodeId) -> bool {
        self.ring.is_neighbour(node)
    }

    /// Probes the next one that nobody suspects, and the next suspect.
    fn round(&mut self, now: Instant) {
        let young = self.settled.is_some_and(|at| now < at);
        let mut watched = self.ring.watched().to_vec();
        watched.retain(|node| !young || self.links.contains_key(node));
        let (suspects, fine): (Vec<_>, Vec<_>) =
            watched.into_iter().partition(|n| self.ring.get(n).is_some_and(|s| s.suspect));
        if let Some(target) = fine.get(self.turn.0 % fine.len().max(1)) {
            self.turn.0 = self.turn.0.wrapping_add(1);
            self.start(*target, false, true, now);
        }
        if let Some(target) = suspects.get(self.turn.1 % suspects.len().max(1)) {
            self.turn.1 = self.turn.1.wrapping_add(1);
            self.start(*target, false, true, now);
        }
    }

    /// Begins a probe, or hurries one that is under way.
    fn start(&mut self, target: NodeId, urgent: bool, accuse: bool, now: Instant) {
        let Some(standing) = self.ring.get(&target) else { return };
        let direct = self.links.contains_key(&target) || standing.dialable;
        let answer = match (direct, urgent) {
            (true, true) => URGENT_ANSWER,
            (true, false) => ANSWER,
            // All that it is asked by way of others.
            (false, _) => ANSWER * 2,
        } * self.health;
        if let Some(nonce) = self.under_way.get(&target).copied() {
            let Some(pending) = self.pending.get_mut(&nonce) else { return };
            pending.accuse |= accuse;
            if urgent && accuse && !pending.asked {
                self.ask_others(nonce);
                self.timers.set(Timer::Answer(nonce), now + answer);
            }
            return;
        }
        if self.pending.len() >= PROBES_MAX {
            return;
        }
        let nonce = self.rng.next_u64();
        let pending =
            Pending { target, accuse, asked: false, relays: Vec::new(), pinged: direct, nacks: 0, extended: false };
        self.pending.insert(nonce, pending);
        self.counted.probes += 1;
        self.under_way.insert(target, nonce);
        if direct {
            self.send(target, Probe::Ping { nonce });
        }
        if accuse && (urgent || !direct) {
            self.ask_others(nonce);
        }
        self.timers.set(Timer::Answer(nonce), now + answer);
    }

    /// Asks some linked members, gateways first, to ping the target.
    fn ask_others(&mut self, nonce: u64) {
        let Some(target) = self.pending.get(&nonce).map(|p| p.target) else { return };
        let unsuspected = |node: &NodeId| *node != target && self.ring.get(node).is_some_and(|s| !s.suspect);
        let linked = self.links.iter().filter(|(node, _)| unsuspected(node));
        let (gateways, others): (Vec<_>, Vec<_>) = linked.partition(|(_, link)| link.gateway);
        let mut relays = Vec::with_capacity(RELAYS);
        for mut group in [gateways, others] {
            while relays.len() < RELAYS && !group.is_empty() {
                relays.push(*group.swap_remove(self.rng.below(group.len())).0);
            }
        }
        for relay in &relays {
            self.send(*relay, Probe::PingFor { nonce, target });
        }
        self.counted.indirect += u64::from(!relays.is_empty());
        if let Some(pending) = self.pending.get_mut(&nonce) {
            (pending.asked, pending.relays) = (true, relays);
        }
    }

    fn unanswered(&mut self, nonce: u64, now: Instant) {
        let Some(pending) = self.pending.get(&nonce) else { return };
        if pending.accuse && !pending.asked {
            self.ask_others(nonce);
            self.timers.set(Timer::Answer(nonce), now + ANSWER * self.health);
            return;
        }
        let Some(pending) = self.pending.remove(&nonce) else { return };
        self.under_way.remove(&pending.target);
        self.counted.missed += 1;
        // Where even those that were asked say nothing, it may well be this node that nobody can hear.
        if !pending.relays.is_empty() && pending.nacks == 0 {
            self.worse();
            let silence = now.saturating_duration_since(self.heard);
            if !self.sceptical && pending.relays.len() > 1 && silence > DEAF_AFTER && silence <= DEAF_MAX {
                self.doubt_itself(now + self.probe);
            }
        }
        let fresh = |link: &Link| now.saturating_duration_since(link.since) < LINK_SETTLES;
        if self.sceptical || self.links.get(&pending.target).is_some_and(fresh) {
            return;
        }
        if pending.pinged || pending.relays.is_empty() {
            self.unreached.remove(&pending.target);
        } else {
            let since = *self.unreached.entry(pending.target).or_insert(now);
            if now.saturating_duration_since(since) < UNREACHED_MAX {
                return;
            }
        }
        self.outputs.push_back(match pending.accuse {
            true => Output::Missed(pending.target),
            false => Output::Doubted(pending.target),
        });
    }

    fn probed(&mut self, from: NodeId, probe: Probe, now: Instant) {
        self.heard = now;
        match probe {
            Probe::Ping { nonce } => self.send(from, Probe::Ack { nonce }),
            Probe::PingFor { nonce, target } => self.ping_for(from, nonce, target, now),
            Probe::Ack { nonce } => {
                if let Some(relayed) = self.relayed.get(&nonce).copied().filter(|r| r.target == from) {
                    self.relayed.remove(&nonce);
                    self.timers.cancel(Timer::Relayed(nonce));
                    self.send(relayed.asker, Probe::Ack { nonce: relayed.nonce });
                    return;
                }
                let Some(pending) = self.pending.get(&nonce) else { return };
                if from != pending.target && !pending.relays.contains(&from) {
                    return;
                }
                let target = pending.target;
                self.give_up(&target);
                self.health = self.health.saturating_sub(1).max(1);
                self.counted.answered += 1;
                self.trust_itself();
                self.outputs.push_back(Output::Answered(target));
            }
            Probe::Nack { nonce } => {
                if let Some(pending) = self.pending.get_mut(&nonce).filter(|p| p.relays.contains(&from)) {
                    pending.nacks += 1;
                    pending.pinged = true;
                }
            }
            Probe::Unable { nonce } => {
                if let Some(pending) = self.pending.get_mut(&nonce).filter(|p| p.relays.contains(&from)) {
                    pending.nacks += 1;
                }
            }
        }
    }

    fn ping_for(&mut self, asker: NodeId, asked: u64, target: NodeId, now: Instant) {
        if target == self.ring.me() {
            return self.send(asker, Probe::Ack { nonce: asked });
        }
        let dialable = self.ring.get(&target).is_some_and(|s| s.dialable);
        let for_asker = self.relayed.values().filter(|r| r.asker == asker).count();
        let room = self.relayed.len() < RELAYED_MAX && for_asker < RELAYED_PER_PEER;
        if !room || !(self.links.contains_key(&target) || dialable) {
            return self.send(asker, Probe::Unable { nonce: asked });
        }
        let nonce = self.rng.next_u64();
        self.relayed.insert(nonce, Relayed { target, asker, nonce: asked });
        self.timers.set(Timer::Relayed(nonce), now + NACK_AFTER);
        self.send(target, Probe::Ping { nonce });
    }

    /// Forgets the probe of a member.
    fn give_up(&mut self, target: &NodeId) {
        self.unreached.remove(target);
        if let Some(nonce) = self.under_way.remove(target) {
            self.pending.remove(&nonce);
            self.timers.cancel(Timer::Answer(nonce));
        }
    }

    fn worse(&mut self) {
        self.health = (self.health + 1).min(HEALTH_MAX);
    }

    fn send(&mut self, to: NodeId, probe: Probe) {
        self.outputs.push_back(Output::Send { to, probe });
    }
}

#[cfg(test)]
mod tests;
