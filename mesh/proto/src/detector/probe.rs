//! What detectors say to one another, and what they count.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// One step of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// Are you there? Answered by an [`Probe::Ack`].
    Ping {
        /// The prober's, to be repeated.
        nonce: u64,
    },
    /// The target is there.
    Ack {
        /// Of the ping, or of the request to ping.
        nonce: u64,
    },
    /// Ping somebody else for me.
    PingFor {
        /// To be repeated.
        nonce: u64,
        /// Whom.
        target: NodeId,
    },
    /// The relay is there itself, but had no answer of the target.
    Nack {
        /// Of the request to ping.
        nonce: u64,
    },
    /// The relay is there itself, but has no way to the target, and knows nothing of it.
    Unable {
        /// Of the request to ping.
        nonce: u64,
    },
}

/// What a detector has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Probes of this node.
    pub probes: u64,
    /// Those that were answered, by the member or by way of others.
    pub answered: u64,
    /// Those for which others were asked.
    pub indirect: u64,
    /// Those that nobody answered.
    pub missed: u64,
    /// What others said of this node, and it refuted.
    pub refuted: u64,
}
