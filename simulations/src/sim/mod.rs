//! The simulator: whole clusters in virtual time, with the node that runs in production on every host, faults from a seed,
//! and invariants that must hold whatever goes wrong.
//!
//! After TigerBeetle's VOPR and FoundationDB's simulation (Zhou et al., SIGMOD 2021): one thread, one seed, and every message,
//! timer and fault an event by (time, sequence). What libp2p does (gossipsub, Kademlia, the door) is modelled; what Paceline
//! decides is not.

pub mod authority;
pub mod beliefs;
pub mod conditions;
pub mod draw;
pub mod gossip;
pub mod host;
pub mod invariants;
pub mod leads;
pub mod link;
pub mod queue;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod search;
pub mod shrink;
pub mod svg;
pub mod traffic;
pub mod world;

/// A host, by its number in the run.
pub type HostId = u32;
