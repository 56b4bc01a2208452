//! Who is probed when, and what a silence means (SWIM, Das et al. 2002; Lifeguard, Dadgar et al. 2017).

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
}
