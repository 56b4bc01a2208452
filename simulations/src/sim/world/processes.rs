//! Processes: how they start, end, stop and go on.

use std::time::Duration;

use paceline_proto::id::{Role, WorkerName};
use paceline_proto::node::{Config, LinkLoss, Node, Timing};

use super::{Event, World};
use crate::sim::HostId;
use crate::sim::authority::{self, START};
use crate::sim::host::Host;
use crate::sim::invariants::Fact;
use crate::sim::link::Payload;
use crate::sim::scenario::seconds;

/// Gossipsub's first heartbeat.
const FIRST_BEAT: Duration = Duration::from_millis(100);
/// A process that said goodbye ends after this long.
pub(super) const FINISH: Duration = Duration::from_millis(300);

impl World {
    /// One more machine, with a key of its own.
    pub(super) fn add_host(&mut self, name: &str, gateway: bool) -> anyhow::Result<HostId> {
        let number = self.hosts.len() as HostId;
        let key = authority::key(&mut self.rng);
        let roles: &[Role] = if gateway { &[Role::Gateway, Role::Worker] } else { &[Role::Worker] };
        let chain = self.authority.admit(&authority::node_id(&key), roles, number == 0)?;
        let mut host = Host::new(number, WorkerName::new(name)?, key, chain);
        host.gateway = gateway;
        self.by_node.insert(host.node, number);
        self.hosts.push(host);
        self.beliefs.add();
        self.traffic.hosts.push(Default::default());
        Ok(number)
    }

    pub(super) fn start(&mut self, host: HostId) {
        let now = self.time(host);
        let (seed, instance) = (self.rng.next_u64(), self.rng.next_u64());
        let root = self.authority.root.clone();
        let timing = Timing {
            heartbeat: seconds(self.scenario.timing.heartbeat_s),
            term: seconds(self.scenario.timing.term_s),
            ..Timing::default()
        };
        let machine = &mut self.hosts[host as usize];
        if machine.process.is_some() || machine.replaced {
            return;
        }
        let started_unix_ms = START.0 * 1_000 + self.now.as_millis() as u64;
        let mut manifest = machine.manifest(host, instance, started_unix_ms);
        let formed = self.formed.is_some() && self.now == Duration::ZERO;
        manifest.dialable = formed && machine.dialable;
        let config = Config {
            root,
            key: machine.key.clone(),
            chain: machine.chain.clone(),
            manifest,
            seed,
            timing,
            claim: machine.disk.claim.clone(),
            sink: machine.sink,
            gossip_own_manifest: true,
            memo: Some(self.memo.clone()),
        };
        match Node::new(config, now) {
            Ok(process) => machine.process = Some(process),
            Err(error) => return self.checker.broken(self.now, "a node starts", format!("host {host}: {error}")),
        }
        machine.life += 1;
        machine.rounds = 0;
        machine.told_dialable = formed && machine.dialable;
        let life = machine.life;
        self.beliefs.set_up(host, true, false, self.now);
        self.beliefs.set_dialable(host, self.hosts[host as usize].dialable);
        self.leads.set(host, Some(Default::default()), self.now);
        self.fact(&Fact::Up { host });
        self.watched.came(host, self.now, &self.beliefs);
        if formed {
            self.starts_quietly(host);
        } else {
            self.carry_out(host);
        }
        let first = self.rng.up_to(FIRST_BEAT * 2);
        self.plan(first, Event::Beat { host, life });
        self.dial_entry(host, life);
    }

    /// The machine comes back with an empty disk: it is another member under the same name.
    pub(super) fn start_anew(&mut self, host: HostId) {
        let machine = &self.hosts[host as usize];
        if machine.process.is_some() || machine.replaced {
            return;
        }
        let (name, gateway, dialable, sink) =
            (machine.name.to_string(), machine.gateway, machine.dialable, machine.sink);
        match self.add_host(&name, gateway) {
            Ok(new) => {
                self.hosts[host as usize].replaced = true;
                let entries = self.entries.iter_mut().filter(|entry| **entry == host);
                entries.for_each(|entry| *entry = new);
                let machine = &mut self.hosts[new as usize];
                (machine.dialable, machine.sink) = (dialable, sink);
                self.start(new);
            }
            Err(error) => self.checker.broken(self.now, "a host is admitted", error.to_string()),
        }
    }

    /// Ends a process; its operating system says so to whom it was connected, as far as that gets through.
    pub(super) fn stop(&mut self, host: HostId, left: bool) {
        let machine = &mut self.hosts[host as usize];
        if machine.process.take().is_none() {
            return;
        }
        machine.life += 1;
        machine.hung = false;
        machine.wake = None;
        machine.backlog.clear();
        machine.dialling.clear();
        machine.judging.clear();
        machine.recent.clear();
        let mesh = std::mem::take(&mut machine.mesh);
        let links = std::mem::take(&mut machine.links);
        mesh.into_iter().for_each(|peer| _ = self.hosts[peer as usize].mesh.remove(&host));
        for link in links.into_values() {
            let end = self.links[link as usize].end_of(host);
            self.send(link, end, Payload::End(LinkLoss::Reset));
            self.links[link as usize].open[end] = false;
        }
        self.messages.forget_host(host);
        self.hints.gone(host, self.now);
        self.is_down(host, left);
    }

    /// From now on the host is no member, whoever still believes in it: its process is gone, or has said goodbye.
    pub(super) fn is_down(&mut self, host: HostId, left: bool) {
        if self.beliefs.truth(host).up {
            self.beliefs.set_up(host, false, left, self.now);
            self.leads.set(host, None, self.now);
            self.watched.drop_observer(host);
            self.fact(&Fact::Down { host });
        }
    }

    pub(super) fn hang(&mut self, host: HostId) {
        if self.hosts[host as usize].process.is_some() {
            self.hosts[host as usize].hung = true;
        }
    }

    /// The process goes on: its timers are late, and all that has come meanwhile is there at once, in either order.
    pub(super) fn go_on(&mut self, host: HostId) {
        let late_first = self.rng.below(2) == 0;
        let now = self.time(host);
        let machine = &mut self.hosts[host as usize];
        machine.hung = false;
        machine.wake = None;
        let Some(process) = &mut machine.process else { return };
        if late_first {
            process.handle_timeout(now);
        }
        let backlog = std::mem::take(&mut machine.backlog);
        self.carry_out(host);
        for event in backlog {
            self.handle(event);
        }
        self.plan_wake(host);
    }
}
