//! Dials: refused where nobody listens, without an answer where nothing gets through, and a link where all is well.

use std::time::Duration;

use paceline_proto::carrier::CONNECTIONS_OF_OTHERS;
use paceline_proto::node::{DialFailure, Input};

use super::{Event, World};
use crate::sim::HostId;
use crate::sim::beliefs::Belief;
use crate::sim::conditions::Path;
use crate::sim::link::{Link, Payload, retry_after};
use crate::sim::traffic::{Class, DIAL_BYTES};

/// A dial without an answer ends after this long.
const NO_ANSWER: Duration = Duration::from_secs(5);
/// One-way trips of a dial after its first: TCP, Noise, Yamux and the door.
const TRIPS: u32 = 7;
/// Messages that wait for one dial.
const WAITING_MAX: usize = 64;
/// Most dials of one round to those that a host remembers or mDNS shows.
const ROUND_MAX: usize = 16;
/// Between two rounds of whoever is not alone: to those among them that it takes for no members.
const IN_COMPANY: Duration = Duration::from_secs(60);
/// Whoever is alone dials an entry again after this long, a quarter more or less.
const ENTRY_AGAIN: Duration = Duration::from_secs(4);

impl World {
    /// Dials a peer, unless there is a link or a dial already; `then` is sent once there is.
    pub(super) fn dial(&mut self, from: HostId, to: HostId, then: Option<Vec<u8>>) {
        let path = self.conditions.path(from, to);
        let machine = &mut self.hosts[from as usize];
        if from == to || machine.links.contains_key(&to) {
            return;
        }
        let life = machine.life;
        let under_way = machine.dialling.contains_key(&to);
        let waiting = machine.dialling.entry(to).or_default();
        if waiting.len() < WAITING_MAX {
            waiting.extend(then);
        }
        if under_way {
            return;
        }
        match self.trip(path, 1) {
            Some(after) => self.plan(after, Event::Knock { from, life, to }),
            None => self.fail(from, life, to, DialFailure::Unreachable, NO_ANSWER),
        }
    }

    /// The first packet has arrived.
    pub(super) fn knock(&mut self, from: HostId, life: u32, to: HostId) {
        let back = self.conditions.path(to, from);
        let machine = &self.hosts[to as usize];
        if !machine.dialable || machine.hung || back.blocked {
            return self.fail(from, life, to, DialFailure::Unreachable, NO_ANSWER);
        }
        let room = if machine.gateway { self.scenario.hub_links } else { CONNECTIONS_OF_OTHERS as usize };
        if machine.process.is_none() {
            return self.fail(from, life, to, DialFailure::Refused, back.delay);
        }
        if machine.links.len() >= room {
            return self.fail(from, life, to, DialFailure::Unreachable, back.delay * TRIPS);
        }
        match self.trip(back, TRIPS) {
            Some(after) => self.plan(after, Event::Through { from, life, to }),
            None => self.fail(from, life, to, DialFailure::Unreachable, NO_ANSWER),
        }
    }

    /// Both sides are through the door.
    pub(super) fn through(&mut self, from: HostId, life: u32, to: HostId) {
        let blocked = self.conditions.path(from, to).blocked || self.conditions.path(to, from).blocked;
        if self.hosts[from as usize].life != life {
            return;
        }
        if blocked || !self.hosts[to as usize].is_awake() || self.hosts[from as usize].hung {
            return self.fail(from, life, to, DialFailure::Unreachable, Duration::from_secs(1));
        }
        let waiting = self.hosts[from as usize].dialling.remove(&to).unwrap_or_default();
        for side in [from, to] {
            let meter = &mut self.traffic.hosts[side as usize];
            meter.sent.add(0, DIAL_BYTES);
            meter.got.add(0, DIAL_BYTES);
        }
        self.traffic.classes.entry(Class::Dial).or_default().add(0, 2 * DIAL_BYTES);
        if !self.hosts[from as usize].links.contains_key(&to) {
            self.connect(from, to);
        }
        if let Some(link) = self.hosts[from as usize].links.get(&to).copied() {
            let end = self.links[link as usize].end_of(from);
            waiting.into_iter().for_each(|bytes| self.send(link, end, Payload::Direct(bytes)));
        }
    }

    fn connect(&mut self, from: HostId, to: HostId) {
        let link = self.links.len() as u32;
        self.links.push(Link::new(from, to));
        self.hosts[from as usize].links.insert(to, link);
        // The one that was dialled may still have an older link, whose other end is gone: for its node nothing changes.
        let older = self.hosts[to as usize].links.insert(from, link);
        if let Some(older) = older {
            let end = self.links[older as usize].end_of(to);
            self.links[older as usize].open[end] = false;
        }
        let (dialler, dialled) = (&self.hosts[from as usize], &self.hosts[to as usize]);
        let up = Input::LinkUp { peer: dialler.node, chain: dialler.chain.clone() };
        let back = Input::LinkUp { peer: dialled.node, chain: dialled.chain.clone() };
        if older.is_none() {
            self.input(to, up);
        }
        if !std::mem::replace(&mut self.hosts[to as usize].told_dialable, true) {
            self.input(to, Input::Dialable(true));
        }
        self.input(from, back);
        self.graft_new(from, to);
    }

    fn fail(&mut self, from: HostId, life: u32, to: HostId, failure: DialFailure, after: Duration) {
        let machine = &mut self.hosts[from as usize];
        if machine.life != life {
            return;
        }
        machine.dialling.remove(&to);
        let input = Box::new(Input::DialFailed { peer: self.hosts[to as usize].node, failure });
        self.plan(after, Event::Inner { host: from, life, input });
    }

    /// How long so many packets take, each after the other; `None` where that is too long.
    fn trip(&mut self, path: Path, packets: u32) -> Option<Duration> {
        if path.blocked {
            return None;
        }
        let mut sum = Duration::ZERO;
        for _ in 0..packets {
            sum += path.delay + self.rng.up_to(path.jitter);
            let mut lost = 0;
            while self.rng.percent(path.loss_percent) {
                lost += 1;
                sum += retry_after(lost);
            }
            if sum > NO_ANSWER {
                return None;
            }
        }
        Some(sum)
    }

    /// Entries are dialled for ever by whoever is alone, and in turn with them all whom it remembers or mDNS shows; whoever is
    /// not alone looks now and then for those among them that have not become members.
    pub(super) fn dial_entry(&mut self, host: HostId, life: u32) {
        let machine = &self.hosts[host as usize];
        if machine.life != life {
            return;
        }
        let (alone, rounds) = (machine.links.is_empty(), machine.rounds);
        let looks = machine.next_round <= self.now && !self.beliefs.is_blind(host);
        if machine.is_awake() && (alone || looks) {
            let again = if alone { Duration::ZERO } else { IN_COMPANY * 3 / 4 + self.rng.up_to(IN_COMPANY / 2) };
            self.hosts[host as usize].next_round = self.now + again;
            self.hosts[host as usize].rounds += 1;
            let (from, most) = if !alone {
                let here = |other: HostId| self.beliefs.of(host, other).belief == Belief::Here;
                (self.beliefs.up().filter(|other| !here(*other)).collect(), ROUND_MAX)
            } else if rounds % 2 == 1 {
                (self.beliefs.up().collect(), ROUND_MAX)
            } else {
                (self.entries.clone(), 1)
            };
            let others: Vec<_> = from.into_iter().filter(|other| *other != host).collect();
            for other in self.rng.sample(&others, most) {
                self.dial(host, other, None);
            }
        }
        let again = ENTRY_AGAIN * 3 / 4 + self.rng.up_to(ENTRY_AGAIN / 2);
        self.plan(again, Event::Entry { host, life });
    }
}
