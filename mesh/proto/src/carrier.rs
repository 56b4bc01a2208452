//! Bounds of what carries the cores' messages: connections and gossip. The driver sets libp2p by them, and the simulator
//! models libp2p by them.

use std::time::Duration;

/// Connections of a gateway or an entry point; it lets some go before, so that newcomers find room.
pub const CONNECTIONS_OF_HUBS: u32 = 256;
/// Connections of others: any of them may lead, and have the heartbeats of all those that need no sub-leaders, and their
/// second connections.
pub const CONNECTIONS_OF_OTHERS: u32 = 192;

/// Between two looks at the neighbours that messages go to; one that is new is taken at once while there are few.
pub const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(3);
/// Neighbours that every message goes to: fewer than the least are made up, and more than the most are let go, to this
/// number. Each is one copy of each message; who missed one is told by its digest.
pub const GOSSIP_NEIGHBOURS: usize = 4;
/// Fewer are made up.
pub const GOSSIP_NEIGHBOURS_MIN: usize = 3;
/// More are let go.
pub const GOSSIP_NEIGHBOURS_MAX: usize = 8;
/// Others that are told the ids of new messages, once: at least so many, or [`GOSSIP_TOLD_SHARE`] of them.
pub const GOSSIP_TOLD: usize = 2;
/// See [`GOSSIP_TOLD`].
pub const GOSSIP_TOLD_SHARE: f64 = 0.05;
/// Heartbeats for which the id of a message is told.
pub const GOSSIP_TOLD_FOR: usize = 1;
/// How long a gossip message is known as a duplicate.
pub const GOSSIP_DUPLICATES: Duration = Duration::from_secs(120);

/// The name of a cluster's one topic, which stands in every gossip message.
pub fn topic(cluster: &crate::id::ClusterId) -> String {
    format!("paceline/{}/1", cluster.short())
}
