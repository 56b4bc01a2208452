//! Carries out what the cores ask for, and keeps the view in step with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Event, Node, Output, SWEEP_EVERY, Timer};
use crate::Now;
use crate::credential::CredentialError;
use crate::envelope::{Claim, Kind, Signed};
use crate::id::{CredentialHash, NodeId, UnixSeconds};
use crate::lead::Reason;
use crate::membership;
use crate::message::{Direct, Gossip, Item, SentChain, pushes};
use crate::sync::Standing;
use crate::view::MemberState;
use crate::wire;

impl Node {
    /// Carries events between the cores until all are quiet, then tells readers if there is something new.
    pub(super) fn settle(&mut self, now: Now) {
        loop {
            while let Some(output) = self.membership.poll_output() {
                self.act(output, now);
            }
            if !self.watch(now) {
                break;
            }
        }
        self.settle_lead(now);
        match self.parked.next() {
            Some(at) => self.timers.set(Timer::Parked, at),
            None => _ = self.timers.cancel(Timer::Parked),
        }
        if std::mem::take(&mut self.changed) {
            self.generation += 1;
            self.outputs.push_back(Output::Changed);
        }
    }

    fn act(&mut self, output: membership::Output, now: Now) {
        match output {
            membership::Output::Changed { node, state, manifest } => {
                self.asked.heard(&node);
                if let Some((None, MemberState::Alive)) = state {
                    self.newcomer(now);
                }
                if self.refresh(node) {
                    self.want_write(Reason::Service, now);
                }
                self.tabulate(node, now);
                self.stand(node, now);
                self.lead_member(node, state.map(|(_, to)| to), now);
                if let Some((from, to)) = state {
                    if to == MemberState::Dead {
                        self.close_silent(node);
                    }
                    self.outputs.push_back(Output::Event(Event::State { node, from, to }));
                    self.connect_soon(now);
                } else if manifest {
                    self.outputs.push_back(Output::Event(Event::Manifest { node }));
                }
            }
            membership::Output::Forgotten { node, state } => {
                self.refresh(node);
                self.table.remove(&node);
                self.stand(node, now);
                self.lead.root_is(self.table.root(), now);
                self.lead_member(node, None, now);
                if matches!(state, MemberState::Alive | MemberState::Suspect) {
                    let event = Event::State { node, from: Some(state), to: MemberState::Dead };
                    self.outputs.push_back(Output::Event(event));
                }
            }
            membership::Output::Accuse(accusation) => {
                self.sign_accusation(&Claim::Suspect(accusation), accusation.subject, now);
            }
            membership::Output::Declare(accusation) => {
                self.sign_accusation(&Claim::Death(accusation), accusation.subject, now);
            }
            membership::Output::Publish(record) => self.publish_with_chain(&record, now),
            membership::Output::Tell { accused, record } => self.tell_accused(accused, record, now),
            membership::Output::Refute(incarnation) => self.refute(incarnation, now),
            membership::Output::Check(node) => self.dial(node, now),
            membership::Output::Question(node) => self.question(node, now),
            membership::Output::Lost(node) => self.miss_link(node, now),
        }
    }

    /// Makes the readers' snapshot of a member anew; says whether a service is new, or is offered by nobody any more.
    pub(super) fn refresh(&mut self, node: NodeId) -> bool {
        let mut other_services = false;
        for changed in self.roster.update(node, self.membership.get(&node)) {
            other_services |= self.registry.update(changed, self.roster.members().get(&changed));
        }
        self.changed = true;
        other_services
    }

    fn tabulate(&mut self, node: NodeId, now: Now) {
        let Some(row) = self.membership.get(&node).filter(|_| node != self.me || self.own.gossip) else { return };
        let standing = match row.state {
            MemberState::Alive | MemberState::Suspect => Standing::Here,
            MemberState::Dead => Standing::Dead,
            MemberState::Left => Standing::Left,
        };
        let gone = (standing != Standing::Here).then_some(row.since);
        self.table.set(node, row.manifest.order(), standing, gone);
        self.lead.root_is(self.table.root(), now);
    }

    fn sign_accusation(&mut self, claim: &Claim, subject: NodeId, now: Now) {
        if let Ok(record) = Signed::new(claim, &self.key, &self.cluster) {
            self.membership.proven(subject, Arc::new(record), now.at);
        }
    }

    /// Forgets members that have no good credential any more, and lets go of their connections.
    pub(super) fn cut(&mut self, why: &CredentialError, now: Now) {
        let ended: Vec<_> = self
            .membership
            .iter()
            .filter(|(_, row)| self.credentials.of_hash(&row.manifest.credential, now.unix).is_none())
            .map(|(node, _)| *node)
            .collect();
        for node in ended {
            self.membership.handle_input(membership::Input::Expired(node), now.at);
        }
        let links = self.membership.links();
        for peer in links.iter().filter(|peer| self.credentials.of_node(peer, now.unix).is_none()) {
            self.outputs.push_back(Output::Close { peer: *peer, reason: why.to_string() });
        }
    }

    /// Forgets credentials that have ended, and with them their members.
    pub(super) fn sweep(&mut self, now: Now) {
        self.cut(&CredentialError::Expired, now);
        let links = self.membership.links();
        let known = |node: &NodeId| links.contains(node) || self.membership.get(node).is_some();
        self.conduct.sweep(known, now.at);
        self.meters.retain(|peer, _| links.contains(peer));
        let witnesses: BTreeSet<_> =
            self.membership.iter().filter_map(|(_, row)| row.proof.as_ref()).map(|p| p.author).collect();
        let (me, membership) = (self.me, &self.membership);
        let next = self.credentials.sweep(now.unix, |node| {
            *node == me || membership.get(node).is_some() || links.contains(node) || witnesses.contains(node)
        });
        let wait = next.map_or(SWEEP_EVERY, |at| until_past(at, now)).clamp(Duration::from_secs(1), SWEEP_EVERY);
        self.timers.set(Timer::Credentials, now.at + wait);
    }

    /// Gossips a chain, unless that was done.
    pub(super) fn publish_chain(&mut self, hash: CredentialHash, now: Now) {
        if !self.credentials.gossiped(&hash) {
            return;
        }
        if let Some(known) = self.credentials.of_hash(&hash, now.unix) {
            let message = Gossip::Credential(SentChain(Arc::clone(&known.chain)));
            self.publish(&message);
        }
    }

    /// Gossips a record, its author's chain before it where that was not done.
    pub(super) fn publish_with_chain(&mut self, record: &Arc<Signed>, now: Now) {
        let shown = match self.membership.get(&record.author) {
            Some(row) if record.kind == Kind::Manifest => Some(row.manifest.credential),
            _ => self.credentials.of_node(&record.author, now.unix).map(|k| k.credential.hash),
        };
        if let Some(hash) = shown {
            self.publish_chain(hash, now);
        }
        self.publish_record(record);
    }

    pub(super) fn publish_record(&mut self, record: &Arc<Signed>) {
        self.publish(&Gossip::Record(Arc::clone(record)));
    }

    /// Tells a peer what is said, with the chain of whoever says it.
    pub(super) fn tell(&mut self, peer: NodeId, record: Arc<Signed>, now: Now) {
        let chain = self.credentials.of_node(&record.author, now.unix).map(|k| SentChain(Arc::clone(&k.chain)));
        let item = Item { chains: chain.into_iter().collect(), records: vec![record], gone_s: 0 };
        for push in pushes([item]) {
            self.send(peer, &push);
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: &Direct) {
        // Each message is made within its bounds.
        if let Ok(bytes) = wire::encode(message) {
            self.outputs.push_back(Output::Send { to, bytes });
        }
    }

    pub(super) fn publish(&mut self, message: &Gossip) {
        if let Ok(bytes) = wire::encode(message) {
            self.outputs.push_back(Output::Publish(bytes));
        }
    }
}

/// How long it is until that second is over: a certificate is good to the end of its last second.
pub(super) fn until_past(at: UnixSeconds, now: Now) -> Duration {
    Duration::from_secs(at.0.saturating_add(1).saturating_sub(now.unix.0))
}
