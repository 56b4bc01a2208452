//! Who believes what of whom, beside what is true; kept up to date at each change, so that agreement is known at any time
//! without a look at every pair.

use std::time::Duration;

use paceline_proto::id::{Incarnation, ManifestVersion};

use super::HostId;

/// What an observer believes of a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Belief {
    /// It has not heard of it.
    #[default]
    Unknown,
    /// Alive, or missed and not yet given up.
    Here,
    /// Dead.
    Dead,
    /// Departed.
    Left,
}

/// A manifest's order as one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order(pub u64);

impl From<(Incarnation, ManifestVersion)> for Order {
    fn from((incarnation, version): (Incarnation, ManifestVersion)) -> Self {
        const VERSION_BITS: u32 = 24;
        Self(incarnation.0 << VERSION_BITS | version.0.min((1 << VERSION_BITS) - 1))
    }
}

/// One belief.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Whether it is there.
    pub belief: Belief,
    /// Its newest manifest.
    pub order: Order,
}

/// What is true of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Its process runs, and has not said goodbye.
    pub up: bool,
    /// Since when it is so.
    pub since: Duration,
    /// How many faults bear on it now.
    pub faults: u32,
    /// Since when there is none.
    pub calm_since: Duration,
    /// Its own manifest.
    pub order: Order,
    /// It said goodbye.
    pub left: bool,
    /// Others can dial it.
    pub dialable: bool,
}

impl Truth {
    /// Up, and out of reach of every fault, for that long.
    pub fn is_settled(&self, for_long: Duration, now: Duration) -> bool {
        self.up && self.is_calm(for_long, now) && now.saturating_sub(self.since) >= for_long
    }

    /// Out of reach of every fault for that long.
    pub fn is_calm(&self, for_long: Duration, now: Duration) -> bool {
        self.faults == 0 && now.saturating_sub(self.calm_since) >= for_long
    }
}

/// All beliefs and all truths.
#[derive(Clone, Debug, Default)]
pub struct Beliefs {
    truths: Vec<Truth>,
    // Of the hosts that are up.
    rows: Vec<Vec<Cell>>,
    // Those that are no observers.
    blind: Vec<bool>,
    up: usize,
    wrong: u64,
    outdated: u64,
}

impl Beliefs {
    /// One more host; it is not up yet.
    pub fn add(&mut self) {
        self.truths.push(Truth::default());
        self.rows.push(Vec::new());
        self.blind.push(false);
    }

    /// Whether what a host believes of others counts; before it believes anything.
    pub fn set_blind(&mut self, host: HostId, blind: bool) {
        self.blind[host as usize] = blind;
    }

    /// Whether they do not.
    pub fn is_blind(&self, host: HostId) -> bool {
        self.blind[host as usize]
    }

    /// Hosts that are up and whose beliefs count.
    pub fn observers(&self) -> impl Iterator<Item = HostId> {
        self.up().filter(|host| !self.blind[*host as usize])
    }

    /// How many are up.
    pub fn up_count(&self) -> usize {
        self.up
    }

    /// What is true of a host.
    pub fn truth(&self, host: HostId) -> &Truth {
        &self.truths[host as usize]
    }

    /// What is true of all.
    pub fn truths(&self) -> impl Iterator<Item = (HostId, &Truth)> {
        self.truths.iter().enumerate().map(|(host, truth)| (host as HostId, truth))
    }

    /// All that are up.
    pub fn up(&self) -> impl Iterator<Item = HostId> {
        self.truths().filter(|(_, truth)| truth.up).map(|(host, _)| host)
    }

    /// What an observer believes.
    pub fn of(&self, observer: HostId, subject: HostId) -> Cell {
        self.rows[observer as usize].get(subject as usize).copied().unwrap_or_default()
    }

    /// Pairs of hosts that are up in which one is wrong about whether the other is there.
    pub fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Pairs of hosts that are up in which one has not the other's newest manifest.
    pub fn outdated(&self) -> u64 {
        self.outdated
    }

    /// Whether the wrong and outdated pairs, if there are any, are all of hosts that have had no way to each other.
    pub fn differ_apart(&self, for_long: Duration, now: Duration) -> bool {
        self.examples(usize::MAX)
            .into_iter()
            .all(|(observer, subject)| self.truths[subject as usize].up && !self.meet(observer, subject, for_long, now))
    }

    /// Whether two hosts have had a way to each other for that long: one of them can be dialled, or there is a third one that
    /// both can dial.
    pub fn meet(&self, a: HostId, b: HostId, for_long: Duration, now: Duration) -> bool {
        let can = |host: HostId| self.truths[host as usize].dialable;
        can(a) || can(b) || self.truths.iter().any(|t| t.dialable && t.is_settled(for_long, now))
    }

    /// Some of the wrong and outdated pairs.
    pub fn examples(&self, most: usize) -> Vec<(HostId, HostId)> {
        let pairs = self.observers().flat_map(|o| (0..self.truths.len() as HostId).map(move |s| (o, s)));
        pairs.filter(|(o, s)| self.judge(*o, *s) != (0, 0)).take(most).collect()
    }

    /// A process starts, or ends; `left` after a goodbye.
    pub fn set_up(&mut self, host: HostId, up: bool, left: bool, now: Duration) {
        self.recount(host, |all| {
            let truth = &mut all.truths[host as usize];
            all.up = all.up + usize::from(up) - usize::from(truth.up);
            (truth.up, truth.since, truth.left) = (up, now, left);
            all.rows[host as usize].clear();
        });
    }

    /// Whether others can dial it.
    pub fn set_dialable(&mut self, host: HostId, dialable: bool) {
        self.truths[host as usize].dialable = dialable;
    }

    /// A fault begins to bear on the host, or ends.
    pub fn set_fault(&mut self, host: HostId, begins: bool, now: Duration) {
        let truth = &mut self.truths[host as usize];
        truth.faults = if begins { truth.faults + 1 } else { truth.faults.saturating_sub(1) };
        truth.calm_since = now;
    }

    /// An observer believes something else; says what it believed before. What a host says of itself is true.
    pub fn set(&mut self, observer: HostId, subject: HostId, cell: Cell) -> Cell {
        if observer == subject && self.truths[subject as usize].order != cell.order {
            self.recount(subject, |all| all.truths[subject as usize].order = cell.order);
        }
        if self.blind[observer as usize] {
            return Cell::default();
        }
        let before = self.judge(observer, subject);
        let row = &mut self.rows[observer as usize];
        if row.len() <= subject as usize {
            row.resize(self.truths.len(), Cell::default());
        }
        let old = std::mem::replace(&mut row[subject as usize], cell);
        let after = self.judge(observer, subject);
        self.wrong = self.wrong + after.0 - before.0;
        self.outdated = self.outdated + after.1 - before.1;
        old
    }

    /// Changes something that all pairs with this host may depend on.
    fn recount(&mut self, host: HostId, change: impl FnOnce(&mut Self)) {
        let sum = |all: &Self| {
            let hosts = 0..all.truths.len() as HostId;
            let pairs = hosts.clone().map(|o| (o, host)).chain(hosts.filter(|s| *s != host).map(|s| (host, s)));
            pairs.fold((0, 0), |(w, o), (observer, subject)| {
                let (wrong, outdated) = all.judge(observer, subject);
                (w + wrong, o + outdated)
            })
        };
        let before = sum(self);
        change(self);
        let after = sum(self);
        self.wrong = self.wrong + after.0 - before.0;
        self.outdated = self.outdated + after.1 - before.1;
    }

    /// Whether the pair is wrong, and whether it is outdated.
    fn judge(&self, observer: HostId, subject: HostId) -> (u64, u64) {
        if !self.truths[observer as usize].up || self.blind[observer as usize] {
            return (0, 0);
        }
        let (truth, cell) = (&self.truths[subject as usize], self.of(observer, subject));
        let wrong = (cell.belief == Belief::Here) != truth.up;
        let outdated = truth.up && cell.order != truth.order;
        (u64::from(wrong), u64::from(outdated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_a_look_at_every_pair() {
        let mut rng = super::super::rng::Rng::new(5);
        let mut all = Beliefs::default();
        (0..6).for_each(|_| all.add());
        for step in 0..2_000 {
            let (a, b) = (rng.below(6) as HostId, rng.below(6) as HostId);
            if rng.percent(10.0) {
                let up = !all.truth(a).up;
                all.set_up(a, up, false, Duration::from_secs(step));
            } else if all.truth(a).up {
                let belief = [Belief::Here, Belief::Dead, Belief::Unknown][rng.below(3)];
                all.set(a, b, Cell { belief, order: Order(rng.below(3) as u64) });
            }
            let pairs = (0..6).flat_map(|o| (0..6).map(move |s| (o, s)));
            let counted = pairs.map(|(o, s)| all.judge(o, s)).fold((0, 0), |x, y| (x.0 + y.0, x.1 + y.1));
            assert_eq!((all.wrong(), all.outdated()), counted);
        }
    }
}
