//! Faults: what begins, whom it bears on, and how it ends.

use std::collections::BTreeSet;
use std::time::Duration;

use paceline_proto::node::Input;

use super::watch::{Mark, News};
use super::{Event, World};
use crate::sim::HostId;
use crate::sim::beliefs::Order;
use crate::sim::conditions::Condition;
use crate::sim::scenario::{Fault, HONEST_LOSS_PERCENT, Hosts, Kind, millis, seconds};

/// Delay beyond which a host counts as troubled: with as much jitter, a round trip takes four times that at most, and a probe
/// waits 500 ms for its answer.
const HONEST_DELAY: Duration = Duration::from_millis(100);
/// Whoever is killed by churn comes back after at least so many seconds, and at most so many.
const CHURN_BACK_S: (u64, u64) = (5, 30);
/// Churn leaves so many hosts alone: the founder, so that somebody stays.
const CHURN_SPARES: HostId = 1;

impl World {
    pub(super) fn plan_faults(&mut self) {
        for (number, fault) in self.scenario.fault.iter().enumerate() {
            self.queue.push(seconds(fault.at_s), Event::Fault(number));
            if let Some(end) = fault.end_s() {
                self.queue.push(seconds(end), Event::Over(number));
            }
        }
        self.queue.push(seconds(self.scenario.heal_s), Event::Heal);
    }

    pub(super) fn begin_fault(&mut self, number: usize) {
        let fault = self.scenario.fault[number].clone();
        let hosts = self.chosen(&fault.hosts);
        let all = (fault.hosts != Hosts::Default).then(|| hosts.iter().copied().collect::<BTreeSet<_>>());
        self.watched.last_fault = self.now;
        let percent = fault.percent.unwrap_or_default();
        match fault.kind {
            Kind::Kill => self.kill(number, &fault, &hosts),
            Kind::Leave => {
                for host in &hosts {
                    self.news(News::Left, *host);
                    self.mark("leave", Some(*host), fault.for_s);
                    self.leave(*host);
                }
                self.borne.insert(number, hosts);
            }
            Kind::Hang => {
                for host in &hosts {
                    self.news(News::Hung, *host);
                    self.mark("hang", Some(*host), fault.for_s);
                    self.hang(*host);
                }
                self.bear(number, hosts);
            }
            Kind::Dark => {
                for host in &hosts {
                    self.news(News::Dark, *host);
                    self.mark("dark", Some(*host), fault.for_s);
                }
                self.conditions.begin(number, Condition::Dark(hosts.iter().copied().collect()));
                self.bear(number, hosts);
            }
            Kind::Partition => {
                hosts.iter().for_each(|host| self.mark("partition", Some(*host), fault.for_s));
                self.conditions.begin(number, Condition::Apart(hosts.iter().copied().collect()));
                self.bear(number, self.everybody());
            }
            Kind::OneWay => {
                let to =
                    (fault.to != Hosts::Default).then(|| self.chosen(&fault.to).into_iter().collect::<BTreeSet<_>>());
                hosts.iter().for_each(|host| self.mark("one-way", Some(*host), fault.for_s));
                self.conditions.begin(number, Condition::OneWay(hosts.iter().copied().collect(), to));
                // Whoever cannot answer is missed by others, and misses others itself.
                self.bear(number, self.everybody());
            }
            Kind::Loss => {
                self.mark("loss", None, fault.for_s);
                self.conditions.begin(number, Condition::Loss(all, percent));
                if percent + self.scenario.network.loss_percent > HONEST_LOSS_PERCENT {
                    self.bear(number, self.everybody());
                }
            }
            Kind::Delay => {
                self.mark("delay", None, fault.for_s);
                let delay = millis(fault.delay_ms.unwrap_or_default());
                self.conditions.begin(number, Condition::Delay(all, delay));
                if delay > HONEST_DELAY {
                    self.bear(number, self.everybody());
                }
            }
            Kind::Duplicate => self.conditions.begin(number, Condition::Duplicate(percent)),
            Kind::Reorder => self.conditions.begin(number, Condition::Reorder(percent)),
            Kind::ClockJump => {
                for host in &hosts {
                    self.mark("clock", Some(*host), fault.for_s);
                    self.hosts[*host as usize].clock_s += fault.by_s.unwrap_or_default();
                }
                self.borne.insert(number, hosts);
            }
            Kind::Churn => {
                self.mark("churn", None, fault.for_s);
                self.borne.insert(number, Vec::new());
                self.churn(number);
            }
            Kind::Change => hosts.into_iter().for_each(|host| self.change(host)),
            Kind::Join => (0..fault.count.unwrap_or(1)).for_each(|_| self.join()),
            Kind::StoreDown => {
                self.mark("store", None, fault.for_s);
                self.hints.set_down(true);
            }
        }
    }

    pub(super) fn end_fault(&mut self, number: usize) {
        let fault = self.scenario.fault[number].clone();
        let borne = self.borne.remove(&number);
        self.watched.last_fault = self.now;
        self.conditions.end(number);
        match (fault.kind, borne) {
            (Kind::Kill | Kind::Leave, Some(hosts)) => {
                let again = |host| if fault.disk { Event::Start(host) } else { Event::StartAnew(host) };
                hosts.into_iter().for_each(|host| self.plan(Duration::ZERO, again(host)));
            }
            (Kind::ClockJump, Some(hosts)) => {
                for host in hosts {
                    self.hosts[host as usize].clock_s -= fault.by_s.unwrap_or_default();
                }
            }
            (Kind::StoreDown, _) => self.hints.set_down(false),
            (Kind::Churn, _) => {}
            (kind, Some(hosts)) => {
                for host in &hosts {
                    self.beliefs.set_fault(*host, false, self.now);
                }
                self.watched.faults_now -= 1;
                if kind == Kind::Hang {
                    hosts.into_iter().for_each(|host| self.go_on(host));
                }
            }
            (_, None) => {}
        }
    }

    /// All that is still wrong ends. Whoever was killed for good stays dead.
    pub(super) fn heal(&mut self) {
        let mut numbers = self.conditions.numbers();
        let open = |n: &usize| self.scenario.fault[*n].for_s.is_none();
        let killed = |n: &usize| matches!(self.scenario.fault[*n].kind, Kind::Kill | Kind::Leave | Kind::ClockJump);
        numbers.extend(self.borne.keys().filter(|n| open(n) && !killed(n)).copied());
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().for_each(|number| self.end_fault(number));
        self.hints.set_down(false);
        self.watched.last_fault = self.now;
        self.mark("heal", None, Some(0.0));
    }

    /// Somebody is killed, leaves, or comes back.
    pub(super) fn churn(&mut self, number: usize) {
        if !self.borne.contains_key(&number) {
            return;
        }
        let fault = &self.scenario.fault[number];
        let until = fault.end_s().unwrap_or(self.scenario.heal_s);
        let mean_ms = (60_000.0 / fault.per_minute.unwrap_or(1.0)) as u64;
        let candidates: Vec<_> = self.beliefs.up().filter(|host| *host >= CHURN_SPARES).collect();
        if let Some(host) = self.fault_rng.sample(&candidates, 1).first().copied() {
            let back = Duration::from_secs(self.fault_rng.between(CHURN_BACK_S.0, CHURN_BACK_S.1));
            self.watched.last_fault = self.now;
            self.mark("churn", Some(host), Some(back.as_secs_f64()));
            if self.fault_rng.below(3) == 0 {
                self.news(News::Left, host);
                self.leave(host);
            } else {
                self.news(News::Killed, host);
                self.stop(host, false);
            }
            self.plan(back, Event::Start(host));
        }
        let wait = Duration::from_millis(mean_ms / 2 + self.fault_rng.between(0, mean_ms));
        if self.now + wait < seconds(until) {
            self.plan(wait, Event::Churn(number));
        } else {
            self.borne.remove(&number);
        }
    }

    fn kill(&mut self, number: usize, fault: &Fault, hosts: &[HostId]) {
        for host in hosts {
            self.news(News::Killed, *host);
            self.mark("kill", Some(*host), fault.for_s);
        }
        for host in hosts {
            self.stop(*host, false);
        }
        if fault.for_s.is_some() {
            self.borne.insert(number, hosts.to_vec());
        }
    }

    fn change(&mut self, host: HostId) {
        if !self.hosts[host as usize].is_awake() {
            return;
        }
        self.mark("change", Some(host), Some(0.0));
        self.hosts[host as usize].offered += 3;
        let order = self.beliefs.of(host, host).order;
        self.watched.follow(News::Changed, host, self.now, &self.beliefs, Order(order.0 + 1));
        let services = self.hosts[host as usize].services();
        self.input(host, Input::Offer(services));
    }

    fn join(&mut self) {
        let name = format!("n{}", self.hosts.len());
        match self.add_host(&name, false) {
            Ok(host) => {
                self.mark("join", Some(host), Some(0.0));
                self.plan(Duration::ZERO, Event::Start(host));
            }
            Err(error) => self.checker.broken(self.now, "a host is admitted", error.to_string()),
        }
    }

    /// These hosts are out of reach, or may be, until the fault ends.
    fn bear(&mut self, number: usize, hosts: Vec<HostId>) {
        hosts.iter().for_each(|host| self.beliefs.set_fault(*host, true, self.now));
        self.watched.faults_now += 1;
        self.borne.insert(number, hosts);
    }

    fn news(&mut self, news: News, host: HostId) {
        if !self.beliefs.truth(host).up {
            return;
        }
        self.watched.follow(news, host, self.now, &self.beliefs, Order::default());
        if self.leads.most() == Some(host) {
            self.watched.follow(News::NewLeader, host, self.now, &self.beliefs, Order::default());
        }
    }

    fn mark(&mut self, kind: &'static str, host: Option<HostId>, for_s: Option<f64>) {
        let to = for_s.map(|s| self.now + seconds(s));
        self.watched.marks.push(Mark { from: self.now, to, host, kind });
    }

    fn everybody(&self) -> Vec<HostId> {
        (0..self.hosts.len() as HostId).collect()
    }

    fn chosen(&mut self, hosts: &Hosts) -> Vec<HostId> {
        // Whoever was replaced after the loss of its disk is nobody any more.
        let all: Vec<_> = self.everybody().into_iter().filter(|h| !self.hosts[*h as usize].replaced).collect();
        let up: Vec<_> = all.iter().copied().filter(|h| self.hosts[*h as usize].is_awake()).collect();
        let mut chosen = match hosts {
            Hosts::Default => all,
            Hosts::Numbers(numbers) => numbers.iter().map(|n| all[n % all.len()]).collect(),
            Hosts::Named(name) => match name.as_str() {
                "leader" => self.leads.most().filter(|l| up.contains(l)).or(up.first().copied()).into_iter().collect(),
                "random" => self.fault_rng.sample(&up, 1),
                "gateways" => all.into_iter().filter(|h| self.hosts[*h as usize].gateway).collect(),
                "half" => self.fault_rng.sample(&all, all.len() / 2),
                "all" => all,
                percent => {
                    let share = percent.trim_end_matches('%').parse::<f64>().unwrap_or_default() / 100.0;
                    self.fault_rng.sample(&up, (up.len() as f64 * share).ceil() as usize)
                }
            },
        };
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}
