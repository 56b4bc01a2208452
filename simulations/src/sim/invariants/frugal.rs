//! Bytes a node a second stay within the model, while nothing happens.

use super::{Fact, Invariant, World};

/// On the wire, for each host, whatever the number of hosts: a ping and an answer of one's own each second, and what is
/// passed on for others.
const PROBES: f64 = 500.0;
/// A summary of 250 bytes to twelve neighbours at most, and a beat: for each heartbeat.
const HEARTBEAT_BYTES: f64 = 7_000.0;
/// A claim, its first summary and the manifests that it changes: for each term.
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
        let Fact::Quiet { hosts, seconds, wire_bytes, loss_percent, heartbeat_s, term_s } = fact else { return None };
        let rate = *wire_bytes as f64 / seconds / (*hosts).max(1) as f64;
        let model = PROBES + HEARTBEAT_BYTES / heartbeat_s + TERM_BYTES / term_s;
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
        let mut quiet = |wire_bytes, loss_percent, heartbeat_s| {
            let term_s = 90.0;
            let fact = Fact::Quiet { hosts: 10, seconds: 10.0, wire_bytes, loss_percent, heartbeat_s, term_s };
            Frugal.fact(&fact, history.at(99)).is_some()
        };
        assert!(!quiet(130_000, 0.0, 10.0) && quiet(131_000, 0.0, 10.0));
        assert!(!quiet(260_000, 20.0, 10.0) && quiet(261_000, 20.0, 10.0));
        assert!(!quiet(200_000, 0.0, 5.0) && quiet(201_000, 0.0, 5.0));
    }
}
