//! Bytes a node a second stay within the model, while nothing happens.

use super::{Fact, Invariant, World};

/// On the wire, for each host, whatever the number of hosts: the mark.
const BYTES_PER_SECOND: f64 = 1_000.0;
/// With loss, at most so many times as much.
const WITH_LOSS: f64 = 2.0;
/// What grows with the rate of heartbeats, at the usual 10 s: summaries to all and beats to the leader.
const OF_HEARTBEATS: f64 = 0.5;
const USUAL_HEARTBEAT_S: f64 = 10.0;

/// Stateless.
pub struct Frugal;

impl Invariant for Frugal {
    fn name(&self) -> &'static str {
        "bytes a node a second stay within the model"
    }

    fn fact(&mut self, fact: &Fact, _: World<'_>) -> Option<String> {
        let Fact::Quiet { hosts, seconds, wire_bytes, loss_percent, heartbeat_s } = fact else { return None };
        let rate = *wire_bytes as f64 / seconds / (*hosts).max(1) as f64;
        let faster = (USUAL_HEARTBEAT_S / heartbeat_s).max(1.0);
        let model = BYTES_PER_SECOND * (1.0 - OF_HEARTBEATS + OF_HEARTBEATS * faster);
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
            let fact = Fact::Quiet { hosts: 10, seconds: 10.0, wire_bytes, loss_percent, heartbeat_s };
            Frugal.fact(&fact, history.at(99)).is_some()
        };
        assert!(!quiet(100_000, 0.0, 10.0) && quiet(101_000, 0.0, 10.0));
        assert!(!quiet(200_000, 20.0, 10.0) && quiet(201_000, 20.0, 10.0));
        assert!(!quiet(150_000, 0.0, 5.0) && quiet(151_000, 0.0, 5.0));
    }
}
