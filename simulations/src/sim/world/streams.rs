//! What travels on links: in order, late where it was lost, and never again once an end gives up.

use paceline_proto::message::Direct;
use paceline_proto::node::{Input, LinkLoss};
use paceline_proto::wire;

use super::{Event, World};
use crate::sim::HostId;
use crate::sim::gossip::class_of_direct;
use crate::sim::link::{ATTEMPTS_MAX, Payload, Stuck, retry_after};
use crate::sim::traffic::{Class, FRAME_BYTES, GOSSIP_BYTES, MESSAGE_ID_BYTES};

use std::time::Duration;

/// How much later a gossip message comes that is overtaken.
const OVERTAKEN: Duration = Duration::from_secs(2);

impl World {
    /// Sends something from an end of a link to the other.
    pub(super) fn send(&mut self, link: u32, end: usize, payload: Payload) {
        let connection = &self.links[link as usize];
        if !connection.open[end] {
            return;
        }
        let (from, to) = (connection.ends[end], connection.ends[1 - end]);
        self.count(from, to, &payload);
        self.log_sent(from, to, &payload);
        let path = self.conditions.path(from, to);
        let lost = path.blocked || self.rng.percent(path.loss_percent);
        let stream = &mut self.links[link as usize].streams[end];
        if let Some(stuck) = &mut stream.stuck {
            stuck.waiting.push_back(payload);
        } else if lost {
            stream.stuck = Some(Stuck { waiting: [payload].into(), lost: 1 });
            self.plan(retry_after(1), Event::Retry { link, end: end as u8 });
        } else {
            self.deliver(link, end, payload);
        }
    }

    /// What gets through arrives after its delay, and not before what was sent earlier.
    fn deliver(&mut self, link: u32, end: usize, payload: Payload) {
        let connection = &self.links[link as usize];
        let path = self.conditions.path(connection.ends[end], connection.ends[1 - end]);
        let delay = path.delay + self.rng.up_to(path.jitter);
        if let Payload::Gossip(message, _) = payload {
            // Two gossip messages are two streams of the neighbour's many: they may overtake each other, and come twice.
            let (duplicate, reorder) = self.conditions.gossip();
            if self.rng.percent(duplicate) {
                let later = delay + self.rng.up_to(OVERTAKEN);
                let again = Payload::Gossip(message, true);
                self.plan(later, Event::Arrive { link, end: 1 - end as u8, payload: again });
            }
            if self.rng.percent(reorder) {
                let later = delay + self.rng.up_to(OVERTAKEN);
                return self.plan(later, Event::Arrive { link, end: 1 - end as u8, payload });
            }
        }
        let stream = &mut self.links[link as usize].streams[end];
        stream.last = stream.last.max(self.now + delay);
        let at = stream.last;
        self.queue.push(at, Event::Arrive { link, end: 1 - end as u8, payload });
    }

    pub(super) fn retry(&mut self, link: u32, end: usize) {
        let connection = &mut self.links[link as usize];
        let (from, to) = (connection.ends[end], connection.ends[1 - end]);
        let path = self.conditions.path(from, to);
        let lost_again = path.blocked || self.rng.percent(path.loss_percent);
        let stream = &mut self.links[link as usize].streams[end];
        let Some(stuck) = &mut stream.stuck else { return };
        if !lost_again {
            let waiting = std::mem::take(&mut stuck.waiting);
            stream.stuck = None;
            waiting.into_iter().for_each(|payload| self.deliver(link, end, payload));
            return;
        }
        stuck.lost += 1;
        let lost = stuck.lost;
        if lost < ATTEMPTS_MAX {
            self.plan(retry_after(lost), Event::Retry { link, end: end as u8 });
        } else {
            stream.stuck = None;
            self.lose(link, end, LinkLoss::Silent);
        }
    }

    /// An end gives the link up.
    pub(super) fn lose(&mut self, link: u32, end: usize, loss: LinkLoss) {
        let connection = &mut self.links[link as usize];
        if !std::mem::replace(&mut connection.open[end], false) {
            return;
        }
        let (host, peer) = (connection.ends[end], connection.ends[1 - end]);
        let machine = &mut self.hosts[host as usize];
        // Another link to the same peer may have taken its place.
        if machine.links.get(&peer) == Some(&link) {
            machine.links.remove(&peer);
            machine.mesh.remove(&peer);
            self.hosts[peer as usize].mesh.remove(&host);
            let peer = self.hosts[peer as usize].node;
            self.input(host, Input::LinkDown { peer, loss });
        }
    }

    pub(super) fn arrive(&mut self, link: u32, end: usize, payload: Payload) {
        let connection = &self.links[link as usize];
        let (host, peer) = (connection.ends[end], connection.ends[1 - end]);
        if self.hosts[host as usize].hung {
            self.hosts[host as usize].backlog.push_back(Event::Arrive { link, end: end as u8, payload });
            return;
        }
        if !connection.open[end] {
            // The operating system answers that there is no such connection, as far as that gets through.
            let path = self.conditions.path(host, peer);
            if !path.blocked && !matches!(payload, Payload::End(_)) {
                self.plan(path.delay, Event::Reset { link, end: 1 - end as u8 });
            }
            return;
        }
        self.note(host, peer, &payload);
        match payload {
            Payload::Direct(bytes) if !self.reaches_node(host, &bytes) => {}
            Payload::Direct(bytes) => {
                let from = self.hosts[peer as usize].node;
                self.input(host, Input::Direct { from, bytes });
            }
            Payload::Gossip(message, again) => self.gossip_arrives(host, peer, message, again),
            Payload::Have(messages) => self.offered(host, peer, &messages),
            Payload::Want(messages) => self.wanted(host, peer, &messages),
            Payload::End(loss) => {
                self.lose(link, end, loss);
            }
        }
    }

    fn log_sent(&self, from: HostId, to: HostId, payload: &Payload) {
        if !self.log_messages {
            return;
        }
        let text = match payload {
            Payload::Direct(bytes) => match wire::decode::<Direct>(bytes) {
                Ok(Direct::Probe(probe)) => format!("{probe:?}"),
                Ok(other) => format!("{other:?}").chars().take_while(|c| *c != '(').collect(),
                Err(error) => error.to_string(),
            },
            Payload::Gossip(message, _) => {
                format!("gossip {message:?}, {:?}", self.messages.get(*message).map(|m| m.class))
            }
            other => format!("{other:?}"),
        };
        eprintln!("{:9.3}    {from} -> {to}: {text}", self.now.as_secs_f64());
    }

    fn count(&mut self, from: HostId, to: HostId, payload: &Payload) {
        let (class, bytes, overhead) = match payload {
            Payload::Direct(bytes) => (class_of_direct(bytes), bytes.len() as u64, FRAME_BYTES),
            Payload::Gossip(message, _) => match self.messages.get(*message) {
                Some(m) => (m.class, m.bytes.len() as u64, FRAME_BYTES + GOSSIP_BYTES),
                None => return,
            },
            Payload::Have(ids) | Payload::Want(ids) => {
                (Class::Control, 0, FRAME_BYTES + GOSSIP_BYTES + MESSAGE_ID_BYTES * ids.len() as u64)
            }
            Payload::End(_) => (Class::Dial, 0, FRAME_BYTES),
        };
        self.traffic.hosts[from as usize].sent.add(bytes, overhead);
        self.traffic.hosts[to as usize].got.add(bytes, overhead);
        self.traffic.classes.entry(class).or_default().add(bytes, overhead);
    }

    /// A hash over all that arrives (FNV-1a over times and sizes, which differ as soon as anything differs).
    fn note(&mut self, host: HostId, peer: HostId, payload: &Payload) {
        let size = match payload {
            Payload::Direct(bytes) => bytes.len(),
            Payload::Have(ids) | Payload::Want(ids) => ids.len(),
            Payload::Gossip(..) | Payload::End(_) => 1,
        };
        for word in [self.now.as_nanos() as u64, host.into(), peer.into(), size as u64] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
