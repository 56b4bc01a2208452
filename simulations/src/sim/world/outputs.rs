//! What a node asks for, carried out; and what it tells, noted.

use std::time::Duration;

use paceline_proto::node::{Event as Told, Input, Output};
use paceline_proto::view::MemberState;

use super::processes::FINISH;
use super::{Event, World};
use crate::sim::HostId;
use crate::sim::authority::START;
use crate::sim::beliefs::{Belief, Cell};
use crate::sim::invariants::Fact;
use crate::sim::leads::Lead;
use crate::sim::link::Payload;

const DAY_S: u64 = 86_400;

impl World {
    /// Carries out all that a node asks for. Nothing here gives another node an input: that happens at an event of its own.
    pub(super) fn carry_out(&mut self, host: HostId) {
        let mut changed = false;
        while let Some(output) = self.hosts[host as usize].process.as_mut().and_then(|p| p.poll_output()) {
            match output {
                Output::Publish(bytes) => self.publish(host, bytes),
                Output::Send { to, bytes } => self.send_direct(host, to, bytes),
                Output::Verdict { id, verdict } => self.judged(host, id, verdict),
                Output::Dial { peer, .. } => {
                    if let Some(to) = self.by_node.get(&peer).copied() {
                        self.dial(host, to, None);
                    }
                }
                Output::Close { peer, .. } => {
                    if let Some(peer) = self.by_node.get(&peer).copied().filter(|peer| !self.keeps(host, *peer)) {
                        self.close_later(host, peer);
                    }
                }
                Output::Provide(key) => self.hints.provide(key, host),
                Output::Unprovide(key) => self.hints.unprovide(&key, host, self.now),
                Output::FindProviders(key) => {
                    let found = self.hints.find(&key, self.now);
                    let nodes = found.into_iter().map(|h| self.hosts[h as usize].node).collect();
                    self.answer_hint(host, Input::Providers { key, nodes });
                }
                Output::StoreSummary(bytes) => self.hints.store(bytes),
                Output::FindSummary => {
                    if let Some(bytes) = self.hints.stored(&mut self.rng) {
                        self.answer_hint(host, Input::StoredSummary(bytes));
                    }
                }
                Output::PersistIncarnation(incarnation) => {
                    let disk = &mut self.hosts[host as usize].disk;
                    let rises = incarnation > disk.incarnation;
                    disk.incarnation = disk.incarnation.max(incarnation);
                    if !rises {
                        self.checker.broken(
                            self.now,
                            "an incarnation only rises",
                            format!("host {host}: {incarnation:?}"),
                        );
                    }
                }
                Output::PersistClaim(claim) => self.hosts[host as usize].disk.claim = claim,
                // nobody is revoked there
                Output::PersistRevoked(_) => {}
                Output::Bar { peer, reason } => {
                    self.checker.broken(
                        self.now,
                        "no honest member is cut off",
                        format!("host {host}: {peer}: {reason}"),
                    );
                }
                Output::Write(_) => self.write(host),
                Output::Changed => changed = true,
                Output::Event(event) => self.told(host, event),
                Output::Fatal(fatal) => {
                    self.checker.broken(self.now, "no process ends by itself", format!("host {host}: {fatal}"));
                    let life = self.hosts[host as usize].life;
                    self.plan(Duration::ZERO, Event::Finish { host, life });
                }
            }
        }
        if changed {
            self.read_lead(host);
        }
        self.plan_wake(host);
    }

    /// A node says goodbye.
    pub(super) fn leave(&mut self, host: HostId) {
        let machine = &self.hosts[host as usize];
        if machine.is_awake() {
            let life = machine.life;
            self.input(host, Input::Leave);
            self.is_down(host, true);
            self.plan(FINISH, Event::Finish { host, life });
        }
    }

    fn send_direct(&mut self, host: HostId, to: paceline_proto::id::NodeId, bytes: Vec<u8>) {
        let to = self.by_node.get(&to).copied().and_then(|to| self.goes_to(host, to, &bytes));
        let Some(to) = to else { return };
        match self.hosts[host as usize].links.get(&to).copied() {
            Some(link) => {
                let end = self.links[link as usize].end_of(host);
                self.send(link, end, Payload::Direct(bytes));
            }
            None => self.dial(host, to, Some(bytes)),
        }
    }

    /// A node must not get an input while its outputs are taken.
    fn close_later(&mut self, host: HostId, peer: HostId) {
        if let Some(link) = self.hosts[host as usize].links.get(&peer).copied() {
            let end = self.links[link as usize].end_of(host);
            self.send(link, end, Payload::End(paceline_proto::node::LinkLoss::Closed));
            self.plan(Duration::ZERO, Event::Closed { link, end: end as u8 });
        }
    }

    fn answer_hint(&mut self, host: HostId, input: Input) {
        let machine = &self.hosts[host as usize];
        // Kademlia knows nobody who could be asked.
        if machine.links.is_empty() {
            return;
        }
        let life = machine.life;
        let after = self.hints.delay(&mut self.rng);
        self.plan(after, Event::Inner { host, life, input: Box::new(input) });
    }

    fn write(&mut self, host: HostId) {
        let unix = (START.0 + self.now.as_secs()).saturating_add_signed(self.hosts[host as usize].clock_s);
        let (after, stored, writes_today) = self.hints.write(self.now, &mut self.rng);
        if stored {
            self.watched.writes += 1;
            self.fact(&Fact::Write { host, day: unix / DAY_S });
        }
        let life = self.hosts[host as usize].life;
        let input = Box::new(Input::Written { stored, writes_today });
        self.plan(after, Event::Inner { host, life, input });
    }

    pub(super) fn told(&mut self, host: HostId, event: Told) {
        if self.log {
            self.log_told(host, &event);
        }
        match event {
            Told::State { node, from, to } => {
                let Some(subject) = self.by_node.get(&node).copied() else { return };
                self.believes(host, subject, &node, Some(to));
                self.fact(&Fact::State { observer: host, subject, from, to });
            }
            Told::Manifest { node } => {
                if let Some(subject) = self.by_node.get(&node).copied() {
                    self.believes(host, subject, &node, None);
                }
            }
            Told::Alarm(text) => self.watched.alarm(self.now, host, text),
            Told::Refused { .. } => self.watched.refused += 1,
            Told::Leader { .. } => {}
        }
    }

    fn log_told(&self, host: HostId, event: &Told) {
        let number = |node| self.by_node.get(node).map_or_else(|| "?".to_owned(), |host| host.to_string());
        let text = match event {
            Told::State { node, from, to } => format!("{} {from:?} -> {to:?}", number(node)),
            Told::Manifest { node } => format!("{} has another manifest", number(node)),
            Told::Leader { leader, term, takeovers } => format!("{} leads, {term}.{takeovers}", number(leader)),
            Told::Alarm(text) => format!("alarm: {text}"),
            Told::Refused { peer, reason } => format!("refuses what {} sent: {reason}", number(peer)),
        };
        eprintln!("{:9.3}  host {host}: {text}", self.now.as_secs_f64());
    }

    fn believes(&mut self, host: HostId, subject: HostId, node: &paceline_proto::id::NodeId, to: Option<MemberState>) {
        let member = self.hosts[host as usize].process.as_ref().and_then(|p| p.member(node));
        // By now the node may believe something newer than what this event tells: the end of all of them is what counts.
        let state =
            member.map(|m| m.state).or(to.filter(|to| !matches!(to, MemberState::Alive | MemberState::Suspect)));
        let belief = match state {
            Some(MemberState::Alive | MemberState::Suspect) => Belief::Here,
            Some(MemberState::Dead) => Belief::Dead,
            Some(MemberState::Left) => Belief::Left,
            None => Belief::Unknown,
        };
        let old = self.beliefs.of(host, subject);
        let order = member.map_or(old.order, |m| m.manifest.order().into());
        self.beliefs.set(host, subject, Cell { belief, order });
        if self.beliefs.truth(host).up {
            self.watched.believed(host, subject, old, Cell { belief, order }, self.now);
        }
    }

    pub(super) fn read_lead(&mut self, host: HostId) {
        let Some(process) = &self.hosts[host as usize].process else { return };
        let said = process.leadership();
        let lead = Lead {
            leader: said.leader.and_then(|node| self.by_node.get(&node).copied()),
            term: said.term,
            takeovers: said.takeovers,
            seq: said.seq,
            alive: said.alive,
            writes_today: said.writes_today,
        };
        if self.leads.of(host) == lead || !self.beliefs.truth(host).up {
            return;
        }
        self.leads.set(host, Some(lead), self.now);
        self.watched.led(host, lead, self.now);
        self.fact(&Fact::Lead { observer: host, lead });
    }
}
