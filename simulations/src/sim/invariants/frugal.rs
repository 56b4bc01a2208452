//! Bytes a node a second stay within the model, while nothing happens.

use super::{Fact, Invariant, World};
use crate::sim::traffic::{LINK_BYTES, LINK_EVERY_S};

/// On the wire, for each host, whatever the number of hosts: a ping of its own and an answer to another's each second (245),
/// and some more of them after a stalled stream.
const PROBES: f64 = 300.0;
/// So many times as much more for a probe by way of three others: three requests, pings and answers, twice.
const RELAYED: f64 = 5.0;
/// Measurements of a link.
const LINK: f64 = LINK_BYTES as f64 / LINK_EVERY_S as f64;
/// Links of a host on average, in a cluster that has as many others: neighbours on the ring on both sides, gateways, others.
const LINKS: usize = 20;
/// A summary of 120 bytes to four or five neighbours, its id to two more, and a beat: for each heartbeat.
const HEARTBEAT_BYTES: f64 = 2_000.0;
/// A claim, the summaries around it and the manifests that it changes: for each term.
const TERM_BYTES: f64 = 9_000.0;
/// With loss, at most so many times as much.
const WITH_LOSS: f64 = 2.0;

/// Stateless.
pub struct Frugal;

impl Invariant for Frugal {
    fn name(&self) -> &'static str {
        "bytes a node a second stay within the model"
    }

    fn fact(&mut self, fact: &Fact, _: World<'_>) -> Option<String> {
        let Fact::Quiet { hosts, behind_nat, seconds, wire_bytes, loss_percent, heartbeat_s, term_s } = fact else {
            return None;
        };
        let rate = *wire_bytes as f64 / seconds / (*hosts).max(1) as f64;
        let links = hosts.saturating_sub(1).min(LINKS) as f64;
        // Two that nobody can dial probe each other by way of three others.
        let pairs = |of: usize| (of * of.saturating_sub(1)) as f64;
        let relayed = pairs(*behind_nat) / pairs(*hosts).max(1.0);
        let model =
            PROBES * (1.0 + relayed * RELAYED) + links * LINK + HEARTBEAT_BYTES / heartbeat_s + TERM_BYTES / term_s;
        let model = if *loss_percent > 0.0 { model * WITH_LOSS } else { model };
        (rate > model).then(|| format!("{rate:.0} bytes/s a node on the wire, the model allows {model:.0}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn too_much_is_seen() {
        let mut history = History::of(1);
        let mut quiet = |hosts, wire_bytes, loss_percent, heartbeat_s| {
            let term_s = 90.0;
            let (seconds, behind_nat) = (10.0, 0);
            let fact = Fact::Quiet { hosts, behind_nat, seconds, wire_bytes, loss_percent, heartbeat_s, term_s };
            Frugal.fact(&fact, history.at(99)).is_some()
        };
        assert!(!quiet(11, 89_700, 0.0, 10.0) && quiet(11, 90_000, 0.0, 10.0));
        assert!(!quiet(11, 179_000, 20.0, 10.0) && quiet(11, 180_000, 20.0, 10.0));
        assert!(!quiet(11, 111_000, 0.0, 5.0) && quiet(11, 112_000, 0.0, 5.0));
        assert!(!quiet(1, 5_900, 0.0, 10.0) && quiet(1, 6_100, 0.0, 10.0), "nor are there any links");
    }

    #[test]
    fn the_model_is_below_the_mark() {
        const MARK: u64 = 1_000;
        let mut history = History::of(1);
        let fact = Fact::Quiet {
            hosts: 1_000,
            behind_nat: 0,
            seconds: 1.0,
            wire_bytes: MARK * 1_000,
            loss_percent: 0.0,
            heartbeat_s: 10.0,
            term_s: 600.0,
        };
        assert!(Frugal.fact(&fact, history.at(99)).is_some());
    }
}
