//! What a run measures: how long it took until everybody knew, who led when, and what it cost.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::World;
use crate::sim::HostId;
use crate::sim::beliefs::{Belief, Beliefs, Cell, Order};
use crate::sim::invariants::{End, Fact};
use crate::sim::leads::{Lead, Leads};
use crate::sim::traffic::Traffic;

/// Most news that are followed at once.
const FOLLOWED_MAX: usize = 64;
/// Most alarms that are kept.
const ALARMS_MAX: usize = 20;
/// A while that counts as quiet is so long.
const QUIET: Duration = Duration::from_secs(30);
/// Changes of what is wrong are kept at this distance.
const COARSE: Duration = Duration::from_millis(20);
/// What became wrong so shortly before the end is news that is still under way.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// The network is given so long after a fault, and after the start.
const CALM_AFTER: Duration = Duration::from_secs(40);

/// News that all are to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// A process was killed.
    Killed,
    /// A machine is dark.
    Dark,
    /// A process hangs.
    Hung,
    /// A member said goodbye.
    Left,
    /// A member has come.
    Joined,
    /// A manifest has changed.
    Changed,
    /// The leader is gone: a summary of another one is everywhere.
    NewLeader,
}

/// How long one piece of news took to whom.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// What.
    pub news: News,
    /// Of whom.
    pub host: HostId,
    /// When, in seconds since the start.
    pub at_s: f64,
    /// Those that were to hear of it.
    pub of: usize,
    /// How long it took to each that did, in seconds, in order.
    #[serde(skip)]
    pub took_s: Vec<f64>,
}

/// Something to be drawn.
#[derive(Clone, Debug)]
pub struct Mark {
    /// From.
    pub from: Duration,
    /// To; `None` until the end.
    pub to: Option<Duration>,
    /// Where; `None` is everywhere.
    pub host: Option<HostId>,
    /// What.
    pub kind: &'static str,
}

struct Followed {
    measured: Measured,
    since: Duration,
    order: Order,
    waiting: BTreeSet<HostId>,
}

/// What a run measures.
#[derive(Default)]
pub struct Watched {
    followed: Vec<Followed>,
    /// What was measured to its end.
    done: Vec<Measured>,
    /// For the drawing.
    pub marks: Vec<Mark>,
    /// Pairs that were wrong, at each change of their number: for the drawing and the times of agreement.
    pub wrong: Vec<(Duration, u64, u64)>,
    /// Since when all agree on the leader, if they do, at each change.
    pub led: Vec<(Duration, bool)>,
    /// Since when more than one believes to lead.
    two_since: Option<Duration>,
    /// The longest time of that.
    pub two_leaders: Duration,
    /// When a fault began or ended last.
    pub last_fault: Duration,
    /// How many faults bear on something now.
    pub faults_now: u32,
    /// At the start of the quiet while.
    quiet: Option<(Duration, u64)>,
    /// At the start of the first quiet while, and at the end of the last.
    pub steady: Option<(Duration, Traffic, Duration, Traffic)>,
    /// Who led at its start.
    pub steady_leader: Option<HostId>,
    /// Writes that the store took.
    pub writes: u32,
    /// Messages that were refused.
    pub refused: u64,
    /// What nodes alarmed.
    pub alarms: Vec<String>,
    /// When all agreed on the members for the first time.
    pub formed: Option<Duration>,
    /// How it ended.
    pub ending: Option<End>,
}

impl Watched {
    /// All that was measured.
    pub fn measured(&self) -> Vec<Measured> {
        let mut all = self.done.clone();
        all.extend(self.followed.iter().map(|f| f.measured.clone()));
        all.sort_by(|a, b| a.at_s.total_cmp(&b.at_s).then(a.news.cmp(&b.news)));
        all
    }

    /// Follows a piece of news to all that are up and not themselves troubled.
    pub fn follow(&mut self, news: News, host: HostId, now: Duration, beliefs: &Beliefs, order: Order) {
        let waiting: BTreeSet<_> =
            beliefs.observers().filter(|o| *o != host && beliefs.truth(*o).faults == 0).collect();
        if self.followed.len() >= FOLLOWED_MAX || waiting.is_empty() {
            return;
        }
        let measured = Measured { news, host, at_s: now.as_secs_f64(), of: waiting.len(), took_s: Vec::new() };
        self.followed.push(Followed { measured, since: now, order, waiting });
    }

    /// A process came up.
    pub fn came(&mut self, host: HostId, now: Duration, beliefs: &Beliefs) {
        self.drop_observer(host);
        if self.formed.is_some() {
            self.follow(News::Joined, host, now, beliefs, Order::default());
        }
    }

    /// A process is no reader any more, and what was said of its end is old.
    pub fn drop_observer(&mut self, host: HostId) {
        for followed in &mut self.followed {
            followed.waiting.remove(&host);
        }
    }

    /// An observer believes something else.
    pub fn believed(&mut self, observer: HostId, subject: HostId, old: Cell, new: Cell, now: Duration) {
        let gone = old.belief == Belief::Here && new.belief != Belief::Here;
        let here = old.belief != Belief::Here && new.belief == Belief::Here;
        self.heard(observer, now, |f| {
            f.measured.host == subject
                && match f.measured.news {
                    News::Killed | News::Dark | News::Hung | News::Left => gone,
                    News::Joined => here,
                    News::Changed => new.order >= f.order,
                    News::NewLeader => false,
                }
        });
    }

    /// An observer has another claim or summary.
    pub fn led(&mut self, observer: HostId, lead: Lead, now: Duration) {
        let other = |old: HostId| lead.leader.is_some_and(|leader| leader != old) && lead.seq > 0;
        self.heard(observer, now, |f| f.measured.news == News::NewLeader && other(f.measured.host));
    }

    fn heard(&mut self, observer: HostId, now: Duration, what: impl Fn(&Followed) -> bool) {
        for followed in &mut self.followed {
            if what(followed) && followed.waiting.remove(&observer) {
                followed.measured.took_s.push((now - followed.since).as_secs_f64());
            }
        }
        let (done, followed) =
            std::mem::take(&mut self.followed).into_iter().partition(|f: &Followed| f.waiting.is_empty());
        self.followed = followed;
        let done: Vec<Followed> = done;
        self.done.extend(done.into_iter().map(|f| f.measured));
    }

    /// A node alarmed.
    pub fn alarm(&mut self, now: Duration, host: HostId, text: String) {
        if self.alarms.len() < ALARMS_MAX {
            self.alarms.push(format!("{:.3} s, host {host}: {text}", now.as_secs_f64()));
        }
    }

    /// Notes whether all agree now; called after each event.
    pub fn note(&mut self, beliefs: &Beliefs, leads: &Leads, now: Duration, hosts: usize) {
        let (wrong, outdated) = (beliefs.wrong(), beliefs.outdated());
        match self.wrong.last_mut() {
            Some((_, w, o)) if (*w, *o) == (wrong, outdated) => {}
            // While much is wrong, its exact course does not matter.
            Some((at, w, o)) if (*w > 0 || *o > 0) && (wrong > 0 || outdated > 0) && now < *at + COARSE => {
                (*w, *o) = (wrong, outdated);
            }
            _ => self.wrong.push((now, wrong, outdated)),
        }
        if self.formed.is_none() && wrong == 0 && beliefs.up_count() >= hosts {
            self.formed = Some(now);
        }
        let led = leads.agreed().is_some_and(|leader| beliefs.truth(leader).up);
        if self.led.last().is_none_or(|(_, l)| *l != led) {
            self.led.push((now, led));
        }
        match (leads.leading().nth(1).is_some(), self.two_since) {
            (true, None) => self.two_since = Some(now),
            (false, Some(since)) => {
                self.two_leaders = self.two_leaders.max(now - since);
                self.two_since = None;
            }
            _ => {}
        }
    }

    /// How long after the heal all agreed on members, manifests and the leader: on the first two for good.
    pub fn agreed(
        &self,
        beliefs: &Beliefs,
        leads: &Leads,
        healed: Duration,
        end: Duration,
    ) -> (Option<Duration>, Option<Duration>, Option<Duration>) {
        let since = |is: fn(&(Duration, u64, u64)) -> bool| {
            // News of the last moment may still be under way.
            let good_before = self.wrong.iter().rposition(is).map(|at| at + 1);
            let under_way =
                good_before.and_then(|at| self.wrong.get(at)).is_some_and(|(at, ..)| *at + UNDER_WAY >= end);
            let wrong = if under_way { &self.wrong[..good_before.unwrap_or_default()] } else { &self.wrong[..] };
            let last_bad = wrong.iter().rposition(|w| !is(w));
            let first_good = wrong.get(last_bad.map_or(0, |at| at + 1));
            first_good.map(|(at, ..)| at.saturating_sub(healed))
        };
        let members = since(|(_, wrong, _)| *wrong == 0);
        let manifests = since(|(_, _, outdated)| *outdated == 0);
        // A hand-over may be under way at the end: what counts is that there was one leader after the heal.
        let led = self
            .led
            .iter()
            .enumerate()
            .filter(|(at, (_, led))| *led && self.led.get(at + 1).is_none_or(|(until, _)| *until >= healed));
        let leader = led.map(|(_, (at, _))| at.saturating_sub(healed)).next();
        let leader = leader.filter(|_| leads.most().is_some_and(|l| beliefs.truth(l).up));
        (members, manifests, leader)
    }

    /// Times in which not all followed one leader that is up, in seconds: how many, the longest, and all together.
    pub fn gaps(&self, end: Duration) -> (usize, f64, f64) {
        let Some(first) = self.led.iter().position(|(_, led)| *led) else { return (0, 0.0, 0.0) };
        let from = &self.led[first..];
        let gaps: Vec<f64> = from
            .iter()
            .enumerate()
            .filter(|(_, (_, led))| !led)
            .map(|(at, (since, _))| (from.get(at + 1).map_or(end, |(until, _)| *until) - *since).as_secs_f64())
            .collect();
        (gaps.len(), gaps.iter().copied().fold(0.0, f64::max), gaps.iter().sum())
    }
}

impl World {
    /// Whether a quiet while has just gone by.
    pub(super) fn quiet(&mut self) -> Option<Fact> {
        let calm = self.watched.faults_now == 0
            && self.watched.formed.is_some()
            && self.now >= self.watched.last_fault + CALM_AFTER
            && self.now >= self.watched.formed.unwrap_or_default() + CALM_AFTER
            && self.beliefs.wrong() == 0;
        if !calm {
            self.watched.quiet = None;
            return None;
        }
        let bytes = self.traffic.wire_bytes();
        let (since, before) = *self.watched.quiet.get_or_insert((self.now, bytes));
        match &mut self.watched.steady {
            None => {
                self.watched.steady = Some((self.now, self.traffic.clone(), self.now, self.traffic.clone()));
                self.watched.steady_leader = self.leads.most();
            }
            // Only the first quiet time without a fault in between is the steady state.
            Some((from, _, to, traffic)) if *from >= self.watched.last_fault => {
                (*to, *traffic) = (self.now, self.traffic.clone());
            }
            Some(_) => {}
        }
        if self.now - since < QUIET {
            return None;
        }
        self.watched.quiet = Some((self.now, bytes));
        Some(Fact::Quiet {
            hosts: self.beliefs.up_count(),
            behind_nat: self.beliefs.truths().filter(|(_, truth)| truth.up && !truth.dialable).count(),
            seconds: (self.now - since).as_secs_f64(),
            wire_bytes: bytes - before,
            loss_percent: self.scenario.network.loss_percent,
            heartbeat_s: self.scenario.timing.heartbeat_s,
            term_s: self.scenario.timing.term_s,
        })
    }
}
