//! The light heartbeats: from members to the leader, or by way of a sub-leader where the cluster is large.
//!
//! They carry load, and let the receiver see that it lacks a member's last word. They never say who is alive.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, ManifestVersion, NodeId};
use crate::lead::Totals;

/// Most members that one report, or one node's list of heartbeats, speaks for.
pub const REPORTED_MAX: usize = 4_096;

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Run-queue length over cores, in per mille.
    pub cpu_permille: u16,
    /// Memory in use, in per mille.
    pub memory_permille: u16,
    /// Requests under way.
    pub in_flight: u32,
    /// Jobs under way.
    pub jobs: u32,
}

/// What a member tells about itself, every interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Of its manifest.
    pub incarnation: Incarnation,
    /// Of its manifest.
    pub version: ManifestVersion,
    /// How busy it is.
    pub load: Load,
}

/// What a sub-leader tells the leader of those that report to it, every interval: sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many members are in it.
    pub reporting: u32,
    /// Of all, in per mille.
    pub cpu_permille: u64,
    /// Of all, in per mille.
    pub memory_permille: u64,
    /// Of all.
    pub in_flight: u64,
    /// Of all.
    pub jobs: u64,
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.reporting = self.reporting.saturating_add(other.reporting);
        self.cpu_permille = self.cpu_permille.saturating_add(other.cpu_permille);
        self.memory_permille = self.memory_permille.saturating_add(other.memory_permille);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.jobs = self.jobs.saturating_add(other.jobs);
    }

    fn is_possible(&self) -> bool {
        let most = u64::from(self.reporting) * u64::from(u16::MAX);
        usize::try_from(self.reporting).is_ok_and(|n| n <= REPORTED_MAX)
            && self.cpu_permille <= most
            && self.memory_permille <= most
    }
}

impl From<Load> for Report {
    fn from(load: Load) -> Self {
        Self {
            reporting: 1,
            cpu_permille: load.cpu_permille.into(),
            memory_permille: load.memory_permille.into(),
            in_flight: load.in_flight.into(),
            jobs: load.jobs.into(),
        }
    }
}

impl From<Report> for Totals {
    fn from(report: Report) -> Self {
        let mean = |sum: u64| u16::try_from(sum / u64::from(report.reporting.max(1))).unwrap_or(u16::MAX);
        let most = |sum: u64| u32::try_from(sum).unwrap_or(u32::MAX);
        Self {
            reporting: report.reporting,
            cpu_permille: mean(report.cpu_permille),
            memory_permille: mean(report.memory_permille),
            in_flight: most(report.in_flight),
            jobs: most(report.jobs),
        }
    }
}

/// What a leader or a sub-leader has heard.
#[derive(Debug, Default)]
pub struct Beats {
    // The last one of each that speaks for itself, or for others.
    heard: BTreeMap<NodeId, (Report, Instant)>,
}

impl Beats {
    /// A member told its load.
    pub fn beat(&mut self, from: NodeId, load: Load, now: Instant) {
        self.put(from, load.into(), now);
    }

    /// A sub-leader told the load of others; `false` where that cannot be.
    pub fn report(&mut self, from: NodeId, report: Report, now: Instant) -> bool {
        let possible = report.is_possible();
        if possible {
            self.put(from, report, now);
        }
        possible
    }

    /// Whether this one was heard, and is not forgotten.
    pub fn has(&self, from: &NodeId) -> bool {
        self.heard.contains_key(from)
    }

    /// The sum of what was heard since then; what is older is forgotten.
    pub fn sum(&mut self, since: Option<Instant>) -> Report {
        self.heard.retain(|_, (_, at)| since.is_none_or(|since| *at >= since));
        let mut sum = Report::default();
        self.heard.values().for_each(|(report, _)| sum.add(report));
        sum
    }

    /// Nothing was heard.
    pub fn clear(&mut self) {
        self.heard.clear();
    }

    /// Whether nobody reports here.
    pub fn is_empty(&self) -> bool {
        self.heard.is_empty()
    }

    fn put(&mut self, from: NodeId, report: Report, now: Instant) {
        if self.heard.len() < REPORTED_MAX || self.heard.contains_key(&from) {
            self.heard.insert(from, (report, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{key, node_id};

    #[test]
    fn sums_are_of_what_was_heard_lately() {
        let (t0, mut beats) = (Instant::now(), Beats::default());
        let load = Load { cpu_permille: 500, memory_permille: 100, in_flight: 2, jobs: 1 };
        for i in 0..4 {
            beats.beat(node_id(&key(i)), load, t0);
            beats.beat(node_id(&key(i)), load, t0);
        }
        let report = Report { reporting: 2, cpu_permille: 200, memory_permille: 0, in_flight: 4, jobs: 0 };
        assert!(beats.report(node_id(&key(9)), report, t0 + Duration::from_secs(10)));
        let totals = Totals::from(beats.sum(None));
        assert_eq!(totals, Totals { reporting: 6, cpu_permille: 366, memory_permille: 66, in_flight: 12, jobs: 4 });
        assert_eq!(beats.sum(Some(t0 + Duration::from_secs(5))), report);
        assert!(beats.sum(Some(t0 + Duration::from_secs(20))).reporting == 0 && beats.is_empty());
        assert_eq!(Totals::from(Report::default()), Totals::default());
    }

    #[test]
    fn a_report_of_too_many_or_of_more_than_can_be_is_refused() {
        let (t0, mut beats) = (Instant::now(), Beats::default());
        let from = node_id(&key(1));
        assert!(!beats.report(from, Report { reporting: 4_097, ..Report::default() }, t0));
        assert!(!beats.report(from, Report { reporting: 1, cpu_permille: 70_000, ..Report::default() }, t0));
        assert!(beats.is_empty());
        let most = Report { reporting: 4_096, in_flight: u64::MAX, jobs: u64::MAX, ..Report::default() };
        assert!(beats.report(from, most, t0) && beats.report(node_id(&key(2)), most, t0));
        assert_eq!(Totals::from(beats.sum(None)).in_flight, u32::MAX);
    }
}
