//! The light heartbeats: from members to the leader, or by way of a sub-leader where the cluster is large.

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, ManifestVersion};

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
