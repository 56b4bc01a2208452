//! The heartbeat summary that the leader writes for all.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::id::{ClusterId, ServiceName, Site, WorkerName};
use crate::view::MemberState;

/// What the sinks store, as JSON: the one thing that readers outside the cluster see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredSummary {
    /// Which cluster, as text.
    #[serde(serialize_with = "as_text")]
    pub cluster_id: ClusterId,
    /// Of the leader.
    pub term: u64,
    /// Of the leader.
    pub takeovers: u32,
    /// Of the summary.
    pub seq: u64,
    /// The leader's name.
    pub leader: WorkerName,
    /// By the leader's clock, in seconds since 1970.
    pub written_at_unix: u64,
    /// Writes of this UTC day, this one included.
    pub writes_today: u32,
    /// Why it is written now: `routine`, `death`, `service`, `leader`.
    pub reason: &'static str,
    /// Everybody, in the order of names.
    pub members: Vec<StoredMember>,
}

/// One member in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredMember {
    /// `--name`.
    pub id: WorkerName,
    /// `--site`.
    pub site: Site,
    /// As the leader's failure detector sees it.
    pub status: MemberState,
    /// The healthy ones of its services.
    pub services: Vec<ServiceName>,
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
